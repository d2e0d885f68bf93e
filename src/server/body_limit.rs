//! How much a request may bring: `max_request_bytes` of its listener.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use http::{Method, Response};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{inbound::Served, refuse::ResponseFuture};
use crate::{
    body::Body,
    error::{Code, Error, Origin},
    provide::Provide,
};

/// Bytes of a request body.
#[derive(Clone, Copy, Debug)]
pub(super) struct MaxBody(pub(super) u32);

/// Refuses requests that say that they bring more with E056, and lets bodies that turn out to bring more fail with it: an
/// application that then answers with an error has its peer told the same.
///
/// Not those of gRPC, whose messages the application limits one by one while their stream may go on for ever, and not
/// CONNECT.
#[derive(Clone, Debug)]
pub(super) struct BodyLimitLayer<Src> {
    source: Src,
}

impl<Src> BodyLimitLayer<Src> {
    pub(super) const fn with(source: Src) -> Self {
        Self { source }
    }
}

impl<S, Src: Clone> Layer<S> for BodyLimitLayer<Src> {
    type Service = BodyLimit<S, Src>;

    fn layer(&self, inner: S) -> Self::Service {
        BodyLimit { inner, source: self.source.clone() }
    }
}

/// The service made by [`BodyLimitLayer`].
#[derive(Clone, Debug)]
pub(super) struct BodyLimit<S, Src> {
    inner: S,
    source: Src,
}

impl<S, Src, B> Service<Served> for BodyLimit<S, Src>
where
    S: Service<Served, Response = Response<B>, Error = Error>,
    Src: Provide<MaxBody, Served>,
{
    type Response = Response<B>;
    type Error = Error;
    type Future = LimitedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut served: Served) -> Self::Future {
        let limited = match self.source.provide(&served) {
            None => Ok(None),
            Some(max) => limit(&mut served, max),
        };
        match limited {
            Ok(exceeded) => {
                LimitedFuture { inner: ResponseFuture::Running { future: self.inner.call(served) }, exceeded }
            }
            Err(error) => LimitedFuture { inner: ResponseFuture::refused(error), exceeded: None },
        }
    }
}

/// Whether a body turned out to bring more than its limit.
struct Exceeded {
    it_did: Arc<AtomicBool>,
    max: u32,
}

fn limit(served: &mut Served, MaxBody(max): MaxBody) -> Result<Option<Exceeded>, Error> {
    if served.cx.grpc || served.request.method() == Method::CONNECT {
        return Ok(None);
    }
    let size = served.request.body().size_hint();
    if size.lower() > max.into() {
        return Err(too_large(max));
    }
    // The protocols hold a body to the length that it said.
    if size.upper().is_some_and(|most| most <= max.into()) {
        return Ok(None);
    }
    let exceeded = Exceeded { it_did: Arc::default(), max };
    let (told, body) = (Arc::clone(&exceeded.it_did), std::mem::take(served.request.body_mut()));
    *served.request.body_mut() = Body::new(Limited::new(body, max as usize).map_err(move |error| {
        if error.is::<LengthLimitError>() {
            told.store(true, Relaxed);
            return too_large(max);
        }
        Error::from_boxed(error, Code::ClientGone, "the body could not be read")
    }));
    Ok(Some(exceeded))
}

#[cold]
fn too_large(max: u32) -> Error {
    let message = format!("the body has more than {max} bytes (`max_request_bytes` of the listener)");
    Error::new(Code::TooLarge, message).with_origin(Origin::Caller)
}

pin_project! {
    /// The future of a [`BodyLimit`].
    pub(super) struct LimitedFuture<F> {
        #[pin]
        inner: ResponseFuture<F>,
        exceeded: Option<Exceeded>,
    }
}

impl<F, B> Future for LimitedFuture<F>
where
    F: Future<Output = Result<Response<B>, Error>>,
{
    type Output = Result<Response<B>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        let Some(exceeded) = this.exceeded.take() else { return Poll::Ready(answer) };
        // Frameworks call a body that fails a bad request, whatever it failed of.
        let failed = answer.as_ref().map_or(true, |answer| answer.status().as_u16() >= 400);
        Poll::Ready(if failed && exceeded.it_did.load(Relaxed) { Err(too_large(exceeded.max)) } else { answer })
    }
}
