//! Five times as much as there is for a minute, with retries on: what was before is there again within a second after it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use sinew::{Body, Client, Mesh};
use tower::Service;

use super::{
    load::{self, Dice, Wire},
    server::{SPIN, Server, Variant},
    support::Checks,
};

const BIN: Duration = Duration::from_millis(100);
const GOOD: Duration = Duration::from_millis(100);
/// Of what is asked for in a tenth of a second.
const BAR: f64 = 0.97;

#[derive(Default)]
struct Bin {
    asked: AtomicU32,
    good: AtomicU32,
}

/// `scale` 1 is a minute.
pub(crate) fn run(scale: f64, short: bool, checks: &mut Checks) {
    for variant in [Variant::Sinew, Variant::Tower] {
        let server = Server::start(variant, Wire::Grpc, false);
        let capacity = 1.0 / load::closed(&server, Wire::Grpc, Duration::from_secs_f64((5.0 * scale).max(0.2)));
        let calm = Duration::from_secs_f64((10.0 * scale).max(0.3));
        let spike = Duration::from_secs_f64(60.0 * scale);
        let after = Duration::from_secs_f64((20.0 * scale).max(1.5));
        let bins = drive(&server, capacity, [calm, spike, after]);
        let bin = |at: Duration| (at.as_secs_f64() / BIN.as_secs_f64()).ceil() as usize;
        let share = |bins: &[Bin]| {
            let sum = |of: fn(&Bin) -> &AtomicU32| bins.iter().map(|bin| f64::from(of(bin).load(Relaxed))).sum::<f64>();
            (sum(|bin| &bin.good), sum(|bin| &bin.asked).max(1.0))
        };
        let during = share(&bins[bin(calm)..bin(calm + spike)]);
        let ended = bin(calm + spike);
        // The tenth of a second from which on every one is as good as it was.
        let late = bins[ended..].iter().rposition(|bin| {
            let (good, asked) = (f64::from(bin.good.load(Relaxed)), f64::from(bin.asked.load(Relaxed)));
            good < asked * BAR
        });
        let recovered = late.map_or(0.0, |last| (last + 1) as f64 * BIN.as_secs_f64());
        let (good, asked) = share(&bins[(ended + 10).min(bins.len())..]);
        println!(
            "spike {variant}: 0.7, 5 and 0.7 times {capacity:.0}/s for {calm:?}, {spike:?} and {after:?}: {:.1} % of capacity \
             good during it; every 100 ms at {:.0} % and above from {recovered:.1} s after its end, {:.2} % good from 1 s on",
            during.0 / spike.as_secs_f64() / capacity * 100.0,
            BAR * 100.0,
            good / asked * 100.0
        );
        checks.hold(during.1 > 1.0, || format!("spike {variant}: no call was made"));
        if variant == Variant::Sinew && !short {
            checks.hold(recovered <= 1.0, || format!("spike {variant}: it took {recovered:.1} s to recover"));
        }
    }
}

fn drive(server: &Server, capacity: f64, phases: [Duration; 3]) -> Arc<Vec<Bin>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let [calm, spike, after] = phases;
    let length = calm + spike + after;
    let bins: Arc<Vec<Bin>> =
        Arc::new((0..=(length.as_millis() / BIN.as_millis()) as usize + 1).map(|_| Bin::default()).collect());
    runtime.block_on(async {
        let config = format!(
            "services: {{ spin: {{ endpoints: {{ static: [\"{}\"] }}, protocol: http2, timeouts: {{ request: 1s }}, \
             circuit_breakers: {{ max_requests: 100000, max_pending_requests: 100000 }}, \
             retry: {{ retry_on: [unavailable], num_retries: 3, require_idempotent: false }} }} }}",
            server.addr
        );
        let mesh = Mesh::builder("caller").config_str(&config).build().await.expect("a client");
        let client = mesh.client("spin");
        client.wait_ready(Duration::from_secs(5)).await.expect("a connection");
        let (mut dice, begun) = (Dice::new(3), Instant::now());
        let mut next = begun;
        loop {
            let now = Instant::now();
            while next <= now.min(begun + length) {
                let (intended, at) = (next, next - begun);
                let times = if at >= calm && at < calm + spike { 5.0 } else { 0.7 };
                next += dice.pause(times * capacity);
                let (client, bins) = (client.clone(), Arc::clone(&bins));
                tokio::spawn(async move {
                    let bin = &bins[(at.as_millis() / BIN.as_millis()) as usize];
                    bin.asked.fetch_add(1, Relaxed);
                    if served(client).await && intended.elapsed() <= GOOD {
                        bin.good.fetch_add(1, Relaxed);
                    }
                });
            }
            if now >= begun + length {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(1_200)).await;
    });
    bins
}

async fn served(mut client: Client) -> bool {
    let request = Request::post(SPIN)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::from(Bytes::from_static(&[0; 5])));
    let Ok(request) = request else { return false };
    let Ok(response) = client.call(request).await else { return false };
    let status = response.headers().get("grpc-status").cloned();
    let Ok(body) = response.into_body().collect().await else { return false };
    let trailers = body.trailers().cloned().unwrap_or_default();
    status.as_ref().or_else(|| trailers.get("grpc-status")).is_some_and(|status| status.as_bytes() == b"0")
}
