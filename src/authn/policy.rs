//! What is asked of callers: validated plain data, under Istio's and Envoy's names.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use http::HeaderName;

use super::jose::KeyOrigin;
use crate::{
    matching::IpBlock,
    name::{SpiffeId, TrustDomain},
};

/// `inbound.authn`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Authn {
    /// Issuers of tokens. A token of any other is refused.
    pub jwt: Vec<JwtIssuer>,
    /// API keys.
    pub api_keys: Option<ApiKeys>,
    /// Whose word on the client's address counts. Default nobody's.
    pub client_address: Option<ClientAddress>,
    /// What becomes of `x-forwarded-client-cert`. Default: it is taken out.
    pub forward_client_cert: ClientCert,
    /// The proxies whose `x-forwarded-client-cert` is believed. Default none: then nothing is forwarded.
    pub forward_client_cert_from: Vec<SpiffeId>,
}

/// An issuer of JSON Web Tokens: `jwtRules` of Istio's `RequestAuthentication`.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct JwtIssuer {
    /// Its `iss`, compared literally.
    pub issuer: Arc<str>,
    /// A token has to name one of these in `aud`. Empty: any audience, which is for tokens made for this service only.
    pub audiences: Vec<Arc<str>>,
    /// Where its keys are.
    pub keys: JwtKeys,
    /// Where tokens stand. Default: `authorization: Bearer ..`, then the query's `access_token`.
    pub locations: Vec<JwtLocation>,
    /// Whether the application sees the token as well. Default no: it sees the claims.
    pub forward_original_token: bool,
    /// Where the application finds the payload, base64url. Default nowhere.
    pub output_payload_to_header: Option<HeaderName>,
    /// Claims that the application finds in headers. These are taken out of every request first.
    pub output_claim_to_headers: Vec<(HeaderName, Arc<str>)>,
    /// Claims whose text is a list with spaces between its items, besides `scope` and `permission`.
    pub space_delimited_claims: Arc<[Arc<str>]>,
    /// What clocks may differ by. Default 30 s, at most 5 min.
    pub clock_skew: Duration,
    /// Whether a token may be without `exp`. Default no.
    pub allow_missing_exp: bool,
    /// Whether `EdDSA` is accepted. Default no: few issuers use it.
    pub allow_eddsa: bool,
    /// The trust domain whose JWT-SVIDs these are: then `sub` is an identity of that domain, `iss` is not looked at, and
    /// the keys are those of its SPIFFE bundle.
    pub trust_domain: Option<TrustDomain>,
}

impl JwtIssuer {
    /// The JWT-SVIDs of a trust domain, for these audiences.
    pub fn svids(domain: TrustDomain, audiences: impl IntoIterator<Item = Arc<str>>, keys: JwtKeys) -> Self {
        let audiences = audiences.into_iter().collect();
        Self { audiences, ..Self::new(format!("spiffe://{}", domain.as_str()), keys) }.of_domain(domain)
    }

    /// How keys that stand in the configuration are read.
    pub(crate) fn key_origin(&self) -> KeyOrigin {
        if self.trust_domain.is_some() { KeyOrigin::Bundle } else { KeyOrigin::Local }
    }

    fn of_domain(mut self, domain: TrustDomain) -> Self {
        self.trust_domain = Some(domain);
        self
    }

    /// An issuer with these keys and the defaults.
    pub fn new(issuer: impl Into<Arc<str>>, keys: JwtKeys) -> Self {
        Self {
            issuer: issuer.into(),
            audiences: Vec::new(),
            keys,
            locations: Vec::new(),
            forward_original_token: false,
            output_payload_to_header: None,
            output_claim_to_headers: Vec::new(),
            space_delimited_claims: Arc::default(),
            clock_skew: Duration::from_secs(30),
            allow_missing_exp: false,
            allow_eddsa: false,
            trust_domain: None,
        }
    }
}

/// Where the keys of an issuer are. Keys that stand in the configuration may be secret, so they are not printed.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JwtKeys {
    /// A key set in the configuration; the only place for shared secrets.
    Inline(Arc<str>),
    /// A file, read when the configuration is.
    File(PathBuf),
    /// A SPIFFE Workload API, which knows the bundle of the trust domain: `unix:/path` or `tcp://IP:PORT` (feature
    /// `tonic`). Asked every 10 s.
    WorkloadApi(Arc<str>),
    /// An `https` URI, or with `None` the one that OpenID Connect discovery finds.
    Remote {
        /// Where to fetch the set.
        uri: Option<Arc<str>>,
        /// One fetch, body included. Default 5 s.
        timeout: Duration,
        /// How long keys are fresh. Default 5 min.
        cache_duration: Duration,
        /// Networks that are no public ones and may be dialled for it.
        networks: Vec<IpBlock>,
    },
}

impl fmt::Debug for JwtKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::WorkloadApi(address) => f.debug_tuple("WorkloadApi").field(address).finish(),
            Self::Remote { uri, .. } => f.debug_tuple("Remote").field(uri).finish(),
        }
    }
}

/// Where a token stands.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum JwtLocation {
    /// A header, behind a prefix such as `Bearer `.
    Header {
        /// Its name.
        name: HeaderName,
        /// What stands before the token.
        prefix: Arc<str>,
    },
    /// A parameter of the query.
    Param(Arc<str>),
    /// A cookie.
    Cookie(Arc<str>),
}

/// API keys, known by their hashes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ApiKeys {
    /// Where a key stands. Default `x-api-key`.
    pub header: HeaderName,
    /// Names by the SHA-256 of their keys. A key has at least 128 bits of randomness: at least 22 characters.
    pub keys: BTreeMap<KeyHash, Arc<str>>,
}

/// The SHA-256 of an API key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub(crate) [u8; 32]);

impl KeyHash {
    /// Parses 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digit = |digit: u8| (digit as char).to_digit(16).map(|digit| digit as u8);
            *byte = digit(digits[0])? << 4 | digit(digits[1])?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Whose word on the client's address counts.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ClientAddress {
    /// The header that carries it. Default `x-forwarded-for`.
    pub header: ForwardedHeader,
    /// How many proxies stand in front, each of which appends its peer: the entry that far from the right is the
    /// client. Envoy's `xff_num_trusted_hops`.
    pub trusted_hops: u8,
    /// Only peers of these networks, or none where empty, may say so.
    pub trusted_proxies: Vec<IpBlock>,
}

/// A header that carries the client's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `x-forwarded-for`.
    #[default]
    XForwardedFor,
    /// `forwarded` (RFC 7239).
    Forwarded,
}

/// What becomes of `x-forwarded-client-cert`: Envoy's `forward_client_cert_details`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ClientCert {
    /// It is taken out.
    #[default]
    Sanitize,
    /// It goes on as it is, if the peer is believed; else it is taken out.
    ForwardOnly,
    /// The peer is appended to it, if it is believed; else as `SanitizeSet`.
    AppendForward,
    /// It is replaced by the peer alone, if that has an identity; else it is taken out.
    SanitizeSet,
}
