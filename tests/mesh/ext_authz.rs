//! Authorization services, asked by Envoy's protocol.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use metrics_util::debugging::DebuggingRecorder;
use prost::Message;
use sinew::{Body, Client, Mesh, ResponseExt};

use crate::world::Counters;

/// What the service understands of the messages, field by field.
#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, optional, tag = "4")]
    request: Option<Asked>,
}

#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(message, optional, tag = "2")]
    http: Option<Http>,
}

#[derive(Clone, PartialEq, Message)]
struct Http {
    #[prost(string, tag = "2")]
    method: String,
    #[prost(map = "string, string", tag = "3")]
    headers: std::collections::HashMap<String, String>,
    #[prost(string, tag = "4")]
    path: String,
    #[prost(string, tag = "5")]
    host: String,
    #[prost(string, tag = "11")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    denied: Option<Denied>,
    #[prost(message, optional, tag = "3")]
    ok: Option<Allowed>,
    #[prost(bytes = "vec", optional, tag = "4")]
    dynamic_metadata: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Denied {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<Change>,
    #[prost(string, tag = "3")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct Allowed {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<Change>,
    #[prost(string, repeated, tag = "5")]
    remove: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    response: Vec<Change>,
}

#[derive(Clone, PartialEq, Message)]
struct Change {
    #[prost(message, optional, tag = "1")]
    header: Option<Pair>,
}

#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

fn change(key: &str, value: &str) -> Change {
    Change { header: Some(Pair { key: key.into(), value: value.into() }) }
}

/// Says what the path asks it to say.
fn decide(asked: &Http) -> CheckResponse {
    let allowed = |ok| CheckResponse { status: Some(Status { code: 0 }), ok: Some(ok), ..CheckResponse::default() };
    match &*asked.path {
        "/ok?x=1" => {
            let user =
                format!("{}|{}|{}", asked.host, asked.headers.get("x-who").cloned().unwrap_or_default(), asked.body);
            let ok = Allowed {
                headers: vec![change("x-user", &user)],
                remove: vec!["x-secret".into()],
                response: vec![change("x-from-authz", "yes")],
            };
            CheckResponse { dynamic_metadata: Some(vec![]), ..allowed(ok) }
        }
        "/host" => allowed(Allowed { headers: vec![change("host", "evil")], ..Allowed::default() }),
        "/path" => allowed(Allowed { headers: vec![change(":path", "/admin")], ..Allowed::default() }),
        "/empty" => CheckResponse::default(),
        "/login" => CheckResponse {
            status: Some(Status { code: 16 }),
            denied: Some(Denied {
                status: Some(Status { code: 302 }),
                headers: vec![change("location", "https://login.example/")],
                body: "go there".into(),
            }),
            ..CheckResponse::default()
        },
        _ => CheckResponse { status: Some(Status { code: 7 }), ..CheckResponse::default() },
    }
}

#[derive(Clone, Default)]
struct Authz {
    asked: Arc<AtomicUsize>,
    seen: Arc<Mutex<Option<Http>>>,
}

impl Authz {
    async fn grpc(self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        self.asked.fetch_add(1, SeqCst);
        assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let asked = CheckRequest::decode(&bytes[5..]).unwrap().attributes.unwrap().request.unwrap().http.unwrap();
        *self.seen.lock().unwrap() = Some(asked.clone());
        if asked.path == "/slow" {
            std::future::pending::<()>().await;
        }
        let message = decide(&asked).encode_to_vec();
        let mut framed = vec![0];
        framed.extend((message.len() as u32).to_be_bytes());
        framed.extend(message);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", if asked.path == "/broken" { "13" } else { "0" }.parse().unwrap());
        let body = Body::from(framed).with_trailers(std::future::ready(Some(Ok(trailers))));
        let mut response = Response::new(Body::new(body));
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        Ok(response)
    }

    async fn http(self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        self.asked.fetch_add(1, SeqCst);
        let mut response = Response::new(Body::from("no"));
        let token = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        *response.status_mut() = match (request.uri().path(), token.as_deref()) {
            ("/check/ok", Some("Bearer t")) => StatusCode::OK,
            ("/check/down", _) => StatusCode::SERVICE_UNAVAILABLE,
            ("/check/created", _) => StatusCode::CREATED,
            _ => StatusCode::UNAUTHORIZED,
        };
        response.headers_mut().insert("x-user", "alice".parse().unwrap());
        response.headers_mut().insert("www-authenticate", "Bearer".parse().unwrap());
        assert!(!request.headers().contains_key("x-secret"));
        Ok(response)
    }
}

async fn listen<S>(mesh: &Mesh, app: S) -> SocketAddr
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let listener = mesh.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr();
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    addr
}

/// Tells which headers it sees.
async fn application(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
    let seen = format!("{} {} {}", header("x-user"), header("x-secret"), header("x-envoy-auth-failure-mode-allowed"));
    let body = body.collect().await.unwrap().to_bytes();
    Ok(Response::new(Body::from(format!("{seen} {}", body.len()))))
}

struct World {
    authz: Authz,
    server: Mesh,
    client: Client,
    _meshes: Vec<Mesh>,
}

async fn world(http: bool, server: impl FnOnce(sinew::Builder, String) -> sinew::Builder) -> World {
    let authz = Authz::default();
    let service = Mesh::builder("authz").build().await.unwrap();
    let asked = authz.clone();
    let at = listen(
        &service,
        tower::service_fn(move |request| {
            let authz = asked.clone();
            async move { if http { authz.http(request).await } else { authz.grpc(request).await } }
        }),
    );
    let at = at.await.to_string();
    let server = server(Mesh::builder("s"), at).build().await.unwrap();
    let addr = listen(&server, tower::service_fn(application)).await.to_string();
    let caller = Mesh::builder("c").service("s", |s| s.endpoints([addr])).build().await.unwrap();
    let client = caller.client("s");
    World { authz, server, client, _meshes: vec![service, caller] }
}

fn document(at: &str, rules: &str) -> String {
    format!("services: {{ authz: {{ endpoints: \"{at}\" }} }}\ninbound: {{ authz: {{ {rules} }} }}\n")
}

#[tokio::test]
async fn a_service_decides_by_grpc_and_changes_headers() {
    let rules = "custom: [{ name: ask, not_paths: /free, ext_authz: { service: authz, timeout: 5s, max_request_bytes: 8 } }], \
                 deny: [{ name: no, paths: /never }]";
    let world = world(false, |mesh, at| mesh.config_str(&document(&at, rules))).await;
    let client = &world.client;
    let ok =
        client.post("/ok?x=1").header("x-who", "me").header("x-secret", "s").header("x-user", "mallory").body("body");
    let response = ok.send().await.unwrap();
    assert_eq!(response.headers()["x-from-authz"], "yes");
    assert_eq!(response.text().await.unwrap(), "s|me|body - - 4");
    assert_eq!(world.authz.seen.lock().unwrap().as_ref().unwrap().method, "POST");

    let denied = client.get("/denied").send().await.unwrap();
    assert_eq!(denied.status(), 403);
    assert!(denied.text().await.unwrap().starts_with("SINEW-E052 external_denied: "));
    let login = client.get("/login").send().await.unwrap();
    assert_eq!(
        (login.status().as_u16(), &login.headers()["location"]),
        (302, &"https://login.example/".parse().unwrap())
    );
    assert_eq!(login.text().await.unwrap(), "go there");
    let grpc = client.post("/a.A/B").header("content-type", "application/grpc").send().await.unwrap();
    assert_eq!(grpc.headers()["grpc-status"], "7");
    // What it may not change, and what is no answer.
    for (path, reason) in
        [("/host", "mutation"), ("/path", "mutation"), ("/empty", "malformed"), ("/broken", "unavailable")]
    {
        let response = client.get(path).send().await.unwrap();
        assert_eq!(response.status(), 403, "{path}");
        let text = response.text().await.unwrap();
        assert!(text.starts_with(&format!("SINEW-E052 external_denied; {reason}: ")), "{path}: {text}");
    }
    let long = client.post("/ok?x=1").body("nine byte").send().await.unwrap();
    assert_eq!(long.status(), 413);
    // Nobody asks about what is not matched, or denied anyway.
    let before = world.authz.asked.load(SeqCst);
    assert_eq!(client.get("/free").send().await.unwrap().status(), 200);
    assert_eq!(client.get("/never").send().await.unwrap().status(), 403);
    assert_eq!(world.authz.asked.load(SeqCst), before);
}

#[tokio::test]
async fn a_service_that_is_slow_or_down_denies_and_is_counted() {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let rules = "custom: [{ name: ask, ext_authz: { service: authz } }]";
    let slow = world(false, |mesh, at| mesh.config_str(&document(&at, rules))).await;
    let begun = tokio::time::Instant::now();
    let response = slow.client.get("/slow").send().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(200) && begun.elapsed() < Duration::from_secs(2));
    assert_eq!(response.status(), 403);
    assert!(response.text().await.unwrap().starts_with("SINEW-E052 external_denied; timeout: "));
    slow.server.shutdown(Duration::from_secs(1)).await;
    assert_eq!(Counters::of(&recorder).sum("sinew_authz_external_total", ("result", "failed")), 1);

    // A port where nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = world(false, |mesh, _| mesh.config_str(&document(&port.to_string(), rules))).await;
    assert_eq!(down.client.get("/ok?x=1").send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn code_can_let_a_service_that_is_down_allow() {
    use sinew::authz::{ExtAuthz, Policy, Rule};
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let open = world(false, |mesh, _| {
        let asked = ExtAuthz::new("authz").unwrap().failure_mode_allow(true);
        mesh.service("authz", |service| service.endpoints([port])).pin_authz(Policy::new([Rule::custom("ask", asked)]))
    });
    let response =
        open.await.client.get("/any").header("x-envoy-auth-failure-mode-allowed", "forged").send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "- - true 0");
}

#[tokio::test]
async fn a_service_decides_by_http() {
    let rules = "custom: [{ name: ask, ext_authz: { service: authz, protocol: http, timeout: 5s, path_prefix: /check, \
                 upstream_headers: x-user } }]";
    let world = world(true, |mesh, at| mesh.config_str(&document(&at, rules))).await;
    let client = &world.client;
    let allowed = client.get("/ok").header("authorization", "Bearer t").header("x-secret", "s").send().await.unwrap();
    assert_eq!(allowed.text().await.unwrap(), "alice s - 0");
    let denied = client.get("/ok").send().await.unwrap();
    assert_eq!((denied.status().as_u16(), &denied.headers()["www-authenticate"]), (401, &"Bearer".parse().unwrap()));
    assert_eq!(denied.text().await.unwrap(), "no");
    assert_eq!(client.get("/created").send().await.unwrap().status(), 403);
    let down = client.get("/down").send().await.unwrap();
    assert!(down.text().await.unwrap().starts_with("SINEW-E052 external_denied; unavailable: "));
}
