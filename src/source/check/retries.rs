//! Contradictions in `retry` and `hedge`, and what is probably not meant.

use std::time::Duration;

use super::Findings;
use crate::{
    enforcement::Percent,
    model::{LintCode, Origin},
    retry::{Budget, Condition, HedgeMode, MOST_RETRIES, RetrySpec},
    source::{document::PartialRoute, duration, resolve::Resolved, retry::PartialRetries},
};

/// So many retries at once are much for one endpoint.
const MANY: u64 = 100;

impl Findings {
    pub(super) fn service_retries(&mut self, service: &Resolved) {
        let request = service.spec.timeouts.request;
        self.retries(service, "", &service.spec.retries, &service.tunables.retries, request);
    }

    /// `under` is the path of a route below the service, or nothing; `request` the timeout of the whole call there.
    fn retries(
        &mut self,
        service: &Resolved,
        under: &str,
        spec: &RetrySpec,
        partial: &PartialRetries,
        request: Option<Duration>,
    ) {
        let (policy, hedge) = (&spec.policy, &spec.hedge);
        let format = duration::format;
        let mut reject = |key: &str, origin: &Origin, reason: String, help: &str| {
            self.reject(service, &format!("{under}{key}"), origin, reason, help, None);
        };
        if let (Some(per_try), Some(request), Some(set)) = (policy.per_try_timeout, request, &partial.per_try_timeout)
            && per_try > request
        {
            let reason = format!("one attempt may take {}, the whole call only {}", format(per_try), format(request));
            reject("retry.per_try_timeout", &set.origin, reason, "make it shorter than the whole call's timeout");
        }
        let back_off = &policy.back_off;
        if back_off.max_interval < back_off.base_interval
            && let Some(set) = partial.max_interval.as_ref().or(partial.base_interval.as_ref())
        {
            let (base, longest) = (format(back_off.base_interval), format(back_off.max_interval));
            let reason = format!("the first wait is scaled by {base}, the longest is only {longest}");
            let help = "make `max_interval` at least `base_interval`";
            reject("retry.retry_back_off.max_interval", &set.origin, reason, help);
        }
        let attempts = policy.num_retries + hedge.max_hedged_attempts;
        if hedge.is_on() && attempts > MOST_RETRIES {
            let origin = [&partial.max_hedged_attempts, &partial.num_retries]
                .iter()
                .find_map(|field| field.as_ref())
                .map_or(&Origin::Default, |set| &set.origin);
            let reason = format!(
                "{} retries and {} hedges are {attempts} further attempts",
                policy.num_retries, hedge.max_hedged_attempts
            );
            reject("hedge.max_hedged_attempts", origin, reason, "together they may be at most 10");
        }
        if hedge.mode == HedgeMode::PerTryTimeout
            && policy.per_try_timeout.or(service.spec.timeouts.per_try).is_none()
            && let Some(set) = &partial.hedge
        {
            let reason = "nothing is ever hedged: there is no timeout of one attempt".to_owned();
            reject("hedge.mode", &set.origin, reason, "set `timeouts.per_try` or `retry.per_try_timeout`");
        }
        for (condition, list, empty, key) in [
            (
                Condition::RetriableStatusCodes,
                &partial.retriable_status_codes.as_ref().map(|set| &set.origin),
                policy.retriable_status_codes.is_empty(),
                "retriable_status_codes",
            ),
            (
                Condition::RetriableHeaders,
                &partial.retriable_headers.as_ref().map(|set| &set.origin),
                policy.retriable_headers.is_empty(),
                "retriable_headers",
            ),
        ] {
            let asked = policy.retry_on.contains(condition);
            if let (true, true, Some(set)) = (asked, empty, &partial.retry_on) {
                let message = format!("`{condition}` never holds: `{key}` is empty");
                let path = format!("{under}retry.retry_on");
                self.lint(service, &path, &set.origin, LintCode::ConditionWithoutList, message);
            } else if let (false, false, Some(origin)) = (asked, empty, list) {
                let message = format!("this has no effect without `{condition}` in `retry_on`");
                let path = format!("{under}retry.{key}");
                self.lint(service, &path, origin, LintCode::ConditionWithoutList, message);
            }
        }
        for (key, field, what, code) in [
            ("retry.require_idempotent", &partial.require_idempotent, "sent again", LintCode::RetryNotIdempotent),
            ("hedge.require_idempotent", &partial.hedge_idempotent, "sent twice", LintCode::HedgeNotIdempotent),
        ] {
            if let Some(set) = field.as_ref().filter(|set| !set.value) {
                let message = format!("calls that may have been processed are {what} whatever their method");
                self.lint(service, &format!("{under}{key}"), &set.origin, code, message);
            }
        }
        if let (Some(per_try), Some(request), Some(set)) = (policy.per_try_timeout, request, &partial.per_try_timeout)
            && per_try == request
            && policy.num_retries > 0
        {
            let message = format!("one attempt may take the {} of the whole call", format(request));
            let path = format!("{under}retry.per_try_timeout");
            self.lint(service, &path, &set.origin, LintCode::AttemptAsLongAsCall, message);
        }
        if let (Some(per_try), Some(request), Some(set)) = (policy.per_try_timeout, request, &partial.per_try_timeout)
            && per_try < request
            && per_try * (u32::from(policy.num_retries) + 1) > request
            && policy.num_retries > 0
        {
            let message = format!(
                "{} attempts of {} do not fit into the {} of the whole call; the last ones are cut short or never begin",
                policy.num_retries + 1,
                format(per_try),
                format(request)
            );
            let path = format!("{under}retry.per_try_timeout");
            self.lint(service, &path, &set.origin, LintCode::AttemptsDoNotFit, message);
        }
        if let Some(set) = partial.num_retries.as_ref().filter(|_| policy.num_retries > policy.tree_allowance) {
            let message = format!(
                "of {} retries {} happen: `tree_allowance` pays for no more",
                policy.num_retries, policy.tree_allowance
            );
            let path = format!("{under}retry.num_retries");
            self.lint(service, &path, &set.origin, LintCode::RetriesBeyondAllowance, message);
        }
        let (reserve, ..) = Budget::RATES;
        if let (Some(set), Some(members), Some(endpoints @ 1..)) =
            (&partial.retry_on, self.members, super::policies::listed(&service.spec.endpoints))
            && policy.num_retries > 0
            && policy.retry_on.processed().is_some()
            && policy.percentage == Percent::ALL
            && members as u64 * reserve > endpoints as u64 * MANY
        {
            let message = format!(
                "{members} processes have {reserve} retries each in reserve: {} at once for each endpoint",
                members as u64 * reserve / endpoints as u64
            );
            let path = format!("{under}retry.retry_on");
            self.lint(service, &path, &set.origin, LintCode::RetryReserves, message);
        }
        if let (Some(set), true) = (&partial.hedge, hedge.is_on() && super::policies::single(service)) {
            let message = "there is no other endpoint to ask, so nothing is ever hedged".to_owned();
            let path = format!("{under}hedge.mode");
            self.lint(service, &path, &set.origin, LintCode::HedgeWithoutPeer, message);
        }
    }

    pub(super) fn route_retries(&mut self, service: &Resolved, index: usize, route: &PartialRoute) {
        let Some(position) = service.indices.iter().position(|at| *at == index) else { return };
        let Some(spec) = service.spec.route_options.get(position).and_then(|options| options.retries.as_ref()) else {
            return;
        };
        let request = route.route.timeout.or(service.spec.timeouts.request);
        self.retries(service, &format!("routes[{index}]."), spec, &route.retries, request);
    }
}
