//! Where HTTP/2's frames begin in a stream of bytes, however the bytes are cut.

/// The length of a client's preface.
pub(super) const PREFACE: u32 = 24;
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// Counts frames as their bytes pass: two additions a frame, payloads are skipped.
#[derive(Debug)]
pub(super) struct Frames {
    /// Payload that is still to pass.
    skip: u32,
    head: [u8; HEAD],
    /// How much of the next head has passed.
    have: usize,
    all: u64,
    data: u64,
    last_opened: u32,
}

impl Frames {
    /// Frames that begin after `preface` bytes.
    pub(super) fn after(preface: u32) -> Self {
        Self { skip: preface, head: [0; HEAD], have: 0, all: 0, data: 0, last_opened: 0 }
    }

    /// Of every kind.
    pub(super) fn all(&self) -> u64 {
        self.all
    }

    /// DATA and HEADERS: what exchanges are made of.
    pub(super) fn data(&self) -> u64 {
        self.data
    }

    /// The highest stream whose HEADERS have begun.
    pub(super) fn last_opened(&self) -> u32 {
        self.last_opened
    }

    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = bytes.len().min(self.skip as usize);
                // At most `skip`, so it fits.
                self.skip -= skipped as u32;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = bytes.len().min(HEAD - self.have);
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD {
                self.begin();
            }
        }
    }

    fn begin(&mut self) {
        let [l0, l1, l2, kind, _flags, s0, s1, s2, s3] = self.head;
        self.have = 0;
        self.skip = u32::from_be_bytes([0, l0, l1, l2]);
        self.all += 1;
        if kind == DATA || kind == HEADERS {
            self.data += 1;
        }
        if kind == HEADERS {
            let stream = u32::from_be_bytes([s0, s1, s2, s3]) & !(1 << 31);
            self.last_opened = self.last_opened.max(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, stream: u32, length: u32) -> Vec<u8> {
        let [_, l0, l1, l2] = length.to_be_bytes();
        let mut bytes = vec![l0, l1, l2, kind, 0];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(vec![1; length as usize]);
        bytes
    }

    #[test]
    fn a_stream_is_open_once_the_head_of_its_headers_is_whole() {
        let mut frames = Frames::after(PREFACE);
        frames.pass(&[0; PREFACE as usize]);
        frames.pass(&frame(4, 0, 6));
        assert_eq!((frames.all(), frames.data(), frames.last_opened()), (1, 0, 0));
        let headers = frame(HEADERS, 7, 40);
        frames.pass(&headers[..8]);
        assert_eq!(frames.last_opened(), 0);
        frames.pass(&headers[8..]);
        frames.pass(&frame(DATA, 5, 0));
        assert_eq!((frames.all(), frames.data(), frames.last_opened()), (3, 2, 7));
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(
            list in prop::collection::vec((0u8..10, 0u32..100, 0u32..50), 0..20),
            cuts in prop::collection::vec(1usize..30, 1..200),
        ) {
            let bytes: Vec<u8> = list.iter().flat_map(|&(kind, stream, length)| frame(kind, stream, length)).collect();
            let mut cut = Frames::after(0);
            let mut rest = &bytes[..];
            for at in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*at).min(rest.len()));
                cut.pass(now);
                rest = later;
            }
            prop_assert_eq!(cut.all(), list.len() as u64);
            prop_assert_eq!(cut.data(), list.iter().filter(|frame| frame.0 < 2).count() as u64);
            let opened = list.iter().filter(|frame| frame.0 == HEADERS).map(|frame| frame.1).max();
            prop_assert_eq!(cut.last_opened(), opened.unwrap_or(0));
        }
    }
}
