//! The dice: what happens to one request.

use std::time::Duration;

use http::StatusCode;

use super::{
    header::Asked,
    policy::{Abort, Delay, FaultPolicy, Rate},
};
use crate::{enforcement::Percent, rt::Rng};

/// What is done to one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Rolled {
    pub(crate) delay: Option<Duration>,
    pub(crate) abort: Option<Aborted>,
    /// KiB per second.
    pub(crate) rate: Option<u32>,
}

/// How a request is aborted, once it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Aborted {
    Http(StatusCode),
    Grpc(u8),
    Reset,
}

impl Rolled {
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Rolls once for each kind of fault. `asked` is what the request's own header wishes.
pub(crate) fn roll(policy: &FaultPolicy, asked: Option<&Asked>, rng: &mut Rng) -> Rolled {
    let mut rolled = Rolled::default();
    if let Some(fault) = &policy.delay {
        let wish = asked.and_then(|asked| asked.delay);
        let (delay, percentage) = match fault.delay {
            Delay::Fixed(delay) => (Some(delay), fault.percentage),
            Delay::Range { min, max } => (Some(min + between(max.saturating_sub(min), rng)), fault.percentage),
            Delay::Exponential { mean } => (Some(exponential(mean, rng)), fault.percentage),
            Delay::Header { max } => (wish.map(|wish| wish.min(max)), capped(fault.percentage, asked)),
        };
        rolled.delay = delay.filter(|delay| percentage.hit(rng) && !delay.is_zero());
    }
    if let Some(fault) = &policy.abort {
        let (abort, percentage) = match fault.abort {
            Abort::Http(status) => (Some(Aborted::Http(status)), fault.percentage),
            Abort::Grpc(status) => (Some(Aborted::Grpc(status)), fault.percentage),
            Abort::Reset => (Some(Aborted::Reset), fault.percentage),
            Abort::Header => (asked.and_then(|asked| asked.abort), capped(fault.percentage, asked)),
        };
        rolled.abort = abort.filter(|_| percentage.hit(rng));
    }
    if let Some(fault) = &policy.response_rate_limit {
        let wish = asked.and_then(|asked| asked.rate);
        let (rate, percentage) = match fault.rate {
            Rate::Fixed(rate) => (Some(rate), fault.percentage),
            Rate::Header { min } => (wish.map(|wish| wish.max(min)), capped(fault.percentage, asked)),
        };
        rolled.rate = rate.filter(|rate| percentage.hit(rng) && *rate > 0);
    }
    // There is no response to slow down.
    if rolled.abort.is_some() {
        rolled.rate = None;
    }
    rolled
}

/// The configured share is the most that a header can ask for.
fn capped(percentage: Percent, asked: Option<&Asked>) -> Percent {
    asked.and_then(|asked| asked.percentage).map_or(percentage, |wish| wish.min(percentage))
}

fn between(span: Duration, rng: &mut Rng) -> Duration {
    span.mul_f64(unit(rng))
}

fn exponential(mean: Duration, rng: &mut Rng) -> Duration {
    // 1 - unit is never 0.
    mean.mul_f64((-(1.0 - unit(rng)).ln()).min(10.0))
}

/// Uniform in [0, 1).
fn unit(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn percent(percent: f64) -> Percent {
        Percent::new(percent).unwrap()
    }

    fn count(policy: &FaultPolicy, asked: Option<&Asked>, hit: impl Fn(&Rolled) -> bool) -> f64 {
        const ROLLS: u32 = 200_000;
        let mut rng = Rng::seeded(11);
        let hits = (0..ROLLS).filter(|_| hit(&roll(policy, asked, &mut rng))).count();
        hits as f64 / f64::from(ROLLS) * 100.0
    }

    #[test]
    fn delay_and_abort_are_rolled_independently() {
        let policy = FaultPolicy::new()
            .delay(Delay::Fixed(SECOND), percent(20.0))
            .abort(Abort::Http(StatusCode::SERVICE_UNAVAILABLE), percent(5.0));
        let any = count(&policy, None, |rolled| !rolled.is_nothing());
        assert!((23.5..24.5).contains(&any), "{any}");
        let both = count(&policy, None, |rolled| rolled.delay.is_some() && rolled.abort.is_some());
        assert!((0.8..1.2).contains(&both), "{both}");
    }

    #[test]
    fn a_header_asks_for_no_more_than_the_configured_share_and_length() {
        let policy = FaultPolicy::new()
            .delay(Delay::Header { max: SECOND }, percent(30.0))
            .abort(Abort::Header, percent(10.0))
            .response_rate_limit(Rate::Header { min: 8 }, percent(100.0));
        let asked = Asked {
            delay: Some(SECOND * 60),
            abort: Some(Aborted::Grpc(14)),
            rate: Some(1),
            percentage: Some(Percent::ALL),
        };
        let delayed = count(&policy, Some(&asked), |rolled| rolled.delay == Some(SECOND));
        assert!((29.0..31.0).contains(&delayed), "{delayed}");
        let aborted = count(&policy, Some(&asked), |rolled| rolled.abort == Some(Aborted::Grpc(14)));
        assert!((9.5..10.5).contains(&aborted), "{aborted}");
        let slowed = count(&policy, Some(&asked), |rolled| rolled.rate == Some(8));
        assert!((89.5..90.5).contains(&slowed), "an aborted call has no response to slow down: {slowed}");
        let fewer = Asked { percentage: Some(percent(1.0)), ..asked };
        let delayed = count(&policy, Some(&fewer), |rolled| rolled.delay.is_some());
        assert!((0.8..1.2).contains(&delayed), "{delayed}");
        assert_eq!(count(&policy, None, |rolled| !rolled.is_nothing()), 0.0);
    }

    #[test]
    fn a_header_says_nothing_where_the_policy_does_not_ask_it() {
        let policy = FaultPolicy::new().delay(Delay::Fixed(SECOND), Percent::ALL);
        let asked = Asked { delay: Some(SECOND * 9), abort: Some(Aborted::Reset), ..Asked::default() };
        let rolled = roll(&policy, Some(&asked), &mut Rng::seeded(1));
        assert_eq!(rolled, Rolled { delay: Some(SECOND), ..Rolled::default() });
    }

    #[test]
    fn distributions_have_the_mean_they_are_named_after_and_their_bounds() {
        let mean = |delay: Delay| {
            let policy = FaultPolicy::new().delay(delay, Percent::ALL);
            let mut rng = Rng::seeded(5);
            let rolled: Vec<_> = (0..50_000).filter_map(|_| roll(&policy, None, &mut rng).delay).collect();
            let longest = rolled.iter().max().copied().unwrap();
            (rolled.iter().sum::<Duration>().as_secs_f64() / rolled.len() as f64, longest)
        };
        let (average, longest) = mean(Delay::Range { min: SECOND, max: SECOND * 3 });
        assert!((1.98..2.02).contains(&average) && longest <= SECOND * 3, "{average} {longest:?}");
        let (average, longest) = mean(Delay::Exponential { mean: SECOND });
        assert!((0.98..1.02).contains(&average) && longest <= SECOND * 10, "{average} {longest:?}");
    }
}
