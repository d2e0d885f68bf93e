//! What the route does to a request before it is sent, and to its response.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, Uri, header::HOST};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    outbound::Outbound,
    runtime::{Action, RouteEntry},
};
use crate::{
    body::{Body, StackBody},
    classify::Refusal,
    error::{Code, Error},
};

#[derive(Clone, Debug)]
pub(crate) struct EnterLayer;

impl<S> Layer<S> for EnterLayer {
    type Service = Enter<S>;

    fn layer(&self, inner: S) -> Enter<S> {
        Enter { inner }
    }
}

/// Applies the route: answers by itself, or rewrites and passes on.
#[derive(Clone, Debug)]
pub(crate) struct Enter<S> {
    inner: S,
}

impl<S, B> Service<Outbound> for Enter<S>
where
    S: Service<Outbound, Response = Response<StackBody<B>>, Error = Error>,
{
    type Response = Response<StackBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut call: Outbound) -> Self::Future {
        match enter(&call.cx.entry, &mut call.request) {
            Ok(None) => {
                let entry = call.cx.entry.changes_response().then(|| Arc::clone(&call.cx.entry));
                ResponseFuture::Sent { future: self.inner.call(call), entry }
            }
            Ok(Some(response)) => ResponseFuture::Answered { result: Some(Ok(response)) },
            Err(error) => ResponseFuture::Answered { result: Some(Err(error)) },
        }
    }
}

/// A response if the route answers by itself.
fn enter(entry: &RouteEntry, request: &mut Request<Body>) -> Result<Option<Response<Body>>, Error> {
    match &entry.action {
        Action::Forward { .. } => {}
        Action::Redirect(redirect) => {
            let response = crate::route::redirect_response(redirect, entry.prefix(), request.uri(), host_of(request))?;
            return Ok(Some(answered(entry, response.map(|()| Body::empty()))));
        }
        Action::Direct(direct) => {
            let mut response = Response::new(Body::from(direct.body.clone()));
            *response.status_mut() = direct.status;
            return Ok(Some(answered(entry, response)));
        }
        Action::Refuse(code, message) => return Err(Error::new(*code, message.to_string())),
    }
    if let Some(route) = &entry.route {
        if !route.request_headers.is_empty() {
            route.request_headers.apply(request.headers_mut());
        }
        if route.rewrite.path.is_some() || route.rewrite.host.is_some() {
            crate::route::apply_rewrite(&route.rewrite, entry.prefix(), request)?;
        }
    }
    // Endpoints are addresses; what the peer should see is the name it is known by, unless the caller named a host.
    if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        let (scheme, authority) = entry.origin.clone();
        (parts.scheme, parts.authority) = (Some(scheme), Some(authority));
        if parts.path_and_query.is_none() {
            parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        }
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| {
            Error::new(Code::BadRequest, "the request's URI cannot be completed").with_source(error)
        })?;
    }
    Ok(None)
}

fn answered(entry: &RouteEntry, mut response: Response<Body>) -> Response<Body> {
    if let Some(route) = &entry.route {
        route.response_headers.apply(response.headers_mut());
    }
    response
}

fn host_of(request: &Request<Body>) -> Option<&str> {
    request
        .uri()
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| request.headers().get(HOST).and_then(|host| host.to_str().ok()))
}

pin_project! {
    #[project = ResponseProjection]
    pub(crate) enum ResponseFuture<F> {
        Sent { #[pin] future: F, entry: Option<Arc<RouteEntry>> },
        Answered { result: Option<Result<Response<Body>, Error>> },
    }
}

impl<F, B> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<StackBody<B>>, Error>>,
{
    type Output = Result<Response<StackBody<B>>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ResponseProjection::Sent { future, entry } => {
                let mut response = ready!(future.poll(cx))?;
                // What the mesh answered in place of the service is not the service's response.
                if let Some(entry) = entry.take()
                    && response.extensions().get::<Refusal>().is_none()
                    && let Some(route) = &entry.route
                {
                    route.response_headers.apply(response.headers_mut());
                }
                Poll::Ready(Ok(response))
            }
            ResponseProjection::Answered { result } => Poll::Ready(match result.take() {
                Some(result) => result.map(|response| response.map(StackBody::erased)),
                None => Err(Error::new(Code::Internal, "a call was polled after its end")),
            }),
        }
    }
}
