//! The grammar of `retry` and `hedge`.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use super::{
    cursor::{Cursor, Fields, Wrong},
    grammar::MIN_TIMEOUT,
    routes::{header_name, string_match},
    traffic::{enforcement, share},
};
use crate::{
    model::Origin,
    retry::{Condition, HedgeMode, Jitter, LARGEST_BUFFER, MOST_HEDGES, MOST_RETRIES},
    source::{
        document::{Field, Set},
        retry::PartialRetries,
    },
};

/// Both keys, as `defaults`, services and routes have them.
pub(super) fn retries(fields: &mut Fields<'_, '_, '_>) -> PartialRetries {
    let retry = fields.group(
        "retry",
        "What is sent again, and how often. `off` sends once; what never left, or what the peer names unprocessed, is sent \
         again in any case.",
        retry,
    );
    let hedge = fields.group("hedge", "Asking another endpoint before the first has answered. Default `off`.", hedge);
    retry.over(hedge)
}

fn small(at: Cursor<'_, '_, '_>, min: u8, max: u8) -> Option<u8> {
    at.integer(min.into()..=max.into()).map(|number| number as u8)
}

/// Sets a field from a word that stands for the whole.
fn whole<T>(at: &Cursor<'_, '_, '_>, value: T) -> Field<T> {
    let origin = at.node.map_or(Origin::Default, |node| Origin::File(at.reading.place(node.mark)));
    Some(Set::new(value, origin))
}

fn off(at: Cursor<'_, '_, '_>, what: &str) -> Option<()> {
    at.choice(what, &[("off", ())], &[])
}

fn retry(at: Cursor<'_, '_, '_>) -> Option<PartialRetries> {
    at.scalar_or(
        |at| {
            let num_retries = whole(&at, 0);
            off(at, "`off`, or a map").map(|()| PartialRetries { num_retries, ..PartialRetries::default() })
        },
        |at| at.map("`off`, or a map", retry_fields),
    )
}

fn retry_fields(fields: &mut Fields<'_, '_, '_>) -> PartialRetries {
    let mut partial = PartialRetries {
        num_retries: fields.field("num_retries", "How often a call is sent again. Default 2, 0 to 10.", |at| {
            small(at, 0, MOST_RETRIES)
        }),
        ..PartialRetries::default()
    };
    let doc = "One condition or a list: `connect-failure`, `refused-stream`, `reset-before-request` (these three are the \
               default), `5xx`, `gateway-error`, `reset`, `retriable-4xx`, `retriable-status-codes`, `retriable-headers`, \
               and for gRPC `cancelled`, `deadline-exceeded`, `internal`, `resource-exhausted`, `unavailable`.";
    let conditions =
        fields.field("retry_on", doc, |at| at.one_or_list("a condition, or a list of conditions", condition));
    partial.retry_on =
        conditions.map(|set| Set::new(set.value.into_iter().map(|item| item.value).collect(), set.origin));
    let codes = fields.field("retriable_status_codes", "Statuses for `retriable-status-codes`, 100 to 599.", |at| {
        at.one_or_list("a status, or a list of statuses", |at| {
            at.integer(100..=599).and_then(|code| StatusCode::from_u16(code as u16).ok())
        })
    });
    partial.retriable_status_codes =
        codes.map(|set| Set::new(set.value.into_iter().map(|item| item.value).collect(), set.origin));
    partial.retriable_headers = headers(
        fields,
        "retriable_headers",
        "For `retriable-headers`: any of these response headers, each with a text or a condition.",
    );
    partial.retriable_request_headers = headers(
        fields,
        "retriable_request_headers",
        "Only requests with any of these headers are sent again. Default: all.",
    );
    partial.require_idempotent = fields.field(
        "require_idempotent",
        "Whether what may have been processed is sent again only for idempotent methods, with an `idempotency-key`, or \
         where the call says so. Default true.",
        |at| at.boolean(),
    );
    partial.per_try_timeout = fields.field(
        "per_try_timeout",
        "One attempt, from dispatch to response headers, in place of `timeouts.per_try`. At least 1ms, or `off`.",
        |at| at.duration_or_off(MIN_TIMEOUT),
    );
    let back_off = fields.group("retry_back_off", "How long to wait before a retry.", |at| {
        at.map("a map", |fields| PartialRetries {
            base_interval: fields.field("base_interval", "The scale of the waits. Default 25ms, at least 1ms.", |at| {
                at.duration(MIN_TIMEOUT)
            }),
            max_interval: fields.field(
                "max_interval",
                "No wait is longer. Default ten times `base_interval`, at least that.",
                |at| at.duration(MIN_TIMEOUT),
            ),
            jitter: fields.field(
                "jitter",
                "`full` (default: from 0 to (2^n - 1) times the base), `equal`, `decorrelated` or `grpc` (2^(n-1) times the \
                 base, by up to 20% more or less).",
                |at| {
                    let all = [Jitter::Full, Jitter::Equal, Jitter::Decorrelated, Jitter::Grpc];
                    at.choice("a kind of jitter", &all.map(|jitter| (jitter.as_str(), jitter)), &[])
                },
            ),
            ..PartialRetries::default()
        })
    });
    let pushed = fields.group("rate_limited_retry_back_off", "How long a peer may make a retry wait.", |at| {
        at.map("a map", |fields| PartialRetries {
            max_push_back: fields.field(
                "max_interval",
                "`retry-after`, `x-ratelimit-reset` and `grpc-retry-pushback-ms` are cut to this. Default 30s.",
                |at| at.duration(Duration::ZERO),
            ),
            ..PartialRetries::default()
        })
    });
    partial.max_request_buffer = fields.field(
        "max_request_buffer_bytes",
        "How much of a streamed request body is kept; a longer one is sent once. Default 65536, at most 8388608.",
        |at| at.integer(0..=LARGEST_BUFFER),
    );
    partial.peek_trailers = fields.field(
        "peek_trailers",
        "Whether up to 20ms are waited for a gRPC status in trailers, where `retry_on` has a gRPC code. Default true.",
        |at| at.boolean(),
    );
    let least = fields.field(
        "min_remaining",
        "What must remain of the deadline after the wait. Default: as long as half of the calls take.",
        |at| at.duration(Duration::ZERO),
    );
    partial.min_remaining = least.map(|set| Set::new(Some(set.value), set.origin));
    partial.tree_allowance = fields.field(
        "tree_allowance",
        "How many further attempts the whole tree of calls may make whose root this process is. Default 2, 0 to 10.",
        |at| small(at, 0, MOST_RETRIES),
    );
    partial.percentage = share(fields, "The share of the retries that are decided that is really made. Default 100%.");
    let doc = "`off`, `shadow` (decides and counts, makes none) or `enforce` (default).";
    partial.enforcement = enforcement(fields, doc);
    partial.over(back_off).over(pushed)
}

fn condition(at: Cursor<'_, '_, '_>) -> Option<Condition> {
    let words: Vec<_> = Condition::ALL.iter().map(|condition| (condition.as_str(), *condition)).collect();
    at.choice("a condition", &words, &["envoy-ratelimited", "http3-post-connect-failure"])
}

fn headers(
    fields: &mut Fields<'_, '_, '_>,
    key: &'static str,
    doc: &str,
) -> Field<Vec<(http::HeaderName, crate::matching::StringMatch)>> {
    let headers =
        fields.field(key, doc, |at| at.keyed("a map from header names to conditions", header_name, string_match))?;
    let pairs = headers.value.into_iter().map(|(name, set)| (name, set.value)).collect();
    Some(Set::new(pairs, headers.origin))
}

fn hedge(at: Cursor<'_, '_, '_>) -> Option<PartialRetries> {
    at.scalar_or(
        |at| {
            let hedge = whole(&at, HedgeMode::Off);
            off(at, "`off`, or a map").map(|()| PartialRetries { hedge, ..PartialRetries::default() })
        },
        |at| at.map("`off`, or a map with `delay`, `percentile` or `mode`", hedge_fields),
    )
}

/// What `mode` says; absent, it follows from its setting.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Off,
    Fixed,
    Percentile,
    PerTryTimeout,
}

fn hedge_fields(fields: &mut Fields<'_, '_, '_>) -> PartialRetries {
    let mode = fields.field(
        "mode",
        "`off`, `fixed` (after `delay`), `percentile` (when slower than `percentile` of the calls), or `per_try_timeout` \
         (when that passes, and the late attempt goes on). Default: by the setting that is there.",
        |at| {
            let words = [
                ("off", Mode::Off),
                ("fixed", Mode::Fixed),
                ("percentile", Mode::Percentile),
                ("per_try_timeout", Mode::PerTryTimeout),
            ];
            at.choice("a mode of hedging", &words, &[])
        },
    );
    let delay =
        fields.field("delay", "After how long another endpoint is asked. At least 1ms.", |at| at.duration(MIN_TIMEOUT));
    let percentile = fields.field("percentile", "50 to 99.9; from 100 calls on, of the last minute.", percentile);
    let mut partial = PartialRetries {
        max_hedged_attempts: fields.field(
            "max_hedged_attempts",
            "How many attempts may run besides the first. Default 1, 1 to 4.",
            |at| small(at, 1, MOST_HEDGES),
        ),
        max_extra_load_percent: fields.field(
            "max_extra_load_percent",
            "How many of 100 calls may be hedged. Default 5, 1 to 99. The retry budget holds as well.",
            |at| small(at, 1, 99),
        ),
        hedge_idempotent: fields.field(
            "require_idempotent",
            "Whether only idempotent calls are hedged. Default true.",
            |at| at.boolean(),
        ),
        ..PartialRetries::default()
    };
    partial.hedge_percentage =
        share(fields, "The share of the hedges that are decided that is really sent. Default 100%.");
    let doc = "`off`, `shadow` (decides and counts, sends none) or `enforce` (default).";
    partial.hedge_enforcement = enforcement(fields, doc);
    fields.at_most_one(&["delay", "percentile"]);
    let origin = mode
        .as_ref()
        .map(|set| set.origin.clone())
        .or_else(|| delay.as_ref().map(|set| set.origin.clone()))
        .or_else(|| percentile.as_ref().map(|set| set.origin.clone()));
    let said = |key: &str| fields.has(key);
    let needs = |key: &str, mode: &str| {
        Wrong::new(format!("`mode: {mode}` needs `{key}`"), format!("add `{key}`, or choose another mode"))
    };
    let wrong = match mode.as_ref().map(|set| set.value) {
        Some(Mode::Fixed) if !said("delay") => Some(needs("delay", "fixed")),
        Some(Mode::Percentile) if !said("percentile") => Some(needs("percentile", "percentile")),
        Some(Mode::Off | Mode::PerTryTimeout | Mode::Percentile) if said("delay") => {
            Some(Wrong::new("`delay` is for `mode: fixed`", "remove `delay`, or write `mode: fixed`"))
        }
        Some(Mode::Off | Mode::PerTryTimeout | Mode::Fixed) if said("percentile") => Some(Wrong::new(
            "`percentile` is for `mode: percentile`",
            "remove `percentile`, or write `mode: percentile`",
        )),
        _ => None,
    };
    if let Some(wrong) = wrong {
        fields.report("mode", wrong);
    }
    let value = match mode.map(|set| set.value) {
        Some(Mode::Off) => Some(HedgeMode::Off),
        Some(Mode::PerTryTimeout) => Some(HedgeMode::PerTryTimeout),
        Some(Mode::Fixed) => delay.map(|set| HedgeMode::Fixed(set.value)),
        Some(Mode::Percentile) => percentile.map(|set| HedgeMode::Percentile(set.value)),
        None => delay.map(|set| HedgeMode::Fixed(set.value)).or(percentile.map(|set| HedgeMode::Percentile(set.value))),
    };
    partial.hedge = value.zip(origin).map(|(value, origin)| Set::new(value, origin));
    partial
}

fn percentile(at: Cursor<'_, '_, '_>) -> Option<f32> {
    let schema = json!({ "anyOf": [
        { "type": "number", "minimum": 50, "maximum": 99.9 },
        { "type": "string", "pattern": r"\$\{" },
    ] });
    at.scalar("a percentile such as `95`", schema, |text| match text.parse::<f32>() {
        Ok(number) if (50.0..=99.9).contains(&number) => Ok(number),
        _ => Err(Wrong::new(
            format!("`{}` is not a percentile of 50 to 99.9", text.escape_debug()),
            "write a number such as `95` or `99.5`, without `%`",
        )),
    })
}
