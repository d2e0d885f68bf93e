//! `grpc.health.v1`: the stream that says how a server is, and the question for those that have none.

use std::pin::Pin;

use http::{HeaderMap, Request, Response, header};
use http_body_util::BodyExt;

use super::probe::{Found, POST, Unanswered, full, passed};
use crate::{
    body::Body,
    health::{Finding, Messages, ServingStatus, grpc_request},
    transport::SlotBody,
};

const UNIMPLEMENTED: u32 = 12;
const NOT_FOUND: u32 = 5;

/// A request of `grpc.health.v1.Health`.
pub(super) fn request(method: &str, host: &str, service: &str) -> Result<Request<Body>, Unanswered> {
    Request::builder()
        .method(POST)
        .uri(format!("/grpc.health.v1.Health/{method}"))
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(full(grpc_request(service)))
        .map_err(|error| Unanswered::new(error.to_string()))
}

/// The answer to `Watch`.
#[derive(Default)]
pub(super) enum Watch {
    /// Not asked for yet.
    #[default]
    Unknown,
    /// The server has none.
    Unsupported,
    Open(Answer),
}

impl Watch {
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    pub(super) fn begin(response: Response<SlotBody>) -> Self {
        match status(response.headers()) {
            Some(UNIMPLEMENTED) => Self::Unsupported,
            _ => Self::Open(Answer::new(response)),
        }
    }

    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported)
    }

    /// The next word of the server. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Found, Unanswered> {
        let Self::Open(answer) = self else { return std::future::pending().await };
        let ended = match answer.next().await {
            Ok(Next::Said(serving)) => return Ok(judge(serving)),
            Ok(Next::Over(Some(UNIMPLEMENTED))) => {
                *self = Self::Unsupported;
                return Err(Unanswered::new("it has no `Watch`"));
            }
            Ok(Next::Over(code)) => {
                Unanswered::new(format!("its health stream ended with gRPC status {}", shown(code)))
            }
            Err(unanswered) => unanswered,
        };
        *self = Self::Unknown;
        Err(ended)
    }
}

/// The answer to `Check`.
pub(super) async fn check(response: Response<SlotBody>) -> Result<Found, Unanswered> {
    let code = status(response.headers());
    let mut answer = Answer::new(response);
    let (code, said) = match code {
        Some(code) => (Some(code), None),
        None => match answer.next().await? {
            Next::Said(serving) => (Some(0), Some(serving)),
            Next::Over(code) => (code, None),
        },
    };
    Ok(match (code, said) {
        (_, Some(serving)) => judge(serving),
        // gRFC A17: who does not say how it is, is well.
        (Some(UNIMPLEMENTED), _) => passed(),
        (Some(NOT_FOUND), _) => judge(ServingStatus::ServiceUnknown),
        (code, None) => (Finding::Failed, format!("it answered with gRPC status {}", shown(code)).into()),
    })
}

fn judge(serving: ServingStatus) -> Found {
    match serving {
        ServingStatus::Serving => passed(),
        other => (Finding::Wrong, format!("it says {}", other.as_str()).into()),
    }
}

fn status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn shown(code: Option<u32>) -> String {
    code.map_or_else(|| "missing".to_owned(), |code| code.to_string())
}

enum Next {
    Said(ServingStatus),
    Over(Option<u32>),
}

/// Messages as they come.
pub(super) struct Answer {
    head: http::StatusCode,
    status: Option<u32>,
    body: Pin<Box<SlotBody>>,
    messages: Messages,
}

impl Answer {
    fn new(response: Response<SlotBody>) -> Self {
        let (parts, body) = response.into_parts();
        Self { head: parts.status, status: status(&parts.headers), body: Box::pin(body), messages: Messages::default() }
    }

    async fn next(&mut self) -> Result<Next, Unanswered> {
        if !self.head.is_success() {
            return Err(Unanswered::new(format!("it answered HTTP {}", self.head.as_u16())));
        }
        loop {
            if let Some(serving) = self.messages.next().map_err(Unanswered::new)? {
                return Ok(Next::Said(serving));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.messages.push(&data),
                    Err(frame) => self.status = frame.trailers_ref().and_then(status).or(self.status),
                },
                Some(Err(error)) => return Err(Unanswered::new(error.to_string())),
                None => return Ok(Next::Over(self.status)),
            }
        }
    }
}
