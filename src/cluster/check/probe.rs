//! One question, asked of one endpoint.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use super::{
    checker::Target,
    watch::{self, Watch},
};
use crate::{
    body::Body,
    classify::{self, Outcome},
    error::Error,
    health::{CheckKind, Expected, Finding, GrpcCheck, HttpCheck, TcpCheck},
    model::{Address, Protocol, SetKind},
    rt::{self, TaskSet},
    transport::{Acquire, ConnectionLimit, Offer, Pool, PoolPolicy, PoolTarget, Readiness, Slot, SlotBody, Want},
};

/// A timer that fires so much too late was not looked at in time, and neither was the answer.
const STALL: Duration = Duration::from_millis(250);

/// What an answer may hold besides its head before its connection is given up rather than read to the end.
const MOST_READ: usize = 64 * 1024;

const USER_AGENT: &str = concat!("sinew-health-check/", env!("CARGO_PKG_VERSION"));

/// What was found, and what is wrong.
pub(super) type Found = (Finding, Arc<str>);

/// One endpoint, and the connection to it.
pub(super) struct Probing<'t> {
    target: &'t Target,
    addresses: Arc<[Address]>,
    tasks: &'t TaskSet,
    connection: Option<Connection>,
    /// It did not say in time which HTTP it speaks: it is asked in HTTP/1.1 next.
    speechless: bool,
}

/// A connection that may be used again, and what it showed.
pub(super) struct Connection {
    pool: Arc<Pool>,
    changed: Arc<Notify>,
    /// gRPC: the answer that goes on.
    watch: Watch,
}

/// Why there is no answer to judge.
pub(super) struct Unanswered {
    why: String,
    /// It is this process whose credential was refused.
    own: bool,
}

impl Unanswered {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), own: false }
    }
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Self {
        Self { why: error.message().to_owned(), own: classify::error(&error) == Outcome::OwnCredential }
    }
}

impl<'t> Probing<'t> {
    pub(super) fn new(target: &'t Target, tasks: &'t TaskSet) -> Self {
        let port = target.check.alt_port;
        let at = |address: &Address| match (address, port) {
            (Address::Tcp(addr), Some(port)) => Address::Tcp((addr.ip(), port).into()),
            (address, _) => address.clone(),
        };
        let addresses = target.addresses.iter().map(at).collect();
        Self { target, addresses, tasks, connection: None, speechless: false }
    }

    /// Asks once. Never longer than the check's timeout.
    pub(super) async fn ask(&mut self) -> Found {
        let (limit, begun) = (self.target.check.timeout, rt::now());
        let found = rt::timeout(limit, self.ask_untimed()).await;
        let late = rt::now().saturating_duration_since(begun) > limit + STALL;
        let found = match found {
            Some(Ok(found)) => found,
            Some(Err(Unanswered { why, own })) => (if own { Finding::Unseen } else { Finding::Failed }, why.into()),
            // It may have answered in time: nobody looked.
            None if late => (Finding::Unseen, "this process was too busy to look for an answer".into()),
            None => {
                self.speechless ^= self.target.protocol == Protocol::Auto;
                (Finding::Failed, format!("no answer within {limit:?}").into())
            }
        };
        if matches!(found.0, Finding::Failed | Finding::Unseen) || !self.target.check.reuse_connection {
            self.connection = None;
        }
        found
    }

    /// What is said without being asked, or that nothing more will be; never if nothing is to be expected. Cancel safe.
    pub(super) async fn watch(&mut self) -> Option<Found> {
        let said = match &mut self.connection {
            Some(connection) if connection.watch.is_open() => connection.watch.next().await,
            _ => std::future::pending().await,
        };
        if said.is_err() {
            self.connection = None;
        }
        said.ok()
    }

    async fn ask_untimed(&mut self) -> Result<Found, Unanswered> {
        match &self.target.check.kind {
            CheckKind::Http(check) => self.http(check).await,
            CheckKind::Grpc(check) => self.grpc(check).await,
            CheckKind::Tcp(check) => self.tcp(check).await,
        }
    }

    async fn http(&mut self, check: &HttpCheck) -> Result<Found, Unanswered> {
        let host = check.host.as_ref().unwrap_or(&self.target.host);
        let request = Request::builder()
            .method(check.method.clone())
            .uri(check.path.as_str())
            .header(header::HOST, &**host)
            .header(header::USER_AGENT, USER_AGENT)
            .body(Body::new(http_body_util::Empty::<Bytes>::new()))
            .map_err(|error| Unanswered::new(error.to_string()))?;
        let response = self.connection().send(Want::Any, request).await?;
        let status = response.status().as_u16();
        // To its end, so that an HTTP/1.1 connection can be used again.
        if !read(response).await {
            self.connection = None;
        }
        let among = |ranges: &[crate::health::StatusRange]| ranges.iter().any(|range| range.contains(status));
        Ok(match () {
            () if among(&check.expected_statuses) => passed(),
            () if among(&check.retriable_statuses) => (Finding::Failed, format!("it answered {status}").into()),
            () => (Finding::Wrong, format!("it answered {status}").into()),
        })
    }

    async fn grpc(&mut self, check: &GrpcCheck) -> Result<Found, Unanswered> {
        let host = Arc::clone(&self.target.host);
        let connection = self.connection();
        if connection.watch.is_unknown() {
            let request = watch::request("Watch", &host, &check.service)?;
            let response = connection.send(Want::Http2, request).await?;
            connection.watch = Watch::begin(response);
            if connection.watch.is_open() {
                let said = connection.watch.next().await;
                // Some servers say only in the trailers that they have no `Watch`.
                if !connection.watch.is_unsupported() {
                    return said;
                }
            }
        }
        // Besides a stream that is open and may be silent for good reason or bad.
        let request = watch::request("Check", &host, &check.service)?;
        let response = connection.send(Want::Http2, request).await?;
        watch::check(response).await
    }

    async fn tcp(&mut self, check: &TcpCheck) -> Result<Found, Unanswered> {
        let mut last = Unanswered::new("it has no address");
        for address in &*self.addresses {
            match self.target.dial.dial(address, Offer::Http1).await {
                Ok(mut dialed) => {
                    let io = |error: std::io::Error| Unanswered::new(error.to_string());
                    let bytes = check.send.as_bytes();
                    if !bytes.is_empty() {
                        dialed.io.write_all(bytes).await.map_err(io)?;
                        dialed.io.flush().await.map_err(io)?;
                    }
                    let mut expected = Expected::new(&check.receive);
                    let mut buffer = [0; 1024];
                    let mut read = 0;
                    while !expected.take(&buffer[..read]).map_err(Unanswered::new)? {
                        read = dialed.io.read(&mut buffer).await.map_err(io)?;
                        if read == 0 {
                            return Err(Unanswered::new("it closed the connection before it said what is expected"));
                        }
                    }
                    return Ok(passed());
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// The connection there is, or another.
    fn connection(&mut self) -> &mut Connection {
        let grpc = matches!(self.target.check.kind, CheckKind::Grpc(_));
        let protocol = match self.target.protocol {
            _ if grpc => Protocol::Http2,
            Protocol::Auto if self.speechless => Protocol::Http1,
            protocol => protocol,
        };
        self.connection.get_or_insert_with(|| {
            let changed = Arc::new(Notify::new());
            let tell = Arc::clone(&changed);
            let target = PoolTarget {
                label: self.addresses.first().map(ToString::to_string).unwrap_or_default().into(),
                addresses: Arc::clone(&self.addresses),
                protocol,
                kind: SetKind::Replicas,
                authority: self.target.host.parse().ok(),
            };
            let pool = Pool::new(
                target,
                PoolPolicy { connect_timeout: self.target.check.timeout, ..PoolPolicy::default() },
                Arc::clone(&self.target.dial),
                // Of its own, so that calls and checks do not take each other's room.
                ConnectionLimit::new(u32::MAX),
                self.tasks.clone(),
                Arc::default(),
                move |_| tell.notify_waiters(),
            );
            Connection { pool, changed, watch: Watch::default() }
        })
    }
}

pub(super) fn passed() -> Found {
    (Finding::Passed, "".into())
}

/// Reads a body to its end. False if there is too much of it.
async fn read(response: Response<SlotBody>) -> bool {
    let mut body = std::pin::pin!(response.into_body());
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => read += frame.data_ref().map_or(0, Bytes::len),
            Err(_) => return false,
        }
        if read > MOST_READ {
            return false;
        }
    }
    true
}

impl Connection {
    async fn send(&mut self, want: Want, request: Request<Body>) -> Result<Response<SlotBody>, Unanswered> {
        let slot = self.slot(want).await?;
        Ok(slot.send(request).await?)
    }

    async fn slot(&mut self, want: Want) -> Result<Slot, Unanswered> {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // Subscribed before the state is read again, so that no change is lost in between.
            changed.as_mut().enable();
            match self.pool.acquire(want) {
                Acquire::Slot(slot) => return Ok(slot),
                Acquire::Refused(error) => return Err(error.into()),
                Acquire::Full if self.pool.readiness() == Readiness::TransientFailure => {
                    let why = self.pool.last_error().map(|(why, _)| why.to_string());
                    let why = why.unwrap_or_else(|| "it cannot be connected to".into());
                    return Err(Unanswered { why, own: self.pool.is_refused() });
                }
                Acquire::Full => {
                    self.pool.connect();
                    changed.await;
                }
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.pool.close();
    }
}

/// A body that is there as a whole.
pub(super) fn full(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes))
}

/// gRPC asks by `POST`.
pub(super) const POST: Method = Method::POST;
