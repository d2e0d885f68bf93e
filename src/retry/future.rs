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
    decision::Finding,
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
    ///
    /// Every layer above moves it once, so what only a further attempt needs is boxed.
    #[project = Projection]
    pub(crate) struct ResponseFuture<S, F, M, R, B>
    where
        M: Repeat<R>,
    {
        #[pin]
        first: First<F, B>,
        more: Vec<(Pin<Box<Lane<S, F, R>>>, Meta)>,
        // Of a further attempt, while the first still runs.
        peek: Option<Box<Peek<B>>>,
        #[pin]
        timer: Option<Sleep>,
        // What is known of a call that can be sent again.
        plan: Option<Plan<S, M, R, B>>,
    }
}

pin_project! {
    /// The first attempt, or in its place the response that has to be looked into.
    #[project = FirstProjection]
    enum First<F, B> {
        Running { #[pin] future: F },
        Peeking { peek: Option<Peek<B>> },
        Over,
    }
}

impl<F, B> First<F, B> {
    fn runs(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

struct Peek<B> {
    response: Response<B>,
    until: Instant,
    /// Of a further attempt.
    meta: Option<Box<Meta>>,
}

impl<S, F, M, R, B> ResponseFuture<S, F, M, R, B>
where
    M: Repeat<R>,
{
    #[inline(always)]
    pub(super) fn new(future: F, plan: Option<Plan<S, M, R, B>>) -> Self {
        Self { first: First::Running { future }, more: Vec::new(), peek: None, timer: None, plan }
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
        let FirstProjection::Running { future } = this.first.as_mut().project() else {
            return this.poll_further(cx, false);
        };
        if let Poll::Ready(result) = future.poll(cx) {
            this.first.set(First::Over);
            let Some(plan) = this.plan else {
                return Poll::Ready(result.map(|response| response.map(RetryBody::new)));
            };
            let mut meta = plan.first();
            let finding = plan.found(&result, &mut meta);
            match result {
                // What nearly every call comes to.
                Ok(response) if finding == Some(Finding::Final) && this.more.is_empty() => {
                    plan.over(false);
                    let answer = RetryBody::answer(response, None, plan.counts(), plan.is_grpc());
                    *this.plan = None;
                    return Poll::Ready(Ok(answer));
                }
                result => {
                    let step = plan.ended(result, finding, meta, !this.more.is_empty());
                    if let Some(answer) = this.follow(step) {
                        return Poll::Ready(answer);
                    }
                }
            }
        }
        this.poll_further(cx, true)
    }
}

impl<S, M, R, B> Projection<'_, S, S::Future, M, R, B>
where
    S: Service<R, Response = Response<B>, Error = Error> + Clone,
    M: Repeat<R>,
    B: HttpBody<Data = Bytes, Error = Error> + Unpin,
{
    /// The first attempt has ended otherwise than with the answer, or it takes longer; `polled`: that is known.
    fn poll_further(&mut self, cx: &mut Context<'_>, mut polled: bool) -> Poll<Answer<B>> {
        if self.plan.is_none() {
            return if self.first.runs() { Poll::Pending } else { Poll::Ready(Err(over())) };
        }
        loop {
            let step = ready!(self.poll_step(cx, polled));
            polled = false;
            if let Some(answer) = self.follow(step) {
                return Poll::Ready(answer);
            }
        }
    }

    fn follow(&mut self, step: Step<B>) -> Option<Answer<B>> {
        match step {
            Step::Done(result, frame) => return Some(self.answer(result, frame)),
            Step::Peek(response, meta) => {
                let meta = meta.is_further().then(|| Box::new(meta));
                let peek = Peek { response, until: rt::now() + PEEK, meta };
                if self.first.runs() {
                    *self.peek = Some(Box::new(peek));
                } else {
                    self.first.set(First::Peeking { peek: Some(peek) });
                }
            }
            Step::Go => {}
        }
        None
    }

    fn peek(&mut self) -> Option<&mut Peek<B>> {
        match self.first.as_mut().project() {
            FirstProjection::Peeking { peek } => peek.as_mut(),
            _ => self.peek.as_deref_mut(),
        }
    }

    /// Until something ends or its time comes.
    fn poll_step(&mut self, cx: &mut Context<'_>, polled: bool) -> Poll<Step<B>> {
        if let Some(peek) = self.peek() {
            if let Poll::Ready(frame) = Pin::new(peek.response.body_mut()).poll_frame(cx) {
                return Poll::Ready(self.peeked(Some(frame)));
            }
            return self.poll_time(cx);
        }
        let Some(plan) = self.plan.as_mut() else { return Poll::Ready(Step::Done(Err(over()), None)) };
        if let Some(decided) = plan.take_decided() {
            let (service, request, meta) = plan.send(decided);
            self.more.push((Box::pin(Lane::Waiting { service, request: Some(request) }), meta));
        }
        if !polled
            && let FirstProjection::Running { future } = self.first.as_mut().project()
            && let Poll::Ready(result) = future.poll(cx)
        {
            self.first.set(First::Over);
            let mut meta = plan.first();
            let finding = plan.found(&result, &mut meta);
            return Poll::Ready(plan.ended(result, finding, meta, !self.more.is_empty()));
        }
        for index in 0..self.more.len() {
            let (lane, _) = &mut self.more[index];
            if let Poll::Ready(result) = lane.as_mut().poll(cx) {
                let (_, mut meta) = self.more.swap_remove(index);
                let others = self.first.runs() || !self.more.is_empty();
                let finding = plan.found(&result, &mut meta);
                return Poll::Ready(plan.ended(result, finding, meta, others));
            }
        }
        self.poll_time(cx)
    }

    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<Step<B>> {
        let peek = self.peek().map(|peek| peek.until);
        let Some(plan) = self.plan.as_mut() else { return Poll::Pending };
        let Some(at) = peek.or_else(|| plan.decided_at()).or(plan.hedge_at) else { return Poll::Pending };
        if self.timer.as_ref().as_pin_ref().is_none_or(|timer| timer.deadline() != at) {
            self.timer.set(Some(rt::sleep_until(at)));
        }
        if let Some(timer) = self.timer.as_mut().as_pin_mut() {
            ready!(timer.poll(cx));
        }
        self.timer.set(None);
        if peek.is_some() {
            return Poll::Ready(self.peeked(None));
        }
        plan.time_has_come();
        Poll::Ready(Step::Go)
    }

    fn peeked(&mut self, frame: Option<Option<Result<Frame<Bytes>, Error>>>) -> Step<B> {
        let peek = match self.first.as_mut().project() {
            FirstProjection::Peeking { peek } => {
                let peek = peek.take();
                self.first.set(First::Over);
                peek
            }
            _ => self.peek.take().map(|peek| *peek),
        };
        let (Some(plan), Some(peek)) = (self.plan.as_mut(), peek) else { return Step::Go };
        let others = self.first.runs() || !self.more.is_empty();
        let meta = peek.meta.map_or_else(|| plan.first(), |meta| *meta);
        plan.peeked(peek.response, frame, meta, others)
    }

    fn answer(&mut self, result: Result<Response<B>, Error>, frame: Option<Frame<Bytes>>) -> Answer<B> {
        let Some(mut plan) = self.plan.take() else {
            self.first.set(First::Over);
            return result.map(|response| response.map(RetryBody::new));
        };
        if self.first.runs() || !self.more.is_empty() {
            // The others lost, which says nothing about their endpoints.
            if self.first.runs() {
                plan.lost(plan.first());
            }
            classify::losing(|| {
                self.first.set(First::Over);
                for (lane, meta) in self.more.drain(..) {
                    drop(lane);
                    plan.lost(meta);
                }
            });
        }
        plan.over(plan.failed);
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
