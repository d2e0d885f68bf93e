//! 1 GiB through both stacks, in both directions, at bounded memory.
//!
//! ```text
//! cargo bench --bench soak_body                  # 1 GiB each
//! cargo bench --bench soak_body -- --test        # 64 MiB each
//! cargo bench --bench soak_body -- --seconds 60  # again and again
//! ```
//!
//! Client and server share the process, so the growth printed is that of both.

mod support;

use std::{convert::Infallible, process::ExitCode, time::Duration};

use axum::{
    Router,
    body::Body as AxumBody,
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use sinew::{Body, Client, Mesh};
use tokio::time::Instant;
use tokio_stream::StreamExt;

use self::support::{Checks, Instance, Options, Peak, any, mib, resident};

const CHUNK: usize = 64 * 1024;
const MOST: u64 = 64 * 1024 * 1024;

fn chunks(bytes: usize) -> impl tokio_stream::Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    // Made anew each time, as an application would: shared bytes would hide what is held.
    tokio_stream::iter(0..bytes / CHUNK).map(|n| Ok(Bytes::from(vec![n as u8; CHUNK])))
}

fn app(bytes: usize) -> Router {
    Router::new()
        .route("/down", get(move || async move { AxumBody::from_stream(chunks(bytes)) }))
        .route("/up", post(|body: AxumBody| async move { drain(body).await.to_string() }))
}

async fn drain<B>(mut body: B) -> usize
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
{
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        total += frame.unwrap().into_data().map_or(0, |data| data.len());
    }
    total
}

async fn down(client: &Client) -> usize {
    drain(client.get("/down").send().await.unwrap().into_body()).await
}

async fn up(client: &Client, bytes: usize) -> usize {
    let body = Body::new(StreamBody::new(chunks(bytes).map(|chunk| chunk.map(http_body::Frame::data))));
    let response = client.post("/up").timeout(Duration::from_secs(3600)).body(body).send().await.unwrap();
    sinew::ResponseExt::text(response).await.unwrap().parse().unwrap()
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse(0.0, 0.0);
    let bytes = if options.short { 64 << 20 } else { 1 << 30 };
    let mut checks = Checks::default();
    let end = Instant::now() + options.duration();
    loop {
        for protocol in ["http1", "http2"] {
            let server = Mesh::builder("s").build().await.unwrap();
            let instance = Instance::start(server, any(), app(bytes)).await;
            let yaml = format!(
                "services: {{ s: {{ protocol: {protocol}, endpoints: {{ static: [\"{}\"] }} }} }}",
                instance.addr
            );
            let mesh = Mesh::builder("c").config_str(&yaml).build().await.unwrap();
            let client = mesh.client("s");
            client.wait_ready(Duration::from_secs(5)).await.unwrap();
            for direction in ["down", "up"] {
                let (before, peak, begun) = (resident(), Peak::watch(), Instant::now());
                let moved = if direction == "down" { down(&client).await } else { up(&client, bytes).await };
                let (took, grown) = (begun.elapsed().as_secs_f64(), peak.end().saturating_sub(before));
                println!(
                    "{protocol} {direction}: {:.0} MiB in {took:.2} s, {:.0} MiB/s, memory grew by {:.1} MiB",
                    mib(moved as u64),
                    mib(moved as u64) / took,
                    mib(grown)
                );
                checks.hold(moved == bytes, || format!("{protocol} {direction}: {moved} of {bytes} bytes arrived"));
                checks.hold(grown < MOST, || format!("{protocol} {direction}: memory grew by {:.1} MiB", mib(grown)));
            }
            instance.stop().await;
        }
        if Instant::now() >= end {
            return checks.finish();
        }
    }
}
