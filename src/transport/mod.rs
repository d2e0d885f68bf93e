//! Bytes and connections, no policy: nothing in here knows what a status code means.
//!
//! `connect/` dials and pools, `accept/` listens and drains, `memory` joins the two inside one process. TLS will stand
//! where [`Dial`] stands: a dialler that wraps another.

pub(crate) mod accept;
mod batch;
mod connect;
mod error;
mod frames;
mod io;
pub(crate) mod memory;
mod roll;
#[cfg(test)]
mod tests;

pub(crate) use self::error::unreachable;
pub(crate) use self::{
    connect::{
        Acquire, ConnectionId, ConnectionLimit, Dialer, Pool, PoolEvent, PoolPolicy, PoolTarget, ProxyDialer,
        ProxySettings, Readiness, Slot, SlotBody, TlsDialer, Upgraded, Want,
    },
    io::{Alpn, Dial, Dialed, Io, Offer},
    roll::Roll,
};
