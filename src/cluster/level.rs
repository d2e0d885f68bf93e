//! The endpoints of one priority, and their zones.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering::Relaxed},
    },
};

use super::{endpoint::Endpoint, home::Home, table::Choice};
use crate::{
    balance::{
        Count, EndpointSet, Load, LocalityMode, Member, Picked, WHOLE, ZoneAware, ZoneCount, weighted, zone_aware,
    },
    rt::Rng,
};

/// Whether doubted endpoints are used.
const CALM: u8 = 0;
const PANIC: u8 = 1;
/// In panic calls are to fail.
const REFUSING: u8 = 2;

/// The endpoints of one priority in one subset.
pub(super) struct Level {
    /// As configured.
    pub(super) priority: u32,
    /// How many keys of `failover_priority` they miss.
    pub(super) rank: u32,
    pub(super) set: EndpointSet<Endpoint>,
    zones: Option<Zones>,
    mode: AtomicU8,
    /// Calls with a roll below go to this priority or to an earlier one; 100 is all.
    pub(super) upto: AtomicU32,
}

/// The zones of a priority, where calls are told apart by them.
pub(super) struct Zones {
    zones: Vec<Zone>,
    sharing: Sharing,
}

struct Zone {
    name: Arc<str>,
    set: EndpointSet<Endpoint>,
    /// Calls with a roll below go to this zone or to an earlier one; rolls above those of all zones to any endpoint.
    upto: AtomicU32,
}

/// How zones share calls.
pub(super) enum Sharing {
    ZoneAware(ZoneAware),
    Weighted {
        /// In the order of zones.
        weights: Vec<u32>,
        overprovisioning_factor: u32,
    },
}

/// What was counted of one level.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) count: Count,
    /// Something is known about the health of one.
    pub(super) doubts: bool,
    /// Nothing speaks against one that is usable.
    pub(super) trusted: bool,
}

impl Level {
    pub(super) fn new(priority: u32, rank: u32, set: EndpointSet<Endpoint>, zones: Option<Zones>) -> Self {
        Self { priority, rank, set, zones, mode: AtomicU8::new(CALM), upto: AtomicU32::new(100) }
    }

    pub(super) fn in_panic(&self) -> bool {
        self.mode.load(Relaxed) == PANIC
    }

    pub(super) fn is_refusing(&self) -> bool {
        self.mode.load(Relaxed) == REFUSING
    }

    /// Whether zones are told apart.
    pub(super) fn has_zones(&self) -> bool {
        self.zones.is_some()
    }

    #[inline]
    pub(super) fn pick(&self, repeatable: bool, skip: impl Fn(&Endpoint) -> bool) -> Option<Choice> {
        let mode = self.mode.load(Relaxed);
        let panic = mode == PANIC;
        let refuse = |endpoint: &Endpoint| !endpoint.admits(panic, repeatable) || skip(endpoint);
        let picked = match &self.zones {
            _ if mode == REFUSING => None,
            Some(zones) if !panic => zones.pick(refuse).or_else(|| self.set.pick(refuse)),
            _ => self.set.pick(refuse),
        };
        picked.map(|picked| Choice { picked, panic })
    }

    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for member in self.set.members() {
            let (clear, usable) = (member.availability.is_clear(), member.is_usable());
            tally.count.total += 1;
            tally.count.usable += usize::from(usable);
            tally.doubts |= !clear;
            tally.trusted |= clear && usable;
        }
        tally
    }

    /// What zones take of the calls of this priority, in per cent, where they are told apart.
    pub(super) fn shares(&self) -> impl Iterator<Item = (&str, f64)> {
        let mut before = 0;
        self.zones.iter().flat_map(|zones| &zones.zones).map(move |zone| {
            let upto = zone.upto.load(Relaxed);
            (&*zone.name, f64::from(upto.saturating_sub(std::mem::replace(&mut before, upto))) / 100.0)
        })
    }

    /// Takes what follows from what was counted.
    pub(super) fn settle(&self, load: Load, panic: bool, refuse: bool, home: &Home) {
        let mode = match (panic, load.panic && refuse) {
            (_, true) => REFUSING,
            (true, _) => PANIC,
            _ => CALM,
        };
        self.mode.store(mode, Relaxed);
        if let Some(zones) = &self.zones {
            zones.assess(home);
        }
    }
}

impl Zones {
    /// The zones of some endpoints, if the policy tells them apart and there is more than one.
    pub(super) fn of<'m>(
        members: impl Iterator<Item = (&'m Arc<str>, &'m Member<Endpoint>, u32)>,
        mode: &LocalityMode,
        first: bool,
        overprovisioning_factor: u32,
        set: impl Fn(Vec<(Member<Endpoint>, u32)>) -> EndpointSet<Endpoint>,
    ) -> Option<Self> {
        if matches!(mode, LocalityMode::Off) || (matches!(mode, LocalityMode::ZoneAware(_)) && !first) {
            return None;
        }
        let mut by_zone: BTreeMap<&Arc<str>, Vec<(Member<Endpoint>, u32)>> = Default::default();
        for (zone, member, weight) in members {
            by_zone.entry(zone).or_default().push((member.clone(), weight));
        }
        let sharing = match mode {
            LocalityMode::ZoneAware(policy) if by_zone.len() > 1 => Sharing::ZoneAware(*policy),
            LocalityMode::Weighted(weights) => {
                let weights = by_zone.keys().map(|zone| weights.get(*zone).copied().unwrap_or(0)).collect();
                Sharing::Weighted { weights, overprovisioning_factor }
            }
            _ => return None,
        };
        let zone =
            |(name, members): (&Arc<str>, _)| Zone { name: name.clone(), set: set(members), upto: AtomicU32::new(0) };
        Some(Self { zones: by_zone.into_iter().map(zone).collect(), sharing })
    }

    fn pick(&self, refuse: impl Fn(&Endpoint) -> bool) -> Option<Picked<Endpoint>> {
        let roll = Rng::local().below(WHOLE);
        self.zones.iter().find(|zone| roll < zone.upto.load(Relaxed))?.set.pick(refuse)
    }

    fn assess(&self, home: &Home) {
        let count = |zone: &Zone| {
            let members = zone.set.members();
            Count { total: members.len(), usable: members.filter(|member| member.is_usable()).count() }
        };
        let counts = self.zones.iter().map(count);
        let shares = match &self.sharing {
            Sharing::ZoneAware(policy) => {
                let own = home.zone();
                let own = self.zones.iter().position(|zone| !own.is_empty() && zone.name == own);
                let zones: Vec<ZoneCount> = self
                    .zones
                    .iter()
                    .zip(counts)
                    .map(|(zone, endpoints)| ZoneCount { endpoints, callers: home.peers(&zone.name) })
                    .collect();
                own.and_then(|own| zone_aware(policy, own, &zones))
            }
            Sharing::Weighted { weights, overprovisioning_factor } => {
                weighted(weights, *overprovisioning_factor, &counts.collect::<Vec<_>>())
            }
        };
        let mut upto = 0;
        for (index, zone) in self.zones.iter().enumerate() {
            upto += shares.as_ref().and_then(|shares| shares.get(index)).copied().unwrap_or(0);
            zone.upto.store(upto, Relaxed);
        }
    }
}
