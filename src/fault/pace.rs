//! A response body that is handed up slowly.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::handle::Injection;
use crate::{
    error::Error,
    rt::{self, Instant, Sleep},
};

/// Bytes are handed up so many times a second.
const TICKS: u32 = 20;

/// What may be handed up at `now`, and when the next bytes may be.
#[derive(Clone, Copy, Debug)]
struct Pace {
    bytes_per_second: u32,
    next: Instant,
}

impl Pace {
    /// The most bytes of one frame.
    fn portion(&self) -> usize {
        (self.bytes_per_second / TICKS).max(1) as usize
    }

    fn spent(&mut self, bytes: usize, now: Instant) {
        let nanos = bytes as u64 * 1_000_000_000 / u64::from(self.bytes_per_second);
        self.next = self.next.max(now) + Duration::from_nanos(nanos);
    }
}

pin_project! {
    pub(super) struct Paced<B> {
        #[pin]
        body: B,
        #[pin]
        sleep: Sleep,
        pace: Pace,
        // The rest of a frame that was longer than a portion.
        rest: Bytes,
        _injection: Arc<Injection>,
    }
}

impl<B> Paced<B> {
    pub(super) fn new(body: B, kib_per_second: u32, injection: Arc<Injection>) -> Self {
        let now = rt::now();
        let pace = Pace { bytes_per_second: kib_per_second.saturating_mul(1024).max(1), next: now };
        Self { body, sleep: rt::sleep_until(now), pace, rest: Bytes::new(), _injection: injection }
    }
}

impl<B: HttpBody<Data = Bytes, Error = Error>> HttpBody for Paced<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.project();
        ready!(this.sleep.as_mut().poll(cx));
        if this.rest.is_empty() {
            match ready!(this.body.poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => *this.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                end => return Poll::Ready(end),
            }
        }
        let portion = this.rest.split_to(this.rest.len().min(this.pace.portion()));
        this.pace.spent(portion.len(), rt::now());
        this.sleep.reset(this.pace.next);
        Poll::Ready(Some(Ok(Frame::data(portion))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}
