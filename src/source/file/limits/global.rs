//! The grammar of `rate_limit.global`, and how `config show` prints it.

use std::{sync::Arc, time::Duration};

use super::{
    super::{
        cursor::{Cursor, Fields, Wrong},
        show::{map, quoted},
    },
    Side, allowance, named, one, shown_allowance, source_pair, word,
};
use crate::{
    limit::{GlobalDescriptor, GlobalEntry, GlobalPolicy, GlobalValue},
    name::ServiceName,
    source::duration::format as duration,
};

/// What Envoy calls the key of a fixed value.
const GENERIC: &str = "generic_key";

/// `global`.
pub(super) fn global(at: Cursor<'_, '_, '_>, side: Side) -> Option<GlobalPolicy> {
    at.map("a map such as `{service: ratelimit, domain: shop, descriptors: [{entries: [{key: path}]}]}`", |fields| {
        let doc = "The service to ask by Envoy's rate limit service protocol, one of `services`.";
        let service = fields.field("service", doc, |at| at.parsed::<ServiceName>("a service name"));
        let domain = fields.field("domain", "The domain of its configuration.", |at| at.text("a domain"));
        let doc = "What it is told of a request. A descriptor of which an entry has no value is left out.";
        let descriptors =
            fields.field("descriptors", doc, |at| at.list("a list of descriptors", |at| descriptor(at, side)));
        let doc = "How long an answer may take. Default 20ms; 1ms to 10s.";
        let timeout = fields.field("timeout", doc, |at| at.duration(Duration::from_millis(1)));
        let doc = "Whether requests are refused while there is no answer. Default false: they pass.";
        let deny = fields.field("failure_mode_deny", doc, |at| at.boolean());
        let doc =
            "What each combination of values is held to by this process while there is no answer. Default: nothing.";
        let fallback = fields.field("fallback", doc, |at| at.map("a map with `token_bucket` or `quota`", allowance));
        for key in ["service", "domain", "descriptors"] {
            if !fields.has(key) {
                fields.exactly_one(&[key]);
            }
        }
        let mut policy = GlobalPolicy::new(service?.value, &domain?.value);
        policy.descriptors = descriptors?.value.into_iter().map(|set| set.value).collect();
        policy.timeout = timeout.map_or(policy.timeout, |set| set.value);
        policy.failure_mode_deny = deny.is_some_and(|set| set.value);
        policy.fallback = fallback.map(|set| set.value).unwrap_or_default();
        check(&policy, fields)
    })
    .flatten()
}

/// A descriptor that is wrong was told by itself.
fn check(policy: &GlobalPolicy, fields: &mut Fields<'_, '_, '_>) -> Option<GlobalPolicy> {
    let Err((path, reason)) = policy.check() else { return Some(policy.clone()) };
    let help = match path.as_str() {
        "domain" => "write the `domain` of the service's configuration",
        "descriptors" => "add one, such as `{entries: [{key: path}]}`",
        "timeout" => "write `10s` or less; every request waits for it",
        "fallback" => "keep one of the two",
        _ => return None,
    };
    fields.report(&path, Wrong::new(reason, help));
    None
}

fn descriptor(at: Cursor<'_, '_, '_>, side: Side) -> Option<GlobalDescriptor> {
    at.map("a map with `entries`", |fields| {
        let problems = fields.reading.diagnostics.len();
        let doc = "Keys and values, in the order of the service's configuration.";
        let entries = fields.field("entries", doc, |at| at.list("a list of entries", |at| entry(at, side)));
        fields.exactly_one(&["entries"]);
        let entries: Vec<_> = entries?.value.into_iter().map(|set| set.value).collect();
        if entries.is_empty() && fields.reading.diagnostics.len() == problems {
            fields.report("entries", Wrong::new("a descriptor without entries says nothing", "add an entry"));
        }
        Some(GlobalDescriptor { entries })
    })
    .flatten()
}

fn entry(at: Cursor<'_, '_, '_>, side: Side) -> Option<GlobalEntry> {
    at.map("a map such as `{header: x-tenant}` or `{generic_key: checkout}`", |fields| {
        let doc = "`identity`, `remote_address`, `path`, `method` or `host`.";
        let key = fields.field("key", doc, |at| word(at, side)).map(|set| set.value);
        let source = key.or(named(fields, side));
        let fixed = fields.field(GENERIC, "A value that is always the same.", |at| at.text("a value"));
        let doc = "The value that it must have, or the descriptor is left out. Default: any.";
        let value = fields.field("value", doc, |at| at.text("a value"));
        let doc =
            "What the service calls it. Default: what it is, such as `path` or `header.x-tenant`, or `generic_key`.";
        let renamed = fields.field("descriptor_key", doc, |at| at.text("a key"));
        if !fields.exactly_one(&["key", "header", "claim", "custom", GENERIC]) {
            return None;
        }
        if let (Some(_), Some(_)) = (&fixed, &value) {
            fields.report("value", Wrong::new("a fixed value cannot be another", "remove `value`"));
        }
        let entry = match (source, fixed, value) {
            (Some(source), _, None) => GlobalEntry::of(source),
            (Some(source), _, Some(value)) => GlobalEntry::only(source, &value.value),
            (None, fixed, _) => GlobalEntry::fixed(GENERIC, &fixed?.value),
        };
        Some(match renamed {
            Some(key) => entry.keyed(&key.value),
            None => entry,
        })
    })
    .flatten()
}

/// A `global` as a flow map.
pub(super) fn shown(policy: &GlobalPolicy) -> String {
    let entry = |entry: &GlobalEntry| {
        let (mut parts, usual) = match &entry.value {
            GlobalValue::Fixed(value) => (vec![one(GENERIC, quoted(value))], GENERIC.into()),
            GlobalValue::Of(source) => (vec![source_pair(source)], source.name()),
            GlobalValue::Only(source, value) => (vec![source_pair(source), one("value", quoted(value))], source.name()),
        };
        let key: &Arc<str> = &entry.key;
        if **key != *usual {
            parts.push(one("descriptor_key", quoted(key)));
        }
        map(&parts)
    };
    let descriptor = |descriptor: &GlobalDescriptor| {
        let entries: Vec<String> = descriptor.entries.iter().map(entry).collect();
        map(&[one("entries", format!("[{}]", entries.join(", ")))])
    };
    let descriptors: Vec<String> = policy.descriptors.iter().map(descriptor).collect();
    let mut parts = vec![
        one("service", policy.service.as_str()),
        one("domain", quoted(&policy.domain)),
        one("descriptors", format!("[{}]", descriptors.join(", "))),
        one("timeout", duration(policy.timeout)),
        one("failure_mode_deny", policy.failure_mode_deny.to_string()),
    ];
    if !policy.fallback.is_empty() {
        parts.push(one("fallback", map(&shown_allowance(&policy.fallback))));
    }
    map(&parts)
}
