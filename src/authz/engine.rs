//! Decides.

use std::sync::Arc;

use http::{HeaderName, Method};

use super::{
    cel::Cel,
    condition::{Condition, Layer, compile},
    expr::Expr,
    index::Index,
    policy::{Action, Policy, Rule, WhenKey},
};
use crate::{
    canon::{Principal, View},
    enforcement::Percent,
    instrument::{Counter, Registry},
};

/// What holds where no rule allows anything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum Baseline {
    /// Everyone.
    #[default]
    Everyone,
    /// Peers of this trust domain, and this process itself. `plaintext`: also peers without an identity.
    Members { trust_domain: Arc<str>, plaintext: bool },
    /// Nobody.
    Nobody,
}

impl Baseline {
    pub(super) fn admits(&self, view: &View<'_>) -> bool {
        match self {
            Self::Everyone => true,
            Self::Nobody => false,
            Self::Members { trust_domain, plaintext } => match view.principal {
                Some(id) => Principal(id).trust_domain() == &**trust_domain,
                None => *plaintext || view.in_process,
            },
        }
    }
}

/// All policies, compiled. Each policy has to allow on its own.
#[derive(Debug, Default)]
pub(crate) struct Authorizer {
    pub(super) policies: Box<[Compiled]>,
    headers: Box<[HeaderName]>,
    kept: Box<[HeaderName]>,
    draws: bool,
    pub(super) no_rule: RuleId,
    admitted: RuleId,
    pub(super) not_admitted: RuleId,
}

/// The answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision<'a> {
    pub(crate) allowed: bool,
    pub(crate) why: Why<'a>,
    /// What it would be if every rule were enforced, where that is different.
    pub(crate) shadow: Option<(bool, Why<'a>)>,
    /// The first rule that wants this written down.
    pub(crate) audit: Option<&'a RuleId>,
}

/// A rule as metrics and logs know it.
#[derive(Debug, Default)]
pub(crate) struct RuleId {
    pub(crate) name: Arc<str>,
    decided: Counter,
    shadow: Counter,
}

impl RuleId {
    fn new(name: &Arc<str>, outcome: &str, registry: &Registry) -> Self {
        let labels = [("decision", outcome), ("rule", &**name)];
        Self {
            name: Arc::clone(name),
            decided: registry.counter("sinew_authz_decisions_total", &labels),
            shadow: registry.counter("sinew_authz_shadow_total", &labels),
        }
    }

    /// Counts a decision.
    pub(crate) fn count(&self) {
        self.decided.inc();
    }
}

/// What decided.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Why<'a> {
    /// This rule.
    Rule(&'a RuleId),
    /// There are rules that allow, and none matched.
    NoRule(&'a RuleId),
    /// No rule was there to decide.
    Baseline(&'a RuleId),
}

impl<'a> Why<'a> {
    /// The rule, or the name of what stands in for one.
    pub(crate) fn rule(self) -> &'a RuleId {
        match self {
            Self::Rule(rule) | Self::NoRule(rule) | Self::Baseline(rule) => rule,
        }
    }
}

impl Authorizer {
    pub(crate) fn new(policies: &[&Policy], registry: &Registry) -> Self {
        Self::compile(policies, Layer::Http, registry)
    }

    fn compile(policies: &[&Policy], layer: Layer, registry: &Registry) -> Self {
        let policies = || policies.iter().filter(|policy| policy.exclusive || !policy.rules.is_empty());
        let rules = || policies().flat_map(|policy| &policy.rules);
        let mut headers: Vec<HeaderName> = rules()
            .filter(|rule| !rule.exact)
            .flat_map(|rule| rule.when.iter().chain(rule.and.iter().filter_map(Expr::as_when)))
            .filter_map(|when| match &when.key {
                WhenKey::Header(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        headers.extend(rules().filter_map(|rule| rule.condition.as_ref()).flat_map(Cel::headers).cloned());
        headers.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        headers.dedup();
        let mut kept = headers.clone();
        kept.extend(rules().flat_map(|rule| &rule.and).flat_map(Expr::tested));
        kept.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        kept.dedup();
        Self {
            draws: rules().any(|rule| rule.enforced != Percent::NONE && rule.enforced != Percent::ALL),
            policies: policies().map(|policy| Compiled::new(policy, layer, registry)).collect(),
            headers: headers.into(),
            kept: kept.into(),
            no_rule: RuleId::new(&"_no_rule".into(), "deny", registry),
            admitted: RuleId::new(&"_baseline".into(), "allow", registry),
            not_admitted: RuleId::new(&"_baseline".into(), "deny", registry),
        }
    }

    /// The headers that rules look at. A request that has one of them twice has no one meaning.
    pub(crate) fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    /// The headers by which an exchange that began can be judged again.
    pub(crate) fn kept_headers(&self) -> &[HeaderName] {
        &self.kept
    }

    /// Whether `View::draw` makes a difference.
    pub(crate) fn draws(&self) -> bool {
        self.draws
    }

    /// Whether there is no rule at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Decides and counts. Allocates nothing.
    pub(crate) fn decide(&self, view: &View<'_>, baseline: &Baseline) -> Decision<'_> {
        let decision = self.peek(view, baseline);
        decision.why.rule().decided.inc();
        if let Some((_, why)) = decision.shadow {
            why.rule().shadow.inc();
        }
        if let Some(rule) = decision.audit {
            rule.decided.inc();
        }
        for audit in self.policies.iter().map(|policy| &policy.audit).filter(|audit| audit.shadow) {
            if let Some(rule) = audit.first(view, |rule| view.draw >= rule.enforced.millionths()) {
                rule.id.shadow.inc();
            }
        }
        decision
    }

    /// The rules that ask somebody else about this, by their place among all such rules.
    pub(crate) fn asked_by(&self, view: &View<'_>, mut found: impl FnMut(usize)) {
        let mut before = 0;
        for custom in self.policies.iter().map(|policy| &policy.custom) {
            custom.index.first(view, |number| {
                let rule = &custom.rules[number as usize];
                if rule.condition.holds(view) {
                    if view.draw < rule.enforced.millionths() {
                        rule.id.count();
                        found(before + number as usize);
                    } else {
                        rule.id.shadow.inc();
                    }
                }
                false
            });
            before += custom.rules.len();
        }
    }

    /// Decides without counting.
    pub(crate) fn peek(&self, view: &View<'_>, baseline: &Baseline) -> Decision<'_> {
        let enforced = |rule: &Judge| view.draw < rule.enforced.millionths();
        let (allowed, why) = self.judge(view, baseline, enforced);
        let shadow = if self.policies.iter().any(|policy| policy.shadow) {
            Some(self.judge(view, baseline, |_| true)).filter(|(other, _)| *other != allowed)
        } else {
            None
        };
        let audit = self.policies.iter().find_map(|policy| policy.audit.first(view, enforced));
        Decision { allowed, why, shadow, audit: audit.map(|rule| &rule.id) }
    }

    /// A CONNECT without protocol leads anywhere, and no rule says where it may: it is denied where there are rules.
    pub(super) fn is_tunnel(&self, view: &View<'_>) -> bool {
        view.http.as_ref().is_some_and(|http| *http.method == Method::CONNECT) && !self.is_empty()
    }

    fn judge(&self, view: &View<'_>, baseline: &Baseline, counts: impl Fn(&Judge) -> bool + Copy) -> (bool, Why<'_>) {
        if let Some(rule) = self.policies.iter().find_map(|policy| policy.deny.first(view, counts)) {
            return (false, Why::Rule(&rule.id));
        }
        if self.is_tunnel(view) {
            return (false, Why::NoRule(&self.no_rule));
        }
        let mut allowed = None;
        for policy in &*self.policies {
            if !policy.exclusive && !policy.allow.rules.iter().any(counts) {
                continue;
            }
            match policy.allow.first(view, counts) {
                Some(rule) => allowed = allowed.or(Some(&rule.id)),
                None => return (false, Why::NoRule(&self.no_rule)),
            }
        }
        match allowed {
            Some(rule) => (true, Why::Rule(rule)),
            None if baseline.admits(view) => (true, Why::Baseline(&self.admitted)),
            None => (false, Why::Baseline(&self.not_admitted)),
        }
    }
}

#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) deny: Rules,
    pub(super) allow: Rules,
    audit: Rules,
    custom: Rules,
    /// Whether what no rule allows is denied, whichever rules count for the request.
    pub(super) exclusive: bool,
    /// Whether any rule is not enforced for all requests.
    shadow: bool,
}

impl Compiled {
    fn new(policy: &Policy, layer: Layer, registry: &Registry) -> Self {
        let rules = |action| Rules::new(policy.rules.iter().filter(|rule| rule.action == action), layer, registry);
        let listed = policy.rules.iter().any(|rule| rule.action == Action::Allow && rule.enforced == Percent::ALL);
        Self {
            deny: rules(Action::Deny),
            exclusive: policy.exclusive || listed,
            allow: rules(Action::Allow),
            audit: rules(Action::Audit),
            custom: rules(Action::Custom),
            shadow: policy
                .rules
                .iter()
                .any(|rule| matches!(rule.action, Action::Allow | Action::Deny) && rule.enforced != Percent::ALL),
        }
    }
}

/// Rules of one action.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) rules: Box<[Judge]>,
    index: Index,
    /// Whether any is not enforced for all requests.
    shadow: bool,
}

#[derive(Debug)]
pub(super) struct Judge {
    pub(super) id: RuleId,
    pub(super) enforced: Percent,
    pub(super) condition: Condition,
    /// It denies, always, and not without asking for an address or a port.
    pub(super) gate: bool,
}

impl Rules {
    fn new<'r>(rules: impl Iterator<Item = &'r Rule>, layer: Layer, registry: &Registry) -> Self {
        let rules: Vec<&Rule> = rules.collect();
        let judge = |rule: &&Rule| {
            let outcome = match rule.action {
                Action::Allow => "allow",
                Action::Deny => "deny",
                Action::Audit => "audit",
                Action::Custom => "custom",
            };
            let id = RuleId::new(&rule.name, outcome, registry);
            let condition = compile(rule, layer);
            let gate = rule.action == Action::Deny && rule.enforced == Percent::ALL && condition.asks_for_addresses();
            Judge { id, enforced: rule.enforced, condition, gate }
        };
        let judges: Vec<Judge> = rules.iter().map(judge).collect();
        let index = match layer {
            Layer::Http => Index::new(rules),
            Layer::Connection => Index::new(rules.into_iter().map(without_http).collect::<Vec<_>>().iter()),
        };
        let shadow = judges.iter().any(|judge| judge.enforced != Percent::ALL);
        Self { rules: judges.into(), index, shadow }
    }

    fn first(&self, view: &View<'_>, counts: impl Fn(&Judge) -> bool) -> Option<&Judge> {
        if self.rules.is_empty() {
            return None;
        }
        let number = self.index.first(view, |number| {
            let rule = &self.rules[number as usize];
            counts(rule) && rule.condition.holds(view)
        })?;
        self.rules.get(number as usize)
    }
}

/// What a rule needs of a connection.
fn without_http(rule: &Rule) -> Rule {
    Rule { to: Vec::new(), ..rule.clone() }
}

#[cfg(test)]
impl Authorizer {
    /// For a connection before any request.
    pub(crate) fn of_connections(policies: &[&Policy]) -> Self {
        Self::compile(policies, Layer::Connection, &Registry::default())
    }

    /// How many rules are asked for this view.
    pub(super) fn asked(&self, view: &View<'_>) -> usize {
        let mut asked = 0;
        for rules in self.policies.iter().flat_map(|policy| [&policy.deny, &policy.allow, &policy.audit]) {
            rules.index.first(view, |_| {
                asked += 1;
                false
            });
        }
        asked
    }
}
