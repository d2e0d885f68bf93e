//! The one validated configuration: plain data that every source ends in and that the running mesh is built from.
//!
//! A [`Snapshot`] is whole and immutable. It aggregates the slices' policies and says where each effective value came
//! from; it holds no sockets, no state and no behaviour beyond comparison.

mod endpoint;
mod floor;
mod lint;
mod listener;
mod policy;
mod provenance;
mod security;
mod service;
mod snapshot;

pub(crate) use self::policy::{PolicyDraft, PolicyRegistry};
pub use self::{
    endpoint::{Address, EndpointId, EndpointSpec, EndpointUpdate, Labels, SetKind},
    floor::Floor,
    lint::{Lint, LintCode},
    listener::ListenerLimits,
    policy::{Policy, PolicySet},
    provenance::{Origin, Place, Provenance},
    security::{
        AuthorityKind, AuthoritySpec, EdgeSpec, IdentityFiles, IdentitySource, IstioCa, JwtSvidSpec, Mtls, PrivateTls,
        ProxySpec, StepCa, StepRoot, TlsMode,
    },
    service::{EndpointSource, InboundSpec, Protocol, RouteMirror, RouteOptions, ServiceSpec, SourceKind},
    snapshot::{DrainSpec, ListenersSpec, MeshSpec, Snapshot},
};
