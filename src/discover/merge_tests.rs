use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tokio_test::{assert_pending, task};

use super::*;

/// A source that says what the test says.
struct Scripted {
    updates: std::sync::Mutex<Option<mpsc::UnboundedReceiver<Item>>>,
    refreshed: Arc<AtomicUsize>,
}

struct Count(Arc<AtomicUsize>);

impl Refresh for Count {
    fn refresh(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Discover for Scripted {
    fn subscribe(&self) -> Discovery {
        let updates = self.updates.lock().unwrap().take().unwrap();
        Discovery::new(UnboundedReceiverStream::new(updates)).with_refresh(Arc::new(Count(self.refreshed.clone())))
    }
}

struct Fixture {
    registry: Sources,
    refreshed: Arc<AtomicUsize>,
}

impl Fixture {
    fn new() -> Self {
        Self { registry: Sources::new(DnsSettings::default()), refreshed: Arc::default() }
    }

    fn source(&mut self, name: &str) -> (mpsc::UnboundedSender<Item>, EndpointSource) {
        let (send, updates) = mpsc::unbounded_channel();
        let source = Scripted { updates: Some(updates).into(), refreshed: self.refreshed.clone() };
        self.registry.insert(name, Arc::new(source));
        (send, EndpointSource::new(SourceKind::Custom(name.into())))
    }
}

fn spec(addr: &str) -> EndpointSpec {
    EndpointSpec::new(addr.parse::<std::net::SocketAddr>().unwrap())
}

fn reset(addrs: &[&str], kind: SetKind) -> Item {
    Ok(EndpointUpdate::Reset { endpoints: addrs.iter().map(|addr| spec(addr)).collect(), kind })
}

fn ids(specs: &[EndpointSpec]) -> Vec<&str> {
    specs.iter().map(|spec| spec.id.as_str()).collect()
}

#[tokio::test]
async fn what_is_known_serves_while_the_rest_is_unknown() {
    let mut fixture = Fixture::new();
    let (a, first) = fixture.source("a");
    let (b, second) = fixture.source("b");
    let mut updates = subscribe(&[first, second], &fixture.registry).updates;
    assert_eq!(updates.next().await.unwrap().unwrap(), EndpointUpdate::Unknown);
    a.send(reset(&["10.0.0.1:80"], SetKind::Vip)).unwrap();
    let update = updates.next().await.unwrap().unwrap();
    assert_eq!(update, EndpointUpdate::Reset { endpoints: vec![spec("10.0.0.1:80")], kind: SetKind::Replicas });
    b.send(reset(&["10.0.0.2:80"], SetKind::Vip)).unwrap();
    assert_eq!(updates.next().await.unwrap().unwrap(), EndpointUpdate::Upsert(vec![spec("10.0.0.2:80")]));
    a.send(Ok(EndpointUpdate::Unknown)).unwrap();
    let gone = EndpointId::new("10.0.0.1:80");
    assert_eq!(updates.next().await.unwrap().unwrap(), EndpointUpdate::Remove(vec![gone]));
    b.send(Ok(EndpointUpdate::Unknown)).unwrap();
    assert_eq!(updates.next().await.unwrap().unwrap(), EndpointUpdate::Unknown);
}

#[tokio::test]
async fn many_messages_between_two_reads_are_one_update() {
    let mut fixture = Fixture::new();
    let (a, source) = fixture.source("a");
    let mut updates = task::spawn(subscribe(&[source], &fixture.registry).updates);
    a.send(reset(&["10.0.0.1:80"], SetKind::Replicas)).unwrap();
    updates.next().await.unwrap().unwrap();
    assert_pending!(updates.poll_next());
    for n in 2..40 {
        a.send(Ok(EndpointUpdate::Upsert(vec![spec(&format!("10.0.0.{n}:80"))]))).unwrap();
    }
    a.send(Ok(EndpointUpdate::Remove(vec![EndpointId::new("10.0.0.1:80")]))).unwrap();
    let EndpointUpdate::Upsert(new) = updates.next().await.unwrap().unwrap() else { panic!("new before gone") };
    assert_eq!(new.len(), 38);
    assert!(matches!(updates.next().await.unwrap().unwrap(), EndpointUpdate::Remove(gone) if gone.len() == 1));
    a.send(Ok(EndpointUpdate::Upsert(vec![spec("10.0.0.2:80")]))).unwrap();
    assert_pending!(updates.poll_next(), "nothing changed");
}

#[tokio::test]
async fn a_source_lends_its_attributes_to_endpoints_without_their_own() {
    let own: crate::model::Labels = [("version".into(), "v9".into())].into();
    let plain = spec("10.0.0.1:80");
    let mut special = spec("10.0.0.2:80").labels(own.clone()).weight(7).priority(2);
    special.locality.zone = "b".into();
    let mut source = EndpointSource::new(SourceKind::Static(vec![plain, special]));
    source.labels = [("version".into(), "v1".into()), ("team".into(), "x".into())].into();
    source.locality.zone = "a".into();
    (source.weight, source.priority) = (Some(5), Some(1));
    let mut updates = subscribe(&[source], &Fixture::new().registry).updates;
    let Some(Ok(EndpointUpdate::Reset { endpoints, .. })) = updates.next().await else { panic!("a set") };
    let got: Vec<_> = endpoints
        .iter()
        .map(|spec| (&*spec.labels["version"], &*spec.labels["team"], &*spec.locality.zone, spec.weight, spec.priority))
        .collect();
    assert_eq!(got, [("v1", "x", "a", 5, 1), ("v9", "x", "b", 7, 2)]);
    assert!(updates.next().await.is_none(), "a fixed list never speaks again");
}

#[tokio::test]
async fn of_two_sources_with_one_address_the_first_has_it() {
    let mut fixture = Fixture::new();
    let (a, mut first) = fixture.source("a");
    let (b, mut second) = fixture.source("b");
    (first.weight, second.weight) = (Some(2), Some(3));
    let mut updates = subscribe(&[first, second], &fixture.registry).updates;
    b.send(reset(&["10.0.0.1:80", "10.0.0.2:80"], SetKind::Replicas)).unwrap();
    updates.next().await.unwrap().unwrap();
    a.send(reset(&["10.0.0.1:80"], SetKind::Replicas)).unwrap();
    let EndpointUpdate::Upsert(changed) = updates.next().await.unwrap().unwrap() else { panic!("a change") };
    assert_eq!((ids(&changed), changed[0].weight), (vec!["10.0.0.1:80"], 2));
    a.send(reset(&[], SetKind::Replicas)).unwrap();
    let EndpointUpdate::Upsert(changed) = updates.next().await.unwrap().unwrap() else { panic!("a change") };
    assert_eq!((ids(&changed), changed[0].weight), (vec!["10.0.0.1:80"], 3));
}

#[tokio::test]
async fn only_a_single_source_is_a_vip_and_the_configured_kind_wins() {
    for (configured, said, expected) in [
        (None, SetKind::Vip, SetKind::Vip),
        (None, SetKind::Replicas, SetKind::Replicas),
        (Some(SetKind::Replicas), SetKind::Vip, SetKind::Replicas),
        (Some(SetKind::Vip), SetKind::Replicas, SetKind::Vip),
    ] {
        let mut fixture = Fixture::new();
        let (a, mut source) = fixture.source("a");
        source.kind = configured;
        a.send(reset(&["10.0.0.1:80"], said)).unwrap();
        let mut updates = subscribe(&[source], &fixture.registry).updates;
        assert!(matches!(updates.next().await, Some(Ok(EndpointUpdate::Reset { kind, .. })) if kind == expected));
    }
}

#[tokio::test]
async fn errors_pass_refreshes_fan_out_and_ended_sources_stay() {
    let mut fixture = Fixture::new();
    let (a, first) = fixture.source("a");
    let (b, second) = fixture.source("b");
    let missing = EndpointSource::new(SourceKind::Custom("nope".into()));
    let discovery = subscribe(&[first, second, missing], &fixture.registry);
    discovery.refresh.unwrap().refresh();
    assert_eq!(fixture.refreshed.load(Ordering::Relaxed), 2);
    let mut updates = task::spawn(discovery.updates);
    a.send(reset(&["10.0.0.1:80"], SetKind::Replicas)).unwrap();
    drop(a);
    assert!(matches!(updates.next().await, Some(Ok(EndpointUpdate::Reset { .. }))));
    assert!(updates.next().await.unwrap().unwrap_err().to_string().contains("`nope`"));
    assert_pending!(updates.poll_next());
    for _ in 0..50 {
        b.send(Err(DiscoverError::new("down"))).unwrap();
    }
    let mut errors = 0;
    while let Poll::Ready(Some(item)) = updates.poll_next() {
        assert!(item.is_err());
        errors += 1;
    }
    assert_eq!(errors, MAX_ERRORS);
    drop(b);
    assert!(updates.next().await.is_none());
}

#[tokio::test]
async fn no_sources_are_an_empty_set() {
    let mut updates = subscribe(&[], &Fixture::new().registry).updates;
    assert!(matches!(updates.next().await, Some(Ok(EndpointUpdate::Reset { endpoints, .. })) if endpoints.is_empty()));
}
