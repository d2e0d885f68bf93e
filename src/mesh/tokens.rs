//! JWT-SVIDs of ours, for calls that mutual TLS does not carry to their end: behind a balancer, at an edge, at a service outside.
//!
//! One token per Workload API and audience, shared by all services that ask for it. Where half of what was left of it is over, a
//! new one is fetched beside the calls, which go on with the one there is; only calls that find none wait. Where none can be
//! had, a call fails before anything of it leaves, and whether one can be had is asked again after a second.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, Request, header::AUTHORIZATION};

use crate::{
    authn::object,
    body::Body,
    error::{Code, Error},
    instrument::{Counter, Registry},
    model::JwtSvidSpec,
    name::SpiffeId,
    rt::{self, Instant, TaskSet},
    seat::{Next, Seat, SeatFuture},
    transport,
};

/// What a Workload API may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a failure stands for the next one.
const FAILED: Duration = Duration::from_secs(1);
/// Until a failed renewal is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// All tokens of a mesh.
#[derive(Default)]
pub(super) struct Tokens {
    known: Mutex<BTreeMap<JwtSvidSpec, Arc<Token>>>,
}

impl Tokens {
    /// What puts the token into calls of a service.
    pub(super) fn seat(
        &self,
        spec: &JwtSvidSpec,
        own: impl Fn() -> Option<SpiffeId> + Send + Sync + 'static,
        tasks: &TaskSet,
        registry: &Registry,
    ) -> Arc<dyn Seat> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody asks for these any more.
        known.retain(|kept, token| kept == spec || Arc::strong_count(token) > 1);
        let token = known.entry(spec.clone()).or_insert_with(|| {
            let count = |result| {
                registry.counter("sinew_jwt_svid_fetches_total", &[("audience", &spec.audience), ("result", result)])
            };
            Arc::new(Token {
                spec: spec.clone(),
                own: Box::new(own),
                tasks: tasks.clone(),
                state: Mutex::default(),
                asking: tokio::sync::Mutex::default(),
                good: count("success"),
                bad: count("failure"),
            })
        });
        Arc::new(Carries(Arc::clone(token)))
    }
}

/// The token for one audience.
struct Token {
    spec: JwtSvidSpec,
    own: Box<dyn Fn() -> Option<SpiffeId> + Send + Sync>,
    tasks: TaskSet,
    state: Mutex<State>,
    /// Held by who asks the Workload API.
    asking: tokio::sync::Mutex<()>,
    good: Counter,
    bad: Counter,
}

#[derive(Default)]
struct State {
    kept: Option<Kept>,
    failed: Option<(Instant, String)>,
}

struct Kept {
    /// `Bearer` and the token, marked as a secret.
    value: HeaderValue,
    renew: Instant,
    ends: Instant,
}

impl Token {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is, and whether this caller is to renew it.
    fn at_hand(&self, now: Instant) -> Option<(HeaderValue, bool)> {
        let mut state = self.state();
        let kept = state.kept.as_mut().filter(|kept| now < kept.ends)?;
        let renew = now >= kept.renew;
        if renew {
            // Until that one is done, or has failed.
            kept.renew = now + AGAIN;
        }
        Some((kept.value.clone(), renew))
    }

    fn renew(self: &Arc<Self>) {
        let token = Arc::clone(self);
        self.tasks.spawn(async move {
            let _asking = token.asking.lock().await;
            // Said by `fetch`; there is still one to go on with.
            let _ = token.fetch().await;
        });
    }

    /// Waits for one, asking once however many wait.
    async fn obtain(&self) -> Result<HeaderValue, Error> {
        let _asking = self.asking.lock().await;
        let now = rt::now();
        if let Some((value, _)) = self.at_hand(now) {
            return Ok(value);
        }
        let recent = self.state().failed.as_ref().filter(|(at, _)| now < *at + FAILED).map(|(_, why)| why.clone());
        let fetched = match recent {
            Some(why) => Err(why),
            None => self.fetch().await,
        };
        fetched.map_err(|why| {
            let message = format!("there is no JWT-SVID for the audience `{}`: {why}", self.spec.audience);
            transport::unreachable(Code::ConfigNotReady, message)
        })
    }

    async fn fetch(&self) -> Result<HeaderValue, String> {
        let fetched = match rt::timeout(PATIENCE, self.ask()).await {
            Some(fetched) => fetched,
            None => Err(format!("the Workload API does not answer within {PATIENCE:?}")),
        };
        let mut state = self.state();
        match fetched {
            Ok(kept) => {
                self.good.inc();
                state.failed = None;
                Ok(state.kept.insert(kept).value.clone())
            }
            Err(why) => {
                self.bad.inc();
                tracing::warn!(audience = &*self.spec.audience, "no JWT-SVID could be fetched: {why}");
                state.failed = Some((rt::now(), why.clone()));
                Err(why)
            }
        }
    }

    async fn ask(&self) -> Result<Kept, String> {
        let svids = fetch(self.spec.workload_api.as_deref().unwrap_or_default(), &self.spec.audience).await?;
        // Ours by certificate if it is among them, else the agent's first.
        let own = (self.own)();
        let svid = svids.iter().find(|(id, _)| Some(id) == own.as_ref()).or(svids.first());
        let (id, token) = svid.ok_or("the Workload API gave none")?;
        let left = left(token, id, &self.spec.audience, rt::wall())?;
        let mut value =
            HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "the Workload API gave what is no token")?;
        value.set_sensitive(true);
        let now = rt::now();
        Ok(Kept { value, renew: now + left / 2, ends: now + left })
    }
}

/// The identities that the agent gives this process for an audience, and a token of each.
#[cfg(feature = "tonic")]
async fn fetch(address: &str, audience: &str) -> Result<Vec<(SpiffeId, String)>, String> {
    use crate::identity::workload_api::{Endpoint, fetch_jwt};
    let svids = fetch_jwt(Endpoint::parse(address)?.connect(), &[audience]).await?;
    Ok(svids.into_iter().map(|svid| (svid.id, svid.token)).collect())
}

#[cfg(not(feature = "tonic"))]
async fn fetch(_: &str, _: &str) -> Result<Vec<(SpiffeId, String)>, String> {
    Err("a Workload API needs the feature `tonic`".into())
}

/// How long a token has left. Its signature is for who gets it to verify; that it says what was asked is for us.
fn left(token: &str, id: &SpiffeId, audience: &str, now: SystemTime) -> Result<Duration, String> {
    const WRONG: &str = "the Workload API gave what is no JWT-SVID";
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(WRONG.into());
    };
    let claims = URL_SAFE_NO_PAD.decode(claims).ok().and_then(|text| object(&text)).ok_or(WRONG)?;
    let for_it = match claims.get("aud") {
        Some(serde_json::Value::String(one)) => one == audience,
        Some(serde_json::Value::Array(some)) => some.iter().any(|one| one == audience),
        _ => false,
    };
    if !for_it || claims.get("sub").and_then(|sub| sub.as_str()) != Some(id.as_str()) {
        return Err("the Workload API gave a token for somebody else".into());
    }
    let ends =
        claims.get("exp").and_then(serde_json::Value::as_f64).ok_or("the Workload API gave a token without an end")?;
    let ends = Duration::try_from_secs_f64(ends).map_err(|_| WRONG)?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match ends.saturating_sub(now) {
        Duration::ZERO => Err("the Workload API gave a token that has ended".into()),
        // What counts is that it is asked for again.
        left => Ok(left.min(Duration::from_secs(86_400))),
    }
}

/// Puts the token into each attempt, where the application has put nothing.
struct Carries(Arc<Token>);

impl Seat for Carries {
    fn call(&self, mut request: Request<Body>, next: Next) -> SeatFuture {
        if request.headers().contains_key(AUTHORIZATION) {
            return next.run(request);
        }
        if let Some((value, renew)) = self.0.at_hand(rt::now()) {
            if renew {
                self.0.renew();
            }
            request.headers_mut().insert(AUTHORIZATION, value);
            return next.run(request);
        }
        let token = Arc::clone(&self.0);
        Box::pin(async move {
            request.headers_mut().insert(AUTHORIZATION, token.obtain().await?);
            next.run(request).await
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("spec", &self.spec).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id() -> SpiffeId {
        SpiffeId::new("spiffe://a.example/web").unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_says_what_was_asked_and_how_long() {
        let of = |claims: serde_json::Value| {
            let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
            left(&token, &id(), "reviews", at(1_000))
        };
        let good = json!({"sub": "spiffe://a.example/web", "aud": ["x", "reviews"], "exp": 1_060});
        assert_eq!(of(good.clone()), Ok(Duration::from_secs(60)));
        for (name, value, why) in [
            ("aud", json!("reviews"), None),
            ("aud", json!("other"), Some("somebody else")),
            ("aud", json!([]), Some("somebody else")),
            ("sub", json!("spiffe://a.example/other"), Some("somebody else")),
            ("exp", json!(1_000), Some("has ended")),
            ("exp", json!(-1), Some("no JWT-SVID")),
            ("exp", json!(null), Some("without an end")),
        ] {
            let mut claims = good.clone();
            claims[name] = value;
            match why {
                None => assert!(of(claims).is_ok()),
                Some(why) => assert!(of(claims.clone()).unwrap_err().contains(why), "{claims}"),
            }
        }
        for token in ["", "a.b", "e30.e30.a.b", "e30.!.c2ln", "e30.bm90.c2ln"] {
            assert!(left(token, &id(), "reviews", at(0)).unwrap_err().contains("no JWT-SVID"), "{token}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_renews_at_half_of_its_life_and_nobody_gets_one_that_has_ended() {
        let registry = Registry::default();
        let token = Token {
            spec: JwtSvidSpec::new("reviews"),
            own: Box::new(|| None),
            tasks: TaskSet::new(),
            state: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            good: registry.counter("good", &[]),
            bad: registry.counter("bad", &[]),
        };
        let now = rt::now();
        let after = |seconds| token.at_hand(now + Duration::from_secs(seconds)).map(|(_, renew)| renew);
        assert_eq!(after(0), None);
        let life = Duration::from_secs(60);
        let value = HeaderValue::from_static("Bearer t");
        token.state().kept = Some(Kept { value, renew: now + life / 2, ends: now + life });
        assert_eq!(
            (after(29), after(30), after(31), after(34), after(35)),
            (Some(false), Some(true), Some(false), Some(false), Some(true))
        );
        assert_eq!((after(59), after(60)), (Some(true), None));
        assert!(!format!("{token:?}").contains("Bearer"));
    }
}
