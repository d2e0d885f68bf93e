//! Where the body of a further attempt comes from.

use bytes::Bytes;

use crate::{
    body::{Body, Kept},
    error::Error,
};

#[derive(Debug)]
pub(super) enum Source {
    /// Only what was not processed is sent again, and the failed attempt hands its body back: nothing is kept.
    Returned,
    /// In memory from the start.
    Whole(Bytes),
    /// Streamed, and kept up to a limit.
    Kept(Kept),
}

impl Source {
    /// Keeps a body; the second is for the first attempt.
    pub(super) fn keep(body: Body, limit: usize) -> (Self, Body) {
        match body.as_full() {
            Some(bytes) => (Self::Whole(bytes), body),
            None => {
                let (kept, body) = Kept::new(body, limit);
                (Self::Kept(kept), body)
            }
        }
    }

    /// Whether several attempts may send it at the same time.
    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Returned => false,
            Self::Whole(_) => true,
            Self::Kept(kept) => kept.is_complete(),
        }
    }

    /// The body for another attempt, if it can be sent again.
    pub(super) fn again(&self, failed: Option<&mut Error>) -> Option<Body> {
        match self {
            Self::Returned => {
                let mut body = failed?.take_returned()?;
                body.rewind().then_some(body)
            }
            Self::Whole(bytes) => Some(Body::from(bytes.clone())),
            Self::Kept(kept) => kept.is_replayable().then(|| kept.again()),
        }
    }
}
