//! Calls through the five layers, or through none: `five (five|bare) TURNS`. Built by the gate, and nothing else.

#![allow(dead_code, missing_docs)]

#[path = "../../../../benches/support/five.rs"]
mod five;

use std::{env, fmt::Debug, hint::black_box};

use http::Request;
use sinew::Body;
use tower::{Service, ServiceExt};

async fn call<S>(mut service: S, turns: u32)
where
    S: Service<Request<Body>, Error: Debug>,
{
    for _ in 0..turns {
        let ready = service.ready().await.expect("it is ready");
        drop(black_box(ready.call(Request::new(Body::empty())).await.expect("it answers")));
    }
}

fn main() {
    let args: Vec<String> = env::args().collect();
    let turns: u32 = args[2].parse().expect("a number of calls");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(tokio::task::unconstrained(async {
        match args[1].as_str() {
            "five" => call(five::five(), turns).await,
            "bare" => call(tower::service_fn(five::bare), turns).await,
            layers => panic!("there is no {layers}"),
        }
    }));
}
