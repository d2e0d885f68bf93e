//! Bodies stream with back-pressure in both directions, over every protocol.

use axum::{
    Router,
    body::Body as AxumBody,
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use sinew::Body;
use tokio_stream::StreamExt;

use crate::world::{Instance, mesh};

const CHUNK: usize = 64 * 1024;

fn chunks(count: usize) -> impl tokio_stream::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
    let chunk = Bytes::from(vec![7u8; CHUNK]);
    tokio_stream::iter(0..count).map(move |_| Ok(chunk.clone()))
}

fn app() -> Router {
    Router::new()
        .route("/down", get(|| async { AxumBody::from_stream(chunks(256)) }))
        .route(
            "/up",
            post(|body: AxumBody| async move {
                let mut data = body.into_data_stream();
                let mut total = 0usize;
                while let Some(chunk) = data.next().await {
                    total += chunk.unwrap().len();
                }
                total.to_string()
            }),
        )
        .route("/echo", post(|body: AxumBody| async move { body }))
}

async fn passes(protocol: &str) {
    let instance = Instance::start("s", "127.0.0.1:0", app()).await;
    let yaml =
        format!("services: {{ s: {{ protocol: {protocol}, endpoints: {{ static: [\"{}\"] }} }} }}", instance.addr);
    let mesh = mesh(&yaml).await;
    let client = mesh.client("s");
    let mut body = client.get("/down").send().await.unwrap().into_body();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        total += frame.unwrap().into_data().map_or(0, |data| data.len());
    }
    assert_eq!(total, 256 * CHUNK);
    let upload = Body::new(StreamBody::new(chunks(256).map(|chunk| chunk.map(http_body::Frame::data))));
    let response = client.post("/up").body(upload).send().await.unwrap();
    assert_eq!(sinew::ResponseExt::text(response).await.unwrap(), (256 * CHUNK).to_string());
    let both = Body::new(StreamBody::new(chunks(64).map(|chunk| chunk.map(http_body::Frame::data))));
    let echoed = client.post("/echo").body(both).send().await.unwrap();
    assert_eq!(echoed.into_body().collect().await.unwrap().to_bytes().len(), 64 * CHUNK);
    instance.stop().await;
}

#[tokio::test]
async fn over_http2() {
    passes("http2").await;
}

#[tokio::test]
async fn over_http1() {
    passes("http1").await;
}
