//! `productpage`: the page for the browser, and the same as JSON.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Form, Json, Router,
    extract::{Path, State},
    http::{
        HeaderMap, StatusCode,
        header::{COOKIE, SET_COOKIE},
    },
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sinew::{Client, ResponseExt};

use crate::{FAILED_CALLS, page, timer::within};

const TIMEOUT: Duration = Duration::from_secs(3);
const REVIEW_TRIES: usize = 2;

#[derive(Serialize)]
pub(crate) struct Product {
    pub(crate) id: u64,
    pub(crate) title: &'static str,
    #[serde(rename = "descriptionHtml")]
    pub(crate) description: &'static str,
}

const PRODUCTS: [Product; 1] = [Product {
    id: 0,
    title: "The Comedy of Errors",
    description: "Two pairs of twins, parted by a storm, walk the same streets of <a \
                  href=\"https://en.wikipedia.org/wiki/Ephesus\">Ephesus</a> for one day. Nobody knows which one they are \
                  talking to, least of all the twins: a good book for anybody who routes requests between copies of the \
                  same service.",
}];

struct ProductPage {
    details: Client,
    reviews: Client,
    ratings: Client,
    pod: String,
    /// So many more calls of `reviews` for each page.
    flood: usize,
}

pub(crate) fn app(mesh: &sinew::Mesh, pod: String) -> Router {
    let flood = std::env::var("FLOOD_FACTOR").ok().and_then(|factor| factor.parse().ok()).unwrap_or(0);
    let page = ProductPage {
        details: mesh.client("details"),
        reviews: mesh.client("reviews"),
        ratings: mesh.client("ratings"),
        pod,
        flood,
    };
    Router::new()
        .route("/", get(async || Redirect::to("/productpage")))
        .route("/health", get(async || "Product page is healthy"))
        .route("/productpage", get(html))
        .route("/login", post(login))
        .route("/logout", get(logout))
        .route("/api/v1/products", get(async || Json(PRODUCTS)))
        .route("/api/v1/products/{id}", get(api_details))
        .route("/api/v1/products/{id}/reviews", get(api_reviews))
        .route("/api/v1/products/{id}/ratings", get(api_ratings))
        .with_state(Arc::new(page))
}

/// What a service said, or what the page says in its place.
pub(crate) type Answer = Result<Value, (StatusCode, &'static str)>;

impl ProductPage {
    async fn details(&self, id: u64, user: Option<&str>) -> Answer {
        let asked = ask(&self.details, format!("/details/{id}"), user).await;
        asked.map_err(|status| (status, "Sorry, product details are currently unavailable for this book."))
    }

    /// Tries twice by itself. Where timers stay at home this is a bug: reviews v2 waits up to 10 s for slow ratings, the
    /// page gives up after 2 × 3 s. Where deadlines travel, reviews knows of the 3 s and answers in time, without stars.
    async fn reviews(&self, id: u64, user: Option<&str>) -> Answer {
        let mut failed = StatusCode::INTERNAL_SERVER_ERROR;
        for _ in 0..REVIEW_TRIES {
            match ask(&self.reviews, format!("/reviews/{id}"), user).await {
                Ok(reviews) => return Ok(reviews),
                Err(status) => failed = status,
            }
        }
        Err((failed, "Sorry, product reviews are currently unavailable for this book."))
    }

    async fn ratings(&self, id: u64, user: Option<&str>) -> Answer {
        let asked = ask(&self.ratings, format!("/ratings/{id}"), user).await;
        asked.map_err(|status| (status, "Sorry, product ratings are currently unavailable for this book."))
    }

    /// `FLOOD_FACTOR` calls that nobody waits for.
    fn flood(&self, id: u64, user: Option<&str>) {
        for _ in 0..self.flood {
            let (reviews, user) = (self.reviews.clone(), user.map(str::to_owned));
            // Unlike `tokio::spawn`, this keeps the deadline and the trace of the request.
            sinew::spawn(async move {
                let _ = ask(&reviews, format!("/reviews/{id}"), user.as_deref()).await;
            });
        }
    }
}

async fn ask(service: &Client, path: String, user: Option<&str>) -> Result<Value, StatusCode> {
    let answer = ask_once(service, path, user).await;
    if answer.is_err() {
        FAILED_CALLS.fetch_add(1, Relaxed);
    }
    answer
}

async fn ask_once(service: &Client, path: String, user: Option<&str>) -> Result<Value, StatusCode> {
    let mut request = service.get(&path);
    if let Some(user) = user {
        request = request.header("end-user", user);
    }
    let answer = within(TIMEOUT, request, async |request| {
        let response = request.send().await?;
        match response.status() {
            StatusCode::OK => response.json().await.map(Ok),
            status => Ok(Err(status)),
        }
    });
    answer.await.unwrap_or_else(|error| {
        tracing::warn!(error, path, "no answer");
        Err(StatusCode::INTERNAL_SERVER_ERROR)
    })
}

async fn html(State(page): State<Arc<ProductPage>>, headers: HeaderMap) -> Html<String> {
    let [product] = &PRODUCTS;
    let user = user(&headers);
    page.flood(product.id, user);
    let (details, reviews) = tokio::join!(page.details(product.id, user), page.reviews(product.id, user));
    Html(page::render(product, user, &details, &reviews, &page.pod))
}

#[derive(Deserialize)]
struct Login {
    username: String,
}

/// Any name signs in, without a password: the session only decides which `end-user` header is sent.
async fn login(Form(login): Form<Login>) -> Response {
    if !is_name(&login.username) {
        return (StatusCode::BAD_REQUEST, "a name has 1 to 64 letters, digits or any of -_.@").into_response();
    }
    let cookie = format!("session={}; Path=/; HttpOnly; SameSite=Lax", login.username);
    ([(SET_COOKIE, cookie)], Redirect::to("/productpage")).into_response()
}

async fn logout() -> Response {
    ([(SET_COOKIE, "session=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0")], Redirect::to("/productpage"))
        .into_response()
}

/// Who is signed in: the value of the session cookie, checked, since a cookie is whatever the browser sends.
fn user(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|cookies| cookies.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix("session="))
        .filter(|name| is_name(name))
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte))
}

async fn api_details(State(page): State<Arc<ProductPage>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let Ok(id) = number(&id) else { return not_a_number(&id) };
    json_answer(page.details(id, user(&headers)).await)
}

async fn api_reviews(State(page): State<Arc<ProductPage>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let Ok(id) = number(&id) else { return not_a_number(&id) };
    json_answer(page.reviews(id, user(&headers)).await)
}

async fn api_ratings(State(page): State<Arc<ProductPage>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let Ok(id) = number(&id) else { return not_a_number(&id) };
    json_answer(page.ratings(id, user(&headers)).await)
}

fn number(id: &str) -> Result<u64, std::num::ParseIntError> {
    id.parse()
}

fn not_a_number(id: &str) -> Response {
    let error = json!({ "error": format!("`{id}` is not the number of a product") });
    (StatusCode::BAD_REQUEST, Json(error)).into_response()
}

fn json_answer(answer: Answer) -> Response {
    match answer {
        Ok(value) => Json(value).into_response(),
        Err((status, error)) => (status, Json(json!({ "error": error }))).into_response(),
    }
}
