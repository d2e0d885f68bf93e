//! `ratings`: stars by reviewer, kept in memory, and variants of the service that misbehave.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::chance::one_in_two;

const DELAY: Duration = Duration::from_secs(7);

/// How the version misbehaves.
#[derive(Clone, Copy, PartialEq)]
enum Variant {
    Good,
    /// Half of the answers are 503.
    Faulty,
    /// Half of the answers take 7 s.
    Delayed,
    /// 503 in every second minute.
    Unavailable,
    /// 503, and a failing health check, in every second quarter of an hour.
    Unhealthy,
}

type Stars = BTreeMap<String, u8>;

struct Ratings {
    variant: Variant,
    started: Instant,
    stored: Mutex<HashMap<u64, Stars>>,
}

impl Ratings {
    fn is_down(&self) -> bool {
        let period = match self.variant {
            Variant::Unavailable => 60,
            Variant::Unhealthy => 15 * 60,
            _ => return false,
        };
        (self.started.elapsed().as_secs() / period) % 2 == 1
    }
}

pub(crate) fn app(version: &str) -> Router {
    let variant = match version {
        "v-faulty" => Variant::Faulty,
        "v-delayed" => Variant::Delayed,
        "v-unavailable" => Variant::Unavailable,
        "v-unhealthy" => Variant::Unhealthy,
        _ => Variant::Good,
    };
    let ratings = Arc::new(Ratings { variant, started: Instant::now(), stored: Mutex::default() });
    Router::new().route("/health", get(health)).route("/ratings/{id}", get(read).post(store)).with_state(ratings)
}

#[derive(Serialize)]
struct Answer {
    id: u64,
    ratings: Stars,
}

async fn health(State(ratings): State<Arc<Ratings>>) -> Response {
    if ratings.variant == Variant::Unhealthy && ratings.is_down() {
        let body = Json(json!({ "status": "Ratings is not healthy" }));
        return (StatusCode::INTERNAL_SERVER_ERROR, body).into_response();
    }
    Json(json!({ "status": "Ratings is healthy" })).into_response()
}

async fn read(State(ratings): State<Arc<Ratings>>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse() else { return bad_request(&format!("`{id}` is not the number of a product")) };
    if ratings.is_down() || (ratings.variant == Variant::Faulty && one_in_two()) {
        let body = Json(json!({ "error": "Service unavailable" }));
        return (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
    }
    if ratings.variant == Variant::Delayed && one_in_two() {
        tokio::time::sleep(DELAY).await;
    }
    let stored = ratings.stored.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
    let stars = stored.unwrap_or_else(|| Stars::from([("Reviewer1".into(), 5), ("Reviewer2".into(), 4)]));
    Json(Answer { id, ratings: stars }).into_response()
}

async fn store(State(ratings): State<Arc<Ratings>>, Path(id): Path<String>, body: String) -> Response {
    let Ok(id) = id.parse() else { return bad_request(&format!("`{id}` is not the number of a product")) };
    let Ok(stars) = serde_json::from_str::<Stars>(&body) else {
        return bad_request("send a map from reviewers to stars, such as {\"Reviewer1\":5}");
    };
    ratings.stored.lock().unwrap_or_else(PoisonError::into_inner).insert(id, stars.clone());
    Json(Answer { id, ratings: stars }).into_response()
}

fn bad_request(error: &str) -> Response {
    let error: Value = json!({ "error": error });
    (StatusCode::BAD_REQUEST, Json(error)).into_response()
}
