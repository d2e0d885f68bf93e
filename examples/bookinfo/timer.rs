//! How long a service waits for another, in two ways.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use sinew::RequestBuilder;

use crate::Result;

/// Off, as in the original: every service has timers of its own, and nobody below learns how long the caller waits. On:
/// the limit is the call's timeout, travels along, and bounds every call that is made to answer it.
static DEADLINES_TRAVEL: AtomicBool = AtomicBool::new(false);

pub(crate) fn let_deadlines_travel(travel: bool) {
    DEADLINES_TRAVEL.store(travel, Relaxed);
}

/// `BOOKINFO_DEADLINES=travel`, for a service that runs alone.
pub(crate) fn from_environment() {
    let_deadlines_travel(std::env::var_os("BOOKINFO_DEADLINES").is_some_and(|value| value == "travel"));
}

/// Asks, and waits at most `limit` for the whole answer.
pub(crate) async fn within<T, F>(
    limit: Duration,
    request: RequestBuilder,
    ask: impl FnOnce(RequestBuilder) -> F,
) -> Result<T>
where
    F: Future<Output = std::result::Result<T, sinew::Error>>,
{
    if DEADLINES_TRAVEL.load(Relaxed) {
        return Ok(ask(request.timeout(limit)).await?);
    }
    match tokio::time::timeout(limit, ask(request)).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(format!("no answer within {limit:?}").into()),
    }
}
