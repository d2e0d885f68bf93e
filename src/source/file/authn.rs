//! The grammar of `inbound.authn`, and its values printed.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, Uri};
use serde_json::json;

use super::{
    authz::{net, one_or_some},
    cursor::{Cursor, Fields, Wrong},
    routes::header_name,
    security::workload_api,
    show::{map, quoted},
};
use crate::{
    authn::{
        ApiKeys, Authn, ClientAddress, ClientCert, ForwardedHeader, JwtIssuer, JwtKeys, JwtLocation, KeyHash,
        KeyOrigin, KeySet,
    },
    name::{SpiffeId, TrustDomain},
    source::{document::PartialAuthn, duration::format as duration},
};

const MIN_TIMEOUT: Duration = Duration::from_millis(100);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
const MIN_CACHE: Duration = Duration::from_secs(10);
const MAX_SKEW: Duration = Duration::from_secs(300);

/// `inbound.authn`.
pub(super) fn authn(at: Cursor<'_, '_, '_>) -> Option<PartialAuthn> {
    at.map("a map", |fields| PartialAuthn {
        jwt: fields.field(
            "jwt",
            "Issuers of JSON Web Tokens. A token of theirs has to verify; whether one is needed is for `authz` to say. \
             Default: tokens are not looked at.",
            |at| at.list("a list of issuers", issuer),
        ),
        api_keys: fields.field("api_keys", "API keys, by their hashes. Default: none.", api_keys),
        client_address: fields.field(
            "client_address",
            "Whose word on the client's address counts. Default: nobody's, it is the peer's.",
            client_address,
        ),
        forward_client_cert: fields.field(
            "forward_client_cert",
            "What becomes of `x-forwarded-client-cert`. Default `sanitize`: it is taken out.",
            |at| at.choice("a way to treat it", &CERT_MODES, &[]),
        ),
        forward_client_cert_from: fields.field(
            "forward_client_cert_from",
            "SPIFFE IDs of the proxies whose `x-forwarded-client-cert` is believed. Default: none.",
            |at| one_or_some(at, "a SPIFFE ID, or a list of them", |at| at.parsed::<SpiffeId>("a SPIFFE ID")),
        ),
    })
}

const CERT_MODES: [(&str, ClientCert); 4] = [
    ("sanitize", ClientCert::Sanitize),
    ("forward_only", ClientCert::ForwardOnly),
    ("append_forward", ClientCert::AppendForward),
    ("sanitize_set", ClientCert::SanitizeSet),
];

fn texts(at: Cursor<'_, '_, '_>) -> Option<Vec<Arc<str>>> {
    one_or_some(at, "a text, or a list of texts", |at| at.text("a text"))
}

fn issuer(at: Cursor<'_, '_, '_>) -> Option<JwtIssuer> {
    at.map("a map with `issuer`", |fields| {
        let issuer = fields.field("issuer", "Its `iss`, compared literally.", |at| at.text("an issuer"));
        let domain = fields.field(
            "trust_domain",
            "Instead of `issuer`: the trust domain whose JWT-SVIDs are accepted, by the keys of its SPIFFE bundle.",
            |at| {
                at.scalar("a trust domain", json!({ "type": "string" }), |text| {
                    TrustDomain::new(text).map_err(Wrong::plain)
                })
            },
        );
        let audiences = fields.field(
            "audiences",
            "`aud` has to hold one of these. Default: any, for tokens that are made for this service only.",
            texts,
        );
        let keys = keys(fields, domain.is_some());
        let mut locations = Vec::new();
        let from_headers = fields.field("from_headers", "Headers where a token stands.", |at| {
            at.list("a list of headers", |at| {
                at.map("a map with `name` and `prefix`", |fields| {
                    let name = fields.field("name", "The header.", header);
                    let prefix = fields
                        .field("prefix", "What stands before the token. Default nothing.", |at| at.text("a prefix"));
                    fields.exactly_one(&["name"]);
                    let prefix = prefix.map_or_else(|| "".into(), |set| set.value);
                    name.map(|name| JwtLocation::Header { name: name.value, prefix })
                })
                .flatten()
            })
        });
        locations.extend(from_headers.into_iter().flat_map(|set| set.value).map(|set| set.value));
        let from_params = fields.field("from_params", "Parameters of the query where a token stands.", texts);
        locations.extend(from_params.into_iter().flat_map(|set| set.value).map(JwtLocation::Param));
        let from_cookies = fields.field("from_cookies", "Cookies where a token stands.", texts);
        locations.extend(from_cookies.into_iter().flat_map(|set| set.value).map(JwtLocation::Cookie));
        let forward = fields.field(
            "forward_original_token",
            "Whether the application sees the token. Default `false`: it sees the claims.",
            |at| at.boolean(),
        );
        let payload =
            fields.field("output_payload_to_header", "Where the payload goes, base64url. Default nowhere.", header);
        let claims = fields.group("output_claim_to_headers", "Headers that hold claims: `{x-user: sub}`.", |at| {
            at.keyed("a map from headers to claims", header_name, |at| at.text("a claim"))
        });
        let spaced = fields.field(
            "space_delimited_claims",
            "Claims whose text is a list with spaces, besides `scope` and `permission`.",
            texts,
        );
        let skew = fields.field("clock_skew", "What clocks may differ by. Default 30s, at most 5m.", |at| {
            between(at, Duration::ZERO, MAX_SKEW)
        });
        let expiry = fields.field("require_expiration", "Whether `exp` is needed. Default `true`.", |at| at.boolean());
        let eddsa = fields.field("allow_eddsa", "Whether `EdDSA` is accepted. Default `false`.", |at| at.boolean());
        fields.exactly_one(&["issuer", "trust_domain"]);
        if fields.has("trust_domain") && !fields.has("audiences") {
            let help = "add `audiences`: a JWT-SVID is made for somebody, and that has to be this service";
            fields.report("trust_domain", Wrong::new("`audiences` is missing", help));
        }
        let audiences = audiences.map(|set| set.value).unwrap_or_default();
        let mut policy = match domain {
            Some(domain) => JwtIssuer::svids(domain.value, audiences, keys?),
            None => {
                let mut policy = JwtIssuer::new(issuer?.value, keys?);
                policy.audiences = audiences;
                policy
            }
        };
        policy.locations = locations;
        policy.forward_original_token = forward.is_some_and(|set| set.value);
        policy.output_payload_to_header = payload.map(|set| set.value);
        policy.output_claim_to_headers = claims.into_iter().map(|(name, set)| (name, set.value)).collect();
        policy.space_delimited_claims = spaced.map(|set| set.value.into()).unwrap_or_default();
        policy.clock_skew = skew.map_or(policy.clock_skew, |set| set.value);
        policy.allow_missing_exp = expiry.is_some_and(|set| !set.value);
        policy.allow_eddsa = eddsa.is_some_and(|set| set.value);
        Some(policy)
    })
    .flatten()
}

fn between(at: Cursor<'_, '_, '_>, min: Duration, max: Duration) -> Option<Duration> {
    let mark = at.node.map(|node| node.mark);
    let Cursor { reading, node } = at;
    let value = Cursor { reading: &mut *reading, node }.duration(min)?;
    if value <= max {
        return Some(value);
    }
    let wrong = Wrong::new(format!("{} is too long", duration(value)), format!("write at most `{}`", duration(max)));
    reading.report(mark?, wrong);
    None
}

fn header(at: Cursor<'_, '_, '_>) -> Option<HeaderName> {
    at.scalar("a header name", json!({ "type": "string" }), header_name)
}

fn keys(fields: &mut Fields<'_, '_, '_>, bundle: bool) -> Option<JwtKeys> {
    let origin = if bundle { KeyOrigin::Bundle } else { KeyOrigin::Local };
    let uri = fields.field(
        "jwks_uri",
        "Where its keys are, by `https`. Default: as OpenID Connect discovery of the issuer says.",
        https,
    );
    let inline = fields.field("jwks", "Its keys as a text of JSON; the only place for shared secrets.", |at| {
        at.scalar("a key set", json!({ "type": "string" }), |text| match KeySet::read(text.as_bytes(), origin) {
            Ok(_) => Ok(Arc::<str>::from(text)),
            Err(refused) => Err(Wrong::plain(format_args!("that is no usable key set: {}", refused.why))),
        })
    });
    let file = fields.field("jwks_file", "A file with its keys, read again every 10s.", |at| {
        at.scalar("a path", json!({ "type": "string" }), |text| Ok(PathBuf::from(text)))
    });
    let doc = "With `trust_domain`: the SPIFFE Workload API that knows its bundle, `unix:/path` or `tcp://IP:PORT`.";
    let workload = fields.field("workload_api", doc, workload_api);
    let timeout = fields.field("timeout", "One fetch of its keys, body included. Default 5s, 100ms to 1m.", |at| {
        between(at, MIN_TIMEOUT, MAX_TIMEOUT)
    });
    let cache = fields
        .field("cache_duration", "How long keys are fresh. Default 5m, at least 10s.", |at| at.duration(MIN_CACHE));
    let networks = fields.field(
        "jwks_networks",
        "Networks that are not public and may be dialled for its keys. Default: none.",
        |at| one_or_some(at, "a network, or a list of networks", net),
    );
    if !fields.at_most_one(&["jwks_uri", "jwks", "jwks_file", "workload_api"]) {
        return None;
    }
    for key in ["timeout", "cache_duration", "jwks_networks"] {
        if fields.has(key) && ["jwks", "jwks_file", "workload_api"].into_iter().any(|keys| fields.has(keys)) {
            fields.report(key, Wrong::new(format!("`{key}` is for keys that are fetched"), "remove it"));
        }
    }
    // One that is there and could not be read is no default.
    if fields.has("jwks") {
        return inline.map(|set| JwtKeys::Inline(set.value));
    }
    if fields.has("jwks_file") {
        return file.map(|set| JwtKeys::File(set.value));
    }
    if fields.has("workload_api") {
        if !bundle {
            let wrong =
                Wrong::new("a Workload API knows trust domains only", "name one by `trust_domain`, not an `issuer`");
            fields.report("workload_api", wrong);
            return None;
        }
        return workload.map(|set| JwtKeys::WorkloadApi(set.value));
    }
    if fields.has("jwks_uri") && uri.is_none() {
        return None;
    }
    if bundle && uri.is_none() {
        fields.report(
            "trust_domain",
            Wrong::new("where its bundle is, is missing", "add `workload_api`, `jwks_file` or `jwks_uri`"),
        );
        return None;
    }
    Some(JwtKeys::Remote {
        uri: uri.map(|set| set.value),
        timeout: timeout.map_or(Duration::from_secs(5), |set| set.value),
        cache_duration: cache.map_or(Duration::from_secs(300), |set| set.value),
        networks: networks.map(|set| set.value).unwrap_or_default(),
    })
}

fn https(at: Cursor<'_, '_, '_>) -> Option<Arc<str>> {
    at.scalar("a URI", json!({ "type": "string", "pattern": "^https://" }), |text| match text.parse::<Uri>() {
        Ok(uri)
            if uri.scheme_str() == Some("https") && !uri.authority().is_some_and(|own| own.as_str().contains('@')) =>
        {
            Ok(text.into())
        }
        _ => Err(Wrong::new(
            format!("`{}` is not an https URI", text.escape_debug()),
            "keys that arrive in plaintext verify nothing: write `https://HOST/PATH`",
        )),
    })
}

fn api_keys(at: Cursor<'_, '_, '_>) -> Option<ApiKeys> {
    at.map("a map with `keys`", |fields| {
        let header = fields.field("header", "Where a key stands. Default `x-api-key`.", header);
        let keys = fields.group("keys", "Names, and the SHA-256 of their keys: `{alice: sha256:..}`.", |at| {
            at.keyed("a map from names to hashes", |key| Ok(Arc::<str>::from(key)), hash)
        });
        fields.exactly_one(&["keys"]);
        let mut names = BTreeMap::new();
        for (name, set) in keys {
            if let Some(other) = names.insert(set.value, name.clone()) {
                let wrong =
                    Wrong::new(format!("`{other}` and `{name}` have the same key"), "give each a key of its own");
                fields.report("keys", wrong);
            }
        }
        ApiKeys { header: header.map_or(HeaderName::from_static("x-api-key"), |set| set.value), keys: names }
    })
}

fn hash(at: Cursor<'_, '_, '_>) -> Option<KeyHash> {
    at.scalar("a hash", json!({ "type": "string", "pattern": "^sha256:[0-9a-fA-F]{64}$" }), |text| {
        text.strip_prefix("sha256:").and_then(KeyHash::parse).ok_or_else(|| {
            let help =
                "write `sha256:` and the 64 digits of `printf KEY | sha256sum`; the key itself does not belong here";
            Wrong::new("that is not the hash of a key", help)
        })
    })
}

fn client_address(at: Cursor<'_, '_, '_>) -> Option<ClientAddress> {
    at.map("a map with `trusted_hops`", |fields| {
        let header = fields.field("header", "`x-forwarded-for` (default) or `forwarded`.", |at| {
            let words =
                [("x-forwarded-for", ForwardedHeader::XForwardedFor), ("forwarded", ForwardedHeader::Forwarded)];
            at.choice("a header that carries the client's address", &words, &[])
        });
        let hops = fields.field("trusted_hops", "How many proxies stand in front: 1 to 100.", |at| at.integer(1..=100));
        let proxies =
            fields.field("trusted_proxies", "Only peers of these networks are believed. Default: all.", |at| {
                one_or_some(at, "a network, or a list of networks", net)
            });
        fields.exactly_one(&["trusted_hops"]);
        Some(ClientAddress {
            header: header.map(|set| set.value).unwrap_or_default(),
            trusted_hops: u8::try_from(hops?.value).ok()?,
            trusted_proxies: proxies.map(|set| set.value).unwrap_or_default(),
        })
    })
    .flatten()
}

/// The values, each as a key and one line of YAML.
pub(super) fn show(authn: &Authn) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if !authn.jwt.is_empty() {
        lines.push(("jwt", list(authn.jwt.iter().map(show_issuer))));
    }
    if let Some(keys) = &authn.api_keys {
        let names: Vec<_> = keys.keys.iter().map(|(hash, name)| (quoted(name), format!("\"sha256:{hash}\""))).collect();
        let parts = [("header".to_owned(), keys.header.to_string()), ("keys".to_owned(), map(&names))];
        lines.push(("api_keys", map(&parts)));
    }
    if let Some(client) = &authn.client_address {
        let header = match client.header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        let mut parts = vec![
            ("header".to_owned(), header.to_owned()),
            ("trusted_hops".to_owned(), client.trusted_hops.to_string()),
        ];
        push(&mut parts, "trusted_proxies", client.trusted_proxies.iter().map(|net| quoted(&net.to_string())));
        lines.push(("client_address", map(&parts)));
    }
    let mode = CERT_MODES.iter().find(|(_, mode)| *mode == authn.forward_client_cert);
    if let Some((name, _)) = mode.filter(|(_, mode)| *mode != ClientCert::default()) {
        lines.push(("forward_client_cert", (*name).to_owned()));
    }
    if !authn.forward_client_cert_from.is_empty() {
        lines.push((
            "forward_client_cert_from",
            list(authn.forward_client_cert_from.iter().map(|id| quoted(id.as_str()))),
        ));
    }
    lines
}

/// In place of a shared secret: what is printed is read by more people than the file is.
const HIDDEN: &str = "\"(hidden: a shared secret)\"";

fn show_issuer(issuer: &JwtIssuer) -> String {
    let mut parts = vec![match &issuer.trust_domain {
        Some(domain) => ("trust_domain".to_owned(), quoted(domain.as_str())),
        None => ("issuer".to_owned(), quoted(&issuer.issuer)),
    }];
    push(&mut parts, "audiences", issuer.audiences.iter().map(|text| quoted(text)));
    match &issuer.keys {
        JwtKeys::Inline(text) => {
            let secret = KeySet::read(text.as_bytes(), issuer.key_origin()).is_ok_and(|keys| keys.is_secret());
            parts.push(("jwks".into(), if secret { HIDDEN.into() } else { quoted(text) }));
        }
        JwtKeys::File(path) => parts.push(("jwks_file".into(), quoted(&path.display().to_string()))),
        JwtKeys::WorkloadApi(address) => parts.push(("workload_api".into(), quoted(address))),
        JwtKeys::Remote { uri, timeout, cache_duration, networks } => {
            parts.extend(uri.as_ref().map(|uri| ("jwks_uri".to_owned(), quoted(uri))));
            parts.push(("timeout".into(), duration(*timeout)));
            parts.push(("cache_duration".into(), duration(*cache_duration)));
            push(&mut parts, "jwks_networks", networks.iter().map(|net| quoted(&net.to_string())));
        }
    }
    let places =
        |pick: fn(&JwtLocation) -> Option<String>| issuer.locations.iter().filter_map(pick).collect::<Vec<_>>();
    let headers = places(|location| match location {
        JwtLocation::Header { name, prefix } => Some(format!("{{name: {name}, prefix: {}}}", quoted(prefix))),
        _ => None,
    });
    let params = places(|location| if let JwtLocation::Param(name) = location { Some(quoted(name)) } else { None });
    let cookies = places(|location| if let JwtLocation::Cookie(name) = location { Some(quoted(name)) } else { None });
    push(&mut parts, "from_headers", headers.into_iter());
    push(&mut parts, "from_params", params.into_iter());
    push(&mut parts, "from_cookies", cookies.into_iter());
    if issuer.forward_original_token {
        parts.push(("forward_original_token".into(), "true".into()));
    }
    parts.extend(
        issuer.output_payload_to_header.as_ref().map(|name| ("output_payload_to_header".to_owned(), name.to_string())),
    );
    if !issuer.output_claim_to_headers.is_empty() {
        let claims: Vec<_> =
            issuer.output_claim_to_headers.iter().map(|(name, claim)| (name.to_string(), quoted(claim))).collect();
        parts.push(("output_claim_to_headers".into(), map(&claims)));
    }
    push(&mut parts, "space_delimited_claims", issuer.space_delimited_claims.iter().map(|text| quoted(text)));
    parts.push(("clock_skew".into(), duration(issuer.clock_skew)));
    if issuer.allow_missing_exp {
        parts.push(("require_expiration".into(), "false".into()));
    }
    if issuer.allow_eddsa {
        parts.push(("allow_eddsa".into(), "true".into()));
    }
    map(&parts)
}

fn list(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(", "))
}

fn push(parts: &mut Vec<(String, String)>, key: &str, values: impl ExactSizeIterator<Item = String>) {
    if values.len() > 0 {
        parts.push((key.to_owned(), list(values)));
    }
}
