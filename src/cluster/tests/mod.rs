//! Clusters whose endpoints connect to nothing in particular: which of them a call would go to.

mod availability;
mod balance;
mod checks;
mod failover;
mod outlier;
mod publish;
mod slow_start;

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::io::duplex;

use super::{
    Cluster,
    wait::{Ask, Ready, Reason},
};
use crate::{
    balance::Member,
    cluster::endpoint::Endpoint,
    error::{Code, Error},
    instrument::Registry,
    model::{Address, EndpointSpec, EndpointUpdate, Protocol, ServiceSpec, SetKind},
    name::ServiceName,
    rt::{Rng, TaskSet},
    transport::{Dial, Dialed, Offer, Want},
};

/// Connects to everything except what is called `memory:down..` or, without an end, `memory:hang..`; nobody reads at the
/// other end.
struct Everywhere;

impl Dial for Everywhere {
    fn dial<'a>(
        &'a self,
        address: &'a Address,
        _offer: Offer,
    ) -> Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + 'a>> {
        Box::pin(async move {
            if address.to_string().starts_with("memory:down") {
                return Err(Error::new(Code::ConnectFailed, "it is down"));
            }
            if address.to_string().starts_with("memory:hang") {
                std::future::pending::<()>().await;
            }
            let (near, far) = duplex(64 * 1024);
            tokio::spawn(async move {
                let _far = far;
                std::future::pending::<()>().await;
            });
            Ok(Dialed::plain(near))
        })
    }
}

struct Bench {
    cluster: Arc<Cluster>,
}

impl Bench {
    async fn new(names: &[&str]) -> Self {
        Self::of(names.iter().map(|name| EndpointSpec::new(address(name))).collect(), |_| {}).await
    }

    async fn of(endpoints: Vec<EndpointSpec>, with: impl FnOnce(&mut ServiceSpec)) -> Self {
        // Whose turn it is first, and what is drawn.
        Rng::seed_local(17);
        let mut spec = ServiceSpec::new(ServiceName::new("target").unwrap());
        spec.protocol = Protocol::Http1;
        with(&mut spec);
        let (home, dial) = (crate::cluster::Home::new(Arc::new(Everywhere)), Arc::new(Everywhere));
        let cluster = Cluster::new(&Arc::new(spec), &home, dial, TaskSet::new(), &Registry::default());
        cluster.apply(EndpointUpdate::Reset { endpoints, kind: SetKind::Replicas });
        let bench = Self { cluster };
        bench.settle().await;
        bench
    }

    /// Lets connections be made.
    async fn settle(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    /// Has every endpoint connected, however many there are.
    async fn connect_all(&self) {
        let idle = || self.cluster.status().endpoints.iter().any(|endpoint| endpoint.state == "idle");
        while idle() {
            let table = self.cluster.table.load();
            let _ = table.census(table.seen(None));
            self.settle().await;
        }
    }

    fn member(&self, name: &str) -> Member<Endpoint> {
        let members = self.cluster.members.lock().unwrap();
        let found = members.iter().find(|(spec, _)| spec.id.as_str() == format!("memory:{name}"));
        found.unwrap().1.clone()
    }

    /// Where one call would go.
    fn pick(&self) -> Result<String, Error> {
        let ask = Ask { repeatable: true, ..Ask::of(None, Want::Any) };
        match self.cluster.try_ready(ask) {
            Ready::Go(chosen) => Ok(chosen.picked.id.strip_prefix("memory:").unwrap().to_owned()),
            Ready::Fail(error) => Err(error),
            Ready::Wait(reason @ (Reason::Unknown | Reason::Connecting(_) | Reason::Full(_))) => {
                Err(Error::new(Code::Internal, format!("it would wait: {reason:?}")))
            }
        }
    }

    /// The endpoints that many calls go to, in order of name.
    fn picked(&self) -> Vec<String> {
        Rng::seed_local(13);
        let mut names: Vec<_> = (0..200).filter_map(|_| self.pick().ok()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn address(name: &str) -> Address {
    Address::Memory(name.into())
}
