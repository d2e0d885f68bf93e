//! Who is behind a request, besides the certificate of its connection.

use std::{fmt, net::IpAddr, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What a request proved about its caller: a token, an API key, an address that trusted proxies vouch for.
///
/// In a handler: the axum extractor `Caller`, or `Caller::of(request.extensions())`. Empty for a request that brought
/// nothing; whether it needed to is for the rules of `inbound.authz`.
#[derive(Clone, Default)]
pub struct Caller {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    token: Option<Arc<Token>>,
    api_key: Option<Arc<str>>,
    client: Option<IpAddr>,
}

impl Caller {
    pub(crate) fn new(token: Option<Arc<Token>>, api_key: Option<Arc<str>>, client: Option<IpAddr>) -> Self {
        let empty = token.is_none() && api_key.is_none() && client.is_none();
        Self { inner: (!empty).then(|| Arc::new(Inner { token, api_key, client })) }
    }

    /// The caller of this request, if it arrived through sinew.
    pub fn of(extensions: &http::Extensions) -> Option<Caller> {
        crate::context::Inbound::of(extensions).map(|inbound| inbound.caller.clone())
    }

    /// The verified token.
    pub fn token(&self) -> Option<&Token> {
        self.inner.as_ref()?.token.as_deref()
    }

    /// The name of the API key, as the configuration has it.
    pub fn api_key(&self) -> Option<&str> {
        self.inner.as_ref()?.api_key.as_deref()
    }

    /// The address of the client behind trusted proxies. `None` where none is trusted: then it is that of the
    /// [`Peer`](crate::Peer).
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.inner.as_ref()?.client
    }
}

/// Claims are personal: only the issuer is printed.
impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("issuer", &self.token().map(Token::issuer))
            .field("api_key", &self.api_key())
            .field("client_ip", &self.client_ip())
            .finish()
    }
}

/// A verified JSON Web Token.
#[derive(PartialEq)]
pub struct Token {
    issuer: Arc<str>,
    claims: Map<String, Value>,
    /// Claims whose text is a list, with spaces between its items.
    spaced: Arc<[Arc<str>]>,
}

impl Token {
    pub(crate) fn new(issuer: Arc<str>, claims: Map<String, Value>, spaced: Arc<[Arc<str>]>) -> Self {
        Self { issuer, claims, spaced }
    }

    /// Whether the text of this claim is a list (RFC 8693 §4.2).
    pub(crate) fn is_spaced(&self, name: &str) -> bool {
        matches!(name, "scope" | "permission") || self.spaced.iter().any(|other| **other == *name)
    }

    /// Who issued it: `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whom it speaks of: `sub`.
    pub fn subject(&self) -> Option<&str> {
        self.text("sub")
    }

    /// For whom it is: `aud`, one text or several.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        texts(self.claims.get("aud"))
    }

    /// To whom it was given: `azp`.
    pub fn presenter(&self) -> Option<&str> {
        self.text("azp")
    }

    /// A claim by its name, as `T`; `None` if it is absent or something else.
    pub fn claim<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        T::deserialize(self.claims.get(name)?).ok()
    }

    /// A claim inside of claims, which are objects.
    pub(crate) fn nested<N: AsRef<str>>(&self, path: &[N]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.claims.get(first.as_ref())?, |value, name| value.get(name.as_ref()))
    }

    /// All claims, as `T`; `None` if they are something else.
    pub fn claims<T: DeserializeOwned>(&self) -> Option<T> {
        T::deserialize(Value::Object(self.claims.clone())).ok()
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.claims.get(name).and_then(Value::as_str)
    }
}

/// The texts of a claim: itself, or those of its list.
pub(crate) fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    let (one, many) = match value {
        Some(Value::String(text)) => (Some(text.as_str()), &[][..]),
        Some(Value::Array(list)) => (None, list.as_slice()),
        _ => (None, &[][..]),
    };
    one.into_iter().chain(many.iter().filter_map(Value::as_str))
}

/// Claims are personal: only the issuer is printed.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}
