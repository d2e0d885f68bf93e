//! What goes wrong with an instance.

use std::time::Duration;

use http::StatusCode;

/// What goes wrong with an instance. Faults of different kinds add up, one of the same kind takes the place of the one
/// before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Requests wait for so long before the application sees them.
    Delay(Duration),
    /// Requests are answered with this status; the application does not see them.
    Abort(StatusCode),
    /// Requests are taken and never answered.
    Hang,
    /// Response bodies break off after so many bytes.
    ResetBody(usize),
    /// Response bodies come at so many bytes a second; at least 1.
    Drip(usize),
    /// Nobody can connect; what is connected stays so.
    Refuse,
    /// No byte moves any more in either direction, and nothing is closed: a cable that is cut.
    Silent,
}

/// The faults of one instance.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Faults {
    pub(super) delay: Option<(Duration, u32)>,
    pub(super) abort: Option<(StatusCode, u32)>,
    pub(super) hang: Option<u32>,
    pub(super) reset_body: Option<(usize, u32)>,
    pub(super) drip: Option<usize>,
    pub(super) refuse: bool,
    pub(super) silent: bool,
}

impl Faults {
    /// Adds one that meets `percent` of the requests, where it is one of requests.
    pub(super) fn add(&mut self, fault: Fault, percent: u32) {
        match fault {
            Fault::Delay(delay) => self.delay = Some((delay, percent)),
            Fault::Abort(status) => self.abort = Some((status, percent)),
            Fault::Hang => self.hang = Some(percent),
            Fault::ResetBody(after) => self.reset_body = Some((after, percent)),
            Fault::Drip(rate) => self.drip = Some(rate.max(1)),
            Fault::Refuse => self.refuse = true,
            Fault::Silent => self.silent = true,
        }
    }
}
