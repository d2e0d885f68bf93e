//! Over gRPC: `envoy.service.auth.v3.Authorization/Check`.

use std::{collections::HashMap, sync::Once};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Version, header};
use http_body_util::{BodyExt, Limited};
use prost::Message;

use super::{
    Ask, Failure,
    answer::{Answer, Changes, Denied, How},
    message::{
        Address, AttributeContext, CheckRequest, CheckResponse, HeaderValueOption, HttpRequest, OkHttpResponse, Peer,
        Request as Asked, SocketAddress, TlsSession,
    },
};
use crate::{authz::ExtAuthz, body::Body, canon, classify::GRPC_STATUS, peer::PeerAddr, server::inbound::Served};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// The largest answer that is read.
const MAX_ANSWER: usize = 256 * 1024;
const OK: &str = "0";
const PERMISSION_DENIED: &str = "7";
const UNAUTHENTICATED: &str = "16";

/// What is asked.
pub(super) fn request(policy: &ExtAuthz, served: &Served) -> Result<Request<Body>, Failure> {
    let mut request = Request::new(Body::from(frame(&attributes(policy, served))));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(CHECK);
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    Ok(request)
}

pub(super) async fn ask(service: &dyn Ask, request: Request<Body>) -> Result<Answer, Failure> {
    let response = service.ask(request).await.map_err(|error| Failure::new("unavailable", error.to_string()))?;
    let (head, body) = response.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(Failure::new("unavailable", format!("it answers {}", head.status)));
    }
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|error| Failure::new("unavailable", error.to_string()))?;
    let status = body.trailers().and_then(|trailers| trailers.get(GRPC_STATUS)).or(head.headers.get(GRPC_STATUS));
    match status.and_then(|status| status.to_str().ok()) {
        Some(OK) => {}
        // Some services say no in this way.
        Some(PERMISSION_DENIED) => return Ok(Answer::Denied(Denied::new(403))),
        Some(UNAUTHENTICATED) => return Ok(Answer::Denied(Denied::new(401))),
        status => {
            let message = head.headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
            return Err(Failure::new("unavailable", format!("gRPC status {}: {message}", status.unwrap_or("none"))));
        }
    }
    answer(read(&body.to_bytes())?)
}

fn frame(message: &CheckRequest) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A buffer that grows takes any message.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

fn read(bytes: &[u8]) -> Result<CheckResponse, Failure> {
    let malformed = |why: &str| Failure::new("malformed", why);
    let (head, message) = bytes.split_at_checked(5).ok_or_else(|| malformed("its answer has no message"))?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if head[0] != 0 || usize::try_from(length) != Ok(message.len()) {
        return Err(malformed("its answer is not one uncompressed message"));
    }
    CheckResponse::decode(message).map_err(|error| malformed(&error.to_string()))
}

fn answer(said: CheckResponse) -> Result<Answer, Failure> {
    let ignored = said.dynamic_metadata.is_some()
        || said.ok_response.as_ref().is_some_and(|response| response.dynamic_metadata.is_some());
    if ignored {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| tracing::warn!("an authorization service sets dynamic metadata, which nothing here reads"));
    }
    // An empty message is "yes" to Envoy. To us it is a service that has not made up its mind.
    let status = said.status.ok_or_else(|| Failure::new("malformed", "its answer has no status"))?;
    if status.code != 0 {
        let denied = said.denied_response.unwrap_or_default();
        let code = denied.status.and_then(|status| u16::try_from(status.code).ok()).filter(|code| *code != 0);
        let mut answer = Denied::new(code.unwrap_or(if status.code == 16 { 401 } else { 403 }));
        answer.body = denied.body.into_bytes();
        let mut headers = HeaderMap::new();
        let mut changes = Changes::default();
        for option in denied.headers {
            let (name, value, how) = taken(option);
            // What is set twice, as cookies are, was meant twice.
            changes.of_response(&name, &value, if how == How::Set { How::Append } else { how })?;
        }
        changes.apply(&mut HeaderMap::new(), &mut headers);
        answer.headers = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        return Ok(Answer::Denied(answer));
    }
    let OkHttpResponse {
        headers,
        headers_to_remove,
        response_headers_to_add,
        query_parameters_to_set,
        query_parameters_to_remove,
        ..
    } = said.ok_response.unwrap_or_default();
    if !query_parameters_to_set.is_empty() || !query_parameters_to_remove.is_empty() {
        // The target has been judged: what it is may not change any more.
        return Err(Failure::new("mutation", "it would change the query, which it may not"));
    }
    let mut changes = Changes::default();
    for option in headers {
        let (name, value, how) = taken(option);
        changes.of_request(&name, &value, how)?;
    }
    for name in headers_to_remove {
        changes.remove(&name)?;
    }
    for option in response_headers_to_add {
        let append = option.append.as_ref().map(|append| append.value);
        let (name, value, how) = taken(option);
        // Here, Envoy adds unless told otherwise.
        changes.of_response(&name, &value, if append.is_none() && how == How::Set { How::Append } else { how })?;
    }
    Ok(Answer::Allowed(changes))
}

/// `append` is older than `append_action` and wins where it is given; by default a header replaces the one that is there.
fn taken(option: HeaderValueOption) -> (String, Vec<u8>, How) {
    let header = option.header.unwrap_or_default();
    let value = if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
    let how = match (option.append.map(|append| append.value), option.append_action) {
        (Some(true), _) => How::Append,
        (Some(false), _) => How::Set,
        (None, 1) => How::IfAbsent,
        (None, 3) => How::IfPresent,
        (None, _) => How::Set,
    };
    (header.key.to_ascii_lowercase(), value, how)
}

fn attributes(policy: &ExtAuthz, served: &Served) -> CheckRequest {
    let peer = &served.cx.peer;
    let request = &served.request;
    let host = canon::host(request.uri(), request.headers()).map(|own| match own.port {
        Some(port) => format!("{}:{port}", own.host),
        None => own.host.to_string(),
    });
    let host = host.unwrap_or_default();
    let path = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let method = canon::method(request.method(), request.uri());
    let scheme = request.uri().scheme_str().unwrap_or(if peer.id().is_some() { "https" } else { "http" });
    let mut headers: HashMap<String, String> = HashMap::new();
    // As Envoy has it, the pseudo-headers are among them.
    for (name, value) in [(":method", method.as_str()), (":path", path), (":authority", &host), (":scheme", scheme)] {
        headers.insert(name.into(), value.into());
    }
    let told = |name: &http::HeaderName| policy.headers.is_empty() || policy.headers.contains(name);
    for name in request.headers().keys().filter(|name| told(name) && **name != header::HOST) {
        let values = request.headers().get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        headers.insert(name.as_str().into(), values.collect::<Vec<_>>().join(","));
    }
    let body = match request.body().as_full() {
        Some(body) if policy.max_request_bytes > 0 => body,
        _ => Bytes::new(),
    };
    let (text, raw) = match std::str::from_utf8(&body) {
        Ok(text) => (text.to_owned(), Vec::new()),
        Err(_) => (String::new(), body.to_vec()),
    };
    let size = http_body::Body::size_hint(request.body()).exact().and_then(|size| i64::try_from(size).ok());
    let http = HttpRequest {
        id: served.cx.context.request_id().unwrap_or_default().to_owned(),
        method: method.as_str().to_owned(),
        headers,
        path: path.to_owned(),
        host,
        scheme: scheme.to_owned(),
        size: size.unwrap_or(-1),
        protocol: if request.version() == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
        body: text,
        raw_body: raw,
    };
    let address = |address: &PeerAddr| match address {
        PeerAddr::Tcp(address) => Some(Address {
            socket_address: Some(SocketAddress {
                address: address.ip().to_canonical().to_string(),
                port_value: Some(address.port().into()),
            }),
        }),
        PeerAddr::Memory(_) => None,
    };
    let principal = peer.id().map(ToString::to_string).unwrap_or_default();
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer { address: address(peer.remote_addr()), principal }),
            destination: Some(Peer { address: address(peer.local_addr()), principal: String::new() }),
            request: Some(Asked { http: Some(http) }),
            tls_session: peer.server_name().map(|sni| TlsSession { sni: sni.to_owned() }),
        }),
    }
}
