//! Bodies from HTTP/2 streams.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::error::Error;

/// A response body straight from an HTTP/2 stream: data, then trailers, with flow control released as it is read.
pub(crate) struct H2Body {
    stream: h2::RecvStream,
    remaining: Option<u64>,
    data_done: bool,
    map_error: fn(h2::Error) -> Error,
}

impl H2Body {
    /// `map_error` comes from the transport: only it may judge what an HTTP/2 error means.
    pub(crate) fn new(stream: h2::RecvStream, content_length: Option<u64>, map_error: fn(h2::Error) -> Error) -> Self {
        Self { stream, remaining: content_length, data_done: false, map_error }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The window is given back as the reader takes the data, so a slow reader slows the sender.
                    if let Err(error) = self.stream.flow_control().release_capacity(data.len()) {
                        return Poll::Ready(Some(Err((self.map_error)(error))));
                    }
                    if let Some(remaining) = &mut self.remaining {
                        *remaining = remaining.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // A peer may answer early and then stop reading the request: not an error of the response.
                Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) => {
                    self.data_done = true;
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    self.data_done = true;
                    return Poll::Ready(Some(Err((self.map_error)(error))));
                }
                None => self.data_done = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(None),
            Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err((self.map_error)(error)))),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
