//! A rate limit service in this process: Envoy's protocol, a fixed window per descriptor, and moods.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http::{Request, Response};
use tokio::sync::watch;
use tonic::{Status, body::Body as TonicBody, codegen::Service, server};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Asked {
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) descriptors: Vec<Descriptor>,
    #[prost(uint32, tag = "3")]
    pub(crate) hits_addend: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Descriptor {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<Pair>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Pair {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Answered {
    #[prost(int32, tag = "1")]
    pub(crate) overall_code: i32,
    #[prost(message, repeated, tag = "2")]
    pub(crate) statuses: Vec<Standing>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) response_headers: Vec<Pair>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) request_headers: Vec<Pair>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Standing {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) limit: Option<Limit>,
    #[prost(uint32, tag = "3")]
    pub(crate) remaining: u32,
    #[prost(message, optional, tag = "4")]
    pub(crate) reset: Option<Seconds>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Limit {
    #[prost(uint32, tag = "1")]
    pub(crate) requests: u32,
    #[prost(int32, tag = "2")]
    pub(crate) unit: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Seconds {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
}

/// What the service does with questions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    Answers,
    /// Until it is in another mood.
    Hangs,
    Fails,
}

/// Lets each descriptor pass so often in a minute that never ends.
#[derive(Clone)]
pub(crate) struct Rls {
    inner: Arc<Inner>,
}

struct Inner {
    each: u32,
    mood: watch::Sender<Mood>,
    counts: Mutex<HashMap<Vec<(String, String)>, u32>>,
    asked: Mutex<Vec<Asked>>,
}

impl Rls {
    pub(crate) fn new(each: u32) -> Self {
        let inner =
            Inner { each, mood: watch::Sender::new(Mood::Answers), counts: Mutex::default(), asked: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn mood(&self, mood: Mood) {
        self.inner.mood.send_replace(mood);
    }

    /// What was asked until now.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.inner.asked.lock().unwrap())
    }

    async fn answer(&self, asked: Asked) -> Result<Answered, Status> {
        self.inner.asked.lock().unwrap().push(asked.clone());
        let mut mood = self.inner.mood.subscribe();
        let now = *mood.wait_for(|mood| *mood != Mood::Hangs).await.unwrap();
        if now == Mood::Fails {
            return Err(Status::unavailable("as told"));
        }
        let mut answered = Answered { overall_code: 1, ..Answered::default() };
        for descriptor in asked.descriptors {
            let key = descriptor.entries.into_iter().map(|pair| (pair.key, pair.value)).collect();
            let mut counts = self.inner.counts.lock().unwrap();
            let count = counts.entry(key).or_default();
            *count += asked.hits_addend.max(1);
            let over = *count > self.inner.each;
            if over {
                answered.overall_code = 2;
            }
            answered.statuses.push(Standing {
                code: if over { 2 } else { 1 },
                limit: Some(Limit { requests: self.inner.each, unit: 2 }),
                remaining: self.inner.each.saturating_sub(*count),
                reset: Some(Seconds { seconds: 17 }),
            });
        }
        let pair = |key: &str, value: &str| Pair { key: key.into(), value: value.into() };
        answered.response_headers = vec![pair("x-counted", "yes"), pair("connection", "close")];
        answered.request_headers = vec![pair("x-counted-by", "rls")];
        Ok(answered)
    }
}

struct Unary(Rls);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl server::UnaryService<Asked> for Unary {
    type Response = Answered;
    type Future = Boxed<Result<tonic::Response<Answered>, Status>>;

    fn call(&mut self, request: tonic::Request<Asked>) -> Self::Future {
        let rls = self.0.clone();
        Box::pin(async move { rls.answer(request.into_inner()).await.map(tonic::Response::new) })
    }
}

impl<B> Service<Request<B>> for Rls
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send,
{
    type Response = Response<TonicBody>;
    type Error = Infallible;
    type Future = Boxed<Result<Response<TonicBody>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let rls = self.clone();
        Box::pin(async move {
            let mut grpc = server::Grpc::new(ProstCodec::<Answered, Asked>::default());
            Ok(match request.uri().path() {
                "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit" => grpc.unary(Unary(rls), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}
