//! JWT-SVIDs of ours in calls, from a Workload API written here.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use metrics_util::debugging::DebuggingRecorder;
use prost::Message;
use serde_json::json;
use sinew::{Body, Mesh, ResponseExt};
use tokio::net::TcpListener;
use tower::service_fn;

use crate::world::Counters;

const ID: &str = "spiffe://a.example/web";

#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(string, repeated, tag = "1")]
    audience: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Jwt>,
}

#[derive(Clone, PartialEq, Message)]
struct Jwt {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    token: String,
}

/// Says for how many seconds its tokens are good; without a number it denies.
struct Agent {
    life: Mutex<Option<u64>>,
    asked: AtomicUsize,
}

impl Agent {
    async fn start(life: Option<u64>) -> (Arc<Self>, String) {
        let agent = Arc::new(Self { life: Mutex::new(life), asked: AtomicUsize::new(0) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        let serving = Arc::clone(&agent);
        tokio::spawn(async move {
            loop {
                let io = TokioIo::new(listener.accept().await.unwrap().0);
                let agent = Arc::clone(&serving);
                let service = hyper::service::service_fn(move |request| {
                    let agent = Arc::clone(&agent);
                    async move { Ok::<_, Infallible>(agent.answer(request).await) }
                });
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service),
                );
            }
        });
        (agent, address)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchJWTSVID");
        assert_eq!(request.headers()["workload.spiffe.io"], "true");
        let number = self.asked.fetch_add(1, Relaxed);
        let asked = Asked::decode(&request.into_body().collect().await.unwrap().to_bytes()[5..]).unwrap();
        let life = *self.life.lock().unwrap();
        let (mut body, mut trailers) = (BytesMut::new(), HeaderMap::new());
        trailers.insert("grpc-status", HeaderValue::from(if life.is_some() { 0 } else { 7 }));
        if let Some(life) = life {
            let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            let claims = json!({"sub": ID, "aud": asked.audience, "exp": wall + life, "n": number}).to_string();
            let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
            let message = Answer { svids: vec![Jwt { id: ID.into(), token }] }.encode_to_vec();
            body.put_u8(0);
            body.put_u32(message.len() as u32);
            body.put_slice(&message);
        }
        let body = Full::new(body.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
        Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap()
    }
}

/// Answers with the credentials that it got.
async fn shows(request: Request<Body>) -> Result<Response<Body>, sinew::BoxError> {
    let got = request.headers().get("authorization").map_or("none", |value| value.to_str().unwrap());
    Ok(Response::new(Body::from(got.to_owned())))
}

/// A server, and a mesh that calls it with a token by this Workload API.
async fn world(workload_api: &str) -> (Mesh, Mesh) {
    let server = Mesh::builder("reviews").build().await.unwrap();
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr();
    tokio::spawn(listener.serve(service_fn(shows)).with_graceful_shutdown(std::future::pending()).into_future());
    let config = format!(
        "services:\n  reviews:\n    endpoints: \"{addr}\"\n    jwt_svid: {{audience: reviews, workload_api: \"{workload_api}\"}}\n  \
         others:\n    endpoints: \"{addr}\"\n    jwt_svid: {{audience: others, workload_api: \"{workload_api}\"}}\n  plain:\n    \
         endpoints: \"{addr}\"\n"
    );
    (server, Mesh::builder("web").config_str(&config).build().await.unwrap())
}

async fn got(mesh: &Mesh, service: &str) -> serde_json::Value {
    let text = mesh.client(service).get("/").send().await.unwrap().text().await.unwrap();
    let token = text.strip_prefix("Bearer ").unwrap_or_else(|| panic!("{text}"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_call_carries_a_token_for_its_audience_that_is_fetched_once() {
    let (agent, api) = Agent::start(Some(3_600)).await;
    let (_server, mesh) = world(&api).await;
    let some = futures_util::future::join_all((0..20).map(|_| got(&mesh, "reviews"))).await;
    assert!(some.iter().all(|claims| claims["n"] == 0 && claims["aud"][0] == "reviews"), "{some:?}");
    assert_eq!(got(&mesh, "others").await["aud"][0], "others");
    assert_eq!(agent.asked.load(Relaxed), 2);
    // What the application says goes, and who is not to have one gets none.
    let own = mesh.client("reviews").get("/").header("authorization", "Basic eA").send().await.unwrap();
    assert_eq!(own.text().await.unwrap(), "Basic eA");
    let none = mesh.client("plain").get("/").send().await.unwrap();
    assert_eq!(none.text().await.unwrap(), "none");
    let document = mesh.snapshot();
    assert!(!format!("{document:?}").contains("Bearer"));
}

/// Lets this much time pass at once, and then runs it on.
async fn passes(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

/// Makes calls until one carries another token than this one, which serves until then.
async fn until_renewed(mesh: &Mesh, old: u64) -> serde_json::Value {
    loop {
        let claims = got(mesh, "reviews").await;
        if claims["n"] != old {
            return claims;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_token_is_fetched_again_at_half_of_its_life_and_serves_on_while_none_can_be_had() {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let (agent, api) = Agent::start(Some(3_600)).await;
    let (_server, mesh) = world(&api).await;
    assert_eq!(got(&mesh, "reviews").await["n"], 0);
    passes(1_780).await;
    assert_eq!(got(&mesh, "reviews").await["n"], 0);
    assert_eq!(agent.asked.load(Relaxed), 1, "before its half nobody asks");
    passes(30).await;
    assert_eq!(got(&mesh, "reviews").await["n"], 0, "no call waits for the next one");
    assert_eq!(until_renewed(&mesh, 0).await["n"], 1);
    *agent.life.lock().unwrap() = None;
    passes(1_810).await;
    while agent.asked.load(Relaxed) < 3 {
        assert_eq!(got(&mesh, "reviews").await["n"], 1);
    }
    assert_eq!(got(&mesh, "reviews").await["n"], 1, "what there is serves on");
    assert_eq!(agent.asked.load(Relaxed), 3, "and is not asked about with each call");
    *agent.life.lock().unwrap() = Some(3_600);
    passes(5).await;
    assert_eq!(until_renewed(&mesh, 1).await["n"], 3);
    mesh.shutdown(Duration::from_secs(1)).await;
    let counters = Counters::of(&recorder);
    let fetches = |result| counters.sum("sinew_jwt_svid_fetches_total", ("result", result));
    assert_eq!((fetches("success"), fetches("failure")), (3, 1));
}

#[tokio::test]
async fn a_call_without_a_token_to_be_had_is_not_sent() {
    let (agent, api) = Agent::start(None).await;
    let (_server, mesh) = world(&api).await;
    let error = mesh.client("reviews").get("/").send().await.unwrap_err();
    assert!(error.never_processed() && error.code() == sinew::Code::ConfigNotReady, "{error}");
    let text = error.to_string();
    assert!(text.contains("audience `reviews`") && text.contains("PermissionDenied"), "{text}");
    // Somebody else's failure is not asked about twice in a second, and another audience is another matter.
    *agent.life.lock().unwrap() = Some(60);
    assert_eq!(got(&mesh, "others").await["sub"], ID);
}
