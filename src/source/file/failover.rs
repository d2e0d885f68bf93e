//! The grammar of `load_balancer` and `locality`.

use std::{sync::Arc, time::Duration};

use super::{
    cursor::{Cursor, Fields, Wrong},
    overload::decimal,
    traffic::{enforcement, share},
};
use crate::{
    balance::{BalancePolicy, Failover, FailoverKey, LocalityMode, ZoneAware},
    enforcement::Mode,
    model::Origin,
    source::{
        document::{Field, Set},
        failover::{PartialFailover, PartialLocality, PartialSlowStart},
    },
};

/// Most keys of `failover_priority`.
const MAX_KEYS: usize = 16;

/// A policy, and what holds whichever it is.
#[derive(Default)]
pub(super) struct LoadBalancer {
    pub(super) policy: Field<BalancePolicy>,
    pub(super) failover: PartialFailover,
    pub(super) slow_start: PartialSlowStart,
}

/// A policy's name, or a map.
pub(super) fn load_balancer(at: Cursor<'_, '_, '_>) -> Option<LoadBalancer> {
    at.scalar_or(
        |at| {
            let place = at.node.map(|node| at.reading.place(node.mark));
            let words = [
                ("least_request", BalancePolicy::default()),
                ("round_robin", BalancePolicy::RoundRobin),
                ("random", BalancePolicy::Random),
            ];
            let policy = at.choice("a load balancer", &words, &["ring_hash", "maglev"])?;
            let origin = place.map_or(Origin::Default, Origin::File);
            Some(LoadBalancer { policy: Some(Set::new(policy, origin)), ..LoadBalancer::default() })
        },
        |at| at.map("a load balancer's name, or a map of it to its settings", balancer_map),
    )
}

fn balancer_map(fields: &mut Fields<'_, '_, '_>) -> LoadBalancer {
    let origin = Origin::File(fields.place());
    let empty = |at: Cursor<'_, '_, '_>| at.map("a map without settings", |_| ());
    let least = fields.field("least_request", "The less loaded of some random endpoints.", |at| {
        at.map("a map", |fields| {
            let doc = "How many endpoints are compared. Default 2, 2 to 10.";
            fields.field("choice_count", doc, |at| at.integer(2..=10)).map_or(2, |set| set.value)
        })
    });
    let round_robin = fields.field("round_robin", "Endpoints in turn, by weight.", empty);
    let random = fields.field("random", "A random endpoint, by weight.", empty);
    let takes_over = "How priorities take over: `spill`, gradually as endpoints of the first are lost, or `switch`, once all of them \
                      are; `off`, never; or a map. Default `spill`.";
    let failover = PartialFailover {
        overprovisioning_factor: fields.field(
            "overprovisioning_factor",
            "How many per cent of what it needs a priority or zone is provisioned with: with 140 it takes everything while \
             five of seven of its endpoints are usable. Default 140; 100 to 1000.",
            |at| at.integer(100..=1_000),
        ),
        healthy_panic_threshold: fields.field(
            "healthy_panic_threshold",
            "With less than this share of its endpoints usable, in per cent, a priority also uses those that are ejected \
             or failed their health checks; below four endpoints only when none is usable. Default 50; 0, never, to 100.",
            |at| at.integer(0..=100),
        ),
        fail_traffic_on_panic: fields.field(
            "fail_traffic_on_panic",
            "Whether calls fail in that case instead. Default false.",
            |at| at.boolean(),
        ),
        ..fields.group("failover", takes_over, failover)
    };
    let slow_start = fields.group(
        "slow_start",
        "How the share of an endpoint grows after it came, or came back. `off`, or a map; sets of less than four have none.",
        slow_start,
    );
    fields.later(&["ring_hash", "maglev"]);
    let policies = ["least_request", "round_robin", "random"];
    let settings =
        ["failover", "overprovisioning_factor", "healthy_panic_threshold", "fail_traffic_on_panic", "slow_start"];
    if settings.iter().any(|key| fields.has(key)) {
        fields.at_most_one(&policies);
    } else {
        fields.exactly_one(&policies);
    }
    let least = least.and_then(|count| BalancePolicy::least_request(count.value as u8).ok());
    let policy = least.or(round_robin.map(|_| BalancePolicy::RoundRobin)).or(random.map(|_| BalancePolicy::Random));
    LoadBalancer { policy: policy.map(|policy| Set::new(policy, origin)), failover, slow_start }
}

/// A word, or a map.
fn failover(at: Cursor<'_, '_, '_>) -> Option<PartialFailover> {
    let how = [Failover::Spill, Failover::Switch].map(|how| (how.as_str(), how));
    at.scalar_or(
        |at| {
            let place = at.node.map(|node| at.reading.place(node.mark));
            let origin = place.map_or(Origin::Default, Origin::File);
            let [spill, switch] = how.map(|(word, how)| (word, Some(how)));
            let how = at.choice("a way to fail over", &[spill, switch, ("off", None)], &[])?;
            // A word says all of it: what is off or in shadow below this source is on by a way to fail over.
            let enforcement = if how.is_some() { Mode::Enforce } else { Mode::Off };
            Some(PartialFailover {
                failover: how.map(|how| Set::new(how, origin.clone())),
                enforcement: Some(Set::new(enforcement, origin)),
                ..PartialFailover::default()
            })
        },
        |at| {
            at.map("`spill`, `switch`, `off`, or a map", |fields| PartialFailover {
                failover: fields
                    .field("how", "`spill` (default) or `switch`.", |at| at.choice("a way to fail over", &how, &[])),
                enforcement: enforcement(
                    fields,
                    "`off`: calls stay with the first priority; `shadow`: they do, and those that would have gone elsewhere \
                     are counted; `enforce` (default).",
                ),
                percentage: share(fields, "The share of calls that may leave the first priority. Default 100%."),
                ..PartialFailover::default()
            })
        },
    )
}

/// `off`, or a map.
fn slow_start(at: Cursor<'_, '_, '_>) -> Option<PartialSlowStart> {
    at.scalar_or(
        |at| {
            let place = at.node.map(|node| at.reading.place(node.mark));
            at.choice("a word for `slow_start`", &[("off", ())], &[])?;
            let window = Set::new(Duration::ZERO, place.map_or(Origin::Default, Origin::File));
            Some(PartialSlowStart { window: Some(window), ..PartialSlowStart::default() })
        },
        |at| {
            at.map("`off`, or a map", |fields| {
                const LONGEST: Duration = Duration::from_secs(3_600);
                let doc = "How long it takes to the full share. Default 30s; 1s to 1h.";
                let window = fields.field("window", doc, |at| at.duration(Duration::from_secs(1)));
                if window.as_ref().is_some_and(|set| set.value > LONGEST) {
                    fields.report("window", Wrong::new("this is out of bounds", "the longest is `1h`"));
                }
                PartialSlowStart {
                    window,
                    aggression: fields.field(
                        "aggression",
                        "How it grows: 1 in a straight line, more faster at first, less slower at first. Default 1.0; 0.01 \
                         to 100.",
                        |at| decimal(at, 0.01..=100.0),
                    ),
                    min_weight_percent: fields.field(
                        "min_weight_percent",
                        "What it begins with, in per cent of its weight. Default 10; 1 to 100.",
                        |at| at.integer(1..=100),
                    ),
                }
            })
        },
    )
}

/// `off`, `zone_aware`, or a map.
pub(super) fn locality(at: Cursor<'_, '_, '_>) -> Option<PartialLocality> {
    at.scalar_or(
        |at| {
            let place = at.node.map(|node| at.reading.place(node.mark));
            let zones = at.choice("a word for `locality`", &[("off", false), ("zone_aware", true)], &[])?;
            let origin = place.map_or(Origin::Default, Origin::File);
            let mode = if zones { LocalityMode::ZoneAware(ZoneAware::default()) } else { LocalityMode::Off };
            let failover_priority = (!zones).then(|| Set::new(Vec::new(), origin.clone()));
            Some(PartialLocality { mode: Some(Set::new(mode, origin)), failover_priority })
        },
        |at| {
            at.map("`off`, `zone_aware`, or a map", |fields| {
                let zones = fields.field(
                    "zone_aware",
                    "Keeps as much in the own zone (`mesh.zone`) as the share of endpoints there bears.",
                    zone_aware,
                );
                let weighted = fields.field(
                    "weighted",
                    "Weights of zones. A zone without one gets nothing while a zone with one has a usable endpoint.",
                    |at| at.keyed("a map from zones to weights", |zone| Ok(Arc::<str>::from(zone)), |at| at.integer(0..=1_000_000)),
                );
                let failover_priority = fields.field(
                    "failover_priority",
                    "Which endpoints come first: those that agree with this process in all of these, then in all but the \
                     last, and so on. `region`, `zone`, `sub_zone`, a label, or `LABEL=VALUE`; at most 16.",
                    |at| at.one_or_list("a list of `region`, `zone`, `sub_zone` and labels", |at| at.parsed::<FailoverKey>("a label")),
                );
                fields.at_most_one(&["zone_aware", "weighted"]);
                if failover_priority.as_ref().is_some_and(|keys| keys.value.len() > MAX_KEYS) {
                    let wrong = Wrong::new("these are too many", format!("keep the first {MAX_KEYS}"));
                    fields.report("failover_priority", wrong);
                }
                let zones = zones.map(|set| Set::new(LocalityMode::ZoneAware(set.value), set.origin));
                let weighted = weighted.map(|set| {
                    let weights = set.value.into_iter().map(|(zone, weight)| (zone, weight.value)).collect();
                    Set::new(LocalityMode::Weighted(weights), set.origin)
                });
                let keys = failover_priority
                    .map(|set| Set::new(set.value.into_iter().map(|key| key.value).collect(), set.origin));
                PartialLocality { mode: zones.or(weighted), failover_priority: keys }
            })
        },
    )
}

fn zone_aware(at: Cursor<'_, '_, '_>) -> Option<ZoneAware> {
    at.map("a map", |fields| {
        let mut zones = ZoneAware::default();
        let routing_enabled =
            fields.field("routing_enabled", "In how many of 100 cases calls are routed by zone. Default 100.", |at| {
                at.integer(0..=100)
            });
        let min_cluster_size = fields.field(
            "min_cluster_size",
            "With fewer usable endpoints all zones are used alike. Default 6.",
            |at| at.integer(0..=1_000_000),
        );
        let force_local_zone = fields.field("force_local_zone", "When everything stays in the own zone.", |at| {
            at.map("a map", |fields| {
                let doc = "With as many usable endpoints there, whatever the other zones have. Default 1; at least 1.";
                fields.field("min_size", doc, |at| at.integer(1..=1_000_000)).map_or(1, |set| set.value)
            })
        });
        zones.routing_enabled = routing_enabled.map_or(zones.routing_enabled, |set| set.value);
        zones.min_cluster_size = min_cluster_size.map_or(zones.min_cluster_size, |set| set.value);
        zones.force_local_zone = force_local_zone.map(|set| set.value);
        zones
    })
}
