//! The grammar of identity, mutual TLS, the listeners, and TLS towards endpoints.

use std::{path::PathBuf, sync::Arc};

use serde_json::json;

use super::{
    authority::authority,
    cursor::{Cursor, Fields, Wrong},
    listener,
};
use crate::{
    matching::IpBlock,
    model::{EdgeSpec, IdentityFiles, IdentitySource, JwtSvidSpec, Mtls, PrivateTls, ProxySpec, TlsMode},
    name::SpiffeId,
    source::document::{PartialListeners, Set},
};

/// `identity`.
pub(super) fn identity(at: Cursor<'_, '_, '_>) -> Option<IdentitySource> {
    at.map("a map with `source`", |fields| {
        let source = fields.field(
            "source",
            "`dev`: a certificate authority of one's own on this machine (feature `dev-ca`); or a map of `files`, \
             `workload_api` or `ca`.",
            source,
        );
        fields.exactly_one(&["source"]);
        source.map(|set| set.value)
    })
    .flatten()
}

fn source(at: Cursor<'_, '_, '_>) -> Option<IdentitySource> {
    at.scalar_or(
        |at| {
            let words: &[(&'static str, ())] = &[("dev", ())];
            at.choice("a source of identity", words, &["control_plane"]).map(|()| IdentitySource::Dev)
        },
        |at| {
            at.map("`dev`, or a map of `files`, `workload_api` or `ca`", |fields| {
                let files = fields.field("files", "Files that somebody else keeps fresh.", files);
                let doc = "A SPIFFE Workload API: `unix:/path` or `tcp://IP:PORT`.";
                let workload = fields.field("workload_api", doc, workload_api);
                let ca = fields.field("ca", "An authority that signs requests; the key is made here.", authority);
                fields.exactly_one(&["files", "workload_api", "ca"]);
                let files = files.map(|set| IdentitySource::Files(set.value));
                let workload = workload.map(|set| IdentitySource::WorkloadApi(set.value));
                files.or(workload).or(ca.map(|set| IdentitySource::Ca(Arc::new(set.value))))
            })
            .flatten()
        },
    )
}

fn files(at: Cursor<'_, '_, '_>) -> Option<IdentityFiles> {
    at.map("a map with `cert` and `bundle`", |fields| {
        let cert = fields.field("cert", "The certificate chain, PEM, leaf first.", path);
        let key = fields.field("key", "The private key, PEM. Default: the file of `cert`.", path);
        let bundle = fields.field("bundle", "The authorities of the own trust domain, PEM.", path);
        let crl = fields.field("crl", "A revocation list, PEM or DER, or a directory of them. Default: none.", path);
        fields.exactly_one(&["cert"]);
        fields.exactly_one(&["bundle"]);
        let (cert, bundle) = (cert?.value, bundle?.value);
        let key = key.map_or_else(|| cert.clone(), |set| set.value);
        let mut files = IdentityFiles::new(cert, key, bundle);
        files.crl = crl.map(|set| set.value);
        Some(files)
    })
    .flatten()
}

pub(super) fn workload_api(at: Cursor<'_, '_, '_>) -> Option<Arc<str>> {
    at.scalar("the address of a Workload API", json!({ "type": "string" }), |text| {
        let known =
            text.strip_prefix("unix:").is_some_and(|path| path.starts_with('/') && !path.trim_matches('/').is_empty())
                || text.strip_prefix("tcp://").is_some_and(|address| address.parse::<std::net::SocketAddr>().is_ok());
        match known {
            true => Ok(text.into()),
            false => Err(Wrong::new(
                format!("`{}` is not the address of a Workload API", text.escape_debug()),
                "use `unix:/run/spire/agent.sock` or `tcp://127.0.0.1:8081`",
            )),
        }
    })
}

pub(super) fn path(at: Cursor<'_, '_, '_>) -> Option<PathBuf> {
    at.scalar("a path", json!({ "type": "string", "minLength": 1 }), |text| match text {
        "" => Err(Wrong::plain("a path cannot be empty")),
        text => Ok(PathBuf::from(text)),
    })
}

/// A mode of mutual TLS.
pub(super) fn mtls(at: Cursor<'_, '_, '_>) -> Option<Mtls> {
    let words = [("strict", Mtls::Strict), ("permissive", Mtls::Permissive), ("off", Mtls::Off)];
    at.choice("a mode of `mtls`", &words, &[])
}

/// `listeners`.
pub(super) fn listeners(at: Cursor<'_, '_, '_>) -> Option<PartialListeners> {
    at.map("a map of listeners", |fields| {
        let mesh = fields.field("mesh", "The listeners of the application inside the mesh.", |at| {
            at.map("a map", |fields| {
                let mtls = fields.field("mtls", "What they ask of peers. Default: the `mtls` of the document.", mtls);
                (mtls, proxies(fields), listener::limits(fields))
            })
        });
        let (mesh, mesh_proxies, mesh_limits) = mesh.map(|set| set.value).unwrap_or_default();
        let edge = fields.field(
            "edge",
            "The same application for callers outside of the mesh: no certificate is asked of them. Default: off.",
            edge,
        );
        let ops = fields.field("ops", "`/livez`, `/readyz`, `/metrics` and `grpc.health.v1`. Default: off.", |at| {
            at.map("a map with `listen`", |fields| {
                let doc = "Address, such as `0.0.0.0:9901`.";
                let listen = fields.field("listen", doc, |at| at.socket_address());
                fields.exactly_one(&["listen"]);
                listen
            })
        });
        PartialListeners {
            mesh,
            mesh_proxies,
            mesh_limits,
            edge: edge.and_then(|set| set.value.map(|value| Set { value, origin: set.origin })),
            ops: ops.and_then(|set| set.value),
        }
    })
}

fn edge(at: Cursor<'_, '_, '_>) -> Option<Option<EdgeSpec>> {
    at.map("a map with `listen`", |fields| {
        let listen = fields.field("listen", "Address, such as `0.0.0.0:443`.", |at| at.socket_address());
        let doc = "Its certificate. Without: plaintext, for behind a balancer that ends TLS.";
        let tls = fields.field("tls", doc, |at| {
            at.map("a map with `cert` and `key`", |fields| certificate(fields, true)).flatten()
        });
        let (proxies, limits) = (proxies(fields), listener::limits(fields));
        fields.exactly_one(&["listen"]);
        Some(EdgeSpec {
            listen: listen?.value,
            tls: tls.map(|set| set.value),
            proxies: proxies.map(|set| set.value).unwrap_or_default(),
            limits: limits.map(|set| set.value).unwrap_or_default(),
        })
    })
}

/// `trusted_proxies` and `proxy_protocol`.
fn proxies(fields: &mut Fields<'_, '_, '_>) -> Option<Set<ProxySpec>> {
    let doc = "Addresses of balancers whose word on the client's address counts: `10.0.0.0/8` or one address. Default: \
               none.";
    let trusted = fields.field("trusted_proxies", doc, |at| at.one_or_list("a network, or a list of them", network));
    let doc = "Whether each connection begins with a PROXY header (version 1 or 2) of one of `trusted_proxies`, and nobody \
               else may connect. Default: `off`.";
    let words = [("off", false), ("required", true)];
    let protocol = fields.field("proxy_protocol", doc, |at| at.choice("a mode of the PROXY protocol", &words, &[]));
    let origin = protocol.as_ref().map(|set| &set.origin).or(trusted.as_ref().map(|set| &set.origin))?.clone();
    let spec = ProxySpec {
        trusted_proxies: trusted.into_iter().flat_map(|set| set.value).map(|set| set.value).collect(),
        proxy_protocol: protocol.is_some_and(|set| set.value),
    };
    Some(Set { value: spec, origin })
}

/// `cert` and `key`: both, or neither where they are not needed.
fn certificate(fields: &mut Fields<'_, '_, '_>, needed: bool) -> Option<(PathBuf, PathBuf)> {
    let cert = fields.field("cert", "Certificate chain, PEM, leaf first.", path);
    let key = fields.field("key", "Its private key, PEM.", path);
    if needed || fields.has("cert") || fields.has("key") {
        fields.exactly_one(&["cert"]);
        fields.exactly_one(&["key"]);
    }
    Some((cert?.value, key?.value))
}

fn network(at: Cursor<'_, '_, '_>) -> Option<IpBlock> {
    at.scalar("a network", json!({ "type": "string" }), |text| {
        text.parse().map_err(|_| {
            Wrong::new(
                format!("`{}` is neither an address nor a network", text.escape_debug()),
                "use `10.0.0.0/8`, `2001:db8::/32` or one address",
            )
        })
    })
}

/// `tls` of a service.
pub(super) fn tls(at: Cursor<'_, '_, '_>) -> Option<TlsMode> {
    at.scalar_or(
        |at| {
            let words = [("mesh", 0), ("public", 1), ("off", 2)];
            at.choice("a mode of `tls`", &words, &["istio", "hbone"]).map(|word| match word {
                0 => TlsMode::Mesh,
                1 => TlsMode::Public,
                _ => TlsMode::Off,
            })
        },
        |at| {
            at.map("a mode of `tls`, or a map with `private`", |fields| {
                let private = fields.field("private", "TLS to a private authority.", private);
                fields.exactly_one(&["private"]);
                private.map(|set| TlsMode::Private(Arc::new(set.value)))
            })
            .flatten()
        },
    )
}

fn private(at: Cursor<'_, '_, '_>) -> Option<PrivateTls> {
    at.map("a map with `ca`", |fields| {
        let ca = fields.field("ca", "The authorities that may issue the server's certificate, PEM.", path);
        let doc = "The name or address in the server's certificate. Default: the address that is dialled.";
        let server_name = fields.field("server_name", doc, |at| {
            at.scalar("a name", json!({ "type": "string" }), |text| {
                match rustls_pki_types::ServerName::try_from(text) {
                    Ok(_) => Ok(Arc::<str>::from(text)),
                    Err(_) => Err(Wrong::new(
                        format!("`{}` is neither a DNS name nor an IP address", text.escape_debug()),
                        "use the name in the server's certificate, such as `db.internal`",
                    )),
                }
            })
        });
        let client = certificate(fields, false);
        fields.exactly_one(&["ca"]);
        let mut tls = PrivateTls::new(ca?.value);
        tls.server_name = server_name.map(|set| set.value);
        tls.client = client;
        Some(tls)
    })
    .flatten()
}

/// `jwt_svid` of a service.
pub(super) fn jwt_svid(at: Cursor<'_, '_, '_>) -> Option<JwtSvidSpec> {
    at.map("a map with `audience`", |fields| {
        let audience = fields.field("audience", "For whom it is: what the service looks for in `aud`.", |at| {
            at.scalar("an audience", json!({ "type": "string", "minLength": 1 }), |text| match text {
                "" => Err(Wrong::plain("an audience is not empty")),
                text => Ok(Arc::<str>::from(text)),
            })
        });
        let doc =
            "The SPIFFE Workload API, `unix:/path` or `tcp://IP:PORT`. Default: the one that `identity` comes from.";
        let workload = fields.field("workload_api", doc, workload_api);
        fields.exactly_one(&["audience"]);
        // One that is there and could not be read is no default.
        if fields.has("workload_api") && workload.is_none() {
            return None;
        }
        let mut spec = JwtSvidSpec::new(audience?.value);
        spec.workload_api = workload.map(|set| set.value);
        Some(spec)
    })
    .flatten()
}

/// `identities` of a service.
pub(super) fn identities(at: Cursor<'_, '_, '_>) -> Option<Vec<SpiffeId>> {
    let ids = at.one_or_list("a SPIFFE ID, or a list of them", |at| at.parsed::<SpiffeId>("a SPIFFE ID"))?;
    Some(ids.into_iter().map(|set| set.value).collect())
}
