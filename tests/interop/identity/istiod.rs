//! Istio's own authority, with a real Kubernetes API server behind it to vouch for tokens.

use std::{
    process::{Command, Stdio},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use sinew::{
    ResponseExt,
    model::{AuthorityKind, AuthoritySpec, IstioCa},
};

use super::*;
use crate::peer::{Running, peer};

/// Kubernetes without a cluster: its API server over etcd.
struct Kubernetes {
    api: String,
    _running: [Running; 2],
}

async fn output(command: Command) -> String {
    let mut command = command;
    let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().unwrap()).await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Kubernetes {
    async fn start(world: &World, etcd: &Path, apiserver: &Path, openssl: &Path) -> Self {
        let (clients, peers, secure) = (port(), port(), port());
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (log, folder) = (world.path("etcd.log"), world.path("etcd"));
        let etcd = Running::logged(
            etcd,
            &[
                "--data-dir",
                &folder,
                "--listen-client-urls",
                &url(clients),
                "--advertise-client-urls",
                &url(clients),
                "--listen-peer-urls",
                &url(peers),
                "--initial-advertise-peer-urls",
                &url(peers),
                "--initial-cluster",
                &format!("default={}", url(peers)),
            ],
            Path::new(&log),
        );
        let (key, public) = (world.path("sa.key"), world.path("sa.pub"));
        for args in [vec!["genrsa", "-out", &key, "2048"], vec!["rsa", "-in", &key, "-pubout", "-out", &public]] {
            let mut command = Command::new(openssl);
            command.args(args);
            output(command).await;
        }
        world.write("tokens.csv", "TOKEN,admin,admin,\"system:masters\"\n");
        let log = world.path("kube.log");
        let args = [
            format!("--etcd-servers={}", url(clients)),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={secure}"),
            format!("--cert-dir={}", world.path("certs")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={public}"),
            format!("--service-account-signing-key-file={key}"),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            format!("--token-auth-file={}", world.path("tokens.csv")),
            "--authorization-mode=RBAC".into(),
            "--disable-admission-plugins=ServiceAccount".into(),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let apiserver = Running::logged(apiserver, &args, Path::new(&log));
        let kubernetes = Self { api: format!("https://127.0.0.1:{secure}"), _running: [etcd, apiserver] };
        let begun = Instant::now();
        while kubernetes.ask("/readyz", None).await != "ok" {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(120), "the API server is not ready: {}", said());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        kubernetes
    }

    /// What the API answers to a GET, or to a POST of a document and its type.
    async fn ask(&self, path: &str, document: Option<(&str, &str)>) -> String {
        let mut command = Command::new("curl");
        command.args(["-sk", "-H", "Authorization: Bearer TOKEN"]);
        if let Some((kind, document)) = document {
            command.args(["-H", &format!("Content-Type: application/{kind}"), "--data-binary", document]);
        }
        command.arg(format!("{}{path}", self.api));
        output(command).await
    }

    async fn create(&self, path: &str, document: &str) {
        let answer = self.ask(path, Some(("json", document))).await;
        assert!(!answer.contains("\"Failure\""), "{path}: {answer}");
    }

    /// A token of a service account of the namespace `shop`, for Istio's authority.
    async fn token(&self, account: &str) -> String {
        let path = format!("/api/v1/namespaces/shop/serviceaccounts/{account}/token");
        let asked = r#"{"spec":{"audiences":["istio-ca"],"expirationSeconds":3600}}"#;
        let answer: Value = serde_json::from_str(&self.ask(&path, Some(("json", asked))).await).unwrap();
        answer["status"]["token"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istiod_signs_for_the_service_account_of_a_token() {
    let peers = (peer("istiod"), peer("kube-apiserver"), peer("etcd"), peer("openssl"));
    let (Some(istiod), Some(apiserver), Some(etcd), Some(openssl)) = peers else { return };
    let world = World::new();
    let kubernetes = Kubernetes::start(&world, &etcd, &apiserver, &openssl).await;
    for name in ["istio-system", "shop"] {
        kubernetes.create("/api/v1/namespaces", &format!(r#"{{"metadata":{{"name":"{name}"}}}}"#)).await;
    }
    for name in ["server", "caller"] {
        let path = "/api/v1/namespaces/shop/serviceaccounts";
        kubernetes.create(path, &format!(r#"{{"metadata":{{"name":"{name}"}}}}"#)).await;
    }
    // It waits for its own kinds of resources; they lie beside it.
    let kinds = std::fs::read_to_string(istiod.parent().unwrap().join("istiod-crds.yaml")).unwrap();
    for kind in kinds.split("\n---\n").filter(|kind| kind.contains("kind: CustomResourceDefinition")) {
        let file = world.write("crd.yaml", kind).display().to_string();
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let answer = kubernetes.ask(path, Some(("yaml", &format!("@{file}")))).await;
        assert!(!answer.contains("\"Failure\""), "{answer}");
    }
    let config = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: k, cluster: {{server: \"{}\", insecure-skip-tls-verify: \
         true}}}}]\nusers: [{{name: a, user: {{token: TOKEN}}}}]\ncontexts: [{{name: c, context: {{cluster: k, user: \
         a}}}}]\ncurrent-context: c\n",
        kubernetes.api
    );
    world.write("kubeconfig", &config);
    world.write("mesh.yaml", "defaultConfig: {}\n");
    let (http, secure, log) = (port(), port(), world.path("istiod.log"));
    let local = |port: u16| format!("127.0.0.1:{port}");
    let mut command = Command::new(&istiod);
    command
        .current_dir(world.dir.path())
        .env("POD_NAME", "istiod-0")
        .env("POD_NAMESPACE", "istio-system")
        .env("ENABLE_LEADER_ELECTION", "false")
        .args(["discovery", "--kubeconfig", "kubeconfig", "--meshConfig", "mesh.yaml", "--networksConfig", ""])
        .args(["--grpcAddr", &local(port()), "--httpAddr", &local(http), "--httpsAddr", ""])
        .args(["--secureGRPCAddr", &local(secure), "--monitoringAddr", &local(port())]);
    let running = Running::with(&mut command, Path::new(&log));
    listens(secure, "istiod", Path::new(&log)).await;
    let begun = Instant::now();
    let root = loop {
        let secret = kubernetes.ask("/api/v1/namespaces/istio-system/secrets/istio-ca-secret", None).await;
        let secret: Value = serde_json::from_str(&secret).unwrap_or_default();
        if let Some(root) = secret["data"]["ca-cert.pem"].as_str() {
            break STANDARD.decode(root).unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "istiod makes no root");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    world.write("istio-root.pem", std::str::from_utf8(&root).unwrap());

    let member = async |name: &str| {
        let mut ca = IstioCa::default();
        ca.address = local(secure).into();
        ca.server_name = Some("istiod.istio-system.svc".into());
        ca.root = world.dir.path().join("istio-root.pem");
        ca.token = world.write(&format!("{name}.token"), &kubernetes.token(name).await);
        let mut spec = AuthoritySpec::new(AuthorityKind::Istio(ca));
        spec.lifetime = Some(HOUR);
        Mesh::builder(name).namespace("shop").identity(IdentitySource::Ca(Arc::new(spec)), "cluster.local")
    };
    let served = Served::start(member("server").await.build().await.unwrap()).await;
    let server = "spiffe://cluster.local/ns/shop/sa/server".parse().unwrap();
    let client = member("caller")
        .await
        .service("server", |service| service.endpoints([served.addr.to_string()]).identities([server]));
    let client = client.build().await.unwrap();
    let said = |mesh: &Mesh| format!("{:?} {}", mesh.status().identity, std::fs::read_to_string(&log).unwrap());
    let begun = Instant::now();
    while [&served.mesh, &client].iter().any(|mesh| mesh.status().identity.unwrap().id.is_none()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "no certificate: {}", said(&client));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let response = client.client("server").get("/who").send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "spiffe://cluster.local/ns/shop/sa/caller");
    let expires = client.status().identity.unwrap().expires.unwrap();
    assert!(expires < std::time::SystemTime::now() + HOUR, "the lifetime that was asked for");
    // A token that nobody issued.
    let stranger = member("caller").await;
    world.write("caller.token", "e30.e30.e30");
    let stranger = stranger.build().await.unwrap();
    until("it is refused", || stranger.status().identity.unwrap().error.is_some()).await;
    let identity = stranger.status().identity.unwrap();
    assert!(identity.id.is_none() && identity.error.unwrap().contains("Unauthenticated"));
    served.stop().await;
    drop(running);
}
