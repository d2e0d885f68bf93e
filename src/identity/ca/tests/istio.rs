//! istiod, as `istio.v1.auth` has it.

use std::{convert::Infallible, fs};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::*;

/// The messages, written here a second time so that a wrong number is seen.
#[derive(Clone, PartialEq, Message)]
struct Question {
    #[prost(string, tag = "1")]
    csr: String,
    #[prost(int64, tag = "3")]
    seconds: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(string, repeated, tag = "1")]
    chain: Vec<String>,
}

type Said = Arc<Mutex<Vec<(String, i64)>>>;

/// Signs for whom the token names.
fn istiod(root: Arc<Authority>, names: Arc<Authority>, said: Said) -> Connect {
    through(move |io| {
        let (root, names, said) = (Arc::clone(&root), Arc::clone(&names), Arc::clone(&said));
        async move {
            let acceptor = acceptor(&root, "istiod.istio-system.svc", b"h2", false);
            let Ok(stream) = acceptor.accept(io).await else { return };
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (names, said) = (Arc::clone(&names), Arc::clone(&said));
                async move {
                    assert_eq!(request.uri().path(), "/istio.v1.auth.IstioCertificateService/CreateCertificate");
                    assert_eq!(request.headers()["clusterid"], "Kubernetes");
                    let token = request.headers()["authorization"].to_str().unwrap().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let question = Question::decode(&body[5..]).unwrap();
                    said.lock().unwrap().push((token.clone(), question.seconds));
                    let mut trailers = HeaderMap::new();
                    if token != "Bearer second" {
                        trailers.insert("grpc-status", HeaderValue::from(16));
                        trailers.insert("grpc-message", HeaderValue::from_static("no such token"));
                    } else {
                        trailers.insert("grpc-status", HeaderValue::from(0));
                    }
                    let leaf = signed(&names, &unpem(&question.csr), ID, Duration::from_secs(3_600));
                    let chain = vec![pem("CERTIFICATE", &leaf), pem("CERTIFICATE", &names.cert)];
                    let answer = Answer { chain }.encode_to_vec();
                    let mut frame = BytesMut::new();
                    frame.put_u8(0);
                    frame.put_u32(answer.len() as u32);
                    frame.put_slice(&answer);
                    let body = Full::new(Bytes::from(frame)).with_trailers(async move { Some(Ok(trailers)) });
                    let answer = Response::builder().header("content-type", "application/grpc");
                    Ok::<_, Infallible>(answer.body(body).unwrap())
                }
            });
            let executor = TokioExecutor::new();
            let _ = hyper::server::conn::http2::Builder::new(executor)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn token_and_root_are_read_for_each_request_and_the_chain_ends_with_the_root() {
    let (root, other) = (Arc::new(authority("root", |_| {})), authority("other", |_| {}));
    let signing = Arc::new(authority("signing", |_| {}));
    let directory = tempfile::tempdir().unwrap();
    let (token, file) = (directory.path().join("token"), directory.path().join("root.pem"));
    fs::write(&file, pem("CERTIFICATE", &other.cert)).unwrap();
    let said = Said::default();
    let settings = IstioSettings {
        server_name: "istiod.istio-system.svc".into(),
        root: file.clone(),
        token: token.clone(),
        cluster_id: "Kubernetes".into(),
    };
    let connect = istiod(Arc::clone(&root), Arc::clone(&signing), Arc::clone(&said));
    let member = Member::of(IstioAuthority::new(settings, connect, default_provider().unwrap()).unwrap());
    member.trouble("token`").await;
    fs::write(&token, "first\n").unwrap();
    member.trouble("UnknownIssuer").await;
    assert_eq!(said.lock().unwrap().len(), 0, "a token goes to whom the root vouches for, and to nobody else");
    fs::write(&file, pem("CERTIFICATE", &root.cert)).unwrap();
    member.trouble("no such token").await;
    fs::write(&token, "second\n").unwrap();
    member.generation(1).await;
    assert_eq!(member.identity.own().unwrap().id().as_str(), ID);
    assert_eq!(member.trusts(), 2, "the file's and the chain's");
    assert_eq!(said.lock().unwrap().last(), Some(&("Bearer second".to_owned(), 3_600)));
    // The roots in the file change, and no certificate is asked for.
    fs::write(&file, pem("CERTIFICATE", &root.cert) + &pem("CERTIFICATE", &other.cert)).unwrap();
    let asked = said.lock().unwrap().len();
    member.generation(2).await;
    assert_eq!((member.trusts(), said.lock().unwrap().len()), (3, asked));
}
