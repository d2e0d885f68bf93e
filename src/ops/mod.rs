//! The ops listener: what a supervisor, a load balancer and a scraper may ask, and nothing else.
//!
//! It has an address of its own and speaks plaintext HTTP/1.1 and h2c, so that no policy, identity or overload of the
//! mesh can make a process look dead. Its price is that whoever reaches the address may read it; it tells nothing that
//! is secret and changes nothing.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 while the process can answer at all; depends on nothing |
//! | `/readyz` | 200, or 503 with the reasons as JSON; `?verbose` lists the conditions always |
//! | `/metrics` | Prometheus text (feature `prometheus`) |
//! | `grpc.health.v1` | `Check` and `Watch` of `""` and of the service's name (feature `tonic`) |
//!
//! Readiness never asks a dependency: a dependency's outage would take every instance out at once.
//!
//! # Metrics and exporters of your own
//! `/metrics` renders the mesh's own series through a recorder of its own, and installs nothing: an exporter that the
//! application has installed keeps working and gets the same series by the periodic flush into the `metrics` facade.
//! The application's own metrics are on its exporter, not here.
//!
//! # Drain
//! The listener has a drain of its own, ended after the mesh's: until the last connection is gone it answers, and from
//! the start of the lame duck it answers that the process is not ready.

mod readiness;
mod server;

#[cfg(feature = "tonic")]
mod health;
#[cfg(not(feature = "tonic"))]
#[path = "health_off.rs"]
mod health;
#[cfg(feature = "prometheus")]
mod metrics;
#[cfg(not(feature = "prometheus"))]
#[path = "metrics_off.rs"]
mod metrics;

pub(crate) use self::{
    readiness::{Condition, Readiness},
    server::OpsServer,
};

#[cfg(test)]
mod tests;
