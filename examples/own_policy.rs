//! How do I add a policy of my own to `sinew.yaml`?
//!
//! A serde type with a name and a seat. It is then a key like any built-in one: checked at load with its place in the file,
//! merged from `defaults`, reloaded while calls run.
//!
//! ```text
//! cargo run --example own_policy
//! ```

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use http::{Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use sinew::{
    Body, Mesh, MeshStatus,
    model::Policy,
    seat::{Next, Position, Seat, SeatFuture},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Lets so many calls through, and answers 429 by itself from then on.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrialQuota {
    calls: u32,
}

impl Policy for TrialQuota {
    const NAME: &'static str = "trial_quota";
    // Once per call, above retries.
    const SEAT: Position = Position::Outer;

    fn schema() -> String {
        r#"{ "type": "object", "required": ["calls"], "additionalProperties": false,
             "properties": { "calls": { "type": "integer", "minimum": 1 } } }"#
            .into()
    }

    fn validate(&self) -> std::result::Result<(), String> {
        if self.calls == 0 {
            return Err("`calls: 0` refuses everything; remove the service instead".into());
        }
        Ok(())
    }

    fn seat(self: Arc<Self>) -> Arc<dyn Seat> {
        Arc::new(TrialSeat { quota: self, made: AtomicU32::new(0) })
    }
}

/// The policy at work. A reload that does not change the policy keeps the seat, and so the count.
struct TrialSeat {
    quota: Arc<TrialQuota>,
    made: AtomicU32,
}

impl Seat for TrialSeat {
    fn call(&self, request: Request<Body>, next: Next) -> SeatFuture {
        if self.made.fetch_add(1, Relaxed) < self.quota.calls {
            return next.run(request);
        }
        let mut response = Response::new(Body::from("the trial is over"));
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        Box::pin(std::future::ready(Ok(response)))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let server = Mesh::builder("horoscope").build().await?;
    let listener = server.listen("127.0.0.1:0").await?;
    let addr = listener.local_addr();
    tokio::spawn(listener.serve(Router::new().route("/", get(async || "it will rain"))).into_future());

    let directory = tempfile::tempdir()?;
    let file = directory.path().join("sinew.yaml");
    let config = |timeout: &str, quota: &str| {
        format!(
            "services:\n  horoscope:\n    endpoints: {{ static: [\"{addr}\"] }}\n    timeout: {timeout}\n    trial_quota: {quota}\n"
        )
    };
    fs::write(&file, config("2s", "{ calls: 2 }"))?;
    let mesh = Mesh::builder("visitor").policy::<TrialQuota>().config_file(&file).build().await?;
    let horoscope = mesh.client("horoscope");
    let three_calls = async || -> Result<String> {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(horoscope.get("/").send().await?.status().as_u16().to_string());
        }
        Ok(statuses.join(" "))
    };
    println!("2 calls of trial: {}", three_calls().await?);

    // Something else changes: the count goes on.
    edit(&mesh, &file, &config("3s", "{ calls: 2 }"), applied).await?;
    println!("another timeout: {}", three_calls().await?);

    // The policy changes: a new seat, a new count.
    edit(&mesh, &file, &config("3s", "{ calls: 1 }"), applied).await?;
    println!("1 call of trial: {}", three_calls().await?);

    edit(&mesh, &file, &config("3s", "{ calls: 0 }"), |_, status| error(status).is_some()).await?;
    let report = error(&mesh.status()).unwrap_or_default();
    println!("refused:\n{}", report.replace(&format!("{}/", directory.path().display()), ""));
    Ok(())
}

fn applied(generation: u64, status: &MeshStatus) -> bool {
    status.generation > generation
}

fn error(status: &MeshStatus) -> Option<String> {
    status.sources.iter().find_map(|source| source.error.clone())
}

/// Writes the file and waits until the mesh has noticed.
async fn edit(
    mesh: &Mesh,
    file: &std::path::Path,
    text: &str,
    noticed: impl Fn(u64, &MeshStatus) -> bool,
) -> Result<()> {
    let generation = mesh.status().generation;
    fs::write(file, text)?;
    for _ in 0..500 {
        if noticed(generation, &mesh.status()) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("the change was not noticed within 10 s".into())
}
