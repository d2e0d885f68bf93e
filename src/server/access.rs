//! Rules, the listener's own rule, and the view of a request that both are asked about.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::HeaderName;

use super::{
    audit::Log,
    external::{Ask, External},
    inbound::Served,
};
use crate::{
    authz::{Action, Authorizer, Baseline, Decision, Known, Why, audit::AuditQueue},
    caller::Caller,
    canon::{self, HttpView, View},
    error::{Code, Error},
    instrument::Registry,
    model::{Mtls, Snapshot},
    name::ServiceName,
    peer::{Peer, PeerAddr},
    rt::Rng,
};

/// For whom a listener is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Audience {
    /// Members of the mesh.
    Mesh,
    /// Callers outside of the mesh.
    Edge,
    /// Whoever a listener admits that is not ours: nobody's identity is known.
    Foreign,
}

/// Who may ask for what, at one moment.
#[derive(Debug)]
pub(crate) struct Access {
    authorizer: Authorizer,
    mesh: Baseline,
    foreign: Baseline,
    /// What an exchange keeps of its headers; `None` if rules name none.
    names: Option<Arc<[HeaderName]>>,
    /// The rules that ask somebody else, in the order of the policies.
    external: Vec<Arc<External>>,
    audit: Option<Log>,
    registry: Registry,
}

/// What is known of a request or a connection.
pub(super) struct Facts<'a> {
    pub(super) peer: &'a Peer,
    pub(super) caller: &'a Caller,
    pub(super) http: Option<HttpView<'a>>,
    pub(super) draw: u32,
}

impl Access {
    /// `audit` is where decisions are written, `service` how the services of the mesh are asked.
    pub(crate) fn new(
        snapshot: &Snapshot,
        registry: &Registry,
        audit: Option<Arc<AuditQueue>>,
        service: impl Fn(&ServiceName) -> Arc<dyn Ask>,
    ) -> Self {
        let inbound = &snapshot.inbound;
        let members = |plaintext| match (&snapshot.identity, &snapshot.mesh.trust_domain) {
            (Some(_), Some(domain)) => Baseline::Members { trust_domain: domain.clone(), plaintext },
            (Some(_), None) => Baseline::Nobody,
            (None, _) => Baseline::Everyone,
        };
        let mesh = match snapshot.listeners.mesh.unwrap_or(snapshot.mtls) {
            Mtls::Strict => members(false),
            Mtls::Permissive => members(true),
            Mtls::Off => Baseline::Everyone,
        };
        let authorizer = Authorizer::new(&[&inbound.pinned_authz, &inbound.authz], registry);
        let names = Some(authorizer.kept_headers()).filter(|names| !names.is_empty()).map(Arc::from);
        let rules = inbound.pinned_authz.rules.iter().chain(&inbound.authz.rules);
        let external = rules.filter(|rule| rule.action == Action::Custom);
        let external = external
            .map(|rule| {
                let asked = rule.ext_authz.as_ref().map(|policy| (policy.clone(), service(&policy.service)));
                Arc::new(External::new(&rule.name, asked, registry))
            })
            .collect();
        let (audit, foreign, registry) = (audit.map(Log::new), members(false), registry.clone());
        Self { authorizer, mesh, foreign, names, external, audit, registry }
    }

    /// Whether every request of every audience is allowed.
    pub(crate) fn is_open(&self) -> bool {
        let everyone = |baseline: &Baseline| *baseline == Baseline::Everyone;
        self.authorizer.is_empty() && everyone(&self.mesh) && everyone(&self.foreign)
    }

    fn baseline(&self, audience: Audience) -> &Baseline {
        match audience {
            Audience::Mesh => &self.mesh,
            Audience::Edge => &Baseline::Everyone,
            Audience::Foreign => &self.foreign,
        }
    }

    /// The headers by which an exchange is judged again.
    pub(super) fn names(&self) -> Option<&Arc<[HeaderName]>> {
        self.names.as_ref()
    }

    /// Whether anything that arrives from there may be allowed, by the addresses alone.
    pub(super) fn admits_address(&self, remote: &PeerAddr, local: &PeerAddr) -> bool {
        if !self.authorizer.refuses_addresses() {
            return true;
        }
        let (peer, caller) = (Peer::new(remote.clone(), local.clone()), Caller::default());
        let view = Facts { peer: &peer, caller: &caller, http: None, draw: 0 }.view();
        match self.authorizer.refuses(&view) {
            None => true,
            Some(rule) => {
                tracing::info!(code = %Code::Denied, rule = &*rule.name, peer = %remote, "a connection is denied");
                rule.count();
                if let Some(log) = &self.audit {
                    log.refused(remote, &rule.name);
                }
                false
            }
        }
    }

    /// Whether anything that this peer may ask for can be allowed.
    ///
    /// # Errors
    /// E051 if nothing can.
    pub(super) fn admits_connection(&self, peer: &Peer, audience: Audience) -> Result<(), Error> {
        let caller = Caller::default();
        let facts = Facts { peer, caller: &caller, http: None, draw: 0 };
        self.possible(&facts, Known::Connection, audience, "connection")
    }

    /// Whether an exchange that began earlier would be allowed now, as far as can be told.
    ///
    /// # Errors
    /// E051 if it would be denied.
    pub(super) fn still_allows(
        &self,
        facts: &Facts<'_>,
        names: &[HeaderName],
        audience: Audience,
        what: &'static str,
    ) -> Result<(), Error> {
        self.possible(facts, Known::Exchange(names), audience, what)
    }

    fn possible(&self, facts: &Facts<'_>, known: Known<'_>, audience: Audience, what: &str) -> Result<(), Error> {
        let view = facts.view();
        let Err(why) = self.authorizer.possible(&view, known, self.baseline(audience)) else { return Ok(()) };
        let (rule, peer) = (&*why.rule().name, facts.peer.remote_addr());
        let path = view.http.as_ref().and_then(|http| http.path);
        tracing::info!(code = %Code::Denied, rule, %peer, principal = view.principal, path, what, "not allowed any more");
        self.registry.counter("sinew_authz_revoked_total", &[("rule", rule), ("what", what)]).inc();
        if let Some(log) = &self.audit {
            log.revoked(facts, &view, why, what);
        }
        Err(Error::new(Code::Denied, format!("{}: not allowed any more", reason(why))))
    }

    /// Whether this request may go on; what was drawn for it, and who is to be asked before.
    ///
    /// # Errors
    /// E051 where it is denied, E055 where a header that rules look at has no one meaning.
    pub(super) fn check(&self, served: &Served) -> Result<(u32, Vec<Arc<External>>), Error> {
        let headers = served.request.headers();
        for name in self.authorizer.headers() {
            let mut values = headers.get_all(name).iter();
            let text = values.next().is_none_or(|value| std::str::from_utf8(value.as_bytes()).is_ok());
            if !text || values.next().is_some() {
                return Err(Error::new(Code::BadRequest, format!("header: `{name}` occurs twice, or is not text"))
                    .with_reason("header"));
            }
        }
        let draw = if self.authorizer.draws() { Rng::local().below(1_000_000) } else { 0 };
        let view = view(served, draw);
        let decision = self.authorizer.decide(&view, self.baseline(served.cx.audience));
        if let Some(rule) = decision.audit {
            let who = view.principal.unwrap_or("-");
            tracing::info!(
                target: "sinew::audit", rule = &*rule.name, allowed = decision.allowed, peer = %served.cx.peer.remote_addr(),
                principal = who, method = %served.request.method(), path = view.http.as_ref().and_then(|http| http.path),
            );
        }
        let mut asked = Vec::new();
        if decision.allowed && !self.external.is_empty() {
            let mut numbers = Vec::new();
            self.authorizer.asked_by(&view, |number| numbers.push(number));
            // In the order in which they are written.
            numbers.sort_unstable();
            asked.extend(numbers.into_iter().filter_map(|number| self.external.get(number)).cloned());
        }
        if let Some(log) = &self.audit {
            log.decided(served, &view, &decision, !asked.is_empty())?;
        }
        if !decision.allowed {
            return Err(denied(served, &view, &decision));
        }
        Ok((draw, asked))
    }

    /// Writes that an authorization service denied, or did not answer.
    pub(super) fn audit_asked(&self, served: &Served, rule: &str, reason: &str) {
        if let Some(log) = &self.audit {
            log.asked(served, &view(served, 0), rule, reason);
        }
    }
}

#[cold]
fn denied(served: &Served, view: &View<'_>, decision: &Decision<'_>) -> Error {
    let why = reason(decision.why);
    let who = view.principal.unwrap_or("a peer without identity");
    let (method, path) = (served.request.method(), view.http.as_ref().and_then(|http| http.path).unwrap_or("-"));
    let peer = served.cx.peer.remote_addr();
    tracing::info!(
        code = %Code::Denied, rule = &*decision.why.rule().name, %peer, principal = view.principal, %method, path, "denied",
    );
    Error::new(Code::Denied, format!("{why} {method} {path} from {who} at {peer}"))
}

fn reason(why: Why<'_>) -> String {
    match why {
        Why::Rule(rule) => format!("rule `{}` denies", rule.name),
        Why::NoRule(_) => "no rule allows".to_owned(),
        Why::Baseline(_) => "without rules only peers of the same trust domain are admitted, which excludes".to_owned(),
    }
}

/// What rules see of a request. `served` was made canonical before.
fn view(served: &Served, draw: u32) -> View<'_> {
    let request = &served.request;
    let path = served.cx.canonical.path(request.uri());
    let http = HttpView {
        authority: canon::host(request.uri(), request.headers()),
        method: canon::method(request.method(), request.uri()),
        path: path.starts_with('/').then_some(path),
        target: request.uri().path_and_query().map(|target| target.as_str()),
        headers: request.headers(),
    };
    Facts { peer: &served.cx.peer, caller: &served.cx.caller, http: Some(http), draw }.view()
}

impl<'a> Facts<'a> {
    fn view(&self) -> View<'a> {
        let address = |address: &PeerAddr| match address {
            PeerAddr::Tcp(address) => Some(SocketAddr::new(address.ip().to_canonical(), address.port())),
            PeerAddr::Memory(_) => None,
        };
        let remote: Option<IpAddr> = address(self.peer.remote_addr()).map(|address| address.ip());
        View {
            principal: self.peer.id().map(|id| id.as_str()),
            in_process: self.peer.is_in_process(),
            peer: remote,
            client: self.caller.client_ip().or(remote),
            token: self.caller.token(),
            api_key: self.caller.api_key(),
            local: address(self.peer.local_addr()),
            server_name: self.peer.server_name(),
            http: self.http.clone(),
            draw: self.draw,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Request};

    use super::*;
    use crate::{
        authz::{Operation, Policy, Rule, Source, Text, When, WhenKey},
        body::Body,
        canon::{PathNormalization, canonicalize},
        model::{IdentitySource, InboundSpec},
        name::SpiffeId,
        rt,
    };

    const WEB: &str = "spiffe://td.example/ns/prod/sa/web";

    fn access(identity: bool, mtls: Mtls, policy: Policy) -> Access {
        let mut snapshot = Snapshot::new(ServiceName::new("s").unwrap());
        snapshot.identity = identity.then_some(IdentitySource::Dev);
        snapshot.mesh.trust_domain = Some("td.example".into());
        snapshot.mtls = mtls;
        snapshot.inbound = Arc::new(InboundSpec { authz: policy, ..InboundSpec::default() });
        Access::new(&snapshot, &Registry::default(), None, |_| unreachable!("no rule asks"))
    }

    fn peer(id: Option<&str>) -> Peer {
        let (remote, local) = (([127, 0, 0, 1], 40_000).into(), ([127, 0, 0, 1], 9080).into());
        let (remote, local) = (PeerAddr::Tcp(remote), PeerAddr::Tcp(local));
        match id {
            Some(id) => Peer::proven(remote, local, SpiffeId::new(id).unwrap(), true),
            None => Peer::new(remote, local),
        }
    }

    fn served(request: http::request::Builder, peer: Peer, audience: Audience) -> Served {
        let request = request.header("host", "s").body(Body::empty()).unwrap();
        let mut served = Served::new(request, peer, audience, Arc::default(), rt::now());
        served.cx.canonical = canonicalize(&mut served.request, false, PathNormalization::Strict).unwrap();
        served
    }

    fn code(access: &Access, id: Option<&str>, audience: Audience) -> Option<Code> {
        let served = served(Request::get("/a"), peer(id), audience);
        access.check(&served).err().map(|error| error.code())
    }

    #[tokio::test(start_paused = true)]
    async fn without_rules_each_audience_has_its_own() {
        let strict = access(true, Mtls::Strict, Policy::default());
        assert_eq!(code(&strict, Some(WEB), Audience::Mesh), None);
        assert_eq!(code(&strict, Some("spiffe://other/x"), Audience::Mesh), Some(Code::Denied));
        assert_eq!(code(&strict, None, Audience::Mesh), Some(Code::Denied));
        assert_eq!(code(&strict, None, Audience::Foreign), Some(Code::Denied));
        assert_eq!(code(&strict, Some(WEB), Audience::Foreign), None);
        assert_eq!(code(&strict, None, Audience::Edge), None);
        let permissive = access(true, Mtls::Permissive, Policy::default());
        assert_eq!(code(&permissive, None, Audience::Mesh), None);
        assert_eq!(code(&permissive, Some("spiffe://other/x"), Audience::Mesh), Some(Code::Denied));
        assert_eq!(code(&permissive, None, Audience::Foreign), Some(Code::Denied));
        let off = access(true, Mtls::Off, Policy::default());
        assert_eq!(code(&off, None, Audience::Mesh), None);
        let none = access(false, Mtls::Off, Policy::default());
        assert!(none.is_open());
        assert_eq!(code(&none, None, Audience::Foreign), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rule_that_allows_holds_for_every_audience() {
        let rule = Rule::allow("web").from(Source::principals([WEB]).unwrap());
        let access = access(true, Mtls::Permissive, Policy::new([rule]));
        for audience in [Audience::Mesh, Audience::Edge, Audience::Foreign] {
            assert_eq!(code(&access, Some(WEB), audience), None, "{audience:?}");
            assert_eq!(code(&access, None, audience), Some(Code::Denied), "{audience:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_operator_learns_the_rule_and_who_asked() {
        let rule = Rule::deny("no-admin")
            .to(Operation { paths: vec![crate::authz::PathText::new("/admin/*").unwrap()], ..Operation::default() });
        let access = access(true, Mtls::Strict, Policy::new([rule]));
        let error = access.check(&served(Request::get("/admin/x"), peer(Some(WEB)), Audience::Mesh)).unwrap_err();
        let text =
            "SINEW-E051 rule `no-admin` denies GET /admin/x from spiffe://td.example/ns/prod/sa/web at 127.0.0.1:40000";
        assert_eq!(error.to_string(), text);
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_rules_look_at_stands_once() {
        let role = WhenKey::Header(HeaderName::from_static("x-role"));
        let rule = Rule::deny("no-guests").when(When::new(role, [Text::exact("guest")]));
        let access = access(false, Mtls::Off, Policy::new([rule]));
        let check = |values: &[&[u8]]| {
            let mut request = Request::get("/");
            for value in values {
                request = request.header("x-role", *value);
            }
            access.check(&served(request, peer(None), Audience::Mesh)).err().map(|error| (error.code(), error.reason()))
        };
        assert_eq!(check(&[]), None);
        assert_eq!(check(&[b"user"]), None);
        assert_eq!(check(&[b"guest"]), Some((Code::Denied, None)));
        assert_eq!(check(&[b"user", b"guest"]), Some((Code::BadRequest, Some("header"))));
        assert_eq!(check(&[b"guest\xff"]), Some((Code::BadRequest, Some("header"))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_websocket_over_http2_is_a_get_and_a_tunnel_matches_no_path() {
        let get = |path: &str| {
            let to = Operation {
                methods: vec![Method::GET],
                paths: vec![crate::authz::PathText::new(path).unwrap()],
                ..Operation::default()
            };
            access(false, Mtls::Off, Policy::new([Rule::allow("ws").to(to)]))
        };
        let extended = || served(Request::connect("https://s/ws"), peer(None), Audience::Mesh);
        assert!(get("/ws").check(&extended()).is_ok());
        assert!(get("/other").check(&extended()).is_err());
        let tunnel = served(Request::connect("s:443"), peer(None), Audience::Mesh);
        assert!(get("*").check(&tunnel).is_err());
    }
}
