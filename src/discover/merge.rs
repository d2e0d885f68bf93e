//! All sources of one service as one stream.
//!
//! A service may come from several places, such as a name per version. Waiting for all of them would let the slowest
//! decide when traffic flows, so what is known serves, and *unknown* is said only while nothing is known. Sources are
//! polled by the reader of the stream: nothing is queued for a slow reader but the state of each source, and what
//! changed between two reads is one update.
//!
//! Where two sources yield the same endpoint, the one listed first has it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_core::Stream;

use super::{Discover, DiscoverError, Discovery, DnsSettings, FixedEndpoints, Refresh, dns::Dns, file, fixed::Once};
use crate::{
    model::{Address, EndpointId, EndpointSource, EndpointSpec, EndpointUpdate, SetKind, SourceKind},
    name::Locality,
};

/// Messages taken from one source before the others and the reader have their turn.
const BATCH: usize = 64;
/// Errors kept for a slow reader; the newest are dropped.
const MAX_ERRORS: usize = 16;

/// What sources need: a resolver, and the sources of the user's own.
#[derive(Clone)]
pub(crate) struct Sources {
    custom: BTreeMap<Arc<str>, Arc<dyn Discover>>,
    dns: Dns,
}

impl Sources {
    /// Resolves names as `dns` says.
    pub(crate) fn new(dns: DnsSettings) -> Self {
        Self { custom: BTreeMap::new(), dns: Dns::new(dns) }
    }

    /// Adds a source of the user's own; one of the same name is replaced.
    pub(crate) fn insert(&mut self, name: impl Into<Arc<str>>, source: Arc<dyn Discover>) {
        self.custom.insert(name.into(), source);
    }

    fn open(&self, source: &SourceKind) -> Discovery {
        match source {
            SourceKind::Static(endpoints) => FixedEndpoints::new(endpoints.iter().cloned()).subscribe(),
            SourceKind::Dns { name, port } => self.dns.subscribe(name, *port),
            SourceKind::File(path) => file::subscribe(path),
            SourceKind::Custom(name) => match self.custom.get(name) {
                Some(source) => source.subscribe(),
                None => {
                    let text =
                        format!("no endpoint source `{name}` is registered; give it to the builder by this name");
                    Discovery::new(Once(Some(Err(DiscoverError::new(text)))))
                }
            },
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("custom", &self.custom.keys()).field("dns", &self.dns).finish()
    }
}

/// Watches all sources of a service as one. Call inside a tokio runtime.
///
/// Defaults of a source apply to endpoints with weight 1, priority 0 or an empty locality; an endpoint's own label
/// wins over the source's.
pub(crate) fn subscribe(sources: &[EndpointSource], registry: &Sources) -> Discovery {
    let mut refreshes = Vec::new();
    let inputs = sources
        .iter()
        .map(|source| {
            let Discovery { updates, refresh } = registry.open(&source.source);
            refreshes.extend(refresh);
            Input {
                attributes: source.clone_attributes(),
                updates: Some(updates),
                known: None,
                kind: SetKind::Replicas,
            }
        })
        .collect();
    let merged = Discovery::new(Merge { inputs, dirty: true, published: None, ready: VecDeque::new(), clash: None });
    match refreshes.is_empty() {
        true => merged,
        false => merged.with_refresh(Arc::new(All(refreshes))),
    }
}

struct All(Vec<Arc<dyn Refresh>>);

impl Refresh for All {
    fn refresh(&self) {
        self.0.iter().for_each(|source| source.refresh());
    }
}

impl EndpointSource {
    /// A fixed list may be long, and is not needed twice.
    fn clone_attributes(&self) -> Self {
        Self {
            source: SourceKind::Static(Vec::new()),
            labels: self.labels.clone(),
            locality: self.locality.clone(),
            ..*self
        }
    }

    fn apply(&self, mut spec: EndpointSpec) -> EndpointSpec {
        if self.labels.keys().any(|key| !spec.labels.contains_key(key)) {
            let mut labels = self.labels.clone();
            labels.extend(spec.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
            spec.labels = Arc::new(labels);
        }
        if spec.locality == Locality::default() {
            spec.locality = self.locality.clone();
        }
        if let (1, Some(weight)) = (spec.weight, self.weight) {
            spec.weight = weight;
        }
        if let (0, Some(priority)) = (spec.priority, self.priority) {
            spec.priority = priority;
        }
        spec
    }
}

type Set = BTreeMap<EndpointId, EndpointSpec>;
type Item = Result<EndpointUpdate, DiscoverError>;

struct Input {
    attributes: EndpointSource,
    /// `None` once it ended; what it said stays.
    updates: Option<Pin<Box<dyn Stream<Item = Item> + Send>>>,
    /// `None` while unknown.
    known: Option<Set>,
    kind: SetKind,
}

impl Input {
    /// Takes what is there. True if the set may have changed.
    fn poll(&mut self, cx: &mut Context<'_>, errors: &mut Vec<DiscoverError>) -> bool {
        let mut changed = false;
        for _ in 0..BATCH {
            let Some(updates) = &mut self.updates else { return changed };
            match updates.as_mut().poll_next(cx) {
                Poll::Pending => return changed,
                Poll::Ready(None) => self.updates = None,
                Poll::Ready(Some(Err(error))) => errors.push(error),
                Poll::Ready(Some(Ok(update))) => {
                    self.take(update);
                    changed = true;
                }
            }
        }
        cx.waker().wake_by_ref();
        changed
    }

    fn take(&mut self, update: EndpointUpdate) {
        let attributes = &self.attributes;
        let keyed = |spec: EndpointSpec| (spec.id.clone(), attributes.apply(spec));
        match update {
            EndpointUpdate::Reset { endpoints, kind } => {
                self.known = Some(endpoints.into_iter().map(keyed).collect());
                self.kind = kind;
            }
            EndpointUpdate::Upsert(endpoints) => {
                self.known.get_or_insert_default().extend(endpoints.into_iter().map(keyed));
            }
            EndpointUpdate::Remove(ids) => {
                if let Some(known) = &mut self.known {
                    ids.iter().for_each(|id| drop(known.remove(id)));
                }
            }
            EndpointUpdate::Unknown => self.known = None,
        }
    }
}

struct Merge {
    inputs: Vec<Input>,
    dirty: bool,
    /// What the reader has; `None` before the first message, `Some(None)` if that is *unknown*.
    published: Option<Option<(Set, SetKind)>>,
    ready: VecDeque<Item>,
    clash: Option<EndpointId>,
}

impl Stream for Merge {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let this = &mut *self;
        if let Some(item) = this.ready.pop_front() {
            return Poll::Ready(Some(item));
        }
        let mut errors = Vec::new();
        for input in &mut this.inputs {
            this.dirty |= input.poll(cx, &mut errors);
        }
        if std::mem::take(&mut this.dirty) {
            this.publish();
        }
        errors.truncate(MAX_ERRORS);
        this.ready.extend(errors.into_iter().map(Err));
        match this.ready.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None if this.inputs.iter().all(|input| input.updates.is_none()) => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl Merge {
    fn publish(&mut self) {
        let next = self.combine();
        let update = match (&self.published, &next) {
            (Some(None), None) => None,
            (_, None) => Some(EndpointUpdate::Unknown),
            (Some(Some((old, old_kind))), Some((new, kind))) if old_kind == kind => {
                return self.publish_changes(differences(old, new), next);
            }
            (_, Some((set, kind))) => {
                Some(EndpointUpdate::Reset { endpoints: set.values().cloned().collect(), kind: *kind })
            }
        };
        self.published = Some(next);
        self.ready.extend(update.map(Ok));
    }

    fn publish_changes(&mut self, (upsert, remove): Changes, next: Option<(Set, SetKind)>) {
        self.published = Some(next);
        // New before gone: the set is never smaller in between than before and after.
        if !upsert.is_empty() {
            self.ready.push_back(Ok(EndpointUpdate::Upsert(upsert)));
        }
        if !remove.is_empty() {
            self.ready.push_back(Ok(EndpointUpdate::Remove(remove)));
        }
    }

    fn combine(&mut self) -> Option<(Set, SetKind)> {
        let mut all = Set::new();
        let mut taken: BTreeSet<Address> = BTreeSet::new();
        let mut clash = None;
        for known in self.inputs.iter().filter_map(|input| input.known.as_ref()) {
            let mut addresses = Vec::new();
            for (id, spec) in known {
                if all.contains_key(id) || spec.addresses.iter().any(|address| taken.contains(address)) {
                    clash.get_or_insert_with(|| id.clone());
                    continue;
                }
                addresses.extend(spec.addresses.iter().cloned());
                all.insert(id.clone(), spec.clone());
            }
            taken.extend(addresses);
        }
        if clash != self.clash {
            if let Some(endpoint) = &clash {
                tracing::warn!(%endpoint, "two sources of a service yield the same endpoint; the one listed first has it");
            }
            self.clash = clash;
        }
        let kind = match &self.inputs[..] {
            [only] => only.attributes.kind.unwrap_or(only.kind),
            _ => SetKind::Replicas,
        };
        // Without any source there is nothing to wait for.
        let known = self.inputs.is_empty() || self.inputs.iter().any(|input| input.known.is_some());
        known.then_some((all, kind))
    }
}

type Changes = (Vec<EndpointSpec>, Vec<EndpointId>);

fn differences(old: &Set, new: &Set) -> Changes {
    let upsert = new.iter().filter(|(id, spec)| old.get(*id) != Some(*spec)).map(|(_, spec)| spec.clone()).collect();
    let remove = old.keys().filter(|id| !new.contains_key(*id)).cloned().collect();
    (upsert, remove)
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
