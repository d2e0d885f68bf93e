//! The issuers of tokens while they run: their keys are fetched in time, and outlive changes of everything else.

use std::sync::{Arc, PoisonError};

use http::Uri;
use serde_json::Value;

use super::control::Inner;
use crate::{
    authn::{Authn, Fetch, FetchRequest, Issuer, JwtIssuer, JwtKeys, KeySet, MAX_SET, object},
    instrument::Registry,
    model::Snapshot,
    rt::{self, Rng, TaskSet},
    server::Callers,
};

/// An issuer, and the task that fetches its keys.
pub(super) struct RunningIssuer {
    issuer: Arc<Issuer>,
    tasks: Option<TaskSet>,
}

impl Drop for RunningIssuer {
    fn drop(&mut self) {
        if let Some(tasks) = &self.tasks {
            tasks.cancel();
        }
    }
}

impl Inner {
    /// What is asked of callers from now on. An issuer whose policy did not change keeps its keys.
    pub(super) fn callers(&self, next: &Snapshot) -> Option<Callers> {
        let policy = &next.inbound.authn;
        let mut running = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *running);
        for policy in &policy.jwt {
            let kept = before.iter().position(|running| running.issuer.policy() == policy);
            running.push(match kept {
                Some(at) => before.swap_remove(at),
                None => RunningIssuer { issuer: Arc::new(issuer(policy)), tasks: None },
            });
        }
        let issuers: Vec<_> = running.iter().map(|running| Arc::clone(&running.issuer)).collect();
        let own = self.security.identity().and_then(|identity| identity.own());
        let own = own.map(|own| own.id().as_str().into());
        let asks = *policy != Authn::default();
        if self.has_started() {
            self.follow_issuers(&mut running);
        }
        asks.then(|| Callers::new(policy, issuers, own, &self.registry))
    }

    /// Begins to fetch keys.
    pub(super) fn start_issuers(&self) {
        let mut running = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        self.follow_issuers(&mut running);
    }

    fn follow_issuers(&self, running: &mut [RunningIssuer]) {
        for running in running.iter_mut().filter(|running| running.tasks.is_none() && running.issuer.due().is_some()) {
            let tasks = self.tasks.child();
            tasks.spawn(follow(Arc::clone(&running.issuer), Arc::clone(&self.fetch), self.registry.clone()));
            running.tasks = Some(tasks);
        }
    }
}

fn issuer(policy: &JwtIssuer) -> Issuer {
    match &policy.keys {
        JwtKeys::Inline(text) => match KeySet::read(text.as_bytes(), policy.key_origin()) {
            Ok(keys) => Issuer::local(policy.clone(), keys),
            Err(refused) => {
                tracing::error!(issuer = &*policy.issuer, "its tokens are refused: {refused}");
                Issuer::remote(policy.clone(), rt::now())
            }
        },
        _ => Issuer::remote(policy.clone(), rt::now()),
    }
}

/// Fetches the keys of an issuer whenever it is time to.
async fn follow(issuer: Arc<Issuer>, fetch: Arc<dyn Fetch>, registry: Registry) {
    let name = Arc::clone(&issuer.policy().issuer);
    let count = |result| registry.counter("sinew_jwks_fetches_total", &[("issuer", &name), ("result", result)]);
    let (good, bad) = (count("success"), count("failure"));
    let mut wanted = issuer.wanted();
    let mut failing = false;
    while let Some(due) = issuer.due() {
        if due > rt::now() {
            tokio::select! {
                () = rt::sleep_until(due) => {}
                _ = wanted.changed() => {}
            }
            continue;
        }
        let body = keys(issuer.policy(), &*fetch).await;
        let text = body.as_ref().map(|body| &body[..]).map_err(|_| ());
        let result = issuer.fetched(text, rt::now(), &mut Rng::local());
        match (body, result) {
            (Ok(_), Ok(())) => {
                good.inc();
                if std::mem::take(&mut failing) {
                    tracing::info!(issuer = &*name, "its keys are there again");
                }
            }
            (body, result) => {
                bad.inc();
                failing = true;
                let why = body.err().or(result.err().map(|refused| refused.to_string())).unwrap_or_default();
                tracing::warn!(issuer = &*name, "its keys cannot be fetched, those there are serve on: {why}");
            }
        }
    }
}

async fn keys(policy: &JwtIssuer, fetch: &dyn Fetch) -> Result<bytes::Bytes, String> {
    let (uri, timeout, networks) = match &policy.keys {
        JwtKeys::Inline(_) => return Err("its keys are in the configuration and cannot be used".into()),
        JwtKeys::File(path) => {
            let read = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
            return read.map(bytes::Bytes::from);
        }
        JwtKeys::WorkloadApi(address) => return bundle(address, policy).await,
        JwtKeys::Remote { uri, timeout, networks, .. } => (uri, *timeout, networks),
    };
    let request = |uri: &str| {
        let uri: Uri = uri.parse().map_err(|_| format!("`{uri}` is not a URI"))?;
        Ok::<_, String>(FetchRequest { uri, limit: MAX_SET, timeout, networks: networks.clone() })
    };
    match uri {
        Some(uri) => fetch.fetch(request(uri)?).await,
        None => {
            let found = fetch.fetch(request(&discovery(&policy.issuer))?).await?;
            fetch.fetch(request(&jwks_uri(&found, &policy.issuer)?)?).await
        }
    }
}

/// The keys of a trust domain, from who knows its bundle.
#[cfg(feature = "tonic")]
async fn bundle(address: &str, policy: &JwtIssuer) -> Result<bytes::Bytes, String> {
    use crate::identity::workload_api::{Endpoint, fetch_jwt_bundle};
    let domain = policy.trust_domain.as_ref().ok_or("a Workload API knows trust domains only")?;
    let endpoint = Endpoint::parse(address).map_err(|why| format!("`{address}`: {why}"))?;
    let fetched = rt::timeout(WORKLOAD, fetch_jwt_bundle(endpoint.connect(), domain)).await;
    fetched
        .unwrap_or_else(|| Err(format!("the Workload API does not answer within {WORKLOAD:?}")))
        .map(bytes::Bytes::from)
}

#[cfg(not(feature = "tonic"))]
async fn bundle(_: &str, _: &JwtIssuer) -> Result<bytes::Bytes, String> {
    Err("a Workload API needs the feature `tonic`".into())
}

/// What a Workload API may take.
#[cfg(feature = "tonic")]
const WORKLOAD: std::time::Duration = std::time::Duration::from_secs(5);

/// OpenID Connect Discovery §4.
fn discovery(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
}

/// Where the keys are, if the document is the issuer's own.
fn jwks_uri(document: &[u8], issuer: &str) -> Result<String, String> {
    let document = object(document).ok_or("what discovery found is no JSON object")?;
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    // §4.3: or somebody else's keys would verify this issuer's tokens.
    if text("issuer") != Some(issuer) {
        return Err(format!("what discovery found is of another issuer: {:?}", text("issuer")));
    }
    match text("jwks_uri") {
        Some(uri) if uri.starts_with("https://") => Ok(uri.to_owned()),
        _ => Err("what discovery found names no `jwks_uri` by https".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_believes_the_issuers_own_document_only() {
        assert_eq!(discovery("https://i.example/a/"), "https://i.example/a/.well-known/openid-configuration");
        let found = |text: &str| jwks_uri(text.as_bytes(), "https://i.example");
        assert_eq!(
            found(r#"{"issuer":"https://i.example","jwks_uri":"https://i.example/k"}"#).unwrap(),
            "https://i.example/k"
        );
        for bad in [
            r#"{"issuer":"https://i.example/","jwks_uri":"https://i.example/k"}"#,
            r#"{"issuer":"https://evil.example","jwks_uri":"https://evil.example/k"}"#,
            r#"{"jwks_uri":"https://i.example/k"}"#,
            r#"{"issuer":"https://i.example"}"#,
            r#"{"issuer":"https://i.example","jwks_uri":"http://i.example/k"}"#,
            r#"{"issuer":"https://i.example","issuer":"https://i.example","jwks_uri":"https://i.example/k"}"#,
            "<html>",
        ] {
            assert!(found(bad).is_err(), "{bad}");
        }
    }
}
