//! One meaning for each request, before anything looks at what it asks for.

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::{inbound::Served, refuse::ResponseFuture};
use crate::{
    canon::{PathNormalization, canonicalize},
    error::Error,
    provide::Provide,
};

/// Refuses requests that can be read in two ways with E055.
#[derive(Clone, Debug)]
pub(crate) struct CanonicalLayer<Src> {
    source: Src,
}

impl<Src> CanonicalLayer<Src> {
    pub(crate) const fn with(source: Src) -> Self {
        Self { source }
    }
}

impl<S, Src: Clone> Layer<S> for CanonicalLayer<Src> {
    type Service = CanonicalService<S, Src>;

    fn layer(&self, inner: S) -> Self::Service {
        CanonicalService { inner, source: self.source.clone() }
    }
}

/// The service made by [`CanonicalLayer`].
#[derive(Clone, Debug)]
pub(crate) struct CanonicalService<S, Src> {
    inner: S,
    source: Src,
}

impl<S, Src> Service<Served> for CanonicalService<S, Src>
where
    S: Service<Served, Error = Error>,
    Src: Provide<PathNormalization, Served>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut served: Served) -> Self::Future {
        let level = self.source.provide(&served).unwrap_or_default();
        match canonicalize(&mut served.request, served.cx.grpc, level) {
            Ok(canonical) => {
                served.cx.canonical = canonical;
                ResponseFuture::Running { future: self.inner.call(served) }
            }
            Err(ambiguous) => ResponseFuture::refused(ambiguous.into()),
        }
    }
}
