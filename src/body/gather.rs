//! Small pieces of a body are handed over as one.
//!
//! Whoever collects a body keeps some forty bytes of bookkeeping for each piece, so a peer that sends one byte a frame
//! would make eighty megabytes of a body of two. A piece of ordinary size passes as it is, uncopied.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};

/// Smaller ones are gathered: then bookkeeping is at most about as much as what it is for.
const SMALL: usize = 64;
/// So much at once, then the reader has its turn.
const MOST: usize = 4096;
/// After so many small pieces of which each came alone, the connection has a turn of its task to bring the next.
const ALONE: u8 = 128;
/// In place of a count of these.
const NO_TURNS: u8 = u8::MAX;

/// A body without many small pieces. It waits for nothing but, where that is of use, a turn of its task.
pub(super) struct Gathered<B: HttpBody<Data = Bytes>> {
    body: B,
    /// On the heap, since it is rare and bodies are moved a lot.
    held: Option<Box<Held<B>>>,
    alone: u8,
}

struct Held<B: HttpBody<Data = Bytes>> {
    small: BytesMut,
    /// What came after them.
    next: Option<Polled<B>>,
}

/// `None` for the end.
type Polled<B> = Option<Result<Frame<Bytes>, <B as HttpBody>::Error>>;

impl<B: HttpBody<Data = Bytes> + Unpin> Gathered<B> {
    /// `one_at_a_time`: the transport brings a piece when the one before was taken, as hyper's HTTP/1.1 does, so what the peer
    /// has sent already is there after a turn only.
    pub(super) fn new(body: B, one_at_a_time: bool) -> Self {
        Self { body, held: None, alone: if one_at_a_time { 0 } else { NO_TURNS } }
    }

    /// After a small piece: more of them, then what was gathered.
    fn poll_held(&mut self, mut held: Box<Held<B>>, cx: &mut Context<'_>) -> Poll<Polled<B>> {
        let before = held.small.len();
        while held.small.len() < MOST {
            match held.next.take() {
                Some(Some(Ok(frame))) if is_small(&frame) => held.small.extend_from_slice(data(&frame)),
                None if !self.body.is_end_stream() => {}
                next => {
                    held.next = next;
                    break;
                }
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(next) => held.next = Some(next),
                // As long as every turn brings one.
                Poll::Pending if self.alone == ALONE && held.small.len() > before => {
                    self.held = Some(held);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending => break,
            }
        }
        let small = held.small.split().freeze();
        self.held = held.next.is_some().then_some(held);
        Poll::Ready(Some(Ok(Frame::data(small))))
    }
}

fn data(frame: &Frame<Bytes>) -> &[u8] {
    frame.data_ref().map_or(&[], |data| data)
}

fn is_small(frame: &Frame<Bytes>) -> bool {
    frame.data_ref().is_some_and(|data| data.len() < SMALL)
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Gathered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Polled<B>> {
        let this = &mut *self;
        if let Some(mut held) = this.held.take() {
            let is_next = |next: &mut Polled<B>| !matches!(next, Some(Ok(frame)) if is_small(frame));
            return match held.next.take_if(|next| held.small.is_empty() && is_next(next)) {
                Some(next) => Poll::Ready(next),
                None => this.poll_held(held, cx),
            };
        }
        let first = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) if is_small(&frame) && !this.body.is_end_stream() => frame,
            polled => return Poll::Ready(polled),
        };
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending if this.alone != ALONE => {
                this.alone = this.alone.saturating_add(1);
                Poll::Ready(Some(Ok(first)))
            }
            polled => {
                let mut held = Box::new(Held { small: data(&first).into(), next: None });
                match polled {
                    Poll::Ready(next) => {
                        held.next = Some(next);
                        this.poll_held(held, cx)
                    }
                    Poll::Pending => {
                        this.held = Some(held);
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.held {
            None => self.body.is_end_stream(),
            Some(held) => held.small.is_empty() && matches!(held.next, Some(None)),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint();
        let Some(held) = &self.held else { return rest };
        let next = match &held.next {
            Some(Some(Ok(frame))) => data(frame),
            _ => &[],
        };
        let here = (held.small.len() + next.len()) as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + here);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + here);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, task::Waker};

    use http::HeaderMap;

    use super::*;

    /// What a transport would say to one poll after the other.
    struct Script(VecDeque<Poll<Polled<Script>>>);

    impl HttpBody for Script {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Polled<Self>> {
            self.0.pop_front().unwrap_or(Poll::Ready(None))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            let left = self.0.iter().filter_map(|polled| match polled {
                Poll::Ready(Some(Ok(frame))) => frame.data_ref().map(|data| data.len() as u64),
                _ => None,
            });
            SizeHint::with_exact(left.sum())
        }
    }

    fn piece(bytes: impl Into<Bytes>) -> Poll<Polled<Script>> {
        Poll::Ready(Some(Ok(Frame::data(bytes.into()))))
    }

    /// The lengths of what comes; `p` stands for pending, `t` for trailers, `e` for the end.
    fn read(script: impl IntoIterator<Item = Poll<Polled<Script>>>, one_at_a_time: bool) -> Vec<String> {
        let mut body = Gathered::new(Script(script.into_iter().collect()), one_at_a_time);
        let mut seen = Vec::new();
        loop {
            let before = body.size_hint().exact();
            let ends = body.is_end_stream();
            match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => seen.push("p".to_owned()),
                Poll::Ready(None) => {
                    assert!(ends, "who asks first knows that nothing comes");
                    assert_eq!(before, Some(0));
                    seen.push("e".to_owned());
                    return seen;
                }
                Poll::Ready(Some(Ok(frame))) => {
                    assert!(!ends);
                    let length = frame.data_ref().map(Bytes::len);
                    assert_eq!(before, Some(body.size_hint().exact().unwrap() + length.unwrap_or(0) as u64));
                    seen.push(length.map_or("t".to_owned(), |length| length.to_string()));
                }
            }
        }
    }

    fn small(many: usize) -> impl Iterator<Item = Poll<Polled<Script>>> {
        (0..many).map(|_| piece("x"))
    }

    /// Each of them after a turn.
    fn alone(many: usize) -> impl Iterator<Item = Poll<Polled<Script>>> {
        (0..many).flat_map(|_| [piece("x"), Poll::Pending])
    }

    #[test]
    fn small_pieces_that_are_there_come_as_one_of_bounded_size() {
        assert_eq!(read(small(10_000), false), ["4096", "4096", "1808", "e"]);
        assert_eq!(read(small(1), false), ["1", "e"]);
    }

    #[test]
    fn a_piece_that_comes_alone_is_handed_over_at_once() {
        assert_eq!(read(alone(1_000), false), [vec!["1"; 1_000], vec!["e"]].concat());
        assert_eq!(read(alone(usize::from(ALONE)), true), [vec!["1"; usize::from(ALONE)], vec!["e"]].concat());
        assert_eq!(read([Poll::Pending, piece("x")], false), ["p", "1", "e"]);
    }

    #[test]
    fn where_pieces_come_one_at_a_time_turns_gather_them_if_there_are_many() {
        let mut seen = read(alone(10_000), true);
        let first: Vec<_> = seen.drain(..usize::from(ALONE)).collect();
        assert!(first.iter().all(|piece| piece == "1"));
        seen.retain(|seen| seen != "p");
        assert_eq!(seen, ["4096", "4096", "1680", "e"]);
    }

    #[test]
    fn a_turn_that_brings_nothing_is_the_last() {
        let script =
            alone(usize::from(ALONE)).chain([piece("y"), Poll::Pending, Poll::Pending, piece("z"), Poll::Pending]);
        let seen = read(script, true);
        assert_eq!(seen[usize::from(ALONE)..], ["p", "1", "p", "1", "e"]);
    }

    #[test]
    fn what_follows_keeps_its_place() {
        let trailers = || Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new()))));
        assert_eq!(read(small(3).chain([piece(vec![0; 64]), trailers()]), false), ["3", "64", "t", "e"]);
        assert_eq!(read([piece("x"), piece(vec![0; 100])], false), ["1", "100", "e"]);
        assert_eq!(read(small(2).chain([trailers()]), false), ["2", "t", "e"]);
        assert_eq!(read(small(2).chain([Poll::Ready(None)]), false), ["2", "e"]);
    }

    #[test]
    fn ordinary_pieces_are_not_copied() {
        let whole = Bytes::from(vec![7; SMALL]);
        let mut body = Gathered::new(Script([piece(whole.clone()), piece("x")].into()), false);
        let polled = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Some(Ok(frame))) = polled else { panic!("a piece is there") };
        assert_eq!(frame.into_data().unwrap().as_ptr(), whole.as_ptr());
    }
}
