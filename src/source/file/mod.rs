//! `sinew.yaml`: one document, strict, read as a whole, with every mistake in it reported at once.
//!
//! Strictness is the point: what is misspelt is refused and never ignored, because a timeout that silently does not
//! apply is found in an outage. The price is that a document for a newer version does not load in an older one.

mod audit;
mod authn;
mod authority;
mod authz;
mod breaker;
mod cursor;
mod endpoints;
mod failover;
mod grammar;
mod health;
mod interpolate;
mod limits;
mod listener;
mod loader;
mod node;
mod outlier;
mod overload;
mod report;
mod retry;
mod routes;
#[cfg(feature = "schema")]
mod schema;
mod security;
mod show;
pub(crate) mod suggest;
mod traffic;
mod watch;

/// One document of YAML as JSON.
pub(super) fn yaml(text: &str) -> Result<serde_json::Value, String> {
    match node::decode(text.as_bytes()).and_then(node::parse) {
        Ok(node) => Ok(node.to_json()),
        Err(wrong) => Err(format!("line {}: {} ({})", wrong.mark.line, wrong.message, wrong.help)),
    }
}

#[cfg(all(test, feature = "schema"))]
pub(crate) use self::schema::describe;
#[cfg(feature = "schema")]
pub use self::schema::schema;
pub use self::{
    loader::Loader,
    report::{Diagnostic, Report},
    show::show,
};
pub(crate) use self::{
    loader::{read, refused},
    watch::{FileSource, SourceStatus},
};
