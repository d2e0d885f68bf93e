//! What policies of a service promise and cannot keep, or do not promise though one would think so.

use std::time::Duration;

use super::Findings;
use crate::{
    enforcement::Mode,
    health::OutlierPolicy,
    model::{EndpointSource, LintCode, Origin, Protocol, SetKind, SourceKind},
    route::RouteAction,
    source::{document::Field, duration, resolve::Resolved},
};

fn origin<T>(field: &Field<T>) -> Option<&Origin> {
    field.as_ref().map(|set| &set.origin)
}

/// Whether a service has one address that stands for one endpoint.
pub(super) fn single(service: &Resolved) -> bool {
    match service.spec.endpoints.as_slice() {
        [source] if source.kind != Some(SetKind::Vip) => {
            matches!(&source.source, SourceKind::Static(specs) if specs.len() == 1)
        }
        _ => false,
    }
}

/// How many endpoints there are, where all of them are listed.
pub(super) fn listed(sources: &[EndpointSource]) -> Option<usize> {
    let counts = sources.iter().map(|source| match &source.source {
        SourceKind::Static(specs) => Some(specs.len()),
        _ => None,
    });
    counts.sum()
}

/// Whether any detector may act.
fn detects(policy: &OutlierPolicy) -> bool {
    let counted = |threshold: Option<u32>, enforced: u32| threshold.is_some() && enforced > 0;
    counted(policy.consecutive_5xx, policy.enforcing_consecutive_5xx)
        || counted(policy.consecutive_gateway_failure, policy.enforcing_consecutive_gateway_failure)
        || counted(policy.consecutive_local_origin_failure, policy.enforcing_consecutive_local_origin_failure)
        || policy.windowed_success_rate.is_some()
        || policy.enforcing_success_rate > 0
        || policy.enforcing_local_origin_success_rate > 0
        || policy.enforcing_failure_percentage > 0
        || policy.enforcing_failure_percentage_local_origin > 0
}

impl Findings {
    pub(super) fn policies(&mut self, service: &Resolved) {
        self.connections(service);
        self.virtual_ip(service);
        self.deadline(service);
        self.waits(service);
        self.attempts(service);
        self.ejections(service);
    }

    /// Every endpoint may hold one connection, whatever the limit.
    fn connections(&mut self, service: &Resolved) {
        let listed = service.spec.endpoints.iter().map(|source| match &source.source {
            SourceKind::Static(specs) => specs.len(),
            _ => 0,
        });
        let (endpoints, limit) = (listed.sum::<usize>(), service.spec.circuit_breakers.max_connections);
        if endpoints > limit as usize {
            let limited = origin(&service.tunables.circuit_breakers.max_connections);
            let at = limited.or(origin(&service.partial.endpoints)).unwrap_or(&Origin::Default);
            let message =
                format!("{endpoints} endpoints may each hold a connection, so the limit of {limit} is passed");
            let path = "circuit_breakers.max_connections";
            self.lint(service, path, at, LintCode::MoreEndpointsThanConnections, message);
        }
    }

    /// One address of a name counts as many instances, which matters where one connection could carry everything.
    fn virtual_ip(&mut self, service: &Resolved) {
        let Some(at) = origin(&service.partial.protocol).filter(|_| service.spec.protocol == Protocol::Http2) else {
            return;
        };
        let [EndpointSource { source: SourceKind::Dns { name, port: Some(_) }, kind: None, .. }] =
            service.spec.endpoints.as_slice()
        else {
            return;
        };
        let message = format!(
            "while `{name}` resolves to one address, it is taken for a virtual IP in front of many instances: say whether it is"
        );
        self.lint(service, "protocol", at, LintCode::GuessedVip, message);
    }

    /// The default that ends plain HTTP calls is switched off, and nothing stands in for it.
    fn deadline(&mut self, service: &Resolved) {
        let timeouts = &service.spec.timeouts;
        let Some(at) = origin(&service.tunables.timeouts.response) else { return };
        if timeouts.response.or(timeouts.request).or(timeouts.max_stream_duration).is_some() {
            return;
        }
        let forwards = |action: &RouteAction| matches!(action, RouteAction::Forward(_));
        let mut routes = service.spec.routes.iter().filter(|route| forwards(&route.action)).peekable();
        if routes.peek().is_none() || routes.any(|route| route.timeout.is_none()) {
            let message =
                "a call that is not answered waits for ever: neither the service nor its routes have another \
                           timeout"
                    .to_owned();
            self.lint(service, "timeouts.response", at, LintCode::UnboundedDeadline, message);
        }
    }

    fn waits(&mut self, service: &Resolved) {
        let (timeouts, partial) = (&service.spec.timeouts, &service.tunables.timeouts);
        let Some(request) = timeouts.request else { return };
        for (key, wait, set) in [
            ("connect_wait", timeouts.connect_wait, origin(&partial.connect_wait)),
            ("limit_wait", timeouts.limit_wait, origin(&partial.limit_wait)),
        ] {
            if let Some(at) = set.filter(|_| wait >= request) {
                let (wait, request) = (duration::format(wait), duration::format(request));
                let message = format!("a call may wait in line for {wait} and take {request} altogether");
                self.lint(service, &format!("timeouts.{key}"), at, LintCode::WaitAsLongAsCall, message);
            }
        }
    }

    /// `timeouts.per_try` against the whole call; `retry.per_try_timeout`, where there is one, holds in its place.
    fn attempts(&mut self, service: &Resolved) {
        let (timeouts, policy) = (&service.spec.timeouts, &service.spec.retries.policy);
        let Some(at) = origin(&service.tunables.timeouts.per_try) else { return };
        let (Some(per_try), Some(request), None) = (timeouts.per_try, timeouts.request, policy.per_try_timeout) else {
            return;
        };
        let attempts = u32::from(policy.num_retries) + 1;
        let mut lint = |code, message| self.lint(service, "timeouts.per_try", at, code, message);
        if per_try == request && attempts > 1 {
            let whole = duration::format(request);
            lint(LintCode::AttemptAsLongAsCall, format!("one attempt may take the {whole} of the whole call"));
        } else if per_try < request && times(per_try, attempts) > request {
            let (each, whole) = (duration::format(per_try), duration::format(request));
            let message = format!(
                "{attempts} attempts of {each} do not fit into the {whole} of the whole call; the last ones are cut short \
                 or never begin"
            );
            lint(LintCode::AttemptsDoNotFit, message);
        }
    }

    fn ejections(&mut self, service: &Resolved) {
        let policy = &service.spec.outlier_detection;
        let Some(said) = service.tunables.outlier_detection.first() else { return };
        if policy.enforcement != Mode::Enforce {
            return;
        }
        let own = service.partial.tunables.outlier_detection.first();
        let percent = origin(&service.tunables.outlier_detection.max_ejection_percent);
        let (path, at, message) = if policy.max_ejection_percent == 0 {
            ("outlier_detection.max_ejection_percent", percent.unwrap_or(said), "0 % of the endpoints may be ejected")
        } else if !detects(policy) {
            ("outlier_detection", said, "every detector is off")
        } else if let Some(own) = own.filter(|_| single(service)) {
            ("outlier_detection", own, "a service of one endpoint never ejects it: there is no other to go to")
        } else {
            return;
        };
        self.lint(service, path, at, LintCode::NeverEjects, message.to_owned());
    }
}

fn times(duration: Duration, factor: u32) -> Duration {
    duration.checked_mul(factor).unwrap_or(Duration::MAX)
}
