//! The head of a request, kept so that the request can be made again.

use std::cell::RefCell;

use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::decision;
use crate::{body::Body, matching::StringMatch};

/// Method, URI, version and headers; extensions are not sent. Headers are kept as a list, since a call that succeeds never
/// asks it anything; heads are used again by the calls of the same thread, so that keeping one allocates nothing.
#[derive(Debug)]
pub(crate) struct Head {
    /// `None` once it was given back.
    parts: Option<Box<Parts>>,
}

#[derive(Debug, Default)]
struct Parts {
    method: Method,
    uri: Uri,
    version: Version,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Head {
    pub(crate) fn of(request: &Request<Body>) -> Self {
        let mut parts = SPARE.try_with(|spare| spare.try_borrow_mut().ok()?.pop()).ok().flatten().unwrap_or_default();
        if *request.method() != Method::GET {
            parts.method = request.method().clone();
        }
        parts.uri = request.uri().clone();
        parts.version = request.version();
        let pair = |(name, value): (&HeaderName, &HeaderValue)| (name.clone(), value.clone());
        parts.headers.extend(request.headers().iter().map(pair));
        Self { parts: Some(parts) }
    }

    /// The request, with the headers in their order.
    pub(crate) fn request(&self, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        let Some(parts) = &self.parts else { return request };
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = parts.uri.clone();
        *request.version_mut() = parts.version;
        let headers = request.headers_mut();
        headers.reserve(parts.headers.len());
        for (name, value) in &parts.headers {
            headers.append(name.clone(), value.clone());
        }
        request
    }

    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.parts.as_ref()?.headers.iter().find(|(known, _)| known.as_str() == name)?;
        value.to_str().ok()
    }

    pub(crate) fn is_idempotent(&self) -> bool {
        self.parts.as_ref().is_some_and(|parts| decision::is_idempotent(&parts.method))
            || self.get("idempotency-key").is_some()
    }

    /// Whether any of these headers is as it is said; true if there are none.
    pub(crate) fn is_eligible(&self, wanted: &[(HeaderName, StringMatch)]) -> bool {
        wanted.is_empty() || decision::holds_any(wanted, |name| self.get(name.as_str()))
    }
}

#[allow(clippy::vec_box, reason = "a head is moved with its call, so it is boxed, and the box is what is used again")]
type Spare = Vec<Box<Parts>>;

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Vec::new()) };
}

/// How many heads a thread keeps, and with room for how many headers.
const SPARE_HEADS: usize = 64;
const LONGEST: usize = 64;

impl Drop for Head {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else { return };
        if parts.headers.capacity() > LONGEST {
            return;
        }
        // What belongs to the request goes with it.
        parts.headers.clear();
        parts.uri = Uri::default();
        if parts.method != Method::GET {
            parts.method = Method::GET;
        }
        // A thread that ends has nothing to keep it in.
        let _ = SPARE.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.len() < SPARE_HEADS
            {
                spare.push(parts);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back_as_it_was() {
        let request = Request::post("http://a/b?c")
            .version(Version::HTTP_2)
            .header("x", "1")
            .header("y", "2")
            .header("x", "3")
            .body(Body::empty())
            .unwrap();
        let again = Head::of(&request).request(Body::empty());
        assert_eq!((again.method(), again.uri()), (request.method(), request.uri()));
        assert_eq!((again.version(), again.headers()), (request.version(), request.headers()));
    }

    #[test]
    fn a_key_makes_a_post_idempotent() {
        let request = |builder: http::request::Builder| Head::of(&builder.body(Body::empty()).unwrap());
        assert!(request(Request::get("/")).is_idempotent());
        assert!(!request(Request::post("/")).is_idempotent());
        assert!(request(Request::post("/").header("Idempotency-Key", "1")).is_idempotent());
        let wanted = [(HeaderName::from_static("x"), StringMatch::Present(true))];
        assert!(!request(Request::get("/")).is_eligible(&wanted));
        assert!(request(Request::get("/").header("x", "")).is_eligible(&wanted));
    }
}
