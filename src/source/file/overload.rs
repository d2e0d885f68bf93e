//! The grammar of `load_shed` and `adaptive_concurrency`, and how `config show` prints them.

use std::{ops::RangeInclusive, time::Duration};

use serde_json::json;

use super::{
    cursor::{Cursor, Fields, Wrong},
    show::map,
    traffic,
};
use crate::{
    enforcement::{Mode, Percent},
    shed::{AdaptiveAlgorithm, AdaptivePolicy, ShedPolicy, throttle::ThrottlePolicy},
    source::{document::Field, duration::format as duration},
};

/// Most requests that may be in work.
const MOST: u32 = 10_000_000;

/// `load_shed`.
pub(super) fn load_shed(fields: &mut Fields<'_, '_, '_>) -> Field<ShedPolicy> {
    let doc = "When a request is refused because too much is asked of this process. Default: never.";
    fields.field("load_shed", doc, |at| {
        at.map("a map with `max_in_flight` or `max_lag`", |fields| {
            let base = ShedPolicy::default();
            let doc = "How many requests may be in work. Default: no fixed limit.";
            let max_in_flight = fields.field("max_in_flight", doc, |at| at.integer(1..=MOST)).map(|set| set.value);
            let doc = "How long tasks that are ready may wait for a thread. Default 10ms; at least 1ms, or `off`.";
            let lag = fields.field("max_lag", doc, |at| at.duration_or_off(Duration::from_millis(1)));
            let policy = ShedPolicy {
                max_in_flight,
                max_lag: lag.map_or(base.max_lag, |set| set.value),
                percentage: traffic::percentage(fields, "percentage"),
                mode: traffic::mode(fields),
            };
            if policy.max_in_flight.is_none() && policy.max_lag.is_none() && policy.mode != Mode::Off {
                let wrong = Wrong::new("`load_shed` sheds nothing", "set `max_in_flight`, or remove `max_lag: off`");
                fields.report("max_lag", wrong);
            }
            policy
        })
    })
}

/// `adaptive_concurrency`.
pub(super) fn adaptive_concurrency(fields: &mut Fields<'_, '_, '_>) -> Field<AdaptivePolicy> {
    let doc = "A limit on the requests in work that follows how this process does. Default: none.";
    fields.field("adaptive_concurrency", doc, |at| {
        at.map("a map", |fields| {
            let base = AdaptivePolicy::default();
            let words = AdaptiveAlgorithm::ALL.map(|algorithm| (algorithm.as_str(), algorithm));
            let doc = "How it is found: `gradient2` (default), `vegas` or `aimd`.";
            let algorithm = fields.field("algorithm", doc, |at| at.choice("an algorithm", &words, &[]));
            let doc = "Where it begins. Default 20, or the nearest of the bounds.";
            let initial = fields.field("initial_limit", doc, |at| at.integer(1..=MOST));
            let min = fields.field("min_limit", "What it never falls below. Default 4; at least 1.", |at| at.integer(1..=MOST));
            let max = fields.field("max_limit", "What it never passes. Default 1000.", |at| at.integer(1..=MOST));
            let doc = "The shortest window, which has at least 50 requests. Default 100ms; at least 10ms.";
            let interval = fields.field("sample_interval", doc, |at| at.duration(Duration::from_millis(10)));
            let doc = "Which percentile of the time to answer counts. Default 90; 1 to 99.";
            let percentile = fields.field("percentile", doc, |at| at.integer(1..=99));
            let doc = "How often a window at half of the limit measures the time to answer without load, ±15%. Default 1m; \
                       at least 1s.";
            let min_rtt = fields.field("min_rtt_interval", doc, |at| at.duration(Duration::from_secs(1)));
            let doc = "How many times longer than without load answers may take. For `gradient2`. Default 1.5; 1 to 10.";
            let tolerance = fields.field("tolerance", doc, |at| decimal(at, 1.0..=10.0));
            let doc = "How far it goes at once to where it should be. For `gradient2`. Default 0.2; 0.01 to 1.";
            let smoothing = fields.field("smoothing", doc, |at| decimal(at, 0.01..=1.0));
            let (percentage, mode) = (traffic::percentage(fields, "percentage"), traffic::mode(fields));
            let (low, high) = (
                min.as_ref().map_or(base.min_limit, |set| set.value),
                max.as_ref().map_or(base.max_limit, |set| set.value),
            );
            let first = initial.as_ref().map_or(base.initial_limit.min(high).max(low), |set| set.value);
            if low > high {
                let key = if max.is_some() { "max_limit" } else { "min_limit" };
                let message = format!("`max_limit` ({high}) is below `min_limit` ({low})");
                fields.report(key, Wrong::new(message, "raise the one, or lower the other"));
            } else if !(low..=high).contains(&first) {
                let wrong = Wrong::new(format!("{first} is not between `min_limit` and `max_limit`"), format!("write {low} to {high}"));
                fields.report("initial_limit", wrong);
            }
            AdaptivePolicy {
                algorithm: algorithm.map_or(base.algorithm, |set| set.value),
                initial_limit: first,
                min_limit: low,
                max_limit: high,
                sample_interval: interval.map_or(base.sample_interval, |set| set.value),
                percentile: percentile.map_or(base.percentile, |set| set.value),
                min_rtt_interval: min_rtt.map_or(base.min_rtt_interval, |set| set.value),
                tolerance: tolerance.map_or(base.tolerance, |set| set.value),
                smoothing: smoothing.map_or(base.smoothing, |set| set.value),
                percentage,
                mode,
            }
        })
    })
}

/// A number such as `1.5`.
pub(super) fn decimal(at: Cursor<'_, '_, '_>, range: RangeInclusive<f64>) -> Option<f64> {
    let (min, max) = (*range.start(), *range.end());
    let schema = json!({ "anyOf": [
        { "type": "number", "minimum": min, "maximum": max },
        { "type": "string", "pattern": r"\$\{" },
    ] });
    at.scalar("a number", schema, |text| match text.parse::<f64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        Ok(_) => Err(Wrong::new(
            format!("{} is out of bounds", text.escape_debug()),
            format!("the value must be {min} to {max}"),
        )),
        Err(_) => Err(Wrong::new(
            format!("`{}` is not a number", text.escape_debug()),
            format!("write a number from {min} to {max}"),
        )),
    })
}

fn one(key: &str, value: impl Into<String>) -> (String, String) {
    (key.to_owned(), value.into())
}

/// A `load_shed` as a flow map.
pub(super) fn shown_shed(policy: &ShedPolicy) -> String {
    let mut parts = Vec::new();
    parts.extend(policy.max_in_flight.map(|max| one("max_in_flight", max.to_string())));
    parts.push(one("max_lag", policy.max_lag.map_or_else(|| "off".into(), duration)));
    parts.push(one("percentage", policy.percentage.to_string()));
    parts.push(one("mode", policy.mode.as_str()));
    map(&parts)
}

/// An `adaptive_concurrency` as a flow map.
pub(super) fn shown_adaptive(policy: &AdaptivePolicy) -> String {
    map(&[
        one("algorithm", policy.algorithm.as_str()),
        one("initial_limit", policy.initial_limit.to_string()),
        one("min_limit", policy.min_limit.to_string()),
        one("max_limit", policy.max_limit.to_string()),
        one("sample_interval", duration(policy.sample_interval)),
        one("percentile", policy.percentile.to_string()),
        one("min_rtt_interval", duration(policy.min_rtt_interval)),
        one("tolerance", policy.tolerance.to_string()),
        one("smoothing", policy.smoothing.to_string()),
        one("percentage", policy.percentage.to_string()),
        one("mode", policy.mode.as_str()),
    ])
}

/// `throttle`.
pub(super) fn throttle(fields: &mut Fields<'_, '_, '_>) -> Field<ThrottlePolicy> {
    let doc = "Calls are refused here in the share in which the service refuses them for overload. Default: never.";
    fields.field("throttle", doc, |at| {
        at.map("a map", |fields| {
            let base = ThrottlePolicy::default();
            let doc = "How many times more calls are made than are accepted before some are refused here. Default 2; 1 to \
                       100.";
            let multiplier = fields.field("multiplier", doc, |at| decimal(at, 1.0..=100.0));
            let doc = "How long calls are remembered. Default 10s; 1s to 10m.";
            let window = fields.field("window", doc, |at| at.duration(Duration::from_secs(1)));
            if let Some(set) = window.as_ref().filter(|set| set.value > Duration::from_secs(600)) {
                let wrong = Wrong::new(format!("`{}` is too long", duration(set.value)), "write at most `10m`");
                fields.report("window", wrong);
            }
            let doc = "The largest share that is refused here. Default 80%.";
            let most = fields.field("max_rejection", doc, |at| at.percent());
            ThrottlePolicy {
                multiplier: multiplier.map_or(base.multiplier, |set| set.value),
                window: window.map_or(base.window, |set| set.value),
                max_rejection: most.map_or(base.max_rejection, |set| Percent::of_millionths(set.value)),
                percentage: traffic::percentage(fields, "percentage"),
                mode: traffic::mode(fields),
            }
        })
    })
}

/// A `throttle` as a flow map.
pub(super) fn shown_throttle(policy: &ThrottlePolicy) -> String {
    map(&[
        one("multiplier", policy.multiplier.to_string()),
        one("window", duration(policy.window)),
        one("max_rejection", policy.max_rejection.to_string()),
        one("percentage", policy.percentage.to_string()),
        one("mode", policy.mode.as_str()),
    ])
}
