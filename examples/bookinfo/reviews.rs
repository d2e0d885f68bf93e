//! `reviews`: two opinions. v1 shows no stars, v2 black ones, v3 red ones; the stars come from `ratings`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{OriginalUri, Path, State},
    http::{HeaderMap, StatusCode, Uri, header::HOST},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sinew::ResponseExt;

use crate::{FAILED_CALLS, timer::within};

/// Requests that came as copies to this process's reviews, by version: those whose host says so.
pub(crate) static COPIES: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

struct Reviews {
    version: &'static str,
    pod: String,
    cluster: String,
    /// The colour of the stars and how long to wait for them; v1 has none.
    stars: Option<(&'static str, Duration)>,
    ratings: sinew::Client,
}

pub(crate) fn app(version: &str, pod: String, ratings: sinew::Client) -> Router {
    let stars = match version {
        "v1" => None,
        "v3" => Some(("red", Duration::from_millis(2500))),
        _ => Some(("black", Duration::from_secs(10))),
    };
    let version = match version {
        "v1" => "v1",
        "v3" => "v3",
        _ => "v2",
    };
    let cluster = std::env::var("CLUSTER_NAME").unwrap_or_else(|_| "local".into());
    Router::new()
        .route("/health", get(async || Json(json!({ "status": "Reviews is healthy" }))))
        .route("/reviews/{id}", get(reviews))
        .with_state(Arc::new(Reviews { version, pod, cluster, stars, ratings }))
}

#[derive(Serialize)]
struct Answer<'a> {
    id: String,
    podname: &'a str,
    clustername: &'a str,
    reviews: [Review; 2],
}

#[derive(Serialize)]
struct Review {
    reviewer: &'static str,
    text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rating: Option<Rating>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Rating {
    Stars { stars: u8, color: &'static str },
    Missing { error: &'static str },
}

async fn reviews(
    State(reviews): State<Arc<Reviews>>,
    Path(id): Path<String>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Response {
    reviews.note_copy(&uri, &headers);
    let Ok(id) = id.parse::<u64>() else {
        let error = json!({ "error": format!("`{id}` is not the number of a product") });
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    };
    let stars = match reviews.stars {
        Some((color, timeout)) => Some((color, reviews.ask_ratings(id, timeout, &headers).await)),
        None => None,
    };
    let rating = |reviewer: &str| {
        stars.as_ref().map(|(color, stars)| match stars.as_ref().and_then(|stars| stars.get(reviewer)) {
            Some(stars) => Rating::Stars { stars: *stars, color },
            None => Rating::Missing { error: "Ratings service is currently unavailable" },
        })
    };
    let first = "Twins twice over and not one of them asks the obvious question until the last page. I laughed all the \
                 same, and read the ending aloud to anybody who would listen.";
    let second = "Quick, loud and shameless. The joke is the same for five acts, and it gets better every time somebody \
                  is beaten for another man's errand.";
    Json(Answer {
        id: id.to_string(),
        podname: &reviews.pod,
        clustername: &reviews.cluster,
        reviews: [
            Review { reviewer: "Reviewer1", text: first, rating: rating("Reviewer1") },
            Review { reviewer: "Reviewer2", text: second, rating: rating("Reviewer2") },
        ],
    })
    .into_response()
}

impl Reviews {
    /// A copy is named after the service it is a copy for: `reviews-shadow`.
    fn note_copy(&self, uri: &Uri, headers: &HeaderMap) {
        let named = headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = uri.authority().map(|authority| authority.host()).or(named).unwrap_or_default();
        if host.contains("-shadow") {
            tracing::info!(host, "a copy of a request");
            *COPIES.lock().unwrap_or_else(PoisonError::into_inner).entry(self.version).or_default() += 1;
        }
    }

    /// Reviews without stars are better than none, so a failure is not an error.
    async fn ask_ratings(&self, id: u64, timeout: Duration, headers: &HeaderMap) -> Option<BTreeMap<String, u8>> {
        #[derive(Deserialize)]
        struct Ratings {
            ratings: BTreeMap<String, u8>,
        }

        let mut request = self.ratings.get(format!("/ratings/{id}"));
        // An ordinary header of the application. Deadline, trace and request id are not copied: they travel by themselves.
        if let Some(user) = headers.get("end-user") {
            request = request.header("end-user", user.clone());
        }
        let answer =
            within(timeout, request, async |request| request.send().await?.error_for_status()?.json::<Ratings>().await);
        match answer.await {
            Ok(answer) => Some(answer.ratings),
            Err(error) => {
                FAILED_CALLS.fetch_add(1, Relaxed);
                tracing::warn!(error, "no ratings");
                None
            }
        }
    }
}
