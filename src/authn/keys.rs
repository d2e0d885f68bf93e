//! When the keys of an issuer are fetched, and how long old ones are used.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;

use crate::rt::{Instant, Rng};

/// Fetches what stands behind an `https` URI. Given by the mesh: this room dials nobody.
pub(crate) trait Fetch: Send + Sync + 'static {
    /// The body of a 200, at most `limit` bytes, within `timeout` from name to last byte. Follows no redirect.
    fn fetch(&self, request: FetchRequest) -> Fetched;
}

/// What is fetched.
#[derive(Clone, Debug)]
pub(crate) struct FetchRequest {
    pub(crate) uri: http::Uri,
    pub(crate) limit: usize,
    pub(crate) timeout: Duration,
    /// Networks that may be dialled besides public ones.
    pub(crate) networks: Vec<crate::matching::IpBlock>,
}

/// What comes back, or why nothing did.
pub(crate) type Fetched = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// Longest that keys outlive their last successful fetch.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// A token with an unknown key makes for one fetch in this time.
const FORCED: Duration = Duration::from_secs(30);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// The schedule of one issuer's keys. Told of the time, reads no clock.
#[derive(Debug)]
pub(crate) struct Refresh {
    cache: Duration,
    fetched: Option<Instant>,
    forced: Option<Instant>,
    failures: u32,
    next: Instant,
}

impl Refresh {
    /// Due at once.
    pub(crate) fn new(cache: Duration, now: Instant) -> Self {
        Self { cache, fetched: None, forced: None, failures: 0, next: now }
    }

    /// When to fetch next.
    pub(crate) fn due(&self) -> Instant {
        self.next
    }

    /// New keys are there.
    pub(crate) fn succeeded(&mut self, now: Instant, rng: &mut Rng) {
        (self.fetched, self.failures) = (Some(now), 0);
        self.next = now + rng.jitter(self.cache, 10);
    }

    /// Nothing came.
    pub(crate) fn failed(&mut self, now: Instant, rng: &mut Rng) {
        let wait = FIRST_BACKOFF.saturating_mul(1 << self.failures.min(20)).min(self.cache.max(FIRST_BACKOFF));
        self.failures += 1;
        self.next = now + rng.jitter(wait, 20);
    }

    /// A token names a key that is not there. Whether it is worth a fetch: not if there was one a moment ago.
    pub(crate) fn force(&mut self, now: Instant) -> bool {
        let recent = |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < FORCED);
        if recent(self.forced) || recent(self.fetched) || self.fetched.is_none() {
            return false;
        }
        self.forced = Some(now);
        self.next = now;
        true
    }

    /// Whether what was fetched last may still be used.
    pub(crate) fn usable(&self, now: Instant) -> bool {
        self.fetched.is_some_and(|at| now.saturating_duration_since(at) < STALE)
    }

    /// Whether the first fetch has not come to an end yet.
    pub(crate) fn is_first(&self) -> bool {
        self.fetched.is_none() && self.failures == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt;

    #[tokio::test(start_paused = true)]
    async fn keys_are_fetched_again_before_they_are_needed_and_kept_through_an_outage() {
        let (start, mut rng) = (rt::now(), Rng::seeded(1));
        let minute = Duration::from_secs(60);
        let mut refresh = Refresh::new(5 * minute, start);
        assert!(refresh.due() == start && refresh.is_first() && !refresh.usable(start));
        refresh.succeeded(start, &mut rng);
        let wait = refresh.due() - start;
        assert!(wait >= 5 * minute * 9 / 10 && wait <= 5 * minute * 11 / 10, "{wait:?}");
        let mut now = refresh.due();
        let mut waits = Vec::new();
        for _ in 0..15 {
            refresh.failed(now, &mut rng);
            waits.push(refresh.due() - now);
            now = refresh.due();
        }
        assert!(waits[0] <= Duration::from_millis(600) && waits[1] >= Duration::from_millis(800), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= 6 * minute) && waits[14] >= 4 * minute, "{waits:?}");
        assert!(refresh.usable(start + STALE - minute));
        assert!(!refresh.usable(start + STALE));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_is_worth_a_fetch_every_30_seconds() {
        let (start, mut rng) = (rt::now(), Rng::seeded(1));
        let second = Duration::from_secs(1);
        let mut refresh = Refresh::new(300 * second, start);
        assert!(!refresh.force(start), "the first fetch is under way");
        refresh.succeeded(start, &mut rng);
        assert!(!refresh.force(start + 29 * second));
        assert!(refresh.force(start + 30 * second));
        assert_eq!(refresh.due(), start + 30 * second);
        assert!(!refresh.force(start + 59 * second));
        refresh.failed(start + 31 * second, &mut rng);
        assert!(refresh.force(start + 60 * second));
    }
}
