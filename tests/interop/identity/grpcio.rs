//! gRPC's C core as a caller. It checks DNS names, so that our server's certificate carries one beside its identity.

use super::*;
use crate::peer::{peer, run, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcio_calls_us_with_its_identity_and_not_with_a_strangers() {
    let Some(python) = peer("grpcio") else { return };
    let world = World::new();
    let served = Served::start(world.builder("server", &["server.example"]).build().await.unwrap()).await;
    world.member("caller", &[]);
    let stranger = Root::new("other").leaf(&id("caller"), &[], HOUR);
    world.write("stranger.pem", &pem("CERTIFICATE", &stranger.cert));
    world.write("stranger.key", &pem("PRIVATE KEY", &stranger.key));
    let script = format!("{}/tests/interop/identity/client.py", env!("CARGO_MANIFEST_DIR"));
    let call = async |who: &str, text_sent: &str| {
        let (cert, key) = (world.path(&format!("{who}.pem")), world.path(&format!("{who}.key")));
        let address = served.addr.to_string();
        let args = [&script, &address, "server.example", &world.path("root.pem"), &cert, &key, text_sent];
        text(&run(python.clone(), args.iter().map(|arg| (*arg).to_owned()).collect()).await)
    };
    let said = call("caller", "hi").await;
    assert!(said.contains("v1: hi"), "{said}");
    let said = call("caller", "status:9").await;
    assert!(said.contains("FAILED_PRECONDITION"), "{said}");
    let said = call("stranger", "hi").await;
    assert!(said.contains("UNAVAILABLE"), "{said}");
    served.stop().await;
}
