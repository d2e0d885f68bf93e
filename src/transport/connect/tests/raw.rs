//! A server that speaks HTTP/2 frame by frame, so that a test decides when what is sent.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn ends(&self) -> bool {
        self.flags & END_STREAM != 0
    }
}

pub(super) struct Raw(DuplexStream);

impl Raw {
    pub(super) async fn accept(mut io: DuplexStream) -> Self {
        let mut preface = [0; 24];
        io.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        Self(io)
    }

    /// `None` when the peer closed.
    pub(super) async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of a kind, others skipped.
    pub(super) async fn expect(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.read().await.expect("the connection is open");
            if frame.kind == kind && !(kind == SETTINGS && frame.flags & ACK != 0) {
                return frame;
            }
        }
    }

    pub(super) async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = (payload.len() as u32).to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        let _ = self.0.write_all(&frame).await;
    }

    pub(super) async fn settings(&mut self, max_streams: Option<u32>) {
        let mut payload = Vec::new();
        if let Some(max) = max_streams {
            payload.extend(3u16.to_be_bytes());
            payload.extend(max.to_be_bytes());
        }
        self.write(SETTINGS, 0, 0, &payload).await;
    }

    /// `:status: 200`.
    pub(super) async fn respond(&mut self, stream: u32, end: bool) {
        self.write(HEADERS, END_HEADERS | u8::from(end), stream, &[0x88]).await;
    }

    pub(super) async fn reset(&mut self, stream: u32, code: u32) {
        self.write(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    pub(super) async fn goaway(&mut self, last: u32, code: u32) {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend(code.to_be_bytes());
        self.write(GOAWAY, 0, 0, &payload).await;
    }
}
