//! A Workload API written to the specification. That go-spiffe's client accepts it is why it counts that ours does.

use std::{convert::Infallible, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::json;
use sinew::ResponseExt;
use tokio::net::UnixListener;
use tokio_stream::StreamExt;

use super::{
    step::{Signer, unix},
    *,
};
use crate::peer::{peer, run, text};

#[derive(Clone, PartialEq, Message)]
struct X509Response {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    crl: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "3")]
    federated: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct X509 {
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
struct Entry {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct JwtRequest {
    #[prost(string, repeated, tag = "1")]
    audience: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct JwtResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Jwt>,
}

#[derive(Clone, PartialEq, Message)]
struct Jwt {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    token: String,
    #[prost(string, tag = "3")]
    hint: String,
}

#[derive(Clone, PartialEq, Message)]
struct Bundles {
    #[prost(message, repeated, tag = "1")]
    bundles: Vec<Entry>,
}

/// The agent of one workload.
struct Agent {
    x509: X509Response,
    id: String,
    signer: Signer,
}

impl Agent {
    fn new(world: &World, name: &str) -> Arc<Self> {
        let leaf = world.root.leaf(&id(name), &[], HOUR);
        let federated = Entry { domain: "spiffe://other.example".into(), value: Root::new("other").cert };
        let svid = X509 {
            id: id(name),
            chain: leaf.cert,
            key: leaf.key,
            bundle: world.root.cert.clone(),
            hint: "internal".into(),
        };
        let x509 = X509Response { svids: vec![svid], crl: Vec::new(), federated: vec![federated] };
        Arc::new(Self { x509, id: id(name), signer: Signer::new() })
    }

    /// The answer, and whether a stream of such stays open.
    fn answer(&self, path: &str, request: &[u8]) -> Option<(Vec<u8>, bool)> {
        match path {
            "/SpiffeWorkloadAPI/FetchX509SVID" => Some((self.x509.encode_to_vec(), true)),
            "/SpiffeWorkloadAPI/FetchX509Bundles" => {
                let own = Entry { domain: format!("spiffe://{DOMAIN}"), value: self.x509.svids[0].bundle.clone() };
                Some((X509Bundles { crl: vec![], bundles: vec![own] }.encode_to_vec(), true))
            }
            "/SpiffeWorkloadAPI/FetchJWTBundles" => {
                let mut key = self.signer.jwk("k1");
                key["use"] = "jwt-svid".into();
                let keys = json!({ "keys": [key], "spiffe_sequence": 1 }).to_string().into_bytes();
                let own = Entry { domain: format!("spiffe://{DOMAIN}"), value: keys };
                Some((Bundles { bundles: vec![own] }.encode_to_vec(), true))
            }
            "/SpiffeWorkloadAPI/FetchJWTSVID" => {
                let asked = JwtRequest::decode(request).unwrap();
                let claims = json!({ "sub": self.id, "aud": asked.audience, "exp": unix() + 300, "iat": unix() });
                let jwt = Jwt { id: self.id.clone(), token: self.signer.token("k1", &claims), hint: String::new() };
                Some((JwtResponse { svids: vec![jwt] }.encode_to_vec(), false))
            }
            _ => None,
        }
    }

    /// Serves the socket, in the background.
    fn serve(self: Arc<Self>, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let agent = Arc::clone(&self);
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let agent = Arc::clone(&agent);
                    async move { Ok::<_, Infallible>(respond(&agent, request).await) }
                });
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(http.serve_connection(TokioIo::new(io), service));
            }
        });
    }
}

#[derive(Clone, PartialEq, Message)]
struct X509Bundles {
    #[prost(bytes = "vec", repeated, tag = "1")]
    crl: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "2")]
    bundles: Vec<Entry>,
}

async fn respond(agent: &Agent, request: Request<Incoming>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let allowed = head.headers.get("workload.spiffe.io").is_some_and(|value| value == "true");
    let answer = agent.answer(head.uri.path(), &body[5..]).filter(|_| allowed);
    let status = if allowed { 12 } else { 3 };
    let (frames, status, stays) = match answer {
        Some((message, stays)) => {
            let mut frame = BytesMut::new();
            frame.put_u8(0);
            frame.put_u32(message.len() as u32);
            frame.put_slice(&message);
            (vec![Ok(Frame::data(frame.freeze()))], 0, stays)
        }
        None => (Vec::new(), status, false),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status));
    let end = (!stays).then(|| Ok(Frame::trailers(trailers)));
    let frames = tokio_stream::iter(frames.into_iter().chain(end));
    let body = match stays {
        true => StreamBody::new(frames.chain(tokio_stream::pending())).boxed_unsync(),
        false => StreamBody::new(frames).boxed_unsync(),
    };
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_spiffe_accepts_the_workload_api_that_we_do() {
    let world = World::new();
    let socket = world.dir.path().join("agent.sock");
    let agent = Agent::new(&world, "caller");
    let token = |audience: &str| {
        let claims = json!({ "sub": id("caller"), "aud": [audience], "exp": unix() + 300 });
        agent.signer.token("k1", &claims)
    };
    let (token, wrong) = (token("ledger"), token("other"));
    agent.serve(&socket);
    let uri = format!("unix://{}", socket.display());
    let authn = format!(
        "inbound: {{ authn: {{ jwt: [{{ trust_domain: {DOMAIN}, audiences: ledger, workload_api: \"{uri}\" }}] }} }}"
    );
    let served = Served::start(world.builder("server", &[]).config_str(&authn).build().await.unwrap()).await;
    let client = Mesh::builder("caller")
        .identity(IdentitySource::WorkloadApi(uri.as_str().into()), DOMAIN)
        .service("server", |service| service.endpoints([served.addr.to_string()]));
    let client = client.build().await.unwrap();
    until("it has its identity", || client.status().identity.unwrap().id.is_some()).await;
    let response = client.client("server").get("/who").send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), id("caller"));
    // The keys of JWT-SVIDs come from there too.
    for (token, status) in [(token, 200), (wrong, 401)] {
        let call = client.client("server").get("/who").header("authorization", format!("Bearer {token}"));
        assert_eq!(call.send().await.unwrap().status(), status);
    }
    served.stop().await;

    let Some(program) = peer("spiffe-client") else { return };
    let said = text(&run(program, vec![uri]).await);
    assert!(said.contains(&format!("x509 {} internal", id("caller"))), "{said}");
    assert!(said.contains(&format!("bundle {DOMAIN} 1")) && said.contains("bundle other.example 1"), "{said}");
    assert!(said.contains(&format!("jwt {}", id("caller"))), "{said}");
}
