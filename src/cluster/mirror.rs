//! Requests that nobody waits for: load of the endpoint they go to, and nothing else of the cluster.

use std::{future::Future, sync::Arc, time::Duration};

use http::{Request, Response};

use super::{
    Cluster, SubsetId,
    dispatch::want,
    endpoint::Endpoint,
    wait::{Ask, Chosen, Ready},
};
use crate::{
    balance::Picked,
    body::{Body, GuardedBody, Held},
    error::Error,
    transport::SlotBody,
};

/// The body of a copy's response: its endpoint is loaded until it ends.
pub(crate) type MirrorBody = GuardedBody<SlotBody, Held<Picked<Endpoint>>>;

impl Cluster {
    /// Sends a copy to an endpoint. It takes no permit of the cluster, no place among the calls that wait, and leaves no
    /// outcome behind.
    pub(crate) async fn mirror(
        self: Arc<Self>,
        request: Request<Body>,
        subset: Option<SubsetId>,
        grpc: bool,
        limit: Duration,
    ) -> Result<Response<MirrorBody>, Error> {
        let ask = Ask::of(subset, want(&request, grpc));
        // Nothing is learnt from a copy: a probe is given back.
        let Chosen { picked, slot, place: _, probe: _ } = match self.try_ready(ask) {
            Ready::Go(chosen) => chosen,
            Ready::Fail(error) => return Err(error),
            Ready::Wait(_) => self.wait_free(ask, limit).await?,
        };
        let response = slot.send(request).await?;
        Ok(response.map(|body| GuardedBody::new(body, Held(picked))))
    }

    /// Runs in the background until the mesh ends.
    pub(crate) fn background(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}
