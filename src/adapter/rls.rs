//! `envoy.service.ratelimit.v3.RateLimitService` over any tonic channel.

mod message;

use std::{sync::Arc, time::Duration};

use http::uri::PathAndQuery;
use tonic::{
    Request,
    body::Body as TonicBody,
    client::{Grpc, GrpcService},
    codegen::StdError,
};
use tonic_prost::ProstCodec;

use self::message::{Code, Descriptor, Entry, RateLimitRequest, RateLimitResponse, Unit};
use crate::{
    client::Client,
    error::BoxError,
    limit::{Answer, Asking, CountLimits, Query},
};

/// A client of Envoy's rate limit service, for limits that are not a mesh's:
///
/// ```
/// use sinew::{RlsClient, limit::{GlobalEntry, GlobalPolicy, KeySource, RateLimitLayer, RateLimitPolicy}};
///
/// fn limit(channel: tonic::transport::Channel) -> Result<RateLimitLayer, Box<dyn std::error::Error>> {
///     let global = GlobalPolicy::new("ratelimit".parse()?, "shop").descriptor([GlobalEntry::of(KeySource::Path)]);
///     Ok(RateLimitLayer::asking(RateLimitPolicy::counted_by(global), RlsClient::new(channel))?)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct RlsClient<T> {
    channel: T,
}

impl<T> RlsClient<T> {
    /// Asks over this channel, such as a [`Client`].
    pub fn new(channel: T) -> Self {
        Self { channel }
    }
}

impl<T> CountLimits for RlsClient<T>
where
    T: GrpcService<TonicBody, Future: Send> + Clone + Send + Sync + 'static,
    T::Error: Into<StdError>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    fn ask(&self, query: Query) -> Asking {
        let mut grpc = Grpc::new(self.channel.clone());
        Box::pin(async move {
            grpc.ready().await.map_err(|error| -> BoxError { error.into() })?;
            let path = PathAndQuery::from_static("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit");
            let codec = ProstCodec::<RateLimitRequest, RateLimitResponse>::default();
            Ok(read(grpc.unary(Request::new(written(query)), path, codec).await?.into_inner()))
        })
    }
}

/// What asks over the calls of a client.
pub(crate) fn counting(client: Client) -> Arc<dyn CountLimits> {
    Arc::new(RlsClient::new(client))
}

fn written(query: Query) -> RateLimitRequest {
    let entry = |(key, value): (Arc<str>, String)| Entry { key: key.as_ref().to_owned(), value };
    let descriptor =
        |entries: Vec<(Arc<str>, String)>| Descriptor { entries: entries.into_iter().map(entry).collect() };
    RateLimitRequest {
        domain: query.domain.as_ref().to_owned(),
        descriptors: query.descriptors.into_iter().map(descriptor).collect(),
        hits_addend: 1,
    }
}

fn read(response: RateLimitResponse) -> Answer {
    // What is neither is no refusal, as for Envoy.
    let mut answer = Answer::new(response.overall_code() == Code::OverLimit);
    for status in &response.statuses {
        let reset = status.duration_until_reset.as_ref().map(|reset| {
            let (seconds, nanos) = (u64::try_from(reset.seconds).unwrap_or(0), u32::try_from(reset.nanos).unwrap_or(0));
            Duration::new(seconds, nanos.min(999_999_999))
        });
        if status.code() == Code::OverLimit {
            answer.retry_after = answer.retry_after.max(reset);
        }
        if let Some(limit) = &status.current_limit {
            let window = window(limit.unit());
            answer.status(limit.requests_per_unit, status.limit_remaining, reset.unwrap_or_default(), window);
        }
    }
    let value = |header: &message::Header| {
        if header.raw_value.is_empty() { header.value.as_bytes().to_vec() } else { header.raw_value.clone() }
    };
    for header in &response.response_headers_to_add {
        answer.response_header(&header.key, &value(header));
    }
    for header in &response.request_headers_to_add {
        answer.request_header(&header.key, &value(header));
    }
    answer
}

fn window(unit: Unit) -> Duration {
    const DAY: u64 = 24 * 3600;
    Duration::from_secs(match unit {
        Unit::Unknown => 0,
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 3600,
        Unit::Day => DAY,
        Unit::Week => 7 * DAY,
        Unit::Month => 30 * DAY,
        Unit::Year => 365 * DAY,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_question_is_written_as_the_protocol_has_it() {
        let query = written(Query {
            domain: "d".into(),
            descriptors: vec![vec![("k".into(), "v".into()), ("l".into(), "w".into())]],
        });
        // domain = 1; descriptors = 2 {entries = 1 {key = 1, value = 2}}; hits_addend = 3
        assert_eq!(
            query.encode_to_vec(),
            b"\x0a\x01d\x12\x10\x0a\x06\x0a\x01k\x12\x01v\x0a\x06\x0a\x01l\x12\x01w\x18\x01"
        );
    }

    #[test]
    fn an_answer_is_read_as_the_protocol_has_it() {
        // overall_code = 1: 2; statuses = 2 {code = 1: 2, current_limit = 2 {requests_per_unit = 1: 5, unit = 2: MINUTE},
        // duration_until_reset = 4 {seconds = 1: 17}}; response_headers_to_add = 3 {key = 1, value = 2}
        let bytes = b"\x08\x02\x12\x0c\x08\x02\x12\x04\x08\x05\x10\x02\x22\x02\x08\x11\x1a\x08\x0a\x03x-a\x12\x011";
        let answer = read(RateLimitResponse::decode(&bytes[..]).unwrap());
        assert!(answer.over_limit);
        assert_eq!(answer.retry_after, Some(Duration::from_secs(17)));
        let shown = format!("{answer:?}");
        assert!(
            shown.contains("limit: 5, remaining: 0, reset: 17s, window: 60s") && shown.contains("\"x-a\": \"1\""),
            "{shown}"
        );
        assert!(!read(RateLimitResponse::decode(&b""[..]).unwrap()).over_limit);
    }
}
