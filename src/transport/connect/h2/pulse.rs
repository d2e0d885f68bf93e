//! When to ask a peer whether it is still there, and when to believe that it is not.
//!
//! A connection whose packets vanish looks like one whose peer thinks. So after a second of silence with streams open
//! the peer is asked once, by PING, and no stream is added until it has said anything: a stalled connection costs the
//! calls that were on it, not those that follow. A peer that goes on thinking is asked again after 30 s of silence, and
//! one that leaves a PING unanswered for 20 s is given up.
//!
//! Peers count PINGs that arrive without anything of theirs in between as abuse: outside our trust domain two are sent,
//! then none until something of an exchange arrives. What that leaves undetected the kernel finds, 20 s after it sent
//! bytes that nobody acknowledges.

use std::time::Duration;

use crate::rt::Instant;

/// Silence after which a peer with streams open is asked, once.
const STALL: Duration = Duration::from_secs(1);
/// Silence after which it is asked again.
pub(in crate::transport::connect) const PING_AFTER: Duration = Duration::from_secs(30);
pub(in crate::transport::connect) const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// PINGs without data in between that every peer puts up with.
pub(in crate::transport::connect) const MAX_PINGS: u32 = 2;
/// How often to look while a stall would be news.
const OFTEN: Duration = Duration::from_millis(500);
const RARELY: Duration = Duration::from_secs(10);
/// A look that comes later than this tells of our own stall, not of the peer's.
const LAG: Duration = Duration::from_millis(250);

/// What is known about the liveness of a peer.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Of our trust domain: it may be asked as often as it is silent.
    trusted: bool,
    /// Frames of every kind, and those of exchanges, at the last look.
    frames: u64,
    data: u64,
    /// Since when streams have been open without a frame.
    silent_since: Option<Instant>,
    asked: Option<Instant>,
    pings: u32,
    /// The silence is known, and the peer lives.
    known: bool,
}

/// What a look finds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Frames received so far: of every kind, and those of exchanges.
    pub(super) frames: u64,
    pub(super) data: u64,
    pub(super) streams: u32,
    /// A stream was opened since the last look.
    pub(super) opened: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Finding {
    Fine,
    /// A PING is to be sent; [`Pulse::asked`] if it could be.
    Ask,
    /// It was asked, and has not answered yet.
    Silent,
    Dead,
}

impl Pulse {
    pub(super) fn new(trusted: bool) -> Self {
        Self { trusted, frames: 0, data: 0, silent_since: None, asked: None, pings: 0, known: false }
    }

    /// How long to the next look.
    pub(super) fn pause(&self) -> Duration {
        if self.rests() { RARELY } else { OFTEN }
    }

    /// Nothing is expected to happen soon.
    pub(super) fn rests(&self) -> bool {
        self.asked.is_none() && (self.silent_since.is_none() || self.known)
    }

    /// The look that was `due` comes `now`: if it is late, it was us who did not listen.
    pub(super) fn lagged(&mut self, due: Instant, now: Instant) {
        let late = now.saturating_duration_since(due);
        if late > LAG {
            for since in [&mut self.silent_since, &mut self.asked].into_iter().flatten() {
                *since = (*since + late).min(now);
            }
        }
    }

    pub(super) fn look(&mut self, now: Instant, seen: Seen) -> Finding {
        if seen.frames != self.frames {
            self.frames = seen.frames;
            self.heard();
            self.silent_since = Some(now);
        }
        if seen.data != self.data {
            self.data = seen.data;
            self.pings = 0;
            self.known = false;
        }
        if let Some(at) = self.asked {
            return if now.saturating_duration_since(at) >= PING_TIMEOUT { Finding::Dead } else { Finding::Silent };
        }
        if seen.streams == 0 {
            self.silent_since = None;
            self.known = false;
            return Finding::Fine;
        }
        if seen.opened && self.known {
            // Something new to wait for.
            self.known = false;
            self.silent_since = Some(now);
        }
        let silence = now.saturating_duration_since(*self.silent_since.get_or_insert(now));
        let due = if self.known { PING_AFTER } else { STALL };
        if silence < due {
            return Finding::Fine;
        }
        self.known = true;
        if self.trusted || self.pings < MAX_PINGS { Finding::Ask } else { Finding::Fine }
    }

    /// A PING was sent.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
        self.pings = self.pings.saturating_add(1);
    }

    /// A frame came: whatever it is, the peer lives.
    pub(super) fn heard(&mut self) {
        self.asked = None;
    }

    /// Frames of every kind at the last look.
    pub(super) fn frames(&self) -> u64 {
        self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt;

    /// A peer and our looks at it, as often as they are due.
    struct Watched {
        pulse: Pulse,
        start: Instant,
        now: Instant,
        seen: Seen,
    }

    impl Watched {
        fn new(trusted: bool) -> Self {
            let start = rt::now();
            let seen = Seen { frames: 0, data: 0, streams: 1, opened: true };
            Self { pulse: Pulse::new(trusted), start, now: start, seen }
        }

        /// Looks until the peer was asked or given up, at most for this long; tells when, in milliseconds.
        fn run(&mut self, most: Duration) -> Option<(Finding, u128)> {
            let end = self.now + most;
            while self.now < end {
                let found = self.pulse.look(self.now, self.seen);
                self.seen.opened = false;
                if found == Finding::Ask {
                    self.pulse.asked(self.now);
                }
                let at = self.now;
                self.now += self.pulse.pause();
                if matches!(found, Finding::Ask | Finding::Dead) {
                    return Some((found, (at - self.start).as_millis()));
                }
            }
            None
        }

        fn pong(&mut self) {
            self.seen.frames += 1;
        }

        fn data(&mut self) {
            self.seen.frames += 1;
            self.seen.data += 1;
        }
    }

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_second_of_silence_is_asked_about_once_and_then_every_thirty() {
        let mut watched = Watched::new(true);
        assert_eq!(watched.run(LONG), Some((Finding::Ask, 1_000)));
        let mut last = 1_000;
        for _ in 0..5 {
            watched.pong();
            let (found, at) = watched.run(LONG).unwrap();
            assert_eq!(found, Finding::Ask);
            assert!((30_000..=41_000).contains(&(at - last)), "{at} after {last}");
            last = at;
        }
    }

    #[test]
    fn strangers_are_asked_twice_without_data_in_between() {
        let mut watched = Watched::new(false);
        assert!(matches!(watched.run(LONG), Some((Finding::Ask, _))));
        watched.pong();
        assert!(matches!(watched.run(LONG), Some((Finding::Ask, _))));
        watched.pong();
        assert_eq!(watched.run(LONG), None);
        watched.seen.opened = true;
        assert_eq!(watched.run(LONG), None, "a request of ours is nothing of theirs");
        watched.data();
        assert!(matches!(watched.run(LONG), Some((Finding::Ask, _))));
    }

    #[test]
    fn an_unanswered_ping_is_the_end_after_twenty_seconds_with_streams_or_without() {
        for streams in [1, 0] {
            let mut watched = Watched::new(false);
            assert_eq!(watched.run(LONG), Some((Finding::Ask, 1_000)));
            watched.seen.streams = streams;
            assert_eq!(watched.run(LONG), Some((Finding::Dead, 21_000)));
        }
    }

    #[test]
    fn any_frame_answers() {
        let mut watched = Watched::new(false);
        watched.run(LONG);
        watched.data();
        assert_eq!(watched.run(Duration::from_millis(900)), None);
        assert!(watched.pulse.asked.is_none());
    }

    #[test]
    fn streams_that_keep_opening_do_not_hide_a_stall_and_a_new_one_after_it_is_looked_after() {
        let mut watched = Watched::new(true);
        let mut asked = None;
        while asked.is_none() && watched.now - watched.start < LONG {
            watched.seen.opened = true;
            asked = watched.run(Duration::from_millis(1));
        }
        assert_eq!(asked, Some((Finding::Ask, 1_000)));
        watched.pong();
        watched.run(Duration::from_secs(5));
        let opened = watched.now;
        watched.seen.opened = true;
        let (found, at) = watched.run(LONG).unwrap();
        assert_eq!(found, Finding::Ask);
        assert_eq!(at, (opened - watched.start).as_millis() + 1_000);
    }

    #[test]
    fn our_own_stall_is_not_the_peers() {
        let mut watched = Watched::new(false);
        assert_eq!(watched.run(LONG), Some((Finding::Ask, 1_000)));
        let due = watched.now;
        watched.now += Duration::from_secs(25);
        watched.pulse.lagged(due, watched.now);
        assert_eq!(watched.pulse.look(watched.now, watched.seen), Finding::Silent);
        let (found, at) = watched.run(LONG).unwrap();
        assert_eq!((found, at), (Finding::Dead, 46_000));
    }

    #[test]
    fn without_streams_nothing_is_asked() {
        let mut watched = Watched::new(true);
        watched.seen.streams = 0;
        assert_eq!(watched.run(LONG), None);
        assert_eq!(watched.pulse.pause(), RARELY);
    }
}
