//! What is known of a call while it may still be sent again.

use std::{marker::PhantomData, mem, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;

use super::{
    allowance::Allowance,
    budget::{Budget, Charge},
    decision::{self, Facts, Finding, No, Reading},
    repeat::{AttemptKind, Beginning, Kept, Next, Repeat},
    source::Source,
};
use crate::{
    body::Body,
    context::SINEW_SPENT,
    enforcement::Mode,
    error::{Delivery, Error},
    rt::{self, Instant, Rng},
};

/// How often one call may be sent again because nothing of it was processed. A peer that ends its connections every few
/// requests, as nginx does by `keepalive_requests`, can do so to one call several times in a row.
const UNSENT: u32 = 8;

/// One attempt in flight.
#[derive(Debug)]
pub(super) struct Meta {
    started: Instant,
    /// Of the tree's allowance.
    passed: u8,
    further: bool,
    charge: Option<Charge>,
}

impl Meta {
    /// Whether it is not the first.
    pub(super) fn is_further(&self) -> bool {
        self.further
    }
}

/// An attempt that was decided.
pub(super) struct Decided {
    /// When it is sent; at once without a time.
    pub(super) at: Option<Instant>,
    kind: AttemptKind,
    charge: Option<Charge>,
    body: Body,
}

pub(super) struct Plan<S, M: Repeat<R>, R, B> {
    service: S,
    kept: M::Kept,
    source: Source,
    allowance: Allowance,
    first: u8,
    hedges: u8,
    /// Whether what this call takes is of interest.
    measured: bool,
    /// Whether the attempt that ended last failed.
    pub(super) failed: bool,
    /// When the first attempt began.
    begun: Instant,
    pub(super) hedge_at: Option<Instant>,
    hedge_after: Option<Duration>,
    /// Made when the first attempt has not ended as it should, or in time.
    further: Option<Box<Further<B>>>,
    request: PhantomData<fn(R)>,
}

/// What is known of further attempts.
struct Further<B> {
    /// How often it was sent again because nothing of it was processed.
    unsent: u32,
    /// Retries that were decided.
    retries: u32,
    /// Retries and hedges that were sent.
    sent: u32,
    back_off: Duration,
    decided: Option<Decided>,
    /// What an earlier attempt ended with: the answer if nothing later says more.
    fallback: Option<Result<Response<B>, Error>>,
}

impl<B> Default for Further<B> {
    fn default() -> Self {
        Self { unsent: 0, retries: 0, sent: 0, back_off: Duration::ZERO, decided: None, fallback: None }
    }
}

/// What follows from the end of an attempt.
pub(super) enum Step<B> {
    /// This is the answer, and the frame that was read of it already.
    Done(Result<Response<B>, Error>, Option<Frame<Bytes>>),
    /// Another attempt is running, or was decided.
    Go,
    /// The status of the response is in its trailers, which may be here in a moment.
    Peek(Response<B>, Meta),
}

impl<S, M: Repeat<R>, R, B> Plan<S, M, R, B> {
    #[inline(always)]
    pub(super) fn new(service: S, kept: M::Kept, beginning: Beginning, request: &mut R) -> Self {
        let handle = kept.handle();
        let Beginning { started, waited, hedge_after: hedge } = beginning;
        let calls = handle.budget.call(started);
        let source = if hedge.is_some() || (handle.policy.keeps_body() && !kept.no_retry()) {
            let body = M::Kept::body(request);
            let (source, kept) = Source::keep(mem::take(body), handle.policy.max_request_buffer as usize);
            *body = kept;
            source
        } else {
            Source::Returned
        };
        let measured = handle.measures(calls);
        // Where something depends on it.
        let begun = if waited && (measured || hedge.is_some()) { rt::now() } else { started };
        let mut allowance = Allowance::new(kept.allowance(), kept.is_of_the_mesh());
        let first = allowance.pass(false);
        kept.grant(request, first);
        Self {
            service,
            source,
            allowance,
            first,
            hedges: 0,
            measured,
            failed: false,
            hedge_at: hedge.map(|after| begun + after),
            begun,
            hedge_after: hedge,
            further: None,
            kept,
            request: PhantomData,
        }
    }

    /// The first attempt.
    pub(super) fn first(&self) -> Meta {
        Meta { started: self.begun, passed: self.first, further: false, charge: None }
    }

    /// The budget, if successes are to be counted here.
    pub(super) fn counts(&self) -> Option<&Arc<Budget>> {
        self.kept.counts().then(|| &self.kept.handle().budget)
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.kept.is_grpc()
    }

    fn further(&mut self) -> &mut Further<B> {
        self.further.get_or_insert_default()
    }

    /// What is to be sent now.
    pub(super) fn take_decided(&mut self) -> Option<Decided> {
        self.further.as_mut()?.decided.take_if(|decided| decided.at.is_none())
    }

    /// When what was decided is to be sent.
    pub(super) fn decided_at(&self) -> Option<Instant> {
        self.further.as_ref()?.decided.as_ref()?.at
    }

    /// The time for what was decided has come, or that of a hedge.
    pub(super) fn time_has_come(&mut self) {
        match self.further.as_mut().and_then(|further| further.decided.as_mut()) {
            Some(decided) => decided.at = None,
            None => self.hedge(),
        }
    }

    /// Judges what an attempt ended with. `None`: its first frame may tell.
    #[inline]
    pub(super) fn found(&mut self, result: &Result<Response<B>, Error>, meta: &mut Meta) -> Option<Finding> {
        let handle = self.kept.handle();
        if self.measured && result.is_ok() {
            let now = rt::now();
            handle.took(now.saturating_duration_since(meta.started), now);
        }
        let finding = match result {
            Err(error) => {
                self.allowance.ended(meta.passed, error.never_processed().then_some(0));
                if let Some(charge) = meta.charge.as_mut().filter(|_| error.delivery() == Delivery::Unsent) {
                    charge.unsent();
                }
                decision::error(error, &handle.policy)
            }
            Ok(response) => {
                if handle.hedge.is_on() && decision::is_overloaded(response.status(), response.headers()) {
                    handle.overloaded(rt::now());
                }
                let (status, headers, grpc) = (response.status(), response.headers(), self.kept.is_grpc());
                match decision::response(status, headers, grpc, &handle.policy) {
                    Reading::AtTrailers if handle.policy.peeks() && self.source.is_complete() => return None,
                    Reading::AtTrailers => Finding::Final,
                    Reading::Known(finding) => finding,
                }
            }
        };
        if let Ok(response) = result
            && (finding != Finding::Final || self.kept.reports())
        {
            self.allowance.ended(meta.passed, Some(spent(response.headers())));
        }
        Some(finding)
    }

    /// An attempt ended; `others` says whether more are running.
    pub(super) fn ended(
        &mut self,
        result: Result<Response<B>, Error>,
        finding: Option<Finding>,
        meta: Meta,
        others: bool,
    ) -> Step<B> {
        match (finding, result) {
            (Some(finding), result) => {
                let step = self.judge(result, finding, others, None);
                // A token that was not spent is for the next decision.
                drop(meta);
                step
            }
            (None, Ok(response)) => Step::Peek(response, meta),
            (None, result) => Step::Done(result, None),
        }
    }

    /// The first frame of a response came, or its end, or neither in time.
    pub(super) fn peeked(
        &mut self,
        response: Response<B>,
        frame: Option<Option<Result<Frame<Bytes>, Error>>>,
        meta: Meta,
        others: bool,
    ) -> Step<B> {
        let policy = &self.kept.handle().policy;
        match frame {
            Some(Some(Ok(frame))) => {
                let (finding, below) = match frame.trailers_ref() {
                    Some(trailers) => (decision::trailers(trailers, policy), spent(trailers)),
                    None => (Finding::Final, 0),
                };
                self.allowance.ended(meta.passed, Some(below.max(spent(response.headers()))));
                self.judge(Ok(response), finding, others, Some(frame))
            }
            // Nothing of the response was handed up: it is as if there had been none.
            Some(Some(Err(error))) => {
                self.allowance.ended(meta.passed, None);
                let finding = decision::error(&error, policy);
                self.judge(Err(error), finding, others, None)
            }
            Some(None) | None => {
                self.allowance.ended(meta.passed, Some(spent(response.headers())));
                self.judge(Ok(response), Finding::Final, others, None)
            }
        }
    }

    fn judge(
        &mut self,
        mut result: Result<Response<B>, Error>,
        finding: Finding,
        others: bool,
        frame: Option<Frame<Bytes>>,
    ) -> Step<B> {
        self.failed = finding != Finding::Final || result.is_err();
        let failure = match finding {
            Finding::Final if others && result.is_err() => return self.wait_for_others(result),
            Finding::Final => return self.answer(result, frame),
            Finding::NoRetry => {
                self.kept.asked_not_to_retry();
                self.kept.handle().refused(No::AskedNot);
                return if others { self.wait_for_others(result) } else { self.answer(result, frame) };
            }
            Finding::Unsent | Finding::Failed(_) if others => return self.wait_for_others(result),
            Finding::Unsent => None,
            Finding::Failed(mut failure) => {
                failure.unprocessed &= result.is_err() || self.kept.is_of_the_mesh();
                Some(failure)
            }
        };
        self.kept.avoid_asked(result.as_ref().err());
        let body = self.source.again(result.as_mut().err());
        let (at, kind, charge) = match failure {
            None if self.further().unsent >= UNSENT || body.is_none() => return self.answer(result, frame),
            None => {
                self.further().unsent += 1;
                (None, AttemptKind::Transparent, None)
            }
            Some(failure) => match self.retry(&failure, body.is_some()) {
                Ok((at, charge)) => (at, AttemptKind::Retry, Some(charge)),
                Err(no) => {
                    self.kept.handle().refused(no);
                    return self.answer(result, frame);
                }
            },
        };
        let Some(body) = body else { return self.answer(result, frame) };
        match &result {
            Ok(response) => tracing::debug!(status = %response.status(), "sending again: {kind:?}"),
            Err(error) => tracing::debug!(code = %error.code(), "sending again: {kind:?}, {error}"),
        }
        self.hedge_at = None;
        let further = self.further();
        further.decided = Some(Decided { at, kind, charge, body });
        // A response that is given up gives its stream and its permit back before the next attempt wants them.
        further.fallback = result.is_err().then_some(result);
        Step::Go
    }

    /// A retry by policy: when, and what it costs.
    fn retry(&mut self, failure: &decision::Failure, replayable: bool) -> Result<(Option<Instant>, Charge), No> {
        let now = rt::now();
        let further = self.further.as_ref();
        let (before, retries) = further.map_or_else(<_>::default, |further| (further.back_off, further.retries));
        let handle = self.kept.handle();
        if failure.push_back.is_some() || failure.unprocessed {
            handle.overloaded(now);
        }
        if !self.kept.is_eligible() {
            return Err(No::NotEligible);
        }
        let facts = Facts {
            no_retry: self.kept.no_retry(),
            idempotent: self.kept.is_idempotent(),
            // Whoever called may have been answered meanwhile.
            allowance: self.allowance.left().min(self.kept.allowance()),
            retries,
            remaining: self.kept.deadline().map(|at| at.saturating_duration_since(now)),
            takes: handle.median(now),
            replayable,
            elsewhere: failure.push_back.is_some() && self.kept.elsewhere(),
        };
        let delay = decision::decide(failure, &handle.policy, &facts, || {
            handle.policy.back_off.delay(facts.retries + 1, before, &mut Rng::local())
        })?;
        match handle.policy.enforcement {
            Mode::Enforce if handle.policy.percentage.hit(&mut Rng::local()) => {}
            Mode::Shadow => return Err(No::Shadow),
            _ => return Err(No::NotEnforced),
        }
        let charge = handle.budget.withdraw(now).ok_or(No::Budget)?;
        let further = self.further();
        further.back_off = delay;
        further.retries += 1;
        Ok(((!delay.is_zero()).then(|| now + delay), charge))
    }

    /// Another attempt may still do better. One that failed lets the next hedge start at once (gRFC A6).
    fn wait_for_others(&mut self, result: Result<Response<B>, Error>) -> Step<B> {
        if self.hedge_at.is_some() {
            self.hedge_at = Some(rt::now());
        }
        self.further().fallback = Some(result);
        Step::Go
    }

    fn answer(&mut self, result: Result<Response<B>, Error>, frame: Option<Frame<Bytes>>) -> Step<B> {
        // Nowhere else to go: what the attempt before ended with says more than "no other endpoint".
        if result.as_ref().is_err_and(|error| error.endpoint().is_none() && error.delivery() == Delivery::Unsent)
            && let Some(fallback) = self.further.as_mut().and_then(|further| further.fallback.take())
        {
            return Step::Done(fallback, None);
        }
        Step::Done(result, frame)
    }

    /// The time for a hedge has come: decides on one if there is reason to.
    pub(super) fn hedge(&mut self) {
        let now = rt::now();
        self.hedge_at = None;
        let handle = self.kept.handle();
        let policy = &handle.hedge;
        if self.hedges >= handle.hedge.max_hedged_attempts
            || self.allowance.left().min(self.kept.allowance()) == 0
            || (policy.require_idempotent && !self.kept.is_idempotent())
            || !self.source.is_complete()
            || handle.is_overloaded(now)
            || self.kept.is_crowded(now)
        {
            return;
        }
        self.kept.avoid_asked(None);
        let handle = self.kept.handle();
        if !self.kept.elsewhere() {
            return;
        }
        match handle.hedge.enforcement {
            Mode::Enforce if handle.hedge.percentage.hit(&mut Rng::local()) => {}
            Mode::Shadow => return handle.refused(No::HedgeShadow),
            _ => return,
        }
        let Some(body) = self.source.again(None) else { return };
        let Some(charge) = handle.budget.withdraw(now) else { return };
        if !handle.bears_hedge() {
            return;
        }
        self.hedges += 1;
        if self.hedges < handle.hedge.max_hedged_attempts {
            self.hedge_at = self.hedge_after.map(|after| now + after);
        }
        self.further().decided = Some(Decided { at: None, kind: AttemptKind::Hedge, charge: Some(charge), body });
    }

    /// Sends what was decided.
    pub(super) fn send(&mut self, decided: Decided) -> (S, R, Meta)
    where
        S: Clone,
    {
        let Decided { kind, mut charge, body, .. } = decided;
        let passed = self.allowance.pass(charge.is_some());
        if let Some(charge) = &mut charge {
            charge.sent();
            self.further().sent += 1;
        }
        let before = self.further().sent;
        let request = self.kept.again(Next { kind, before, grant: passed }, body);
        (self.service.clone(), request, Meta { started: rt::now(), passed, further: true, charge })
    }

    /// Another attempt won. What this one took so far is the least that it would have taken.
    pub(super) fn lost(&mut self, meta: Meta) {
        let (handle, now) = (self.kept.handle(), rt::now());
        handle.took(now.saturating_duration_since(meta.started), now);
        self.allowance.ended(meta.passed, None);
    }

    /// The call has its answer.
    #[inline]
    pub(super) fn over(&self, failed: bool) {
        if !failed && self.further.as_ref().is_some_and(|further| further.sent > 0) {
            self.kept.handle().recovered();
        }
    }
}

/// Whoever waits above is told what was spent, also of a call that a deadline ended: its attempts in flight count as lost.
impl<S, M: Repeat<R>, R, B> Drop for Plan<S, M, R, B> {
    #[inline]
    fn drop(&mut self) {
        if self.kept.reports() {
            self.kept.spent(self.allowance.spent());
        }
    }
}

/// How much the hops below spent, by their word.
fn spent(headers: &HeaderMap) -> u8 {
    let Some(value) = headers.get(SINEW_SPENT) else { return 0 };
    // What cannot be read is as if all had been spent.
    value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(u8::MAX)
}
