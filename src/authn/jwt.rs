//! Tokens in requests: where they stand, whose they are, whether they verify, and what becomes of them.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri,
    header::{AUTHORIZATION, COOKIE},
    uri::PathAndQuery,
};
use serde_json::Value;
use tokio::sync::watch;

use super::{
    claims::{self, By, Expected},
    jose::{self, Algorithm, Compact, HeaderRules, KeyOrigin, KeySet, Refused},
    keys::Refresh,
    policy::{JwtIssuer, JwtKeys, JwtLocation},
};
use crate::{
    caller::Token,
    name::SpiffeId,
    rt::{Instant, Rng},
};

/// An issuer and its keys.
pub(crate) struct Issuer {
    policy: JwtIssuer,
    keys: ArcSwapOption<KeySet>,
    /// `None` for keys that are not fetched.
    refresh: Option<Mutex<Refresh>>,
    /// Counts fetches that ended; those who wait for keys watch it, and whoever fetches watches for the time to.
    fetches: watch::Sender<u64>,
    wanted: watch::Sender<u64>,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Issuer").field(&self.policy.issuer).finish()
    }
}

impl Issuer {
    /// An issuer whose keys are fetched from `now` on.
    pub(crate) fn remote(policy: JwtIssuer, now: Instant) -> Self {
        let cache = match &policy.keys {
            JwtKeys::Remote { cache_duration, .. } => *cache_duration,
            // A file is read again about as soon as somebody who changed it looks.
            _ => Duration::from_secs(10),
        };
        Self::new(policy, None, Some(Mutex::new(Refresh::new(cache, now))))
    }

    /// An issuer whose keys are given.
    pub(crate) fn local(policy: JwtIssuer, keys: KeySet) -> Self {
        Self::new(policy, Some(keys), None)
    }

    fn new(policy: JwtIssuer, keys: Option<KeySet>, refresh: Option<Mutex<Refresh>>) -> Self {
        let (fetches, wanted) = (watch::Sender::new(0), watch::Sender::new(0));
        Self { policy, keys: ArcSwapOption::from(keys.map(Arc::new)), refresh, fetches, wanted }
    }

    pub(crate) fn policy(&self) -> &JwtIssuer {
        &self.policy
    }

    fn with<T>(&self, act: impl FnOnce(&mut Refresh) -> T) -> Option<T> {
        self.refresh.as_ref().map(|refresh| act(&mut refresh.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// How long to wait for keys.
    pub(crate) fn timeout(&self) -> Duration {
        match &self.policy.keys {
            JwtKeys::Remote { timeout, .. } => *timeout,
            _ => Duration::from_secs(5),
        }
    }

    /// When to fetch next; `None` if never.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.with(|refresh| refresh.due())
    }

    /// Ends a fetch.
    ///
    /// # Errors
    /// Why what came is no key set; the last good one stays.
    pub(crate) fn fetched(&self, body: Result<&[u8], ()>, now: Instant, rng: &mut Rng) -> Result<(), Refused> {
        let keys = body.map_err(|()| Refused::new("keys", "the fetch failed"));
        let origin = if self.policy.trust_domain.is_some() { KeyOrigin::Bundle } else { KeyOrigin::Remote };
        let keys = keys.and_then(|body| KeySet::read(body, origin));
        let result = match keys {
            Ok(keys) => {
                self.keys.store(Some(Arc::new(keys)));
                self.with(|refresh| refresh.succeeded(now, rng));
                Ok(())
            }
            Err(refused) => {
                self.with(|refresh| refresh.failed(now, rng));
                Err(refused)
            }
        };
        self.fetches.send_modify(|count| *count += 1);
        result
    }

    /// Tells whoever fetches that it may be time to.
    pub(crate) fn wanted(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }

    /// Tells whoever waits that a fetch ended.
    pub(crate) fn fetches(&self) -> watch::Receiver<u64> {
        self.fetches.subscribe()
    }

    fn usable(&self, now: Instant) -> Option<Arc<KeySet>> {
        let keys = self.keys.load_full()?;
        self.with(|refresh| refresh.usable(now)).unwrap_or(true).then_some(keys)
    }

    /// Whether it is worth waiting for the keys, and sees to it that somebody fetches them.
    fn worth_waiting(&self, now: Instant) -> bool {
        let (first, forced) = self.with(|refresh| (refresh.is_first(), refresh.force(now))).unwrap_or_default();
        if forced {
            self.wanted.send_modify(|count| *count += 1);
        }
        first || forced
    }

    fn accepts(&self, algorithm: Algorithm) -> bool {
        match self.policy.trust_domain {
            Some(_) => algorithm.is_for_svids(),
            None => algorithm != Algorithm::EdDsa || self.policy.allow_eddsa,
        }
    }

    fn locations(&self) -> Cow<'_, [JwtLocation]> {
        if !self.policy.locations.is_empty() {
            return Cow::Borrowed(&self.policy.locations);
        }
        let header = JwtLocation::Header { name: AUTHORIZATION, prefix: "Bearer ".into() };
        Cow::Owned(vec![header, JwtLocation::Param("access_token".into())])
    }
}

/// All issuers of one listener.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    issuers: Box<[Arc<Issuer>]>,
    /// Each place where a token may stand, and whose.
    locations: Box<[(JwtLocation, Box<[usize]>)]>,
    /// Headers that only we set.
    outputs: Box<[HeaderName]>,
}

/// What was found in a request.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// No token.
    None,
    /// A good one.
    Token(Found),
    /// A token that needs keys which are being fetched. Ask again after a fetch has ended.
    Wait(Arc<Issuer>),
}

/// A verified token, and where it stood.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) token: Arc<Token>,
    issuer: usize,
    location: usize,
    payload: Vec<u8>,
}

impl Tokens {
    pub(crate) fn new(issuers: Vec<Arc<Issuer>>) -> Self {
        let mut locations: Vec<(JwtLocation, Vec<usize>)> = Vec::new();
        for (number, issuer) in issuers.iter().enumerate() {
            for location in issuer.locations().iter() {
                match locations.iter_mut().find(|(other, _)| other == location) {
                    Some((_, numbers)) => numbers.push(number),
                    None => locations.push((location.clone(), vec![number])),
                }
            }
        }
        let outputs = issuers.iter().flat_map(|issuer| {
            let policy = &issuer.policy;
            policy
                .output_claim_to_headers
                .iter()
                .map(|(name, _)| name.clone())
                .chain(policy.output_payload_to_header.clone())
        });
        let outputs = outputs.collect();
        let locations = locations.into_iter().map(|(location, numbers)| (location, numbers.into())).collect();
        Self { issuers: issuers.into(), locations, outputs }
    }

    /// Takes headers out that only we may set.
    pub(crate) fn sanitize(&self, headers: &mut HeaderMap) {
        for name in &*self.outputs {
            headers.remove(name);
        }
    }

    /// Finds and verifies the token of a request. `unix` is the time in seconds since 1970.
    ///
    /// # Errors
    /// If there are several, or one that does not verify.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap, now: Instant, unix: u64) -> Result<Verdict, Refused> {
        let mut found: Option<(usize, Cow<'_, str>)> = None;
        for (number, (location, _)) in self.locations.iter().enumerate() {
            for token in tokens(location, uri, headers) {
                if found.replace((number, token)).is_some() {
                    return Err(Refused::new("several", "the request has several tokens"));
                }
            }
        }
        let Some((location, token)) = found else { return Ok(Verdict::None) };
        self.verify(location, &token, now, unix)
    }

    fn verify(&self, location: usize, token: &str, now: Instant, unix: u64) -> Result<Verdict, Refused> {
        let compact = Compact::parse(token, HeaderRules::Jwt)?;
        let claimed = compact.unverified_claims()?;
        let text = |name: &str| claimed.get(name).and_then(Value::as_str);
        let (claimed, subject) = (text("iss"), text("sub").and_then(|sub| SpiffeId::new(sub).ok()));
        let candidates = &self.locations[location].1;
        let matches = |number: &&usize| {
            let policy = &self.issuers[**number].policy;
            match &policy.trust_domain {
                Some(domain) => subject.as_ref().is_some_and(|id| id.is_member_of(domain)),
                None => claimed == Some(&*policy.issuer),
            }
        };
        let Some(number) = candidates.iter().find(matches).copied() else {
            return Err(Refused::new("issuer", "the issuer is not configured"));
        };
        let issuer = &self.issuers[number];
        if issuer.policy.trust_domain.is_some() {
            Compact::parse(token, HeaderRules::Svid)?;
        }
        if !issuer.accepts(compact.algorithm()) {
            return Err(Refused::new("algorithm", "this issuer has no leave for it"));
        }
        let wait =
            |refused| if issuer.worth_waiting(now) { Ok(Verdict::Wait(Arc::clone(issuer))) } else { Err(refused) };
        let Some(keys) = issuer.usable(now) else {
            return wait(Refused::new("no_keys", "the keys of the issuer are not known"));
        };
        let payload = match compact.verify(&keys) {
            Ok(payload) => payload,
            Err(refused) if refused.reason == "unknown_key" && compact.key_id().is_some_and(|id| !keys.knows(id)) => {
                return wait(refused);
            }
            Err(refused) => return Err(refused),
        };
        let claims = jose::object(&payload).ok_or(Refused::new("malformed", "the payload is no JSON object"))?;
        let expected = Expected {
            by: issuer.policy.trust_domain.as_ref().map_or(By::Issuer(&issuer.policy.issuer), By::Domain),
            audiences: &issuer.policy.audiences,
            skew: issuer.policy.clock_skew,
            allow_missing_exp: issuer.policy.allow_missing_exp,
        };
        claims::check(&claims, &expected, unix)?;
        let token = Arc::new(Token::new(
            Arc::clone(&issuer.policy.issuer),
            claims,
            Arc::clone(&issuer.policy.space_delimited_claims),
        ));
        Ok(Verdict::Token(Found { token, issuer: number, location, payload }))
    }

    /// Hands on what the issuer's policy says, in place of the token.
    pub(crate) fn apply<B>(&self, found: &Found, request: &mut Request<B>) {
        let policy = &self.issuers[found.issuer].policy;
        if !policy.forward_original_token {
            remove(&self.locations[found.location].0, request);
        }
        let headers = request.headers_mut();
        if let Some(name) = &policy.output_payload_to_header
            && let Ok(value) = HeaderValue::from_str(&jose::encode(&found.payload))
        {
            headers.insert(name, value);
        }
        for (name, claim) in &policy.output_claim_to_headers {
            let text = match found.token.nested(&claim.split('.').collect::<Vec<_>>()) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                Some(Value::Bool(value)) => value.to_string(),
                _ => continue,
            };
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
    }
}

/// The tokens at one place.
fn tokens<'r>(
    location: &'r JwtLocation,
    uri: &'r Uri,
    headers: &'r HeaderMap,
) -> Box<dyn Iterator<Item = Cow<'r, str>> + 'r> {
    // What is no text is no token, and refused as one.
    fn text(value: &HeaderValue) -> &str {
        value.to_str().unwrap_or("\u{fffd}")
    }
    match location {
        JwtLocation::Header { name, prefix } => {
            let values = headers.get_all(name).iter();
            Box::new(
                values.filter_map(move |value| after(text(value), prefix)).map(|token| Cow::Borrowed(token.trim())),
            )
        }
        JwtLocation::Param(name) => Box::new(
            pairs(uri)
                .filter(move |(key, _)| **key == **name)
                .map(|(_, value)| percent_encoding::percent_decode_str(value).decode_utf8_lossy()),
        ),
        JwtLocation::Cookie(name) => {
            let cookies = headers.get_all(COOKIE).iter().flat_map(|value| text(value).split(';'));
            Box::new(cookies.filter_map(move |cookie| {
                let (key, value) = cookie.trim().split_once('=')?;
                (key == &**name).then_some(Cow::Borrowed(value))
            }))
        }
    }
}

/// What stands behind a prefix, whose case does not matter: RFC 9110 §11.1.
fn after<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let start = text.get(..prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

fn pairs(uri: &Uri) -> impl Iterator<Item = (&str, &str)> {
    uri.query().unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Takes a token out. A cookie stays: it belongs to the browser's session, and the application may know it by that.
fn remove<B>(location: &JwtLocation, request: &mut Request<B>) {
    match location {
        JwtLocation::Header { name, .. } => {
            request.headers_mut().remove(name);
        }
        JwtLocation::Cookie(_) => {}
        JwtLocation::Param(name) => {
            let uri = request.uri();
            let kept: Vec<String> = pairs(uri)
                .filter(|(key, _)| *key != &**name)
                .map(|(key, value)| if value.is_empty() { key.to_owned() } else { format!("{key}={value}") })
                .collect();
            let path =
                if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), kept.join("&")) };
            let mut parts = uri.clone().into_parts();
            if let Ok(path) = PathAndQuery::try_from(path) {
                parts.path_and_query = Some(path);
                if let Ok(uri) = Uri::from_parts(parts) {
                    *request.uri_mut() = uri;
                }
            }
        }
    }
}
