//! OpenSSL's `s_client` as a caller.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use super::*;
use crate::peer::{peer, text};

/// What `s_client` says when it asks who it is.
async fn asks(program: &Path, addr: std::net::SocketAddr, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(["s_client", "-connect", &addr.to_string(), "-tls1_3", "-alpn", "http/1.1", "-ign_eof"]).args(args);
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let request = b"GET /who HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n";
        // It may be gone already, refused.
        let _ = child.stdin.take().unwrap().write_all(request);
        child.wait_with_output().unwrap()
    });
    text(&output.await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_calls_us_with_its_identity_and_not_without() {
    let Some(program) = peer("openssl") else { return };
    let world = World::new();
    let served = Served::start(world.builder("server", &["server.example"]).build().await.unwrap()).await;
    world.member("caller", &[]);
    let (root, cert, key) = (world.path("root.pem"), world.path("caller.pem"), world.path("caller.key"));
    let verify = ["-CAfile", &root, "-verify_return_error", "-verify_hostname", "server.example"];
    let said = asks(&program, served.addr, &[&verify[..], &["-cert", &cert, "-key", &key]].concat()).await;
    assert!(said.contains("HTTP/1.1 200") && said.contains(&id("caller")), "{said}");
    assert!(said.contains("Verify return code: 0 (ok)") && said.contains("ALPN protocol: http/1.1"), "{said}");

    let said = asks(&program, served.addr, &verify).await;
    assert!(said.contains("alert certificate required") && !said.contains("HTTP/1.1"), "{said}");

    // Of its own making, and of another trust domain.
    let other = Root::new("other");
    for (name, leaf) in [
        ("stranger", other.leaf(&id("caller"), &[], HOUR)),
        ("foreigner", world.root.leaf("spiffe://other.example/caller", &[], HOUR)),
        ("ended", world.root.ended(&id("caller"))),
    ] {
        let cert = world.write(&format!("{name}.pem"), &pem("CERTIFICATE", &leaf.cert)).display().to_string();
        let key = world.write(&format!("{name}.key"), &pem("PRIVATE KEY", &leaf.key)).display().to_string();
        let said = asks(&program, served.addr, &[&verify[..], &["-cert", &cert, "-key", &key]].concat()).await;
        let alert = if name == "ended" { "alert certificate expired" } else { "alert" };
        assert!(said.contains(alert) && !said.contains("HTTP/1.1"), "{name}: {said}");
    }
    // TLS 1.2 is not for the mesh.
    let mut command = Command::new(&program);
    command.args(["s_client", "-connect", &served.addr.to_string(), "-tls1_2", "-cert", &cert, "-key", &key]);
    let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().unwrap()).await.unwrap();
    assert!(text(&output).contains("alert protocol version"), "{}", text(&output));
    served.stop().await;
}
