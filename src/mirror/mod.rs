//! Copies of live requests to endpoints that are being tried out, whose answers nobody waits for.
//!
//! A copy is made once per call, above repetition. It has its own deadline, its own permits and its own counter, and
//! touches nothing of the original: no latency, no limit, no budget, no statistic of an endpoint. It counts as load of the
//! endpoint it goes to, since it is one. Its request is marked, and so is whatever is called to answer it: marked requests
//! are not copied again.

mod handle;
mod layer;
mod policy;
mod tee;

pub(crate) use self::{
    handle::{MirrorHandle, Series},
    layer::{Copies, CopyLayer},
};
pub use self::{
    layer::{Mirror, MirrorLayer},
    policy::MirrorPolicy,
};
