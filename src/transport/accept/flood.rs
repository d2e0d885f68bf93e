//! Counts HTTP/2 control frames.
//!
//! h2 bounds resets, empty frames and CONTINUATIONs, but SETTINGS, PING, PRIORITY, WINDOW_UPDATE and unknown frames are
//! free to send and cost a wake-up each. This walks the 9-byte frame headers of what the peer sends (RFC 9113 §4.1) and
//! keeps a rate. One WINDOW_UPDATE per 4 KiB that we sent is ordinary flow control and not counted.
//!
//! The clock is read once per `limit` counted frames, so ordinary traffic never pays for it.

use std::time::Duration;

use crate::rt::Instant;

const PREFACE: u8 = 24;
const HEADER: usize = 9;
const SUSTAINED: Duration = Duration::from_secs(3);
const BYTES_PER_UPDATE: u64 = 4 * 1024;
/// Credit beyond this is not kept, so that a long download does not pay for a later flood.
const MAX_CREDIT: u64 = 16 * 1024 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// The peer sends more control frames than any honest one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Flood;

pub(super) struct FrameCounter {
    limit: u32,
    preface_left: u8,
    header: [u8; HEADER],
    header_len: usize,
    payload_left: u32,
    counted: u32,
    credit: u64,
    requests: u32,
    round: Option<Instant>,
    flood_since: Option<Instant>,
}

impl FrameCounter {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit: limit.max(1),
            preface_left: PREFACE,
            header: [0; HEADER],
            header_len: 0,
            payload_left: 0,
            counted: 0,
            credit: 0,
            requests: 0,
            round: None,
            flood_since: None,
        }
    }

    /// We sent this many bytes.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.credit = (self.credit + bytes as u64).min(MAX_CREDIT);
    }

    /// The peer sent these bytes; `requests` counts the requests it has made so far.
    pub(super) fn received(
        &mut self,
        mut bytes: &[u8],
        requests: u32,
        mut now: impl FnMut() -> Instant,
    ) -> Result<(), Flood> {
        let preface = bytes.len().min(usize::from(self.preface_left));
        self.preface_left -= preface as u8;
        bytes = &bytes[preface..];
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skip = bytes.len().min(self.payload_left as usize);
                self.payload_left -= skip as u32;
                bytes = &bytes[skip..];
                continue;
            }
            let take = bytes.len().min(HEADER - self.header_len);
            self.header[self.header_len..self.header_len + take].copy_from_slice(&bytes[..take]);
            self.header_len += take;
            bytes = &bytes[take..];
            if self.header_len == HEADER {
                self.header_len = 0;
                self.payload_left = u32::from_be_bytes([0, self.header[0], self.header[1], self.header[2]]);
                if self.counts() {
                    self.counted += 1;
                    if self.counted == self.limit {
                        self.end_round(requests, now())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn counts(&mut self) -> bool {
        match self.header[3] {
            HEADERS | CONTINUATION => false,
            DATA => self.payload_left == 0 && self.header[4] & END_STREAM == 0,
            WINDOW_UPDATE if self.credit >= BYTES_PER_UPDATE => {
                self.credit -= BYTES_PER_UPDATE;
                false
            }
            _ => true,
        }
    }

    /// `limit` frames were counted since the last round: within a second that is too many.
    fn end_round(&mut self, requests: u32, now: Instant) -> Result<(), Flood> {
        self.counted = 0;
        let began = self.round.replace(now);
        let fast = began.is_some_and(|began| now.saturating_duration_since(began) <= Duration::from_secs(1));
        if !fast || requests != self.requests {
            self.requests = requests;
            self.flood_since = None;
            return Ok(());
        }
        let since = *self.flood_since.get_or_insert(began.unwrap_or(now));
        if now.saturating_duration_since(since) >= SUSTAINED { Err(Flood) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER + payload, 0);
        frame
    }

    /// Sends one frame at a time at this rate and says after how many milliseconds it was too much.
    fn run(rate: u64, seconds: u64, frame: &[u8], mut sent: impl FnMut(u64) -> (usize, u32)) -> Option<u64> {
        let start = crate::rt::now();
        let mut counter = FrameCounter::new(1_000);
        counter.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, || start).unwrap();
        for n in 0..rate * seconds {
            let micros = n * 1_000_000 / rate;
            let (bytes, requests) = sent(n);
            counter.sent(bytes);
            // Split across reads, as a socket may.
            let (head, tail) = frame.split_at(frame.len() / 2);
            for part in [head, tail] {
                if counter.received(part, requests, || start + Duration::from_micros(micros)).is_err() {
                    return Some(micros / 1_000);
                }
            }
        }
        None
    }

    #[tokio::test]
    async fn a_flood_of_any_control_frame_ends_after_three_seconds() {
        for kind in [2, 3, 4, 6, 8, 0x42] {
            let ended = run(5_000, 10, &frame(kind, 0, 8), |_| (0, 0)).unwrap();
            assert!((3_000..3_500).contains(&ended), "kind {kind} ended after {ended} ms");
        }
        assert!(run(5_000, 10, &frame(DATA, 0, 0), |_| (0, 0)).is_some());
    }

    #[tokio::test]
    async fn ordinary_traffic_is_not_a_flood() {
        assert_eq!(run(900, 20, &frame(6, 0, 8), |_| (0, 0)), None);
        assert_eq!(run(50_000, 10, &frame(DATA, 0, 100), |_| (0, 0)), None);
        assert_eq!(run(50_000, 10, &frame(HEADERS, 0, 100), |_| (0, 0)), None);
    }

    #[tokio::test]
    async fn window_updates_for_what_we_sent_are_free_and_others_are_not() {
        assert_eq!(run(5_000, 10, &frame(WINDOW_UPDATE, 0, 4), |_| (4_096, 0)), None);
        assert!(run(5_000, 10, &frame(WINDOW_UPDATE, 0, 4), |_| (17, 0)).is_some());
    }

    #[tokio::test]
    async fn new_requests_excuse_control_frames() {
        assert_eq!(run(5_000, 10, &frame(6, 0, 8), |n| (0, (n / 1_000) as u32)), None);
    }
}
