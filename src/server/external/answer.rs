//! What an authorization service may change, and how it answers in place of the application.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::Failure;
use crate::{
    body::Body,
    classify::Refusal,
    error::{Code, Error},
    rescue::{self, Reader},
};

/// What it said.
pub(super) enum Answer {
    Allowed(Changes),
    Denied(Denied),
}

/// What is done with a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "tonic"), allow(dead_code, reason = "said by gRPC only"))]
pub(super) enum How {
    /// In place of what is there.
    Set,
    /// Besides it.
    Append,
    /// Unless it is there.
    IfAbsent,
    /// Only in place of what is there.
    IfPresent,
}

/// Changes of the headers of a request, and of its response.
#[derive(Default, Debug)]
pub(super) struct Changes {
    request: Vec<(HeaderName, HeaderValue, How)>,
    removed: Vec<HeaderName>,
    response: Vec<(HeaderName, HeaderValue, How)>,
}

impl Changes {
    pub(super) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.request.push((name, value, How::Set));
    }

    pub(super) fn of_request(&mut self, name: &str, value: &[u8], how: How) -> Result<(), Failure> {
        self.request.push((permitted(name)?, text(name, value)?, how));
        Ok(())
    }

    #[cfg_attr(not(feature = "tonic"), allow(dead_code, reason = "said by gRPC only"))]
    pub(super) fn of_response(&mut self, name: &str, value: &[u8], how: How) -> Result<(), Failure> {
        self.response.push((permitted(name)?, text(name, value)?, how));
        Ok(())
    }

    #[cfg_attr(not(feature = "tonic"), allow(dead_code, reason = "said by gRPC only"))]
    pub(super) fn remove(&mut self, name: &str) -> Result<(), Failure> {
        self.removed.push(permitted(name)?);
        Ok(())
    }

    pub(super) fn apply(self, request: &mut HeaderMap, response: &mut HeaderMap) {
        for name in self.removed {
            request.remove(name);
        }
        for (headers, changes) in [(request, self.request), (response, self.response)] {
            for (name, value, how) in changes {
                let there = headers.contains_key(&name);
                match how {
                    How::Append => {
                        headers.append(name, value);
                    }
                    How::IfAbsent if there => {}
                    How::IfPresent if !there => {}
                    _ => {
                        headers.insert(name, value);
                    }
                }
            }
        }
    }
}

/// The answer in place of the application's.
pub(super) struct Denied {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Vec<u8>,
}

impl Denied {
    pub(super) fn new(status: u16) -> Self {
        let known = StatusCode::from_u16(status).ok().filter(|status| status.as_u16() >= 300 && status.as_u16() < 600);
        Self { status: known.unwrap_or(StatusCode::FORBIDDEN), headers: Vec::new(), body: Vec::new() }
    }

    pub(super) fn finish(self, grpc: bool) -> Response<Body> {
        let refused = Error::new(Code::ExternalDenied, "an authorization service denies");
        let mut response = rescue::answer(&refused, grpc, Reader::Peer);
        if grpc {
            if self.status == StatusCode::UNAUTHORIZED {
                response.headers_mut().insert("grpc-status", HeaderValue::from_static("16"));
            }
            return response;
        }
        *response.status_mut() = self.status;
        if !self.body.is_empty() {
            *response.body_mut() = Body::from(self.body);
        }
        for (name, value) in self.headers {
            if name == header::CONTENT_TYPE {
                response.headers_mut().insert(name, value);
            } else {
                response.headers_mut().append(name, value);
            }
        }
        response.extensions_mut().insert(Refusal(Code::ExternalDenied));
        response
    }
}

/// What holds a message together, what says where it goes, and what only the mesh says.
const FIXED: [&str; 14] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "grpc-timeout",
    "grpc-status",
    "x-forwarded-client-cert",
    "traceparent",
    "tracestate",
];

pub(super) fn is_fixed(name: &str) -> bool {
    let inside = ["sinew-", "x-sinew-", "x-envoy-"].iter().any(|prefix| name.starts_with(prefix));
    inside || FIXED.contains(&name)
}

fn permitted(name: &str) -> Result<HeaderName, Failure> {
    let refused = || Failure::new("mutation", format!("it would change `{}`, which it may not", name.escape_debug()));
    let parsed = HeaderName::try_from(name).map_err(|_| refused())?;
    if is_fixed(parsed.as_str()) { Err(refused()) } else { Ok(parsed) }
}

fn text(name: &str, value: &[u8]) -> Result<HeaderValue, Failure> {
    HeaderValue::from_bytes(value).map_err(|_| Failure::new("mutation", format!("its value of `{name}` is none")))
}
