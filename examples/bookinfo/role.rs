//! One service in a process of its own.

use std::net::SocketAddr;

use sinew::{
    Mesh,
    model::{Address, SourceKind},
};

use crate::{Result, cli::Role, instance};

pub(crate) async fn run(role: Role) -> Result<()> {
    let Role { service, version, config, listen } = role;
    let mesh = Mesh::builder(&service).version(&version).config_file(&config).build().await?;
    let listen = match listen.or_else(|| own_address(&mesh, &service, &version)) {
        Some(listen) => listen,
        None => {
            let file = config.display();
            return Err(format!("{file} has no address for {service} {version}: add one, or use `--listen`").into());
        }
    };
    let listener = mesh.listen(listen).await?;
    let addr = listener.local_addr();
    let app = instance::app(&service, &version, &mesh, addr);
    println!("{service} {version} listens on {addr}");
    // Until SIGTERM or Ctrl-C; then what is in flight is finished.
    listener.serve(app).await?;
    Ok(())
}

/// Where callers expect this version: its entry among the endpoints of its own service.
fn own_address(mesh: &Mesh, service: &str, version: &str) -> Option<SocketAddr> {
    let snapshot = mesh.snapshot();
    let spec = snapshot.services.iter().find(|(name, _)| name.as_str() == service)?.1;
    let fixed = spec.endpoints.iter().filter_map(|source| match &source.source {
        SourceKind::Static(endpoints) => Some(endpoints),
        _ => None,
    });
    // A misbehaving variant of ratings stands in for the version that callers know.
    let labelled = |wanted: &str| {
        fixed.clone().flatten().find(|endpoint| endpoint.labels.get("version").is_some_and(|label| &**label == wanted))
    };
    match labelled(version).or_else(|| labelled("v1"))?.addresses.first()? {
        Address::Tcp(addr) => Some(*addr),
        _ => None,
    }
}
