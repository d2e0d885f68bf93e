//! One body type, erased once.
//!
//! Most bodies in a mesh are empty, one chunk, or what the two transports hand over, so those are inline variants and
//! cost nothing; only foreign bodies are boxed. `Data` is always [`Bytes`](bytes::Bytes). Whatever must end with a body (a
//! permit, a load guard, a metric) is carried by a `GuardedBody`, because a response is not over when its headers are.

mod erased;
mod foreign;
mod gather;
mod guard;
mod h2;
mod meter;
mod replay;
mod shared;
mod stack;
#[cfg(test)]
mod tests;

pub use self::erased::Body;
pub(crate) use self::{
    foreign::Foreign,
    guard::{End, Guard, GuardedBody, Held},
    h2::H2Body,
    meter::{Meter, Reading},
    shared::Kept,
    stack::{ErasableLayer, StackBody},
};
