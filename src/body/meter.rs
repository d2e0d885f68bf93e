//! What somebody beside an exchange sees of its progress.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame};
use hyper::body::Incoming;

use super::gather::Gathered;

/// How far the two bodies of an exchange are. Written by the bodies, read now and then by whoever judges the peer's pace.
#[derive(Default, Debug)]
pub(crate) struct Meter {
    /// The application waits for bytes of the request.
    asked: AtomicBool,
    received: AtomicU64,
    /// A part of the response was handed over and the next was not asked for yet.
    offered: AtomicBool,
    given: AtomicU32,
}

/// A [`Meter`] at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Reading {
    /// The application waits for bytes of the request.
    pub(crate) asked: bool,
    /// Bytes of the request that have arrived.
    pub(crate) received: u64,
    /// A part of the response waits to be taken by the peer.
    pub(crate) offered: bool,
    /// Parts of the response that were handed over.
    pub(crate) given: u32,
}

impl Meter {
    pub(crate) fn read(&self) -> Reading {
        Reading {
            asked: self.asked.load(Relaxed),
            received: self.received.load(Relaxed),
            offered: self.offered.load(Relaxed),
            given: self.given.load(Relaxed),
        }
    }

    /// Another exchange begins.
    pub(crate) fn reset(&self) {
        self.asked.store(false, Relaxed);
        self.received.store(0, Relaxed);
        self.offered.store(false, Relaxed);
        self.given.store(0, Relaxed);
    }

    /// A part of the response was handed over.
    pub(crate) fn gave(&self) {
        self.given.fetch_add(1, Relaxed);
        self.offered.store(true, Relaxed);
    }

    /// The next part of the response is asked for.
    pub(crate) fn wanted(&self) {
        self.offered.store(false, Relaxed);
    }

    pub(super) fn poll(
        &self,
        body: Pin<&mut Gathered<Incoming>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = body.poll_frame(cx);
        self.asked.store(polled.is_pending(), Relaxed);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.received.fetch_add(data.remaining() as u64, Relaxed);
        }
        polled
    }
}

/// A body that keeps its meter.
pub(super) struct Metered {
    pub(super) body: Gathered<Incoming>,
    pub(super) meter: Arc<Meter>,
}

impl Drop for Metered {
    fn drop(&mut self) {
        // Whoever dropped the body waits for it no longer.
        self.meter.asked.store(false, Relaxed);
    }
}
