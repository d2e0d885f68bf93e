//! A request body on its way into an HTTP/2 stream.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body as HttpBody;

use crate::{
    body::Body,
    error::{Code, Error, Origin},
};

/// Moves frames as the peer's window opens, so a peer that does not read stops the producer.
pub(super) struct Pump {
    body: Body,
    stream: SendStream<Bytes>,
    /// Data that waits for the window.
    chunk: Option<Bytes>,
    done: bool,
}

impl Pump {
    pub(super) fn new(body: Body, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, chunk: None, done: false }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// The request will not be sent again.
    pub(super) fn commit(&mut self) {
        self.body.commit();
    }

    pub(super) fn into_body(self) -> Body {
        self.body
    }

    /// Ready when the body is sent, or the peer does not want more of it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.done {
            // A reset is told by the response; here it only means that nobody reads any more.
            if self.stream.poll_reset(cx).is_ready() {
                self.done = true;
                break;
            }
            if let Some(chunk) = &mut self.chunk {
                match self.stream.poll_capacity(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(0))) => continue,
                    Poll::Ready(Some(Ok(capacity))) => {
                        let part = chunk.split_to(capacity.min(chunk.len()));
                        let whole = chunk.is_empty();
                        if whole {
                            self.chunk = None;
                        }
                        let last = whole && self.body.is_end_stream();
                        self.done = last;
                        if self.stream.send_data(part, last).is_err() {
                            self.done = true;
                        }
                    }
                    Poll::Ready(Some(Err(_)) | None) => self.done = true,
                }
                continue;
            }
            let sent = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => Ok(()),
                    Ok(data) => {
                        self.stream.reserve_capacity(data.len());
                        self.chunk = Some(data);
                        Ok(())
                    }
                    Err(frame) => {
                        self.done = true;
                        match frame.into_trailers() {
                            Ok(trailers) => self.stream.send_trailers(trailers),
                            Err(_) => self.stream.send_data(Bytes::new(), true),
                        }
                    }
                },
                Some(Err(error)) => {
                    self.done = true;
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(Error::new(
                        Code::ClientGone,
                        "the request's body failed; the stream was reset",
                    )
                    .with_origin(Origin::Caller)
                    .with_source(error)));
                }
                None => {
                    self.done = true;
                    self.stream.send_data(Bytes::new(), true)
                }
            };
            if sent.is_err() {
                // The stream is gone; the response says why.
                self.done = true;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The rest of the body after the response's headers.
    pub(super) fn rest(self) -> Rest {
        Rest(self)
    }

    pub(super) fn cancel(&mut self) {
        if !self.done {
            self.done = true;
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

/// See [`Pump::rest`]. Dropped unfinished, it resets the stream.
pub(super) struct Rest(Pump);

impl Future for Rest {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll(cx).map(|_| ())
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
