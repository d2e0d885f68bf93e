//! Calls whose answers are known, byte by byte.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body as AxumBody,
    extract::Path,
    routing::{get, post},
};
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use sinew::{Client, Mesh, ResponseExt};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;

use super::{
    echo::{Echo, EchoClient, Message},
    support::Checks,
};

const CHUNK: usize = 16 * 1024;
const CHUNKS: usize = 16;

/// What came back.
pub(crate) enum Answer {
    Right,
    /// An error with this code.
    Error(String),
    Wrong(String),
}

#[derive(Default)]
pub(crate) struct Seen {
    /// Handlers that began.
    handled: AtomicU64,
    calls: AtomicU64,
    right: AtomicU64,
    /// Right ones that were not checked.
    extra: AtomicU64,
    errors: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn count(&self, answer: Answer) {
        self.calls.fetch_add(1, Relaxed);
        match answer {
            Answer::Right => drop(self.right.fetch_add(1, Relaxed)),
            Answer::Error(code) => *self.errors.lock().unwrap().entry(code).or_default() += 1,
            Answer::Wrong(what) => self.wrong.lock().unwrap().push(what),
        }
    }

    pub(crate) fn extra(&self, calls: u64) {
        self.extra.fetch_add(calls, Relaxed);
    }

    pub(crate) fn line(&self) -> String {
        let errors: Vec<_> =
            self.errors.lock().unwrap().iter().map(|(code, count)| format!("{code} {count}")).collect();
        let (calls, right, wrong) =
            (self.calls.load(Relaxed), self.right.load(Relaxed), self.wrong.lock().unwrap().len());
        format!("{calls} calls, {right} right, {wrong} wrong; {}", errors.join(", "))
    }

    /// `answered` is what the mesh counted as successes.
    pub(crate) fn print(&self, answered: u64, checks: &mut Checks) {
        println!("{}", self.line());
        let (right, extra) = (self.right.load(Relaxed), self.extra.load(Relaxed));
        println!("{answered} counted as answered, {} handled", self.handled.load(Relaxed));
        let wrong = self.wrong.lock().unwrap();
        for what in wrong.iter().take(5) {
            println!("    wrong: {what}");
        }
        checks.hold(wrong.is_empty(), || format!("{} answers were neither right nor errors with a code", wrong.len()));
        checks.hold(right > 0, || "no call was answered".into());
        checks.hold(answered == right + extra, || {
            format!("{right} calls and {extra} more were answered, {answered} are counted")
        });
    }
}

fn chunk(of: u64, n: usize) -> Bytes {
    Bytes::from((0..CHUNK).map(|at| (of as usize + n * 7 + at) as u8).collect::<Vec<_>>())
}

pub(crate) fn app(seen: Arc<Seen>) -> Router {
    Router::new()
        .route("/number/{n}", get(|Path(n): Path<u64>| async move { n.to_string() }))
        .route(
            "/bytes/{of}",
            get(|Path(of): Path<u64>| async move {
                let chunks = (0..CHUNKS).map(move |n| Ok::<_, Infallible>(chunk(of, n)));
                AxumBody::from_stream(tokio_stream::iter(chunks))
            }),
        )
        .route("/back", post(|body: Bytes| async move { body }))
        .merge(Echo::new("echo").routes().into_axum_router())
        .layer(axum::middleware::map_request(move |request: axum::extract::Request| {
            seen.handled.fetch_add(1, Relaxed);
            std::future::ready(request)
        }))
}

/// Callers in loops.
pub(crate) struct Load {
    stopped: Arc<AtomicBool>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(mesh: &Mesh, seen: &Arc<Seen>) -> Self {
        let stopped = Arc::<AtomicBool>::default();
        let mut callers = Vec::new();
        for caller in 0..40 {
            let (client, seen, stopped) = (mesh.client("back"), Arc::clone(seen), Arc::clone(&stopped));
            callers.push(tokio::spawn(async move {
                let mut n = caller;
                while !stopped.load(Relaxed) {
                    n += 40;
                    let answer = match caller % 5 {
                        0 | 1 => number(&client, n).await,
                        2 => bytes(&client, n).await,
                        3 => back(&client, n).await,
                        _ => grpc(&client, n).await,
                    };
                    seen.count(answer);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }));
        }
        Self { stopped, callers }
    }

    /// Waits for the calls in flight.
    pub(crate) async fn stop(self) {
        self.stopped.store(true, Relaxed);
        for caller in self.callers {
            caller.await.unwrap();
        }
    }
}

fn failed(error: &sinew::Error) -> Answer {
    Answer::Error(error.code().to_string())
}

/// An answer that is not the application's: whose it is has to be said.
fn refused(status: http::StatusCode, headers: &HeaderMap) -> Answer {
    match headers.get("sinew-error").and_then(|value| value.to_str().ok()) {
        Some(code) => Answer::Error(format!("{status} {}", code.split(';').next().unwrap_or_default())),
        None => Answer::Wrong(format!("{status} without a code: {headers:?}")),
    }
}

async fn number(client: &Client, n: u64) -> Answer {
    match client.get(format!("/number/{n}").as_str()).send().await {
        Err(error) => failed(&error),
        Ok(response) if !response.status().is_success() => refused(response.status(), response.headers()),
        Ok(response) => match response.text().await {
            Err(error) => failed(&error),
            Ok(text) if text == n.to_string() => Answer::Right,
            Ok(text) => Answer::Wrong(format!("{text:?} for {n}")),
        },
    }
}

async fn bytes(client: &Client, n: u64) -> Answer {
    let response = match client.get(format!("/bytes/{n}").as_str()).send().await {
        Err(error) => return failed(&error),
        Ok(response) if !response.status().is_success() => return refused(response.status(), response.headers()),
        Ok(response) => response,
    };
    let expected: Vec<u8> = (0..CHUNKS).flat_map(|index| chunk(n, index)).collect();
    let (mut body, mut at) = (response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        let data = match frame {
            Err(error) => return failed(&error),
            Ok(frame) => frame.into_data().unwrap_or_default(),
        };
        if expected.get(at..at + data.len()) != Some(&data[..]) {
            return Answer::Wrong(format!("other bytes from {at} on, for {n}"));
        }
        at += data.len();
    }
    match at == expected.len() {
        true => Answer::Right,
        false => Answer::Wrong(format!("{at} of {} bytes, and an end without an error", expected.len())),
    }
}

async fn back(client: &Client, n: u64) -> Answer {
    let sent = chunk(n, 0);
    match client.post("/back").body(sent.clone()).send().await {
        Err(error) => failed(&error),
        Ok(response) if !response.status().is_success() => refused(response.status(), response.headers()),
        Ok(response) => match response.into_body().collect().await.map(|body| body.to_bytes()) {
            Err(error) => failed(&error),
            Ok(body) if body == sent => Answer::Right,
            Ok(_) => Answer::Wrong(format!("other bytes came back for {n}")),
        },
    }
}

async fn grpc(client: &Client, n: u64) -> Answer {
    let mut client = EchoClient::new(client.clone());
    // What fails before there is an answer says so in the status, what fails after it in what the status is made from.
    let told = |status: &tonic::Status| match status.message().split_once(' ') {
        Some((code, _)) if code.starts_with("SINEW-E") => Answer::Error(code.to_owned()),
        _ => match std::error::Error::source(status).and_then(find) {
            Some(error) => failed(error),
            None => Answer::Wrong(format!("a status without a code: {status:?}")),
        },
    };
    if n % 80 < 40 {
        return match client.unary(tonic::Request::new(Message::new(&n.to_string()))).await {
            Ok(answer) if answer.text == format!("echo: {n}") => Answer::Right,
            Ok(answer) => Answer::Wrong(format!("{answer:?} for {n}")),
            Err(status) => told(&status),
        };
    }
    let mut feed = match client.feed(5, 10).await {
        Ok(feed) => feed,
        Err(status) => return told(&status),
    };
    let mut seen = 0;
    while let Some(message) = feed.next().await {
        match message {
            Err(status) => return told(&status),
            Ok(message) if message.text == format!("echo: {seen}") => seen += 1,
            Ok(message) => return Answer::Wrong(format!("{message:?} as message {seen}")),
        }
    }
    if seen == 5 { Answer::Right } else { Answer::Wrong(format!("{seen} of 5 messages, and an end without a status")) }
}

/// The error of the mesh below one of the gRPC library's.
fn find<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e sinew::Error> {
    error.downcast_ref().or_else(|| error.source().and_then(find))
}
