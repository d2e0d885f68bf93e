//! Sends again what provably was not processed.
//!
//! A connection that is going away answers "your stream was above my last one", a connection that could not be made
//! answers nothing: in both cases the peer saw no request, so any method may be sent again, to another endpoint where
//! there is one. The first attempt runs inline; only a failed one moves into a boxed loop.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Method, Request, Response, Uri, Version};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::outbound::{CallContext, Outbound};
use crate::{
    body::Body,
    error::{Delivery, Error, Kind},
};

/// How often one call may be sent again because nothing of it was processed. A peer that ends its connections every few
/// requests, as nginx does by `keepalive_requests`, can do so to one call several times in a row.
const UNSENT: u32 = 8;
/// How often because the peer refused the stream: it may be overloaded, so asking again adds load.
const REFUSED: u32 = 1;

#[derive(Clone, Debug)]
pub(crate) struct RedispatchLayer;

impl<S> Layer<S> for RedispatchLayer {
    type Service = Redispatch<S>;

    fn layer(&self, inner: S) -> Redispatch<S> {
        Redispatch { inner }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Redispatch<S> {
    inner: S,
}

impl<S, B> Service<Outbound> for Redispatch<S>
where
    S: Service<Outbound, Response = Response<B>, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
    B: 'static,
{
    type Response = Response<B>;
    type Error = Error;
    type Future = ResponseFuture<S, S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, call: Outbound) -> Self::Future {
        let saved = Saved {
            method: call.request.method().clone(),
            uri: call.request.uri().clone(),
            version: call.request.version(),
            headers: call.request.headers().clone(),
            cx: call.cx.clone(),
        };
        ResponseFuture {
            state: State::First { future: self.inner.call(call) },
            again: Some((self.inner.clone(), saved)),
        }
    }
}

/// The head of the request; extensions are not sent.
struct Saved {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    cx: CallContext,
}

impl Saved {
    fn request(&self, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.clone();
        request
    }
}

pin_project! {
    pub(crate) struct ResponseFuture<S, F, B> {
        #[pin]
        state: State<F, B>,
        again: Option<(S, Saved)>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, B> {
        First { #[pin] future: F },
        Again { future: Pin<Box<dyn Future<Output = Result<Response<B>, Error>> + Send>> },
    }
}

impl<S, B> Future for ResponseFuture<S, S::Future, B>
where
    S: Service<Outbound, Response = Response<B>, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
    B: 'static,
{
    type Output = Result<Response<B>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::First { future } => {
                    let mut error = match ready!(future.poll(cx)) {
                        Ok(response) => return Poll::Ready(Ok(response)),
                        Err(error) => error,
                    };
                    let Some((service, saved)) = this.again.take() else { return Poll::Ready(Err(error)) };
                    let mut tries = Tries::default();
                    let Some(body) = tries.body(&mut error) else { return Poll::Ready(Err(error)) };
                    this.state.set(State::Again { future: Box::pin(again(service, saved, tries, error, body)) });
                }
                StateProjection::Again { future } => return future.as_mut().poll(cx),
            }
        }
    }
}

async fn again<S, B>(
    mut service: S,
    mut saved: Saved,
    mut tries: Tries,
    mut error: Error,
    mut body: Body,
) -> Result<Response<B>, Error>
where
    S: Service<Outbound, Response = Response<B>, Error = Error>,
{
    loop {
        tracing::debug!(code = %error.code(), attempt = saved.cx.attempt + 1, "not processed, sending again: {error}");
        if let Some(endpoint) = error.endpoint() {
            saved.cx.tried.push(Arc::from(endpoint));
        }
        saved.cx.attempt += 1;
        let call = Outbound { request: saved.request(mem::take(&mut body)), cx: saved.cx.clone() };
        error = match service.call(call).await {
            Ok(response) => return Ok(response),
            // Nowhere else to go: the first cause says more than "no other endpoint".
            Err(next) if next.endpoint().is_none() && next.kind() == Kind::Unavailable => return Err(error),
            Err(next) => next,
        };
        body = match tries.body(&mut error) {
            Some(body) => body,
            None => return Err(error),
        };
    }
}

#[derive(Default)]
struct Tries {
    unsent: u32,
    refused: u32,
}

impl Tries {
    /// The rewound body, if the call may be sent again.
    fn body(&mut self, error: &mut Error) -> Option<Body> {
        if !matches!(error.kind(), Kind::Connect | Kind::Reset) {
            return None;
        }
        let (count, max) = match error.delivery() {
            Delivery::Unsent | Delivery::GoawayUnprocessed => (&mut self.unsent, UNSENT),
            Delivery::RefusedStream => (&mut self.refused, REFUSED),
            Delivery::TlsRefused | Delivery::Maybe => return None,
        };
        if *count >= max {
            return None;
        }
        *count += 1;
        let mut body = error.take_returned()?;
        body.rewind().then_some(body)
    }
}
