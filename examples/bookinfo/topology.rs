//! Which instance listens where, and the `sinew.yaml` that says so.

use std::{
    fmt::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Every service and version there is, with the port it has where ports are fixed.
pub(crate) const INSTANCES: [(&str, &str, u16); 6] = [
    ("productpage", "v1", 9080),
    ("details", "v1", 9081),
    ("reviews", "v1", 9082),
    ("reviews", "v2", 9083),
    ("reviews", "v3", 9084),
    ("ratings", "v1", 9085),
];

/// The routes of a service.
#[derive(Clone)]
pub(crate) struct Routes(pub(crate) Vec<String>);

impl Routes {
    pub(crate) fn all_to(version: &str) -> Self {
        Self(vec![format!("{{ name: everybody, to: {version} }}")])
    }

    /// One user to one version, everybody else by other routes.
    pub(crate) fn user_to(user: &str, version: &str, others: Routes) -> Self {
        let mut routes =
            vec![format!("{{ name: {user}, match: {{ headers: {{ end-user: {user} }} }}, to: {version} }}")];
        routes.extend(others.0);
        Self(routes)
    }

    /// A fault for one user, none for everybody else.
    pub(crate) fn fault_for(user: &str, fault: &str) -> Self {
        Self(vec![
            format!("{{ name: {user}, match: {{ headers: {{ end-user: {user} }} }}, fault: {fault} }}"),
            "{ name: everybody }".into(),
        ])
    }

    /// Everybody to one version, for so long.
    pub(crate) fn timed(version: &str, timeout: &str) -> Self {
        Self(vec![format!("{{ name: everybody, to: {version}, timeout: {timeout} }}")])
    }

    /// A fault for everybody.
    pub(crate) fn fault(fault: &str) -> Self {
        Self(vec![format!("{{ name: everybody, fault: {fault} }}")])
    }

    /// Everybody to one version, and a copy of each request to another.
    /// `at_once` copies may be on their way: one more is not sent.
    pub(crate) fn mirrored(version: &str, copies_to: &str, at_once: usize) -> Self {
        Self(vec![format!(
            "{{ name: everybody, to: {version}, mirror: {{ to: {copies_to}, percent: 100%, max_concurrent: {at_once} }} }}"
        )])
    }

    pub(crate) fn split(weights: &[(&str, u32)]) -> Self {
        let weights: Vec<_> = weights.iter().map(|(version, weight)| format!("{version}: {weight}")).collect();
        Self(vec![format!("{{ name: everybody, split: {{ {} }} }}", weights.join(", "))])
    }
}

/// Who may call whom: names, what is asked of the caller, and who is called, by port, since all services read the same file.
#[derive(Clone, Default)]
pub(crate) struct Access(Vec<(&'static str, String, &'static str)>);

impl Access {
    /// A rule with this name: `GET` by this service, or by everybody, to that service.
    pub(crate) fn allow(&mut self, name: &'static str, from: Option<&'static str>, to: &'static str) {
        let from = from.map_or(String::new(), |from| format!(" from: [\"spiffe://dev.local/ns/default/sa/{from}\"],"));
        self.0.push((name, from, to));
    }

    /// A rule with this name: `GET` to that service, with a token of this issuer and, if any, these claims.
    pub(crate) fn allow_tokens(&mut self, name: &'static str, issuer: &str, claims: &str, to: &'static str) {
        let claims = if claims.is_empty() { String::new() } else { format!(" claims: {{ {claims} }},") };
        self.0.push((name, format!(" from: {{ request_principals: [\"{issuer}/*\"] }},{claims}"), to));
    }

    fn render(&self, text: &mut String, endpoints: &[(String, String, SocketAddr)]) {
        text.push_str("  authz:\n    allow:\n");
        for (name, asked, to) in &self.0 {
            let ports: Vec<_> = endpoints
                .iter()
                .filter(|(service, ..)| service == to)
                .map(|(_, _, addr)| addr.port().to_string())
                .collect();
            let _ = writeln!(text, "      - {{ name: {name},{asked} methods: [GET], ports: [{}] }}", ports.join(", "));
        }
        if self.0.is_empty() {
            text.truncate(text.trim_end().len());
            text.push_str(" []\n");
        }
    }
}

/// The configuration of all services: one file, read by each of them.
pub(crate) struct Topology {
    path: PathBuf,
    pub(crate) endpoints: Vec<(String, String, SocketAddr)>,
    /// The routes of `reviews`.
    pub(crate) routes: Routes,
    /// The routes of `ratings`; none at first.
    pub(crate) ratings: Routes,
    /// What listeners ask of their peers.
    pub(crate) mtls: &'static str,
    /// Without rules every member may call every service.
    pub(crate) access: Option<Access>,
    /// Whose tokens verify, and by which keys.
    pub(crate) tokens: Option<(&'static str, String)>,
    /// Whether calls to `ratings` end when the page stops waiting.
    pub(crate) ratings_inherit: bool,
}

impl Topology {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            path: directory.join("sinew.yaml"),
            endpoints: Vec::new(),
            routes: Routes::all_to("v1"),
            ratings: Routes(Vec::new()),
            mtls: "permissive",
            access: None,
            tokens: None,
            ratings_inherit: true,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn add(&mut self, service: &str, version: &str, addr: SocketAddr) {
        self.endpoints.push((service.to_owned(), version.to_owned(), addr));
    }

    pub(crate) fn remove(&mut self, addr: SocketAddr) {
        self.endpoints.retain(|(_, _, there)| *there != addr);
    }

    /// Writes the file as an editor does: beside it, then renamed over it, so that nobody reads half of it. False if it
    /// says all that already.
    pub(crate) fn write(&self) -> std::io::Result<bool> {
        let text = self.render();
        if std::fs::read_to_string(&self.path).is_ok_and(|there| there == text) {
            return Ok(false);
        }
        let beside = self.path.with_extension("yaml.new");
        std::fs::write(&beside, text)?;
        std::fs::rename(beside, &self.path)?;
        Ok(true)
    }

    fn render(&self) -> String {
        let mut text = String::from(
            "# Every Bookinfo service reads this file, and reads it again when it changes.\nversion: 1\n\
             identity: { source: dev }\ndrain: { lame_duck: 0s, deadline: 5s }\n",
        );
        let _ = writeln!(text, "mtls: {}", self.mtls);
        if self.access.is_some() || self.tokens.is_some() {
            text.push_str("inbound:\n");
        }
        if let Some((issuer, keys)) = &self.tokens {
            let _ = writeln!(
                text,
                "  authn:\n    jwt:\n      - {{ issuer: \"{issuer}\", audiences: [bookinfo], jwks: '{keys}' }}"
            );
        }
        if let Some(access) = &self.access {
            access.render(&mut text, &self.endpoints);
        }
        text.push_str("services:\n");
        for service in ["productpage", "details", "reviews", "ratings"] {
            let _ = writeln!(text, "  {service}:\n    endpoints:");
            let mut none = true;
            for (_, version, addr) in self.endpoints.iter().filter(|(name, ..)| name == service) {
                let _ = writeln!(text, "      - {{ static: [\"{addr}\"], labels: {{ version: {version} }} }}");
                none = false;
            }
            if none {
                text.truncate(text.trim_end().len());
                text.push_str(" [{ static: [] }]\n");
            }
            let routes = match service {
                "reviews" => {
                    text.push_str("    subsets: { v1: { version: v1 }, v2: { version: v2 }, v3: { version: v3 } }\n");
                    &self.routes.0
                }
                "ratings" => {
                    if !self.ratings_inherit {
                        text.push_str("    timeouts: { honor_inbound_deadline: false }\n");
                    }
                    &self.ratings.0
                }
                _ => continue,
            };
            if !routes.is_empty() {
                text.push_str("    routes:\n");
            }
            for route in routes {
                let _ = writeln!(text, "      - {route}");
            }
        }
        text
    }
}
