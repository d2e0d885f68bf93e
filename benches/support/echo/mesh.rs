//! The same through both stacks.

use std::{
    future::{IntoFuture, pending},
    net::SocketAddr,
};

use bytes::Bytes;
use sinew::{
    Body, Client, Mesh, ServiceBuilder,
    model::{IdentitySource, Mtls, Protocol},
};
use tonic::service::Routes;
use tower::{Service, service_fn};

use super::{
    BoxError, Echo, answer,
    grpc::{EchoService, Grpc},
    read, request,
};

/// A caller through the client stack.
#[derive(Clone)]
pub(crate) struct Http(Client);

impl Echo for Http {
    async fn echo(&mut self, payload: &Bytes) -> Result<usize, BoxError> {
        read(self.0.call(request("", payload)).await?).await
    }
}

/// Both stacks over HTTP/1.1 or HTTP/2.
pub(crate) async fn mesh_http(protocol: Protocol, callers: usize, mtls: bool) -> Result<Vec<Http>, BoxError> {
    let client = client_of(builder("echo", mtls).build().await?, protocol, mtls).await?;
    Ok(vec![Http(client); callers])
}

/// A mesh with or without an identity.
fn builder(name: &str, mtls: bool) -> sinew::Builder {
    let builder = Mesh::builder(name);
    match mtls {
        true => builder.identity(IdentitySource::Dev, "dev.local").mtls(Mtls::Strict),
        false => builder,
    }
}

/// As [`mesh_http`], with this mesh on the server.
#[allow(dead_code, reason = "gates use it, benches do not")]
pub(crate) async fn http_of(server: Mesh, protocol: Protocol) -> Result<Vec<Http>, BoxError> {
    Ok(vec![Http(client_of(server, protocol, false).await?)])
}

/// As [`mesh_http`], with a service that says more.
#[allow(dead_code, reason = "gates use it, benches do not")]
pub(crate) async fn http_with(
    protocol: Protocol,
    more: impl FnOnce(ServiceBuilder) -> ServiceBuilder,
) -> Result<Vec<Http>, BoxError> {
    let addr = serve_http(Mesh::builder("echo").build().await?).await?;
    Ok(vec![Http(client_with(addr, protocol, false, more).await?)])
}

/// The client of [`mesh_http`].
pub(crate) async fn raw_client(protocol: Protocol) -> Result<Client, BoxError> {
    client_of(Mesh::builder("echo").build().await?, protocol, false).await
}

/// The client of a server with this mesh.
pub(crate) async fn client_of(server: Mesh, protocol: Protocol, mtls: bool) -> Result<Client, BoxError> {
    client(serve_http(server).await?, protocol, mtls).await
}

async fn serve_http(server: Mesh) -> Result<SocketAddr, BoxError> {
    let listener = server.listen("127.0.0.1:0").await?;
    let addr = listener.local_addr();
    let app = service_fn(|request: http::Request<Body>| answer(request));
    // Never drains: a signal ends the process at once, as it does with the bare servers.
    tokio::spawn(hold(server, listener.serve(app).with_graceful_shutdown(pending()).into_future()));
    Ok(addr)
}

/// tonic's client and server code over both stacks.
pub(crate) async fn mesh_grpc(callers: usize, mtls: bool) -> Result<Vec<Grpc<Client>>, BoxError> {
    let server = builder("echo", mtls).build().await?;
    let listener = server.listen("127.0.0.1:0").await?;
    let addr = listener.local_addr();
    let serve = listener.serve(Routes::new(EchoService)).with_graceful_shutdown(pending());
    tokio::spawn(hold(server, serve.into_future()));
    let client = client(addr, Protocol::Http2, mtls).await?;
    Ok((0..callers).map(|_| Grpc::new(client.clone())).collect())
}

async fn client(addr: SocketAddr, protocol: Protocol, mtls: bool) -> Result<Client, BoxError> {
    client_with(addr, protocol, mtls, |service| service).await
}

async fn client_with(
    addr: SocketAddr,
    protocol: Protocol,
    mtls: bool,
    more: impl FnOnce(ServiceBuilder) -> ServiceBuilder,
) -> Result<Client, BoxError> {
    let service = |service: ServiceBuilder| more(service.endpoints([addr.to_string()]).protocol(protocol));
    let mesh = builder("bench", mtls).service("echo", service).build().await?;
    let client = mesh.client("echo");
    // The last handle that is dropped ends the mesh's background work.
    tokio::spawn(hold(mesh, pending::<()>()));
    Ok(client)
}

async fn hold<F: Future>(mesh: Mesh, future: F) {
    future.await;
    drop(mesh);
}
