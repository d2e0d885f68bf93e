//! All of Bookinfo in one process: its instances, its configuration file, and a mesh for the load generator.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use sinew::Mesh;
use tokio::time::Instant;

use crate::{
    Result,
    instance::Instance,
    topology::{Access, INSTANCES, Routes, Topology},
};

const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) struct System {
    pub(crate) topology: Topology,
    pub(crate) instances: Vec<Instance>,
    /// The load generator is a member like any other, with its own mesh and no listener.
    pub(crate) load: Mesh,
}

impl System {
    /// Starts every instance. With `fixed` ports an instance whose port is taken gets a free one.
    pub(crate) async fn start(directory: &Path, fixed: bool) -> Result<Self> {
        let mut topology = Topology::new(directory);
        // Nobody knows a port before it listens, so all begin with a file without endpoints and read the whole one later.
        topology.write()?;
        let mut instances = Vec::new();
        for (service, version, port) in INSTANCES {
            let instance = match Instance::start(service, version, if fixed { port } else { 0 }, topology.path()).await
            {
                Ok(instance) => instance,
                Err(error) if fixed => {
                    println!("port {port} cannot be used ({error}): {service} {version} takes a free one");
                    Instance::start(service, version, 0, topology.path()).await?
                }
                Err(error) => return Err(error),
            };
            topology.add(service, version, instance.addr);
            instances.push(instance);
        }
        let load = Mesh::builder("load").config_file(topology.path()).build().await?;
        let mut system = Self { topology, instances, load };
        system.apply().await?;
        Ok(system)
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.topology.path().to_owned()
    }

    pub(crate) fn page_address(&self) -> String {
        let page = self.instances.iter().find(|instance| instance.service == "productpage");
        page.map(|page| format!("http://{}/productpage", page.addr)).unwrap_or_default()
    }

    /// Edits the file with new routes for `reviews`, and waits until everybody uses them.
    pub(crate) async fn route_reviews(&mut self, routes: Routes) -> Result<()> {
        self.topology.routes = routes;
        self.apply().await
    }

    /// As [`route_reviews`](Self::route_reviews), for `ratings`.
    pub(crate) async fn route_ratings(&mut self, routes: Routes) -> Result<()> {
        self.topology.ratings = routes;
        self.apply().await
    }

    /// What listeners ask of their peers, and who may call whom.
    pub(crate) async fn secure(&mut self, mtls: &'static str, access: Option<Access>) -> Result<()> {
        (self.topology.mtls, self.topology.access) = (mtls, access);
        self.apply().await
    }

    /// Writes the file, and waits until every mesh has read it.
    pub(crate) async fn apply(&mut self) -> Result<()> {
        let before: Vec<_> = self.meshes().map(|mesh| mesh.status().generation).collect();
        if !self.topology.write()? {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let behind: Vec<_> = self
                .meshes()
                .zip(&before)
                .map(|(mesh, before)| (mesh.status(), *before))
                .filter(|(status, before)| status.generation <= *before)
                .map(|(status, _)| status)
                .collect();
            let Some(first) = behind.first() else { return Ok(()) };
            if let Some(error) = first.sources.iter().find_map(|source| source.error.as_ref()) {
                return Err(format!("{} refuses the configuration: {error}", first.service).into());
            }
            if Instant::now() > deadline {
                return Err(format!("{} did not read the changed configuration", first.service).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn meshes(&self) -> impl Iterator<Item = &Mesh> {
        self.instances.iter().map(|instance| &instance.mesh).chain([&self.load])
    }

    /// Waits until everybody who calls the service under load is connected to this instance of it.
    async fn connected(&self, service: &str, addr: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let addr = addr.to_string();
        loop {
            let waiting = self.callers(service).map(Mesh::status).find_map(|status| {
                let endpoints = &status.services.get(service)?.cluster.as_ref()?.endpoints;
                let state =
                    endpoints.iter().find(|endpoint| endpoint.id == addr).map_or("unknown", |there| there.state);
                (state != "ready").then_some((status.service, state))
            });
            match waiting {
                None => return Ok(()),
                Some((caller, state)) if Instant::now() > deadline => {
                    return Err(format!("{caller} did not connect to {service} at {addr}: {state}").into());
                }
                Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn callers(&self, service: &str) -> impl Iterator<Item = &Mesh> {
        let callers: &[(&str, &str)] = match service {
            "details" | "reviews" => &[("productpage", "v1")],
            "ratings" => &[("reviews", "v2"), ("reviews", "v3")],
            _ => &[],
        };
        let calls = |instance: &&Instance| callers.contains(&(instance.service, instance.version));
        let load = (service == "productpage").then_some(&self.load);
        self.instances.iter().filter(calls).map(|instance| &instance.mesh).chain(load)
    }

    /// Restarts one instance on its port. A successor on another port takes over meanwhile, as a deployment with one
    /// surplus instance does; the instance itself is stopped while callers still have it in their list.
    pub(crate) async fn restart(&mut self, index: usize) -> Result<()> {
        let (service, version, addr) = {
            let instance = &self.instances[index];
            (instance.service, instance.version, instance.addr)
        };
        let surplus = Instance::start(service, version, 0, self.topology.path()).await?;
        let surplus_addr = surplus.addr;
        self.topology.add(service, version, surplus_addr);
        self.apply().await?;
        self.connected(service, surplus_addr).await?;

        let old = self.instances.remove(index);
        old.stop().await?;
        let new = Instance::start(service, version, addr.port(), self.topology.path()).await?;
        self.instances.insert(index, new);
        self.connected(service, addr).await?;

        self.topology.remove(surplus_addr);
        self.apply().await?;
        surplus.stop().await
    }

    /// Endpoints by service, for people.
    pub(crate) fn listing(&self) -> String {
        let mut services: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for instance in &self.instances {
            services.entry(instance.service).or_default().push(format!("{} {}", instance.version, instance.addr));
        }
        let lines: Vec<_> =
            services.iter().map(|(service, instances)| format!("  {service:<12} {}", instances.join(", "))).collect();
        lines.join("\n")
    }

    pub(crate) async fn stop(self) -> Result<()> {
        // Callers first, so that nobody waits for an answer that is not coming.
        for instance in self.instances {
            instance.stop().await?;
        }
        self.load.shutdown(Duration::from_secs(1)).await;
        Ok(())
    }
}
