//! What `fuzz/` sees of the parsers of bytes that strangers send. Compiled with `--cfg fuzzing` only; no interface.
//!
//! Each function takes one input, and panics if a promise of the parser does not hold: besides "it returns", that what it
//! writes it reads again, that cutting a stream differently changes nothing, that what is refused stays refused.
#![allow(missing_docs)]

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, Version};
use rustls::pki_types::CertificateDer;

use crate::{
    authn::{
        ClientAddress, ClientCert, ForwardedHeader, KeyOrigin, KeySet, client_ip, forward_client_cert,
        jose::{Compact, HeaderRules},
        object,
    },
    authz::audit::{Verifier, sealed},
    canon::{self, PathNormalization},
    classify,
    context::{TraceContext, Wire, decode_grpc_timeout, encode_grpc_timeout},
    identity::{self, Asked, Bundle, BundleDocument, BundleMap, Revocations},
    matching::{PathPattern, PathTemplate},
    name::{SpiffeId, TrustDomain},
    rt,
    transport::accept::{count_frames, parse_proxy_header, pass_frames, prelude},
};

/// Name and function of each.
pub const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("certificate", certificate),
    ("revocations", revocations),
    ("bundle", bundle),
    ("jose", jose),
    ("spiffe_id", spiffe_id),
    ("request", request),
    ("prelude", prelude_target),
    ("proxy_header", proxy_header),
    ("context", context),
    ("forwarded", forwarded),
    ("document", document),
    ("frames", frames),
    ("template", template),
    ("trailers", trailers),
    ("policies", policies),
    ("audit_log", audit_log),
];

/// Splits at the zero bytes, as a target that takes several values.
fn parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == 0)
}

/// Splits where the outermost lengths of DER say so, into at most four.
fn certificates(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = match data {
            [] => return None,
            [0x30, 0x82, high, low, ..] => 4 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => data.len(),
        };
        let (one, rest) = data.split_at(length.min(data.len()));
        data = rest;
        Some(one)
    })
    .take(4)
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// A chain of certificates against bundles made of the same bytes, so that a path may be found.
pub fn certificate(data: &[u8]) {
    let Ok(provider) = identity::default_provider() else { return };
    let chain: Vec<_> = certificates(data).map(|der| CertificateDer::from(der.to_vec())).collect();
    let (own, _) = Bundle::new(chain.clone(), true);
    let Ok(domain) = TrustDomain::new("example.org") else { return };
    let bundles = BundleMap::from([(domain, Arc::new(own))]);
    let revocations = Revocations::none(Asked::default());
    let trust = identity::Trust {
        bundles: &bundles,
        revocations: &revocations,
        algorithms: &provider.signature_verification_algorithms,
    };
    for leaf in &chain {
        let now = rt::wall();
        let first = identity::verify(leaf, &chain, &trust, now).is_ok();
        assert_eq!(first, identity::verify(leaf, &chain, &trust, now).is_ok());
    }
}

/// Revocation lists, alone and after one another.
pub fn revocations(data: &[u8]) {
    let Ok(provider) = identity::default_provider() else { return };
    let algorithms = provider.signature_verification_algorithms;
    let lists = [data.to_vec(), data[data.len() / 2..].to_vec()];
    let none = Revocations::none(Asked::default());
    let (first, bad) = none.replaced(lists.clone(), &BundleMap::new(), algorithms, rt::wall());
    let (second, again) = first.replaced(lists, &BundleMap::new(), algorithms, rt::wall());
    assert_eq!(bad.len(), again.len());
    assert_eq!(first.next_update(), second.next_update());
}

/// PEM, and bundles and key sets in JSON.
pub fn bundle(data: &[u8]) {
    if let Ok(document) = BundleDocument::parse(data) {
        assert_eq!(BundleDocument::parse(data).as_ref(), Ok(&document));
        let sets = match document {
            BundleDocument::One(set) => vec![set],
            BundleDocument::Map(map) => map.into_values().collect(),
        };
        for set in sets {
            let most = set.len();
            let (bundle, bad) = Bundle::new(set, false);
            assert!(bundle.len() + bad.len() <= most);
        }
    }
}

/// Key sets and tokens.
pub fn jose(data: &[u8]) {
    let keys = [KeyOrigin::Local, KeyOrigin::Remote].map(|origin| KeySet::read(data, origin).ok());
    let _ = object(data);
    for token in parts(data).filter_map(text) {
        for rules in [HeaderRules::Jwt, HeaderRules::Svid] {
            let Ok(compact) = Compact::parse(token, rules) else { continue };
            let _ = (compact.unverified_claims(), compact.key_id());
            for keys in keys.iter().flatten() {
                let _ = compact.verify(keys);
            }
        }
        // What the stricter reader takes the other takes too.
        assert!(Compact::parse(token, HeaderRules::Svid).is_err() || Compact::parse(token, HeaderRules::Jwt).is_ok());
    }
}

pub fn spiffe_id(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text, "compared literally, so written as it was read");
        assert!(text.len() <= 2048 && text.starts_with("spiffe://"));
        assert!(TrustDomain::new(id.trust_domain()).is_ok());
    }
    if let Ok(domain) = TrustDomain::new(text) {
        assert_eq!(TrustDomain::new(domain.as_str()).as_ref(), Ok(&domain));
    }
}

/// A request: target, host and the rest; what is accepted has one meaning, and keeps it.
pub fn request(data: &[u8]) {
    let mut fields = parts(data);
    let Some(uri) = fields.next().and_then(|uri| http::Uri::try_from(uri).ok()) else { return };
    let hosts: Vec<_> = fields.filter_map(|host| HeaderValue::from_bytes(host).ok()).take(3).collect();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for method in [Method::GET, Method::CONNECT, Method::OPTIONS] {
            for level in [PathNormalization::Strict, PathNormalization::None, PathNormalization::MergeSlashes] {
                let mut request = Request::new(());
                (*request.uri_mut(), *request.version_mut(), *request.method_mut()) =
                    (uri.clone(), version, method.clone());
                for host in &hosts {
                    request.headers_mut().append("host", host.clone());
                }
                let Ok(view) = canon::canonicalize(&mut request, false, level) else { continue };
                let path = view.path(request.uri()).to_owned();
                if level == PathNormalization::Strict && method == Method::GET {
                    assert!(path.starts_with('/') && !path.contains("//") && !path.contains('\\'), "{path:?}");
                    assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{path:?}");
                    assert!(!path.bytes().any(|byte| byte < 0x20 || byte == 0x7f), "{path:?}");
                }
                let again = canon::canonicalize(&mut request, false, level);
                assert_eq!(again.ok().map(|view| view.path(request.uri()).to_owned()), Some(path));
            }
        }
    }
}

/// The first bytes of a connection, whole and in pieces.
pub fn prelude_target(data: &[u8]) {
    let whole = prelude(data, data.len().max(1));
    for piece in [1, 2, 7, 23] {
        assert_eq!(prelude(data, piece), whole);
    }
    if let Some((kind, bytes)) = whole {
        assert!(data.starts_with(&bytes), "what was read is given back");
        assert_eq!(kind == Some(true), data.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    }
}

pub fn proxy_header(data: &[u8]) {
    let mut have = 0;
    while let Some(more) = parse_proxy_header(&data[..have]) {
        assert!(more > 0 && have + more <= 536, "{more} after {have}");
        if have + more > data.len() {
            return;
        }
        have += more;
    }
}

/// The headers of the mesh.
pub fn context(data: &[u8]) {
    if let Some(timeout) = decode_grpc_timeout(data) {
        let written = encode_grpc_timeout(timeout);
        let again = decode_grpc_timeout(written.as_bytes());
        assert!(again.is_some_and(|again| again <= timeout.max(Duration::from_nanos(1))), "{timeout:?} {written:?}");
    }
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    if let Some(wire) = Wire::decode(&value)
        && let Some(written) = wire.encode()
    {
        assert!(written.len() <= 256);
        let again = Wire::decode(&written);
        assert_eq!(again.map(|again| again.attempt), Some(wire.attempt));
    }
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", value.clone());
    headers.insert("tracestate", value);
    if let Some(trace) = TraceContext::from_headers(&headers) {
        let mut written = HeaderMap::new();
        trace.write(&mut written);
        assert_eq!(TraceContext::from_headers(&written).map(|again| again.trace_id()), Some(trace.trace_id()));
    }
}

/// What proxies say of the client.
pub fn forwarded(data: &[u8]) {
    let values: Vec<_> = parts(data).filter_map(|value| HeaderValue::from_bytes(value).ok()).take(20).collect();
    let peer = std::net::IpAddr::from([192, 0, 2, 1]);
    for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
        let mut headers = HeaderMap::new();
        for value in &values {
            headers.append("x-forwarded-for", value.clone());
            headers.append("forwarded", value.clone());
            headers.append("x-forwarded-client-cert", value.clone());
        }
        for hops in [1, 2, 100] {
            let policy = ClientAddress { header, trusted_hops: hops, trusted_proxies: Vec::new() };
            let found = client_ip(&policy, peer, &headers);
            assert_eq!(found, client_ip(&policy, peer, &headers));
        }
        for mode in [ClientCert::Sanitize, ClientCert::ForwardOnly, ClientCert::AppendForward, ClientCert::SanitizeSet]
        {
            let mut strangers = headers.clone();
            forward_client_cert(mode, None, true, &mut strangers);
            assert!(!strangers.contains_key("x-forwarded-client-cert"), "nobody proved anything");
        }
    }
}

/// `sinew.yaml`.
#[cfg(feature = "file")]
pub fn document(data: &[u8]) {
    let loader = crate::source::file::Loader::new().env(|_| None);
    match loader.load_bytes("sinew.yaml", data) {
        Ok(snapshot) => {
            let shown = crate::source::file::show(&snapshot);
            assert!(!shown.is_empty());
        }
        Err(report) => assert!(!report.to_string().is_empty()),
    }
}

/// HTTP/2's frames, whole and in pieces.
pub fn frames(data: &[u8]) {
    let whole = (count_frames(data, data.len().max(1)), pass_frames(data, data.len().max(1)));
    for piece in [1, 8, 9, 10] {
        assert_eq!((count_frames(data, piece), pass_frames(data, piece)), whole);
    }
}

/// Templates of paths and what they match.
pub fn template(data: &[u8]) {
    let mut fields = parts(data).filter_map(text);
    let (Some(pattern), paths) = (fields.next(), fields.take(8).collect::<Vec<_>>()) else { return };
    if let Ok(template) = PathTemplate::new(pattern) {
        assert_eq!(template.as_str(), pattern);
        for path in &paths {
            let _ = template.matches(path);
        }
    }
    for kind in [PathPattern::exact, PathPattern::prefix, PathPattern::template] {
        let Ok(pattern) = kind(pattern) else { continue };
        for path in &paths {
            let _ = pattern.matches(path);
        }
    }
}

/// What a response says of its outcome.
pub fn trailers(data: &[u8]) {
    let mut fields = parts(data).filter_map(|value| HeaderValue::from_bytes(value).ok());
    let mut headers = HeaderMap::new();
    for name in ["grpc-status", "grpc-message", "grpc-retry-pushback-ms", "sinew-shed", "sinew-error", "retry-after"] {
        if let Some(value) = fields.next() {
            headers.append(name, value);
        }
    }
    let outcome = classify::trailers(Some(&headers));
    assert_eq!(outcome, classify::trailers(Some(&headers)));
    for status in [200, 204, 404, 429, 503] {
        let Ok(status) = http::StatusCode::from_u16(status) else { continue };
        let _ = (classify::by_headers(status, &headers, true), classify::by_headers(status, &headers, false));
    }
}

/// Lines of an audit log; and of records that hold the same texts, which hold together.
pub fn audit_log(data: &[u8]) {
    let check = |lines: &str| {
        let mut verifier = Verifier::new();
        lines.lines().try_for_each(|line| verifier.line(line)).and_then(|()| verifier.end())
    };
    let Some(text) = text(data) else { return };
    assert_eq!(check(text), check(text));
    let sealed = sealed(text.split('\0'));
    assert!(check(&sealed).is_ok_and(|found| found.lines == sealed.lines().count() as u64));
}

/// Policies of other systems.
#[cfg(feature = "file")]
pub fn policies(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let _ = (crate::source::import::grpc_authz(text), crate::source::import::envoy_rbac(text));
}
