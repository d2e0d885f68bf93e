//! Istio's task "locality failover": a service in four places, which are taken away one by one, the nearest first.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use sinew::{Client, Mesh, ResponseExt};
use tokio::{task::JoinHandle, time::timeout};

use crate::{Result, tasks::Check};

/// Calls in each place, after the first that is answered there.
const CALLS: usize = 100;
/// How long a change of place may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Region and zone, the nearest first, and `priority`. The caller is in the first.
const PLACES: [(&str, &str, u32); 4] = [("eu", "eu-1a", 0), ("eu", "eu-1b", 0), ("us", "us-1a", 0), ("ap", "ap-1a", 1)];

struct Place {
    zone: &'static str,
    addr: SocketAddr,
    mesh: Mesh,
    serving: JoinHandle<std::result::Result<(), sinew::Error>>,
}

impl Place {
    async fn start(zone: &'static str, listen: &str) -> Result<Self> {
        let mesh = Mesh::builder("helloworld").build().await?;
        let listener = mesh.listen(listen).await?;
        let addr = listener.local_addr();
        let app = Router::new().route("/hello", get(move || async move { zone }));
        let serve = listener.serve(app).with_graceful_shutdown(std::future::pending());
        Ok(Self { zone, addr, mesh, serving: tokio::spawn(serve.into_future()) })
    }

    async fn stop(self) -> Result<()> {
        self.mesh.shutdown(Duration::from_secs(5)).await;
        self.serving.await??;
        Ok(())
    }
}

/// What came of the calls since a place was taken away or came back.
struct Moved {
    /// After the first that was answered there.
    elsewhere: usize,
    there: usize,
    /// All that failed, before it as well.
    failed: usize,
}

/// Calls until one is answered by this zone, and then `CALLS` more.
async fn moves(client: &Client, zone: &str) -> Result<Moved> {
    let mut moved = Moved { elsewhere: 0, there: 0, failed: 0 };
    let hello = async || client.get("/hello").send().await?.error_for_status()?.text().await;
    let arrives = async {
        loop {
            match hello().await {
                Ok(from) if from == zone => break,
                Ok(_) => {}
                Err(_) => moved.failed += 1,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if timeout(PATIENCE, arrives).await.is_err() {
        return Err(format!("{zone} did not answer within {PATIENCE:?}").into());
    }
    for _ in 0..CALLS {
        match hello().await {
            Ok(from) if from == zone => moved.there += 1,
            Ok(_) => moved.elsewhere += 1,
            Err(_) => moved.failed += 1,
        }
    }
    Ok(moved)
}

pub(crate) async fn locality_failover() -> Result<Vec<Check>> {
    let mut places = Vec::new();
    let mut config = String::from(
        "mesh: { zone: eu-1a, region: eu }\nservices:\n  helloworld:\n    locality: { failover_priority: [region, zone] }\n    \
         endpoints:\n",
    );
    for (region, zone, priority) in PLACES {
        let place = Place::start(zone, "127.0.0.1:0").await?;
        config.push_str(&format!(
            "      - {{ static: [\"{}\"], region: {region}, zone: {zone}, priority: {priority} }}\n",
            place.addr
        ));
        places.push(place);
    }
    let mesh = Mesh::builder("sleep").config_str(&config).build().await?;
    let client = mesh.client("helloworld");
    client.wait_ready(PATIENCE).await?;

    let mut checks = Vec::new();
    let mut step = |must: String, moved: Moved| {
        checks.push(Check {
            must,
            measured: format!(
                "{} of {CALLS} calls answered there, {} elsewhere; {} failed, those on the way there included",
                moved.there, moved.elsewhere, moved.failed
            ),
            holds: moved.there == CALLS && moved.elsewhere == 0 && moved.failed == 0,
        });
    };
    step("every call stays in the caller's own zone, eu-1a".into(), moves(&client, places[0].zone).await?);
    let nearest = places[0].addr.to_string();
    for next in ["eu-1b in the same region", "us-1a elsewhere", "the reserve, ap-1a, that `priority: 1` keeps for last"]
    {
        let gone = places.remove(0);
        let zone = gone.zone;
        gone.stop().await?;
        step(format!("without {zone} every call goes to {next}"), moves(&client, places[0].zone).await?);
    }
    let back = Place::start(PLACES[0].1, &nearest).await?;
    step("with eu-1a there again every call stays there".into(), moves(&client, back.zone).await?);

    mesh.shutdown(Duration::from_secs(1)).await;
    for place in places.into_iter().chain([back]) {
        place.stop().await?;
    }
    Ok(checks)
}
