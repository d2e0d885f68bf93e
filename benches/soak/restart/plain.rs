//! A client as load generators are: keeps its HTTP/1.1 connection until it is told `connection: close`, and repeats
//! nothing.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, header::CONNECTION};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::Mutex};

/// One connection, made again when it was closed by the server's word.
#[derive(Clone)]
pub(crate) struct Kept {
    addr: SocketAddr,
    open: Arc<Mutex<Option<SendRequest<Empty<Bytes>>>>>,
}

impl Kept {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self { addr, open: Arc::default() }
    }

    pub(crate) async fn call(self) -> Result<(), String> {
        let mut open = self.open.lock().await;
        let mut send = match open.take() {
            Some(send) => send,
            None => connect(self.addr).await?,
        };
        send.ready().await.map_err(|error| format!("closed without a word: {error:?}"))?;
        let request = Request::get("/").header("host", "s").body(Empty::new()).unwrap();
        let response = send.send_request(request).await.map_err(|error| format!("{error:?}"))?;
        let close = response.headers().get(CONNECTION).is_some_and(|value| value == "close");
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
        if !close {
            *open = Some(send);
        }
        if status == 200 && body == "ok" { Ok(()) } else { Err(format!("{status}: {body:?}")) }
    }
}

async fn connect(addr: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, String> {
    let stream = TcpStream::connect(addr).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("{error:?}"))?;
    tokio::spawn(connection);
    Ok(send)
}
