//! Where a layer finds its policy: fixed, swapped while running, or resolved for this call.
//!
//! A layer is written once over [`Provide`]; alone around a foreign service it uses [`Fixed`] or [`Live`], inside the
//! client stack it asks the call's route. `None` means that the policy does not apply to this request.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// Finds the policy `P` for a request of type `R`.
pub trait Provide<P, R>: Clone + Send + Sync + 'static {
    /// The policy for this request, `None` if it has none.
    fn provide(&self, request: &R) -> Option<P>;

    /// As [`provide`](Self::provide), for as long as `look` looks at it.
    fn look<T>(&self, request: &R, look: impl FnOnce(Option<&P>) -> T) -> T {
        look(self.provide(request).as_ref())
    }
}

/// The same policy for every request.
#[derive(Clone, Debug)]
pub struct Fixed<P>(pub P);

impl<P, R> Provide<P, R> for Fixed<P>
where
    P: Clone + Send + Sync + 'static,
{
    fn provide(&self, _request: &R) -> Option<P> {
        Some(self.0.clone())
    }

    fn look<T>(&self, _request: &R, look: impl FnOnce(Option<&P>) -> T) -> T {
        look(Some(&self.0))
    }
}

/// A policy that can be replaced while requests run; each request keeps the one it began with.
#[derive(Debug)]
pub struct Live<P>(Arc<ArcSwap<P>>);

impl<P> Live<P> {
    /// Starts with this policy.
    pub fn new(policy: P) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(policy)))
    }

    /// Replaces the policy for requests that begin from now on.
    pub fn store(&self, policy: P) {
        self.0.store(Arc::new(policy));
    }
}

impl<P> Clone for Live<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P, R> Provide<P, R> for Live<P>
where
    P: Clone + Send + Sync + 'static,
{
    fn provide(&self, _request: &R) -> Option<P> {
        Some(P::clone(&self.0.load()))
    }
}
