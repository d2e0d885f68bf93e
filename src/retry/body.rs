//! The body of a response whose first frame may have been read already.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::budget::Budget;
use crate::{
    classify::{self, Outcome, Verdict},
    error::Error,
};

pin_project! {
    /// The response body of a retried call: that of the attempt that answered.
    pub struct RetryBody<B> {
        front: Option<Front>,
        #[pin]
        body: B,
        // Filled by a gRPC response that turns out to be a success.
        budget: Option<Arc<Budget>>,
    }
}

/// A frame that was read to learn how the call went.
enum Front {
    Data(Bytes),
    Trailers(Box<HeaderMap>),
}

impl<B> RetryBody<B> {
    pub(super) fn new(body: B) -> Self {
        Self { front: None, body, budget: None }
    }

    /// The answer of a call: puts back the frame that was read of it, and counts a success for the budget if nobody else
    /// does.
    #[inline(always)]
    pub(super) fn answer(
        response: Response<B>,
        frame: Option<Frame<Bytes>>,
        budget: Option<&Arc<Budget>>,
        grpc: bool,
    ) -> Response<Self> {
        let front = frame.and_then(|frame| match frame.into_data() {
            Ok(data) => Some(Front::Data(data)),
            Err(frame) => frame.into_trailers().ok().map(|trailers| Front::Trailers(Box::new(trailers))),
        });
        let verdict = |response: &Response<B>| classify::by_headers(response.status(), response.headers(), grpc);
        let budget = budget.and_then(|budget| match verdict(&response) {
            Verdict::Final(outcome) => {
                count(budget, outcome);
                None
            }
            Verdict::AtTrailers => Some(Arc::clone(budget)),
        });
        response.map(|body| Self { front, body, budget })
    }
}

fn count(budget: &Budget, outcome: Outcome) {
    if outcome.fills_budget() {
        budget.success();
    }
}

impl<B> std::fmt::Debug for RetryBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RetryBody")
    }
}

impl<B> HttpBody for RetryBody<B>
where
    B: HttpBody<Data = Bytes, Error = Error>,
{
    type Data = Bytes;
    type Error = Error;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.project();
        let frame = match this.front.take() {
            None => ready!(this.body.poll_frame(cx)),
            Some(Front::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Front::Trailers(trailers)) => Some(Ok(Frame::trailers(*trailers))),
        };
        if let Some(budget) = this.budget.as_ref() {
            let trailers = match &frame {
                Some(Ok(frame)) => frame.trailers_ref(),
                _ => None,
            };
            if let Some(trailers) = trailers {
                count(budget, classify::trailers(Some(trailers)));
                *this.budget = None;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.front.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let Some(Front::Data(data)) = &self.front else { return self.body.size_hint() };
        let (rest, data) = (self.body.size_hint(), data.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + data);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + data);
        }
        hint
    }
}
