//! Which rules could match at all.
//!
//! Each rule is filed under one thing that it needs to hold: an exact principal, a namespace, a path or its prefix, a
//! host, a network. Of several, the one that the fewest rules share is taken. A rule that needs none of these is asked
//! every time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    path::PathText,
    policy::{GrpcMethod, Operation, Rule, Source},
    prefix::{NetMap, PrefixMap, canonical},
    text::Text,
};
use crate::canon::{Principal, View};

/// Something that holds of a request whenever a rule does.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Key {
    Principal(Arc<str>),
    PrincipalPrefix(Arc<str>),
    Namespace(Arc<str>),
    Path(Arc<str>),
    PathPrefix(Arc<str>),
    Host(Arc<str>),
    Net(IpNet),
}

/// Rules by what they need, as numbers in ascending order.
#[derive(Debug, Default)]
pub(super) struct Index {
    principals: Tree,
    namespaces: HashMap<Arc<str>, Box<[u32]>>,
    paths: Tree,
    hosts: HashMap<Arc<str>, Box<[u32]>>,
    nets: NetMap<Box<[u32]>>,
    always: Box<[u32]>,
}

/// Exact texts and prefixes.
#[derive(Debug, Default)]
struct Tree {
    exact: HashMap<Arc<str>, Box<[u32]>>,
    prefixes: PrefixMap<Box<[u32]>>,
}

impl Tree {
    fn visit(&self, text: &str, visit: &mut impl FnMut(&[u32])) {
        if !self.exact.is_empty()
            && let Some(rules) = self.exact.get(text)
        {
            visit(rules);
        }
        self.prefixes.walk(text.as_bytes()).for_each(|rules| visit(rules));
    }
}

impl Index {
    /// Files the rules under their numbers.
    pub(super) fn new<'r>(rules: impl IntoIterator<Item = &'r Rule>) -> Self {
        let needs: Vec<Vec<Vec<Key>>> = rules.into_iter().map(needs).collect();
        let mut shared: HashMap<&Key, u32> = HashMap::new();
        for key in needs.iter().flatten().flatten() {
            *shared.entry(key).or_default() += 1;
        }
        let mut always = Vec::new();
        let mut filed: BTreeMap<Key, Vec<u32>> = BTreeMap::new();
        for (number, needs) in (0u32..).zip(&needs) {
            let crowd = |keys: &&Vec<Key>| keys.iter().map(|key| shared[key]).max();
            match needs.iter().min_by_key(crowd) {
                None => always.push(number),
                Some(keys) => {
                    for key in keys {
                        let rules = filed.entry(key.clone()).or_default();
                        if rules.last() != Some(&number) {
                            rules.push(number);
                        }
                    }
                }
            }
        }
        Self::of(filed, always)
    }

    fn of(filed: BTreeMap<Key, Vec<u32>>, always: Vec<u32>) -> Self {
        let mut index = Self { always: always.into(), ..Self::default() };
        let (mut principals, mut paths, mut nets) = (Vec::new(), Vec::new(), Vec::new());
        for (key, rules) in filed {
            let rules = rules.into_boxed_slice();
            match key {
                Key::Principal(text) => drop(index.principals.exact.insert(text, rules)),
                Key::PrincipalPrefix(text) => principals.push((text.as_bytes().into(), rules)),
                Key::Namespace(text) => drop(index.namespaces.insert(text, rules)),
                Key::Path(text) => drop(index.paths.exact.insert(text, rules)),
                Key::PathPrefix(text) => paths.push((text.as_bytes().into(), rules)),
                Key::Host(text) => drop(index.hosts.insert(text, rules)),
                Key::Net(net) => nets.push((net, rules)),
            }
        }
        index.principals.prefixes = PrefixMap::new(principals);
        index.paths.prefixes = PrefixMap::new(paths);
        index.nets = NetMap::new(nets);
        index
    }

    /// The first number for which `test` holds, among those filed under what the view has.
    pub(super) fn first(&self, view: &View<'_>, mut test: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut first = u32::MAX;
        let mut visit = |rules: &[u32]| {
            for number in rules {
                if *number >= first {
                    break;
                }
                if test(*number) {
                    first = *number;
                    break;
                }
            }
        };
        if let Some(id) = view.principal {
            self.principals.visit(id, &mut visit);
            if !self.namespaces.is_empty()
                && let Some(rules) = Principal(id).namespace().and_then(|name| self.namespaces.get(name))
            {
                visit(rules);
            }
        }
        if let Some(http) = &view.http {
            if let Some(path) = http.path {
                self.paths.visit(path, &mut visit);
            }
            if !self.hosts.is_empty()
                && let Some(rules) = http.authority.as_ref().and_then(|own| self.hosts.get(&*own.host))
            {
                visit(rules);
            }
        }
        if let Some(address) = view.peer {
            self.nets.walk(address).for_each(|rules| visit(rules));
        }
        visit(&self.always);
        (first != u32::MAX).then_some(first)
    }
}

/// Alternatives of what a rule needs: of each list one key holds whenever the rule does.
fn needs(rule: &Rule) -> Vec<Vec<Key>> {
    let mut needs = Vec::new();
    needs.extend(union(&rule.from, |source: &Source| texts(&source.principals, Key::Principal, Key::PrincipalPrefix)));
    needs.extend(union(&rule.from, |source| {
        let exact = |text: &Text| if let Text::Exact(text) = text { Some(Key::Namespace(text.clone())) } else { None };
        some(source.namespaces.iter().map(exact))
    }));
    needs.extend(union(&rule.from, |source| {
        some(source.ip_blocks.iter().map(|block| Some(Key::Net(canonical(block.net())))))
    }));
    needs.extend(union(&rule.to, |operation: &Operation| some(operation.paths.iter().map(path))));
    needs.extend(union(&rule.to, |operation| some(operation.grpc.iter().map(grpc))));
    needs.extend(union(&rule.to, |operation| {
        some(operation.hosts.iter().map(|host| match host.text() {
            Text::Exact(text) => Some(Key::Host(text.clone())),
            _ => None,
        }))
    }));
    needs
}

/// The keys of all alternatives, if each has some.
fn union<T>(alternatives: &[T], keys: impl Fn(&T) -> Option<Vec<Key>>) -> Option<Vec<Key>> {
    let all: Option<Vec<Vec<Key>>> = alternatives.iter().map(keys).collect();
    all.map(|all| all.into_iter().flatten().collect()).filter(|keys: &Vec<_>| !keys.is_empty())
}

fn some(keys: impl Iterator<Item = Option<Key>>) -> Option<Vec<Key>> {
    keys.collect::<Option<Vec<_>>>().filter(|keys| !keys.is_empty())
}

fn texts(texts: &[Text], exact: fn(Arc<str>) -> Key, prefix: fn(Arc<str>) -> Key) -> Option<Vec<Key>> {
    some(texts.iter().map(|text| match text {
        Text::Exact(text) => Some(exact(text.clone())),
        Text::Prefix(text) => Some(prefix(text.clone())),
        _ => None,
    }))
}

fn path(path: &PathText) -> Option<Key> {
    match path {
        PathText::Text(Text::Exact(text)) => Some(Key::Path(text.clone())),
        PathText::Text(Text::Prefix(text)) => Some(Key::PathPrefix(text.clone())),
        PathText::Text(_) => None,
        PathText::Template(template) => Some(Key::PathPrefix(template.prefix().into())),
    }
}

fn grpc(grpc: &GrpcMethod) -> Option<Key> {
    let service = grpc.service.as_ref()?;
    Some(match &grpc.method {
        Some(method) => Key::Path(format!("/{service}/{method}").into()),
        None => Key::PathPrefix(format!("/{service}/").into()),
    })
}
