//! `circuit_breakers.per_endpoint.max_requests`: places for calls at one endpoint.
//!
//! Who finds none there goes elsewhere, and stands in the [line](super::line) with those for whom no stream is free where all
//! endpoints are full. A place belongs to the endpoint, whatever connections are made anew meanwhile.

use std::sync::{
    Arc,
    atomic::Ordering::{Relaxed, SeqCst},
};

use super::{Cluster, LONG_LIVED, endpoint::Endpoint};
use crate::{breaker::Permit, rt::Instant};

/// One of the calls in flight to an endpoint.
pub(super) struct EndpointPlace {
    permit: Option<Permit>,
    cluster: Arc<Cluster>,
    /// It was handed out, so that its return is news to those who wait. What is put back at once is none: they would look
    /// again for ever.
    taken: bool,
}

impl EndpointPlace {
    pub(super) fn taken(mut self: Box<Self>) -> Box<Self> {
        self.taken = true;
        self
    }
}

impl Drop for EndpointPlace {
    fn drop(&mut self) {
        // First: whoever is told finds it free. Who begins to wait after the look below finds it as well.
        self.permit = None;
        if self.taken && self.cluster.waiting.load(SeqCst) > 0 {
            self.cluster.tell_waiting();
        }
    }
}

impl Cluster {
    /// A place at an endpoint, where one is needed; an error if there is none.
    #[inline]
    pub(super) fn place(
        self: &Arc<Self>,
        at: &Endpoint,
        limited: bool,
    ) -> Result<Option<Box<EndpointPlace>>, Occupied> {
        if limited { self.limited_place(at).map(Some).ok_or(Occupied) } else { Ok(None) }
    }

    #[cold]
    fn limited_place(self: &Arc<Self>, at: &Endpoint) -> Option<Box<EndpointPlace>> {
        let permit = at.places.try_acquire()?;
        Some(Box::new(EndpointPlace { permit: Some(permit), cluster: Arc::clone(self), taken: false }))
    }

    pub(super) fn places_are_limited(&self) -> bool {
        self.places_are_limited.load(Relaxed)
    }

    /// What has been in flight for long needs no place any more.
    pub(super) fn sweep_places(&self, now: Instant) {
        for (_, member) in self.members.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            member.places.move_old(now, LONG_LIVED, &self.unlimited);
        }
        if self.waiting.load(SeqCst) > 0 {
            self.tell_waiting();
        }
    }
}

/// Every place at an endpoint is taken.
pub(super) struct Occupied;
