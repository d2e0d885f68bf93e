//! A policy while it copies: how many are in flight, and what became of them.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri,
    header::{AUTHORIZATION, COOKIE, HOST, PROXY_AUTHORIZATION, UPGRADE},
};
use http_body::Body as HttpBody;

use super::{policy::MirrorPolicy, tee::tee};
use crate::{
    body::Body,
    enforcement::Mode,
    error::{Code, Error},
    instrument::{Counter, Registry},
    permit::{Limit, Permit},
    rt::{self, Rng},
};

/// So much of a copy's response is read, so that its connection can be used again; the rest is reset.
const DRAIN: usize = 64 * 1024;

/// A policy and its state, shared by every call of a route.
#[derive(Debug)]
pub(crate) struct MirrorHandle {
    pub(crate) policy: MirrorPolicy,
    in_flight: Arc<Limit>,
    series: Series,
}

impl MirrorHandle {
    pub(crate) fn new(policy: MirrorPolicy, series: Series) -> Arc<Self> {
        Arc::new(Self { in_flight: Limit::new(policy.max_concurrent), policy, series })
    }

    /// A copy of the request, if it is to be copied; a body that is yet to come is read by both from then on.
    pub(crate) fn copy(self: &Arc<Self>, request: &mut Request<Body>) -> Option<Copy> {
        let policy = &self.policy;
        // A connection of the caller's own has no second end.
        let upgrade = request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE);
        if policy.mode == Mode::Off || upgrade || !policy.percent.hit(&mut Rng::local()) {
            return None;
        }
        let limit = policy.max_body_bytes as usize;
        if request.body().size_hint().lower() > limit as u64 {
            self.series.count(Became::TooLarge);
            return None;
        }
        if policy.mode == Mode::Shadow {
            self.series.count(Became::Shadow);
            return None;
        }
        let Some(permit) = self.in_flight.try_acquire() else {
            self.series.count(Became::OverLimit);
            return None;
        };
        let body = match request.body().as_full() {
            Some(bytes) => Body::from(bytes),
            None => {
                let (original, copy) = tee(std::mem::take(request.body_mut()), limit);
                *request.body_mut() = original;
                copy
            }
        };
        let mut copy = Request::new(body);
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = suffixed(request.uri(), &policy.host_suffix);
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        if !policy.forward_credentials {
            for name in [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE] {
                copy.headers_mut().remove(name);
            }
        }
        suffix_host(copy.headers_mut(), &policy.host_suffix);
        Some(Copy { request: copy, handle: Arc::clone(self), permit })
    }
}

/// A request that goes its own way.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) request: Request<Body>,
    handle: Arc<MirrorHandle>,
    permit: Permit,
}

impl Copy {
    /// Sends the copy and reads what comes back, for nobody.
    pub(crate) async fn run<B, F>(self, timeout: Duration, send: impl FnOnce(Request<Body>) -> F)
    where
        F: Future<Output = Result<Response<B>, Error>>,
        B: HttpBody<Data = Bytes>,
    {
        let Copy { request, handle, permit: _permit } = self;
        let sent = send(request);
        let whole = async {
            match sent.await {
                Ok(response) => {
                    drain(response.into_body()).await;
                    Became::Answered
                }
                Err(error) if error.code() == Code::TooLarge => Became::TooLarge,
                Err(error) => {
                    tracing::debug!(code = %error.code(), "a mirrored request failed: {error}");
                    Became::Failed
                }
            }
        };
        let became = rt::timeout(timeout, whole).await.unwrap_or(Became::TimedOut);
        handle.series.count(became);
    }
}

async fn drain<B: HttpBody<Data = Bytes>>(body: B) {
    let mut body = pin!(body);
    let mut left = DRAIN;
    while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Some(data) = frame.data_ref() else { continue };
        match left.checked_sub(data.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// `reviews:9080` becomes `reviews-shadow:9080`. What has no name to append to stays.
fn suffixed_host(host: &str, suffix: &str) -> Option<String> {
    if suffix.is_empty() || host.ends_with(']') {
        return None;
    }
    match host.rsplit_once(':') {
        Some((name, _)) if name.ends_with(']') => None,
        Some((name, port)) => Some(format!("{name}{suffix}:{port}")),
        None => Some(format!("{host}{suffix}")),
    }
}

fn suffixed(uri: &Uri, suffix: &str) -> Uri {
    let with = || {
        let mut parts = uri.clone().into_parts();
        let authority = suffixed_host(parts.authority.as_ref()?.as_str(), suffix)?;
        parts.authority = Some(authority.parse().ok()?);
        Uri::from_parts(parts).ok()
    };
    with().unwrap_or_else(|| uri.clone())
}

fn suffix_host(headers: &mut HeaderMap, suffix: &str) {
    let host = headers.get(HOST).and_then(|host| suffixed_host(host.to_str().ok()?, suffix));
    if let Some(Ok(host)) = host.map(|host| HeaderValue::from_str(&host)) {
        headers.insert(HOST, host);
    }
}

/// What became of a request that was to be copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Became {
    Answered,
    Failed,
    TimedOut,
    TooLarge,
    OverLimit,
    Shadow,
}

const RESULTS: [&str; 6] = ["answered", "failed", "timeout", "too_large", "over_limit", "shadow"];

/// Counters of one route.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    of: Option<Arc<Labelled>>,
}

#[derive(Debug)]
struct Labelled {
    registry: Registry,
    service: Arc<str>,
    route: Arc<str>,
    counters: [OnceLock<Counter>; RESULTS.len()],
}

impl Series {
    pub(crate) fn new(registry: &Registry, service: &str, route: &str) -> Self {
        let labelled = Labelled {
            registry: registry.clone(),
            service: service.into(),
            route: route.into(),
            counters: Default::default(),
        };
        Self { of: Some(Arc::new(labelled)) }
    }

    fn count(&self, became: Became) {
        let Some(of) = &self.of else { return };
        let index = became as usize;
        let counter = of.counters[index].get_or_init(|| {
            let labels = [("service", &*of.service), ("route", &*of.route), ("result", RESULTS[index])];
            of.registry.counter("sinew_mirrored_total", &labels)
        });
        counter.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request<Body> {
        Request::post("http://reviews:9080/reviews/0?a=b")
            .header("authorization", "secret")
            .header("cookie", "session=1")
            .header("x-own", "1")
            .body(Body::from("body"))
            .unwrap()
    }

    #[test]
    fn a_copy_has_the_suffix_and_no_credentials_and_the_original_is_untouched() {
        let handle = MirrorHandle::new(MirrorPolicy::new(), Series::default());
        let mut original = request();
        let copy = handle.copy(&mut original).unwrap().request;
        assert_eq!(copy.uri(), "http://reviews-shadow:9080/reviews/0?a=b");
        assert_eq!(copy.headers().keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-own"]);
        assert_eq!((copy.method(), copy.body().as_full().unwrap()), (&Method::POST, Bytes::from("body")));
        assert_eq!(original.headers().len(), 3);
        let open = MirrorPolicy { forward_credentials: true, host_suffix: "".into(), ..MirrorPolicy::new() };
        let copy = MirrorHandle::new(open, Series::default()).copy(&mut original).unwrap().request;
        assert_eq!((copy.headers().len(), copy.uri()), (3, original.uri()));
    }

    #[test]
    fn hosts_get_their_suffix_before_the_port() {
        assert_eq!(suffixed_host("a", "-shadow").unwrap(), "a-shadow");
        assert_eq!(suffixed_host("a.b:80", "-shadow").unwrap(), "a.b-shadow:80");
        assert_eq!(suffixed_host("[::1]:80", "-shadow"), None);
        assert_eq!(suffixed_host("a", ""), None);
    }

    #[test]
    fn copies_in_flight_are_bounded_and_upgrades_are_not_copied() {
        let registry = Registry::default();
        let policy = MirrorPolicy { max_concurrent: 2, ..MirrorPolicy::new() };
        let handle = MirrorHandle::new(policy, Series::new(&registry, "reviews", "all"));
        let held = (handle.copy(&mut request()), handle.copy(&mut request()));
        assert!(held.0.is_some() && held.1.is_some() && handle.copy(&mut request()).is_none());
        let labels = [("service", "reviews"), ("route", "all"), ("result", "over_limit")];
        assert_eq!(registry.counter("sinew_mirrored_total", &labels).get(), 1);
        drop(held);
        let mut upgrade = request();
        upgrade.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        assert!(handle.copy(&mut upgrade).is_none());
        let mut long = request().map(|_| Body::from(vec![0; 64 * 1024 + 1]));
        assert!(handle.copy(&mut long).is_none() && handle.copy(&mut request()).is_some());
    }
}
