//! Priorities and zones between real processes' sockets.

use std::{future::IntoFuture, net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use sinew::{
    Client, Mesh, ResponseExt,
    balance::LocalityPolicy,
    model::{Address, EndpointSpec},
    name::Locality,
};
use tokio::{sync::oneshot, task::JoinHandle};

struct Instance {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Instance {
    async fn start(zone: &'static str, listen: &str) -> Self {
        let mesh = Mesh::builder("back").build().await.unwrap();
        let listener = mesh.listen(listen).await.unwrap();
        let addr = listener.local_addr();
        let app = Router::new().route("/", get(move || async move { zone }));
        let (stop, stopped) = oneshot::channel::<()>();
        let served = listener.serve(app).with_graceful_shutdown(async move {
            let _ = stopped.await;
        });
        let served = tokio::spawn(async move {
            served.into_future().await.unwrap();
        });
        Self { addr, stop, served }
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        self.served.await.unwrap();
    }
}

async fn zone(client: &Client) -> String {
    client.get("/").send().await.unwrap().text().await.unwrap()
}

/// Calls until the answer comes from a zone; each call has to succeed.
async fn becomes(client: &Client, wanted: &str) {
    let calls = async {
        while zone(client).await != wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), calls).await.expect("calls go there");
}

#[tokio::test]
async fn calls_go_to_the_next_zone_when_this_one_is_gone_and_come_back() {
    let (near, far) = (Instance::start("a", "127.0.0.1:0").await, Instance::start("b", "127.0.0.1:0").await);
    let at = |instance: &Instance, zone: &str| {
        let locality = Locality { zone: zone.into(), ..Locality::default() };
        EndpointSpec::new(Address::Tcp(instance.addr)).locality(locality)
    };
    let endpoints = [at(&near, "a"), at(&far, "b")];
    let mut policy = LocalityPolicy::default();
    policy.failover_priority = vec!["zone".parse().unwrap()];
    let mesh = Mesh::builder("front")
        .zone("a")
        .service("back", |service| service.static_endpoints(endpoints).locality(policy))
        .build()
        .await
        .unwrap();
    let client = mesh.client("back");
    becomes(&client, "a").await;
    for _ in 0..50 {
        assert_eq!(zone(&client).await, "a");
    }

    let listen = near.addr.to_string();
    near.end().await;
    becomes(&client, "b").await;
    let near = Instance::start("a", &listen).await;
    becomes(&client, "a").await;
    let status = mesh.status();
    let priorities = &status.services["back"].cluster.as_ref().unwrap().priorities;
    assert_eq!(
        priorities.iter().map(|priority| (priority.rank, priority.load)).collect::<Vec<_>>(),
        [(0, 100), (1, 0)]
    );

    near.end().await;
    far.end().await;
}
