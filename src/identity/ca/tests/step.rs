//! step-ca, as its API has it.

use std::{convert::Infallible, fs, sync::atomic::AtomicBool};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::*;
use crate::identity::provider::fingerprint;

/// What it was asked, and whether it renews.
#[derive(Default)]
struct Seen {
    asked: Mutex<Vec<String>>,
    forbids: AtomicBool,
    key: Mutex<Option<Vec<u8>>>,
}

fn step_ca(root: Arc<Authority>, seen: Arc<Seen>) -> Connect {
    through(move |io| {
        let (root, seen) = (Arc::clone(&root), Arc::clone(&seen));
        async move {
            let acceptor = acceptor(&root, "ca.example", b"http/1.1", true);
            let Ok(stream) = acceptor.accept(io).await else { return };
            let shown = stream.get_ref().1.peer_certificates().map(<[_]>::len);
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (root, seen) = (Arc::clone(&root), Arc::clone(&seen));
                async move {
                    let path = request.uri().path().to_owned();
                    let method = request.method().to_string();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    seen.asked.lock().unwrap().push(format!("{method} {path} {shown:?}"));
                    let cert = |der: &[u8]| Value::from(pem("CERTIFICATE", der));
                    let mut status = 201;
                    let answer = match &*path {
                        "/1.0/sign" => {
                            let question: Value = serde_json::from_slice(&body).unwrap();
                            assert_eq!(question["notAfter"], "3600s");
                            assert!(question["ott"].as_str().unwrap().contains('.'));
                            let request = unpem(question["csr"].as_str().unwrap());
                            assert!(request.windows(5).any(|part| part == b"web-1"), "the subject of the token");
                            let leaf = signed(&root, &request, ID, Duration::from_secs(3_600));
                            *seen.key.lock().unwrap() = Some(request);
                            json!({ "crt": cert(&leaf), "ca": cert(&root.cert), "certChain": [cert(&leaf)] })
                        }
                        "/1.0/renew" if seen.forbids.load(SeqCst) => {
                            status = 401;
                            json!({ "status": 401, "message": "renewal is disabled" })
                        }
                        "/1.0/renew" => {
                            let request = seen.key.lock().unwrap().clone().unwrap();
                            let leaf = signed(&root, &request, ID, Duration::from_secs(3_600));
                            json!({ "crt": cert(&leaf), "ca": cert(&root.cert), "certChain": [cert(&leaf)] })
                        }
                        "/1.0/roots" => json!({ "crts": [cert(&root.cert)] }),
                        path if path.starts_with("/root/") => json!({ "ca": cert(&root.cert) }),
                        path => unreachable!("{path}"),
                    };
                    let answer = Response::builder().status(status).body(Full::new(Bytes::from(answer.to_string())));
                    Ok::<_, Infallible>(answer.unwrap())
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    })
}

fn client(connect: Connect, root: StepTrust, token: &std::path::Path) -> StepAuthority {
    let settings = StepSettings { server_name: "ca.example".into(), root, token: token.to_owned() };
    StepAuthority::new(settings, connect, default_provider().unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_token_for_the_first_certificate_and_the_certificate_for_the_next() {
    let root = Arc::new(authority("root", |_| {}));
    let seen = Arc::new(Seen::default());
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"web-1","sans":["spiffe://a.example/ns/default/sa/web"]}"#);
    fs::write(&token, format!("e30.{claims}.c2ln\n")).unwrap();
    let hash = fingerprint(&default_provider().unwrap(), &root.cert).unwrap();
    let connect = step_ca(Arc::clone(&root), Arc::clone(&seen));
    let member = Member::of(client(connect, StepTrust::Fingerprint(hash), &token));
    member.generation(1).await;
    let first = member.identity.own().unwrap();
    // Used up, as tokens are.
    fs::remove_file(&token).unwrap();
    member.generation(2).await;
    let second = member.identity.own().unwrap();
    assert!(first != second && first.key.key.public_key() == second.key.key.public_key());
    let asked = std::mem::take(&mut *seen.asked.lock().unwrap());
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        asked[..3],
        [format!("GET /root/{digits} None"), "POST /1.0/sign None".into(), "GET /1.0/roots None".into()]
    );
    let renewed = asked.iter().find(|asked| asked.contains("renew")).unwrap();
    assert_eq!(renewed, "POST /1.0/renew Some(1)", "by the certificate that it replaces");
    // Where renewal is forbidden, a token is needed again.
    seen.forbids.store(true, SeqCst);
    member.trouble("token`").await;
    fs::write(&token, format!("e30.{claims}.c2ln\n")).unwrap();
    member.generation(3).await;
    assert_ne!(member.identity.own().unwrap().key.key.public_key(), second.key.key.public_key());
}

#[tokio::test(start_paused = true)]
async fn a_root_of_another_fingerprint_is_told_no_token() {
    let root = Arc::new(authority("root", |_| {}));
    let seen = Arc::new(Seen::default());
    let connect = step_ca(root, Arc::clone(&seen));
    let token = tempfile::NamedTempFile::new().unwrap();
    let member = Member::of(client(connect, StepTrust::Fingerprint([7; 32]), token.path()));
    member.trouble("`fingerprint`").await;
    assert!(seen.asked.lock().unwrap().iter().all(|asked| asked.starts_with("GET /root/")));
}

#[tokio::test(start_paused = true)]
async fn a_root_in_a_file_is_as_good() {
    let root = Arc::new(authority("root", |_| {}));
    let connect = step_ca(Arc::clone(&root), Arc::default());
    let directory = tempfile::tempdir().unwrap();
    let (token, file) = (directory.path().join("token"), directory.path().join("root.pem"));
    fs::write(&token, "nonsense").unwrap();
    fs::write(&file, pem("CERTIFICATE", &authority("other", |_| {}).cert)).unwrap();
    let member = Member::of(client(connect, StepTrust::File(file.clone()), &token));
    member.trouble("no JWT").await;
    fs::write(&token, format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(r#"{"sub":"web-1"}"#))).unwrap();
    member.trouble("UnknownIssuer").await;
    fs::write(&file, pem("CERTIFICATE", &root.cert)).unwrap();
    member.generation(1).await;
}
