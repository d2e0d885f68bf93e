//! What is limited, by how much, and what has a limit of its own.

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderName;

use super::{global::GlobalPolicy, standing::RateLimitHeaders, subject::Subject};
use crate::enforcement::{Mode, Percent};

/// The longest time that anything is remembered.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A rate with a burst: Envoy's token bucket, filled continuously rather than once per interval.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BucketPolicy {
    max_tokens: u32,
    tokens_per_fill: u32,
    fill_interval: Duration,
}

impl BucketPolicy {
    /// Holds `max_tokens` and gains `tokens_per_fill` in each `fill_interval`. It begins full.
    ///
    /// # Errors
    /// If a number is 0, the interval is shorter than 1 ms or longer than a day, or an empty bucket would take more than a
    /// year to fill.
    pub fn new(max_tokens: u32, tokens_per_fill: u32, fill_interval: Duration) -> Result<Self, PolicyError> {
        if max_tokens == 0 || tokens_per_fill == 0 {
            return Err(PolicyError("a bucket holds and gains at least one token"));
        }
        if fill_interval < Duration::from_millis(1) || fill_interval > Duration::from_secs(24 * 3600) {
            return Err(PolicyError("`fill_interval` is 1ms to 24h"));
        }
        let fills = u64::from(max_tokens.div_ceil(tokens_per_fill));
        if u128::from(fills) * fill_interval.as_nanos() > LONGEST.as_nanos() {
            return Err(PolicyError("an empty bucket would take more than a year to fill"));
        }
        Ok(Self { max_tokens, tokens_per_fill, fill_interval })
    }

    /// How many requests pass at once after a pause.
    pub fn max_tokens(&self) -> u32 {
        self.max_tokens
    }

    /// How many come back in each `fill_interval`.
    pub fn tokens_per_fill(&self) -> u32 {
        self.tokens_per_fill
    }

    /// The time in which `tokens_per_fill` come back, evenly.
    pub fn fill_interval(&self) -> Duration {
        self.fill_interval
    }
}

/// At most so many in any stretch of time of this length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct QuotaPolicy {
    requests: u32,
    window: Duration,
}

impl QuotaPolicy {
    /// At most `requests` in any `window`. A request is remembered for the window and up to a 32nd of it longer.
    ///
    /// # Errors
    /// If `requests` is 0, or the window is shorter than 1 s or longer than a year.
    pub fn new(requests: u32, window: Duration) -> Result<Self, PolicyError> {
        if requests == 0 {
            return Err(PolicyError("a quota is at least one request"));
        }
        if window < Duration::from_secs(1) || window > LONGEST {
            return Err(PolicyError("`window` is 1s to 8760h"));
        }
        Ok(Self { requests, window })
    }

    /// How many.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// In how long.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The share of one of `members`; together they never let more pass, unless they are more than `requests`.
    pub(super) fn share(self, members: u32) -> Self {
        Self { requests: (self.requests / members.max(1)).max(1), ..self }
    }
}

/// A bucket or quota that makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PolicyError(pub(super) &'static str);

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for PolicyError {}

/// How much: a rate, a quota, or both, which then both have to admit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub struct Allowance {
    /// The rate.
    pub token_bucket: Option<BucketPolicy>,
    /// The quota.
    pub quota: Option<QuotaPolicy>,
}

impl Allowance {
    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        self.token_bucket.is_none() && self.quota.is_none()
    }
}

impl From<BucketPolicy> for Allowance {
    fn from(bucket: BucketPolicy) -> Self {
        Self { token_bucket: Some(bucket), quota: None }
    }
}

impl From<QuotaPolicy> for Allowance {
    fn from(quota: QuotaPolicy) -> Self {
        Self { token_bucket: None, quota: Some(quota) }
    }
}

/// What about a request tells one limit from another.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KeySource {
    /// The identity that the peer proved. Requests served only.
    Identity,
    /// The address that the connection came from, without its port; of IPv6 the first 64 bits, since a household has that
    /// many. Requests served only.
    RemoteAddress,
    /// The path without its query.
    Path,
    /// The method.
    Method,
    /// The host that the request names.
    Host,
    /// A header; its first value.
    Header(HeaderName),
    /// A claim of the caller's verified token, or one inside of claims: its text, number or truth. Requests served only.
    Claim(Vec<Arc<str>>),
    /// What a function of the application says.
    Custom(KeyFn),
}

impl KeySource {
    /// A claim by its name, or inside of others: `org.tenant`.
    pub fn claim(path: &str) -> Self {
        Self::Claim(path.split('.').map(Into::into).collect())
    }

    /// Whether it is known of calls that are made, and not only of requests that are served.
    pub fn is_known_of_calls(&self) -> bool {
        !matches!(self, Self::Identity | Self::RemoteAddress | Self::Claim(_))
    }

    /// As configuration and the entries of a rate limit service have it: `path`, `header.x-tenant`.
    pub fn name(&self) -> String {
        match self {
            Self::Identity => "identity".into(),
            Self::RemoteAddress => "remote_address".into(),
            Self::Path => "path".into(),
            Self::Method => "method".into(),
            Self::Host => "host".into(),
            Self::Header(name) => format!("header.{name}"),
            Self::Claim(path) => format!("claim.{}", path.join(".")),
            Self::Custom(function) => format!("custom.{}", function.name),
        }
    }
}

type Function = dyn Fn(&Subject<'_>) -> Option<String> + Send + Sync;

/// A named function from a request to a key. Equal if the name is.
#[derive(Clone)]
pub struct KeyFn {
    name: Arc<str>,
    function: Arc<Function>,
}

impl KeyFn {
    /// A function under a name. `None` stands for "has no such key"; requests without one share a limit.
    pub fn new(name: &str, function: impl Fn(&Subject<'_>) -> Option<String> + Send + Sync + 'static) -> Self {
        Self { name: name.into(), function: Arc::new(function) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn call(&self, subject: &Subject<'_>) -> Option<String> {
        (self.function)(subject)
    }
}

impl PartialEq for KeyFn {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for KeyFn {}

impl fmt::Debug for KeyFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyFn").field(&self.name).finish()
    }
}

/// One condition of a [`Descriptor`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DescriptorEntry {
    /// What is looked at.
    pub source: KeySource,
    /// The value it must have. `None`: any, and each has a limit of its own.
    pub value: Option<Arc<str>>,
}

/// A limit for the requests that have certain values. The first that matches wholly is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// All of them must match.
    pub entries: Vec<DescriptorEntry>,
    /// How much.
    pub allowance: Allowance,
}

/// Between whom a limit that is counted here is divided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum ShareWith {
    /// Nobody: this process has all of it.
    #[default]
    Process,
    /// The instances of this process's service, each with the same share. They are as many as the service has endpoints by
    /// its discovery among `services`; while that is unknown as many as it last had, at first one.
    LocalCluster,
}

impl ShareWith {
    /// As configuration has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::LocalCluster => "local_cluster",
        }
    }
}

/// `rate_limit`.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct RateLimitPolicy {
    /// For every request, or for those that no descriptor matches. Default: unlimited.
    pub allowance: Allowance,
    /// Each combination of these has the `allowance` for itself. Default: one for all.
    pub key: Vec<KeySource>,
    /// Limits for certain values. Default: none.
    pub descriptors: Vec<Descriptor>,
    /// Whether a request that a descriptor matched also has to pass `allowance`, as in Envoy. Default true.
    pub always_consume_default_token_bucket: bool,
    /// How many keys are remembered apart, by descriptor. Those beyond share one limit. Default 10,000.
    pub max_dynamic_keys: u32,
    /// Between whom what is counted here is divided. Default nobody. In a mesh only: a layer alone knows no members.
    pub share_with: ShareWith,
    /// A service that counts for many processes, asked about what the limits above let in. Default none.
    pub global: Option<GlobalPolicy>,
    /// What callers are told. Default nothing.
    pub headers: RateLimitHeaders,
    /// The share of requests that is really refused. Default all; the others are only counted.
    pub percentage: Percent,
    /// Whether it acts. Default [`Mode::Enforce`].
    pub mode: Mode,
}

impl Default for RateLimitPolicy {
    fn default() -> Self {
        Self {
            allowance: Allowance::default(),
            key: Vec::new(),
            descriptors: Vec::new(),
            always_consume_default_token_bucket: true,
            max_dynamic_keys: 10_000,
            share_with: ShareWith::Process,
            global: None,
            headers: RateLimitHeaders::Off,
            percentage: Percent::ALL,
            mode: Mode::Enforce,
        }
    }
}

impl RateLimitPolicy {
    /// The same limit for everything together.
    pub fn new(allowance: impl Into<Allowance>) -> Self {
        Self { allowance: allowance.into(), ..Self::default() }
    }

    /// Only what a service counts for many processes.
    pub fn counted_by(global: GlobalPolicy) -> Self {
        Self { global: Some(global), ..Self::default() }
    }

    /// Between whom what is counted here is divided.
    #[must_use]
    pub fn share_with(mut self, share_with: ShareWith) -> Self {
        self.share_with = share_with;
        self
    }

    /// Also asks a service that counts for many processes.
    #[must_use]
    pub fn global(mut self, global: GlobalPolicy) -> Self {
        self.global = Some(global);
        self
    }

    /// Adds what has a limit of its own.
    #[must_use]
    pub fn key(mut self, source: KeySource) -> Self {
        self.key.push(source);
        self
    }

    /// Adds a limit for certain values.
    #[must_use]
    pub fn descriptor(
        mut self,
        entries: impl IntoIterator<Item = (KeySource, Option<&'static str>)>,
        allowance: impl Into<Allowance>,
    ) -> Self {
        let entry =
            |(source, value): (KeySource, Option<&str>)| DescriptorEntry { source, value: value.map(Into::into) };
        let entries = entries.into_iter().map(entry).collect();
        self.descriptors.push(Descriptor { entries, allowance: allowance.into() });
        self
    }

    /// What callers are told.
    #[must_use]
    pub fn headers(mut self, headers: RateLimitHeaders) -> Self {
        self.headers = headers;
        self
    }

    /// Whether it acts.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The share of requests that is really refused.
    #[must_use]
    pub fn percentage(mut self, percentage: Percent) -> Self {
        self.percentage = percentage;
        self
    }

    /// Checks what the types alone cannot; the field that is wrong, and why.
    pub(crate) fn check(&self) -> Result<(), (String, &'static str)> {
        if self.mode == Mode::Off {
            return Ok(());
        }
        if self.allowance.is_empty() && self.descriptors.is_empty() && self.global.is_none() {
            return Err((String::new(), "it limits nothing"));
        }
        for (index, descriptor) in self.descriptors.iter().enumerate() {
            if descriptor.entries.is_empty() {
                return Err((format!("descriptors[{index}].entries"), "a descriptor without entries matches nothing"));
            }
            if descriptor.allowance.is_empty() {
                return Err((format!("descriptors[{index}]"), "it limits nothing"));
            }
        }
        if self.max_dynamic_keys == 0 {
            return Err(("max_dynamic_keys".into(), "at least one key has to be remembered"));
        }
        match self.global.as_ref().map(GlobalPolicy::check) {
            Some(Err((path, reason))) => Err((format!("global.{path}"), reason)),
            _ => Ok(()),
        }
    }

    /// The first source that is not known of calls that are made.
    pub(crate) fn unknown_of_calls(&self) -> Option<&KeySource> {
        let entries = self.descriptors.iter().flat_map(|descriptor| &descriptor.entries);
        let asked = self.global.iter().flat_map(GlobalPolicy::sources);
        let mut sources = self.key.iter().chain(entries.map(|entry| &entry.source)).chain(asked);
        sources.find(|source| !source.is_known_of_calls())
    }
}
