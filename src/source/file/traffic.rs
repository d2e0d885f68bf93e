//! The grammar of a route's built-in policies, and how `config show` prints them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::StatusCode;
use serde_json::json;

use super::{
    cursor::{Cursor, Fields, Wrong},
    limits::{self, Side},
    show::map,
};
use crate::{
    enforcement::{Mode, Percent},
    fault::{Abort, Delay, FaultAbort, FaultDelay, FaultPolicy, FaultRate, Rate},
    mirror::MirrorPolicy,
    model::{Origin, RouteMirror, RouteOptions},
    name::SubsetName,
    source::{document::Field, duration::format as duration},
};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Who set what, by path inside the route.
type Origins = BTreeMap<&'static str, Origin>;

/// The keys of a route that are policies.
pub(super) fn options(fields: &mut Fields<'_, '_, '_>) -> (RouteOptions, Origins) {
    let (mut options, mut origins) = (RouteOptions::default(), Origins::new());
    let doc = "Delays, aborts and slow responses on purpose, rolled independently of each other. Default: none.";
    options.fault = taken(fields.field("fault", doc, fault), "fault", &mut origins);
    options.rate_limit = taken(limits::rate_limit(fields, Side::Called), "rate_limit", &mut origins);
    let doc = "Copies of requests to other endpoints, whose answers nobody waits for. Default: none.";
    let mut to = None;
    let mirror = fields.field("mirror", doc, |at| mirror(at, &mut to));
    options.mirror = taken(mirror, "mirror", &mut origins);
    origins.extend(to.map(|to| ("mirror.to", to)));
    (options, origins)
}

fn taken<T>(field: Field<T>, key: &'static str, origins: &mut Origins) -> Option<T> {
    let set = field?;
    origins.insert(key, set.origin);
    Some(set.value)
}

/// The policies of a route as flow maps.
pub(super) fn shown(options: &RouteOptions) -> Vec<(&'static str, String)> {
    let fault = options.fault.iter().map(|fault| ("fault", show_fault(fault)));
    let mirror = options.mirror.iter().map(|mirror| ("mirror", show_mirror(mirror)));
    let limit = options.rate_limit.iter().map(|limit| ("rate_limit", limits::shown(limit)));
    fault.chain(mirror).chain(limit).collect()
}

pub(super) fn mode(fields: &mut Fields<'_, '_, '_>) -> Mode {
    let doc = "`off`, `shadow` (decides and counts, does nothing) or `enforce` (default).";
    let words = [("off", Mode::Off), ("shadow", Mode::Shadow), ("enforce", Mode::Enforce)];
    fields.field("mode", doc, |at| at.choice("a mode", &words, &[])).map_or(Mode::Enforce, |set| set.value)
}

pub(super) fn percentage(fields: &mut Fields<'_, '_, '_>, key: &'static str) -> Percent {
    let percent = fields.field(key, "The share of requests. Default 100%.", |at| at.percent());
    percent.map_or(Percent::ALL, |set| Percent::of_millionths(set.value))
}

/// `percentage`, and who says so.
pub(super) fn share(fields: &mut Fields<'_, '_, '_>, doc: &str) -> Field<Percent> {
    fields.field("percentage", doc, |at| at.percent().map(Percent::of_millionths))
}

/// `enforcement`, and who says so.
pub(super) fn enforcement(fields: &mut Fields<'_, '_, '_>, doc: &str) -> Field<Mode> {
    let words = [Mode::Off, Mode::Shadow, Mode::Enforce].map(|mode| (mode.as_str(), mode));
    fields.field("enforcement", doc, |at| at.choice("a mode", &words, &[]))
}

fn fault(at: Cursor<'_, '_, '_>) -> Option<FaultPolicy> {
    at.map("a map with `delay`, `abort` or `response_rate_limit`", |fields| {
        let policy = FaultPolicy {
            delay: fields.field("delay", "Time before the request is sent.", delay).map(|set| set.value),
            abort: fields.field("abort", "An answer in place of the service's.", abort).map(|set| set.value),
            response_rate_limit: fields
                .field("response_rate_limit", "A response body slower than it comes.", rate)
                .map(|set| set.value),
            max_active_faults: fields
                .field(
                    "max_active_faults",
                    "Calls under a fault at a time; others go untouched. Default: no bound.",
                    |at| at.integer(1..=10_000_000),
                )
                .map(|set| set.value),
            expires_after: fields
                .field(
                    "expires_after",
                    "Faults of a policy that is not changed end by themselves after this. Default 1h; `off` is for \
                     ever.",
                    |at| at.duration_or_off(MILLISECOND),
                )
                .map_or(Some(FaultPolicy::EXPIRES_AFTER), |set| set.value),
            mode: mode(fields),
        };
        if !["delay", "abort", "response_rate_limit"].iter().any(|key| fields.has(key)) {
            let help = "write `{delay: {fixed_delay: 7s}}` or `{abort: {http_status: 503}}`";
            fields.report("", Wrong::new("`fault` injects nothing", help));
        }
        policy
    })
}

fn mirror(at: Cursor<'_, '_, '_>, to_origin: &mut Option<Origin>) -> Option<RouteMirror> {
    at.map("a map such as `{to: v2, percent: 10%}`", |fields| {
        let default = MirrorPolicy::default();
        let to = fields.field("to", "The subset that gets the copies. Default: all endpoints.", |at| {
            at.parsed::<SubsetName>("the name of a subset")
        });
        *to_origin = to.as_ref().map(|set| set.origin.clone());
        let policy = MirrorPolicy {
            percent: percentage(fields, "percent"),
            timeout: fields
                .field(
                    "timeout",
                    "How long a copy may take, its response included. Default: the route's or service's request timeout, \
                     else 15s; at least 1ms.",
                    |at| at.duration(MILLISECOND),
                )
                .map(|set| set.value),
            max_concurrent: fields
                .field(
                    "max_concurrent",
                    "Copies in flight; beyond it requests are not copied. Default 100; at least 1. They take no place of \
                     `circuit_breakers`.",
                    |at| at.integer(1..=100_000),
                )
                .map_or(default.max_concurrent, |set| set.value),
            max_body_bytes: fields
                .field(
                    "max_body_bytes",
                    "Requests with longer bodies are not copied. Default 65536; at most 8388608.",
                    |at| at.integer(0..=MirrorPolicy::MAX_BODY_BYTES),
                )
                .map_or(default.max_body_bytes, |set| set.value),
            host_suffix: fields
                .field("host_suffix", "What the copy's host gets appended. Default `-shadow`; may be empty.", |at| {
                    at.scalar("a suffix", json!({ "type": "string", "maxLength": 63 }), host_suffix)
                })
                .map_or(default.host_suffix, |set| set.value),
            forward_credentials: fields
                .field(
                    "forward_credentials",
                    "Whether `authorization`, `proxy-authorization` and `cookie` are copied. Default false.",
                    |at| at.boolean(),
                )
                .is_some_and(|set| set.value),
            mode: mode(fields),
        };
        RouteMirror { to: to.map(|set| set.value), policy }
    })
}

fn host_suffix(text: &str) -> Result<Arc<str>, Wrong> {
    let suffix: Arc<str> = text.into();
    match (MirrorPolicy { host_suffix: Arc::clone(&suffix), ..MirrorPolicy::default() }).check() {
        Ok(()) => Ok(suffix),
        Err((_, reason)) => Err(Wrong::new(format!("`{}` cannot be appended to a host", text.escape_debug()), reason)),
    }
}

fn show_mirror(mirror: &RouteMirror) -> String {
    let policy = &mirror.policy;
    let mut parts = Vec::new();
    parts.extend(mirror.to.as_ref().map(|to| ("to".to_owned(), to.to_string())));
    parts.extend(one("percent", policy.percent.to_string()));
    parts.extend(policy.timeout.map(|timeout| ("timeout".to_owned(), duration(timeout))));
    parts.extend(one("max_concurrent", policy.max_concurrent.to_string()));
    parts.extend(one("max_body_bytes", policy.max_body_bytes.to_string()));
    parts.extend(one("host_suffix", format!("\"{}\"", policy.host_suffix)));
    parts.extend(one("forward_credentials", policy.forward_credentials.to_string()));
    parts.extend(one("mode", policy.mode.as_str().into()));
    map(&parts)
}

fn bounded_delay(at: Cursor<'_, '_, '_>, min: Duration) -> Option<Duration> {
    let mark = at.node.map(|node| node.mark);
    let reading = at.reading;
    let delay = Cursor { reading: &mut *reading, node: at.node }.duration(min)?;
    if delay > FaultPolicy::MAX_DELAY {
        if let Some(mark) = mark {
            reading.report(mark, Wrong::new("a delay is at most one hour", "write `1h` or less"));
        }
        return None;
    }
    Some(delay)
}

fn delay(at: Cursor<'_, '_, '_>) -> Option<FaultDelay> {
    at.map("a map such as `{fixed_delay: 7s, percentage: 10%}`", |fields| {
        let fixed = fields
            .field("fixed_delay", "Always this long. At least 1ms, at most 1h.", |at| bounded_delay(at, MILLISECOND));
        let range = fields.field("range", "Uniformly between `min` and `max`.", |at| {
            at.map("a map with `min` and `max`", |fields| {
                let min = fields.field("min", "The shortest. Default 0s.", |at| bounded_delay(at, Duration::ZERO));
                let max = fields.field("max", "The longest.", |at| bounded_delay(at, MILLISECOND));
                fields.exactly_one(&["max"]);
                let (min, max) = (min.map_or(Duration::ZERO, |set| set.value), max?.value);
                if min > max {
                    fields.report("min", Wrong::new("`min` is longer than `max`", "exchange them"));
                    return None;
                }
                Some(Delay::Range { min, max })
            })
            .flatten()
        });
        let exponential = fields.field("exponential", "Exponentially distributed, at most ten times its mean.", |at| {
            at.map("a map with `mean`", |fields| {
                let mean = fields.field("mean", "The mean.", |at| bounded_delay(at, MILLISECOND));
                fields.exactly_one(&["mean"]);
                Some(Delay::Exponential { mean: mean?.value })
            })
            .flatten()
        });
        let header = fields.field("header_delay", "As the request's header `sinew-fault: delay=250ms` says.", |at| {
            at.map("a map with `max`", |fields| {
                let max = fields
                    .field("max", "Longer wishes are cut to this. Default 1m.", |at| bounded_delay(at, MILLISECOND));
                Delay::Header { max: max.map_or(Duration::from_secs(60), |set| set.value) }
            })
        });
        let percentage = percentage(fields, "percentage");
        fields.exactly_one(&["fixed_delay", "range", "exponential", "header_delay"]);
        let delay = fixed
            .map(|set| Delay::Fixed(set.value))
            .or(range.map(|set| set.value))
            .or(exponential.map(|set| set.value))
            .or(header.map(|set| set.value))?;
        Some(FaultDelay { delay, percentage })
    })
    .flatten()
}

fn abort(at: Cursor<'_, '_, '_>) -> Option<FaultAbort> {
    at.map("a map such as `{http_status: 503, percentage: 10%}`", |fields| {
        let http = fields.field("http_status", "With this status, 200 to 599.", |at| at.integer(200..=599));
        let grpc = fields.field("grpc_status", "With this gRPC status, 1 to 16.", |at| at.integer(1..=16));
        let reset =
            fields.field("reset", "`true`: without an answer, as if the connection had broken.", |at| at.boolean());
        let header = fields.field(
            "header_abort",
            "As the request's header says: `sinew-fault: abort=503`, `abort=grpc-14` or `abort=reset`.",
            |at| at.map("an empty map", |_| ()),
        );
        let percentage = percentage(fields, "percentage");
        fields.exactly_one(&["http_status", "grpc_status", "reset", "header_abort"]);
        if reset.as_ref().is_some_and(|set| !set.value) {
            fields.report("reset", Wrong::new("`reset: false` aborts nothing", "write `reset: true`, or remove it"));
            return None;
        }
        let status = |number: u32| StatusCode::from_u16(u16::try_from(number).ok()?).ok();
        let abort = http
            .and_then(|set| status(set.value).map(Abort::Http))
            .or(grpc.map(|set| Abort::Grpc(set.value as u8)))
            .or(reset.map(|_| Abort::Reset))
            .or(header.map(|_| Abort::Header))?;
        Some(FaultAbort { abort, percentage })
    })
    .flatten()
}

fn rate(at: Cursor<'_, '_, '_>) -> Option<FaultRate> {
    const FASTEST: u32 = 1024 * 1024;
    at.map("a map such as `{kib_per_second: 16, percentage: 10%}`", |fields| {
        let fixed = fields.field("kib_per_second", "KiB per second, at least 1.", |at| at.integer(1..=FASTEST));
        let header = fields.field("header_limit", "As the request's header `sinew-fault: rate=16` says.", |at| {
            at.map("a map with `min`", |fields| {
                let min =
                    fields.field("min", "Slower wishes are raised to this. Default 1.", |at| at.integer(1..=FASTEST));
                Rate::Header { min: min.map_or(1, |set| set.value) }
            })
        });
        let percentage = percentage(fields, "percentage");
        fields.exactly_one(&["kib_per_second", "header_limit"]);
        let rate = fixed.map(|set| Rate::Fixed(set.value)).or(header.map(|set| set.value))?;
        Some(FaultRate { rate, percentage })
    })
    .flatten()
}

type Pairs = Vec<(String, String)>;

fn one(key: &str, value: String) -> Pairs {
    vec![(key.to_owned(), value)]
}

fn show_fault(policy: &FaultPolicy) -> String {
    let mut parts = Vec::new();
    let mut part = |key: &str, mut what: Pairs, percentage: Percent| {
        what.extend(one("percentage", percentage.to_string()));
        parts.extend(one(key, map(&what)));
    };
    if let Some(FaultDelay { delay, percentage }) = policy.delay {
        let what = match delay {
            Delay::Fixed(delay) => one("fixed_delay", duration(delay)),
            Delay::Range { min, max } => one("range", format!("{{min: {}, max: {}}}", duration(min), duration(max))),
            Delay::Exponential { mean } => one("exponential", format!("{{mean: {}}}", duration(mean))),
            Delay::Header { max } => one("header_delay", format!("{{max: {}}}", duration(max))),
        };
        part("delay", what, percentage);
    }
    if let Some(FaultAbort { abort, percentage }) = policy.abort {
        let what = match abort {
            Abort::Http(status) => one("http_status", status.as_u16().to_string()),
            Abort::Grpc(status) => one("grpc_status", status.to_string()),
            Abort::Reset => one("reset", "true".into()),
            Abort::Header => one("header_abort", "{}".into()),
        };
        part("abort", what, percentage);
    }
    if let Some(FaultRate { rate, percentage }) = policy.response_rate_limit {
        let what = match rate {
            Rate::Fixed(rate) => one("kib_per_second", rate.to_string()),
            Rate::Header { min } => one("header_limit", format!("{{min: {min}}}")),
        };
        part("response_rate_limit", what, percentage);
    }
    parts.extend(policy.max_active_faults.map(|max| ("max_active_faults".to_owned(), max.to_string())));
    parts.extend(one("expires_after", policy.expires_after.map_or_else(|| "off".into(), duration)));
    parts.extend(one("mode", policy.mode.as_str().into()));
    map(&parts)
}
