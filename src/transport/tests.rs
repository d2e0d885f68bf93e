//! TLS between the two ends, with the plainest verifiers there are: what is judged belongs to identity, what is tested here
//! is what a judgement does to connections.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use http::{Request, Response};
use http_body_util::BodyExt;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Acquire, ConnectionLimit, Dialer, Pool, PoolPolicy, PoolTarget, Readiness, TlsDialer, Want,
    accept::{Acceptor, Drain, InboundTls, Limits, Listener, Plaintext},
    memory::MemoryNetwork,
    roll::Roll,
};
use crate::{
    body::Body,
    error::{Code, Delivery, Error},
    identity::{ClientSide, Proven, ServerSide},
    instrument::Registry,
    model::{Address, Protocol, SetKind},
    peer::Peer,
    rt::{self, TaskSet},
};

struct Authority {
    cert: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).unwrap().der().clone();
        Self { cert, issuer: Issuer::new(params, key) }
    }

    fn issue(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (vec![cert.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.cert.clone()).unwrap();
        Arc::new(roots)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn proven(not_after: SystemTime) -> Proven {
    Proven {
        id: "spiffe://a.example/x".parse().unwrap(),
        not_before: SystemTime::UNIX_EPOCH,
        not_after,
        member: true,
        generation: 1,
        path: None,
    }
}

fn server_side(authority: &Authority, not_after: SystemTime) -> Arc<ServerSide> {
    let (chain, key) = authority.issue();
    let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots(), provider()).build().unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(ServerSide { config: Arc::new(config), prove: Box::new(move |_| Some(proven(not_after))) })
}

fn client_side(roots: &Authority, own: &Authority, not_after: SystemTime) -> Arc<ClientSide> {
    let (chain, key) = own.issue();
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots.roots())
        .with_client_auth_cert(chain, key)
        .unwrap();
    Arc::new(ClientSide {
        config: Arc::new(config),
        name: None,
        validity: Some((SystemTime::UNIX_EPOCH, not_after)),
        prove: Box::new(move |_| Some(proven(not_after))),
    })
}

struct Ends {
    network: MemoryNetwork,
    acceptor: Acceptor,
    registry: Registry,
    tasks: TaskSet,
    roll: Arc<Roll>,
    holds: Arc<AtomicBool>,
    client: Arc<Mutex<Arc<ClientSide>>>,
}

fn hours(hours: u64) -> SystemTime {
    rt::wall() + Duration::from_secs(hours * 3600)
}

impl Ends {
    fn new(authority: &Authority, own: &Authority, not_after: SystemTime, plaintext: Plaintext) -> Self {
        Self::within(Limits::default(), authority, own, not_after, plaintext)
    }

    fn within(
        limits: Limits,
        authority: &Authority,
        own: &Authority,
        not_after: SystemTime,
        plaintext: Plaintext,
    ) -> Self {
        let (tasks, registry, network) = (TaskSet::new(), Registry::default(), MemoryNetwork::new());
        let acceptor = Acceptor::new("mesh", limits, Drain::new(), tasks.clone(), &registry);
        let side = server_side(authority, not_after);
        let tls =
            InboundTls::On { side: Arc::new(move || Ok(Arc::clone(&side))), holds: Arc::new(|_| true), plaintext };
        acceptor.serve(
            Listener::memory(network.listen("a").unwrap()),
            move || tls.clone(),
            |peer: Peer| {
                tower::service_fn(move |_request: Request<Body>| {
                    let id = peer.id().map_or("nobody".to_owned(), ToString::to_string);
                    async move { Ok::<_, Infallible>(Response::new(Body::from(id))) }
                })
            },
        );
        let client = Arc::new(Mutex::new(client_side(authority, own, not_after)));
        let (roll, holds) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        Self { network, acceptor, registry, tasks, roll, holds, client }
    }

    fn pool(&self, protocol: Protocol) -> Arc<Pool> {
        let (side, holds) = (Arc::clone(&self.client), Arc::clone(&self.holds));
        let dial = TlsDialer::new(
            Dialer::new(self.network.clone()),
            move || Ok(Arc::clone(&side.lock().unwrap())),
            move |_| holds.load(SeqCst),
            Arc::clone(&self.roll),
            self.tasks.clone(),
        );
        let target = PoolTarget {
            addresses: [Address::Memory("a".into())].into(),
            protocol,
            kind: SetKind::Replicas,
            label: "a".into(),
            authority: None,
        };
        let (policy, waiting) = (PoolPolicy::default(), Arc::default());
        Pool::new(target, policy, Arc::new(dial), ConnectionLimit::new(10), self.tasks.clone(), waiting, |_| {})
    }

    fn closed(&self, reason: &str) -> u64 {
        let labels = [("direction", "inbound"), ("listener", "mesh"), ("reason", reason)];
        self.registry.counter("sinew_connections_closed_total", &labels).get()
    }
}

/// Until something is so that another task is about to make so.
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if is() {
            return;
        }
        rt::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

async fn ready(pool: &Arc<Pool>) {
    pool.connect();
    until("ready", || pool.readiness() == Readiness::Ready).await;
}

async fn get(pool: &Arc<Pool>) -> Result<String, Error> {
    let Acquire::Slot(slot) = pool.acquire(Want::Any) else { panic!("no slot") };
    let response = slot.send(Request::get("http://a/").body(Body::empty()).unwrap()).await?;
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn both_protocols_are_negotiated_and_the_application_sees_who_called() {
    let authority = Authority::new("ours");
    let ends = Ends::new(&authority, &authority, hours(1), Plaintext::Refused);
    for protocol in [Protocol::Auto, Protocol::Http2, Protocol::Http1] {
        let pool = ends.pool(protocol);
        ready(&pool).await;
        assert_eq!(get(&pool).await.unwrap(), "spiffe://a.example/x", "{protocol:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_certificate_is_not_the_endpoints_fault() {
    let authority = Authority::new("ours");
    let ends = Ends::new(&authority, &Authority::new("theirs"), hours(1), Plaintext::Refused);
    let pool = ends.pool(Protocol::Http2);
    pool.connect();
    until("failed", || pool.readiness() == Readiness::TransientFailure).await;
    let (text, _) = pool.last_error().unwrap();
    assert!(text.contains("refused our certificate"), "{text}");
    assert!(ends.closed("handshake_failed") > 0);
    let pool = ends.pool(Protocol::Http1);
    pool.connect();
    // HTTP/1.1 hears of it with its first request.
    until("settled", || pool.readiness() != Readiness::Connecting).await;
    let error = get(&pool).await.unwrap_err();
    assert_eq!((error.code(), error.delivery()), (Code::TlsFailed, Delivery::TlsRefused), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_server_of_another_authority_is_refused_with_the_cause() {
    let (theirs, ours) = (Authority::new("theirs"), Authority::new("ours"));
    let ends = Ends::new(&theirs, &theirs, hours(1), Plaintext::Refused);
    *ends.client.lock().unwrap() = client_side(&ours, &theirs, hours(1));
    let pool = ends.pool(Protocol::Http2);
    pool.connect();
    until("failed", || pool.readiness() == Readiness::TransientFailure).await;
    let (text, _) = pool.last_error().unwrap();
    assert!(text.contains("no TLS with memory:a") && text.contains("UnknownIssuer"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn plaintext_is_served_only_where_it_may_be() {
    let authority = Authority::new("ours");
    for (plaintext, served) in [(Plaintext::Refused, false), (Plaintext::Loopback, true), (Plaintext::Allowed, true)] {
        let ends = Ends::new(&authority, &authority, hours(1), plaintext);
        let mut io = ends.network.connect("a").unwrap();
        io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("nobody"), served, "{answer}");
        assert_eq!(answer.starts_with("HTTP/1.1 400") && answer.contains("SINEW-E014"), !served, "{answer}");
        if !served {
            until("counted", || ends.closed("plaintext") == 1).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_not_plaintext() {
    let authority = Authority::new("ours");
    let ends = Ends::new(&authority, &authority, hours(1), Plaintext::Allowed);
    let mut io = ends.network.connect("a").unwrap();
    let began = rt::now();
    assert_eq!(io.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    assert_eq!(ends.closed("first_byte_timeout"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_leaves_before_a_certificate_ends_and_is_cut_when_it_does() {
    let authority = Authority::new("ours");
    let life = Duration::from_secs(100);
    let ends = Ends::new(&authority, &authority, rt::wall() + life, Plaintext::Refused);
    let pool = ends.pool(Protocol::Http2);
    ready(&pool).await;
    let began = rt::now();
    // Another one takes its place at 70 %; the server would begin at 75.
    let first = ends.acceptor.open();
    until("renewed", || ends.closed("closed") == 1).await;
    let at = began.elapsed();
    assert!(at >= life * 7 / 10 && at < life * 3 / 4 + Duration::from_secs(12), "{at:?} {first}");
    assert_eq!(get(&pool).await.unwrap(), "spiffe://a.example/x");
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_the_certificate_of_a_connection_that_is_gone() {
    let authority = Authority::new("ours");
    let ends = Ends::new(&authority, &authority, hours(24 * 365), Plaintext::Refused);
    let before = ends.tasks.len();
    let pool = ends.pool(Protocol::Http2);
    ready(&pool).await;
    assert!(ends.tasks.len() > before);
    pool.close();
    drop(pool);
    until("every task ended", || ends.tasks.len() == before).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_accepted_any_more_is_cut_on_both_sides() {
    let authority = Authority::new("ours");
    let ends = Ends::new(&authority, &authority, hours(1), Plaintext::Refused);
    let pool = ends.pool(Protocol::Http2);
    ready(&pool).await;
    assert_eq!(ends.acceptor.recheck(|peer| peer.member), 0);
    assert_eq!(ends.acceptor.recheck(|_| false), 1);
    until("closed", || ends.acceptor.open() == 0).await;
    assert_eq!(ends.closed("peer_revoked"), 1);
    let pool = ends.pool(Protocol::Http2);
    ready(&pool).await;
    let open = ends.roll.recheck(|_| true);
    assert_eq!(open, 0);
    ends.holds.store(false, SeqCst);
    assert!(ends.roll.recheck(|_| false) >= 1);
    until("not ready", || pool.readiness() != Readiness::Ready).await;
    until("failed", || pool.readiness() == Readiness::TransientFailure).await;
    let (text, _) = pool.last_error().unwrap();
    assert!(text.contains("not accepted any more"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_rotation_moves_calls_to_new_connections_and_fails_none() {
    let authority = Authority::new("ours");
    let ends = Ends::new(&authority, &authority, hours(1), Plaintext::Refused);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let pool = ends.pool(protocol);
        ready(&pool).await;
        for _ in 0..3 {
            let before = ends.closed("closed");
            assert!(get(&pool).await.is_ok());
            pool.renew_all();
            assert!(get(&pool).await.is_ok());
            until("the old one left", || ends.closed("closed") > before).await;
            assert!(get(&pool).await.is_ok());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_identity_has_so_many_connections_and_no_more() {
    let authority = Authority::new("ours");
    let limits = Limits { max_per_identity: 2, ..Limits::default() };
    let ends = Ends::within(limits, &authority, &authority, hours(1), Plaintext::Refused);
    let held = [ends.pool(Protocol::Http2), ends.pool(Protocol::Http2)];
    for pool in &held {
        ready(pool).await;
        assert!(get(pool).await.is_ok());
    }
    let third = ends.pool(Protocol::Http2);
    third.connect();
    until("refused", || ends.closed("max_per_identity") > 0).await;
    assert_eq!(ends.acceptor.open(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_whole_gives_up_its_place_for_who_shakes_hands() {
    let authority = Authority::new("ours");
    let limits = Limits { max_connections: 2, ..Limits::default() };
    let ends = Ends::within(limits, &authority, &authority, hours(1), Plaintext::Refused);
    let mut silent = ends.network.connect("a").unwrap();
    let mut half = ends.network.connect("a").unwrap();
    half.write_all(&[0x16, 3, 1, 1, 0, 1]).await.unwrap();
    until("both are accepted", || ends.acceptor.open() == 2).await;
    let pools = [ends.pool(Protocol::Http2), ends.pool(Protocol::Http2)];
    for pool in &pools {
        ready(pool).await;
        assert!(get(pool).await.is_ok());
    }
    assert_eq!((silent.read(&mut [0]).await.unwrap(), half.read(&mut [0]).await.unwrap()), (0, 0));
    assert_eq!((ends.closed("evicted"), ends.acceptor.open()), (2, 2));
    let third = ends.pool(Protocol::Http2);
    third.connect();
    let refused = [("listener", "mesh"), ("reason", "max_connections")];
    until("refused", || ends.registry.counter("sinew_connections_refused_total", &refused).get() > 0).await;
}

/// More than a source may have shaking hands at once, over sockets, as one process with many connections does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_handshakes_from_one_source_waits_its_turn_and_none_fails() {
    let authority = Authority::new("ours");
    let limits = Limits { tls_handshake: Duration::from_secs(60), ..Limits::default() };
    let ends = Ends::within(limits, &authority, &authority, hours(1), Plaintext::Refused);
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.socket_addr().unwrap();
    let side = server_side(&authority, hours(1));
    let tls = InboundTls::On {
        side: Arc::new(move || Ok(Arc::clone(&side))),
        holds: Arc::new(|_| true),
        plaintext: Plaintext::Refused,
    };
    ends.acceptor.serve(
        listener,
        move || tls.clone(),
        |_peer: Peer| {
            tower::service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::from("ok"))) })
        },
    );
    let client = Arc::clone(&ends.client.lock().unwrap());
    let mut burst = tokio::task::JoinSet::new();
    for _ in 0..256 {
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&client.config));
        burst.spawn(async move {
            let io = tokio::net::TcpStream::connect(address).await.unwrap();
            let mut io = connector.connect(address.ip().into(), io).await.unwrap();
            io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            let mut answer = vec![0; 15];
            io.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, b"HTTP/1.1 200 OK");
            io
        });
    }
    let open = burst.join_all().await;
    assert_eq!((open.len(), ends.closed("max_handshakes"), ends.closed("handshake_failed")), (256, 0, 0));
}
