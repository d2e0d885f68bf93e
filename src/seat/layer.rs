//! A seat as part of a stack.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Next, Seat, SeatFuture};
use crate::{
    body::{Body, StackBody},
    error::Error,
    provide::Provide,
};

/// What travels through a stack: a request and what the stack knows about it.
pub(crate) trait Carrier: Sized + Send + 'static {
    /// What the stack knows.
    type Context: Send + 'static;

    /// Takes both apart. The request gets what user code may see of the context as an extension.
    fn open(self) -> (Request<Body>, Self::Context);

    /// Puts both together again.
    fn close(request: Request<Body>, context: Self::Context) -> Self;
}

/// Calls the seat that the source finds, if any.
#[derive(Clone, Debug)]
pub(crate) struct SeatLayer<Src> {
    source: Src,
}

impl<Src> SeatLayer<Src> {
    pub(crate) const fn with(source: Src) -> Self {
        Self { source }
    }
}

impl<S, Src: Clone> Layer<S> for SeatLayer<Src> {
    type Service = Seated<S, Src>;

    fn layer(&self, inner: S) -> Seated<S, Src> {
        Seated { inner, source: self.source.clone() }
    }
}

/// The service made by [`SeatLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Seated<S, Src> {
    inner: S,
    source: Src,
}

impl<S, Src, R, B> Service<R> for Seated<S, Src>
where
    S: Service<R, Response = Response<StackBody<B>>, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
    Src: Provide<Arc<dyn Seat>, R>,
    R: Carrier,
    B: HttpBody<Data = bytes::Bytes, Error = Error> + Send + 'static,
{
    type Response = Response<StackBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, carrier: R) -> Self::Future {
        let Some(seat) = self.source.provide(&carrier) else {
            return ResponseFuture::Plain { future: self.inner.call(carrier) };
        };
        let (request, context) = carrier.open();
        let mut inner = self.inner.clone();
        let next = Next::new(move |request| {
            let future = inner.call(R::close(request, context));
            Box::pin(async move { Ok(future.await?.map(erase)) })
        });
        ResponseFuture::Seated { future: seat.call(request, next) }
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

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ResponseProjection::Plain { future } => future.poll(cx),
            ResponseProjection::Seated { future } => {
                future.as_mut().poll(cx).map_ok(|response| response.map(StackBody::erased))
            }
        }
    }
}
