//! The grammar of `circuit_breakers.breaker`, and how `config show` prints it.

use std::time::Duration;

use super::{
    cursor::{Cursor, Fields, Wrong},
    show::map,
    traffic,
};
use crate::{
    breaker::{CircuitPolicy, CircuitWindow},
    enforcement::Percent,
    source::{document::Field, duration::format as duration},
};

/// `breaker`.
pub(super) fn breaker(fields: &mut Fields<'_, '_, '_>) -> Field<CircuitPolicy> {
    let doc = "When the service is left alone because most calls to it fail or take too long. Default: never.";
    fields.field("breaker", doc, |at| at.map("a map", policy).flatten())
}

fn policy(fields: &mut Fields<'_, '_, '_>) -> Option<CircuitPolicy> {
    let base = CircuitPolicy::default();
    let doc = "The share of failed calls at which it opens. Default 50%; above 0.";
    let failures = fields.field("failure_rate_threshold", doc, |at| at.percent());
    let doc = "From how long on a call is slow, from dispatch to response headers. Default 60s; at least 1ms.";
    let slow = fields.field("slow_call_duration", doc, |at| at.duration(Duration::from_millis(1)));
    let doc = "The share of slow calls at which it opens. Default 100%; above 0.";
    let slow_rate = fields.field("slow_call_rate_threshold", doc, |at| at.percent());
    let doc =
        "Which calls are remembered: those of so long, 1s to 10m, or the last `{calls: 100}`, 1 to 10000. Default 10s.";
    let window = fields.field("window", doc, window);
    let doc = "With fewer calls in the window it stays closed. Default 20; at least 1.";
    let minimum = fields.field("minimum_calls", doc, |at| at.integer(1..=1_000_000));
    let doc = "How long it stays open at first; each time that the service still fails, twice as long. Default 5s; at least \
               100ms.";
    let wait = fields.field("wait_in_open", doc, |at| at.duration(Duration::from_millis(100)));
    let doc = "The longest that it stays open. Default 60s, or `wait_in_open` if that is longer.";
    let longest = fields.field("max_wait_in_open", doc, |at| at.duration(Duration::from_millis(100)));
    let doc = "How many calls find out at first whether it is well again; twice as many after each round that succeeds, until \
               8 at once did. Default 1; 1 to 100.";
    let probes = fields.field("half_open_calls", doc, |at| at.integer(1..=100));
    let wait = wait.map_or(base.wait_in_open, |set| set.value);
    let policy = CircuitPolicy {
        failure_rate_threshold: failures.map_or(base.failure_rate_threshold, |set| Percent::of_millionths(set.value)),
        slow_call_duration: slow.map_or(base.slow_call_duration, |set| set.value),
        slow_call_rate_threshold: slow_rate
            .map_or(base.slow_call_rate_threshold, |set| Percent::of_millionths(set.value)),
        window: window.map_or(base.window, |set| set.value),
        minimum_calls: minimum.map_or(base.minimum_calls, |set| set.value),
        wait_in_open: wait,
        max_wait_in_open: longest.map_or(base.max_wait_in_open.max(wait), |set| set.value),
        half_open_calls: probes.map_or(base.half_open_calls, |set| set.value),
        percentage: traffic::percentage(fields, "percentage"),
        mode: traffic::mode(fields),
    };
    let Err((field, reason)) = policy.check() else { return Some(policy) };
    let help = match field {
        "failure_rate_threshold" | "slow_call_rate_threshold" => "to turn the breaker off write `mode: off`",
        "window" => "write a time such as `10s`, or `{calls: 100}`",
        "minimum_calls" => "make it smaller, or the window larger",
        _ => "make the longest wait at least the first one",
    };
    fields.report(field, Wrong::new(reason, help));
    None
}

fn window(at: Cursor<'_, '_, '_>) -> Option<CircuitWindow> {
    at.scalar_or(
        |at| at.duration(Duration::from_millis(1)).map(CircuitWindow::Time),
        |at| {
            at.map("a map such as `{calls: 100}`", |fields| {
                let calls = fields.field("calls", "The last so many. 1 to 10000.", |at| at.integer(1..=10_000));
                fields.exactly_one(&["calls"]);
                Some(CircuitWindow::Calls(calls?.value))
            })
            .flatten()
        },
    )
}

fn one(key: &str, value: impl Into<String>) -> (String, String) {
    (key.to_owned(), value.into())
}

/// A `breaker` as a flow map.
pub(super) fn shown(policy: &CircuitPolicy) -> String {
    map(&[
        one("failure_rate_threshold", policy.failure_rate_threshold.to_string()),
        one("slow_call_duration", duration(policy.slow_call_duration)),
        one("slow_call_rate_threshold", policy.slow_call_rate_threshold.to_string()),
        one(
            "window",
            match policy.window {
                CircuitWindow::Time(window) => duration(window),
                CircuitWindow::Calls(calls) => map(&[one("calls", calls.to_string())]),
            },
        ),
        one("minimum_calls", policy.minimum_calls.to_string()),
        one("wait_in_open", duration(policy.wait_in_open)),
        one("max_wait_in_open", duration(policy.max_wait_in_open)),
        one("half_open_calls", policy.half_open_calls.to_string()),
        one("percentage", policy.percentage.to_string()),
        one("mode", policy.mode.as_str()),
    ])
}
