//! The user's seat above the application.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::inbound::{Served, ServerContext};
use crate::{
    body::{Body, StackBody},
    context::Inbound,
    error::Error,
    seat::{Next, Seat, SeatFuture},
};

/// Where the seat of this moment is found.
pub(crate) trait CurrentSeat: Clone + Send + Sync + 'static {
    fn current(&self) -> Option<std::sync::Arc<dyn Seat>>;
}

#[derive(Clone, Debug)]
pub(crate) struct SeatLayer<C> {
    current: C,
}

impl<C> SeatLayer<C> {
    pub(crate) fn new(current: C) -> Self {
        Self { current }
    }
}

impl<S, C: Clone> Layer<S> for SeatLayer<C> {
    type Service = Seated<S, C>;

    fn layer(&self, inner: S) -> Seated<S, C> {
        Seated { inner, current: self.current.clone() }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Seated<S, C> {
    inner: S,
    current: C,
}

impl<S, C, B> Service<Served> for Seated<S, C>
where
    S: Service<Served, Response = Response<StackBody<B>>, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
    C: CurrentSeat,
    B: HttpBody<Data = bytes::Bytes, Error = Error> + Send + 'static,
{
    type Response = Response<StackBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, served: Served) -> Self::Future {
        let Some(seat) = self.current.current() else {
            return ResponseFuture::Plain { future: self.inner.call(served) };
        };
        let Served { mut request, cx } = served;
        request.extensions_mut().insert(Inbound { context: cx.context.clone(), peer: cx.peer.clone() });
        let mut inner = self.inner.clone();
        let context = cx.context.clone();
        let next = Next::new(move |request| {
            let future = inner.call(Served { request, cx: ServerContext { ..cx } });
            Box::pin(async move { Ok(future.await?.map(erase)) })
        });
        let future = context.scope(SeatCall { future: seat.call(request, next) });
        ResponseFuture::Seated { future: Box::pin(future) }
    }
}

fn erase<B>(body: StackBody<B>) -> Body
where
    B: HttpBody<Data = bytes::Bytes, Error = Error> + Send + 'static,
{
    match body {
        StackBody::Erased { body } => body,
        body => Body::erase(body),
    }
}

struct SeatCall {
    future: SeatFuture,
}

impl Future for SeatCall {
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}

pin_project! {
    #[project = ResponseProjection]
    pub(crate) enum ResponseFuture<F> {
        Plain { #[pin] future: F },
        Seated { future: SeatFuture },
    }
}

impl<F, B> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<StackBody<B>>, Error>>,
{
    type Output = Result<Response<StackBody<B>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ResponseProjection::Plain { future } => future.poll(cx),
            ResponseProjection::Seated { future } => {
                future.as_mut().poll(cx).map_ok(|response| response.map(StackBody::erased))
            }
        }
    }
}
