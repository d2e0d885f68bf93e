//! The listener and its paths.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
};

use super::{health::Health, metrics::Metrics, readiness::Readiness};
use crate::{
    body::Body,
    instrument::Registry,
    rt::TaskSet,
    transport::accept::{Acceptor, Drain, DrainReport, InboundTls, Limits, Listener},
};

/// How long open ops connections may take at the end: nothing there is worth waiting for longer.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The running ops listener.
#[derive(Debug)]
pub(crate) struct OpsServer {
    drain: Drain,
}

impl OpsServer {
    /// Serves in the background on `listener`. `service` is the name under which `grpc.health.v1` is asked.
    pub(crate) fn serve(
        listener: Listener,
        service: &str,
        readiness: Readiness,
        registry: &Registry,
        tasks: &TaskSet,
    ) -> Self {
        let drain = Drain::new();
        let limits = Limits { closing_grace: Duration::ZERO, ..Limits::default() };
        let acceptor = Acceptor::new("ops", limits, drain.clone(), tasks.clone(), registry);
        let ops = Ops {
            inner: Arc::new(Inner {
                health: Health::new(service, &readiness, tasks),
                metrics: Metrics::new(registry.clone()),
                readiness,
            }),
        };
        acceptor.serve(listener, InboundTls::default, move |_peer| ops.clone());
        Self { drain }
    }

    /// Closes the listener and what is open on it. To be called after the mesh's own drain has ended.
    pub(crate) async fn close(&self) -> DrainReport {
        self.drain.start(Duration::ZERO, CLOSE_LIMIT).await
    }
}

#[derive(Clone)]
struct Ops {
    inner: Arc<Inner>,
}

struct Inner {
    readiness: Readiness,
    metrics: Metrics,
    health: Health,
}

impl tower_service::Service<Request<Body>> for Ops {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path().starts_with("/grpc.health.v1.Health/") {
            return self.inner.health.call(request);
        }
        let response = self.inner.answer(&request);
        Box::pin(std::future::ready(Ok(response)))
    }
}

impl Inner {
    fn answer(&self, request: &Request<Body>) -> Response<Body> {
        let answer: fn(&Self, Option<&str>) -> Response<Body> = match request.uri().path() {
            "/livez" => |_, _| respond(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => Self::readyz,
            "/metrics" => |ops, _| ops.metrics.render(),
            _ => {
                return respond(
                    StatusCode::NOT_FOUND,
                    TEXT,
                    "not found: this listener has /livez, /readyz, /metrics and grpc.health.v1\n",
                );
            }
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        answer(self, request.uri().query())
    }

    fn readyz(&self, query: Option<&str>) -> Response<Body> {
        let verbose = query.is_some_and(|query| query.split('&').any(|key| key == "verbose" || key == "verbose=true"));
        let report = self.readiness.report();
        let ready = report.iter().all(|(_, reason)| reason.is_none());
        if ready && !verbose {
            return respond(StatusCode::OK, TEXT, "ok\n");
        }
        let conditions: Vec<_> = report
            .iter()
            .filter(|(_, reason)| verbose || reason.is_some())
            .map(|(name, reason)| serde_json::json!({ "name": name, "ready": reason.is_none(), "reason": reason }))
            .collect();
        let json = serde_json::json!({ "ready": ready, "conditions": conditions });
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        respond(status, JSON, format!("{json}\n"))
    }
}

pub(super) fn respond(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
