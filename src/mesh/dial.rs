//! Dialling before there is a certificate.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use super::security::Security;
use crate::{
    error::Error,
    model::Address,
    rt,
    transport::{Dial, Dialed, Offer, TlsDialer},
};

/// How long a dial waits for the first certificate. Less than calls wait for a connection, so that they hear the reason.
const PATIENCE: Duration = Duration::from_secs(2);

/// Waits for the first certificate, which sources bring a moment after the mesh has begun, then dials.
pub(super) struct WhenIdentified {
    dialer: TlsDialer,
    security: Arc<Security>,
}

impl WhenIdentified {
    pub(super) fn new(dialer: TlsDialer, security: Arc<Security>) -> Self {
        Self { dialer, security }
    }
}

impl Dial for WhenIdentified {
    fn dial<'a>(
        &'a self,
        address: &'a Address,
        offer: Offer,
    ) -> Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + 'a>> {
        Box::pin(async move {
            if let Some(identity) = self.security.identity().filter(|identity| identity.own().is_none()) {
                let mut changes = identity.changes();
                let first = changes.wait_for(|_| identity.own().is_some());
                let _ = rt::timeout(PATIENCE, first).await;
            }
            self.dialer.dial(address, offer).await
        })
    }
}
