//! The Workload API client against an agent that is written to the specification.

use std::{convert::Infallible, sync::Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use prost::Message;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use tokio::{
    io::DuplexStream,
    net::{TcpListener, UnixListener},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;
use crate::{
    identity::{
        certificate::Facts,
        dial::Connect,
        workload_api::{Endpoint, WorkloadApi, fetch_jwt, fetch_jwt_bundle},
    },
    rt::TaskSet,
};

/// `X509SVIDResponse`, `X509SVID` and map entries, written here a second time so that a wrong number is seen.
#[derive(Clone, PartialEq, Message)]
struct State {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Given>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    crl: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "3")]
    federated: Vec<Pair>,
}

#[derive(Clone, PartialEq, Message)]
struct Given {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bytes = "vec", tag = "2")]
    chain: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    hint: String,
}

#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// What the agent does with a stream.
#[derive(Clone, Debug)]
enum Does {
    /// Sends this, and the next when it changes.
    Sends(Vec<u8>),
    /// Ends the stream with this status.
    Ends(tonic::Code),
    /// Closes the connection.
    Hangs,
}

#[derive(Clone)]
struct Agent {
    does: watch::Sender<Does>,
    /// Paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn trailers(code: tonic::Code) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from(code as i32))])
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

impl Agent {
    fn new(does: Does) -> Self {
        Self { does: watch::Sender::new(does), asked: Arc::default() }
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        self.asked.lock().unwrap().push(request.uri().path().to_owned());
        assert_eq!(request.uri().authority().unwrap(), "localhost");
        let (send, body) = mpsc::unbounded_channel();
        let body = BoxBody::new(StreamBody::new(UnboundedReceiverStream::new(body)));
        let answer = Response::builder().header("content-type", "application/grpc");
        if request.headers().get("workload.spiffe.io").is_none_or(|value| value != "true") {
            let answer = answer.header("grpc-status", tonic::Code::InvalidArgument as i32);
            return answer.body(body).unwrap();
        }
        let unary = request.uri().path().ends_with("FetchJWTSVID");
        let mut does = self.does.subscribe();
        tokio::spawn(async move {
            loop {
                let now = does.borrow_and_update().clone();
                let ended = match now {
                    Does::Sends(message) => {
                        let sent = send.send(Ok(Frame::data(framed(&message)))).is_ok();
                        if unary { Some(tonic::Code::Ok) } else { (!sent).then_some(tonic::Code::Ok) }
                    }
                    Does::Ends(code) => Some(code),
                    Does::Hangs => return,
                };
                if let Some(code) = ended {
                    let _ = send.send(Ok(Frame::trailers(trailers(code))));
                    return;
                }
                if does.changed().await.is_err() {
                    return;
                }
            }
        });
        answer.body(body).unwrap()
    }

    async fn serve<I>(self, io: I)
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
    {
        let service = hyper::service::service_fn(move |request| {
            let agent = self.clone();
            async move { Ok::<_, Infallible>(agent.answer(request).await) }
        });
        let executor = hyper_util::rt::TokioExecutor::new();
        let _ = hyper::server::conn::http2::Builder::new(executor).serve_connection(TokioIo::new(io), service).await;
    }

    /// Through memory, so that time can be paused.
    fn connect(&self) -> Connect {
        let agent = self.clone();
        Arc::new(move || {
            let (near, far): (DuplexStream, DuplexStream) = tokio::io::duplex(64 * 1024);
            let agent = agent.clone();
            tokio::spawn(agent.serve(far));
            Box::pin(async move { Ok(Box::new(near) as Box<_>) })
        })
    }
}

const ONE: &str = "spiffe://a.example/one";
const TWO: &str = "spiffe://a.example/two";

fn given(root: &Authority, id: &str, hint: &str) -> Given {
    let (leaf, key) = root.leaf(&[id], |_| {});
    Given {
        id: id.into(),
        chain: leaf.to_vec(),
        key: key.secret_der().to_vec(),
        bundle: root.cert.to_vec(),
        hint: hint.into(),
    }
}

fn state(svids: Vec<Given>) -> State {
    State { svids, crl: Vec::new(), federated: Vec::new() }
}

fn sends(state: &State) -> Does {
    Does::Sends(state.encode_to_vec())
}

struct Member {
    identity: Identity,
    tasks: TaskSet,
}

impl Member {
    fn of(agent: &Agent) -> Self {
        Self::hinted(agent, None)
    }

    fn hinted(agent: &Agent, hint: Option<&str>) -> Self {
        let member = Self { identity: Identity::new(domain(), default_provider().unwrap()), tasks: TaskSet::new() };
        let api = WorkloadApi::new(agent.connect(), member.identity.clone(), hint.map(Into::into));
        member.tasks.spawn(api.run());
        member
    }

    async fn generation(&self, number: u64) -> String {
        self.identity.changes().wait_for(|change| change.generation >= number).await.unwrap();
        self.identity.own().map_or_else(|| "nobody".into(), |own| own.id().to_string())
    }

    async fn trouble(&self, what: &str) {
        while self.identity.trouble().is_none_or(|trouble| !trouble.why.contains(what)) {
            rt::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn each_message_is_the_whole_state() {
    let (root, other) = (authority("root", |_| {}), authority("other", |_| {}));
    let mut first = state(vec![given(&root, ONE, "")]);
    first.federated.push(Pair { key: "spiffe://b.example".into(), value: other.cert.to_vec() });
    let agent = Agent::new(sends(&first));
    let member = Member::of(&agent);
    assert_eq!(member.generation(1).await, ONE);
    let trusts = |domain: &str| {
        let domain = TrustDomain::new(domain).unwrap();
        member.identity.generation().unwrap().material.bundles.contains_key(&domain)
    };
    assert!(trusts("a.example") && trusts("b.example"));
    // Without the federated bundle, and with a second authority of our own.
    let mut second = state(vec![given(&root, TWO, "")]);
    second.svids[0].bundle.extend_from_slice(&other.cert);
    agent.does.send_replace(sends(&second));
    assert_eq!(member.generation(2).await, TWO);
    assert!(trusts("a.example") && !trusts("b.example"));
    // The same again, over another stream: nothing moves.
    agent.does.send_replace(Does::Ends(tonic::Code::Unavailable));
    member.trouble("Unavailable").await;
    agent.does.send_replace(sends(&second));
    while member.identity.trouble().is_some() {
        rt::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(*member.identity.changes().borrow(), Change { generation: 2, own: 2 });
    assert!(agent.asked() >= 2);
}

#[tokio::test(start_paused = true)]
async fn the_hint_tells_which_identity_is_ours_and_the_first_of_two_counts() {
    let root = authority("root", |_| {});
    let svids = vec![given(&root, ONE, "x"), given(&root, TWO, "y"), given(&root, "spiffe://a.example/three", "y")];
    let agent = Agent::new(sends(&state(svids)));
    assert_eq!(Member::of(&agent).generation(1).await, ONE);
    assert_eq!(Member::hinted(&agent, Some("y")).generation(1).await, TWO);
    Member::hinted(&agent, Some("z")).trouble("hint `z`").await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_wrong_anywhere_is_dropped_and_the_stream_goes_on() {
    let root = authority("root", |_| {});
    let agent = Agent::new(sends(&state(vec![given(&root, ONE, "")])));
    let member = Member::of(&agent);
    member.generation(1).await;
    type Change = Box<dyn Fn(&mut State)>;
    let wrong: Vec<(&str, Change)> = vec![
        ("no identity", Box::new(|state| state.svids.clear())),
        ("`spiffe_id` of", Box::new(|state| state.svids[0].id.clear())),
        ("`x509_svid` of", Box::new(|state| state.svids[0].chain.clear())),
        ("`x509_svid_key` of", Box::new(|state| state.svids[0].key.clear())),
        ("`bundle` of", Box::new(|state| state.svids[0].bundle.clear())),
        ("`x509_svid` cannot be read", Box::new(|state| state.svids[0].chain.push(0))),
        ("`x509_svid_key` cannot be read", Box::new(|state| state.svids[0].key.push(0))),
        ("`bundle` cannot be read", Box::new(|state| state.svids[0].bundle.push(0))),
        ("the message says", Box::new(|state| state.svids[0].id = TWO.into())),
        ("not the certificate's", {
            let key = root.leaf(&[ONE], |_| {}).1.secret_der().to_vec();
            Box::new(move |state| state.svids[0].key = key.clone())
        }),
        ("not a trust domain", Box::new(|state| state.federated[0].key = "spiffe://b.example/x".into())),
        ("does not begin with", Box::new(|state| state.federated[0].key = "b.example".into())),
        ("occurs twice", Box::new(|state| state.federated.push(state.federated[0].clone()))),
        ("is among the federated", Box::new(|state| state.federated[0].key = "spiffe://a.example".into())),
        ("is empty", Box::new(|state| state.federated[0].value.clear())),
        ("revocation list", Box::new(|state| state.crl.push(vec![0x30, 0]))),
        ("unknown_ca", {
            let other = authority("other", |_| {}).cert.to_vec();
            Box::new(move |state| state.svids[0].bundle = other.clone())
        }),
    ];
    for (why, change) in wrong {
        let mut bad = state(vec![given(&root, ONE, "")]);
        bad.federated.push(Pair { key: "spiffe://b.example".into(), value: root.cert.to_vec() });
        change(&mut bad);
        agent.does.send_replace(sends(&bad));
        member.trouble(why).await;
    }
    agent.does.send_replace(sends(&state(vec![given(&root, TWO, "")])));
    assert_eq!(member.generation(2).await, TWO);
    assert_eq!((member.identity.trouble(), agent.asked()), (None, 1), "over one stream");
}

#[tokio::test(start_paused = true)]
async fn revocation_lists_come_with_it() {
    let root = authority("root", |_| {});
    let (doomed, _) = root.leaf(&["spiffe://a.example/doomed"], |_| {});
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from_slice(Facts::of(&doomed).unwrap().serial),
        revocation_time: at(-10).into(),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: at(-10).into(),
        next_update: at(1_000).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let mut message = state(vec![given(&root, ONE, "")]);
    message.crl.push(list.signed_by(&root.issuer).unwrap().der().to_vec());
    let member = Member::of(&Agent::new(sends(&message)));
    member.generation(1).await;
    let generation = member.identity.generation().unwrap();
    assert_eq!(reason(generation.verify(&doomed, &[], rt::wall())), "revoked");
}

#[tokio::test(start_paused = true)]
async fn streams_that_end_are_opened_again_later_each_time() {
    let root = authority("root", |_| {});
    for does in [Does::Ends(tonic::Code::Unavailable), Does::Ends(tonic::Code::PermissionDenied), Does::Hangs] {
        let agent = Agent::new(does.clone());
        let member = Member::of(&agent);
        let start = rt::now();
        while agent.asked() < 8 {
            rt::sleep(Duration::from_millis(100)).await;
        }
        // 1, 2, 4, 8, 16, 30 and 30 s, each ±20 %.
        let waited = start.elapsed().as_secs_f64();
        assert!((91.0 * 0.8 - 1.0..91.0 * 1.2 + 1.0).contains(&waited), "{does:?} {waited}");
        assert!(member.identity.own().is_none() && member.identity.trouble().is_some());
        agent.does.send_replace(sends(&state(vec![given(&root, ONE, "")])));
        assert_eq!(member.generation(1).await, ONE);
    }
}

#[tokio::test(start_paused = true)]
async fn where_asking_again_is_of_no_use_it_is_not_asked() {
    for code in [tonic::Code::InvalidArgument, tonic::Code::Unimplemented] {
        let agent = Agent::new(Does::Ends(code));
        let member = Member::of(&agent);
        member.trouble(&format!("{code:?}")).await;
        rt::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(agent.asked(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_after_success_is_believed_after_ten_seconds() {
    let root = authority("root", |_| {});
    let good = sends(&state(vec![given(&root, ONE, "")]));
    let agent = Agent::new(good.clone());
    let member = Member::of(&agent);
    member.generation(1).await;
    // An agent that restarts.
    agent.does.send_replace(Does::Ends(tonic::Code::PermissionDenied));
    member.trouble("PermissionDenied").await;
    rt::sleep(Duration::from_secs(5)).await;
    agent.does.send_replace(good.clone());
    rt::sleep(Duration::from_secs(10)).await;
    assert_eq!(member.identity.changes().borrow().generation, 1);
    // One that means it.
    let server = member.identity.server_side().unwrap();
    let expected = Expected::Ids([SpiffeId::new(ONE).unwrap()].into());
    let (proven, _) = shake(&server, &member.identity.client_side(&expected).unwrap()).unwrap();
    let proven = proven.unwrap();
    assert!(member.identity.holds(&proven));
    agent.does.send_replace(Does::Ends(tonic::Code::PermissionDenied));
    member.trouble("PermissionDenied").await;
    let start = rt::now();
    assert_eq!(member.generation(2).await, "nobody");
    assert!((9.0..12.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    assert!(member.identity.server_side().is_err() && !member.identity.holds(&proven));
    // It may change its mind.
    agent.does.send_replace(good);
    assert_eq!(member.generation(3).await, ONE);
}

#[tokio::test]
async fn the_agent_is_found_at_a_socket_and_at_an_address() {
    let root = authority("root", |_| {});
    let agent = Agent::new(sends(&state(vec![given(&root, ONE, "")])));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let (unix, tcp) = (UnixListener::bind(&path).unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = tcp.local_addr().unwrap();
    let (one, two) = (agent.clone(), agent.clone());
    let tasks = TaskSet::new();
    tasks.spawn(async move { one.serve(unix.accept().await.unwrap().0).await });
    tasks.spawn(async move { two.serve(tcp.accept().await.unwrap().0).await });
    for uri in [format!("unix:{}", path.display()), format!("tcp://{address}")] {
        let identity = Identity::new(domain(), default_provider().unwrap());
        let api = WorkloadApi::new(Endpoint::parse(&uri).unwrap().connect(), identity.clone(), None);
        tasks.spawn(api.run());
        identity.changes().wait_for(|change| change.generation == 1).await.unwrap();
    }
    tasks.cancel();
}

#[tokio::test(start_paused = true)]
async fn keys_and_tokens_of_jwt_svids() {
    #[derive(Clone, PartialEq, Message)]
    struct Bundles {
        #[prost(message, repeated, tag = "1")]
        bundles: Vec<Pair>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Token {
        #[prost(string, tag = "1")]
        id: String,
        #[prost(string, tag = "2")]
        svid: String,
        #[prost(string, tag = "3")]
        hint: String,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Tokens {
        #[prost(message, repeated, tag = "1")]
        svids: Vec<Token>,
    }
    let keys = |domain: &str| Pair { key: format!("spiffe://{domain}"), value: br#"{"keys":[]}"#.to_vec() };
    let bundles =
        |of: &[&str]| Does::Sends(Bundles { bundles: of.iter().copied().map(keys).collect() }.encode_to_vec());
    let agent = Agent::new(bundles(&["a.example", "b.example"]));
    let of = async |name: &str| fetch_jwt_bundle(agent.connect(), &TrustDomain::new(name).unwrap()).await;
    assert_eq!(of("b.example").await.unwrap(), br#"{"keys":[]}"#);
    assert!(of("c.example").await.unwrap_err().contains("no keys of `c.example`"));
    // Twice the same is not believed.
    agent.does.send_replace(bundles(&["a.example", "a.example"]));
    assert!(of("a.example").await.unwrap_err().contains("occurs twice"));
    agent.does.send_replace(Does::Ends(tonic::Code::PermissionDenied));
    assert!(of("a.example").await.unwrap_err().contains("PermissionDenied"));

    let token = |id: &str, svid: &str, hint: &str| Token { id: id.into(), svid: svid.into(), hint: hint.into() };
    let tokens = |svids: Vec<Token>| Does::Sends(Tokens { svids }.encode_to_vec());
    let agent = Agent::new(tokens(vec![token(ONE, "t1", "x"), token(TWO, "t2", "x"), token(TWO, "t3", "")]));
    let fetched = fetch_jwt(agent.connect(), &["audience"]).await.unwrap();
    assert_eq!(
        fetched.iter().map(|jwt| (jwt.id.as_str(), &*jwt.token)).collect::<Vec<_>>(),
        [(ONE, "t1"), (TWO, "t3")]
    );
    assert!(!format!("{fetched:?}").contains("t1"));
    agent.does.send_replace(tokens(vec![token(ONE, "", "")]));
    assert!(fetch_jwt(agent.connect(), &["audience"]).await.unwrap_err().contains("`svid`"));
    agent.does.send_replace(Does::Ends(tonic::Code::PermissionDenied));
    assert!(fetch_jwt(agent.connect(), &["audience"]).await.unwrap_err().contains("PermissionDenied"));
}
