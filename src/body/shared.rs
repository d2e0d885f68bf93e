//! Request bodies that several attempts read.
//!
//! [`Replay`](super::replay) serves the attempt that hands its body back because nothing of it was processed. Here the
//! peer may have read all of it and answered, so what was read is kept beside the attempt: by reference, up to a limit,
//! and only where a policy may send the call again.

use std::{
    cell::RefCell,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::Body;
use crate::error::{Code, Error, Origin};

/// What is kept of a body. Dropped, nothing more is kept and the attempt that reads goes on alone.
///
/// What it is made of is used again by the calls of the same thread.
#[derive(Debug)]
pub(crate) struct Kept {
    /// `None` once it was given back.
    state: Option<Arc<Mutex<State>>>,
}

/// One attempt's view of the body: from the first byte, whoever read it before.
#[derive(Debug)]
pub(super) struct Reader {
    state: Arc<Mutex<State>>,
    /// Which attempt this is.
    attempt: u32,
    /// The next chunk to repeat.
    at: usize,
    trailers: bool,
}

#[derive(Debug, Default)]
struct State {
    /// What nobody has read yet.
    rest: Body,
    chunks: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// Bytes in `chunks`.
    bytes: usize,
    limit: usize,
    keeping: Keeping,
    /// `rest` is over.
    ended: bool,
    /// The attempt that may read on. An upload that outlives its attempt must not take a chunk from the next one.
    attempt: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Keeping {
    /// Everything that was read is kept.
    All,
    /// Over the limit, failed, or committed.
    #[default]
    Nothing,
}

thread_local! {
    static SPARE: RefCell<Vec<Arc<Mutex<State>>>> = const { RefCell::new(Vec::new()) };
}

/// How many a thread keeps, and with room for how many chunks.
const SPARES: usize = 64;
const SPARE_CHUNKS: usize = 16;

impl Kept {
    /// Takes the body of a request; the second is for the first attempt. At most `limit` bytes of it are kept.
    pub(crate) fn new(rest: Body, limit: usize) -> (Self, Body) {
        let mut state = SPARE.try_with(|spare| spare.try_borrow_mut().ok()?.pop()).ok().flatten().unwrap_or_default();
        let chunks = match Arc::get_mut(&mut state) {
            Some(spare) => mem::take(&mut spare.get_mut().unwrap_or_else(PoisonError::into_inner).chunks),
            None => Vec::new(),
        };
        *state.lock().unwrap_or_else(PoisonError::into_inner) =
            State { rest, chunks, limit, keeping: Keeping::All, ..State::default() };
        let reader = Reader { state: Arc::clone(&state), attempt: 0, at: 0, trailers: false };
        (Self { state: Some(state) }, Body::shared(reader))
    }

    fn lock(&self) -> Option<MutexGuard<'_, State>> {
        self.state.as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it can be sent again.
    pub(crate) fn is_replayable(&self) -> bool {
        self.lock().is_some_and(|state| state.keeping == Keeping::All)
    }

    /// Whether all of it was read and is kept, so that attempts may send it at the same time.
    pub(crate) fn is_complete(&self) -> bool {
        self.lock().is_some_and(|state| state.keeping == Keeping::All && state.ended)
    }

    /// The body for another attempt. Those before it can read no further than they have.
    pub(crate) fn again(&self) -> Body {
        let Some(state) = &self.state else { return Body::empty() };
        let attempt = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.attempt += 1;
            state.attempt
        };
        Body::shared(Reader { state: Arc::clone(state), attempt, at: 0, trailers: false })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let Some(mut state) = self.state.take() else { return };
        let Some(own) = Arc::get_mut(&mut state) else {
            // What the attempt in flight has yet to repeat is still needed; its reader forgets it.
            state.lock().unwrap_or_else(PoisonError::into_inner).keeping = Keeping::Nothing;
            return;
        };
        let own = own.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut chunks = mem::take(&mut own.chunks);
        chunks.clear();
        if chunks.capacity() > SPARE_CHUNKS {
            return;
        }
        // The rest of the body may end other calls: not while the spares are borrowed.
        *own = State { chunks, ..State::default() };
        let _ = SPARE.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.len() < SPARES
            {
                spare.push(state);
            }
        });
    }
}

impl Reader {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rewind(&mut self) -> bool {
        if self.lock().keeping != Keeping::All {
            return false;
        }
        (self.at, self.trailers) = (0, false);
        true
    }

    /// The whole body if it is one chunk that was not sent yet by this attempt.
    pub(super) fn as_full(&self) -> Option<Bytes> {
        let state = self.lock();
        match state.chunks.as_slice() {
            [one] if self.at == 0 && state.ended && state.trailers.is_none() => Some(one.clone()),
            _ => None,
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chunk) = state.chunks.get(self.at) {
            self.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if state.ended {
            if self.trailers {
                return Poll::Ready(None);
            }
            self.trailers = true;
            return Poll::Ready(state.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if state.attempt != self.attempt {
            let message = "the request is sent again: this attempt's upload is over";
            return Poll::Ready(Some(Err(Error::new(Code::ClientGone, message).with_origin(Origin::Mesh))));
        }
        let frame = ready!(Pin::new(&mut state.rest).poll_frame(cx));
        match &frame {
            None => {
                state.ended = true;
                self.trailers = true;
            }
            Some(Err(_)) => {
                state.ended = true;
                state.forget();
                self.at = 0;
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if state.keeping == Keeping::All && state.bytes + data.len() <= state.limit {
                        state.bytes += data.len();
                        state.chunks.push(data.clone());
                        self.at += 1;
                    } else {
                        state.forget();
                        self.at = 0;
                    }
                    // Bodies are often not polled after a frame that says it is the last.
                    state.ended = state.rest.is_end_stream();
                } else if let Some(trailers) = frame.trailers_ref() {
                    if state.keeping == Keeping::All {
                        state.trailers = Some(trailers.clone());
                    }
                    state.ended = true;
                    self.trailers = true;
                }
            }
        }
        Poll::Ready(frame)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let state = self.lock();
        let rest = if state.ended { self.trailers || state.trailers.is_none() } else { state.rest.is_end_stream() };
        self.at >= state.chunks.len() && rest
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let state = self.lock();
        let again: u64 = state.chunks.iter().skip(self.at).map(|chunk| chunk.len() as u64).sum();
        let rest = if state.ended { SizeHint::with_exact(0) } else { state.rest.size_hint() };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + again);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + again);
        }
        hint
    }
}

impl State {
    fn forget(&mut self) {
        self.keeping = Keeping::Nothing;
        self.chunks = Vec::new();
        self.trailers = None;
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible};

    use proptest::prelude::*;

    use super::*;

    /// Chunks, each after a `Pending`.
    struct Slow {
        chunks: VecDeque<Bytes>,
        waited: bool,
        trailers: bool,
    }

    impl HttpBody for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.waited = !self.waited;
            if self.waited {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.chunks.pop_front() {
                Some(chunk) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
                None if self.trailers => {
                    self.trailers = false;
                    let trailers = [(http::header::ETAG, http::HeaderValue::from_static("x"))].into_iter().collect();
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                None => Poll::Ready(None),
            }
        }
    }

    fn body(chunks: &[Vec<u8>], trailers: bool) -> Body {
        let chunks = chunks.iter().map(|chunk| Bytes::from(chunk.clone())).collect();
        Body::new(Slow { chunks, waited: false, trailers })
    }

    /// Polls at most `polls` times; what was read, and whether that is all.
    fn read(body: &mut Body, polls: usize) -> (Vec<u8>, bool, bool) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut bytes, mut trailers) = (Vec::new(), false);
        for _ in 0..polls {
            match Pin::new(&mut *body).poll_frame(&mut cx) {
                Poll::Pending => {}
                Poll::Ready(None) => return (bytes, trailers, true),
                Poll::Ready(Some(frame)) => match frame.unwrap().into_data() {
                    Ok(data) => bytes.extend_from_slice(&data),
                    Err(_) => trailers = true,
                },
            }
        }
        (bytes, trailers, false)
    }

    #[test]
    fn an_upload_that_outlives_its_attempt_takes_nothing_from_the_next() {
        let (kept, mut first) = Kept::new(body(&[vec![1], vec![2], vec![3]], false), 100);
        assert_eq!(read(&mut first, 2).0, [1]);
        let mut second = kept.again();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(Pin::new(&mut first).poll_frame(&mut cx), Poll::Ready(Some(Err(_)))));
        assert_eq!(read(&mut second, 20), (vec![1, 2, 3], false, true));
    }

    #[test]
    fn what_is_longer_than_the_limit_is_sent_once_and_whole() {
        let (kept, mut first) = Kept::new(body(&[vec![1; 6], vec![2; 6]], false), 10);
        assert_eq!(read(&mut first, 2).0.len(), 6);
        assert!(kept.is_replayable());
        assert_eq!(read(&mut first, 20), (vec![2; 6], false, true));
        assert!(!kept.is_replayable());
    }

    #[test]
    fn after_the_commit_the_attempt_in_flight_sends_the_rest_alone() {
        let (kept, mut first) = Kept::new(body(&[vec![1], vec![2], vec![3]], true), 100);
        assert_eq!(read(&mut first, 4).0, [1, 2]);
        let mut second = kept.again();
        assert_eq!(read(&mut second, 1).0, [1]);
        drop((first, kept));
        assert_eq!(read(&mut second, 20), (vec![2, 3], true, true));
    }

    #[test]
    fn a_body_that_was_read_whole_is_sent_at_the_same_time_by_several() {
        let (kept, mut first) = Kept::new(body(&[vec![1, 2]], false), 100);
        assert!(!kept.is_complete());
        assert_eq!(read(&mut first, 20), (vec![1, 2], false, true));
        assert!(kept.is_complete());
        let (mut second, mut third) = (kept.again(), kept.again());
        assert_eq!(second.as_full().as_deref(), Some(&[1, 2][..]));
        assert_eq!(HttpBody::size_hint(&third).exact(), Some(2));
        assert_eq!(read(&mut second, 20), read(&mut third, 20));
        assert!(HttpBody::is_end_stream(&second));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        /// Whatever the chunks and wherever attempts end, each one sends the same bytes.
        #[test]
        fn every_attempt_sends_the_same_bytes(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..12),
            trailers in any::<bool>(),
            stops in proptest::collection::vec(0usize..40, 0..6),
        ) {
            let whole: Vec<u8> = chunks.concat();
            let (kept, mut attempt) = Kept::new(body(&chunks, trailers), 64 * 1024);
            let mut before = Vec::new();
            for stop in stops {
                let (bytes, ..) = read(&mut attempt, stop);
                prop_assert!(whole.starts_with(&bytes));
                prop_assert!(kept.is_replayable());
                let next = kept.again();
                // The old one may still be polled, by an upload that has not noticed.
                let _ = Pin::new(&mut attempt).poll_frame(&mut Context::from_waker(std::task::Waker::noop()));
                before.push(mem::replace(&mut attempt, next));
            }
            let hint = HttpBody::size_hint(&attempt);
            prop_assert!(hint.lower() <= whole.len() as u64 && hint.upper().is_none_or(|most| most >= whole.len() as u64));
            let (bytes, with_trailers, ended) = read(&mut attempt, 100);
            prop_assert!(ended);
            prop_assert_eq!(bytes, whole);
            prop_assert_eq!(with_trailers, trailers);
        }
    }
}
