//! A policy with what was taken under it.

use std::{
    hash::Hasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, Response};

use super::{
    bucket::{Rate, TokenBucket},
    global::{Answer, CountLimits, Counter, Fleet, Global, Question},
    keyed::{Key, Keyed},
    policy::{Allowance, Descriptor, KeySource, QuotaPolicy, RateLimitPolicy, ShareWith},
    series::Series,
    standing::{RateLimitHeaders, Standing},
    subject::Subject,
    window::Window,
};
use crate::{
    enforcement::Mode,
    error::{Code, Error},
    rt::{Epoch, Instant, Rng},
};

/// A rate limit, shared by everything that it counts together.
#[derive(Debug)]
pub struct RateLimiter {
    policy: RateLimitPolicy,
    default: Option<Arc<Meters>>,
    /// In the order of the policy's.
    descriptors: Vec<Arc<Meters>>,
    global: Option<Global>,
    share: Option<Share>,
    series: Series,
}

/// Among how many a limit is divided.
#[derive(Debug)]
struct Share {
    members: Arc<AtomicU32>,
    applied: AtomicU32,
    /// Another limiter divides now.
    retired: AtomicBool,
}

/// What is told about a request that was let in.
#[derive(Debug)]
pub(super) struct Told {
    style: RateLimitHeaders,
    standing: Option<Standing>,
    headers: HeaderMap,
}

impl Told {
    #[cold]
    pub(super) fn tell<B>(&self, mut response: Response<B>) -> Response<B> {
        self.write(response.headers_mut());
        response
    }

    pub(super) fn write(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        if let Some(standing) = &self.standing {
            self.style.write(headers, standing);
        }
    }
}

impl RateLimiter {
    /// A limiter of which nothing was taken yet.
    ///
    /// # Errors
    /// E055 if the policy limits nothing, a value is out of its bounds, or a service counts that is not given: see
    /// [`asking`](Self::asking).
    pub fn new(policy: RateLimitPolicy) -> Result<Arc<Self>, Error> {
        if policy.global.is_some() {
            let message = "rate_limit.global: who counts is not given; use `asking`";
            return Err(Error::new(Code::BadRequest, message));
        }
        Self::checked(policy, None)
    }

    /// A limiter whose policy's [`global`](RateLimitPolicy::global) part is counted by `counts`, by whatever name the
    /// policy calls it.
    ///
    /// # Errors
    /// E055 if the policy limits nothing, or a value is out of its bounds.
    pub fn asking(policy: RateLimitPolicy, counts: impl CountLimits) -> Result<Arc<Self>, Error> {
        let counts: Arc<dyn CountLimits> = Arc::new(counts);
        let counter = policy.global.as_ref().map(|global| Counter::new(global.service.as_str(), counts, None));
        Self::checked(policy, counter)
    }

    fn checked(policy: RateLimitPolicy, counter: Option<Arc<Counter>>) -> Result<Arc<Self>, Error> {
        match policy.check() {
            Ok(()) => Ok(Self::build(policy, None, Series::default(), crate::rt::now(), counter, None)),
            Err((path, reason)) => Err(Error::new(Code::BadRequest, format!("rate_limit.{path}: {reason}"))),
        }
    }

    /// A limiter in place of another: what was taken is taken. A limit whose keys are others begins anew.
    pub(crate) fn make(
        policy: RateLimitPolicy,
        before: Option<&Self>,
        series: Series,
        fleet: &Fleet,
        now: Instant,
    ) -> Arc<Self> {
        let counter = policy.global.as_ref().map(|global| fleet.counter(&global.service));
        let share = (policy.share_with == ShareWith::LocalCluster).then(|| Arc::clone(fleet.members()));
        Self::build(policy, before, series, now, counter, share)
    }

    fn build(
        policy: RateLimitPolicy,
        before: Option<&Self>,
        series: Series,
        now: Instant,
        counter: Option<Arc<Counter>>,
        members: Option<Arc<AtomicU32>>,
    ) -> Arc<Self> {
        let keys = policy.max_dynamic_keys;
        if let Some(share) = before.and_then(|before| before.share.as_ref()) {
            share.retired.store(true, Relaxed);
        }
        let share = members.map(|members| {
            let applied = AtomicU32::new(members.load(Relaxed));
            Share { members, applied, retired: AtomicBool::new(false) }
        });
        let count = share.as_ref().map_or(1, |share| share.applied.load(Relaxed));
        let meters = |allowance: &Allowance, keyed: bool, before: Option<&Arc<Meters>>| match before {
            Some(before) if before.take_over(allowance, keyed, keys, count, now) => Arc::clone(before),
            _ => Arc::new(Meters::new(allowance, keyed, keys, count, now)),
        };
        let default = (!policy.allowance.is_empty()).then(|| {
            let before = before.filter(|before| before.policy.key == policy.key);
            meters(&policy.allowance, !policy.key.is_empty(), before.and_then(|before| before.default.as_ref()))
        });
        let descriptors = policy
            .descriptors
            .iter()
            .map(|descriptor| {
                let same = before.and_then(|before| {
                    let mut all = before.policy.descriptors.iter().zip(&before.descriptors);
                    all.find(|(old, _)| old.entries == descriptor.entries).map(|(_, meters)| meters)
                });
                meters(&descriptor.allowance, is_dynamic(descriptor), same)
            })
            .collect();
        let global = policy.global.as_ref().zip(counter).map(|(global, counter)| {
            let before = before.and_then(|before| before.global.as_ref());
            Global::new(global, counter, keys, count, before, series.fails.clone(), now)
        });
        Arc::new(Self { policy, default, descriptors, global, share, series })
    }

    pub(crate) fn policy(&self) -> &RateLimitPolicy {
        &self.policy
    }

    /// Counts a request here. What its caller may be told, if the policy says that callers are told.
    ///
    /// # Errors
    /// E040 with the time to come back, if it is over the limit.
    pub(super) fn check(&self, subject: &Subject<'_>, now: Instant) -> Result<Option<Standing>, Error> {
        if self.policy.mode == Mode::Off {
            return Ok(None);
        }
        if let Some(share) = &self.share {
            let members = share.members.load(Relaxed);
            if share.applied.load(Relaxed) != members {
                self.divide(share, members, now);
            }
        }
        let descriptor = self.policy.descriptors.iter().position(|descriptor| matches(descriptor, subject));
        let of = Consulted {
            descriptor: descriptor.map(|index| {
                let wildcards = self.policy.descriptors[index].entries.iter().filter(|entry| entry.value.is_none());
                Taker::new(&self.descriptors[index], subject, wildcards.map(|entry| &entry.source))
            }),
            default: match &self.default {
                Some(default) if descriptor.is_none() || self.policy.always_consume_default_token_bucket => {
                    Some(Taker::new(default, subject, self.policy.key.iter()))
                }
                _ => None,
            },
        };
        let taken = of.take(now);
        let standing = (self.policy.headers != RateLimitHeaders::Off).then(|| of.standing(now)).flatten();
        match taken {
            // Else it is counted once it is known what is said elsewhere.
            Ok(()) if self.global.is_none() => self.series.ok(),
            Err(after) if self.acts() => return Err(self.refusal(after, standing)),
            _ => {}
        }
        Ok(standing)
    }

    /// Divides anew; what was taken is taken.
    #[cold]
    fn divide(&self, share: &Share, members: u32, now: Instant) {
        share.applied.store(members, Relaxed);
        if share.retired.load(Relaxed) {
            return;
        }
        let keys = self.policy.max_dynamic_keys;
        if let Some(default) = &self.default {
            default.take_over(&self.policy.allowance, !self.policy.key.is_empty(), keys, members, now);
        }
        for (descriptor, meters) in self.policy.descriptors.iter().zip(&self.descriptors) {
            meters.take_over(&descriptor.allowance, is_dynamic(descriptor), keys, members, now);
        }
        if let Some(global) = &self.global {
            global.divide(keys, members, now);
        }
    }

    /// Whether a request that is over a limit is refused.
    fn acts(&self) -> bool {
        let acts = self.policy.mode == Mode::Enforce && self.policy.percentage.hit(&mut Rng::local());
        if acts {
            self.series.limited()
        } else {
            self.series.shadow()
        }
        acts
    }

    pub(super) fn told(&self, standing: Standing) -> Told {
        Told { style: self.policy.headers, standing: Some(standing), headers: HeaderMap::new() }
    }

    /// What is to be asked elsewhere about a request that was let in here.
    #[inline]
    pub(super) fn question(&self, subject: &Subject<'_>) -> Option<Question> {
        let global = self.global.as_ref().filter(|_| self.policy.mode != Mode::Off)?;
        let question = global.question(subject);
        if question.is_none() {
            self.series.ok();
        }
        question
    }

    /// Asks. What is told to the caller, and the headers with which the request goes on.
    ///
    /// # Errors
    /// E040 if it is over a limit, E041 if nobody answers and nothing passes without.
    pub(super) async fn ask(&self, question: Question, standing: Option<Standing>) -> Result<(Told, HeaderMap), Error> {
        let Some(global) = &self.global else {
            return Ok((self.telling(Answer::default(), standing).0, HeaderMap::new()));
        };
        match global.ask(question).await {
            Ok(answer) => {
                self.series.ok();
                Ok(self.telling(answer, standing))
            }
            Err((error, answer)) => {
                let (told, request) = self.telling(answer, standing);
                if self.acts() { Err(error.with_headers(|headers| told.write(headers))) } else { Ok((told, request)) }
            }
        }
    }

    fn telling(&self, answer: Answer, standing: Option<Standing>) -> (Told, HeaderMap) {
        let (headers, request, counted) = answer.into_parts();
        let standing = match (standing, counted) {
            (Some(here), Some(there)) => Some(here.nearer(there)),
            (here, there) => here.or(there),
        };
        (Told { style: self.policy.headers, standing, headers }, request)
    }

    #[cold]
    fn refusal(&self, after: Duration, standing: Option<Standing>) -> Error {
        let message = format!(
            "{} is used up, one more is let in after {after:.3?}; call less often, or raise `rate_limit`",
            self.series.what()
        );
        let error = Error::new(Code::RateLimited, message).with_retry_after(after);
        match standing {
            Some(standing) => error.with_headers(|headers| self.policy.headers.write(headers, &standing)),
            None => error,
        }
    }
}

/// Whether each value of its wildcards has a limit of its own.
fn is_dynamic(descriptor: &Descriptor) -> bool {
    descriptor.entries.iter().any(|entry| entry.value.is_none())
}

fn matches(descriptor: &Descriptor, subject: &Subject<'_>) -> bool {
    descriptor.entries.iter().all(|entry| {
        subject.value(&entry.source).is_some_and(|found| entry.value.as_ref().is_none_or(|wanted| found.is(wanted)))
    })
}

/// The limits that one request has to pass.
struct Consulted<'a> {
    descriptor: Option<Taker<'a>>,
    default: Option<Taker<'a>>,
}

impl Consulted<'_> {
    /// Takes from both or from none.
    fn take(&self, now: Instant) -> Result<(), Duration> {
        if let Some(descriptor) = &self.descriptor {
            descriptor.take(now)?;
        }
        if let Some(default) = &self.default
            && let Err(after) = default.take(now)
        {
            if let Some(descriptor) = &self.descriptor {
                descriptor.give_back(now);
            }
            return Err(after);
        }
        Ok(())
    }

    fn standing(&self, now: Instant) -> Option<Standing> {
        let of = |taker: &Option<Taker<'_>>| taker.as_ref()?.standing(now);
        match (of(&self.descriptor), of(&self.default)) {
            (Some(a), Some(b)) => Some(a.nearer(b)),
            (a, b) => a.or(b),
        }
    }
}

/// The limit of one key.
struct Taker<'a> {
    meters: &'a Meters,
    key: Key,
}

impl<'a> Taker<'a> {
    fn new<'s>(meters: &'a Meters, subject: &Subject<'_>, sources: impl Iterator<Item = &'s KeySource>) -> Self {
        let key = match meters {
            Meters::Shared(_) => 0,
            Meters::Keyed(keyed) => {
                let mut hasher = keyed.hasher();
                for source in sources {
                    match subject.value(source) {
                        // The end of each value is marked, so that parts cannot be moved from one to the next.
                        Some(value) => value.feed(&mut hasher),
                        None => hasher.write_u8(0xfe),
                    }
                    hasher.write_u8(0xff);
                }
                hasher.key()
            }
        };
        Self { meters, key }
    }

    fn take(&self, now: Instant) -> Result<(), Duration> {
        match self.meters {
            Meters::Shared(shared) => shared.take(now),
            Meters::Keyed(keyed) => keyed.take(self.key, now),
        }
    }

    fn give_back(&self, now: Instant) {
        match self.meters {
            Meters::Shared(shared) => shared.give_back(),
            Meters::Keyed(keyed) => keyed.give_back(self.key, now),
        }
    }

    fn standing(&self, now: Instant) -> Option<Standing> {
        match self.meters {
            Meters::Shared(shared) => shared.standing(now),
            Meters::Keyed(keyed) => keyed.standing(self.key, now),
        }
    }
}

/// What was taken of one allowance.
#[derive(Debug)]
enum Meters {
    Shared(Shared),
    Keyed(Keyed),
}

impl Meters {
    fn new(allowance: &Allowance, keyed: bool, max_keys: u32, members: u32, now: Instant) -> Self {
        if keyed {
            Self::Keyed(Keyed::new(allowance, members, max_keys, now))
        } else {
            Self::Shared(Shared::new(allowance, members, now))
        }
    }

    /// Goes on under another allowance. False if it cannot.
    fn take_over(&self, allowance: &Allowance, keyed: bool, max_keys: u32, members: u32, now: Instant) -> bool {
        match self {
            Self::Keyed(meters) if keyed => meters.set(allowance, members, max_keys, now),
            Self::Shared(shared) if !keyed => return shared.set(allowance, members, now),
            _ => return false,
        }
        true
    }
}

/// One limit for everything.
#[derive(Debug)]
struct Shared {
    epoch: Epoch,
    bucket: Option<TokenBucket>,
    quota: Option<Mutex<(QuotaPolicy, Window)>>,
}

impl Shared {
    fn new(allowance: &Allowance, members: u32, now: Instant) -> Self {
        Self {
            epoch: Epoch::new(now),
            bucket: allowance.token_bucket.map(|bucket| TokenBucket::new(Rate::new(&bucket, members), now)),
            quota: allowance.quota.map(|quota| Mutex::new((quota.share(members), Window::new(&quota)))),
        }
    }

    fn nanos(&self, now: Instant) -> u64 {
        self.epoch.nanos(now)
    }

    fn take(&self, now: Instant) -> Result<(), Duration> {
        if let Some(bucket) = &self.bucket {
            bucket.take(now)?;
        }
        if let Some(quota) = &self.quota {
            let (policy, window) = &mut *lock(quota);
            if let Err(after) = window.take(policy.requests(), self.nanos(now)) {
                if let Some(bucket) = &self.bucket {
                    bucket.give_back();
                }
                return Err(after);
            }
        }
        Ok(())
    }

    /// As of a key: the quota keeps its count.
    fn give_back(&self) {
        if let Some(bucket) = &self.bucket {
            bucket.give_back();
        }
    }

    fn set(&self, allowance: &Allowance, members: u32, now: Instant) -> bool {
        if self.bucket.is_some() != allowance.token_bucket.is_some()
            || self.quota.is_some() != allowance.quota.is_some()
        {
            return false;
        }
        if let (Some(bucket), Some(policy)) = (&self.bucket, &allowance.token_bucket) {
            bucket.set_rate(Rate::new(policy, members), now);
        }
        if let (Some(quota), Some(policy)) = (&self.quota, allowance.quota) {
            let (before, window) = &mut *lock(quota);
            if before.window() != policy.window() {
                let mut next = Window::new(&policy);
                next.carry(window, self.nanos(now));
                *window = next;
            }
            *before = policy.share(members);
        }
        true
    }

    fn standing(&self, now: Instant) -> Option<Standing> {
        let bucket = self.bucket.as_ref().map(|bucket| bucket.standing(now));
        let quota = self.quota.as_ref().map(|quota| {
            let (policy, window) = &mut *lock(quota);
            window.standing(policy.requests(), self.nanos(now))
        });
        match (bucket, quota) {
            (Some(bucket), Some(quota)) => Some(bucket.nearer(quota)),
            (bucket, quota) => bucket.or(quota),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
