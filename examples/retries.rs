//! What is sent again when an instance fails, and what is not?
//!
//! Two instances serve the same thing: one answers 503 to everything, then one hangs. Calls that may be repeated do not
//! notice; a POST is sent once, because it may have been processed; and when everything fails, the budget ends the retries.
//!
//! ```text
//! cargo run --example retries
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::any};
use sinew::{Call, Mesh, ResponseExt};
use tokio::time::Instant;

type Error = Box<dyn std::error::Error>;

/// Calls seen by an instance.
type Seen = Arc<AtomicUsize>;

async fn serve(app: Router) -> Result<String, Error> {
    let mesh = Mesh::builder("stock").build().await?;
    let listener = mesh.listen("127.0.0.1:0").await?;
    let addr = listener.local_addr().to_string();
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    Ok(addr)
}

async fn failing() -> Result<(String, Seen), Error> {
    let seen = Seen::default();
    let count = Arc::clone(&seen);
    let app = Router::new().fallback(any(move || async move {
        count.fetch_add(1, Relaxed);
        StatusCode::SERVICE_UNAVAILABLE
    }));
    Ok((serve(app).await?, seen))
}

async fn mesh(service: &str) -> Result<Mesh, Error> {
    // An instance that fails would be ejected after five failures in a row: here it stays, to be seen.
    let yaml = format!("services: {{ stock: {{ outlier_detection: off, load_balancer: round_robin, {service} }} }}");
    Ok(Mesh::builder("shop").config_str(&yaml).build().await?)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let (bad, _) = failing().await?;
    let good = serve(Router::new().fallback(any(async || "12 in stock"))).await?;
    let hanging = serve(Router::new().fallback(any(std::future::pending::<()>))).await?;

    // Reading again does no harm, so a GET goes on to the instance that works.
    let shop =
        mesh(&format!("endpoints: {{ static: ['{bad}', '{good}'] }}, retry: {{ retry_on: [gateway-error] }}")).await?;
    let stock = shop.client("stock");
    stock.wait_ready(Duration::from_secs(5)).await?;
    for _ in 0..4 {
        let text = stock.get("/book").send().await?.error_for_status()?.text().await?;
        println!("read: {text}");
    }

    // An order may have been taken before the answer was lost, so it is sent once; or as often as the caller says.
    let mut refused = 0;
    for _ in 0..4 {
        refused += usize::from(stock.post("/order").body("1").send().await?.status() == 503);
    }
    println!("ordered once each: {refused} of 4 refused");
    let again = Call::new().idempotent(true);
    let mut refused = 0;
    for _ in 0..4 {
        refused += usize::from(stock.post("/order").call(again).body("1").send().await?.status() == 503);
    }
    println!("ordered by number: {refused} of 4 refused");

    // Slower than 50 ms: another instance is asked as well, and the first answer ends the other call.
    let shop = mesh(&format!(
        "endpoints: {{ static: ['{hanging}', '{good}'] }}, hedge: {{ delay: 50ms, max_extra_load_percent: 99 }}"
    ))
    .await?;
    let stock = shop.client("stock");
    stock.wait_ready(Duration::from_secs(5)).await?;
    // The share of the calls that may be hedged is saved up.
    for _ in 0..4 {
        let _ = stock.get("/book").timeout(Duration::from_millis(10)).send().await;
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..4 {
        let begun = Instant::now();
        stock.get("/book").timeout(Duration::from_secs(30)).send().await?.error_for_status()?;
        slowest = slowest.max(begun.elapsed());
    }
    println!("hedged: the slowest took less than 10 s: {}", slowest < Duration::from_secs(10));

    // Everything fails: ten retries in all, and one each ten seconds, however many calls there are.
    let (bad, seen) = failing().await?;
    let shop = mesh(&format!("endpoints: {{ static: ['{bad}'] }}, retry: {{ retry_on: [gateway-error] }}")).await?;
    let stock = shop.client("stock");
    stock.wait_ready(Duration::from_secs(5)).await?;
    let begun = Instant::now();
    for _ in 0..100 {
        stock.get("/book").send().await?;
    }
    let retries = seen.load(Relaxed) - 100;
    let bound = 10 + begun.elapsed().as_secs() as usize / 10;
    println!("100 calls of a service that fails: at most the budget's {bound} retries: {}", retries <= bound);
    Ok(())
}
