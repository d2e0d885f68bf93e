//! `details`: what is printed on the back of a book.

use axum::{
    Json, Router,
    extract::Path,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use serde_json::json;

pub(crate) fn app() -> Router {
    Router::new()
        .route("/health", get(async || Json(json!({ "status": "Details is healthy" }))))
        .route("/details/{id}", get(details))
}

// A struct, not `json!`: fields are written in this order.
#[derive(Serialize)]
struct Details {
    id: u64,
    author: &'static str,
    year: u16,
    r#type: &'static str,
    pages: u16,
    publisher: &'static str,
    language: &'static str,
    #[serde(rename = "ISBN-10")]
    isbn_10: &'static str,
    #[serde(rename = "ISBN-13")]
    isbn_13: &'static str,
}

async fn details(Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse() else {
        let error = json!({ "error": format!("`{id}` is not the number of a product") });
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    };
    Json(Details {
        id,
        author: "William Shakespeare",
        year: 1595,
        r#type: "paperback",
        pages: 200,
        publisher: "PublisherA",
        language: "English",
        isbn_10: "1234567890",
        isbn_13: "123-1234567890",
    })
    .into_response()
}
