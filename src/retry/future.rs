//! A call on its way: its first attempt inline, further ones boxed.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    body::RetryBody,
    plan::{Meta, Plan, Step},
    repeat::Repeat,
};
use crate::{
    classify,
    error::{Code, Error},
    rt::{self, Instant, Sleep},
};

/// How long the first frame of a gRPC response is waited for.
pub(crate) const PEEK: Duration = Duration::from_millis(20);

pin_project! {
    /// The future of a call that may be sent again.
    #[project = Projection]
    pub(crate) struct ResponseFuture<S, F, M, R, B>
    where
        M: Repeat<R>,
    {
        #[pin]
        first: Option<F>,
        more: Vec<(Pin<Box<Lane<S, F, R>>>, Meta)>,
        peek: Option<Peek<B>>,
        #[pin]
        timer: Option<Sleep>,
        // When the timer fires.
        armed: Option<Instant>,
        // What is known of a call that can be sent again.
        plan: Option<Plan<S, M, R, B>>,
    }
}

struct Peek<B> {
    response: Response<B>,
    meta: Meta,
    until: Instant,
}

impl<S, F, M, R, B> ResponseFuture<S, F, M, R, B>
where
    M: Repeat<R>,
{
    #[inline]
    pub(super) fn new(first: F, plan: Option<Plan<S, M, R, B>>) -> Self {
        Self { first: Some(first), more: Vec::new(), peek: None, timer: None, armed: None, plan }
    }
}

type Answer<B> = Result<Response<RetryBody<B>>, Error>;

impl<S, M, R, B> Future for ResponseFuture<S, S::Future, M, R, B>
where
    S: Service<R, Response = Response<B>, Error = Error> + Clone,
    M: Repeat<R>,
    B: HttpBody<Data = Bytes, Error = Error> + Unpin,
{
    type Output = Answer<B>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer<B>> {
        let mut this = self.project();
        loop {
            match ready!(this.poll_step(cx)) {
                Step::Done(result, frame) => return Poll::Ready(this.answer(result, frame)),
                Step::Peek(response, meta) => {
                    *this.peek = Some(Peek { response, meta, until: rt::now() + PEEK });
                }
                Step::Go => {}
            }
        }
    }
}

impl<S, M, R, B> Projection<'_, S, S::Future, M, R, B>
where
    S: Service<R, Response = Response<B>, Error = Error> + Clone,
    M: Repeat<R>,
    B: HttpBody<Data = Bytes, Error = Error> + Unpin,
{
    /// Until something ends or its time comes.
    #[inline]
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step<B>> {
        let Some(plan) = self.plan.as_mut() else {
            let Some(first) = self.first.as_mut().as_pin_mut() else {
                return Poll::Ready(Step::Done(Err(over()), None));
            };
            return first.poll(cx).map(|result| Step::Done(result, None));
        };
        if let Some(peek) = self.peek.as_mut() {
            if let Poll::Ready(frame) = Pin::new(peek.response.body_mut()).poll_frame(cx) {
                return Poll::Ready(self.peeked(Some(frame)));
            }
        } else {
            if plan.decided.as_ref().is_some_and(|decided| decided.at.is_none())
                && let Some(decided) = plan.decided.take()
            {
                let (service, request, meta) = plan.send(decided);
                self.more.push((Box::pin(Lane::Waiting { service, request: Some(request) }), meta));
            }
            if let Some(first) = self.first.as_mut().as_pin_mut()
                && let Poll::Ready(result) = first.poll(cx)
            {
                self.first.set(None);
                let meta = plan.first();
                return Poll::Ready(plan.ended(result, meta, !self.more.is_empty()));
            }
            for index in 0..self.more.len() {
                let (lane, _) = &mut self.more[index];
                if let Poll::Ready(result) = lane.as_mut().poll(cx) {
                    let (_, meta) = self.more.swap_remove(index);
                    let others = self.first.is_some() || !self.more.is_empty();
                    return Poll::Ready(plan.ended(result, meta, others));
                }
            }
        }
        self.poll_time(cx)
    }

    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<Step<B>> {
        let Some(plan) = self.plan.as_mut() else { return Poll::Pending };
        let peek = self.peek.as_ref().map(|peek| peek.until);
        let Some(at) = peek.or_else(|| plan.decided.as_ref()?.at).or(plan.hedge_at) else { return Poll::Pending };
        if *self.armed != Some(at) {
            *self.armed = Some(at);
            self.timer.set(Some(rt::sleep_until(at)));
        }
        if let Some(timer) = self.timer.as_mut().as_pin_mut() {
            ready!(timer.poll(cx));
        }
        self.timer.set(None);
        *self.armed = None;
        if peek.is_some() {
            return Poll::Ready(self.peeked(None));
        }
        match &mut plan.decided {
            Some(decided) => decided.at = None,
            None => plan.hedge(),
        }
        Poll::Ready(Step::Go)
    }

    fn peeked(&mut self, frame: Option<Option<Result<Frame<Bytes>, Error>>>) -> Step<B> {
        let (Some(plan), Some(peek)) = (self.plan.as_mut(), self.peek.take()) else { return Step::Go };
        let others = self.first.is_some() || !self.more.is_empty();
        plan.peeked(peek.response, frame, peek.meta, others)
    }

    #[inline]
    fn answer(&mut self, result: Result<Response<B>, Error>, frame: Option<Frame<Bytes>>) -> Answer<B> {
        let Some(mut plan) = self.plan.take() else {
            self.first.set(None);
            return result.map(|response| response.map(RetryBody::new));
        };
        if self.first.is_some() || !self.more.is_empty() {
            // The others lost, which says nothing about their endpoints.
            if self.first.is_some() {
                plan.lost(plan.first());
            }
            classify::losing(|| {
                self.first.set(None);
                for (lane, meta) in self.more.drain(..) {
                    drop(lane);
                    plan.lost(meta);
                }
            });
        }
        plan.over();
        let response = result?;
        Ok(RetryBody::answer(response, frame, plan.counts(), plan.is_grpc()))
    }
}

fn over() -> Error {
    Error::new(Code::Internal, "a call was polled after its end")
}

pin_project! {
    /// A further attempt: made once its service is ready.
    #[project = LaneProjection]
    pub(super) enum Lane<S, F, R> {
        Waiting { service: S, request: Option<R> },
        Running { #[pin] future: F },
    }
}

impl<S, R> Future for Lane<S, S::Future, R>
where
    S: Service<R, Error = Error>,
{
    type Output = Result<S::Response, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let future = match self.as_mut().project() {
                LaneProjection::Running { future } => return future.poll(cx),
                LaneProjection::Waiting { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    let Some(request) = request.take() else { return Poll::Ready(Err(over())) };
                    service.call(request)
                }
            };
            self.set(Lane::Running { future });
        }
    }
}
