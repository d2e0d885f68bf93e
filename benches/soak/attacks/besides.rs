//! What is bad besides the connections: an issuer whose keys drip, a configuration that changes all the time.

use std::{convert::Infallible, fmt::Write, path::Path, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{io::AsyncWriteExt, net::TcpListener};
use tokio_rustls::TlsAcceptor;

/// By `ES256`, key `k`, of `https://issuer.example` for `attacked`, until 2100; signed by nobody.
pub(crate) const TOKEN: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.\
    eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoiYXR0YWNrZWQiLCJleHAiOjQxMDI0NDQ4MDB9.\
    AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ";

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Besides {
    Nothing,
    Issuer,
    Rules,
}

/// An issuer on a free port whose key set is a byte every 100 ms; `roots` is where who dials it finds whom to trust. Returns the
/// policy that names it.
pub(crate) async fn issuer(roots: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(roots, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut io = acceptor.accept(io).await?;
                io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await?;
                loop {
                    io.write_all(b" ").await?;
                    io.flush().await?;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                #[allow(unreachable_code, reason = "names the error")]
                Ok::<_, std::io::Error>(())
            });
        }
    });
    format!(
        "inbound: {{authn: {{jwt: [{{issuer: \"https://issuer.example\", audiences: [attacked], \
         jwks_uri: \"https://{addr}/keys\", jwks_networks: 127.0.0.0/8}}]}}}}\n"
    )
}

/// Writes other rules twice a second: as many as a document may have, and every other time more than that.
pub(crate) async fn rules(file: &Path, config: &str) -> Infallible {
    for turn in 0_usize.. {
        let mut text = format!("{config}inbound:\n  authz:\n    allow: [{{}}]\n    deny:\n");
        for rule in 0..[1_800, 10_000][turn % 2] {
            writeln!(text, "    - {{ name: r{rule}, paths: /{turn}/{rule} }}").unwrap();
        }
        let new = file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, file).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    unreachable!("turns do not end")
}
