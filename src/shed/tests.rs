//! Who is let in, under simulated overload.

use std::{collections::HashMap, sync::Arc, thread, time::Duration};

use super::{
    adaptive::{AdaptivePolicy, Ended},
    policy::ShedPolicy,
    series::Series,
    shedder::{Admitted, Asked, Cause, Policies, Shedder},
};
use crate::{
    context::Criticality,
    enforcement::{Mode, Percent},
    rt::{self, Instant, Rng},
};

const MS: Duration = Duration::from_millis(1);

fn shedder(policy: ShedPolicy) -> Arc<Shedder> {
    Shedder::make(Policies::new(Some(&policy), None), None, Series::default(), rt::now())
}

fn asked(criticality: Criticality, at: Instant) -> Asked<'static> {
    Asked { criticality, user: None, at }
}

fn leave(admitted: Admitted) {
    admitted.leave(Ended::Answered, rt::now);
}

/// A service of so many workers that takes 10 ms each, as seen by admission: requests in, requests out.
struct World {
    shedder: Arc<Shedder>,
    rng: Rng,
    now: Instant,
    working: std::collections::VecDeque<(Instant, Admitted)>,
}

/// One arrival: what it was, and whether it was let in.
type Seen = (Criticality, Option<String>, Result<(), Cause>);

impl World {
    fn new(max: u32) -> Self {
        let shedder = shedder(ShedPolicy::new().max_in_flight(max).max_lag(None));
        World { shedder, rng: Rng::seeded(7), now: rt::now(), working: Default::default() }
    }

    /// So many arrivals a millisecond, for so many milliseconds; `of` makes each.
    fn run(
        &mut self,
        per_ms: u32,
        millis: u32,
        mut of: impl FnMut(&mut Rng) -> (Criticality, Option<String>),
    ) -> Vec<Seen> {
        let mut seen = Vec::new();
        for _ in 0..millis {
            for n in 0..per_ms {
                let at = self.now + MS * n / per_ms;
                while self.working.front().is_some_and(|(ends, _)| *ends <= at) {
                    leave(self.working.pop_front().unwrap().1);
                }
                let (criticality, user) = of(&mut self.rng);
                let asked = Asked { criticality, user: user.as_deref(), at };
                let result = self.shedder.admit(&asked, Duration::ZERO, &mut self.rng);
                let result = match result {
                    Ok(admitted) => {
                        self.working.push_back((at + 10 * MS, admitted));
                        Ok(())
                    }
                    Err(cause) => Err(cause),
                };
                seen.push((criticality, user, result));
            }
            self.now += MS;
        }
        seen
    }
}

fn share(seen: &[Seen], of: Criticality) -> f64 {
    let of: Vec<_> = seen.iter().filter(|(criticality, ..)| *criticality == of).collect();
    of.iter().filter(|(.., result)| result.is_ok()).count() as f64 / of.len() as f64
}

#[test]
fn never_more_than_the_limit_across_threads() {
    let shedder = shedder(ShedPolicy::new().max_in_flight(37).max_lag(None));
    let now = rt::now();
    thread::scope(|scope| {
        for seed in 0..8 {
            let shedder = &shedder;
            scope.spawn(move || {
                let mut rng = Rng::seeded(seed);
                for _ in 0..20_000 {
                    if let Ok(admitted) =
                        shedder.admit(&asked(Criticality::CriticalPlus, now), Duration::ZERO, &mut rng)
                    {
                        assert!(shedder.in_flight() <= 37);
                        leave(admitted);
                    }
                }
            });
        }
    });
    assert_eq!(shedder.in_flight(), 0);
}

#[test]
fn the_less_critical_are_refused_first_and_the_room_is_used() {
    let mut world = World::new(100);
    // 10 a millisecond can be done; a third of 30 is critical.
    let mix = |rng: &mut Rng| match rng.below(3) {
        0 => (Criticality::Critical, None),
        1 => (Criticality::SheddablePlus, None),
        _ => (Criticality::Sheddable, None),
    };
    world.run(30, 1000, mix);
    let seen = world.run(30, 3000, mix);
    assert!(share(&seen, Criticality::Critical) > 0.93, "{}", share(&seen, Criticality::Critical));
    assert!(share(&seen, Criticality::Sheddable) < 0.02, "{}", share(&seen, Criticality::Sheddable));
    let done = seen.iter().filter(|(.., result)| result.is_ok()).count();
    // Without a queue, room that is kept for the critical is sometimes free.
    assert!(done > 28_000, "{done}");
}

#[test]
fn while_the_critical_are_refused_nothing_less_critical_is_let_in() {
    let mut world = World::new(100);
    let mix = |rng: &mut Rng| match rng.below(2) {
        0 => (Criticality::Critical, None),
        _ => (Criticality::Sheddable, None),
    };
    // More critical work than can be done.
    for _ in 0..100 {
        let seen = world.run(40, 10, mix);
        let refused = seen.iter().position(|(criticality, _, result)| {
            *criticality == Criticality::Critical && matches!(result, Err(Cause::InFlight(_)))
        });
        // From the refusal to the end of the tick, of which these are at most a tenth each.
        let late = refused.map_or(&[][..], |at| &seen[at..(at + 40).min(seen.len())]);
        let let_in =
            late.iter().filter(|(criticality, _, result)| *criticality == Criticality::Sheddable && result.is_ok());
        assert_eq!(let_in.count(), 0);
    }
}

#[test]
fn one_criticality_alone_uses_all_the_room() {
    for factor in [2, 5, 10] {
        let mut world = World::new(100);
        world.run(10 * factor, 1000, |_| (Criticality::Critical, None));
        let seen = world.run(10 * factor, 2000, |_| (Criticality::Critical, None));
        let done = seen.iter().filter(|(.., result)| result.is_ok()).count();
        assert!(done >= 19_600, "{factor}: {done} of 20000");
    }
}

#[test]
fn a_user_is_served_or_refused_as_a_whole() {
    let mut world = World::new(100);
    let mix = |rng: &mut Rng| (Criticality::Critical, Some(format!("user-{}", rng.below(200))));
    world.run(20, 2000, mix);
    let seen = world.run(20, 1000, mix);
    let mut users: HashMap<&str, (u32, u32)> = HashMap::new();
    for (_, user, result) in &seen {
        let of = users.entry(user.as_deref().unwrap()).or_default();
        of.0 += u32::from(result.is_ok());
        of.1 += 1;
    }
    let shares: Vec<f64> = users.values().map(|(served, all)| f64::from(*served) / f64::from(*all)).collect();
    let whole = shares.iter().filter(|share| **share > 0.8 || **share < 0.1).count();
    assert!(whole > 160, "{whole} of {}", shares.len());
    let done = seen.iter().filter(|(.., result)| result.is_ok()).count();
    assert!(done > 9_500, "{done}");
}

#[test]
fn who_asks_for_much_more_than_others_stands_behind_them() {
    let mut world = World::new(100);
    // One of 101 users makes half of 15 arrivals a millisecond, of which 10 can be done.
    let mix = |rng: &mut Rng| match rng.below(2) {
        0 => (Criticality::Critical, Some("hog".to_owned())),
        _ => (Criticality::Critical, Some(format!("user-{}", rng.below(100)))),
    };
    world.run(15, 2000, mix);
    let seen = world.run(15, 1000, mix);
    let of = |hog: bool| {
        let of: Vec<_> = seen.iter().filter(|(_, user, _)| (user.as_deref() == Some("hog")) == hog).collect();
        of.iter().filter(|(.., result)| result.is_ok()).count() as f64 / of.len() as f64
    };
    assert!(of(false) > 0.88 && of(true) < 0.5, "others: {}, the one: {}", of(false), of(true));
}

#[test]
fn the_end_of_an_overload_is_seen_within_a_second() {
    let mut world = World::new(100);
    let mix = |rng: &mut Rng| (Criticality::Critical, Some(format!("user-{}", rng.below(200))));
    world.run(50, 5000, mix);
    world.run(7, 1000, mix);
    let seen = world.run(7, 1000, mix);
    assert!(seen.iter().all(|(.., result)| result.is_ok()));
}

#[test]
fn a_late_process_refuses_whatever_is_in_flight() {
    let shedder = shedder(ShedPolicy::new());
    let mut rng = Rng::seeded(1);
    let late = shedder.admit(&asked(Criticality::CriticalPlus, rt::now()), 11 * MS, &mut rng);
    assert_eq!(late.unwrap_err(), Cause::Lag(11 * MS));
    assert!(shedder.admit(&asked(Criticality::CriticalPlus, rt::now()), 10 * MS, &mut rng).is_ok());
}

#[test]
fn shadow_lets_everything_in_and_a_share_refuses_that_share() {
    let count = |policy: ShedPolicy| {
        let shedder = shedder(policy.max_in_flight(1).max_lag(None));
        let (now, mut rng) = (rt::now(), Rng::seeded(1));
        let admit = |_| shedder.admit(&asked(Criticality::Critical, now), Duration::ZERO, &mut rng).ok();
        (0..10_000).filter_map(admit).count()
    };
    assert_eq!(count(ShedPolicy::new().mode(Mode::Shadow)), 10_000);
    let half = ShedPolicy { percentage: Percent::new(50.0).unwrap(), ..ShedPolicy::new() };
    assert!((4_800..5_200).contains(&count(half)));
}

#[test]
fn a_change_keeps_what_is_in_flight_and_the_limit_that_was_found() {
    let fixed = |max| Policies::new(Some(&ShedPolicy::new().max_in_flight(max).max_lag(None)), None);
    let now = rt::now();
    let mut rng = Rng::seeded(1);
    let first = Shedder::make(fixed(37), None, Series::default(), now);
    let mut admit =
        |shedder: &Arc<Shedder>| shedder.admit(&asked(Criticality::CriticalPlus, now), Duration::ZERO, &mut rng).ok();
    let held: Vec<_> = (0..50).filter_map(|_| admit(&first)).collect();
    assert_eq!(held.len(), 37);
    let second = Shedder::make(fixed(10), Some(&first), Series::default(), now);
    let mut held = held.into_iter();
    held.by_ref().take(27).for_each(leave);
    assert!(admit(&second).is_none(), "10 of 10");
    held.by_ref().take(1).for_each(leave);
    assert!(admit(&second).is_some());

    let adaptive = Policies::new(None, Some(&AdaptivePolicy { initial_limit: 5, ..AdaptivePolicy::default() }));
    let third = Shedder::make(adaptive, Some(&second), Series::default(), now);
    assert!(admit(&third).is_none());
    held.for_each(leave);
}
