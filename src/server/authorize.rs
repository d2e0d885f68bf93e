//! The seat of authorization in the stack.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    external::{self, Verdict},
    inbound::Served,
    open::{OpenConnection, OpenExchange},
};
use crate::{
    body::Body,
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
    S: Service<Served, Response = Response<B>, Error = Error> + Clone,
    B: HttpBody<Data = Bytes, Error = Error>,
{
    type Response = Response<JudgedBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, served: Served) -> Self::Future {
        let (grpc, tunnel) = (served.cx.grpc, *served.request.method() == Method::CONNECT);
        let future = |state, exchange| ResponseFuture { state, exchange, added: None, grpc, tunnel };
        let Some(access) = &served.cx.policy.access else {
            return future(State::Running { future: self.inner.call(served) }, None);
        };
        match access.check(&served) {
            Err(error) => future(State::Refused { error: Some(error) }, None),
            Ok((draw, asked)) => {
                let exchange = OpenExchange::new(&self.connection, &served, access.names(), draw);
                let state = if asked.is_empty() {
                    State::Running { future: self.inner.call(served) }
                } else {
                    State::Asking { decision: Box::pin(external::decide(asked, served)), inner: self.inner.clone() }
                };
                future(state, Some(exchange))
            }
        }
    }
}

type Decision = Pin<Box<dyn Future<Output = Result<Verdict, Error>> + Send>>;

pin_project! {
    pub(crate) struct ResponseFuture<S>
    where
        S: Service<Served>,
    {
        #[pin]
        state: State<S, S::Future>,
        exchange: Option<OpenExchange>,
        // What an authorization service adds to the response.
        added: Option<Box<HeaderMap>>,
        grpc: bool,
        // Over HTTP/2 a WebSocket is a CONNECT.
        tunnel: bool,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F> {
        Running { #[pin] future: F },
        Asking { decision: Decision, inner: S },
        Refused { error: Option<Error> },
    }
}

impl<S, B> Future for ResponseFuture<S>
where
    S: Service<Served, Response = Response<B>, Error = Error>,
    B: HttpBody<Data = Bytes, Error = Error>,
{
    type Output = Result<Response<JudgedBody<B>>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if let Some(exchange) = this.exchange.as_mut() {
                exchange.check()?;
            }
            let polled = match this.state.as_mut().project() {
                StateProjection::Running { future } => future.poll(cx),
                StateProjection::Asking { decision, inner } => match decision.as_mut().poll(cx) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(Verdict::Denied(response))) => {
                        return Poll::Ready(Ok(response.map(JudgedBody::own)));
                    }
                    Poll::Ready(Ok(Verdict::Allowed(served, added))) => {
                        *this.added = (!added.is_empty()).then(|| Box::new(added));
                        let future = inner.call(*served);
                        this.state.set(State::Running { future });
                        continue;
                    }
                },
                // Taken once: the future is over with it.
                StateProjection::Refused { error } => {
                    return error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
                }
            };
            let Poll::Ready(result) = polled else {
                if this.exchange.as_mut().is_none_or(|exchange| exchange.wait(cx)) {
                    return Poll::Pending;
                }
                continue;
            };
            let mut response = result?;
            if let Some(added) = this.added.take() {
                response.headers_mut().extend(*added);
            }
            let mut exchange = this.exchange.take();
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
        Own { #[pin] body: Body },
        Over,
    }
}

impl<B: HttpBody> JudgedBody<B> {
    fn new(body: B, exchange: Option<OpenExchange>, grpc: bool) -> Self {
        let exchange = exchange.filter(|_| !body.is_end_stream());
        Self { state: BodyState::Open { body }, exchange, grpc }
    }

    /// The answer of somebody who was asked.
    fn own(body: Body) -> Self {
        Self { state: BodyState::Own { body }, exchange: None, grpc: false }
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
            let mut body = match this.state.as_mut().project() {
                BodyProjection::Open { body } => body,
                BodyProjection::Own { body } => return body.poll_frame(cx),
                BodyProjection::Over => return Poll::Ready(None),
            };
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
            BodyState::Own { body } => body.is_end_stream(),
            BodyState::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            BodyState::Open { body } => body.size_hint(),
            BodyState::Own { body } => body.size_hint(),
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
