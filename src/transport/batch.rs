//! Writes that wait for the end of a poll.
//!
//! h2 flushes after every DATA frame of 256 bytes or more, so a connection with 64 calls on it makes a system call for
//! each of them, and system calls are most of what a small call costs. Here what it writes during one poll of the
//! connection is gathered, and whoever polls the connection flushes once afterwards. The price is a copy of at most
//! [`GATHER`] bytes at a time; larger writes go past the buffer.
//!
//! On several threads a task that writes wakes the connection, which then runs at once, between that task and the next one
//! that would have written: each call would leave by itself again. So a flush waits for one turn of the tasks that are
//! about to run, where that has been found to gather more: see [`Turns`].
//!
//! Reads pass through. A connection of ours can be followed as well: which frames were handed over and which arrived, so
//! that what provably never left is known when it breaks.
//!
//! Bytes are never held back longer than the poll after the one that wrote them, which follows by itself:
//! `Flusher::poll_flush` follows each.

mod turns;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::turns::Turns;
use super::{
    Io,
    frames::{Frames, PREFACE},
};
use crate::rt;

/// How much is gathered before it is written in any case, and what an idle connection may keep allocated.
const GATHER: usize = 16 * 1024;

/// The io that a connection is made over.
pub(super) struct Batched {
    shared: Arc<Mutex<State>>,
}

/// Flushes what the connection wrote. Both halves are polled by one task, so the lock is not contended.
#[derive(Clone)]
pub(super) struct Flusher {
    shared: Arc<Mutex<State>>,
}

struct State {
    io: Box<dyn Io>,
    gathered: BytesMut,
    /// The socket took less than was offered, or has not been flushed yet.
    dirty: bool,
    turns: Turns,
    follow: Option<Follow>,
}

struct Follow {
    sent: Frames,
    received: Frames,
    /// Nothing is handed over any more.
    sealed: bool,
}

/// Splits an io into what a connection is made over and what flushes it.
pub(super) fn batched(io: Box<dyn Io>) -> (Batched, Flusher) {
    made(io, None)
}

/// The same for the client's side of an HTTP/2 connection, whose frames are followed.
pub(super) fn followed(io: Box<dyn Io>) -> (Batched, Flusher) {
    made(io, Some(Follow { sent: Frames::after(PREFACE), received: Frames::after(0), sealed: false }))
}

fn made(io: Box<dyn Io>, follow: Option<Follow>) -> (Batched, Flusher) {
    let shared =
        Arc::new(Mutex::new(State { io, gathered: BytesMut::new(), dirty: false, turns: Turns::default(), follow }));
    (Batched { shared: Arc::clone(&shared) }, Flusher { shared })
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.gathered));
            if let Some(follow) = &mut self.follow {
                follow.handed(&written, &[IoSlice::new(&self.gathered)]);
            }
            if written.is_err() {
                self.gathered.clear();
            }
            let written = written?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.dirty {
            return Poll::Ready(Ok(()));
        }
        self.turns.flushed();
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.dirty = false;
        Poll::Ready(Ok(()))
    }
}

impl Follow {
    /// A write that fails may have handed over any part of what it was given, since TLS writes in records. It is the
    /// last one.
    fn handed(&mut self, written: &io::Result<usize>, bufs: &[IoSlice<'_>]) {
        self.sealed |= written.is_err();
        let mut left = written.as_ref().map_or(usize::MAX, |written| *written);
        for buf in bufs {
            let part = buf.len().min(left);
            self.sent.pass(&buf[..part]);
            left -= part;
        }
    }
}

impl Flusher {
    /// To be called after each poll of the connection, by the same task. Pending: the socket wakes the task, or it has
    /// been woken already.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.shared);
        if state.dirty && state.turns.waits(rt::now) {
            // From within its own poll a task goes to the end of the line.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        state.poll_flush(cx)
    }

    /// How many frames have arrived, and how many of them belong to exchanges.
    pub(super) fn received(&self) -> (u64, u64) {
        lock(&self.shared).follow.as_ref().map_or((0, 0), |follow| (follow.received.all(), follow.received.data()))
    }

    /// Whether nothing of a stream was handed over. Nothing of it, or of anything else, will be: to be asked when the
    /// connection has failed.
    pub(super) fn never_sent(&self, stream: u32) -> bool {
        let mut state = lock(&self.shared);
        state.gathered.clear();
        state.follow.as_mut().is_some_and(|follow| {
            follow.sealed = true;
            stream > follow.sent.last_opened()
        })
    }
}

/// Whether a read tells the end of what is received.
pub(super) fn ended(read: &Poll<io::Result<()>>, buf: &ReadBuf<'_>, before: usize) -> bool {
    match read {
        Poll::Pending => false,
        Poll::Ready(Err(_)) => true,
        Poll::Ready(Ok(())) => buf.filled().len() == before && buf.remaining() > 0,
    }
}

impl AsyncRead for Batched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.shared);
        let before = buf.filled().len();
        let polled = Pin::new(&mut state.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            state.turns.received();
        }
        if let Some(follow) = &mut state.follow {
            follow.received.pass(&buf.filled()[before..]);
            if ended(&polled, buf, before) {
                // Nobody would hear the answer to what is sent now.
                follow.sealed = true;
                state.gathered.clear();
            }
        }
        polled
    }
}

impl AsyncWrite for Batched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.shared);
        if state.follow.as_ref().is_some_and(|follow| follow.sealed) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        state.dirty = true;
        state.turns.wrote();
        if state.gathered.len() + offered > GATHER {
            ready!(state.poll_drain(cx))?;
            if offered >= GATHER {
                let written = ready!(Pin::new(&mut state.io).poll_write_vectored(cx, bufs));
                if let Some(follow) = &mut state.follow {
                    follow.handed(&written, bufs);
                }
                return Poll::Ready(written);
            }
        }
        for buf in bufs {
            state.gathered.extend_from_slice(buf);
        }
        Poll::Ready(Ok(offered))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Left to the flusher.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.shared);
        ready!(state.poll_flush(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn small_writes_leave_together_and_in_order() {
        let (near, mut far) = duplex(1024 * 1024);
        let (mut io, flusher) = batched(Box::new(near));
        for n in 0..100u8 {
            io.write_all(&[n; 100]).await.unwrap();
            io.flush().await.unwrap();
        }
        let mut first = [0; 1];
        assert!(rt::timeout(std::time::Duration::from_millis(1), far.read(&mut first)).await.is_none());
        poll_fn(|cx| flusher.poll_flush(cx)).await.unwrap();
        let mut all = vec![0; 10_000];
        far.read_exact(&mut all).await.unwrap();
        assert!(all.chunks(100).enumerate().all(|(n, chunk)| chunk.iter().all(|&byte| usize::from(byte) == n)));
    }

    #[tokio::test]
    async fn more_than_is_gathered_is_written_at_once_and_a_full_socket_holds_the_writer() {
        let (near, mut far) = duplex(4 * 1024);
        let (mut io, flusher) = batched(Box::new(near));
        io.write_all(&[1; 1_000]).await.unwrap();
        let mut large = tokio_test::task::spawn(io.write_all(&[2; 64 * 1024]));
        assert!(large.poll().is_pending());
        drop(large);
        let mut flush = tokio_test::task::spawn(poll_fn(|cx| flusher.poll_flush(cx)));
        let mut read = Vec::new();
        let mut buf = [0; 1024];
        // Everything that was taken arrives, whatever the reader's pace.
        while !flush.is_woken() || flush.poll().is_pending() {
            let n = far.read(&mut buf).await.unwrap();
            read.extend_from_slice(&buf[..n]);
            if flush.poll().is_ready() {
                break;
            }
        }
        assert_eq!(read[..1_000], [1; 1_000]);
        assert!(read[1_000..].iter().all(|&byte| byte == 2));
    }

    #[tokio::test]
    async fn shutdown_writes_what_was_gathered() {
        let (near, mut far) = duplex(1024);
        let (mut io, _flusher) = batched(Box::new(near));
        io.write_all(b"goodbye").await.unwrap();
        io.shutdown().await.unwrap();
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"goodbye");
    }
}
