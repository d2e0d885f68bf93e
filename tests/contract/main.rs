//! The contracts every public layer keeps: ready before call, nothing reserved by readiness or clones, nothing left
//! behind by a call that is dropped, and the traits and sizes that callers build on.

mod layers;
mod probe;
mod stack;
mod traits;
