//! Decides.

use std::sync::Arc;

use http::HeaderName;

use super::{
    condition::{Condition, Layer, compile},
    index::Index,
    policy::{ALWAYS, Action, Policy, Rule, WhenKey},
};
use crate::canon::{Principal, View};

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
    fn admits(&self, view: &View<'_>) -> bool {
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

/// All policies of one listener, compiled. Each policy has to allow on its own.
#[derive(Debug, Default)]
pub(crate) struct Authorizer {
    policies: Box<[Compiled]>,
    baseline: Baseline,
    headers: Box<[HeaderName]>,
    draws: bool,
}

/// The answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision<'a> {
    pub(crate) allowed: bool,
    pub(crate) why: Why<'a>,
    /// What it would be if every rule were enforced, where that is different.
    pub(crate) shadow: Option<(bool, Why<'a>)>,
    /// The first rule that wants this written down.
    pub(crate) audit: Option<&'a Arc<str>>,
}

/// What decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why<'a> {
    /// This rule.
    Rule(&'a Arc<str>),
    /// There are rules that allow, and none matched.
    NoRule,
    /// No rule was there to decide.
    Baseline,
}

impl Authorizer {
    pub(crate) fn new(policies: &[&Policy], baseline: Baseline) -> Self {
        Self::compile(policies, baseline, Layer::Http)
    }

    fn compile(policies: &[&Policy], baseline: Baseline, layer: Layer) -> Self {
        let rules = || policies.iter().flat_map(|policy| &policy.rules);
        let mut headers: Vec<HeaderName> = rules()
            .flat_map(|rule| &rule.when)
            .filter_map(|when| match &when.key {
                WhenKey::Header(name) => Some(name.clone()),
                WhenKey::ServerName => None,
            })
            .collect();
        headers.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        headers.dedup();
        let draws = rules().any(|rule| rule.enforced != 0 && rule.enforced < ALWAYS);
        let policies = policies.iter().map(|policy| Compiled::new(policy, layer)).collect();
        Self { policies, baseline, headers: headers.into(), draws }
    }

    /// The headers that rules look at. A request that has one of them twice has no one meaning.
    pub(crate) fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    /// Whether `View::draw` makes a difference.
    pub(crate) fn draws(&self) -> bool {
        self.draws
    }

    /// Whether every request is allowed, whatever it is.
    pub(crate) fn is_open(&self) -> bool {
        self.policies.is_empty() && self.baseline == Baseline::Everyone
    }

    /// Allocates nothing.
    pub(crate) fn decide(&self, view: &View<'_>) -> Decision<'_> {
        let (allowed, why) = self.judge(view, |rule| view.draw < rule.enforced);
        let shadow = if self.policies.iter().any(|policy| policy.shadow) {
            Some(self.judge(view, |_| true)).filter(|(other, _)| *other != allowed)
        } else {
            None
        };
        let audit = self.policies.iter().find_map(|policy| policy.audit.first(view, |rule| view.draw < rule.enforced));
        Decision { allowed, why, shadow, audit: audit.map(|rule| &rule.name) }
    }

    fn judge(&self, view: &View<'_>, counts: impl Fn(&Judge) -> bool + Copy) -> (bool, Why<'_>) {
        if let Some(rule) = self.policies.iter().find_map(|policy| policy.deny.first(view, counts)) {
            return (false, Why::Rule(&rule.name));
        }
        let mut allowed = None;
        for policy in &*self.policies {
            if !policy.exclusive && !policy.allow.rules.iter().any(counts) {
                continue;
            }
            match policy.allow.first(view, counts) {
                Some(rule) => allowed = allowed.or(Some(&rule.name)),
                None => return (false, Why::NoRule),
            }
        }
        match allowed {
            Some(name) => (true, Why::Rule(name)),
            None => (self.baseline.admits(view), Why::Baseline),
        }
    }
}

#[derive(Debug)]
struct Compiled {
    deny: Rules,
    allow: Rules,
    audit: Rules,
    /// Whether what no rule allows is denied, whichever rules count for the request.
    exclusive: bool,
    /// Whether any rule is not enforced for all requests.
    shadow: bool,
}

impl Compiled {
    fn new(policy: &Policy, layer: Layer) -> Self {
        let rules = |action| Rules::new(policy.rules.iter().filter(|rule| rule.action == action), layer);
        let listed = policy.rules.iter().any(|rule| rule.action == Action::Allow && rule.enforced == ALWAYS);
        Self {
            deny: rules(Action::Deny),
            exclusive: policy.exclusive || listed,
            allow: rules(Action::Allow),
            audit: rules(Action::Audit),
            shadow: policy.rules.iter().any(|rule| rule.action != Action::Audit && rule.enforced < ALWAYS),
        }
    }
}

/// Rules of one action.
#[derive(Debug)]
struct Rules {
    rules: Box<[Judge]>,
    index: Index,
}

#[derive(Debug)]
struct Judge {
    name: Arc<str>,
    enforced: u32,
    condition: Condition,
}

impl Rules {
    fn new<'r>(rules: impl Iterator<Item = &'r Rule>, layer: Layer) -> Self {
        let rules: Vec<&Rule> = rules.collect();
        let judge =
            |rule: &&Rule| Judge { name: rule.name.clone(), enforced: rule.enforced, condition: compile(rule, layer) };
        let judges: Vec<Judge> = rules.iter().map(judge).collect();
        let index = match layer {
            Layer::Http => Index::new(rules),
            Layer::Connection => Index::new(rules.into_iter().map(without_http).collect::<Vec<_>>().iter()),
        };
        Self { rules: judges.into(), index }
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
    pub(crate) fn of_connections(policies: &[&Policy], baseline: Baseline) -> Self {
        Self::compile(policies, baseline, Layer::Connection)
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
