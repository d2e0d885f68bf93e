//! Bytes and connections, no policy: nothing in here knows what a status code means.
//!
//! `connect/` dials and pools, `accept/` listens and drains, `memory` joins the two inside one process. TLS will stand
//! where [`Dial`] stands: a dialler that wraps another.

#[allow(dead_code, reason = "waits for identity")]
pub(crate) mod accept;
mod batch;
#[allow(dead_code, reason = "waits for identity")]
mod connect;
mod error;
mod frames;
mod io;
pub(crate) mod memory;
#[allow(dead_code, reason = "waits for identity")]
mod roll;
#[cfg(test)]
mod tests;

#[allow(unused_imports, reason = "waits for identity")]
pub(crate) use self::{
    connect::{
        Acquire, ConnectionLimit, Dialer, Pool, PoolEvent, PoolPolicy, PoolTarget, Readiness, Slot, SlotBody,
        TlsDialer, Upgraded, Want,
    },
    io::{Alpn, Dial, Dialed, Io, Offer},
    roll::Roll,
};
