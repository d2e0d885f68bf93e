//! Connections to endpoints: dialled, pooled, and never offered before they work.
//!
//! One HTTP/2 connection serialises on one lock and starves at the peer's stream limit, a pool that hands out dead
//! connections fails requests that need not fail, and a client that finds out about GOAWAY late loses what it sent in
//! between. So HTTP/2 is driven over the `h2` crate, one task per connection, which shows the peer's SETTINGS and GOAWAY
//! as they arrive: a connection is offered once its SETTINGS are here, never beyond its stream limit, and not any more
//! once it is going away.
//!
//! # States of a pool
//! `Idle` (nothing open; wakes at the first interest) -> `Connecting` -> `Ready` | `TransientFailure`, which goes on
//! connecting by itself at most once per back-off, whatever the load, and is `Ready` again within about a second of the
//! endpoint's recovery. Losing the last connection leads back to `Connecting` if it was in use, else to `Idle`.

mod dial;
mod h1;
mod h2;
mod limit;
mod line;
mod pool;
mod proxy;
mod pump;
mod secure;
mod slot;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    dial::Dialer,
    h1::Upgraded,
    limit::ConnectionLimit,
    line::ConnectionId,
    pool::{Acquire, Pool, PoolEvent, PoolPolicy, PoolTarget, Readiness, Want},
    proxy::{ProxyDialer, ProxySettings},
    secure::{Leash, TlsDialer},
    slot::{Slot, SlotBody},
};
