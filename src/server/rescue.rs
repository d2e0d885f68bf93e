//! From an error to an answer: an HTTP status, or a gRPC trailers-only response.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::inbound::Served;
use crate::{
    body::{Body, StackBody},
    classify::GRPC_STATUS,
    error::Error,
    telemetry::Refusal,
};

const SINEW_ERROR: HeaderName = HeaderName::from_static("sinew-error");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The answer for a refused or failed request. The wire carries the code, its reason and what it means in general;
/// what happened in particular goes to the log, since it would tell strangers about the inside.
pub(crate) fn refuse(error: &Error, grpc: bool) -> Response<Body> {
    let code = error.code();
    let text = format!("{code} {}: {}", code.reason(), code.explanation().trim().replace('\n', ""));
    let mut response = if grpc {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code.grpc_status())));
        if let Ok(message) = HeaderValue::from_str(&percent(&text)) {
            headers.insert(GRPC_MESSAGE, message);
        }
        response
    } else {
        let mut response = Response::new(Body::from(text + "\n"));
        *response.status_mut() = code.http_status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&format!("{code}; {}", code.reason())) {
        headers.insert(SINEW_ERROR, value);
    }
    if let Some(after) = error.retry_after() {
        // Rounded up, at least 1: a caller that comes back early is refused again.
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64));
    }
    debug_assert!(grpc || response.status() != StatusCode::OK || code.http_status() == StatusCode::OK);
    response.extensions_mut().insert(Refusal(code));
    response
}

/// `grpc-message` is percent-encoded outside of printable ASCII (gRPC over HTTP/2, "Responses").
pub(crate) fn percent(text: &str) -> String {
    const KEEP: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');
    percent_encoding::utf8_percent_encode(text, KEEP).to_string()
}

/// Turns errors into answers. Below the metrics, which read the cause from the answer; above all that can fail.
#[derive(Clone, Debug)]
pub(crate) struct RescueLayer;

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;

    fn layer(&self, inner: S) -> Rescue<S> {
        Rescue { inner }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Rescue<S> {
    inner: S,
}

impl<S, B> Service<Served> for Rescue<S>
where
    S: Service<Served, Response = Response<StackBody<B>>, Error = Error>,
    B: HttpBody<Data = bytes::Bytes, Error = Error>,
{
    type Response = Response<StackBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, served: Served) -> Self::Future {
        let grpc = served.cx.grpc;
        ResponseFuture { inner: self.inner.call(served), grpc }
    }
}

pin_project! {
    pub(crate) struct ResponseFuture<F> {
        #[pin]
        inner: F,
        grpc: bool,
    }
}

impl<F, B> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<StackBody<B>>, Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        Poll::Ready(Ok(match ready!(this.inner.poll(cx)) {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(code = %error.code(), "refused: {error}");
                refuse(&error, *this.grpc).map(StackBody::erased)
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Code;

    #[test]
    fn http_callers_get_a_status_and_the_code() {
        let error = Error::new(Code::Overflow, "12 of 12 to 10.0.0.7").with_retry_after(Duration::from_millis(10));
        let response = refuse(&error, false);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["sinew-error"], "SINEW-E030; overflow");
        assert_eq!(response.headers()["retry-after"], "1");
        let body = response.into_body().as_full().unwrap();
        assert!(!String::from_utf8_lossy(&body).contains("10.0.0.7"));
    }

    #[test]
    fn grpc_callers_get_a_trailers_only_response() {
        let response = refuse(&Error::new(Code::NoRoute, "x"), true);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "12");
        assert!(response.body().as_full().unwrap().is_empty());
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent("50% ä\n"), "50%25 %C3%A4%0A");
    }
}
