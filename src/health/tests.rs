//! The engine of outlier detection over time, without calls.

use std::time::Duration;

use super::{verdict::Held, *};
use crate::{
    classify::Outcome,
    rt::{self, Instant, Rng},
};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Without jitter, so that times are exact.
fn policy() -> OutlierPolicy {
    OutlierPolicy { max_ejection_time_jitter: Duration::ZERO, ..OutlierPolicy::default() }
}

fn feed(vitals: &Vitals, samples: &[(Sample, usize)], policy: &OutlierPolicy) -> Vec<Cause> {
    let samples = samples.iter().flat_map(|(sample, times)| std::iter::repeat_n(*sample, *times));
    samples.filter_map(|sample| vitals.failed(sample, policy)).collect()
}

#[test]
fn a_host_that_is_full_for_a_moment_is_not_taken_for_one_that_fails() {
    let policy = OutlierPolicy::default();
    let judged = |failures: u32, waiting: u32, past: u32| {
        let recent = Recent { calls: failures + past, failures }.beside(waiting);
        let peers = (0..9).map(|_| Peer { recent: Recent { calls: 100, failures: 2 }, ..peer(0) });
        let cause = Cause::ConsecutiveGatewayFailure;
        judge(cause, recent, waiting, Recent { calls: failures, failures }, peers, &policy, &mut Rng::seeded(1))
    };
    assert_eq!(judged(5, 0, 45), Verdict::Eject);
    assert_eq!(judged(5, 5, 45), Verdict::Eject);
    assert_eq!(judged(5, 50, 0), Verdict::Held(Held::OthersFailToo), "fifty are still to be answered");
    // What it was still working on is answered, as failures.
    assert_eq!(judged(30, 25, 20), Verdict::Eject);
}

#[test]
fn every_outcome_has_one_meaning() {
    for outcome in Outcome::ALL {
        let expected = match outcome {
            Outcome::Success | Outcome::Rejected | Outcome::Upgraded => Sample::Success,
            Outcome::Shed => Sample::Shed,
            Outcome::GatewayFailure => Sample::Gateway,
            Outcome::ServerFailure | Outcome::MissingStatus => Sample::Server,
            Outcome::Reset | Outcome::ProtocolFailure | Outcome::BodyFailure | Outcome::Timeout => Sample::Local,
            Outcome::ConnectFailure => Sample::Connect,
            _ => Sample::Neutral,
        };
        assert_eq!(Sample::of(*outcome), expected, "{outcome:?}");
    }
    for neutral in
        [Outcome::Injected, Outcome::Mirror, Outcome::OwnCredential, Outcome::RateLimited, Outcome::Cancelled]
    {
        assert!(!Sample::of(neutral).is_failure(), "{neutral:?}");
    }
}

#[test]
fn failures_count_in_a_row_each_kind_by_its_own_rule() {
    use Sample::{Connect, Gateway, Local, Neutral, Server, Shed, Success};
    let five = [Cause::ConsecutiveGatewayFailure];
    let local = [Cause::ConsecutiveLocalOriginFailure];
    let default = policy();
    let any = OutlierPolicy { consecutive_5xx: Some(5), ..default };
    let joined = OutlierPolicy { split_external_local_origin_errors: false, ..default };
    for (samples, policy, expected) in [
        (&[(Gateway, 4), (Success, 1), (Gateway, 4)][..], default, &[][..]),
        (&[(Gateway, 5)], default, &five),
        (&[(Gateway, 9)], default, &five),
        (&[(Gateway, 10)], default, &[five[0], five[0]]),
        (&[(Gateway, 4), (Neutral, 3), (Gateway, 1)], default, &five),
        (&[(Gateway, 4), (Shed, 3), (Gateway, 1)], default, &five),
        (&[(Shed, 100)], default, &[]),
        (&[(Gateway, 4), (Server, 1), (Gateway, 4)], default, &[]),
        (&[(Server, 100)], default, &[]),
        (&[(Server, 5)], any, &[Cause::Consecutive5xx]),
        (&[(Gateway, 2), (Server, 3)], any, &[Cause::Consecutive5xx]),
        (&[(Local, 5)], default, &local),
        (&[(Local, 3), (Connect, 2)], default, &local),
        (&[(Local, 4), (Gateway, 1), (Local, 4)], default, &[]),
        (&[(Local, 2), (Gateway, 3)], joined, &five),
        (&[(Gateway, 100)], OutlierPolicy { consecutive_gateway_failure: None, ..default }, &[]),
    ] {
        assert_eq!(feed(&Vitals::default(), samples, &policy), expected, "{samples:?}");
    }
}

#[test]
fn what_was_held_against_it_is_forgotten_when_it_is_judged_anew() {
    let vitals = Vitals::default();
    feed(&vitals, &[(Sample::Gateway, 4), (Sample::Local, 4)], &policy());
    assert_eq!(vitals.recent(Cause::ConsecutiveGatewayFailure, &policy()).failures, 8);
    vitals.forget();
    assert_eq!(vitals.recent(Cause::ConsecutiveGatewayFailure, &policy()), Recent::default());
    assert_eq!(vitals.take_window(), Window::default());
    assert_eq!(feed(&vitals, &[(Sample::Gateway, 4)], &policy()), []);
}

fn peer(failures: u32) -> Peer {
    Peer {
        ejected: false,
        usable: true,
        recent: Recent { calls: 50, failures },
        lately: Recent { calls: 50, failures },
    }
}

fn out() -> Peer {
    Peer { ejected: true, usable: false, recent: Recent { calls: 50, failures: 50 }, lately: Recent::default() }
}

fn verdict(failures: u32, peers: Vec<Peer>, policy: &OutlierPolicy) -> Verdict {
    let recent = Recent { calls: 50, failures };
    judge(Cause::ConsecutiveGatewayFailure, recent, 0, recent, peers, policy, &mut Rng::seeded(1))
}

fn peers(ejected: usize, good: usize, failures: u32) -> Vec<Peer> {
    [vec![out(); ejected], vec![peer(failures); good]].concat()
}

#[test]
fn one_or_a_tenth_is_ejected_on_the_word_of_a_detector() {
    for (peers, expected) in [
        (peers(0, 0, 0), Verdict::Held(Held::NoOther)),
        (peers(0, 1, 50), Verdict::Eject),
        (peers(1, 0, 0), Verdict::Held(Held::NoOther)),
        (peers(0, 2, 50), Verdict::Eject),
        (peers(1, 1, 50), Verdict::Held(Held::MaxEjected)),
        (peers(0, 9, 50), Verdict::Eject),
        (peers(0, 9, 2), Verdict::Eject),
        (peers(1, 8, 50), Verdict::Held(Held::OthersFailToo)),
        (peers(1, 18, 50), Verdict::Eject),
        (peers(2, 17, 50), Verdict::Held(Held::OthersFailToo)),
    ] {
        assert_eq!(verdict(50, peers.clone(), &policy()), expected, "{}", peers.len() + 1);
    }
}

#[test]
fn more_than_a_tenth_only_if_it_fails_clearly_more_than_those_that_are_left() {
    assert_eq!(verdict(25, peers(1, 8, 0), &policy()), Verdict::Eject);
    assert_eq!(verdict(24, peers(1, 8, 0), &policy()), Verdict::Held(Held::OthersFailToo));
    assert_eq!(verdict(50, peers(4, 5, 10), &policy()), Verdict::Eject, "half of ten");
    assert_eq!(verdict(50, peers(5, 4, 0), &policy()), Verdict::Held(Held::MaxEjected));
    let nothing_known = vec![
        out(),
        Peer { recent: Recent::default(), ..peer(0) },
        Peer { recent: Recent::default(), ..peer(0) },
        out(),
    ];
    let policy = OutlierPolicy { max_ejection_percent: 100, ..policy() };
    assert_eq!(verdict(50, nothing_known, &policy), Verdict::Held(Held::OthersFailToo));
}

#[test]
fn never_the_last_usable_one_nor_more_than_allowed() {
    let all = OutlierPolicy { max_ejection_percent: 100, ..policy() };
    assert_eq!(verdict(50, peers(2, 0, 0), &all), Verdict::Held(Held::NoOther));
    let unreachable = Peer { usable: false, ..peer(0) };
    assert_eq!(verdict(50, vec![unreachable; 2], &policy()), Verdict::Held(Held::NoOther));
    let none = OutlierPolicy { max_ejection_percent: 0, ..policy() };
    assert_eq!(verdict(50, peers(0, 9, 0), &none), Verdict::Held(Held::MaxEjected));
}

#[test]
fn a_detector_is_enforced_in_as_many_cases_as_it_says() {
    let policy = OutlierPolicy { enforcing_consecutive_gateway_failure: 30, ..policy() };
    let mut rng = Rng::seeded(7);
    let recent = Recent { calls: 50, failures: 50 };
    let mut eject = || {
        judge(Cause::ConsecutiveGatewayFailure, recent, 0, recent, peers(0, 2, 0), &policy, &mut rng) == Verdict::Eject
    };
    let ejected = (0..10_000).filter(|_| eject()).count();
    assert!((2_800..3_200).contains(&ejected), "{ejected}");
}

/// An ejection and a clock.
struct Case {
    ejection: Ejection,
    policy: OutlierPolicy,
    now: Instant,
    rng: Rng,
}

impl Case {
    fn new(policy: OutlierPolicy) -> Self {
        Self { ejection: Ejection::default(), policy, now: rt::now(), rng: Rng::seeded(1) }
    }

    fn eject(&mut self) -> Duration {
        self.ejection.eject(Cause::ConsecutiveGatewayFailure, self.now, &self.policy, &mut self.rng);
        let until = self.ejection.account().unwrap().until.unwrap();
        until - self.now
    }

    fn pass(&mut self, after: Duration) -> Option<Change> {
        self.now += after;
        self.ejection.pass(self.now, &self.policy, &mut self.rng)
    }

    fn probe(&mut self) -> bool {
        self.ejection.probe(true, self.now, None)
    }

    fn probed(&mut self, found: Sample) -> Option<Change> {
        self.ejection.probed(found, self.now, &self.policy, &mut self.rng)
    }
}

#[tokio::test(start_paused = true)]
async fn each_ejection_is_longer_and_each_interval_in_good_health_is_forgiven() {
    let mut case = Case::new(OutlierPolicy { recovery: Recovery::Time, ..policy() });
    for expected in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300] {
        let lasts = case.eject();
        assert_eq!(lasts, seconds(expected));
        assert_eq!(case.pass(lasts - Duration::from_millis(1)), None);
        assert_eq!(case.pass(Duration::from_millis(1)), Some(Change::Back));
    }
    // Eleven ejections, nine intervals in good health.
    case.pass(seconds(95));
    assert_eq!(case.eject(), seconds(90));
    assert_eq!(case.pass(seconds(90)), Some(Change::Back));
    case.pass(seconds(100_000));
    assert_eq!(case.eject(), seconds(30));
}

#[tokio::test(start_paused = true)]
async fn jitter_is_added_and_bounded() {
    let mut case = Case::new(OutlierPolicy::default());
    let mut seen = Vec::new();
    for _ in 0..100 {
        case.ejection = Ejection::default();
        let lasts = case.eject();
        assert!((seconds(30)..=seconds(33)).contains(&lasts), "{lasts:?}");
        seen.push(lasts);
    }
    seen.dedup();
    assert!(seen.len() > 50);
}

#[tokio::test(start_paused = true)]
async fn one_probe_at_a_time_and_its_finding_decides() {
    let mut case = Case::new(policy());
    let lasts = case.eject();
    assert!(!case.probe(), "not while it is out");
    assert_eq!(case.pass(lasts), Some(Change::Probation));
    assert!(case.probe());
    assert!(!case.probe(), "one at a time");
    assert_eq!(case.probed(Sample::Gateway), Some(Change::Ejected));
    assert_eq!(case.ejection.account().unwrap().until, Some(case.now + seconds(60)));
    assert_eq!(case.pass(seconds(60)), Some(Change::Probation));
    assert!(case.probe());
    assert_eq!(case.probed(Sample::Neutral), None);
    assert!(case.probe(), "one that says nothing leaves its place");
    assert_eq!(case.probed(Sample::Success), Some(Change::Back));
    assert_eq!(case.ejection.account(), None);
    assert_eq!(case.probed(Sample::Gateway), None, "a late one changes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_probe_without_an_answer_fails_at_its_deadline_or_after_five_seconds() {
    for (deadline, expires) in [(None, 5), (Some(2), 2), (Some(60), 5)] {
        let mut case = Case::new(policy());
        let lasts = case.eject();
        case.pass(lasts);
        let deadline = deadline.map(|after| case.now + seconds(after));
        assert!(case.ejection.probe(true, case.now, deadline));
        assert_eq!(case.pass(seconds(expires) - Duration::from_millis(1)), None);
        assert_eq!(case.pass(Duration::from_millis(1)), Some(Change::Ejected), "{expires}");
    }
    // Given up at the very deadline, before anybody looked at the clock.
    let mut case = Case::new(policy());
    let lasts = case.eject();
    case.pass(lasts);
    assert!(case.probe());
    case.now += seconds(5);
    assert_eq!(case.probed(Sample::Neutral), Some(Change::Ejected));
}

#[tokio::test(start_paused = true)]
async fn for_a_second_only_a_call_that_may_be_repeated_is_the_probe() {
    let mut case = Case::new(policy());
    let lasts = case.eject();
    case.pass(lasts);
    assert!(!case.ejection.probe(false, case.now, None));
    case.now += seconds(1);
    assert!(case.ejection.probe(false, case.now, None));
}

#[tokio::test(start_paused = true)]
async fn an_ejection_is_handed_on_and_can_be_pardoned() {
    let mut case = Case::new(policy());
    let lasts = case.eject();
    let mut heir = case.ejection.handed_on();
    assert_eq!(heir.account(), case.ejection.account());
    case.pass(lasts);
    assert!(case.probe());
    assert!(case.ejection.handed_on().probe(true, case.now, None), "the probe on its way reports to the old one");
    assert!(heir.pardon() && !heir.pardon());
    assert_eq!(heir.account(), None);
}
