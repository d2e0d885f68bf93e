//! One body read by two: the original at its own pace, the copy from what has passed.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use tokio::sync::mpsc;

use crate::{
    body::Body,
    error::{Code, Error},
};

/// What passed.
enum Passed {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body is complete.
    End,
    /// It is longer than what is copied.
    TooLong,
}

/// The original body. What it yields is handed on by reference and never waits for the copy; what the copy holds is bounded
/// by the length of body that is copied at all.
struct Tee {
    body: Body,
    copy: Option<mpsc::UnboundedSender<Passed>>,
    left: usize,
}

/// The body of the copy. It fails if the original ends early, so that the copy's peer never sees half a body as a whole.
struct Copied {
    passed: mpsc::UnboundedReceiver<Passed>,
    done: bool,
}

/// Splits a body: what goes on in place of it, and the copy's, of at most `limit` bytes.
pub(super) fn tee(mut body: Body, limit: usize) -> (Body, Body) {
    // Remembered again by the body around, for repeating.
    body.commit();
    let (sender, passed) = mpsc::unbounded_channel();
    let original = Tee { body, copy: Some(sender), left: limit };
    (Body::request(Body::erase(original)), Body::erase(Copied { passed, done: false }))
}

impl Tee {
    fn pass(&mut self, passed: Passed) {
        let last = !matches!(passed, Passed::Data(_));
        if let Some(copy) = &self.copy
            && (copy.send(passed).is_err() || last)
        {
            self.copy = None;
        }
    }
}

impl HttpBody for Tee {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            _ if self.copy.is_none() => {}
            None => self.pass(Passed::End),
            // Dropping the sender tells the copy.
            Some(Err(_)) => self.copy = None,
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    match self.left.checked_sub(data.len()) {
                        Some(left) => {
                            self.left = left;
                            self.pass(Passed::Data(data.clone()));
                        }
                        None => self.pass(Passed::TooLong),
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.pass(Passed::Trailers(trailers.clone()));
                }
                // Some readers do not poll to the end.
                if self.body.is_end_stream() {
                    self.pass(Passed::End);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl HttpBody for Copied {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let passed = ready!(self.passed.poll_recv(cx));
        self.done = !matches!(passed, Some(Passed::Data(_)));
        Poll::Ready(match passed {
            Some(Passed::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Passed::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Passed::End) => None,
            Some(Passed::TooLong) => Some(Err(Error::new(
                Code::TooLarge,
                "the body is longer than what is copied (`mirror.max_body_bytes`)",
            ))),
            None => Some(Err(Error::new(Code::ClientGone, "the body that is copied ended before it was complete"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn chunks(sizes: &[usize]) -> Body {
        let frames: Vec<_> =
            sizes.iter().map(|size| Ok::<_, Error>(Frame::data(Bytes::from(vec![7; *size])))).collect();
        Body::new(StreamBody::new(tokio_stream::iter(frames)))
    }

    #[tokio::test]
    async fn both_get_the_same_bytes_and_the_original_waits_for_nobody() {
        let (original, copy) = tee(chunks(&[10, 20, 30]), 60);
        assert_eq!(original.collect().await.unwrap().to_bytes().len(), 60);
        assert_eq!(copy.collect().await.unwrap().to_bytes().len(), 60);
    }

    #[tokio::test]
    async fn a_longer_body_cancels_the_copy_and_not_the_original() {
        let (original, copy) = tee(chunks(&[40, 21, 30]), 60);
        assert_eq!(original.collect().await.unwrap().to_bytes().len(), 91);
        assert_eq!(copy.collect().await.unwrap_err().code(), Code::TooLarge);
    }

    #[tokio::test]
    async fn an_original_that_ends_early_is_no_whole_body_for_the_copy() {
        let (mut original, copy) = tee(chunks(&[10, 20]), 60);
        let _ = original.frame().await;
        drop(original);
        assert_eq!(copy.collect().await.unwrap_err().code(), Code::ClientGone);
    }

    #[tokio::test]
    async fn a_copy_that_is_gone_is_not_held_for() {
        let (original, copy) = tee(chunks(&[10, 20]), 60);
        drop(copy);
        assert_eq!(original.collect().await.unwrap().to_bytes().len(), 30);
    }

    #[tokio::test]
    async fn a_repeated_original_copies_nothing_twice() {
        let (mut original, copy) = tee(chunks(&[10, 20]), 60);
        let _ = original.frame().await;
        assert!(original.rewind());
        assert_eq!(original.collect().await.unwrap().to_bytes().len(), 30);
        assert_eq!(copy.collect().await.unwrap().to_bytes().len(), 30);
    }
}
