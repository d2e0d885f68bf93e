//! The client: one nameable type that is a Tower service, a tonic channel and a place for verbs.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::HOST};
use http_body::Body as HttpBody;
use tower_service::Service;

use super::{
    outbound::Outbound,
    request::RequestBuilder,
    runtime::{ServiceHandle, ServiceRuntime},
    stack::stack,
};
use crate::{
    body::Body,
    error::{BoxError, Code, Error},
    matching::host_of,
    rt,
};

/// A client of one service, or of whatever service the authority of a request names.
///
/// It is `Clone + Send + Sync`, always ready, and a `tower::Service<http::Request<B>>` for every body `B`, so it is
/// what tonic's generated clients take as a channel: `RatingsClient::new(mesh.client("ratings"))`. Clones share
/// everything. Readiness is not reserved: admission happens in `call`, so a clone that is never called holds nothing.
///
/// # Cancellation
/// Dropping the future of a call, or the body of its response, cancels the call: the peer sees the stream reset, and
/// every permit it held is returned at once.
///
/// ```no_run
/// # async fn example(mesh: sinew::Mesh) -> Result<(), Box<dyn std::error::Error>> {
/// use sinew::ResponseExt;
///
/// let reviews = mesh.client("reviews");
/// let page = reviews.get("/reviews/0").header("end-user", "jason").send().await?.error_for_status()?.text().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    seam: Arc<dyn Seam>,
}

/// The edge of the client stack: one virtual call, one boxed future.
pub(crate) trait Seam: Send + Sync {
    fn call(&self, request: Request<Body>) -> BoxedResponse;
    fn name(&self) -> &str;
    /// The same without policies.
    fn bare(&self) -> Arc<dyn Seam>;
    fn ready(&self, limit: Duration) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>>;
}

type BoxedResponse = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

impl Client {
    pub(crate) fn new(seam: impl Seam + 'static) -> Self {
        Self { seam: Arc::new(seam) }
    }

    /// A client whose calls all fail with this error: for a name that is none.
    pub(crate) fn refusing(name: &str, error: Error) -> Self {
        Self::new(Refusing { name: name.to_owned(), code: error.code(), message: error.message().to_owned() })
    }

    /// Sends a request made elsewhere.
    ///
    /// # Errors
    /// See [`Error`]; a response with an error status is a response.
    pub fn send<B>(&self, request: Request<B>) -> ResponseFuture
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        ResponseFuture { inner: self.seam.call(request.map(Body::request)) }
    }

    /// The same client without policies: its calls keep identity, authorization and telemetry, and nothing else. They go
    /// to any endpoint of the service, as balanced, once; no route, timeout, retry, limit, fault, mirror or seat of the
    /// configuration or of code applies. Timeouts passed with a call and the deadline of the request being served hold.
    ///
    /// For probes and tools that want to see a service as it is.
    #[must_use]
    pub fn bare(&self) -> Client {
        Self { seam: self.seam.bare() }
    }

    /// Waits until a call could be sent, at most `limit`: configuration is there and an endpoint is connected.
    ///
    /// # Errors
    /// Why it is not ready yet, as a call would tell it.
    pub async fn wait_ready(&self, limit: Duration) -> Result<(), Error> {
        self.seam.ready(limit).await
    }

    /// A request with this method. `uri` is a path, or a whole URI for [`Mesh::http`](crate::Mesh::http).
    pub fn request(&self, method: Method, uri: impl AsRef<str>) -> RequestBuilder {
        RequestBuilder::new(self.clone(), method, uri.as_ref())
    }

    /// A GET.
    pub fn get(&self, uri: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::GET, uri)
    }

    /// A HEAD.
    pub fn head(&self, uri: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::HEAD, uri)
    }

    /// A POST.
    pub fn post(&self, uri: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::POST, uri)
    }

    /// A PUT.
    pub fn put(&self, uri: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::PUT, uri)
    }

    /// A PATCH.
    pub fn patch(&self, uri: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::PATCH, uri)
    }

    /// A DELETE.
    pub fn delete(&self, uri: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::DELETE, uri)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.seam.name()).finish()
    }
}

impl<B> Service<Request<B>> for Client
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        self.send(request)
    }
}

/// The future of a call.
#[must_use = "a call that is not awaited is not sent"]
pub struct ResponseFuture {
    inner: BoxedResponse,
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.as_mut().poll(cx)
    }
}

struct Refusing {
    name: String,
    code: Code,
    message: String,
}

impl Refusing {
    fn error(&self) -> Error {
        Error::new(self.code, self.message.clone())
    }
}

impl Seam for Refusing {
    fn call(&self, _request: Request<Body>) -> BoxedResponse {
        Box::pin(std::future::ready(Err(self.error())))
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn bare(&self) -> Arc<dyn Seam> {
        Arc::new(Self { name: self.name.clone(), code: self.code, message: self.message.clone() })
    }

    fn ready(&self, _limit: Duration) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
        Box::pin(std::future::ready(Err(self.error())))
    }
}

/// Calls to one service. Joins the mesh at the first call if that has not happened yet.
pub(crate) struct ServiceSeam {
    pub(crate) handle: Arc<ServiceHandle>,
    pub(crate) join: Join,
    pub(crate) bare: bool,
}

/// Starts the mesh's background work, once, in the runtime of the first call.
#[derive(Clone)]
pub(crate) struct Join(pub(crate) Arc<dyn Fn() + Send + Sync>);

impl ServiceSeam {
    fn dispatch(handle: &ServiceHandle, mut request: Request<Body>, bare: bool) -> BoxedResponse {
        let cx = handle.pin(&mut request, bare);
        let future = stack().call(Outbound { request, cx });
        Box::pin(Edge { future })
    }
}

impl Seam for ServiceSeam {
    fn call(&self, request: Request<Body>) -> BoxedResponse {
        (self.join.0)();
        Self::dispatch(&self.handle, request, self.bare)
    }

    fn name(&self) -> &str {
        self.handle.name.as_str()
    }

    fn bare(&self) -> Arc<dyn Seam> {
        Arc::new(Self { handle: Arc::clone(&self.handle), join: self.join.clone(), bare: true })
    }

    fn ready(&self, limit: Duration) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
        (self.join.0)();
        Box::pin(async move {
            match self.handle.runtime().cluster.clone() {
                Some(cluster) => cluster.wait_ready(rt::now() + limit).await,
                None => Err(unknown(self.name())),
            }
        })
    }
}

/// Calls that the mesh makes on its own behalf to one of its services: bare, so that no policy leads to another such
/// call, and keeping neither the service nor the mesh alive.
pub(crate) struct OwnSeam {
    name: String,
    handle: Weak<ServiceHandle>,
}

impl OwnSeam {
    pub(crate) fn new(handle: &Arc<ServiceHandle>) -> Self {
        Self { name: handle.name.as_str().to_owned(), handle: Arc::downgrade(handle) }
    }

    fn handle(&self) -> Result<Arc<ServiceHandle>, Error> {
        self.handle.upgrade().ok_or_else(|| Error::new(Code::LocalDraining, "the mesh has ended"))
    }
}

impl Seam for OwnSeam {
    fn call(&self, request: Request<Body>) -> BoxedResponse {
        match self.handle() {
            Ok(handle) => ServiceSeam::dispatch(&handle, request, true),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn bare(&self) -> Arc<dyn Seam> {
        Arc::new(Self { name: self.name.clone(), handle: Weak::clone(&self.handle) })
    }

    fn ready(&self, limit: Duration) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
        Box::pin(async move {
            match self.handle()?.runtime().cluster.clone() {
                Some(cluster) => cluster.wait_ready(rt::now() + limit).await,
                None => Err(unknown(&self.name)),
            }
        })
    }
}

fn unknown(name: &str) -> Error {
    let message = format!("no service `{name}` is configured; add `services.{name}` with its `endpoints`");
    Error::new(Code::UnknownService, message)
}

pin_project_lite::pin_project! {
    /// Erases the response body, once.
    struct Edge<F> {
        #[pin]
        future: F,
    }
}

impl<F, B> Future for Edge<F>
where
    F: Future<Output = Result<Response<B>, Error>>,
    B: HttpBody<Data = Bytes, Error = Error> + Send + 'static,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().future.poll(cx).map(|result| {
            let mut response = result?;
            take_ours(&mut response)?;
            Ok(response.map(|body| if body.is_end_stream() { Body::empty() } else { Body::erase(body) }))
        })
    }
}

/// What a peer's mesh said in place of its service: `SINEW-E030; overflow`.
#[derive(Clone, Debug)]
pub(crate) struct PeerError(pub(crate) HeaderValue);

/// Our own headers end here; what they said to the application is kept as an extension.
///
/// # Errors
/// If the peer gave up at the deadline of this call: whose timer fires first is chance, and the caller should hear the
/// same either way.
fn take_ours<B>(response: &mut Response<B>) -> Result<(), Error> {
    while let Some(name) = response.headers().keys().find(|name| name.as_str().starts_with("sinew-")).cloned() {
        let value = response.headers_mut().remove(&name);
        let Some(value) = value.filter(|_| name == "sinew-error") else { continue };
        if response.status() == StatusCode::GATEWAY_TIMEOUT && value.as_bytes().starts_with(b"SINEW-E021") {
            let message = "the deadline of this call passed before its peer had answered; give it more time";
            return Err(Error::new(Code::DeadlineExhausted, message));
        }
        response.extensions_mut().insert(PeerError(value));
    }
    Ok(())
}

/// Calls to the service that the authority names, so that base URLs that exist already keep working.
pub(crate) struct HttpSeam {
    pub(crate) services: Services,
    pub(crate) join: Join,
    pub(crate) bare: bool,
}

/// Every service handle that was asked for or configured, by name.
#[derive(Clone)]
pub(crate) struct Services {
    handles: Arc<Mutex<BTreeMap<String, Arc<ServiceHandle>>>>,
    unknown: Arc<dyn Fn(&str) -> Result<Arc<ServiceHandle>, Error> + Send + Sync>,
}

impl Services {
    /// `unknown` makes the handle of a name that is not known yet.
    pub(crate) fn new(unknown: impl Fn(&str) -> Result<Arc<ServiceHandle>, Error> + Send + Sync + 'static) -> Self {
        Self { handles: Arc::default(), unknown: Arc::new(unknown) }
    }

    /// The handle of a service, made if it is new.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<ServiceHandle>, Error> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = handles.get(name) {
            return Ok(Arc::clone(handle));
        }
        let handle = (self.unknown)(name)?;
        handles.insert(name.to_owned(), Arc::clone(&handle));
        Ok(handle)
    }

    /// Every handle there is.
    pub(crate) fn all(&self) -> Vec<Arc<ServiceHandle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The service an authority names: by its name, else by the most specific of the configured hosts.
    fn by_authority(&self, authority: &str) -> Option<Arc<ServiceHandle>> {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = handles.get(host_of(authority)) {
            return Some(Arc::clone(handle));
        }
        handles
            .values()
            .filter_map(|handle| {
                let runtime: Arc<ServiceRuntime> = handle.runtime();
                let hosts = &runtime.spec.as_ref()?.hosts;
                let best = hosts.iter().filter(|host| host.matches(authority)).map(|host| host.specificity()).max()?;
                Some((best, handle))
            })
            .max_by_key(|(best, _)| *best)
            .map(|(_, handle)| Arc::clone(handle))
    }
}

impl Seam for HttpSeam {
    fn call(&self, request: Request<Body>) -> BoxedResponse {
        (self.join.0)();
        let authority = request
            .uri()
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| request.headers().get(HOST).and_then(|host| host.to_str().ok()));
        let error = match authority {
            Some(authority) => match self.services.by_authority(authority) {
                Some(handle) => return ServiceSeam::dispatch(&handle, request, self.bare),
                None => Error::new(
                    Code::UnknownService,
                    format!(
                        "no service is named `{authority}` or lists it under `hosts`; add it to `services`, or use another client"
                    ),
                ),
            },
            None => Error::new(
                Code::BadRequest,
                "the request names no host, by which this client finds the service; use an absolute URI such as \
                 `http://reviews/reviews/0`, or `mesh.client(name)`",
            ),
        };
        Box::pin(std::future::ready(Err(error)))
    }

    fn name(&self) -> &str {
        "http"
    }

    fn bare(&self) -> Arc<dyn Seam> {
        Arc::new(Self { services: self.services.clone(), join: self.join.clone(), bare: true })
    }

    fn ready(&self, _limit: Duration) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
        (self.join.0)();
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_send_sync_clone<T: Send + Sync + Clone>() {}

    #[test]
    fn a_client_is_two_words_and_goes_anywhere() {
        is_send_sync_clone::<Client>();
        assert_eq!(size_of::<Client>(), 2 * size_of::<usize>());
    }
}
