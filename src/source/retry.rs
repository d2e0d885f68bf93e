//! `retry` and `hedge` of one source, and what follows from all of them.

use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::{
    document::{Field, Set},
    duration,
};
use crate::{
    enforcement::{Mode, Percent},
    matching::StringMatch,
    model::{Origin, Provenance},
    retry::{HedgeMode, Jitter, RetryOn, RetrySpec},
};

/// One list of the fields: what it is called here, its key, its type, where it stands in the policy.
macro_rules! fields {
    ($($field:ident $key:literal: $type:ty => $($place:ident).+;)*) => {
        /// `retry` and `hedge`.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct PartialRetries {
            $(pub(crate) $field: Field<$type>,)*
        }

        impl PartialRetries {
            pub(crate) fn over(self, lower: Self) -> Self {
                Self { $($field: self.$field.or(lower.$field),)* }
            }

            /// Whether nothing is said.
            pub(crate) fn is_empty(&self) -> bool {
                $(self.$field.is_none())&&*
            }

            /// Everything that a policy says.
            pub(super) fn of(spec: &RetrySpec, origin: &Origin) -> Self {
                Self { $($field: Some(Set::new(spec.$($place).+.clone(), origin.clone())),)* }
            }

            /// Lays what is said over a policy. What is not said comes from where the policy does: `base`, or the
            /// defaults.
            fn lay(&self, spec: &mut RetrySpec, provenance: &mut Provenance, path: &str, base: Option<&str>) {
                $(
                    let origin = match (&self.$field, base) {
                        (Some(set), _) => {
                            spec.$($place).+ = set.value.clone();
                            set.origin.clone()
                        }
                        (None, Some(base)) => provenance.of(&format!(concat!("{}.", $key), base)).clone(),
                        (None, None) => Origin::Default,
                    };
                    provenance.record(format!(concat!("{}.", $key), path), origin);
                )*
            }
        }
    };
}

type Headers = Vec<(HeaderName, StringMatch)>;

fields! {
    num_retries "retry.num_retries": u8 => policy.num_retries;
    retry_on "retry.retry_on": RetryOn => policy.retry_on;
    retriable_status_codes "retry.retriable_status_codes": Vec<StatusCode> => policy.retriable_status_codes;
    retriable_headers "retry.retriable_headers": Headers => policy.retriable_headers;
    retriable_request_headers "retry.retriable_request_headers": Headers => policy.retriable_request_headers;
    require_idempotent "retry.require_idempotent": bool => policy.require_idempotent;
    per_try_timeout "retry.per_try_timeout": Option<Duration> => policy.per_try_timeout;
    base_interval "retry.retry_back_off.base_interval": Duration => policy.back_off.base_interval;
    max_interval "retry.retry_back_off.max_interval": Duration => policy.back_off.max_interval;
    jitter "retry.retry_back_off.jitter": Jitter => policy.back_off.jitter;
    max_push_back "retry.rate_limited_retry_back_off.max_interval": Duration => policy.max_push_back;
    max_request_buffer "retry.max_request_buffer_bytes": u32 => policy.max_request_buffer;
    peek_trailers "retry.peek_trailers": bool => policy.peek_trailers;
    min_remaining "retry.min_remaining": Option<Duration> => policy.min_remaining;
    tree_allowance "retry.tree_allowance": u8 => policy.tree_allowance;
    percentage "retry.percentage": Percent => policy.percentage;
    enforcement "retry.enforcement": Mode => policy.enforcement;
    hedge "hedge.mode": HedgeMode => hedge.mode;
    max_hedged_attempts "hedge.max_hedged_attempts": u8 => hedge.max_hedged_attempts;
    max_extra_load_percent "hedge.max_extra_load_percent": u8 => hedge.max_extra_load_percent;
    hedge_idempotent "hedge.require_idempotent": bool => hedge.require_idempotent;
    hedge_percentage "hedge.percentage": Percent => hedge.percentage;
    hedge_enforcement "hedge.enforcement": Mode => hedge.enforcement;
}

impl PartialRetries {
    /// What holds for a service.
    pub(super) fn resolve(&self, provenance: &mut Provenance, path: &str) -> RetrySpec {
        let mut spec = RetrySpec::default();
        self.lay(&mut spec, provenance, path, None);
        self.scale(&mut spec);
        spec
    }

    /// What holds for a route, if it says anything: the rest is the service's.
    pub(super) fn resolve_over(
        &self,
        service: &RetrySpec,
        provenance: &mut Provenance,
        path: &str,
        base: &str,
    ) -> Option<RetrySpec> {
        if self.is_empty() {
            return None;
        }
        let mut spec = service.clone();
        self.lay(&mut spec, provenance, path, Some(base));
        self.scale(&mut spec);
        Some(spec)
    }

    /// The longest wait is ten times the base unless it is said.
    fn scale(&self, spec: &mut RetrySpec) {
        if self.base_interval.is_some() && self.max_interval.is_none() {
            spec.policy.back_off.max_interval = spec.policy.back_off.base_interval.saturating_mul(10);
        }
    }
}

/// A policy as it is written: keys below `retry` and `hedge`, with their values, in two levels.
#[cfg_attr(not(feature = "file"), allow(dead_code))]
pub(super) fn written(spec: &RetrySpec, headers: impl Fn(&Headers) -> String) -> [(&'static str, Vec<Line>); 2] {
    let (policy, hedge) = (&spec.policy, &spec.hedge);
    let off = |value: Option<Duration>| value.map_or_else(|| "off".to_owned(), duration::format);
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    let mut retry = vec![
        Line::new("num_retries", policy.num_retries.to_string()),
        Line::new("retry_on", list(policy.retry_on.iter().map(|condition| condition.to_string()).collect())),
        Line::new("require_idempotent", policy.require_idempotent.to_string()),
        Line::new("per_try_timeout", off(policy.per_try_timeout)),
        Line::new("retry_back_off", String::new()),
        Line::below("retry_back_off.base_interval", duration::format(policy.back_off.base_interval)),
        Line::below("retry_back_off.max_interval", duration::format(policy.back_off.max_interval)),
        Line::below("retry_back_off.jitter", policy.back_off.jitter.as_str().to_owned()),
        Line::new("rate_limited_retry_back_off", String::new()),
        Line::below("rate_limited_retry_back_off.max_interval", duration::format(policy.max_push_back)),
        Line::new("max_request_buffer_bytes", policy.max_request_buffer.to_string()),
        Line::new("peek_trailers", policy.peek_trailers.to_string()),
    ];
    if !policy.retriable_status_codes.is_empty() {
        let codes = policy.retriable_status_codes.iter().map(|code| code.as_u16().to_string()).collect();
        retry.push(Line::new("retriable_status_codes", list(codes)));
    }
    for (key, wanted) in [
        ("retriable_headers", &policy.retriable_headers),
        ("retriable_request_headers", &policy.retriable_request_headers),
    ] {
        if !wanted.is_empty() {
            retry.push(Line::new(key, headers(wanted)));
        }
    }
    if let Some(least) = policy.min_remaining {
        retry.push(Line::new("min_remaining", duration::format(least)));
    }
    retry.push(Line::new("tree_allowance", policy.tree_allowance.to_string()));
    retry.push(Line::new("percentage", policy.percentage.to_string()));
    retry.push(Line::new("enforcement", policy.enforcement.as_str().to_owned()));
    let (mode, setting) = match hedge.mode {
        HedgeMode::Off => ("off", None),
        HedgeMode::Fixed(delay) => ("fixed", Some(("delay", duration::format(delay)))),
        HedgeMode::Percentile(percent) => ("percentile", Some(("percentile", percent.to_string()))),
        HedgeMode::PerTryTimeout => ("per_try_timeout", None),
    };
    let mut hedged = vec![Line::new("mode", mode.to_owned())];
    hedged.extend(setting.map(|(key, value)| Line { origin: "mode", ..Line::new(key, value) }));
    hedged.extend([
        Line::new("max_hedged_attempts", hedge.max_hedged_attempts.to_string()),
        Line::new("max_extra_load_percent", hedge.max_extra_load_percent.to_string()),
        Line::new("require_idempotent", hedge.require_idempotent.to_string()),
        Line::new("percentage", hedge.percentage.to_string()),
        Line::new("enforcement", hedge.enforcement.as_str().to_owned()),
    ]);
    [("retry", retry), ("hedge", hedged)]
}

/// One line of a policy: a key with its value; an empty one begins a group.
pub(super) struct Line {
    pub(super) key: &'static str,
    pub(super) value: String,
    /// The path below `retry` or `hedge` at which its origin is recorded.
    pub(super) origin: &'static str,
    pub(super) deep: bool,
}

impl Line {
    fn new(key: &'static str, value: String) -> Self {
        Self { key, value, origin: key, deep: false }
    }

    fn below(path: &'static str, value: String) -> Self {
        let key = path.rsplit('.').next().unwrap_or(path);
        Self { key, value, origin: path, deep: true }
    }
}
