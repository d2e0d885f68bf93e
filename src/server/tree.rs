//! What a response says of retries: how much of the tree's allowance was spent below, and whether nobody should retry.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Response, StatusCode};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{inbound::Served, policy::ServerShared};
use crate::{
    classify::{GRPC_STATUS, Refusal},
    context::{self, SINEW_NO_RETRY, SINEW_SHED},
    error::Code,
};

#[derive(Clone)]
pub(super) struct TreeLayer {
    shared: Arc<ServerShared>,
}

impl TreeLayer {
    pub(super) fn new(shared: Arc<ServerShared>) -> Self {
        Self { shared }
    }
}

impl<S> Layer<S> for TreeLayer {
    type Service = TreeService<S>;

    fn layer(&self, inner: S) -> TreeService<S> {
        TreeService { inner, shared: Arc::clone(&self.shared) }
    }
}

#[derive(Clone)]
pub(super) struct TreeService<S> {
    inner: S,
    shared: Arc<ServerShared>,
}

impl<S, B> Service<Served> for TreeService<S>
where
    S: Service<Served, Response = Response<B>>,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, served: Served) -> Self::Future {
        self.shared.arrivals.record(served.cx.context.attempt() > 0);
        let (context, shared) = (served.cx.context.clone(), Arc::clone(&self.shared));
        ResponseFuture { inner: self.inner.call(served), context, shared }
    }
}

pin_project! {
    pub(super) struct ResponseFuture<F> {
        #[pin]
        inner: F,
        context: context::Context,
        shared: Arc<ServerShared>,
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let failed = failed(&response);
        if failed && sheds(&response) && this.shared.arrivals.are_repetitive() {
            response.headers_mut().insert(SINEW_NO_RETRY, HeaderValue::from_static("1"));
        }
        if let Some(tree) = this.context.tree() {
            tree.leave(response.headers_mut(), failed);
        }
        Poll::Ready(Ok(response))
    }
}

fn failed<B>(response: &Response<B>) -> bool {
    match response.status() {
        StatusCode::OK => response.headers().get(GRPC_STATUS).is_some_and(|status| status != "0"),
        status => status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS,
    }
}

/// Whether the request was refused because there are too many.
fn sheds<B>(response: &Response<B>) -> bool {
    let refused = response.extensions().get::<Refusal>();
    refused.is_some_and(|Refusal(code)| matches!(code, Code::OverloadShed | Code::Overflow))
        || response.headers().contains_key(SINEW_SHED)
}
