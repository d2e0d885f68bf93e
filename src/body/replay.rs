//! Request bodies that can be sent again.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::error::{BoxError, Code, Error};

/// How much of a request body is remembered for sending it again.
pub(crate) const REPLAY_LIMIT: usize = 64 * 1024;

pub(super) trait Replayable: HttpBody<Data = Bytes, Error = Error> {
    fn rewind(self: Pin<&mut Self>) -> bool;
    fn commit(self: Pin<&mut Self>);
}

pin_project! {
    /// Remembers what it yielded. The first chunk is kept inline, since most bodies are one chunk.
    ///
    /// The body is owned by one attempt at a time and handed back when that attempt provably did not reach the peer,
    /// so no lock and no sharing is needed.
    pub(super) struct Replay<B> {
        #[pin]
        body: B,
        first: Option<Bytes>,
        more: Vec<Bytes>,
        trailers: Option<HeaderMap>,
        remembered: usize,
        replayed: usize,
        mode: Remember,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Remember {
    /// Every chunk so far is remembered.
    All,
    /// Nothing is remembered: over the limit, or committed.
    Nothing,
}

impl<B> Replay<B> {
    pub(super) fn new(body: B) -> Self {
        Self {
            body,
            first: None,
            more: Vec::new(),
            trailers: None,
            remembered: 0,
            replayed: usize::MAX,
            mode: Remember::All,
        }
    }
}

impl<B: HttpBody<Data = Bytes>> Replayable for Replay<B>
where
    B::Error: Into<BoxError>,
{
    fn rewind(self: Pin<&mut Self>) -> bool {
        let this = self.project();
        *this.replayed = 0;
        *this.mode == Remember::All
    }

    fn commit(self: Pin<&mut Self>) {
        let this = self.project();
        *this.mode = Remember::Nothing;
        // What a rewound body has yet to repeat is still needed.
        if *this.replayed == usize::MAX {
            *this.first = None;
            this.more.clear();
            *this.trailers = None;
        }
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for Replay<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.project();
        if *this.replayed != usize::MAX {
            let at = *this.replayed;
            let chunk = if at == 0 { this.first.as_ref() } else { this.more.get(at - 1) };
            if let Some(chunk) = chunk {
                *this.replayed += 1;
                return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
            }
            *this.replayed = usize::MAX;
            if let Some(trailers) = this.trailers.clone() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
        let frame = ready!(this.body.poll_frame(cx));
        if let (Some(Ok(frame)), Remember::All) = (&frame, *this.mode) {
            if let Some(data) = frame.data_ref() {
                *this.remembered += data.len();
                if *this.remembered > REPLAY_LIMIT {
                    *this.mode = Remember::Nothing;
                    *this.first = None;
                    *this.more = Vec::new();
                } else if this.first.is_none() {
                    *this.first = Some(data.clone());
                } else {
                    this.more.push(data.clone());
                }
            } else if let Some(trailers) = frame.trailers_ref() {
                *this.trailers = Some(trailers.clone());
            }
        }
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| Error::from_boxed(error.into(), Code::ClientGone, "the body's producer failed"))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.replayed == usize::MAX && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // While it repeats itself the exact length is not the inner body's; a caller's content-length header stands.
        if self.replayed == usize::MAX { self.body.size_hint() } else { SizeHint::default() }
    }
}
