//! Whether a call is sent again, and if not, why not: each "no" has a name.

use std::time::Duration;

use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::{
    policy::{Condition, RetryPolicy},
    push_back::{self, PushBack},
};
use crate::{
    classify::GRPC_STATUS,
    context::{SINEW_NO_RETRY, SINEW_SHED},
    error::{Code, Delivery, Error, Kind, Origin},
    matching::StringMatch,
};

/// What became of an attempt, as far as a retry is concerned.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Finding {
    /// Nothing that a policy could send again: a success, an answer that says the request is wrong, a refusal of this
    /// process.
    Final,
    /// Nothing of it left this process, or the peer named it unprocessed: sent again free of charge.
    Unsent,
    /// A configured condition holds.
    Failed(Failure),
    /// The server sheds and asks that nobody retries.
    NoRetry,
}

/// A failure that the policy sends again.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Failure {
    pub(crate) condition: Condition,
    /// The peer provably did not process it, so any method may be sent again.
    pub(crate) unprocessed: bool,
    pub(crate) push_back: Option<PushBack>,
    /// The push-back is about this endpoint, not about this caller.
    pub(crate) only_here: bool,
}

/// How a response is judged.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Reading {
    Known(Finding),
    /// A gRPC response whose status stands in its trailers.
    AtTrailers,
}

/// Judges an error in place of a response.
pub(crate) fn error(error: &Error, policy: &RetryPolicy) -> Finding {
    use Condition::{GatewayError, RefusedStream, Reset, ServerError};
    let failed = |unprocessed, conditions: &[Condition]| match policy.retry_on.first(conditions) {
        Some(condition) => Finding::Failed(Failure { condition, unprocessed, push_back: None, only_here: false }),
        None => Finding::Final,
    };
    match (error.kind(), error.delivery()) {
        (Kind::Connect | Kind::Reset, Delivery::Unsent | Delivery::GoawayUnprocessed) => Finding::Unsent,
        (Kind::Connect | Kind::Reset, Delivery::RefusedStream) => {
            failed(true, &[RefusedStream, Reset, ServerError, GatewayError])
        }
        // Our own credential is as wrong elsewhere.
        (_, Delivery::TlsRefused) => Finding::Final,
        (Kind::Reset, Delivery::Maybe) if error.code() != Code::PeerCalmed => {
            failed(false, &[Reset, ServerError, GatewayError])
        }
        // The timeout of one attempt. The deadline of the call is nobody's fault below.
        (Kind::Timeout, Delivery::Maybe) if error.origin() == Origin::Peer => {
            failed(false, &[Reset, ServerError, GatewayError])
        }
        (Kind::Protocol, Delivery::Maybe) => failed(false, &[ServerError, GatewayError]),
        _ => Finding::Final,
    }
}

/// Judges a response by its head.
pub(crate) fn response(status: StatusCode, headers: &HeaderMap, grpc: bool, policy: &RetryPolicy) -> Reading {
    if grpc && status == StatusCode::OK {
        return match headers.get(GRPC_STATUS) {
            Some(_) => Reading::Known(trailers(headers, policy)),
            None => match by_header(headers, policy) {
                Some(failure) => Reading::Known(Finding::Failed(failure)),
                None => Reading::AtTrailers,
            },
        };
    }
    if status.is_success() || status.is_informational() || status.is_redirection() {
        let finding = by_header(headers, policy).map_or(Finding::Final, Finding::Failed);
        return Reading::Known(finding);
    }
    if headers.contains_key(SINEW_NO_RETRY) {
        return Reading::Known(Finding::NoRetry);
    }
    // The deadline of this very call passed at a hop below.
    if headers.get("sinew-error").is_some_and(|error| error.as_bytes().starts_with(b"SINEW-E021")) {
        return Reading::Known(Finding::Final);
    }
    let on = policy.retry_on;
    let listed = policy.retriable_status_codes.contains(&status);
    let condition = match status.as_u16() {
        502..=504 => on.first(&[Condition::GatewayError, Condition::ServerError]),
        500.. => on.first(&[Condition::ServerError]),
        409 => on.first(&[Condition::Retriable4xx]),
        _ => None,
    };
    let condition = condition.or_else(|| on.first(&[Condition::RetriableStatusCodes]).filter(|_| listed));
    let failure = condition.map(|condition| Failure {
        condition,
        unprocessed: matches!(status.as_u16(), 429 | 503) && headers.contains_key(SINEW_SHED),
        push_back: push_back::read(headers),
        only_here: status == StatusCode::SERVICE_UNAVAILABLE,
    });
    Reading::Known(failure.or_else(|| by_header(headers, policy)).map_or(Finding::Final, Finding::Failed))
}

/// Judges gRPC's status, in trailers or in the head of a response that is nothing but trailers.
pub(crate) fn trailers(trailers: &HeaderMap, policy: &RetryPolicy) -> Finding {
    let Some(status) = trailers.get(GRPC_STATUS) else { return Finding::Final };
    if status == "0" {
        return Finding::Final;
    }
    if trailers.contains_key(SINEW_NO_RETRY) {
        return Finding::NoRetry;
    }
    if trailers.get("sinew-error").is_some_and(|error| error.as_bytes().starts_with(b"SINEW-E021")) {
        return Finding::Final;
    }
    let condition = match status.as_bytes() {
        b"1" => Condition::Cancelled,
        b"4" => Condition::DeadlineExceeded,
        b"8" => Condition::ResourceExhausted,
        b"13" => Condition::Internal,
        b"14" => Condition::Unavailable,
        _ => return by_header(trailers, policy).map_or(Finding::Final, Finding::Failed),
    };
    if !policy.retry_on.contains(condition) {
        return by_header(trailers, policy).map_or(Finding::Final, Finding::Failed);
    }
    Finding::Failed(Failure {
        condition,
        unprocessed: matches!(condition, Condition::ResourceExhausted | Condition::Unavailable)
            && trailers.contains_key(SINEW_SHED),
        push_back: push_back::read(trailers),
        only_here: condition == Condition::Unavailable,
    })
}

/// Whether the peer says that it has too much to do.
pub(super) fn is_overloaded(status: StatusCode, headers: &HeaderMap) -> bool {
    let refuses = match status.as_u16() {
        429 | 503 => true,
        200 => headers.get(GRPC_STATUS).is_some_and(|status| status == "8" || status == "14"),
        _ => false,
    };
    refuses && (headers.contains_key(SINEW_SHED) || push_back::read(headers).is_some())
}

fn by_header(headers: &HeaderMap, policy: &RetryPolicy) -> Option<Failure> {
    if policy.retriable_headers.is_empty() || !policy.retry_on.contains(Condition::RetriableHeaders) {
        return None;
    }
    holds_any(&policy.retriable_headers, |name| headers.get(name).and_then(|value| value.to_str().ok())).then(|| {
        Failure {
            condition: Condition::RetriableHeaders,
            unprocessed: false,
            push_back: push_back::read(headers),
            only_here: false,
        }
    })
}

/// Whether any of the headers is as it is said.
pub(super) fn holds_any<'h>(
    wanted: &[(HeaderName, StringMatch)],
    value: impl Fn(&HeaderName) -> Option<&'h str>,
) -> bool {
    wanted.iter().any(|(name, wanted)| wanted.matches(value(name)))
}

/// Whether doing this twice does no more than doing it once (RFC 9110 §9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

/// Why a failed call is not sent again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub(crate) enum No {
    /// The call itself asked for none.
    PerCall,
    /// The policy holds for requests with other headers.
    NotEligible,
    /// The server sheds and asks that nobody retries.
    AskedNot,
    /// The peer's push-back says never.
    PushedBack,
    /// The tree of calls that this one belongs to has used up its allowance.
    Allowance,
    /// As often as the policy says.
    Exhausted,
    /// It may have been processed, and doing it twice may do harm.
    NotIdempotent,
    /// It would not be over before the deadline.
    Deadline,
    /// More of its body was sent than is kept.
    NotReplayable,
    /// The backend's budget is used up.
    Budget,
    /// It would have been sent again, and the policy only counts that.
    Shadow,
    /// It would have been sent again, and is of the share that is not.
    NotEnforced,
    /// Another endpoint would have been asked as well.
    HedgeShadow,
}

impl No {
    pub(crate) const ALL: &'static [No] = &[
        No::PerCall,
        No::NotEligible,
        No::AskedNot,
        No::PushedBack,
        No::Allowance,
        No::Exhausted,
        No::NotIdempotent,
        No::Deadline,
        No::NotReplayable,
        No::Budget,
        No::Shadow,
        No::NotEnforced,
        No::HedgeShadow,
    ];

    /// The label value in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            No::PerCall => "per_call",
            No::NotEligible => "not_eligible",
            No::AskedNot => "no_retry",
            No::PushedBack => "pushed_back",
            No::Allowance => "allowance",
            No::Exhausted => "exhausted",
            No::NotIdempotent => "not_idempotent",
            No::Deadline => "deadline",
            No::NotReplayable => "not_replayable",
            No::Budget => "budget",
            No::Shadow => "shadow",
            No::NotEnforced => "not_enforced",
            No::HedgeShadow => "hedge_shadow",
        }
    }
}

/// What a decision depends on besides the failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// The call asked for no retry.
    pub(crate) no_retry: bool,
    /// Doing it twice does no harm.
    pub(crate) idempotent: bool,
    /// What is left of the tree's allowance.
    pub(crate) allowance: u8,
    /// Retries that were decided before.
    pub(crate) retries: u32,
    /// What is left of the deadline.
    pub(crate) remaining: Option<Duration>,
    /// How long a call takes, where that is known.
    pub(crate) takes: Duration,
    /// Whether the body can be sent again.
    pub(crate) replayable: bool,
    /// Whether another endpoint can take it.
    pub(crate) elsewhere: bool,
}

/// Whether a failed call is sent again and after how long, budget and endpoint apart: those are taken last, so that a
/// retry that other reasons forbid takes nothing.
pub(crate) fn decide(
    failure: &Failure,
    policy: &RetryPolicy,
    facts: &Facts,
    back_off: impl FnOnce() -> Duration,
) -> Result<Duration, No> {
    if facts.no_retry {
        return Err(No::PerCall);
    }
    if facts.allowance == 0 {
        return Err(No::Allowance);
    }
    if facts.retries >= u32::from(policy.num_retries) {
        return Err(No::Exhausted);
    }
    if failure.push_back == Some(PushBack::Never) {
        return Err(No::PushedBack);
    }
    if !failure.unprocessed && policy.require_idempotent && !facts.idempotent {
        return Err(No::NotIdempotent);
    }
    let delay = match failure.push_back {
        // A busy endpoint says nothing about the others.
        Some(PushBack::AtLeast(_)) if failure.only_here && facts.elsewhere => back_off(),
        Some(PushBack::Exactly(delay) | PushBack::AtLeast(delay)) => delay.min(policy.max_push_back),
        Some(PushBack::Never) | None => back_off(),
    };
    let needed = delay + policy.min_remaining.unwrap_or(facts.takes);
    if facts.remaining.is_some_and(|remaining| needed >= remaining) {
        return Err(No::Deadline);
    }
    if !facts.replayable {
        return Err(No::NotReplayable);
    }
    Ok(delay)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::RetryOn;

    fn policy(on: &[Condition]) -> RetryPolicy {
        RetryPolicy::default().on(on.iter().copied())
    }

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), http::HeaderValue::from_static(value))
        };
        headers.iter().map(pair).collect()
    }

    fn holds(reading: Reading) -> Option<Condition> {
        match reading {
            Reading::Known(Finding::Failed(failure)) => Some(failure.condition),
            _ => None,
        }
    }

    #[test]
    fn every_status_meets_the_conditions_that_name_it() {
        use Condition::{GatewayError, Retriable4xx, RetriableStatusCodes, ServerError};
        let mut listed = policy(&[RetriableStatusCodes]);
        listed.retriable_status_codes = vec![StatusCode::IM_A_TEAPOT];
        for (status, met) in [
            (200, &[][..]),
            (304, &[]),
            (404, &[]),
            (409, &[Retriable4xx]),
            (418, &[RetriableStatusCodes]),
            (429, &[]),
            (500, &[ServerError]),
            (501, &[ServerError]),
            (502, &[ServerError, GatewayError]),
            (503, &[ServerError, GatewayError]),
            (504, &[ServerError, GatewayError]),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            for condition in Condition::ALL {
                let mut policy = policy(&[*condition]);
                policy.retriable_status_codes = listed.retriable_status_codes.clone();
                let found = holds(response(status, &HeaderMap::new(), false, &policy));
                assert_eq!(found, met.contains(condition).then_some(*condition), "{status} {condition}");
            }
        }
    }

    #[test]
    fn grpc_codes_count_in_trailers_and_in_heads_that_are_trailers() {
        for (code, condition) in [
            ("1", Condition::Cancelled),
            ("4", Condition::DeadlineExceeded),
            ("8", Condition::ResourceExhausted),
            ("13", Condition::Internal),
            ("14", Condition::Unavailable),
        ] {
            let headers = map(&[("grpc-status", code)]);
            assert_eq!(holds(response(StatusCode::OK, &headers, true, &policy(&[condition]))), Some(condition));
            let others = Condition::ALL.iter().filter(|other| **other != condition).copied();
            let others = RetryPolicy::default().on(others);
            assert_eq!(holds(response(StatusCode::OK, &headers, true, &others)), None, "{code}");
            assert_eq!(response(StatusCode::OK, &HeaderMap::new(), true, &others), Reading::AtTrailers);
        }
        let all = RetryPolicy::default().on(Condition::ALL.iter().copied());
        for code in ["0", "2", "3", "5", "7", "12", "16", "x"] {
            assert_eq!(trailers(&map(&[("grpc-status", code)]), &all), Finding::Final, "{code}");
        }
    }

    #[test]
    fn errors_meet_conditions_by_what_is_known_of_their_delivery() {
        use Condition::{GatewayError, RefusedStream, Reset, ServerError};
        let all = policy(Condition::ALL);
        let unsent = Error::new(Code::ConnectFailed, "x").with_delivery(Delivery::Unsent);
        assert_eq!(error(&unsent, &policy(&[])), Finding::Unsent);
        let goaway = Error::new(Code::ConnectionClosed, "x").with_delivery(Delivery::GoawayUnprocessed);
        assert_eq!(error(&goaway, &policy(&[])), Finding::Unsent);
        let met = |e: &Error| {
            let one = |condition: &&Condition| matches!(error(e, &policy(&[**condition])), Finding::Failed(_));
            Condition::ALL.iter().filter(one).copied().collect::<Vec<_>>()
        };
        let refused = Error::new(Code::PeerReset, "x").with_delivery(Delivery::RefusedStream);
        assert_eq!(met(&refused), [RefusedStream, ServerError, GatewayError, Reset]);
        assert!(matches!(error(&refused, &all), Finding::Failed(Failure { unprocessed: true, .. })));
        assert_eq!(met(&Error::new(Code::PeerReset, "x")), [ServerError, GatewayError, Reset]);
        assert_eq!(met(&Error::new(Code::ConnectionClosed, "x")), [ServerError, GatewayError, Reset]);
        let per_try = Error::new(Code::TimeoutRequest, "x").with_origin(Origin::Peer);
        assert_eq!(met(&per_try), [ServerError, GatewayError, Reset]);
        // Whose fault it is not: the call's deadline, this process's limits, the caller, the credential.
        for code in [
            Code::TimeoutRequest,
            Code::DeadlineExhausted,
            Code::Overflow,
            Code::NoHealthyEndpoint,
            Code::RateLimited,
            Code::CircuitOpen,
            Code::LocalDraining,
            Code::ClientGone,
            Code::FaultAbort,
            Code::PeerCalmed,
        ] {
            assert_eq!(error(&Error::new(code, "x"), &all), Finding::Final, "{code}");
        }
        let tls = Error::new(Code::TlsFailed, "x").with_delivery(Delivery::TlsRefused);
        assert_eq!(error(&tls, &all), Finding::Final);
    }

    #[test]
    fn a_shed_marker_says_unprocessed_and_a_push_back_alone_does_not() {
        let policy = policy(&[Condition::GatewayError, Condition::Unavailable]);
        let unprocessed = |reading| match reading {
            Reading::Known(Finding::Failed(failure)) => failure.unprocessed,
            other => panic!("{other:?}"),
        };
        let read = |headers: &[(&'static str, &'static str)]| {
            unprocessed(response(StatusCode::SERVICE_UNAVAILABLE, &map(headers), false, &policy))
        };
        assert!(read(&[("sinew-shed", "1")]));
        assert!(!read(&[("retry-after", "1")]));
        let grpc = map(&[("grpc-status", "14"), ("sinew-shed", "1")]);
        assert!(unprocessed(response(StatusCode::OK, &grpc, true, &policy)));
        let headers = map(&[("sinew-shed", "1"), ("sinew-no-retry", "1")]);
        let reading = response(StatusCode::SERVICE_UNAVAILABLE, &headers, false, &policy);
        assert_eq!(reading, Reading::Known(Finding::NoRetry));
    }

    #[test]
    fn each_no_has_its_reason_and_the_first_one_counts() {
        let policy = policy(&[Condition::GatewayError]);
        let failure =
            Failure { condition: Condition::GatewayError, unprocessed: false, push_back: None, only_here: true };
        let yes = Facts {
            no_retry: false,
            idempotent: true,
            allowance: 2,
            retries: 0,
            remaining: Some(Duration::from_secs(1)),
            takes: Duration::from_millis(10),
            replayable: true,
            elsewhere: false,
        };
        let ask = |failure: &Failure, facts: Facts| decide(failure, &policy, &facts, || Duration::from_millis(25));
        assert_eq!(ask(&failure, yes), Ok(Duration::from_millis(25)));
        let mut facts = Facts { replayable: false, ..yes };
        assert_eq!(ask(&failure, facts), Err(No::NotReplayable));
        facts.remaining = Some(Duration::from_millis(35));
        assert_eq!(ask(&failure, facts), Err(No::Deadline));
        facts.idempotent = false;
        assert_eq!(ask(&failure, facts), Err(No::NotIdempotent));
        let never = Failure { push_back: Some(PushBack::Never), ..failure };
        assert_eq!(ask(&never, facts), Err(No::PushedBack));
        facts.retries = 2;
        assert_eq!(ask(&never, facts), Err(No::Exhausted));
        facts.allowance = 0;
        assert_eq!(ask(&never, facts), Err(No::Allowance));
        facts.no_retry = true;
        assert_eq!(ask(&never, facts), Err(No::PerCall));
        // What was not processed may be sent again whatever the method.
        let unprocessed = Failure { unprocessed: true, ..failure };
        assert!(ask(&unprocessed, Facts { idempotent: false, ..yes }).is_ok());
        // A push-back replaces the back-off, up to the bound.
        let pushed = Failure { push_back: Some(PushBack::Exactly(Duration::from_secs(600))), ..failure };
        assert_eq!(ask(&pushed, Facts { remaining: None, ..yes }), Ok(Duration::from_secs(30)));
        assert_eq!(ask(&pushed, yes), Err(No::Deadline));
        let later = Failure { push_back: Some(PushBack::AtLeast(Duration::from_secs(5))), ..failure };
        assert_eq!(ask(&later, Facts { remaining: None, ..yes }), Ok(Duration::from_secs(5)));
        assert_eq!(ask(&later, Facts { elsewhere: true, ..yes }), Ok(Duration::from_millis(25)));
    }

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let mut labels: Vec<_> = No::ALL.iter().map(|no| no.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), No::ALL.len());
        assert_eq!(RetryOn::UNPROCESSED.iter().count(), 3);
    }

    #[test]
    fn idempotent_methods_are_those_of_rfc_9110() {
        for (method, expected) in [
            (Method::GET, true),
            (Method::PUT, true),
            (Method::DELETE, true),
            (Method::POST, false),
            (Method::PATCH, false),
            (Method::CONNECT, false),
        ] {
            assert_eq!(is_idempotent(&method), expected, "{method}");
        }
    }
}
