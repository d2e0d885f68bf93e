//! step-ca as the authority of a mesh: the first certificate by a token, the next ones by renewal.

use std::{fmt::Write, sync::Arc, time::SystemTime};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sinew::{
    ResponseExt,
    model::{AuthorityKind, AuthoritySpec, StepCa, StepRoot},
};

use super::*;
use crate::peer::{Running, peer};

/// A key that signs tokens.
pub(super) struct Signer {
    key: EcdsaKeyPair,
}

impl Signer {
    pub(super) fn new() -> Self {
        Self { key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    /// Its public half.
    pub(super) fn jwk(&self, kid: &str) -> Value {
        let point = &self.key.public_key().as_ref()[1..];
        let half = |half: &[u8]| URL_SAFE_NO_PAD.encode(half);
        json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": half(&point[..32]), "y": half(&point[32..]) })
    }

    pub(super) fn token(&self, kid: &str, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": kid, "typ": "JWT" });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Seconds since 1970.
pub(super) fn unix() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn step_ca_signs_by_a_token_and_then_renews() {
    let Some(program) = peer("step-ca") else { return };
    let world = World::new();
    let (port, signer) = (port(), Signer::new());
    let (cert, key) = world.root.signer("step intermediate");
    world.write("ca.pem", &pem("CERTIFICATE", &cert));
    world.write("ca.key", &pem("PRIVATE KEY", &key));
    let configuration = json!({
        "root": world.path("root.pem"),
        "crt": world.path("ca.pem"),
        "key": world.path("ca.key"),
        "address": format!("127.0.0.1:{port}"),
        "dnsNames": ["127.0.0.1"],
        "logger": { "format": "text" },
        "authority": {
            "backdate": "1s",
            "provisioners": [{
                "type": "JWK",
                "name": "interop",
                "key": signer.jwk("interop"),
                "claims": {
                    "minTLSCertDuration": "1s",
                    "maxTLSCertDuration": "1h",
                    "defaultTLSCertDuration": "12s",
                },
            }],
        },
    });
    let file = world.write("ca.json", &configuration.to_string()).display().to_string();
    let log = world.path("step.log");
    let step = Running::logged(&program, &[&file], Path::new(&log));
    listens(port, "step-ca", Path::new(&log)).await;

    let member = |name: &str| {
        let now = unix();
        let claims = json!({
            "iss": "interop", "aud": format!("https://127.0.0.1:{port}/1.0/sign"), "sub": name, "sans": [id(name)],
            "iat": now, "nbf": now - 5, "exp": now + 300, "jti": format!("{name}-{now}"),
        });
        let token = world.write(&format!("{name}.token"), &signer.token("interop", &claims));
        let hash = digest(&SHA256, &world.root.cert).as_ref().try_into().unwrap();
        let ca = StepCa::new(format!("127.0.0.1:{port}"), StepRoot::Fingerprint(hash), token);
        let spec = AuthoritySpec::new(AuthorityKind::Step(ca));
        Mesh::builder(name).identity(IdentitySource::Ca(Arc::new(spec)), DOMAIN)
    };
    let served = Served::start(member("server").build().await.unwrap()).await;
    let client = member("caller").service("server", |service| service.endpoints([served.addr.to_string()]));
    let client = client.build().await.unwrap();
    let said = || {
        let mut all = std::fs::read_to_string(&log).unwrap_or_default();
        let _ = write!(all, "{:?} {:?}", served.mesh.status().identity, client.status().identity);
        all
    };
    let identity = |mesh: &Mesh| mesh.status().identity.unwrap();
    let begun = Instant::now();
    while [&served.mesh, &client].iter().any(|mesh| identity(mesh).id.is_none()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "no certificate: {}", said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for name in ["server", "caller"] {
        std::fs::remove_file(world.path(&format!("{name}.token"))).unwrap();
    }
    // The server listened before it had a certificate, and may have been asked then.
    client
        .client("server")
        .wait_ready(Duration::from_secs(10))
        .await
        .unwrap_or_else(|error| panic!("{error:?}: {}", said()));
    // Calls all the while, until both are renewed.
    while identity(&client).generation < 2 || identity(&served.mesh).generation < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "not renewed: {}", said());
        let response = client.client("server").get("/who").send().await;
        let response = response.unwrap_or_else(|error| panic!("{error:?}: {}", said()));
        assert_eq!(response.text().await.unwrap(), id("caller"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(identity(&client).error, None, "{}", said());
    served.stop().await;
    drop(step);
}
