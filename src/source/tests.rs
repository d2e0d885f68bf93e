//! The store as a table: who wins, who is named, and what stays the same.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Store, Update,
    builder::{DocumentBuilder, ServiceBuilder},
    document::{Document, PartialService, Set},
};
use crate::{
    breaker::BreakerPolicy,
    model::{Origin, Place, Policy, PolicyDraft, Snapshot},
    name::{RouteName, ServiceName, SubsetName},
    route::{Route, RouteAction, WeightedTarget},
    seat::{Position, Seat, seat_fn},
};

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn store() -> Store {
    Store::new(Snapshot::new(name("app")))
}

fn built(build: impl FnOnce(&mut DocumentBuilder)) -> Update {
    let mut builder = DocumentBuilder::new();
    build(&mut builder);
    builder.build().unwrap()
}

fn origin(line: u32) -> Origin {
    Origin::File(Place { file: "f".into(), line, column: 1 })
}

/// A file that sets the timeouts of `defaults` and of service `a`.
fn file(default: Option<u64>, own: Option<u64>) -> Update {
    let mut document = Document::default();
    let timeout = |secs: u64, line| Set::new(Some(Duration::from_secs(secs)), origin(line));
    document.defaults.timeouts.request = default.map(|secs| timeout(secs, 1));
    let mut service = PartialService::new(origin(2));
    service.tunables.timeouts.request = own.map(|secs| timeout(secs, 3));
    document.services.insert(name("a"), service);
    Update::File { document, lints: Vec::new() }
}

fn code(default: Option<u64>, own: Option<u64>, pinned_default: Option<u64>, pinned: Option<u64>) -> Update {
    let set = |service: ServiceBuilder, secs: Option<u64>| match secs {
        Some(secs) => service.timeout(Duration::from_secs(secs)),
        None => service,
    };
    built(|builder| {
        builder.defaults(|d| set(d, default).pin(|d| set(d, pinned_default)));
        builder.service("a", |s| set(s, own).pin(|s| set(s, pinned)));
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The order in which sources speak does not matter, and the strongest that says anything wins and is named.
    #[test]
    fn precedence_is_a_table(values in proptest::array::uniform6(proptest::option::of(1u64..9)), code_first: bool) {
        let [pinned, pinned_default, file_own, code_own, file_default, code_default] = values;
        let mut updates = vec![
            code(code_default, code_own, pinned_default, pinned),
            file(file_default, file_own),
        ];
        if !code_first {
            updates.reverse();
        }
        let mut store = store();
        for update in updates {
            prop_assert!(store.apply(update).rejected.is_empty());
        }
        let table = [
            (pinned, Origin::Pinned),
            (pinned_default, Origin::Pinned),
            (file_own, origin(3)),
            (code_own, Origin::Builder),
            (file_default, origin(1)),
            (code_default, Origin::Builder),
        ];
        let winner = table.into_iter().find_map(|(value, origin)| value.map(|value| (value, origin)));
        let snapshot = store.snapshot();
        let request = snapshot.services["a"].timeouts.request;
        prop_assert_eq!(request, winner.as_ref().map(|(secs, _)| Duration::from_secs(*secs)));
        let expected = winner.map_or(Origin::Default, |(_, origin)| origin);
        prop_assert_eq!(snapshot.provenance.of("services.a.timeouts.request"), &expected);
    }

    /// What did not change is the same `Arc`, and a generation is one effective change.
    #[test]
    fn equal_specs_stay_the_same_arc(first in 1u64..4, second in 1u64..4) {
        let mut store = store();
        store.apply(built(|b| b.service("b", |s| s.endpoints(["127.0.0.1:1"]))));
        store.apply(file(None, Some(first)));
        let before = store.snapshot().clone();
        let applied = store.apply(file(None, Some(second)));
        let after = store.snapshot();
        prop_assert!(Arc::ptr_eq(&before.services["b"], &after.services["b"]));
        prop_assert_eq!(Arc::ptr_eq(&before.services["a"], &after.services["a"]), first == second);
        prop_assert_eq!(after.generation, before.generation + u64::from(first != second));
        prop_assert_eq!(applied.snapshot.is_some(), first != second);
    }
}

#[test]
fn a_refused_update_changes_nothing() {
    let mut store = store();
    store.apply(file(Some(1), None));
    let before = store.snapshot().clone();
    let subset = SubsetName::new("v9").unwrap();
    let route =
        Route::new(RouteName::new("r").unwrap(), RouteAction::Forward(vec![WeightedTarget::new(Some(subset), 1)]));
    let applied = store.apply(built(|b| b.service("a", |s| s.subset("v1", [("version", "v1")]).route(route))));
    assert!(applied.snapshot.is_none());
    assert_eq!(applied.rejected.len(), 1);
    assert_eq!(applied.rejected[0].path, "services.a.routes[0].to");
    assert!(Arc::ptr_eq(&before, store.snapshot()));
}

#[test]
fn a_file_may_use_what_code_defines() {
    let mut store = store();
    store.apply(built(|b| b.service("a", |s| s.subset("v1", [("version", "v1")]))));
    let mut document = Document::default();
    let mut service = PartialService::new(origin(1));
    service.tunables.circuit_breakers.max_requests = Some(Set::new(7, origin(2)));
    document.services.insert(name("a"), service);
    assert!(store.apply(Update::File { document, lints: Vec::new() }).rejected.is_empty());
    let spec = &store.snapshot().services["a"];
    assert_eq!((spec.subsets.len(), spec.circuit_breakers.max_requests), (1, 7));
    assert_eq!(spec.circuit_breakers.max_streams, BreakerPolicy::default().max_streams);
}

#[test]
fn mistakes_of_code_come_together_with_their_paths() {
    let mut builder = DocumentBuilder::new();
    builder.service("a b", |s| s);
    builder.service("a", |s| s.endpoints(["nowhere"]).dns("reviews").timeout(Duration::ZERO).host("*a"));
    builder.defaults(|d| d.host("a.example"));
    let paths: Vec<String> = builder.build().unwrap_err().into_iter().map(|rejection| rejection.path).collect();
    assert_eq!(
        paths,
        [
            "services.a b",
            "services.a.endpoints[0]",
            "services.a.endpoints",
            "services.a.timeouts.request",
            "services.a.hosts",
            "defaults"
        ]
    );
}

static SEATS: AtomicUsize = AtomicUsize::new(0);

#[derive(Serialize, Deserialize)]
struct Counted(u32);

impl Policy for Counted {
    const NAME: &'static str = "counted";
    const SEAT: Position = Position::Outer;

    fn seat(self: Arc<Self>) -> Arc<dyn Seat> {
        SEATS.fetch_add(1, Ordering::Relaxed);
        Arc::new(seat_fn(|request, next| next.run(request)))
    }
}

#[test]
fn a_policy_keeps_its_seat_until_its_value_changes() {
    let update = |value: u32, line: u32| {
        let mut document = Document::default();
        let mut service = PartialService::new(origin(line));
        let draft = PolicyDraft::of(&Counted(value)).unwrap();
        service.tunables.policies.insert("counted".into(), Set::new(draft, origin(line)));
        document.services.insert(name("a"), service);
        Update::File { document, lints: Vec::new() }
    };
    let mut store = store();
    for (value, line, seats) in [(1, 1, 1), (1, 2, 1), (2, 2, 2)] {
        assert!(store.apply(update(value, line)).rejected.is_empty());
        assert_eq!(SEATS.load(Ordering::Relaxed), seats);
    }
    assert_eq!(store.snapshot().generation, 2);
}

/// A policy under the name of a built-in key would shadow it.
#[cfg(feature = "schema")]
#[test]
fn every_key_beside_which_a_policy_may_stand_is_reserved() {
    let schema = super::file::describe(&crate::config::Loader::new());
    let service = &schema["properties"]["services"]["additionalProperties"];
    let route = &service["properties"]["routes"]["items"];
    for place in [&schema["properties"]["defaults"], service, route] {
        for key in place["properties"].as_object().unwrap().keys() {
            assert!(super::RESERVED.contains(&key.as_str()), "{key}");
        }
    }
}

#[test]
fn routes_without_conditions_are_made_in_one_word() {
    let mut store = store();
    let subsets = |s: ServiceBuilder| s.subset("v1", [("version", "v1")]).subset("v2", [("version", "v2")]);
    store.apply(built(|builder| {
        builder.service("a", |s| subsets(s).endpoints(["127.0.0.1:1"]).split([("v1", 90), ("v2", 10)]));
        builder.service("b", |s| subsets(s).endpoints(["127.0.0.1:1"]).to("v2"));
    }));
    let targets = |service: &str| {
        let route = &store.snapshot().services[service].routes[0];
        let RouteAction::Forward(targets) = &route.action else { panic!("it forwards") };
        let pair = |target: &WeightedTarget| format!("{}:{}", target.subset.as_ref().unwrap(), target.weight);
        (route.name.to_string(), targets.iter().map(pair).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(targets("a"), ("route-1".to_owned(), "v1:90 v2:10".to_owned()));
    assert_eq!(targets("b"), ("route-1".to_owned(), "v2:1".to_owned()));
    let mut wrong = DocumentBuilder::new();
    wrong.service("a", |s| s.split([("v1", 0), ("no name", 0)]));
    let paths: Vec<_> = wrong.build().unwrap_err().into_iter().map(|rejection| rejection.path).collect();
    assert_eq!(paths, ["services.a.routes.split", "services.a.routes.split"]);
}
