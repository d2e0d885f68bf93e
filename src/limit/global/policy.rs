//! Whom to ask, about what, and what holds without an answer.

use std::{sync::Arc, time::Duration};

use crate::{
    limit::policy::{Allowance, KeySource},
    name::ServiceName,
};

/// `rate_limit.global`: a service that counts for every process that asks it.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct GlobalPolicy {
    /// The service to ask, one of `services`. Calls to it know no policies but those of its connections.
    pub service: ServiceName,
    /// The domain of its configuration.
    pub domain: Arc<str>,
    /// What it is told of a request. A descriptor of which an entry has no value is left out; a request that leaves none is
    /// not asked about.
    pub descriptors: Vec<GlobalDescriptor>,
    /// How long it may take. Default 20 ms; 1 ms to 10 s.
    pub timeout: Duration,
    /// Whether requests are refused with E041 while it does not answer. Default false: they pass.
    pub failure_mode_deny: bool,
    /// What each combination of values is held to by this process while there is no answer. Default nothing.
    pub fallback: Allowance,
}

impl GlobalPolicy {
    /// Asks this service about requests in this domain.
    pub fn new(service: ServiceName, domain: &str) -> Self {
        Self {
            service,
            domain: domain.into(),
            descriptors: Vec::new(),
            timeout: Duration::from_millis(20),
            failure_mode_deny: false,
            fallback: Allowance::default(),
        }
    }

    /// Adds a descriptor.
    #[must_use]
    pub fn descriptor(mut self, entries: impl IntoIterator<Item = GlobalEntry>) -> Self {
        self.descriptors.push(GlobalDescriptor { entries: entries.into_iter().collect() });
        self
    }

    /// How long an answer may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Refuses requests while there is no answer.
    #[must_use]
    pub fn deny_on_failure(mut self) -> Self {
        self.failure_mode_deny = true;
        self
    }

    /// What requests are held to while there is no answer.
    #[must_use]
    pub fn fallback(mut self, allowance: impl Into<Allowance>) -> Self {
        self.fallback = allowance.into();
        self
    }

    /// Checks what the types alone cannot; the field that is wrong, and why.
    pub(crate) fn check(&self) -> Result<(), (String, &'static str)> {
        if self.domain.is_empty() {
            return Err(("domain".into(), "it is empty"));
        }
        if self.descriptors.is_empty() {
            return Err(("descriptors".into(), "without descriptors there is nothing to ask"));
        }
        if let Some(index) = self.descriptors.iter().position(|descriptor| descriptor.entries.is_empty()) {
            return Err((format!("descriptors[{index}].entries"), "a descriptor has at least one entry"));
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(10)).contains(&self.timeout) {
            return Err(("timeout".into(), "it is 1ms to 10s"));
        }
        if self.failure_mode_deny && !self.fallback.is_empty() {
            return Err(("fallback".into(), "with `failure_mode_deny` nothing passes without an answer"));
        }
        Ok(())
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = &KeySource> {
        self.descriptors.iter().flat_map(|descriptor| &descriptor.entries).filter_map(|entry| match &entry.value {
            GlobalValue::Fixed(_) => None,
            GlobalValue::Of(source) | GlobalValue::Only(source, _) => Some(source),
        })
    }
}

/// What a rate limit service is told of a request: entries in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GlobalDescriptor {
    /// All of them are sent, or the descriptor is not.
    pub entries: Vec<GlobalEntry>,
}

/// One entry of a descriptor.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct GlobalEntry {
    /// Its key, by which the service's configuration knows it.
    pub key: Arc<str>,
    /// Its value.
    pub value: GlobalValue,
}

/// The value of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum GlobalValue {
    /// Always this.
    Fixed(Arc<str>),
    /// What the request says.
    Of(KeySource),
    /// What the request says, if it is this.
    Only(KeySource, Arc<str>),
}

impl GlobalEntry {
    /// Always the same value. The usual key is `generic_key`.
    pub fn fixed(key: &str, value: &str) -> Self {
        Self { key: key.into(), value: GlobalValue::Fixed(value.into()) }
    }

    /// What the request says, under the name of its source: `path`, `header.x-tenant`.
    pub fn of(source: KeySource) -> Self {
        Self { key: source.name().into(), value: GlobalValue::Of(source) }
    }

    /// What the request says, if it is this.
    pub fn only(source: KeySource, value: &str) -> Self {
        Self { key: source.name().into(), value: GlobalValue::Only(source, value.into()) }
    }

    /// Under another key.
    #[must_use]
    pub fn keyed(mut self, key: &str) -> Self {
        self.key = key.into();
        self
    }
}
