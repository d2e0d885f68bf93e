//! The head of a request, kept so that the request can be made again.

use std::{cell::RefCell, mem};

use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::decision;
use crate::{body::Body, matching::StringMatch};

/// Method, URI, version and headers; extensions are not sent. Headers are kept as a list, since a call that succeeds never
/// asks it anything; lists are used again by the calls of the same thread, so that keeping one allocates nothing.
#[derive(Debug)]
pub(crate) struct Head {
    method: Method,
    uri: Uri,
    version: Version,
    headers: Headers,
}

impl Head {
    pub(crate) fn of(request: &Request<Body>) -> Self {
        let pair = |(name, value): (&HeaderName, &HeaderValue)| (name.clone(), value.clone());
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: {
                let mut headers =
                    SPARE.try_with(|spare| spare.try_borrow_mut().ok()?.pop()).ok().flatten().unwrap_or_default();
                headers.extend(request.headers().iter().map(pair));
                headers
            },
        }
    }

    /// The request, with the headers in their order.
    pub(crate) fn request(&self, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        let headers = request.headers_mut();
        headers.reserve(self.headers.len());
        for (name, value) in &self.headers {
            headers.append(name.clone(), value.clone());
        }
        request
    }

    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known.as_str() == name)?;
        value.to_str().ok()
    }

    pub(crate) fn is_idempotent(&self) -> bool {
        decision::is_idempotent(&self.method) || self.get("idempotency-key").is_some()
    }

    /// Whether any of these headers is as it is said; true if there are none.
    pub(crate) fn is_eligible(&self, wanted: &[(HeaderName, StringMatch)]) -> bool {
        wanted.is_empty() || decision::holds_any(wanted, |name| self.get(name.as_str()))
    }
}

type Headers = Vec<(HeaderName, HeaderValue)>;

thread_local! {
    static SPARE: RefCell<Vec<Headers>> = const { RefCell::new(Vec::new()) };
}

/// How many lists a thread keeps, and how long one of them may be.
const SPARE_LISTS: usize = 64;
const LONGEST: usize = 64;

impl Drop for Head {
    fn drop(&mut self) {
        let mut headers = mem::take(&mut self.headers);
        headers.clear();
        if (1..=LONGEST).contains(&headers.capacity()) {
            // A thread that ends has nothing to keep it in.
            let _ = SPARE.try_with(|spare| {
                if let Ok(mut spare) = spare.try_borrow_mut()
                    && spare.len() < SPARE_LISTS
                {
                    spare.push(headers);
                }
            });
        }
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
