//! The seat of authorization in the stack.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    inbound::Served,
    open::{OpenConnection, OpenExchange},
};
use crate::{
    error::Error,
    rescue::{Reader, answer},
};

/// Refuses requests that no rule allows, and ends those that it does not allow any more.
#[derive(Clone)]
pub(crate) struct AuthorizeLayer {
    connection: Arc<OpenConnection>,
}

impl AuthorizeLayer {
    pub(crate) const fn new(connection: Arc<OpenConnection>) -> Self {
        Self { connection }
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize { inner, connection: Arc::clone(&self.connection) }
    }
}

/// The service made by [`AuthorizeLayer`].
#[derive(Clone)]
pub(crate) struct Authorize<S> {
    inner: S,
    connection: Arc<OpenConnection>,
}

impl<S, B> Service<Served> for Authorize<S>
where
    S: Service<Served, Response = Response<B>, Error = Error>,
    B: HttpBody<Data = Bytes, Error = Error>,
{
    type Response = Response<JudgedBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, served: Served) -> Self::Future {
        let (grpc, tunnel) = (served.cx.grpc, *served.request.method() == Method::CONNECT);
        let exchange = match &served.cx.policy.access {
            None => None,
            Some(access) => match access.check(&served) {
                Err(error) => return ResponseFuture { state: State::Refused { error: Some(error) }, grpc, tunnel },
                Ok(draw) => Some(OpenExchange::new(&self.connection, &served, access.names(), draw)),
            },
        };
        ResponseFuture { state: State::Running { future: self.inner.call(served), exchange }, grpc, tunnel }
    }
}

pin_project! {
    pub(crate) struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        grpc: bool,
        // Over HTTP/2 a WebSocket is a CONNECT.
        tunnel: bool,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Running { #[pin] future: F, exchange: Option<OpenExchange> },
        Refused { error: Option<Error> },
    }
}

impl<F, B> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, Error>>,
    B: HttpBody<Data = Bytes, Error = Error>,
{
    type Output = Result<Response<JudgedBody<B>>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (mut future, exchange) = match this.state.project() {
            StateProjection::Running { future, exchange } => (future, exchange),
            // Taken once: the future is over with it.
            StateProjection::Refused { error } => {
                return error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
            }
        };
        loop {
            if let Some(exchange) = exchange.as_mut() {
                exchange.check()?;
            }
            let Poll::Ready(result) = future.as_mut().poll(cx) else {
                if exchange.as_mut().is_none_or(|exchange| exchange.wait(cx)) {
                    return Poll::Pending;
                }
                continue;
            };
            let response = result?;
            let mut exchange = exchange.take();
            if (*this.tunnel && response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS)
                && let Some(exchange) = exchange.take()
            {
                exchange.upgraded();
            }
            let grpc = *this.grpc && response.headers().contains_key(CONTENT_TYPE);
            return Poll::Ready(Ok(response.map(|body| JudgedBody::new(body, exchange, grpc))));
        }
    }
}

pin_project! {
    /// A response body that ends when its exchange is not allowed any more.
    pub(crate) struct JudgedBody<B> {
        #[pin]
        state: BodyState<B>,
        exchange: Option<OpenExchange>,
        grpc: bool,
    }
}

pin_project! {
    #[project = BodyProjection]
    enum BodyState<B> {
        Open { #[pin] body: B },
        Over,
    }
}

impl<B: HttpBody> JudgedBody<B> {
    fn new(body: B, exchange: Option<OpenExchange>, grpc: bool) -> Self {
        let exchange = exchange.filter(|_| !body.is_end_stream());
        Self { state: BodyState::Open { body }, exchange, grpc }
    }
}

impl<B> HttpBody for JudgedBody<B>
where
    B: HttpBody<Data = Bytes, Error = Error>,
{
    type Data = Bytes;
    type Error = Error;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.project();
        loop {
            if let Some(exchange) = this.exchange.as_mut()
                && let Err(error) = exchange.check()
            {
                *this.exchange = None;
                // The application's body goes now: nobody reads it any more.
                this.state.set(BodyState::Over);
                return Poll::Ready(Some(if *this.grpc { Ok(status(&error)) } else { Err(reset(error)) }));
            }
            let BodyProjection::Open { mut body } = this.state.as_mut().project() else { return Poll::Ready(None) };
            let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else {
                if this.exchange.as_mut().is_none_or(|exchange| exchange.wait(cx)) {
                    return Poll::Pending;
                }
                continue;
            };
            let more = matches!(&frame, Some(Ok(frame)) if frame.is_data()) && !body.is_end_stream();
            if !more {
                *this.exchange = None;
            }
            return Poll::Ready(frame);
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            BodyState::Open { body } => body.is_end_stream(),
            BodyState::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            BodyState::Open { body } => body.size_hint(),
            BodyState::Over => SizeHint::with_exact(0),
        }
    }
}

/// How a gRPC call ends whose answer has begun.
#[cold]
fn status(error: &Error) -> Frame<Bytes> {
    let mut trailers = std::mem::take(answer(error, true, Reader::Peer).headers_mut());
    trailers.remove(CONTENT_TYPE);
    Frame::trailers(trailers)
}

/// Over HTTP/2 the stream is cancelled; nothing failed.
#[cold]
fn reset(error: Error) -> Error {
    error.with_source(h2::Error::from(h2::Reason::CANCEL))
}
