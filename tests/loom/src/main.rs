//! What permits, the gate of a circuit, the retry budget, token buckets, success rates and the buckets of unanswered calls promise, in every order in which threads can meet.
#![allow(dead_code, unused_imports, reason = "files of the crate, of which a part is used")]

mod rt;

#[path = "../../../src"]
mod floor {
    pub(crate) mod permit;
}

#[path = "../../../src/breaker"]
mod breaker {
    pub(crate) mod gate;
}

#[path = "../../../src/retry"]
mod retry {
    pub(crate) mod budget;
}

#[path = "../../../src/limit"]
mod limit {
    pub(crate) mod bucket;

    /// Of the policy, what a bucket asks it.
    pub(crate) mod policy {
        use std::time::Duration;

        pub(crate) struct BucketPolicy {
            pub(crate) max: u32,
            pub(crate) interval: Duration,
        }

        impl BucketPolicy {
            pub(crate) fn max_tokens(&self) -> u32 {
                self.max
            }

            pub(crate) fn tokens_per_fill(&self) -> u32 {
                1
            }

            pub(crate) fn fill_interval(&self) -> Duration {
                self.interval
            }
        }
    }

    pub(crate) mod standing {
        use std::time::Duration;

        pub(crate) struct Standing {
            pub(crate) limit: u32,
            pub(crate) remaining: u32,
            pub(crate) reset: Duration,
            pub(crate) window: Duration,
        }
    }
}

#[path = "../../../src/health"]
mod health {
    pub(crate) mod success_rate;
    pub(crate) mod unanswered;
}

use std::{sync::Arc, time::Duration};

use loom::thread;

use self::{
    breaker::gate::Gate,
    floor::permit::Limit,
    health::{
        success_rate::SuccessRate,
        unanswered::{Ages, Buckets, Line, Unanswered},
    },
    limit::{
        bucket::{Rate, TokenBucket},
        policy::BucketPolicy,
    },
    retry::budget::Budget,
    rt::Instant,
};

const SECOND: Duration = Duration::from_secs(1);

fn model(name: &str, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // More than two switches away from a thread that could go on have not shown anything that two did not.
    builder.preemption_bound = Some(2);
    builder.check(body);
    println!("{name}: holds");
}

fn closed_gate() -> Arc<Gate> {
    let gate = Arc::new(Gate::new());
    gate.set(0, true, u64::MAX);
    gate.count_until(10);
    gate
}

fn success(gate: &Arc<Gate>) -> thread::JoinHandle<bool> {
    let gate = Arc::clone(gate);
    thread::spawn(move || gate.succeeded(0, 1))
}

/// What a gate counted is taken once.
fn successes_are_counted_once() {
    let gate = closed_gate();
    let threads = [success(&gate), success(&gate)];
    let taken = gate.take();
    let counted: u32 = threads.into_iter().map(|thread| u32::from(thread.join().unwrap())).sum();
    assert_eq!((taken + gate.take(), counted), (2, 2));
}

/// A circuit that begins a new era finds there what was counted before, and nothing of it is counted after.
fn a_success_belongs_to_its_era() {
    let gate = closed_gate();
    let thread = success(&gate);
    gate.set(1, true, u64::MAX);
    let before = gate.take();
    let counted = thread.join().unwrap();
    assert_eq!((before, gate.take()), (counted.into(), 0));
}

/// A permit that is there is given, and never one more than there are.
fn permits_are_exact() {
    let limit = Limit::new(2);
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let limit = Arc::clone(&limit);
            thread::spawn(move || limit.try_acquire())
        })
        .collect();
    let own = limit.try_acquire();
    let mut held: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    held.push(own);
    assert_eq!(held.iter().flatten().count(), 2, "two of three, whoever is faster");
    assert_eq!(limit.used(), 2);
    drop(held);
    assert_eq!(limit.used(), 0);
}

/// A sweep that moves old permits elsewhere neither refuses nor admits anybody for it, and loses none.
fn a_sweep_counts_each_permit_once() {
    let (limit, streams) = (Limit::new(2), Limit::new(1));
    let old = limit.try_acquire().unwrap();
    limit.move_old(Instant::at(SECOND), 10 * SECOND, &streams);
    let sweeping = {
        let (limit, streams) = (Arc::clone(&limit), Arc::clone(&streams));
        thread::spawn(move || limit.move_old(Instant::at(20 * SECOND), 10 * SECOND, &streams))
    };
    let taking = {
        let limit = Arc::clone(&limit);
        thread::spawn(move || assert!(limit.try_acquire().is_some(), "one of two is free, whatever is swept"))
    };
    drop(old);
    sweeping.join().unwrap();
    taking.join().unwrap();
    assert_eq!((limit.used(), streams.used()), (0, 0));
}

/// A ceiling that is lowered while permits are taken holds as soon as it is there.
fn a_lowered_ceiling_holds() {
    let limit = Limit::new(2);
    let held = limit.try_acquire().unwrap();
    let lowering = {
        let limit = Arc::clone(&limit);
        thread::spawn(move || {
            limit.set_max(1);
            limit.try_acquire().is_some()
        })
    };
    let other = limit.try_acquire();
    assert!(!lowering.join().unwrap(), "one is held");
    drop((held, other));
    assert_eq!(limit.used(), 0);
    assert!(limit.try_acquire().is_some());
}

/// No more retries than tokens, and what was not sent is there again.
fn the_budget_is_never_overdrawn() {
    let budget = Budget::new(Instant::at(Duration::ZERO));
    let spend = |budget: &Arc<Budget>| {
        budget.withdraw(Instant::at(Duration::ZERO)).map(|mut charge| {
            charge.sent();
        })
    };
    for _ in 0..9 {
        spend(&budget).unwrap();
    }
    let threads: Vec<_> = (0..2)
        .map(|unsent| {
            let budget = Arc::clone(&budget);
            thread::spawn(move || {
                let charge = budget.withdraw(Instant::at(Duration::ZERO));
                let took = charge.is_some();
                if let Some(mut charge) = charge
                    && unsent == 0
                {
                    charge.sent();
                }
                (took, unsent)
            })
        })
        .collect();
    let taken: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let spent = taken.iter().any(|(took, unsent)| *took && *unsent == 0);
    assert!(taken.iter().any(|(took, _)| *took), "the last one is for one of them");
    assert_eq!(spend(&budget).is_some(), !spent);
    assert!(spend(&budget).is_none());
}

/// The fill of a while is added once, whoever comes first after it.
fn what_time_fills_is_filled_once() {
    let budget = Budget::new(Instant::at(Duration::ZERO));
    while budget.withdraw(Instant::at(Duration::ZERO)).is_some_and(|mut charge| {
        charge.sent();
        true
    }) {}
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let budget = Arc::clone(&budget);
            thread::spawn(move || {
                budget.withdraw(Instant::at(10 * SECOND)).is_some_and(|mut charge| {
                    charge.sent();
                    true
                })
            })
        })
        .collect();
    let mut taken: usize = threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum();
    // Whoever came between the one who fills and what is filled may have gone without.
    while budget.withdraw(Instant::at(10 * SECOND)).is_some_and(|mut charge| {
        charge.sent();
        true
    }) {
        taken += 1;
    }
    assert_eq!(taken, 1, "ten seconds are one token");
}

/// A call is judged by the sweep or ended by its answer: by one of them, and never by both.
fn a_call_is_judged_or_answered() {
    let (ages, mut buckets, calls) = (Ages::default(), Buckets::default(), Arc::new(Unanswered::default()));
    ages.pass(&mut buckets, Instant::at(Duration::ZERO), SECOND);
    let (first, second) = (ages.now(), ages.now());
    calls.sent(first);
    calls.sent(second);
    ages.pass(&mut buckets, Instant::at(SECOND / 2), SECOND);
    let old = ages.pass(&mut buckets, Instant::at(2 * SECOND), SECOND);
    assert!(!old.is_empty());
    let answered = {
        let calls = Arc::clone(&calls);
        thread::spawn(move || u32::from(calls.over(first)))
    };
    let judged = calls.judge_all(&old);
    let answered = answered.join().unwrap() + u32::from(calls.over(second));
    assert_eq!(judged + answered, 2, "judged {judged}, answered {answered}");
    assert_eq!(calls.waiting(), 0);
}

/// A bucket whose turn has come again counts for its new name only.
fn a_bucket_that_is_taken_again_forgets_its_old_calls() {
    let (ages, mut buckets, calls) = (Ages::default(), Buckets::default(), Arc::new(Unanswered::default()));
    let mut named = Vec::new();
    for n in 0..9 {
        ages.pass(&mut buckets, Instant::at(n * SECOND), SECOND / 10);
        named.push(ages.now());
    }
    let (old, new) = (named[0], named[8]);
    calls.sent(old);
    let late = {
        let calls = Arc::clone(&calls);
        thread::spawn(move || calls.over(old))
    };
    calls.sent(new);
    late.join().unwrap();
    assert_eq!(calls.waiting(), 1, "the new one, whenever the old one ended");
    assert!(calls.over(new));
}

/// A connection on which somebody was answered after the calls that grew old is not silent.
fn an_answer_speaks_for_its_connection() {
    let (ages, mut buckets, line) = (Ages::default(), Buckets::default(), Arc::new(Line::default()));
    ages.pass(&mut buckets, Instant::at(Duration::ZERO), SECOND);
    let hung = ages.now();
    line.sent(hung);
    ages.pass(&mut buckets, Instant::at(SECOND / 2), SECOND);
    let answered = ages.now();
    line.sent(answered);
    line.answered(answered, answered);
    let old = ages.pass(&mut buckets, Instant::at(2 * SECOND), SECOND);
    let ending = {
        let line = Arc::clone(&line);
        thread::spawn(move || line.over(hung))
    };
    assert!(!line.is_silent(&old[..1]));
    ending.join().unwrap();
}

/// A bucket of two tokens that fills too slowly to matter.
fn two_tokens(interval: Duration) -> Rate {
    Rate::new(&BucketPolicy { max: 2, interval }, 1)
}

fn taking(bucket: &Arc<TokenBucket>) -> thread::JoinHandle<u32> {
    let bucket = Arc::clone(bucket);
    thread::spawn(move || bucket.take(Instant::at(Duration::ZERO)).is_ok().into())
}

/// A token is taken once, and a change of the rate neither makes one nor loses one.
fn a_change_of_rate_keeps_what_was_given_out() {
    let bucket = Arc::new(TokenBucket::new(two_tokens(3_600 * SECOND), Instant::at(Duration::ZERO)));
    let threads = [taking(&bucket), taking(&bucket)];
    bucket.set_rate(two_tokens(7_200 * SECOND), Instant::at(Duration::ZERO));
    let own = u32::from(bucket.take(Instant::at(Duration::ZERO)).is_ok());
    let taken = own + threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u32>();
    assert_eq!(taken, 2, "of three that asked");
    assert!(bucket.take(Instant::at(Duration::ZERO)).is_err());
}

/// A token that is given back while others take is there for one of them.
fn a_token_given_back_is_there_once() {
    let bucket = Arc::new(TokenBucket::new(two_tokens(3_600 * SECOND), Instant::at(Duration::ZERO)));
    bucket.take(Instant::at(Duration::ZERO)).unwrap();
    let threads = [taking(&bucket), taking(&bucket)];
    bucket.give_back();
    let mut taken: u32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    taken += u32::from(bucket.take(Instant::at(Duration::ZERO)).is_ok());
    assert_eq!(taken, 2, "all but the one that was used");
}

/// Outcomes that meet are all in the average.
fn no_outcome_is_lost() {
    let rate = Arc::new(SuccessRate::default());
    let failing = |rate: &Arc<SuccessRate>| {
        let rate = Arc::clone(rate);
        thread::spawn(move || rate.took(false, SECOND))
    };
    let threads = [failing(&rate), failing(&rate)];
    let surcharges = threads.map(|thread| thread.join().unwrap());
    assert!((rate.at(SECOND) - 0.98 * 0.98).abs() < 1e-6, "{}", rate.at(SECOND));
    assert_ne!(surcharges[0], surcharges[1], "one came after the other");
}

fn main() {
    model("a change of rate keeps what was given out", a_change_of_rate_keeps_what_was_given_out);
    model("a token given back is there once", a_token_given_back_is_there_once);
    model("no outcome is lost", no_outcome_is_lost);
    model("permits are exact", permits_are_exact);
    model("a sweep counts each permit once", a_sweep_counts_each_permit_once);
    model("a lowered ceiling holds", a_lowered_ceiling_holds);
    model("successes are counted once", successes_are_counted_once);
    model("a success belongs to its era", a_success_belongs_to_its_era);
    model("the budget is never overdrawn", the_budget_is_never_overdrawn);
    model("what time fills is filled once", what_time_fills_is_filled_once);
    model("a call is judged or answered", a_call_is_judged_or_answered);
    model("a bucket that is taken again forgets its old calls", a_bucket_that_is_taken_again_forgets_its_old_calls);
    model("an answer speaks for its connection", an_answer_speaks_for_its_connection);
}
