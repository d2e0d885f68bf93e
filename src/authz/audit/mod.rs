//! A log of decisions that cannot be changed unnoticed.
//!
//! What rules under `audit` match, and what is denied, becomes one line of JSON each. A line names the hash of the line
//! before it and its own number, and its own hash covers both; so a line that was changed, taken out or put elsewhere breaks
//! the chain at its place. Whoever may write the file could make a whole new chain: a key ([`AuditLog::key_file`]) makes that
//! impossible without it, and the newest number and hash ([`Head`]), which metrics and events tell, show what was cut off at
//! the end.
//!
//! # What it costs
//! A request that is neither denied nor audited, nothing. Another one makes a record and puts it into a bounded queue, and
//! never waits. A thread of its own seals and writes. Where a sink is slower than its records come, the newest are lost, which
//! is counted and stands in the chain as a `gap` with their number; [`AuditLog::required`] refuses such requests instead.
//!
//! # A line
//! Members in alphabetical order without spaces: `hash` is the SHA-256 (with a key HMAC-SHA-256), in hexadecimal digits, of the
//! line without this member; `prev` is the `hash` of the line before, zeros in the first; `seq` counts from 1; `time_ms` is Unix
//! time. `kind` says what it is: `open` and `close` of a process, `decision`, `connection` that was not accepted, `revoked` for
//! what was open and is not allowed any more, `lowered` protection, `gap`. That is what RFC 8785 makes of the same members, so
//! any language can check it.

mod chain;
mod digest;
mod file;
mod policy;
mod queue;
mod record;
mod writer;

#[cfg(all(test, any(feature = "aws-lc", feature = "ring")))]
mod tests;

#[cfg(fuzzing)]
pub(crate) use self::chain::sealed;
pub use self::{
    chain::{Broken, Head, Verified, Verifier, verify_file},
    policy::{AuditLog, AuditSink},
};
pub(crate) use self::{
    policy::{MAX_KEEP, MAX_QUEUE, MIN_ROTATE, Target},
    queue::{AuditQueue, Taken},
    record::Record,
    writer::Writer,
};
