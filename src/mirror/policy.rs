//! Which share of requests is copied, and within which bounds.

use std::{sync::Arc, time::Duration};

use crate::enforcement::{Mode, Percent};

/// Copies of requests to another set of endpoints, whose answers nobody waits for: `mirror` of a route.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MirrorPolicy {
    /// The share of requests that is copied. Default all.
    pub percent: Percent,
    /// How long a copy may take, its response included, whatever becomes of the original. Default: the timeout of the
    /// calls of the route, else 15 s.
    pub timeout: Option<Duration>,
    /// Copies in flight at the same time; further requests are not copied. Default 100, at least 1. They take no place of
    /// the calls to the service: `circuit_breakers` neither count nor refuse them.
    pub max_concurrent: u32,
    /// A request with a longer body is not copied, or its copy cancelled once the body turns out longer. The original
    /// waits in no case. Default 64 KiB, at most 8 MiB; so much is held for each copy at most.
    pub max_body_bytes: u32,
    /// What the copy's host gets appended, before a port, so that logs tell copies apart. Default `-shadow`; may be empty.
    pub host_suffix: Arc<str>,
    /// Whether `authorization`, `proxy-authorization` and `cookie` are copied. Default no: who receives copies could act
    /// in the name of the user otherwise.
    pub forward_credentials: bool,
    /// `shadow` rolls and counts, and sends nothing. Default `enforce`.
    pub mode: Mode,
}

impl Default for MirrorPolicy {
    fn default() -> Self {
        Self {
            percent: Percent::ALL,
            timeout: None,
            max_concurrent: 100,
            max_body_bytes: 64 * 1024,
            host_suffix: "-shadow".into(),
            forward_credentials: false,
            mode: Mode::Enforce,
        }
    }
}

impl MirrorPolicy {
    /// The timeout of copies of calls that have none.
    pub const TIMEOUT: Duration = Duration::from_secs(15);
    /// The largest `max_body_bytes`.
    pub const MAX_BODY_BYTES: u32 = 8 * 1024 * 1024;

    /// Copies every request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Copies this share.
    #[must_use]
    pub fn percent(mut self, percent: Percent) -> Self {
        self.percent = percent;
        self
    }

    /// What no reader of this policy may be given.
    ///
    /// # Errors
    /// What is wrong, by the key.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.max_concurrent == 0 {
            return Err(("max_concurrent", "0 copies nothing: use `mode: off`"));
        }
        if self.max_body_bytes > Self::MAX_BODY_BYTES {
            return Err(("max_body_bytes", "at most 8 MiB of a body are held for a copy"));
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(("timeout", "a timeout of zero fails every copy"));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
        if self.host_suffix.len() > 63 || !self.host_suffix.bytes().all(allowed) {
            return Err(("host_suffix", "a suffix is at most 63 letters, digits, `-` and `.`"));
        }
        Ok(())
    }
}
