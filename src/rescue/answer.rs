//! The answer itself.

use http::{
    HeaderName, HeaderValue, Response,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};

use crate::{
    body::Body,
    classify::{GRPC_STATUS, Refusal},
    error::{Code, Error},
};

const SINEW_ERROR: HeaderName = HeaderName::from_static("sinew-error");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Who reads the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reader {
    /// A peer: it learns the code and what it means in general. What happened in particular would tell strangers about
    /// the inside and goes to the log.
    Peer,
    /// This process: it learns everything.
    Own,
}

/// The answer for a refused or failed request.
pub(crate) fn answer(error: &Error, grpc: bool, reader: Reader) -> Response<Body> {
    let code = error.code();
    let reason = match error.reason() {
        Some(reason) => format!("{}; {reason}", code.reason()),
        None => code.reason().to_owned(),
    };
    let text = match reader {
        Reader::Peer => format!("{code} {reason}: {}", code.explanation().trim().replace('\n', "")),
        Reader::Own => error.to_string(),
    };
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
    if let Ok(value) = HeaderValue::from_str(&format!("{code}; {reason}")) {
        headers.insert(SINEW_ERROR, value);
    }
    if code == Code::Unauthenticated && !grpc {
        // RFC 9110 §15.5.2: a 401 says how to do better.
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(after) = error.retry_after() {
        // Rounded up, at least 1: a caller that comes back early is refused again.
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64));
    }
    if let Some(more) = error.headers() {
        response.headers_mut().extend(more.clone());
    }
    response.extensions_mut().insert(Refusal(code));
    response
}

/// `grpc-message` is percent-encoded outside of printable ASCII (gRPC over HTTP/2, "Responses").
fn percent(text: &str) -> String {
    const KEEP: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');
    percent_encoding::utf8_percent_encode(text, KEEP).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn http_callers_get_a_status_and_the_code() {
        let error = Error::new(Code::Overflow, "12 of 12 to 10.0.0.7").with_retry_after(Duration::from_millis(10));
        let response = answer(&error, false, Reader::Peer);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["sinew-error"], "SINEW-E030; overflow");
        assert_eq!(response.headers()["retry-after"], "1");
        let body = response.into_body().as_full().unwrap();
        assert!(!String::from_utf8_lossy(&body).contains("10.0.0.7"));
    }

    #[test]
    fn grpc_callers_get_a_trailers_only_response() {
        let response = answer(&Error::new(Code::NoRoute, "x"), true, Reader::Peer);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "12");
        assert!(response.body().as_full().unwrap().is_empty());
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent("50% ä\n"), "50%25 %C3%A4%0A");
    }
}
