//! Identity from a SPIFFE Workload API: an agent on this machine that knows who asks, and pushes what changed.
//!
//! Every message is the whole state: what is absent was taken back. A message that is wrong anywhere is dropped and the
//! stream goes on; what was published stays. A stream that ends is opened again, later each time, except where the agent
//! says that asking again is of no use. An agent that denies what it once gave is believed after ten seconds, since an
//! agent that restarts denies at first.
//!
//! Semantics: SPIFFE Workload API §4 to §6 and SPIFFE Workload Endpoint.

mod endpoint;
mod message;
mod state;

pub(crate) use self::{endpoint::Endpoint, state::JwtSvid};

use std::{sync::Arc, time::Duration};

use tonic::{Code, Request, metadata::MetadataValue};

use self::message::{
    JwtBundlesRequest, JwtBundlesResponse, JwtSvidRequest, JwtSvidResponse, X509SvidRequest, X509SvidResponse,
};
use self::state::JwtBundles;
use super::{
    Identity, Revocations,
    dial::Connect,
    grpc::{Client, Ended},
};
use crate::{
    name::TrustDomain,
    rt::{self, Instant, Rng},
};

/// How long an agent that gave an identity may deny it before it is believed.
const DENIED: Duration = Duration::from_secs(10);

/// A Workload API, asked on behalf of this process.
pub(crate) struct WorkloadApi {
    client: Client,
    identity: Identity,
    /// Which of several identities is ours; without it the first is.
    hint: Option<Arc<str>>,
    revocations: Arc<Revocations>,
}

impl WorkloadApi {
    pub(crate) fn new(connect: Connect, identity: Identity, hint: Option<Arc<str>>) -> Self {
        Self { client: Client::new(connect), identity, hint, revocations: Arc::default() }
    }

    /// Publishes what the agent pushes, for as long as it is polled or asking is of use.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut denied: Option<Instant> = None;
        loop {
            let client = self.client.clone();
            let mut got = false;
            let ended = client
                .follow("/SpiffeWorkloadAPI/FetchX509SVID", asked(X509SvidRequest {}), |message: X509SvidResponse| {
                    got = true;
                    self.take(message);
                })
                .await;
            if got {
                backoff = Backoff::default();
                denied = None;
            }
            self.identity.source_failed(&format!("the Workload API answers {ended}"));
            let now = rt::now();
            denied = (ended.code == Code::PermissionDenied).then(|| denied.unwrap_or(now));
            if ended.is_final() {
                return;
            }
            let mut wait = backoff.next();
            if let Some(since) = denied.filter(|_| self.identity.own().is_some()) {
                let believed = since + DENIED;
                if believed <= now {
                    self.identity.withdraw("the agent of the Workload API denies that this process has an identity");
                } else {
                    wait = wait.min(believed - now);
                }
            }
            rt::sleep(wait).await;
        }
    }

    fn take(&mut self, message: X509SvidResponse) {
        let provider = Arc::clone(self.identity.provider());
        let read = state::read(message, self.hint.as_deref(), &provider, &self.revocations);
        let published = read.and_then(|material| {
            self.revocations = Arc::clone(&material.revocations);
            self.identity.publish(material).map_err(|error| error.message().to_owned())
        });
        match published {
            Ok(()) => self.identity.source_works(),
            Err(why) => self.identity.source_failed(&format!("a message of the Workload API is not used: {why}")),
        }
    }
}

/// The keys by which JWT-SVIDs of a trust domain are verified: a JWK set, unread.
///
/// # Errors
/// What the agent answered, or that it does not know the trust domain.
pub(crate) async fn fetch_jwt_bundle(connect: Connect, domain: &TrustDomain) -> Result<Vec<u8>, String> {
    let answer: Result<JwtBundlesResponse, Ended> =
        Client::new(connect).first("/SpiffeWorkloadAPI/FetchJWTBundles", asked(JwtBundlesRequest {})).await;
    let answer = answer.map_err(|ended| format!("the Workload API answers {ended}"))?;
    let mut bundles = JwtBundles::read(answer)?;
    bundles.0.remove(domain).ok_or_else(|| format!("the Workload API has no keys of `{domain}`"))
}

/// JWT-SVIDs for these audiences, by which this process is known where mutual TLS does not reach.
///
/// # Errors
/// What the agent answered, or what is wrong with its answer.
pub(crate) async fn fetch_jwt(connect: Connect, audience: &[&str]) -> Result<Vec<JwtSvid>, String> {
    let request =
        JwtSvidRequest { audience: audience.iter().map(|text| (*text).to_owned()).collect(), spiffe_id: String::new() };
    let answer: Result<JwtSvidResponse, Ended> =
        Client::new(connect).call("/SpiffeWorkloadAPI/FetchJWTSVID", asked(request)).await;
    JwtSvid::read(answer.map_err(|ended| format!("the Workload API answers {ended}"))?)
}

fn asked<Q>(message: Q) -> Request<Q> {
    let mut request = Request::new(message);
    // Keeps a browser's request from counting as a workload's. (SPIFFE Workload Endpoint §5)
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// 1 s, 2 s, 4 s and so on up to 30 s, each ±20 %.
#[derive(Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let wait = Duration::from_secs(1 << self.failures.min(5)).min(Duration::from_secs(30));
        self.failures += 1;
        Rng::local().jitter(wait, 20)
    }
}
