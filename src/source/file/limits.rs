//! The grammar of `rate_limit`, and how `config show` prints it.

mod global;

use std::{sync::Arc, time::Duration};

use http::HeaderName;
use serde_json::json;

use super::{
    cursor::{Cursor, Fields, Wrong},
    show::{map, quoted},
    suggest, traffic,
};
use crate::{
    enforcement::Mode,
    limit::{
        Allowance, BucketPolicy, Descriptor, DescriptorEntry, KeySource, QuotaPolicy, RateLimitHeaders,
        RateLimitPolicy, ShareWith,
    },
    source::{document::Field, duration::format as duration},
};

/// Whether a limit is on what this process serves or on what it calls.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Served,
    Called,
}

/// Largest number of tokens and requests.
const MOST: u32 = 1_000_000_000;

/// Sources of keys that are one word.
const WORDS: [(&str, KeySource); 5] = [
    ("identity", KeySource::Identity),
    ("remote_address", KeySource::RemoteAddress),
    ("path", KeySource::Path),
    ("method", KeySource::Method),
    ("host", KeySource::Host),
];

/// `rate_limit`.
pub(super) fn rate_limit(fields: &mut Fields<'_, '_, '_>, side: Side) -> Field<RateLimitPolicy> {
    let doc = match side {
        Side::Served => "How much may be asked for in a time. Default: no limit.",
        Side::Called => "How much may be called in a time, whatever is retried. Default: no limit.",
    };
    fields.field("rate_limit", doc, |at| policy(at, side))
}

fn policy(at: Cursor<'_, '_, '_>, side: Side) -> Option<RateLimitPolicy> {
    at.map("a map with `token_bucket`, `quota`, `descriptors` or `global`", |fields| {
        let problems = fields.reading.diagnostics.len();
        let allowance = allowance(fields);
        let doc = "What has the limit for itself: `identity`, `remote_address`, `path`, `method`, `host`, `{header: NAME}`, \
                   `{claim: NAME}` or `{custom: NAME}`, or a list of them. Default: everything together.";
        let key = fields.field("key", doc, |at| at.one_or_list("a source of keys, or a list of them", |at| source(at, side)));
        let doc = "Limits for certain values; the first whose entries all match is used. Default: none.";
        let descriptors =
            fields.field("descriptors", doc, |at| at.list("a list of descriptors", |at| descriptor(at, side)));
        let doc = "Whether what a descriptor matched also has to pass the limit above. Default true.";
        let always = fields.field("always_consume_default_token_bucket", doc, |at| at.boolean());
        let doc = "How many keys are remembered apart; those beyond share one limit. Default 10000; at least 1.";
        let keys = fields.field("max_dynamic_keys", doc, |at| at.integer(1..=10_000_000));
        let doc = "Headers that tell callers where they stand: `off` (default), `draft03` or `structured`.";
        let headers = fields.field("headers", doc, |at| {
            use RateLimitHeaders as H;
            at.choice("a style of headers", &[H::Off, H::Draft03, H::Structured].map(|style| (style.as_str(), style)), &[])
        });
        let percentage = traffic::percentage(fields, "percentage");
        let mode = traffic::mode(fields);
        let doc = "A service that counts for many processes, asked about what the limits above let in. Default: none.";
        let global = fields.field("global", doc, |at| global::global(at, side)).map(|set| set.value);
        let doc = "Between whom what is counted here is divided: `process` (default) for nobody, or `local_cluster` for the \
                   instances of this service, by its own endpoints among `services`.";
        let share = fields.field("share_with", doc, |at| {
            use ShareWith as S;
            at.choice("a way to share", &[S::Process, S::LocalCluster].map(|with| (with.as_str(), with)), &["connection"])
        });
        let base = RateLimitPolicy::default();
        let policy = RateLimitPolicy {
            allowance,
            key: key.into_iter().flat_map(|set| set.value).map(|set| set.value).collect(),
            descriptors: descriptors.into_iter().flat_map(|set| set.value).map(|set| set.value).collect(),
            always_consume_default_token_bucket: always.map_or(base.always_consume_default_token_bucket, |set| set.value),
            max_dynamic_keys: keys.map_or(base.max_dynamic_keys, |set| set.value),
            share_with: share.map_or(base.share_with, |set| set.value),
            global,
            headers: headers.map_or(base.headers, |set| set.value),
            percentage,
            mode,
        };
        let nothing = policy.mode != Mode::Off
            && policy.allowance.is_empty()
            && policy.descriptors.is_empty()
            && policy.global.is_none();
        if nothing && !fields.has_unknown() && fields.reading.diagnostics.len() == problems {
            let help = "write `{token_bucket: {max_tokens: 100, tokens_per_fill: 10, fill_interval: 1s}}`";
            fields.report("", Wrong::new("`rate_limit` limits nothing", help));
        }
        policy
    })
}

fn allowance(fields: &mut Fields<'_, '_, '_>) -> Allowance {
    let doc = "A rate, and what may come at once: begins full, fills evenly.";
    let token_bucket = fields.field("token_bucket", doc, bucket).map(|set| set.value);
    let quota =
        fields.field("quota", "At most so many in any stretch of time of a length.", quota).map(|set| set.value);
    Allowance { token_bucket, quota }
}

fn bucket(at: Cursor<'_, '_, '_>) -> Option<BucketPolicy> {
    at.map("a map such as `{max_tokens: 100, tokens_per_fill: 10, fill_interval: 1s}`", |fields| {
        let max = fields.field("max_tokens", "What may come at once. At least 1.", |at| at.integer(1..=MOST));
        let fill = fields.field("tokens_per_fill", "What comes back in each interval. Default 1; at least 1.", |at| {
            at.integer(1..=MOST)
        });
        let interval = fields.field("fill_interval", "1ms to 24h.", |at| at.duration(Duration::from_millis(1)));
        for key in ["max_tokens", "fill_interval"] {
            if !fields.has(key) {
                fields.exactly_one(&[key]);
            }
        }
        let fill = fill.map_or(1, |set| set.value);
        let interval = interval?.value;
        match BucketPolicy::new(max?.value, fill, interval) {
            Ok(bucket) => Some(bucket),
            Err(error) => {
                let help = if interval > Duration::from_secs(24 * 3600) {
                    "say it as a `quota: {requests: .., window: ..}`"
                } else {
                    "give it fewer `max_tokens`, more `tokens_per_fill` or a shorter `fill_interval`"
                };
                fields.report("fill_interval", Wrong::new(error.to_string(), help));
                None
            }
        }
    })
    .flatten()
}

fn quota(at: Cursor<'_, '_, '_>) -> Option<QuotaPolicy> {
    at.map("a map such as `{requests: 10000, window: 1h}`", |fields| {
        let requests = fields.field("requests", "How many. At least 1.", |at| at.integer(1..=MOST));
        let window = fields.field("window", "In how long: 1s to 8760h.", |at| at.duration(Duration::from_secs(1)));
        for key in ["requests", "window"] {
            if !fields.has(key) {
                fields.exactly_one(&[key]);
            }
        }
        match QuotaPolicy::new(requests?.value, window?.value) {
            Ok(quota) => Some(quota),
            Err(error) => {
                fields.report("window", Wrong::new(error.to_string(), "write `8760h` or less"));
                None
            }
        }
    })
    .flatten()
}

fn word(at: Cursor<'_, '_, '_>, side: Side) -> Option<KeySource> {
    let names = WORDS.map(|(name, _)| name);
    at.scalar("a source of keys", json!({ "enum": names }), |text| {
        let Some((_, source)) = WORDS.into_iter().find(|(name, _)| *name == text) else {
            let none = "write one of them, or `{header: NAME}`";
            return Err(Wrong::new(
                format!("`{}` is not a source of keys", text.escape_debug()),
                suggest::or_list(text, &names, "use one of", none),
            ));
        };
        if side == Side::Called && !source.is_known_of_calls() {
            return Err(Wrong::new(
                format!("`{text}` is known of requests that are served, not of calls"),
                "put the limit under `inbound`, or use a header",
            ));
        }
        Ok(source)
    })
}

/// The keys of a source that is a map.
fn named(fields: &mut Fields<'_, '_, '_>, side: Side) -> Option<KeySource> {
    let header = fields.field("header", "A header; its first value.", |at| {
        at.scalar("a header's name", json!({ "type": "string" }), |text| {
            HeaderName::try_from(text).map_err(|_| {
                let message = format!("`{}` is not a header's name", text.escape_debug());
                Wrong::new(message, "use letters, digits and hyphens, such as `x-tenant`")
            })
        })
    });
    let doc = "A claim of the caller's verified token, such as `sub` or `org.tenant`.";
    let claim = fields.field("claim", doc, |at| {
        at.scalar("a claim", json!({ "type": "string" }), |text| {
            let path = super::authz::claim(text)?;
            if side == Side::Called {
                let message = "a claim is known of requests that are served, not of calls";
                return Err(Wrong::new(message, "put the limit under `inbound`, or use a header"));
            }
            Ok(path)
        })
    });
    let registry = fields.reading.registry;
    let custom = fields.field("custom", "A function that the application registered under this name.", |at| {
        at.scalar("a name", json!({ "type": "string" }), |text| {
            registry.rate_limit_key(text).ok_or_else(|| {
                Wrong::new(
                    format!("no function `{}` is registered", text.escape_debug()),
                    "register it by `Builder::rate_limit_key`",
                )
            })
        })
    });
    let claim = claim.map(|set| KeySource::Claim(set.value));
    header.map(|set| KeySource::Header(set.value)).or(claim).or(custom.map(|set| KeySource::Custom(set.value)))
}

fn source(at: Cursor<'_, '_, '_>, side: Side) -> Option<KeySource> {
    at.scalar_or(
        |at| word(at, side),
        |at| {
            at.map("a source of keys", |fields| {
                let source = named(fields, side);
                fields.exactly_one(&["header", "claim", "custom"]);
                source
            })
            .flatten()
        },
    )
}

fn descriptor(at: Cursor<'_, '_, '_>, side: Side) -> Option<Descriptor> {
    at.map("a map with `entries`", |fields| {
        let problems = fields.reading.diagnostics.len();
        let doc = "What the request must have, all of it.";
        let entries = fields.field("entries", doc, |at| at.list("a list of entries", |at| entry(at, side)));
        let allowance = allowance(fields);
        fields.exactly_one(&["entries"]);
        if !fields.has_unknown() && !["token_bucket", "quota"].iter().any(|key| fields.has(key)) {
            fields.report("", Wrong::new("the descriptor limits nothing", "add `token_bucket` or `quota`"));
        }
        let entries: Vec<_> = entries?.value.into_iter().map(|set| set.value).collect();
        if entries.is_empty() && fields.reading.diagnostics.len() == problems {
            let wrong =
                Wrong::new("a descriptor without entries matches nothing", "add an entry, or use `token_bucket` above");
            fields.report("entries", wrong);
        }
        Some(Descriptor { entries, allowance })
    })
    .flatten()
}

fn entry(at: Cursor<'_, '_, '_>, side: Side) -> Option<DescriptorEntry> {
    at.map("a map such as `{header: x-plan, value: gold}`", |fields| {
        let doc = "`identity`, `remote_address`, `path`, `method` or `host`.";
        let key = fields.field("key", doc, |at| word(at, side)).map(|set| set.value);
        let named = named(fields, side);
        let doc = "The value that it must have. Default: any, and each has the limit for itself.";
        let value = fields.field("value", doc, |at| at.text("a value"));
        fields.exactly_one(&["key", "header", "claim", "custom"]);
        Some(DescriptorEntry { source: key.or(named)?, value: value.map(|set| set.value) })
    })
    .flatten()
}

type Pairs = Vec<(String, String)>;

fn one(key: &str, value: impl Into<String>) -> (String, String) {
    (key.to_owned(), value.into())
}

/// A `rate_limit` as a flow map.
pub(super) fn shown(policy: &RateLimitPolicy) -> String {
    let mut parts = shown_allowance(&policy.allowance);
    if !policy.key.is_empty() {
        let sources: Vec<String> = policy.key.iter().map(shown_source).collect();
        parts.push(one("key", format!("[{}]", sources.join(", "))));
    }
    if !policy.descriptors.is_empty() {
        let descriptors: Vec<String> = policy.descriptors.iter().map(shown_descriptor).collect();
        parts.push(one("descriptors", format!("[{}]", descriptors.join(", "))));
        parts.push(one("always_consume_default_token_bucket", policy.always_consume_default_token_bucket.to_string()));
    }
    parts.extend(policy.global.as_ref().map(|global| one("global", global::shown(global))));
    parts.push(one("max_dynamic_keys", policy.max_dynamic_keys.to_string()));
    parts.push(one("share_with", policy.share_with.as_str()));
    parts.push(one("headers", policy.headers.as_str()));
    parts.push(one("percentage", policy.percentage.to_string()));
    parts.push(one("mode", policy.mode.as_str()));
    map(&parts)
}

fn shown_allowance(allowance: &Allowance) -> Pairs {
    let mut parts = Pairs::new();
    if let Some(bucket) = &allowance.token_bucket {
        let of = [
            one("max_tokens", bucket.max_tokens().to_string()),
            one("tokens_per_fill", bucket.tokens_per_fill().to_string()),
            one("fill_interval", duration(bucket.fill_interval())),
        ];
        parts.push(one("token_bucket", map(&of)));
    }
    if let Some(quota) = &allowance.quota {
        let of = [one("requests", quota.requests().to_string()), one("window", duration(quota.window()))];
        parts.push(one("quota", map(&of)));
    }
    parts
}

fn source_pair(source: &KeySource) -> (String, String) {
    match source {
        KeySource::Header(name) => one("header", quoted(name.as_str())),
        KeySource::Claim(path) => one("claim", quoted(&path.join("."))),
        KeySource::Custom(function) => one("custom", quoted(function.name())),
        word => one("key", word.name()),
    }
}

fn shown_source(source: &KeySource) -> String {
    match source {
        KeySource::Header(_) | KeySource::Claim(_) | KeySource::Custom(_) => map(&[source_pair(source)]),
        word => word.name(),
    }
}

fn shown_descriptor(descriptor: &Descriptor) -> String {
    let entry = |entry: &DescriptorEntry| {
        let mut parts = vec![source_pair(&entry.source)];
        parts.extend(entry.value.as_ref().map(|value: &Arc<str>| one("value", quoted(value))));
        map(&parts)
    };
    let entries: Vec<String> = descriptor.entries.iter().map(entry).collect();
    let mut parts = vec![one("entries", format!("[{}]", entries.join(", ")))];
    parts.extend(shown_allowance(&descriptor.allowance));
    map(&parts)
}
