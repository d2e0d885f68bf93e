//! The service mesh you link, not run.
//!
//! An application links sinew and its calls to other services are discovered, routed by rule, balanced, bounded by
//! deadlines and limits, and drained on shutdown: without a sidecar, without another process. Around ordinary `axum`,
//! `tonic` and `hyper` code stand two stacks of Tower layers, a client stack and a server stack; builder and one
//! `sinew.yaml` say what they do, and the file reloads while they run.
//!
//! # The paved path
//! ```no_run
//! # async fn page() -> &'static str { "" }
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let mesh = sinew::Mesh::from_env("productpage").await?;           // the builder's defaults, or sinew.yaml
//! let reviews = mesh.client("reviews");                             // tower::Service<http::Request<B>>, Clone
//! let app = axum::Router::new().route("/productpage", axum::routing::get(page));
//! mesh.serve("127.0.0.1:9080", app).await?;                         // server stack, drain on SIGTERM
//! # Ok(()) }
//! ```
//! - [`Mesh`] is the mesh of this process, made by [`Builder`]. [`Mesh::client`] gives a [`Client`] of one service,
//!   [`Mesh::http`] one that finds the service by the authority of each request.
//! - [`Client`] is a `tower::Service` and a tonic channel: `RatingsClient::new(mesh.client("ratings"))`. It has verbs of
//!   its own too: `client.get("/path").send().await?`, with [`ResponseExt`] for what comes back.
//! - [`Call`] says what one call wants: a timeout, a criticality. By the request's builder, by its extensions, which
//!   reaches through tonic, or for a whole scope.
//! - [`Context`] is what a request being served inherited: its deadline, its trace, its id. Calls made while serving
//!   carry it on by themselves; [`spawn`] carries it into a task.
//! - [`Mesh::serve`] takes any service of requests, [`Mesh::server_layer`] puts the same stack under somebody else's
//!   listener.
//! - [`Error`] says what failed ([`Code`]), whose fault it is ([`Origin`]) and whether the peer may have processed the
//!   request ([`Delivery`]).
//!
//! # Map
//! | module | what is in it |
//! |---|---|
//! | [`body`] | the one body type, with a fast path for small and empty bodies |
//! | [`model`] | the validated configuration as plain data: [`Mesh::snapshot`](Mesh::snapshot) |
//! | `config` | the loader of `sinew.yaml` for tools and tests (feature `file`) |
//! | [`defaults`] | what holds where nothing is configured, by number of endpoints, and what has no key |
//! | [`discover`] | sources of endpoints, and the trait for one of your own |
//! | [`route`], [`matching`] | routes, splits, rewrites, and what they match |
//! | [`balance`] | how an endpoint is chosen |
//! | [`health`] | when an endpoint is taken out, and how it comes back |
//! | [`retry`] | what is sent again, budgets, hedges. Also as a layer for any service |
//! | [`breaker`], [`timeout`] | exact limits; deadlines that follow the body. Also as layers for any service |
//! | [`fault`] | delays, aborts and slow responses on purpose. Also as a layer |
//! | [`mirror`] | copies of requests that nobody waits for. Also as a layer |
//! | [`enforcement`] | shares of requests, and whether a policy acts |
//! | [`seat`], [`model::Policy`] | code and policies of your own inside the stacks |
//! | [`provide`] | where a layer finds its policy: fixed, live, or by call |
//! | [`name`] | names that are valid by type |
//!
//! The order of the stacks, the rooms behind these modules and what may import what: `docs/architecture.md` in the
//! repository. One page per task: `docs/guides/`. Every error code: `docs/reference/errors.md`. Every metric:
//! `docs/reference/metrics.md`.
//!
//! # Features
//! A feature gates dependencies, never behaviour.
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `aws-lc` | yes | TLS by aws-lc-rs, X25519MLKEM768 offered |
//! | `ring` | | TLS by ring: a smaller build, no post-quantum key exchange |
//! | `dev-ca` | | `identity: { source: dev }`: a certificate authority for development |
//! | `cel` | | conditions of authorization rules in CEL |
//! | `dns` | yes | DNS discovery (hickory-resolver) |
//! | `file` | yes | `sinew.yaml` with reload, endpoint files |
//! | `tonic` | yes | typed context and peer on `tonic::Request`, `grpc.health.v1` on the ops listener |
//! | `axum` | yes | extractors for the context and the peer |
//! | `prometheus` | | Prometheus text on the ops listener's `/metrics` |
//! | `testing` | | `sinew::testing`: meshes of several services in one process, for tests |
//! | `schema` | | JSON Schema of `sinew.yaml` |
//! | `cli` | | the `sinew` command |
//!
//! # What is not there yet
//! Identity and mTLS (calls are plaintext, everyone is admitted, and a document that asks for mTLS is refused), active health checks, control planes.

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![warn(unreachable_pub)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod body;
mod caller;
mod canon;
mod classify;
mod context;
pub mod enforcement;
mod error;
#[allow(
    dead_code,
    unused_imports,
    reason = "tokens of a Workload API are carried nowhere yet; tests read more than the mesh does"
)]
mod identity;
mod instrument;
pub mod matching;
pub mod name;
mod peer;
mod permit;
pub mod provide;
mod rt;
pub mod seat;
mod switch;
mod transport;

#[cfg_attr(
    not(all(feature = "file", any(feature = "aws-lc", feature = "ring"))),
    allow(dead_code, unused_imports, clippy::match_like_matches_macro)
)]
pub mod authn;
#[cfg_attr(
    not(all(feature = "file", any(feature = "aws-lc", feature = "ring"))),
    allow(dead_code, unused_imports, clippy::match_like_matches_macro)
)]
pub mod authz;
pub mod balance;
pub mod breaker;
pub mod fault;
pub mod health;
pub mod limit;
pub mod mirror;
mod rescue;
pub mod retry;
pub mod route;
pub mod shed;
mod telemetry;
pub mod timeout;

mod adapter;
mod client;
mod cluster;
pub mod discover;
mod mesh;
// A document is read with more of these two than code needs.
#[cfg_attr(not(feature = "file"), allow(dead_code))]
pub mod model;
mod ops;
mod server;
#[cfg_attr(not(feature = "file"), allow(dead_code, unused_imports))]
mod source;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

/// Checking configurations: the loader of `sinew.yaml` and its reports.
#[cfg(feature = "file")]
pub mod config {
    #[cfg(feature = "schema")]
    pub use crate::source::file::schema;
    pub use crate::source::file::{Diagnostic, Loader, Report, show};
}

/// Policies of other systems, read as ours: Istio, Envoy's RBAC, gRPC's authorization policies.
#[cfg(feature = "file")]
pub mod import {
    pub use crate::source::import::{ImportError, Istio, Workload, envoy_rbac, grpc_authz, istio};
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
pub use self::adapter::RlsClient;
pub use self::{
    body::Body,
    caller::{Caller, Token},
    canon::PathNormalization,
    classify::Outcome,
    context::{Call, Context, Criticality, Scoped, Task, TaskError, TraceContext, spawn},
    error::{BoxError, Code, Delivery, Error, Kind, Origin},
    identity::{CertificateAuthority, CertificateRequest, IssuedCertificate, Signing, Trusting},
    peer::{Peer, PeerAddr},
};
pub use self::{
    client::{Client, RequestBuilder, ResponseExt, ResponseFuture, StatusError},
    cluster::{CheckStatus, ClusterStatus, EndpointStatus, PriorityStatus},
    mesh::{
        BuildError, Builder, CircuitStatus, IdentityStatus, Listen, Listener, Mesh, MeshStatus, Network, Serve,
        ServiceStatus, SourceStatus, defaults,
    },
    server::{ServerLayer, ServerService},
    source::builder::ServiceBuilder,
};

/// The examples of the documents compile.
#[cfg(all(doctest, feature = "axum", feature = "file", feature = "tonic"))]
mod documents {
    macro_rules! documents {
        ($($name:ident = $path:literal;)+) => { $( #[doc = include_str!($path)] struct $name; )+ };
    }
    documents! {
        Readme = "../README.md";
        Authentication = "../docs/guides/authentication.md";
        Authorization = "../docs/guides/authorization.md";
        Axum = "../docs/guides/axum.md";
        CircuitBreakers = "../docs/guides/circuit-breakers.md";
        Configuration = "../docs/guides/configuration.md";
        Deadlines = "../docs/guides/deadlines.md";
        Discovery = "../docs/guides/discovery.md";
        Draining = "../docs/guides/draining.md";
        Faults = "../docs/guides/faults.md";
        GettingStarted = "../docs/guides/getting-started.md";
        Grpc = "../docs/guides/grpc.md";
        Library = "../docs/guides/library.md";
        Migrating = "../docs/guides/migrating.md";
        Ops = "../docs/guides/ops.md";
        Mirroring = "../docs/guides/mirroring.md";
        Options = "../docs/guides/options.md";
        Overload = "../docs/guides/overload.md";
        OwnPolicy = "../docs/guides/own-policy.md";
        RateLimits = "../docs/guides/rate-limits.md";
        Requests = "../docs/guides/requests.md";
        Retries = "../docs/guides/retries.md";
        Routing = "../docs/guides/routing.md";
        Streams = "../docs/guides/streams.md";
        Testing = "../docs/guides/testing.md";
    }
}
