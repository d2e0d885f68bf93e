//! Verbs in reqwest's habit, for callers without a framework of their own.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header::CONTENT_TYPE};
use http_body::Body as HttpBody;
use serde::{Serialize, de::DeserializeOwned};

use super::{Client, handle::PeerError};
use crate::{
    body::Body,
    context::{Call, Criticality},
    error::{BoxError, Code, Error},
};

/// A request being put together. What is wrong with it is told by [`send`](RequestBuilder::send).
#[derive(Debug)]
#[must_use = "a request is sent by `send`"]
pub struct RequestBuilder {
    client: Client,
    method: Method,
    uri: String,
    headers: HeaderMap,
    body: Body,
    call: Call,
    error: Option<Error>,
}

impl RequestBuilder {
    pub(super) fn new(client: Client, method: Method, uri: &str) -> Self {
        Self {
            client,
            method,
            uri: uri.to_owned(),
            headers: HeaderMap::new(),
            body: Body::empty(),
            call: Call::new(),
            error: None,
        }
    }

    fn fail(mut self, message: String) -> Self {
        self.error.get_or_insert_with(|| Error::new(Code::BadRequest, message));
        self
    }

    /// Adds a header.
    pub fn header<N, V>(mut self, name: N, value: V) -> Self
    where
        N: TryInto<HeaderName, Error: fmt::Display>,
        V: TryInto<HeaderValue, Error: fmt::Display>,
    {
        match (name.try_into(), value.try_into()) {
            (Ok(name), Ok(value)) => {
                self.headers.append(name, value);
                self
            }
            (Err(error), _) => self.fail(format!("a header name is not valid: {error}")),
            (_, Err(error)) => self.fail(format!("a header value is not valid: {error}")),
        }
    }

    /// Appends parameters to the query, percent-encoded.
    pub fn query<K: AsRef<str>, V: AsRef<str>>(mut self, parameters: impl IntoIterator<Item = (K, V)>) -> Self {
        use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
        const KEEP: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
        for (key, value) in parameters {
            let separator = if self.uri.contains('?') { '&' } else { '?' };
            let (key, value) = (utf8_percent_encode(key.as_ref(), KEEP), utf8_percent_encode(value.as_ref(), KEEP));
            self.uri.push_str(&format!("{separator}{key}={value}"));
        }
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to JSON, and `content-type` unless it is set already.
    pub fn json(mut self, value: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::to_vec(value) {
            Ok(json) => {
                self.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
                self.body = Body::from(json);
                self
            }
            Err(error) => self.fail(format!("the body cannot be written as JSON: {error}")),
        }
    }

    /// The overall timeout of this call, response body included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.call = self.call.timeout(timeout);
        self
    }

    /// How important this call is.
    pub fn criticality(mut self, criticality: Criticality) -> Self {
        self.call = self.call.criticality(criticality);
        self
    }

    /// Goes to this endpoint if it can: see [`Call::prefer`].
    pub fn prefer(mut self, endpoint: &str) -> Self {
        self.call = self.call.prefer(endpoint);
        self
    }

    /// Passes over this endpoint while there are others: see [`Call::avoid`].
    pub fn avoid(mut self, endpoint: &str) -> Self {
        self.call = self.call.avoid(endpoint);
        self
    }

    /// Options of this call.
    pub fn call(mut self, call: Call) -> Self {
        self.call = call.or(self.call);
        self
    }

    /// The request, to be sent by other means.
    ///
    /// # Errors
    /// E055 if a header, the body or the URI is not valid.
    pub fn build(self) -> Result<Request<Body>, Error> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let uri: Uri = self.uri.parse().map_err(|error: http::uri::InvalidUri| {
            Error::new(Code::BadRequest, format!("`{}` is not a URI: {error}", self.uri))
        })?;
        if uri.authority().is_none() && !uri.path().starts_with('/') {
            let message = format!("`{}` is neither a path that begins with `/` nor a whole URI", self.uri);
            return Err(Error::new(Code::BadRequest, message));
        }
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers;
        if self.call != Call::new() {
            request.extensions_mut().insert(self.call);
        }
        Ok(request)
    }

    /// Sends the request.
    ///
    /// # Errors
    /// E055 if the request is not valid, otherwise why there is no response. An error status is a response: see
    /// [`ResponseExt::error_for_status`].
    ///
    /// # Cancellation
    /// Dropping the future cancels the call.
    pub async fn send(self) -> Result<Response<Body>, Error> {
        let client = self.client.clone();
        client.send(self.build()?).await
    }
}

/// Reads responses.
pub trait ResponseExt: Sized {
    /// The response, if its status is not 4xx or 5xx.
    ///
    /// # Errors
    /// The status, with the mesh's error code if the mesh answered.
    fn error_for_status(self) -> Result<Self, StatusError>;

    /// The whole body. It is not bounded in size: set a limit on the route, or read frames, where the peer is not trusted.
    fn bytes(self) -> impl Future<Output = Result<Bytes, Error>> + Send;

    /// The whole body as text; bytes that are not UTF-8 are replaced.
    fn text(self) -> impl Future<Output = Result<String, Error>> + Send;

    /// The whole body from JSON.
    fn json<T: DeserializeOwned>(self) -> impl Future<Output = Result<T, Error>> + Send;
}

impl ResponseExt for Response<Body> {
    fn error_for_status(self) -> Result<Self, StatusError> {
        if !self.status().is_client_error() && !self.status().is_server_error() {
            return Ok(self);
        }
        let mesh = self.extensions().get::<PeerError>().and_then(|error| error.0.to_str().ok()).map(str::to_owned);
        Err(StatusError { status: self.status(), mesh })
    }

    async fn bytes(self) -> Result<Bytes, Error> {
        collect(self.into_body()).await
    }

    async fn text(self) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.bytes().await?).into_owned())
    }

    async fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        let bytes = self.bytes().await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(Code::ProtocolError, format!("the response body is not the JSON that was expected: {error}"))
                .with_source(error)
        })
    }
}

/// One chunk is handed over as it is; only several are copied together.
async fn collect(mut body: Body) -> Result<Bytes, Error> {
    let mut first: Option<Bytes> = None;
    let mut whole: Option<BytesMut> = None;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame?.into_data() else { continue };
        match (&mut first, &mut whole) {
            (_, Some(whole)) => whole.extend_from_slice(&data),
            (None, None) => first = Some(data),
            (Some(begin), None) => {
                let mut joined = BytesMut::with_capacity(begin.len() + data.len());
                joined.extend_from_slice(begin);
                joined.extend_from_slice(&data);
                whole = Some(joined);
            }
        }
    }
    Ok(whole.map(BytesMut::freeze).or(first).unwrap_or_default())
}

/// A response with an error status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusError {
    status: StatusCode,
    mesh: Option<String>,
}

impl StatusError {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The code and reason, if a mesh answered in place of the service: `SINEW-E030; overflow`.
    pub fn mesh_error(&self) -> Option<&str> {
        self.mesh.as_deref()
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the response's status is {}", self.status)?;
        match &self.mesh {
            Some(mesh) => write!(f, " ({mesh})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StatusError {}

impl From<StatusError> for Error {
    fn from(error: StatusError) -> Self {
        // `SINEW-E030; overflow` of a peer's mesh keeps its code; a status of the service itself is only unexpected.
        let number =
            error.mesh.as_deref().and_then(|mesh| mesh.strip_prefix("SINEW-E")?.split(';').next()?.parse().ok());
        let code = number.and_then(Code::from_number).unwrap_or(Code::ProtocolError);
        Error::answered(code, error.to_string()).with_source(BoxError::from(error))
    }
}
