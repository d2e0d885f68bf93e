//! Tells HTTP/2 from HTTP/1 by the first bytes.
//!
//! Reading stops at the first byte that differs from the HTTP/2 preface: a request shorter than the preface must be
//! answered at once, and a peer that waits for us to speak first must not be waited for.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the peer speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sniffed {
    Http1,
    Http2,
    /// It left before it could be told.
    Gone,
}

/// Reads until it is clear what the peer speaks. Cancel safe: what was read stays here.
pub(super) struct Sniffer {
    read: BytesMut,
}

impl Sniffer {
    pub(super) fn new() -> Self {
        Self { read: BytesMut::with_capacity(PREFACE.len()) }
    }

    pub(super) async fn sniff<I: AsyncRead + Unpin + ?Sized>(&mut self, io: &mut I) -> io::Result<Sniffed> {
        loop {
            match self.judge() {
                Some(sniffed) => return Ok(sniffed),
                None => {
                    // Never past the preface, so that nothing is copied twice.
                    let limit = PREFACE.len() - self.read.len();
                    if (&mut *io).take(limit as u64).read_buf(&mut self.read).await? == 0 {
                        return Ok(Sniffed::Gone);
                    }
                }
            }
        }
    }

    fn judge(&self) -> Option<Sniffed> {
        if self.read[..] != PREFACE[..self.read.len()] {
            Some(Sniffed::Http1)
        } else {
            (self.read.len() == PREFACE.len()).then_some(Sniffed::Http2)
        }
    }

    /// True if the peer has not said anything yet.
    pub(super) fn is_silent(&self) -> bool {
        self.read.is_empty()
    }

    /// What was read, to be given back.
    pub(super) fn into_bytes(self) -> Bytes {
        self.read.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sniff(chunks: &[&[u8]]) -> (Sniffed, Vec<u8>) {
        let mut io = tokio_test::io::Builder::new();
        for chunk in chunks {
            io.read(chunk);
        }
        let mut io = io.build();
        let mut sniffer = Sniffer::new();
        let sniffed = sniffer.sniff(&mut io).await.unwrap();
        let bytes = sniffer.into_bytes().to_vec();
        // What follows stays in the stream.
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        (sniffed, [bytes, rest].concat())
    }

    #[tokio::test]
    async fn the_preface_is_found_whole_and_byte_by_byte() {
        let bytes = [&PREFACE[..], b"rest"].concat();
        assert_eq!(sniff(&[&bytes]).await, (Sniffed::Http2, bytes.clone()));
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(sniff(&single).await, (Sniffed::Http2, bytes));
    }

    #[tokio::test]
    async fn the_first_other_byte_means_http1() {
        for first in [&b"G"[..], b"P", b"PR", b"PRI", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            let chunks: Vec<_> = first.chunks(1).chain([&b"x"[..]]).collect();
            let (sniffed, bytes) = sniff(&chunks).await;
            assert_eq!((sniffed, bytes), (Sniffed::Http1, [first, b"x"].concat()));
        }
        assert_eq!(sniff(&[b"POST"]).await.0, Sniffed::Http1);
    }

    #[tokio::test]
    async fn a_peer_that_leaves_early_is_gone() {
        assert_eq!(sniff(&[]).await.0, Sniffed::Gone);
        assert_eq!(sniff(&[b"PRI *"]).await.0, Sniffed::Gone);
    }
}
