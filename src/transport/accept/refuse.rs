//! The answer to plaintext where mutual TLS is asked for.
//!
//! A closed socket says nothing; whoever sees a status, a code and a cure knows what to change. The answer is written by
//! hand: nothing of the request is parsed beyond its end, because nothing of it will be served.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::sniff::{Sniffed, Sniffer};
use crate::{error::Code, rt, transport::Io};

/// How long the peer may take for the head of its request, and for taking the answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most that is read of a request which is refused.
const MAX_HEAD: usize = 16 * 1024;

const CURE: &str = "plaintext reached a port that asks for mutual TLS: call it through the mesh (`tls: mesh`), or set \
                    `mtls: permissive` at the server while you migrate";

/// Answers and closes.
pub(super) async fn plaintext(mut io: Box<dyn Io>) {
    let _ = rt::timeout(PATIENCE * 2, answer(&mut *io)).await;
}

async fn answer(io: &mut dyn Io) -> std::io::Result<()> {
    let mut sniffer = Sniffer::new();
    match sniffer.sniff(io).await? {
        Sniffed::Gone => return Ok(()),
        Sniffed::Http2 => io.write_all(&goaway()).await?,
        Sniffed::Http1 => {
            // The head is read to its end, since closing with unread bytes resets the connection under the answer.
            let mut head = Vec::from(sniffer.into_bytes());
            let whole = async {
                while head.len() < MAX_HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    if io.read_buf(&mut head).await? == 0 {
                        break;
                    }
                }
                std::io::Result::Ok(())
            };
            if let Some(result) = rt::timeout(PATIENCE, whole).await {
                result?;
            }
            io.write_all(bad_request().as_bytes()).await?;
        }
    }
    io.shutdown().await?;
    let mut rest = [0; 1024];
    while io.read(&mut rest).await? > 0 {}
    Ok(())
}

fn bad_request() -> String {
    let code = Code::TlsFailed;
    let body = format!("{code} plaintext: {CURE}\n");
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nsinew-error: {code}; \
         plaintext\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// SETTINGS, which a server must send first, and GOAWAY(HTTP_1_1_REQUIRED) with the text as debug data.
fn goaway() -> Vec<u8> {
    const HTTP_1_1_REQUIRED: u32 = 0xd;
    let text = format!("{} plaintext: {CURE}", Code::TlsFailed);
    let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = u32::try_from(8 + text.len()).unwrap_or_default();
    bytes.extend_from_slice(&length.to_be_bytes()[1..]);
    bytes.extend_from_slice(&[7, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&0u32.to_be_bytes());
    bytes.extend_from_slice(&HTTP_1_1_REQUIRED.to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(request: &[u8]) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let answered = async {
            client.write_all(request).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        tokio::join!(plaintext(Box::new(server)), answered).1
    }

    #[tokio::test]
    async fn http1_gets_a_400_with_the_code_and_the_cure() {
        let answer = String::from_utf8(told(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 ") && head.contains("sinew-error: SINEW-E014; plaintext"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())));
        assert!(body.contains("mtls: permissive"), "{body}");
    }

    #[tokio::test]
    async fn http2_gets_a_goaway_that_says_why() {
        let (client, server) = tokio::io::duplex(64 * 1024);
        tokio::spawn(plaintext(Box::new(server)));
        let (_send, connection) = h2::client::handshake(client).await.unwrap();
        let error = connection.await.unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::HTTP_1_1_REQUIRED));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_more_is_not_waited_for() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"GET / HT").await.unwrap();
        let began = rt::now();
        plaintext(Box::new(server)).await;
        assert!(began.elapsed() <= 2 * PATIENCE);
    }
}
