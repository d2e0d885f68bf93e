//! The controller against simulated services: what a limit does over half an hour, in a second.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::*;
use crate::rt::{self, Instant, Rng};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// So many workers, each busy for about so long with a request; a queue in front of them.
struct Service {
    workers: u32,
    takes: Duration,
    /// Exponentially distributed instead of always the same.
    random: bool,
}

/// What was seen in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    limit: u32,
    offered: u32,
    done: u32,
    slowest: Duration,
}

struct World {
    controller: Controller,
    rng: Rng,
    now: Instant,
    busy: u32,
    in_flight: u32,
    /// Waiting for a worker.
    queue: std::collections::VecDeque<(Sample, Instant)>,
    /// Being worked on, by when they end.
    working: BinaryHeap<Reverse<(Instant, u64)>>,
    samples: std::collections::HashMap<u64, (Sample, Instant)>,
    number: u64,
    next: Instant,
}

impl World {
    fn new(policy: AdaptivePolicy) -> Self {
        policy.check().unwrap();
        let now = rt::now();
        World {
            controller: Controller::new(policy, None, now, Rng::seeded(1)),
            rng: Rng::seeded(2),
            now,
            busy: 0,
            in_flight: 0,
            queue: Default::default(),
            working: Default::default(),
            samples: Default::default(),
            number: 0,
            next: now,
        }
    }

    fn exponential(&mut self, mean: Duration) -> Duration {
        let uniform = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        mean.mul_f64(-(1.0 - uniform).ln())
    }

    fn start(&mut self, service: &Service, sample: Sample, began: Instant) {
        let takes = if service.random { self.exponential(service.takes) } else { service.takes };
        self.busy += 1;
        self.number += 1;
        self.working.push(Reverse((self.now + takes, self.number)));
        self.samples.insert(self.number, (sample, began));
    }

    /// Poisson arrivals at `rate` for a second.
    fn second(&mut self, service: &Service, rate: f64) -> Second {
        let end = self.now + SECOND;
        let mut seen = Second::default();
        loop {
            let ends = self.working.peek().map(|Reverse((at, _))| *at);
            let at = ends.map_or(self.next, |ends| ends.min(self.next));
            if at >= end {
                self.now = end;
                seen.limit = self.controller.limit();
                return seen;
            }
            self.now = at;
            if ends == Some(at) {
                let Reverse((_, number)) = self.working.pop().unwrap();
                let (sample, began) = self.samples.remove(&number).unwrap();
                self.in_flight -= 1;
                self.busy -= 1;
                self.controller.ended(sample, at, Ended::Answered);
                seen.done += 1;
                seen.slowest = seen.slowest.max(at - began);
                if self.busy < service.workers
                    && let Some((sample, began)) = self.queue.pop_front()
                {
                    self.start(service, sample, began);
                }
            } else {
                seen.offered += 1;
                self.next = at + self.exponential(Duration::from_secs_f64(1.0 / rate));
                if self.in_flight < self.controller.limit() {
                    self.in_flight += 1;
                    let sample = self.controller.admitted(at, self.in_flight);
                    if self.busy < service.workers {
                        self.start(service, sample, at);
                    } else {
                        self.queue.push_back((sample, at));
                    }
                }
            }
        }
    }

    fn run(&mut self, service: &Service, rate: f64, seconds: usize) -> Vec<Second> {
        (0..seconds).map(|_| self.second(service, rate)).collect()
    }
}

/// 10,000 a second.
const HUNDRED: Service = Service { workers: 100, takes: Duration::from_millis(10), random: false };

fn policy(algorithm: AdaptiveAlgorithm) -> AdaptivePolicy {
    AdaptivePolicy { algorithm, ..AdaptivePolicy::default() }
}

fn mean(seconds: &[Second], of: impl Fn(&Second) -> f64) -> f64 {
    seconds.iter().map(of).sum::<f64>() / seconds.len() as f64
}

#[test]
fn at_three_times_the_capacity_the_limit_is_about_the_capacity_and_work_is_done_at_full_rate() {
    let mut world = World::new(policy(AdaptiveAlgorithm::Gradient2));
    world.run(&HUNDRED, 30_000.0, 5);
    let seconds = world.run(&HUNDRED, 30_000.0, 10);
    for second in &seconds {
        assert!((80..=130).contains(&second.limit), "{second:?}");
        assert!(second.done >= 9_000, "{second:?}");
        assert!(second.slowest <= 30 * MS, "{second:?}");
    }
}

#[test]
fn half_an_hour_of_overload_moves_neither_baseline_nor_limit() {
    let service = Service { workers: 20, takes: 200 * MS, random: false };
    let mut world = World::new(policy(AdaptiveAlgorithm::Gradient2));
    let seconds = world.run(&service, 300.0, 1800);
    let early = mean(&seconds[30..90], |second| second.limit.into());
    let late = mean(&seconds[1740..], |second| second.limit.into());
    assert!((late / early - 1.0).abs() < 0.15, "{early} then {late}");
    let baseline = world.controller.baseline();
    assert!((baseline / 0.2 - 1.0).abs() <= 0.1, "{baseline}");
    assert!(mean(&seconds[30..], |second| second.done.into()) > 95.0);
}

#[test]
fn services_of_random_duration_are_held_too() {
    let service = Service { workers: 100, takes: 100 * MS, random: true };
    let mut world = World::new(policy(AdaptiveAlgorithm::Gradient2));
    let seconds = world.run(&service, 3_000.0, 200);
    let late = &seconds[60..];
    let (limit, done) = (mean(late, |second| second.limit.into()), mean(late, |second| second.done.into()));
    assert!((80.0..200.0).contains(&limit) && done > 900.0, "{limit}, {done}");
    assert!(late.iter().all(|second| second.limit < 250), "{:?}", late.iter().map(|s| s.limit).max());
}

#[test]
fn a_limit_that_is_not_used_does_not_grow() {
    for algorithm in AdaptiveAlgorithm::ALL {
        let mut world = World::new(AdaptivePolicy { initial_limit: 100, ..policy(algorithm) });
        // About 30 in flight.
        let seconds = world.run(&HUNDRED, 2_500.0, 30);
        assert!(seconds.iter().all(|second| second.limit <= 100), "{algorithm:?}");
        assert!(mean(&seconds, |second| second.done.into()) > 2_400.0);
    }
}

#[test]
fn a_service_that_became_slower_gets_a_new_baseline_and_a_smaller_one_a_smaller_limit() {
    let mut world = World::new(policy(AdaptiveAlgorithm::Gradient2));
    let hundred = Service { takes: 100 * MS, ..HUNDRED };
    world.run(&hundred, 2_000.0, 60);
    let slower = Service { takes: 200 * MS, ..HUNDRED };
    let seconds = world.run(&slower, 2_000.0, 180);
    assert!(mean(&seconds[120..], |second| second.done.into()) > 450.0, "{:?}", seconds.last());
    let smaller = Service { workers: 30, ..slower };
    let seconds = world.run(&smaller, 2_000.0, 120);
    let last = &seconds[60..];
    assert!(mean(last, |second| second.limit.into()) < 50.0, "{:?}", seconds.last());
    assert!(mean(last, |second| second.done.into()) > 135.0, "{:?}", seconds.last());
}

#[test]
fn more_workers_are_found() {
    let mut world = World::new(policy(AdaptiveAlgorithm::Gradient2));
    let hundred = Service { takes: 100 * MS, ..HUNDRED };
    world.run(&hundred, 2_000.0, 60);
    let more = Service { workers: 200, ..hundred };
    let seconds = world.run(&more, 4_000.0, 200);
    assert!(mean(&seconds[140..], |second| second.done.into()) > 1_800.0, "{:?}", seconds.last());
}

#[test]
fn vegas_keeps_a_short_queue() {
    let mut world = World::new(policy(AdaptiveAlgorithm::Vegas));
    let service = Service { takes: 100 * MS, ..HUNDRED };
    let seconds = world.run(&service, 3_000.0, 200);
    for second in &seconds[60..] {
        assert!((45..=140).contains(&second.limit) && second.done >= 650, "{second:?}");
    }
    assert!(mean(&seconds[60..], |second| second.done.into()) > 950.0);
}
