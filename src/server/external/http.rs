//! Over HTTP: the request again without its body, and 200 allows.

use bytes::Bytes;
use http::{HeaderName, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};

use super::{
    Ask, Failure,
    answer::{Answer, Changes, Denied, How, is_fixed},
};
use crate::{authz::ExtAuthz, body::Body, server::inbound::Served};

/// The most that is passed on of the answer in place of the application's.
const MAX_ANSWER: usize = 64 * 1024;

/// What is asked.
pub(super) fn request(policy: &ExtAuthz, served: &Served) -> Result<Request<Body>, Failure> {
    let asked = &served.request;
    let target = asked.uri().path_and_query().map_or("/", |target| target.as_str());
    let uri: Uri = format!("{}{target}", policy.path_prefix)
        .parse()
        .map_err(|_| Failure::new("malformed", "the path with its prefix is none"))?;
    let body = match served.request.body().as_full() {
        Some(body) if policy.max_request_bytes > 0 => body,
        _ => Bytes::new(),
    };
    let mut request = Request::builder()
        .method(asked.method())
        .uri(uri)
        .body(Body::from(body))
        .map_err(|_| Failure::new("malformed", "it cannot be asked again"))?;
    let told = policy.headers.iter().chain([&header::AUTHORIZATION]);
    for name in told.filter(|name| !is_fixed(name.as_str())) {
        request.headers_mut().remove(name);
        for value in asked.headers().get_all(name) {
            request.headers_mut().append(name, value.clone());
        }
    }
    Ok(request)
}

pub(super) async fn ask(service: &dyn Ask, policy: &ExtAuthz, request: Request<Body>) -> Result<Answer, Failure> {
    let response = service.ask(request).await.map_err(|error| Failure::new("unavailable", error.to_string()))?;
    let status = response.status();
    if status == StatusCode::OK {
        let mut changes = Changes::default();
        for name in &policy.upstream_headers {
            for (index, value) in response.headers().get_all(name).iter().enumerate() {
                let how = if index == 0 { How::Set } else { How::Append };
                changes.of_request(name.as_str(), value.as_bytes(), how)?;
            }
        }
        return Ok(Answer::Allowed(changes));
    }
    if status.is_server_error() {
        return Err(Failure::new("unavailable", format!("it answers {status}")));
    }
    // 2xx other than 200 is not "yes".
    let mut denied = Denied::new(if status.is_success() { 403 } else { status.as_u16() });
    let (head, body) = response.into_parts();
    let passed = |name: &HeaderName| !is_fixed(name.as_str()) && *name != header::DATE && *name != header::SERVER;
    denied.headers.extend(
        head.headers.iter().filter(|(name, _)| passed(name)).map(|(name, value)| (name.clone(), value.clone())),
    );
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    denied.body = body.map_err(|error| Failure::new("malformed", error.to_string()))?.to_bytes().to_vec();
    Ok(Answer::Denied(denied))
}
