//! What is valid and probably not meant: a closed set of warnings, each with a code.
//!
//! A lint never refuses anything. Its code is what a person, a log line and a check in a pipeline have in common, so the
//! set is closed, printed as `SINEW-W010`, and never renumbered.

use std::fmt;

use super::Place;

macro_rules! lints {
    ($( $(#[doc = $doc:literal])+ $name:ident = $number:literal, $reason:literal, $cure:literal; )+) => {
        /// What is probably not meant.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum LintCode {
            $( $(#[doc = $doc])+ $name, )+
        }

        impl LintCode {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [LintCode] = &[$( LintCode::$name, )+];

            const fn row(self) -> &'static Row {
                match self {
                    $( LintCode::$name => &Row {
                        number: $number,
                        reason: $reason,
                        cure: $cure,
                        doc: concat!($($doc, "\n"),+),
                    }, )+
                }
            }
        }
    };
}

struct Row {
    number: u16,
    reason: &'static str,
    cure: &'static str,
    doc: &'static str,
}

lints! {
    /// A list of endpoints is empty: every call that needs it fails with SINEW-E010.
    NoEndpoints = 1, "no_endpoints", "add an address, or remove the source";
    /// Every endpoint of a list has weight 0, so none is used.
    NoWeight = 2, "no_weight", "give one a weight above 0";
    /// No endpoint can ever have the labels of a subset: calls to it fail with SINEW-E010.
    EmptySubset = 3, "empty_subset", "set `labels` on a source or an endpoint";
    /// There are more endpoints than connections. Each may always hold one, so the limit is passed.
    MoreEndpointsThanConnections = 4, "more_endpoints_than_connections",
        "set `circuit_breakers.max_connections` to a few times the number of endpoints";
    /// A route is never reached: an earlier one takes everything that it matches.
    UnreachableRoute = 5, "unreachable_route", "make one of the two more specific";
    /// The weights of a split add up to something else than 100. They are relative, so this works as written.
    WeightsOffHundred = 6, "weights_off_hundred", "write them as per cent, so that they can be read as such";
    /// A fraction of 0 % matches no request.
    NoFraction = 7, "no_fraction", "raise the fraction, or remove the route";
    /// HTTP/2 is spoken to a name of which nobody said what its addresses stand for. While it resolves to a single one, that is
    /// taken for many instances: it is never ejected, and kept by 2 to 16 connections that are made anew every 5 minutes.
    GuessedVip = 8, "guessed_vip", "say `kind: vip` or `kind: replicas` beside `dns`";

    /// Plain HTTP calls of a service end by nothing: its default timeout is off and no other is set.
    UnboundedDeadline = 10, "unbounded_deadline", "set `timeouts.request`, or a `timeout` on each route";
    /// One attempt may take as long as the whole call or longer: a slow one leaves no time for another.
    AttemptAsLongAsCall = 11, "attempt_as_long_as_call", "make one attempt shorter, or the whole call longer";
    /// The attempts that a policy allows do not fit into the time of the whole call.
    AttemptsDoNotFit = 12, "attempts_do_not_fit", "lower `num_retries`, or give the call more time";
    /// A call may wait in line for as long as it may take altogether.
    WaitAsLongAsCall = 13, "wait_as_long_as_call", "make the wait shorter than the whole call";

    /// What may have been processed is sent again whatever its method.
    RetryNotIdempotent = 20, "retry_not_idempotent", "say it call by call instead, by `Call::idempotent`";
    /// Calls are sent twice whatever their method.
    HedgeNotIdempotent = 21, "hedge_not_idempotent", "say it call by call instead, by `Call::idempotent`";
    /// A condition of `retry_on` has an empty list, and a list no condition that reads it.
    ConditionWithoutList = 22, "condition_without_list", "set both or neither";
    /// There are more retries than `tree_allowance` pays for: the rest never happens.
    RetriesBeyondAllowance = 23, "retries_beyond_allowance", "lower `num_retries`, or raise `tree_allowance`";
    /// Retries or hedges of a service that has one endpoint only meet the same endpoint again.
    HedgeWithoutPeer = 24, "hedge_without_peer", "add an endpoint, or set `hedge: off`";
    /// Each process has ten retries in reserve for each service that it calls. So many processes that retry what may have been
    /// processed may send more than a hundred at once to each endpoint of a service that fails.
    RetryReserves = 25, "retry_reserves", "retry only what was not processed, or a part, by `percentage`";

    /// Outliers are looked for, and none can ever be ejected.
    NeverEjects = 30, "never_ejects", "set `max_ejection_percent` above 0 and leave a detector on, or say `outlier_detection: off`";
    /// A detector has settings and is off.
    DetectorOff = 31, "detector_off", "turn the detector on, or remove the setting";
    /// Health checks of a single endpoint or a virtual IP only report: there is no other to go to.
    ChecksOnlyReport = 32, "checks_only_report", "add endpoints, or remove the checks";

    /// Zones are to be looked at, and what is needed for it is not known.
    ZoneUnknown = 40, "zone_unknown", "set `mesh.zone`, and what the message names";
    /// A zone without a weight gets nothing, or a weight has no zone.
    ZoneWithoutWeight = 41, "zone_without_weight", "give each zone a weight";
    /// A key of `failover_priority` that this process has no value for.
    FailoverKeyUnknown = 42, "failover_key_unknown", "set what the message names, or remove the key";

    /// An issuer of tokens is trusted for every audience: one made for another service is good here as well.
    AnyAudience = 50, "any_audience", "set `audiences`";
    /// Certificates of callers are to be forwarded, and no proxy is believed.
    ForwardsNothing = 51, "forwards_nothing", "name proxies in `forward_client_cert_from`";
    /// `allow` is an empty list: nobody is admitted.
    AllowsNobody = 52, "allows_nobody", "add a rule, or remove `allow` to admit by the listener's own";
    /// A rule asks for the identity of peers where none has one: it never matches.
    RuleWithoutIdentity = 53, "rule_without_identity", "add `identity`";
    /// The edge is plaintext and trusts no balancer that could have taken TLS off.
    PlaintextEdge = 54, "plaintext_edge", "give it `tls`, or name the balancer in `trusted_proxies`";
    /// The edge admits everyone: there are no rules.
    OpenEdge = 55, "open_edge", "add `inbound.authz`; `allow: [{}]` says that everyone is meant";

    /// The process runs under Kubernetes and has no ops listener, so there is nothing that probes could ask.
    NoOpsListener = 60, "no_ops_listener", "set `listeners.ops.listen`, such as `0.0.0.0:9901`, and probe `/livez` and `/readyz`";
}

impl LintCode {
    /// The number: 10 for `SINEW-W010`.
    pub const fn number(self) -> u16 {
        self.row().number
    }

    /// The stable snake_case reason.
    pub const fn reason(self) -> &'static str {
        self.row().reason
    }

    /// What to do about it.
    pub const fn cure(self) -> &'static str {
        self.row().cure
    }

    /// What it means.
    pub const fn explanation(self) -> &'static str {
        self.row().doc
    }

    /// The code with this number.
    pub fn from_number(number: u16) -> Option<LintCode> {
        LintCode::ALL.iter().copied().find(|code| code.number() == number)
    }
}

impl fmt::Display for LintCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SINEW-W{:03}", self.number())
    }
}

/// Something that is valid and probably not meant.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Lint {
    /// Which one.
    pub code: LintCode,
    /// The dotted path of the field.
    pub path: String,
    /// Where it stands, if in a file.
    pub place: Option<Place>,
    /// What, here; what to do about it is [`LintCode::cure`].
    pub message: String,
}

impl Lint {
    /// A warning about a field.
    pub fn new(code: LintCode, path: impl Into<String>, place: Option<Place>, message: impl Into<String>) -> Self {
        Self { code, path: path.into(), place, message: message.into() }
    }
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: {} ({}) [{}]", self.path, self.message, self.code.cure(), self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_reasons_are_unique_and_ascending() {
        assert!(LintCode::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        let reasons: std::collections::BTreeSet<_> = LintCode::ALL.iter().map(|code| code.reason()).collect();
        assert_eq!(reasons.len(), LintCode::ALL.len());
        for code in LintCode::ALL {
            assert_eq!(LintCode::from_number(code.number()), Some(*code));
            assert!(!code.cure().is_empty() && !code.explanation().trim().is_empty(), "{code}");
        }
    }

    #[test]
    fn a_lint_prints_its_place_what_is_wrong_the_cure_and_the_code() {
        let place = Place { file: "sinew.yaml".into(), line: 3, column: 5 };
        let lint = Lint::new(LintCode::NoFraction, "services.a.routes[0]", Some(place), "it matches nothing");
        assert_eq!(
            lint.to_string(),
            "sinew.yaml:3:5: services.a.routes[0]: it matches nothing (raise the fraction, or remove the route) \
             [SINEW-W007]"
        );
    }
}
