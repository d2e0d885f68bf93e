//! Who is asking, besides the certificate of the connection.
//!
//! A request may bring a token, an API key, and what proxies say about where it came from. Each is checked before any
//! rule: a token that is there and does not verify is refused (401, E050), one that is absent is not; whether a request
//! needs one is for the rules to say. What nobody vouches for, headers that only the inside may set, is taken out.
//!
//! # States of an issuer's keys
//! *Missing* until the first fetch succeeds: its tokens are refused, those of other issuers are not. *Fresh* for
//! `cache_duration`, then *stale*: fetched again, and used meanwhile, for at most 24 hours after the last success. A
//! token that names an unknown key has them fetched at once, at most every 30 s.
//!
//! # Sources
//! RFC 7519, RFC 8725; SPIFFE JWT-SVID; Istio's `RequestAuthentication`, Envoy's `jwt_authn`, `x-forwarded-for` and
//! `x-forwarded-client-cert`.

mod api_key;
mod claims;
mod client_ip;
mod forwarded;
pub(crate) mod jose;
mod jwt;
mod keys;
mod policy;
mod ssrf;

#[cfg(test)]
mod tests;

pub use self::policy::{
    ApiKeys, Authn, ClientAddress, ClientCert, ForwardedHeader, JwtIssuer, JwtKeys, JwtLocation, KeyHash,
};
pub(crate) use self::{
    api_key::KeyRing,
    client_ip::client_ip,
    forwarded::{CertElement, forward_client_cert},
    jose::{KeyOrigin, KeySet, MAX_SET, Refused, object},
    jwt::{Issuer, Tokens, Verdict},
    keys::{Fetch, FetchRequest, Fetched},
    ssrf::is_public,
};
