//! The server stack as a layer, for listeners that are not ours.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_layer::Layer;
use tower_service::Service;

use super::{access::Audience, inbound::Served, open::OpenConnection, policy::ServerShared, stack::connection};
use crate::{
    body::Body,
    error::BoxError,
    peer::{Peer, PeerAddr},
    rescue::{Reader, answer},
};

/// A request body that can be made from [`Body`]. Implemented for [`Body`], axum's and tonic's.
pub trait RequestBody: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static {
    /// Wraps a mesh body.
    fn from_mesh(body: Body) -> Self;
}

impl RequestBody for Body {
    fn from_mesh(body: Body) -> Self {
        body
    }
}

/// The server stack around a service that runs under somebody else's listener: `Router::layer(mesh.server_layer())`.
///
/// Everything works as under [`Mesh::serve`](crate::Mesh::serve) except what only a listener can do: limits on
/// connections and drain. The peer is unknown, so its criticality does not count.
#[derive(Clone)]
pub struct ServerLayer {
    shared: Arc<ServerShared>,
}

impl ServerLayer {
    pub(crate) fn new(shared: Arc<ServerShared>) -> Self {
        Self { shared }
    }
}

impl std::fmt::Debug for ServerLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerLayer")
    }
}

impl<S> Layer<S> for ServerLayer {
    type Service = ServerService<S>;

    fn layer(&self, inner: S) -> ServerService<S> {
        ServerService { inner, shared: Arc::clone(&self.shared) }
    }
}

/// The service made by [`ServerLayer`].
#[derive(Clone)]
pub struct ServerService<S> {
    inner: S,
    shared: Arc<ServerShared>,
}

impl<S> std::fmt::Debug for ServerService<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerService")
    }
}

/// Gives the wrapped service the body type it knows.
struct Foreign<S, R> {
    service: S,
    body: std::marker::PhantomData<fn() -> R>,
}

impl<S: Clone, R> Clone for Foreign<S, R> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), body: self.body }
    }
}

impl<S, R> Service<Request<Body>> for Foreign<S, R>
where
    S: Service<Request<R>>,
    R: RequestBody,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Body>) -> S::Future {
        self.service.call(request.map(R::from_mesh))
    }
}

impl<S, R, B> Service<Request<R>> for ServerService<S>
where
    S: Service<Request<R>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    R: RequestBody,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<R>) -> Self::Future {
        let unknown = || PeerAddr::Tcp(([0, 0, 0, 0], 0).into());
        let peer = Peer::of(request.extensions()).unwrap_or_else(|| Peer::new(unknown(), unknown()));
        let service = Foreign::<S, R> { service: self.inner.clone(), body: std::marker::PhantomData };
        // Of a listener that is not ours connections are unknown; an exchange is judged again by itself.
        let open = OpenConnection::new(Arc::clone(&self.shared), peer, Audience::Foreign, None);
        let mut connection = connection(open, service);
        let grpc = crate::classify::is_grpc(request.headers());
        let future = connection.call(request.map(Body::new));
        Box::pin(async move {
            Ok(match future.await {
                Ok(response) => response.map(Body::erase),
                Err(error) => answer(&error, grpc, Reader::Peer),
            })
        })
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("uri", self.request.uri()).finish_non_exhaustive()
    }
}
