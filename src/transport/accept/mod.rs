//! Accepting connections: limits against strangers, and a drain that loses nothing.
//!
//! hyper serves a connection well and guards it badly: no timeout for a silent peer, one timer for both a slow header
//! and an idle connection, no count of control frames, and a graceful shutdown that drops a request which races with
//! it. So the connections here are hyper's, the timers, counters and the end of a connection are ours: an
//! [`io::ServerIo`] sees every byte, a [`service::Wire`] sees every request, both write into one
//! [`state::ConnState`], and the connection's task ([`connection`]) judges from it.
//!
//! # Life of a connection
//! accepted (caps, socket options) -> sniffed (HTTP/2 preface or not, 5 s) -> served -> closing -> closed. Closing starts
//! with the connection's age, with [`Phase::LameDuck`], or with [`Phase::Stopping`]. It never interrupts:
//! - HTTP/2 gets a two-step GOAWAY; every stream up to the last id is served.
//! - HTTP/1.1 says `Connection: close` on its next response. A connection that is idle when accepting stops is closed
//!   after a grace, and only at a moment when nothing was there to read.
//! - An upgraded connection runs on, counts as open, and ends with its peers or when the drain forces it.
//!
//! Only [`Phase::Forced`], the end of the [`TaskSet`](crate::rt::TaskSet), and a broken limit end a connection at once.
//!
//! # Trade-off
//! Bytes that are still on the wire when an idle HTTP/1.1 connection is closed are lost to their sender; HTTP/1.1 has
//! no way to say so first. A lame duck longer than the client's keep-alive makes that window empty.

mod caps;
mod connection;
mod drain;
mod exchanges;
mod flood;
#[cfg(fuzzing)]
mod fuzzing;
mod io;
mod limits;
mod listener;
mod pace;
mod proxy_header;
mod refuse;
mod secure;
mod service;
mod sniff;
mod socket;
mod state;
mod timers;

#[cfg(fuzzing)]
pub(crate) use self::fuzzing::{count_frames, parse_proxy_header, pass_frames, prelude};
pub(crate) use self::{
    caps::Proxies,
    drain::{Drain, DrainReport, DrainWatch, Phase},
    limits::{Limits, Paced},
    listener::{Acceptor, Cut, Listener},
    secure::{InboundTls, Plaintext},
};

#[cfg(test)]
mod tests;
