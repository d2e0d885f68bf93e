//! The seat of authentication in the stack.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{callers::Callers, inbound::Served};
use crate::{authn::Issuer, error::Error, rt};

/// Learns who is behind a request, and refuses what it cannot verify.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AuthenticateLayer;

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate { inner }
    }
}

/// The service made by [`AuthenticateLayer`].
#[derive(Clone)]
pub(crate) struct Authenticate<S> {
    inner: S,
}

impl<S> Service<Served> for Authenticate<S>
where
    S: Service<Served, Error = Error> + Clone,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut served: Served) -> Self::Future {
        let Some(callers) = served.cx.policy.callers.clone() else {
            return ResponseFuture { state: State::Running { future: self.inner.call(served) } };
        };
        let state = match callers.authenticate(&mut served) {
            Ok(None) => State::Running { future: self.inner.call(served) },
            Ok(Some(issuer)) => {
                State::Waiting { wait: Box::pin(wait(callers, served, issuer)), inner: self.inner.clone() }
            }
            Err(error) => State::Refused { error: Some(error) },
        };
        ResponseFuture { state }
    }
}

/// Waits for one fetch of the issuer's keys, at most as long as it may take, and asks once more.
async fn wait(callers: Arc<Callers>, mut served: Served, issuer: Arc<Issuer>) -> Result<Served, Error> {
    let mut fetches = issuer.fetches();
    let late = rt::sleep(issuer.timeout());
    tokio::select! {
        biased;
        _ = fetches.changed() => {}
        () = late => return Err(callers.no_keys()),
    }
    match callers.authenticate(&mut served)? {
        None => Ok(served),
        Some(_) => Err(callers.no_keys()),
    }
}

type Wait = Pin<Box<dyn Future<Output = Result<Served, Error>> + Send>>;

pin_project! {
    pub(crate) struct ResponseFuture<S>
    where
        S: Service<Served>,
    {
        #[pin]
        state: State<S, S::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F> {
        Running { #[pin] future: F },
        Waiting { wait: Wait, inner: S },
        Refused { error: Option<Error> },
    }
}

impl<S> Future for ResponseFuture<S>
where
    S: Service<Served, Error = Error>,
{
    type Output = Result<S::Response, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let future = match this.state.as_mut().project() {
                StateProjection::Running { future } => return future.poll(cx),
                StateProjection::Waiting { wait, inner } => match ready!(wait.as_mut().poll(cx)) {
                    Ok(served) => inner.call(served),
                    Err(error) => return Poll::Ready(Err(error)),
                },
                // Taken once: the future is over with it.
                StateProjection::Refused { error } => {
                    return error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
                }
            };
            this.state.set(State::Running { future });
        }
    }
}
