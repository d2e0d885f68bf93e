//! What `crate::fuzzing` sees of the bytes before and around a request.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::io::{AsyncRead, ReadBuf};

use super::{
    flood::FrameCounter,
    proxy_header::{Parsed, parse},
    sniff::{Sniffed, Sniffer},
};
use crate::{
    rt,
    transport::frames::{Frames, PREFACE},
};

/// Bytes that come so many at a time.
struct Pieces<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (now, later) = self.rest.split_at(self.piece.min(self.rest.len()).min(buf.remaining()));
        buf.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

/// Whether the peer speaks HTTP/2, if it stays until that is known, and what was read to know it.
pub(crate) fn prelude(data: &[u8], piece: usize) -> Option<(Option<bool>, Vec<u8>)> {
    let mut sniffer = Sniffer::new();
    let mut io = Pieces { rest: data, piece };
    let polled = pin!(sniffer.sniff(&mut io)).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(Ok(kind)) = polled else { return None };
    let read = sniffer.into_bytes().to_vec();
    // How much more than the first other byte was read is the pieces' affair.
    Some(match kind {
        Sniffed::Http1 => (Some(false), read[..1].to_vec()),
        Sniffed::Http2 => (Some(true), read),
        Sniffed::Gone => (None, read),
    })
}

/// How many more bytes a header needs; `None` once it is judged.
pub(crate) fn parse_proxy_header(data: &[u8]) -> Option<usize> {
    match parse(data) {
        Parsed::More(more) => Some(more),
        Parsed::Done(_) | Parsed::Bad(_) => None,
    }
}

/// Whether these bytes are a flood, where each four control frames take half a second.
pub(crate) fn count_frames(data: &[u8], piece: usize) -> bool {
    let mut counter = FrameCounter::new(4);
    let mut now = rt::now();
    data.chunks(piece).any(|part| {
        let tick = || {
            now += Duration::from_millis(500);
            now
        };
        counter.received(part, 0, tick).is_err()
    })
}

/// All frames, those of exchanges, and the last stream that was opened.
pub(crate) fn pass_frames(data: &[u8], piece: usize) -> (u64, u64, u32) {
    let mut frames = Frames::after(PREFACE);
    data.chunks(piece).for_each(|part| frames.pass(part));
    (frames.all(), frames.data(), frames.last_opened())
}
