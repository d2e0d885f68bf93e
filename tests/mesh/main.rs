//! Whole meshes on real sockets and in memory.

mod audit_log;
mod authn;
mod authority;
mod authz;
mod calls;
mod canonical;
mod checks;
mod circuits;
mod crowds;
#[path = "../support/echo.rs"]
mod echo;
mod endpoint_limits;
mod enforcement;
mod ext_authz;
mod failure;
mod faults;
mod floor;
mod global_limits;
mod grpc;
mod identity;
mod limits;
mod listener_limits;
mod live;
mod mirrors;
mod options;
mod outliers;
mod outside;
mod overload;
mod quiet;
mod rate_limits;
mod reload;
mod restart;
mod retries;
#[path = "../support/rls.rs"]
mod rls;
mod routing;
mod shadow;
#[path = "../support/authority.rs"]
mod signer;
mod stall;
mod streams;
mod timeouts;
mod tokens;
mod tree;
mod upgrades;
mod versions;
mod virtual_ip;
mod world;
mod worlds;
