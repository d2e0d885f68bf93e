//! Asks an authority, again and again.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;

use super::{
    CertificateAuthority, CertificateRequest, IssuedCertificate, key,
    renewal::{Life, Renewal},
    roots::Roots,
};
use crate::{
    identity::{Bundle, Identity, Material, Svid},
    name::SpiffeId,
    rt::{self, Rng},
};

/// What an authority may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often an authority is asked whom to trust.
const TRUST: Duration = Duration::from_secs(60);

/// An authority, and what it last gave.
pub(crate) struct CaSource {
    authority: Arc<dyn CertificateAuthority>,
    identity: Identity,
    id: SpiffeId,
    lifetime: Option<Duration>,
    roots: Roots,
    /// What is published, and how much of its life was left then.
    current: Option<(Svid, Duration)>,
}

impl CaSource {
    /// Asks for a certificate of `id` that lives for `lifetime`.
    pub(crate) fn new(
        authority: Arc<dyn CertificateAuthority>,
        identity: Identity,
        id: SpiffeId,
        lifetime: Option<Duration>,
    ) -> Self {
        Self { authority, identity, id, lifetime, roots: Roots::default(), current: None }
    }

    /// Publishes certificates and whom to trust, for as long as it is polled.
    pub(crate) async fn run(mut self) {
        let mut renewal = Renewal::default();
        let mut rng = Rng::local();
        let mut due = rt::now();
        let mut failing = None;
        loop {
            let trust = rt::now() + rng.jitter(TRUST, 10);
            if rt::now() < due {
                rt::sleep_until(due.min(trust)).await;
            }
            let asked = rt::now();
            let result = if asked < due { self.trust().await } else { self.renew().await };
            if asked >= due {
                failing = result.as_ref().err().cloned();
                due = rt::now()
                    + match &result {
                        Ok(()) => renewal.renewed(self.left(), &mut rng),
                        Err(_) => renewal.failed(self.life(), &mut rng),
                    };
            }
            match failing.as_ref().or(result.as_ref().err()) {
                Some(why) => self.identity.source_failed(why),
                None => self.identity.source_works(),
            }
        }
    }

    /// One certificate more.
    async fn renew(&mut self) -> Result<(), String> {
        let key = key::generate(self.identity.provider())?;
        let current = self.current.as_ref().map(|(svid, _)| svid.clone()).filter(|svid| svid.not_after() > rt::wall());
        let request = CertificateRequest::new(&self.id, self.lifetime, key, current.clone())?;
        let issued = in_time(self.authority.sign(request.clone())).await?;
        let key = match &current {
            Some(current) if issued.same_key => Arc::clone(&current.key.key),
            _ => request.into_key(),
        };
        let IssuedCertificate { chain, trusted, .. } = issued;
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let own = Svid::paired(chain, key).map_err(|why| format!("what the authority signed is not used: {why}"))?;
        let now = rt::wall();
        let left = own.not_after().duration_since(now).map_err(|_| "what the authority signed has ended".to_owned())?;
        self.roots.name(trusted.into_iter().map(CertificateDer::from).collect(), now + left);
        self.publish(own.clone(), now)?;
        if *own.id() != self.id && self.current.as_ref().is_none_or(|(before, _)| before.id() != own.id()) {
            tracing::info!(asked = %self.id, given = %own.id(), "the authority gave another identity");
        }
        self.current = Some((own, left));
        Ok(())
    }

    /// Whom to trust now, without a new certificate.
    async fn trust(&mut self) -> Result<(), String> {
        let Some(own) = self.current.as_ref().map(|(svid, _)| svid.clone()) else { return Ok(()) };
        let now = rt::wall();
        if let Some(trusted) = in_time(self.authority.trusted()).await? {
            let life = self.current.as_ref().map(|(_, left)| *left).unwrap_or_default();
            self.roots.name(trusted.into_iter().map(CertificateDer::from).collect(), now + life);
        }
        self.publish(own, now)
    }

    fn publish(&mut self, own: Svid, now: SystemTime) -> Result<(), String> {
        let (bundle, bad) = Bundle::new(self.roots.trusted(now), false);
        for why in bad {
            tracing::warn!("of the authority: {why}");
        }
        let bundles = [(self.identity.domain().clone(), Arc::new(bundle))].into();
        let material = Material { own, bundles: Arc::new(bundles), revocations: Arc::default() };
        self.identity.publish(material).map_err(|error| error.message().to_owned())
    }

    fn left(&self) -> Duration {
        let ends = self.current.as_ref().map(|(svid, _)| svid.not_after());
        ends.and_then(|ends| ends.duration_since(rt::wall()).ok()).unwrap_or_default()
    }

    fn life(&self) -> Option<Life> {
        self.current.as_ref().map(|(_, whole)| Life { left: self.left(), whole: *whole })
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T, crate::error::BoxError>>) -> Result<T, String> {
    match rt::timeout(PATIENCE, asked).await {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(error)) => Err(format!("the authority: {error}")),
        None => Err(format!("the authority does not answer within {} s", PATIENCE.as_secs())),
    }
}
