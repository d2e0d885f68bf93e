//! Asks an authorization service about a request: Envoy's `ext_authz`.
//!
//! It is asked last, about what rules here allow, so that nobody else is asked in vain; what is allowed is the same in any
//! order. It may add headers, remove them, and answer in place of the application. It may not change what rules have seen
//! or what holds a message together: an answer that tries is no answer. What is no answer denies, with E052 and a reason.

mod answer;
#[cfg(feature = "tonic")]
mod grpc;
#[cfg(not(feature = "tonic"))]
#[path = "external/grpc_off.rs"]
mod grpc;
mod http;
#[cfg(feature = "tonic")]
mod message;

use std::{future::Future, pin::Pin, sync::Arc};

use ::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use self::answer::{Answer, Changes};
use super::inbound::Served;
use crate::{
    authz::{ExtAuthz, ExtAuthzProtocol},
    body::Body,
    context::Scoped,
    error::{Code, Error},
    instrument::{Counter, Registry},
    rt,
};

const FAILURE_MODE_ALLOWED: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

/// Sends a call to a service of the mesh.
pub(crate) trait Ask: Send + Sync {
    /// Sends it.
    fn ask(&self, request: Request<Body>) -> Asked;
}

/// The answer to a call.
pub(crate) type Asked = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

/// Why there is no answer.
#[derive(Debug)]
struct Failure {
    reason: &'static str,
    why: String,
}

impl Failure {
    fn new(reason: &'static str, why: impl Into<String>) -> Self {
        Self { reason, why: why.into() }
    }
}

/// One rule that asks.
pub(super) struct External {
    rule: Arc<str>,
    /// Whom; nobody denies.
    asked: Option<(ExtAuthz, Arc<dyn Ask>)>,
    allowed: Counter,
    denied: Counter,
    failed: Counter,
    opened: Counter,
}

impl std::fmt::Debug for External {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("External").field("rule", &self.rule).finish_non_exhaustive()
    }
}

/// What became of a request.
pub(super) enum Verdict {
    /// It goes on, and these come with its response.
    Allowed(Box<Served>, HeaderMap),
    /// It is answered.
    Denied(Response<Body>),
}

impl External {
    pub(super) fn new(rule: &Arc<str>, asked: Option<(ExtAuthz, Arc<dyn Ask>)>, registry: &Registry) -> Self {
        let count = |result| registry.counter("sinew_authz_external_total", &[("result", result), ("rule", rule)]);
        Self {
            rule: Arc::clone(rule),
            asked,
            allowed: count("allowed"),
            denied: count("denied"),
            failed: count("failed"),
            opened: count("failure_mode_allowed"),
        }
    }

    fn request(&self, served: &Served) -> Result<Request<Body>, Failure> {
        match &self.asked {
            None => Err(Failure::new("unsupported", "it does not say who is to be asked")),
            Some((policy, _)) => match policy.protocol {
                ExtAuthzProtocol::Grpc => grpc::request(policy, served),
                ExtAuthzProtocol::Http => http::request(policy, served),
            },
        }
    }

    async fn decide(&self, request: Result<Request<Body>, Failure>) -> Result<Answer, Error> {
        let rule = &*self.rule;
        let Some((policy, service)) = &self.asked else {
            self.failed.inc();
            let message = format!("rule `{rule}` does not say who is to be asked");
            return Err(Error::new(Code::ExternalDenied, message).with_reason("unsupported"));
        };
        let asked = async {
            match policy.protocol {
                ExtAuthzProtocol::Grpc => grpc::ask(&**service, request?).await,
                ExtAuthzProtocol::Http => http::ask(&**service, policy, request?).await,
            }
        };
        let timeout = policy.timeout;
        let late = || Failure::new("timeout", format!("no answer within {timeout:?}"));
        let failure = match rt::timeout(timeout, asked).await.unwrap_or_else(|| Err(late())) {
            Ok(answer) => {
                let denies = matches!(answer, Answer::Denied(_));
                if denies {
                    self.denied.inc()
                } else {
                    self.allowed.inc()
                }
                return Ok(answer);
            }
            Err(failure) => failure,
        };
        let (service, reason) = (&policy.service, failure.reason);
        if policy.fails_open() {
            self.opened.inc();
            tracing::warn!(rule, %service, reason, "an authorization service did not answer, allowed: {}", failure.why);
            let mut changes = Changes::default();
            changes.set(FAILURE_MODE_ALLOWED, HeaderValue::from_static("true"));
            return Ok(Answer::Allowed(changes));
        }
        self.failed.inc();
        tracing::warn!(code = %Code::ExternalDenied, rule, %service, reason, "an authorization service did not answer, denied: {}", failure.why);
        let message = format!("rule `{rule}`: service `{service}` did not say whether it is allowed: {}", failure.why);
        Err(Error::new(Code::ExternalDenied, message).with_reason(reason))
    }
}

/// Asks each in turn. The first that denies has the word.
///
/// # Errors
/// E052 without an answer, E056 where the body is longer than may be told.
pub(super) async fn decide(rules: Vec<Arc<External>>, mut served: Served) -> Result<Verdict, Error> {
    let limit = rules
        .iter()
        .filter_map(|rule| rule.asked.as_ref())
        .map(|(policy, _)| policy.max_request_bytes)
        .max()
        .unwrap_or_default();
    if limit > 0 {
        read(&mut served, limit).await?;
    }
    let mut added = HeaderMap::new();
    for rule in rules {
        // Inside the context of the request: a call of its own, in its trace, that does not outlive it.
        let context = served.cx.context.clone();
        let answer = Scoped::new(Box::pin(rule.decide(rule.request(&served))), Some(context)).await;
        let denied = |reason| {
            if let Some(access) = &served.cx.policy.access {
                access.audit_asked(&served, &rule.rule, reason);
            }
        };
        match answer.inspect_err(|error| denied(error.reason().unwrap_or("failed")))? {
            Answer::Allowed(changes) => changes.apply(served.request.headers_mut(), &mut added),
            Answer::Denied(response) => {
                denied("external");
                let peer = served.cx.peer.remote_addr();
                tracing::info!(code = %Code::ExternalDenied, rule = &*rule.rule, %peer, "denied by an authorization service");
                return Ok(Verdict::Denied(response.finish(served.cx.grpc)));
            }
        }
    }
    Ok(Verdict::Allowed(Box::new(served), added))
}

/// Reads the body whole, and puts it back.
async fn read(served: &mut Served, limit: usize) -> Result<(), Error> {
    let body = std::mem::take(served.request.body_mut());
    let whole = Limited::new(body, limit).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return Error::new(
                Code::TooLarge,
                format!("more than the {limit} bytes that an authorization service is told"),
            );
        }
        Error::from_boxed(error, Code::ClientGone, "the body could not be read")
    })?;
    let trailers = whole.trailers().cloned();
    let body = Body::from(whole.to_bytes());
    *served.request.body_mut() = match trailers {
        None => body,
        Some(trailers) => Body::new(body.with_trailers(std::future::ready(Some(Ok(trailers))))),
    };
    Ok(())
}

#[cfg(test)]
mod tests;
