//! From headers to context: what a caller says about its request, checked before anybody believes it.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Request};

use super::{
    access::Audience,
    callers::{ClientCertValues, XFCC},
    policy::ServerPolicy,
};
use crate::{
    body::Body,
    caller::Caller,
    canon::Canonical,
    classify::is_grpc,
    context::{
        self, Context, Criticality, GRPC_PREVIOUS_ATTEMPTS, Inbound, Inner, SINEW_CTX, TraceContext, Tree, Wire,
    },
    limit::{Limited, Subject},
    peer::Peer,
    rt::Instant,
    seat::Carrier,
    shed::{Weighed, is_exempt},
    switch::Switches,
};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request inside the server stack.
pub(crate) struct Served {
    pub(crate) request: Request<Body>,
    pub(crate) cx: ServerContext,
}

/// What the stack knows about it.
pub(crate) struct ServerContext {
    pub(crate) context: Context,
    pub(crate) peer: Peer,
    pub(crate) audience: Audience,
    pub(super) policy: Arc<ServerPolicy>,
    pub(crate) started: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) grpc: bool,
    /// What patterns see; set once the request is known to have one meaning.
    pub(crate) canonical: Canonical,
    /// Set once what the request brings has been verified.
    pub(crate) caller: Caller,
    pub(super) client_cert: ClientCertValues,
}

impl Carrier for Served {
    type Context = ServerContext;

    fn open(mut self) -> (Request<Body>, ServerContext) {
        let inbound =
            Inbound { context: self.cx.context.clone(), peer: self.cx.peer.clone(), caller: self.cx.caller.clone() };
        self.request.extensions_mut().insert(inbound);
        (self.request, self.cx)
    }

    fn close(request: Request<Body>, cx: ServerContext) -> Self {
        Self { request, cx }
    }
}

impl Limited for Served {
    fn subject(&self) -> Subject<'_> {
        let path = self.cx.canonical.path(self.request.uri());
        Subject::of(&self.request).from_peer(&self.cx.peer).with_caller(&self.cx.caller).with_path(path)
    }

    fn at(&self) -> std::time::Instant {
        self.cx.started.into_std()
    }

    fn headers_mut(&mut self) -> Option<&mut HeaderMap> {
        Some(self.request.headers_mut())
    }
}

impl Weighed for Served {
    fn is_exempt(&self) -> bool {
        is_exempt(&self.request)
    }

    fn criticality(&self) -> Criticality {
        self.cx.context.criticality()
    }

    fn user(&self) -> Option<&str> {
        let inner = self.cx.context.inner();
        inner.fairness_key.as_deref().or(inner.request_id.as_deref())
    }

    fn at(&self) -> std::time::Instant {
        self.cx.started.into_std()
    }
}

impl Served {
    /// Decodes the context and takes our own headers out, so that the application neither sees nor forwards them.
    pub(super) fn new(
        mut request: Request<Body>,
        peer: Peer,
        audience: Audience,
        policy: Arc<ServerPolicy>,
        started: Instant,
    ) -> Self {
        let grpc = is_grpc(request.headers());
        let inner = decode(request.headers_mut(), &peer, started);
        let client_cert = strip(request.headers_mut());
        let deadline = inner.deadline;
        Self {
            request,
            cx: ServerContext {
                context: Context::new(inner),
                peer,
                audience,
                policy,
                started,
                deadline,
                grpc,
                canonical: Canonical::default(),
                caller: Caller::default(),
                client_cert,
            },
        }
    }
}

/// A timeout no caller means: guards the clock arithmetic.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn decode(headers: &mut HeaderMap, peer: &Peer, now: Instant) -> Inner {
    let mut inner = Inner { trace: TraceContext::from_headers(headers), ..Inner::default() };
    let at = |remaining: Duration| now + remaining.min(FAR);
    if let Some(timeout) = headers.get(GRPC_TIMEOUT) {
        inner.deadline = context::decode_grpc_timeout(timeout.as_bytes()).map(at);
    }
    if let Some(id) = headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()) {
        inner.request_id = Some(id.into());
        inner.x_request_id = true;
    }
    // Repeated headers count as malformed, hence absent.
    let single = {
        let mut values = headers.get_all(SINEW_CTX).iter();
        values.next().filter(|_| values.next().is_none())
    };
    if let Some(wire) = single.and_then(Wire::decode) {
        // A deadline can only make this process do less, so it counts from everyone.
        let nearer = wire.remaining.map(at);
        inner.deadline = match (inner.deadline, nearer) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        inner.attempt = wire.attempt;
        // From anybody: it only takes from what a request may cause.
        inner.mirror = wire.mirror;
        if inner.request_id.is_none() {
            inner.request_id = wire.request_id.map(Arc::from);
        }
        if peer.may_set_context() {
            inner.criticality = wire.criticality;
            inner.fairness_key = wire.fairness_key.map(Arc::from);
        }
    }
    if inner.attempt == 0 {
        inner.attempt = previous_attempts(headers);
    }
    inner.tree = Some(Tree::new(peer.may_set_context().then(|| grant(headers))));
    // Under a debugger a caller's time passes while nothing runs.
    if inner.deadline.is_some() && Switches::of_process().debugger() {
        inner.deadline = None;
    }
    inner
}

/// What the caller passes on of its tree's allowance. It is never more than what stands anywhere: the smallest of
/// repeated ones, and nothing where it cannot be read.
fn grant(headers: &HeaderMap) -> u8 {
    let read = |value| Wire::decode(value).map_or(0, |wire: Wire<'_>| wire.grant.unwrap_or(context::UNSAID));
    headers.get_all(SINEW_CTX).iter().map(read).min().unwrap_or(context::UNSAID)
}

/// What gRPC clients of other makes say of their retries (gRFC A6).
fn previous_attempts(headers: &HeaderMap) -> u32 {
    let value = headers.get(GRPC_PREVIOUS_ATTEMPTS).and_then(|value| value.to_str().ok());
    value.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Everything of ours is `sinew-*` and ends at this hop, and what only proxies of the inside say is not believed just
/// because somebody says it. Returns what was said of client certificates.
fn strip(headers: &mut HeaderMap) -> ClientCertValues {
    const INNER: [&str; 3] = ["sinew-", "x-envoy-", "x-sinew-"];
    let inner = |name: &HeaderName| {
        let name = name.as_str();
        matches!(name.as_bytes()[0], b's' | b'x')
            && (INNER.iter().any(|prefix| name.starts_with(prefix)) || name == XFCC)
    };
    let mut client_cert = None;
    while let Some(name) = headers.keys().find(|name| inner(name)).cloned() {
        if name == XFCC {
            client_cert = Some(Box::new(headers.get_all(&name).iter().cloned().collect()));
        }
        headers.remove(name);
    }
    client_cert
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{context::Criticality, peer::PeerAddr, rt};

    fn served(headers: &[(&'static str, &'static str)], peer: Peer) -> Served {
        let mut request = Request::new(Body::empty());
        for (name, value) in headers {
            request.headers_mut().append(*name, http::HeaderValue::from_static(value));
        }
        Served::new(request, peer, Audience::Mesh, Arc::default(), rt::now())
    }

    fn stranger() -> Peer {
        let addr = PeerAddr::Tcp(([127, 0, 0, 1], 1).into());
        Peer::new(addr.clone(), addr)
    }

    fn own_process() -> Peer {
        Peer::new(PeerAddr::Memory("a".into()), PeerAddr::Memory("b".into()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_nearer_deadline_counts_from_everyone() {
        let request = served(&[("grpc-timeout", "2S"), ("sinew-ctx", "d=500")], stranger());
        assert_eq!(request.cx.context.remaining(), Some(Duration::from_millis(500)));
        let request = served(&[("grpc-timeout", "nonsense")], stranger());
        assert_eq!(request.cx.deadline, None);
    }

    #[tokio::test(start_paused = true)]
    async fn criticality_counts_only_from_peers_that_may_set_it() {
        let headers = [("sinew-ctx", "c=3;n=1;r=abc")];
        let request = served(&headers, stranger());
        assert_eq!(request.cx.context.criticality(), Criticality::Critical);
        assert_eq!(request.cx.context.request_id(), Some("abc"));
        assert_eq!(request.cx.context.attempt(), 1);
        let request = served(&headers, own_process());
        assert_eq!(request.cx.context.criticality(), Criticality::Sheddable);
    }

    #[tokio::test(start_paused = true)]
    async fn an_allowance_counts_only_from_peers_that_may_set_it_and_is_never_guessed_up() {
        let allowance = |headers: &[(&'static str, &'static str)], peer| {
            served(headers, peer).cx.context.tree().unwrap().allowance(5)
        };
        // Where a stranger calls, the tree begins.
        assert_eq!(allowance(&[("sinew-ctx", "a=1")], stranger()), 5);
        assert_eq!(allowance(&[("sinew-ctx", "a=200")], stranger()), 5);
        for (headers, granted) in [
            (&[("sinew-ctx", "a=3;n=1")][..], 3),
            (&[("sinew-ctx", "a=0")], 0),
            (&[("sinew-ctx", "a=200")], 5),
            (&[], 1),
            (&[("sinew-ctx", "d=100")], 1),
            (&[("sinew-ctx", "a=256")], 0),
            (&[("sinew-ctx", "nonsense")], 0),
            (&[("sinew-ctx", "a=4"), ("sinew-ctx", "a=2")], 2),
            (&[("sinew-ctx", "a=4"), ("sinew-ctx", "x")], 0),
        ] {
            assert_eq!(allowance(headers, own_process()), granted, "{headers:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_of_other_grpc_clients_are_counted() {
        assert_eq!(served(&[("grpc-previous-rpc-attempts", "2")], stranger()).cx.context.attempt(), 2);
        assert_eq!(served(&[("grpc-previous-rpc-attempts", "x")], stranger()).cx.context.attempt(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn our_headers_do_not_reach_the_application() {
        let request = served(
            &[
                ("sinew-ctx", "d=1"),
                ("sinew-anything", "x"),
                ("x-sinew-user", "root"),
                ("x-envoy-peer-metadata", "x"),
                ("x-forwarded-client-cert", "URI=spiffe://td/root"),
                ("x-own", "y"),
            ],
            stranger(),
        );
        let names: Vec<_> = request.request.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["x-own"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeated_context_is_absent() {
        let request = served(&[("sinew-ctx", "d=1"), ("sinew-ctx", "d=2")], stranger());
        assert_eq!(request.cx.deadline, None);
    }
}
