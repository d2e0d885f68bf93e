//! One policy's questions, and what is done about their answers.

use std::{hash::Hasher, sync::Arc};

use super::{
    fleet::{Answer, Counter, Query},
    policy::{GlobalEntry, GlobalPolicy, GlobalValue},
};
use crate::{
    error::{Code, Error},
    instrument::{self, Registry},
    limit::{
        keyed::{Key, Keyed},
        subject::Subject,
    },
    rt::{self, Instant},
};

/// A policy, whom it asks, and what was let in without an answer.
#[derive(Debug)]
pub(in crate::limit) struct Global {
    policy: GlobalPolicy,
    counter: Arc<Counter>,
    fallback: Option<Arc<Keyed>>,
    series: FailSeries,
}

/// What happened to requests without an answer.
#[derive(Clone, Debug, Default)]
pub(in crate::limit) struct FailSeries {
    open: instrument::Counter,
    denied: instrument::Counter,
    fallback_ok: instrument::Counter,
    fallback_limited: instrument::Counter,
}

impl FailSeries {
    pub(in crate::limit) fn new(registry: &Registry, direction: &str, service: &str, route: &str) -> Self {
        let counter = |result| {
            let labels = [("direction", direction), ("service", service), ("route", route), ("result", result)];
            registry.counter("sinew_rate_limit_unanswered_total", &labels)
        };
        Self {
            open: counter("open"),
            denied: counter("denied"),
            fallback_ok: counter("fallback_ok"),
            fallback_limited: counter("fallback_limited"),
        }
    }
}

/// What is asked about one request.
#[derive(Debug)]
pub(in crate::limit) struct Question {
    query: Query,
    /// Of the combination of its values.
    key: Key,
}

impl Global {
    /// `before` lends what was let in without an answer.
    pub(in crate::limit) fn new(
        policy: &GlobalPolicy,
        counter: Arc<Counter>,
        max_keys: u32,
        members: u32,
        before: Option<&Self>,
        series: FailSeries,
        now: Instant,
    ) -> Self {
        let kept = before.filter(|before| before.policy.descriptors == policy.descriptors);
        let kept = kept.and_then(|before| before.fallback.as_ref());
        let fallback = (!policy.fallback.is_empty()).then(|| match kept {
            Some(kept) => {
                kept.set(&policy.fallback, members, max_keys, now);
                Arc::clone(kept)
            }
            None => Arc::new(Keyed::new(&policy.fallback, members, max_keys, now)),
        });
        Self { policy: policy.clone(), counter, fallback, series }
    }

    /// Divides the fallback anew.
    pub(in crate::limit) fn divide(&self, max_keys: u32, members: u32, now: Instant) {
        if let Some(fallback) = &self.fallback {
            fallback.set(&self.policy.fallback, members, max_keys, now);
        }
    }

    /// What to ask about a request; nothing if no descriptor has all its values.
    pub(in crate::limit) fn question(&self, subject: &Subject<'_>) -> Option<Question> {
        let pair = |entry: &GlobalEntry| {
            let value = match &entry.value {
                GlobalValue::Fixed(value) => value.to_string(),
                GlobalValue::Of(source) => subject.value(source)?.text()?,
                GlobalValue::Only(source, wanted) => {
                    let value = subject.value(source)?;
                    value.is(wanted).then(|| wanted.to_string())?
                }
            };
            Some((Arc::clone(&entry.key), value))
        };
        let descriptors = self.policy.descriptors.iter();
        let descriptors: Vec<_> = descriptors
            .filter_map(|descriptor| descriptor.entries.iter().map(pair).collect::<Option<Vec<_>>>())
            .collect();
        if descriptors.is_empty() {
            return None;
        }
        let key = self.fallback.as_ref().map_or(0, |fallback| {
            let mut hasher = fallback.hasher();
            for descriptor in &descriptors {
                for (key, value) in descriptor {
                    hasher.write(key.as_bytes());
                    hasher.write_u8(0xfe);
                    hasher.write(value.as_bytes());
                    hasher.write_u8(0xfe);
                }
                hasher.write_u8(0xff);
            }
            hasher.key()
        });
        Some(Question { query: Query { domain: Arc::clone(&self.policy.domain), descriptors }, key })
    }

    /// Asks. Without an answer, what the policy says about that.
    ///
    /// # Errors
    /// E040 over a limit, with what the answer says besides; E041 where nothing passes without an answer.
    pub(in crate::limit) async fn ask(&self, question: Question) -> Result<Answer, (Error, Answer)> {
        let Question { query, key } = question;
        match self.counter.ask(query, self.policy.timeout).await {
            Some(answer) if answer.over_limit => {
                let message = format!(
                    "the limit that `{}` counts is used up (domain `{}`); call less often, or raise it there",
                    self.counter.name, self.policy.domain
                );
                let error = Error::new(Code::RateLimited, message);
                let error = match answer.retry_after {
                    Some(after) => error.with_retry_after(after),
                    None => error,
                };
                Err((error, answer))
            }
            Some(answer) => Ok(answer),
            None => self.unanswered(key).map(|()| Answer::default()).map_err(|error| (error, Answer::default())),
        }
    }

    fn unanswered(&self, key: Key) -> Result<(), Error> {
        let name = &self.counter.name;
        match &self.fallback {
            Some(fallback) => match fallback.take(key, rt::now()) {
                Ok(()) => {
                    self.series.fallback_ok.inc();
                    Ok(())
                }
                Err(after) => {
                    self.series.fallback_limited.inc();
                    let message = format!(
                        "`{name}` does not answer, and what passes without it (`rate_limit.global.fallback`) is used up; one \
                         more is let in after {after:.3?}"
                    );
                    Err(Error::new(Code::RateLimited, message).with_retry_after(after))
                }
            },
            None if self.policy.failure_mode_deny => {
                self.series.denied.inc();
                let message = format!(
                    "`{name}` does not answer, and nothing passes without it (`rate_limit.global.failure_mode_deny`); look at \
                     its status"
                );
                Err(Error::new(Code::LimiterUnavailable, message))
            }
            None => {
                self.series.open.inc();
                Ok(())
            }
        }
    }
}
