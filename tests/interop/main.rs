//! Real peers: h2spec, h2load, wrk, ghz and nginx against our listener and our client; OpenSSL, gRPC's C core, Envoy, step-ca,
//! istiod and go-spiffe against our identities; Envoy's rate limit service.
//!
//! A peer that is not installed is skipped loudly, and installed first where `SINEW_INTEROP_INSTALL` is set; see
//! `peers.sh` for where they live. Each test starts what it needs on ports of its own and ends it by its process id.

#[allow(dead_code)]
#[path = "../support/echo.rs"]
mod echo;
mod identity;
mod load;
mod nginx;
mod peer;
mod ratelimit;
#[path = "../support/authority.rs"]
mod signer;
mod spec;
#[allow(dead_code)]
#[path = "../mesh/world.rs"]
mod world;
