//! The io under hyper: sees every byte, can end a connection, and goes with it when it is upgraded.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    caps::Admission,
    flood::FrameCounter,
    state::{ConnState, Half},
};
use crate::{rt, transport::Io};

/// A byte stream that was sniffed: gives back the sniffed bytes first.
pub(super) struct ServerIo {
    io: Box<dyn Io>,
    sniffed: Bytes,
    state: Arc<ConnState>,
    /// Only for HTTP/2.
    frames: Option<FrameCounter>,
    write_blocked: bool,
    _admission: Admission,
}

impl ServerIo {
    pub(super) fn new(
        io: Box<dyn Io>,
        sniffed: Bytes,
        state: Arc<ConnState>,
        frames: Option<FrameCounter>,
        admission: Admission,
    ) -> Self {
        Self { io, sniffed, state, frames, write_blocked: false, _admission: admission }
    }

    fn saw(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.frames {
            None => {
                if !bytes.is_empty() {
                    self.state.read_http1();
                }
                Ok(())
            }
            Some(frames) => frames.received(bytes, self.state.requests(), rt::now).map_err(|_| {
                self.state.flooded();
                io::Error::new(io::ErrorKind::ConnectionAborted, "the peer floods this connection with control frames")
            }),
        }
    }

    fn wrote(&mut self, result: Poll<io::Result<usize>>, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        if let (Some(frames), Poll::Ready(Ok(bytes))) = (&mut self.frames, &result) {
            frames.sent(*bytes);
        }
        self.blocked(result, cx)
    }

    /// Keeps note of whether the peer takes our bytes.
    fn blocked<T>(&mut self, result: Poll<io::Result<T>>, cx: &Context<'_>) -> Poll<io::Result<T>> {
        if result.is_pending() != self.write_blocked {
            self.write_blocked = result.is_pending();
            self.state.set_write_blocked(self.write_blocked);
        }
        if result.is_pending() { self.pending(Half::Write, cx) } else { result }
    }

    /// Before an upgrade the connection's task ends hyper and the io with it; afterwards only a wake-up can.
    fn pending<T>(&self, half: Half, cx: &Context<'_>) -> Poll<io::Result<T>> {
        if self.state.is_upgraded() && !self.state.wait(half, cx) { Poll::Ready(Err(killed())) } else { Poll::Pending }
    }

    fn alive(&self) -> io::Result<()> {
        if self.state.is_killed() { Err(killed()) } else { Ok(()) }
    }
}

fn killed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "this process closed the connection")
}

impl AsyncRead for ServerIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.alive()?;
        let before = buf.filled().len();
        if !this.sniffed.is_empty() {
            let bytes = this.sniffed.split_to(this.sniffed.remaining().min(buf.remaining()));
            buf.put_slice(&bytes);
            // With what came behind them: for a reader that has a part already hyper doubles its buffer.
            if buf.remaining() > 0
                && let Poll::Ready(result) = Pin::new(&mut this.io).poll_read(cx, buf)
            {
                result?;
            }
            return Poll::Ready(this.saw(&buf.filled()[before..]));
        }
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(result) => {
                result?;
                Poll::Ready(this.saw(&buf.filled()[before..]))
            }
            // An end of file is how hyper closes an idle connection cleanly, and only here is it certain that no
            // request has arrived.
            Poll::Pending if this.frames.is_none() && this.state.ends_here() => Poll::Ready(Ok(())),
            Poll::Pending => this.pending(Half::Read, cx),
        }
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.alive()?;
        let result = Pin::new(&mut this.io).poll_write(cx, buf);
        this.wrote(result, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.alive()?;
        let result = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.wrote(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.alive()?;
        let result = Pin::new(&mut this.io).poll_flush(cx);
        this.blocked(result, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.alive()?;
        ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

impl Drop for ServerIo {
    fn drop(&mut self) {
        self.state.io_gone();
    }
}
