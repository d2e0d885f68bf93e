//! Which zone a call goes to, and which endpoints are its first choice.
//!
//! A call that stays in its zone is faster and costs nothing; if every caller insists on that, the zone with the most
//! callers drowns its few endpoints. Zone-aware routing (Envoy's) keeps as much at home as the share of the endpoints
//! that are there bears, and sends the rest where there are more of them than of callers.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use super::Count;
use crate::name::Locality;

/// Where in the world calls go: `locality`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct LocalityPolicy {
    /// How the zones within a priority share calls.
    pub mode: LocalityMode,
    /// What makes endpoints the first choice, in order of importance: those that agree with this process in all of it come
    /// first, those that agree in all but the last next, and so on. Applies within each configured priority. Default
    /// none.
    pub failover_priority: Vec<FailoverKey>,
}

/// How the zones within a priority share calls.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub enum LocalityMode {
    /// Zones are not looked at.
    #[default]
    Off,
    /// As much as it bears stays in the own zone; only in the first priority.
    ZoneAware(ZoneAware),
    /// Each zone by its weight, reduced as its endpoints are lost; zones without a weight get nothing.
    Weighted(BTreeMap<Arc<str>, u32>),
}

/// `locality.zone_aware`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ZoneAware {
    /// In how many of 100 cases calls are routed by zone. Default 100.
    pub routing_enabled: u32,
    /// With fewer usable endpoints all zones are used alike. Default 6.
    pub min_cluster_size: u32,
    /// With as many usable endpoints in the own zone, everything stays there. Default off; at least 1.
    pub force_local_zone: Option<u32>,
}

impl Default for ZoneAware {
    fn default() -> Self {
        Self { routing_enabled: 100, min_cluster_size: 6, force_local_zone: None }
    }
}

/// One thing in which endpoints agree with this process or do not: `region`, `zone`, `sub_zone`, the name of a label, or
/// `LABEL=VALUE`, which asks for this value instead of the own one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailoverKey {
    name: Arc<str>,
    value: Option<Arc<str>>,
}

impl FailoverKey {
    /// The part of a locality, or the label.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value that is asked for; that of this process if there is none.
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }
}

impl FromStr for FailoverKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (text.trim(), None),
        };
        if name.is_empty() || value == Some("") {
            return Err(format!(
                "`{}` names nothing to agree in: use `region`, `zone`, `sub_zone`, a label or `LABEL=VALUE`",
                text.escape_debug()
            ));
        }
        Ok(Self { name: name.into(), value: value.map(Into::into) })
    }
}

impl fmt::Display for FailoverKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Where something is, and what it is called.
#[derive(Clone, Copy)]
pub(crate) struct Whereabouts<'a> {
    pub(crate) locality: &'a Locality,
    pub(crate) labels: &'a BTreeMap<Arc<str>, Arc<str>>,
}

impl<'a> Whereabouts<'a> {
    /// The value of a key, if it has one.
    pub(crate) fn value(self, name: &str) -> Option<&'a str> {
        let value = match name {
            "region" => Some(&self.locality.region),
            "zone" => Some(&self.locality.zone),
            "sub_zone" => Some(&self.locality.sub_zone),
            label => self.labels.get(label),
        };
        value.map(|value| &**value).filter(|value| !value.is_empty())
    }
}

/// How far down an endpoint is: how many keys are left from the first in which it does not agree.
pub(crate) fn rank(keys: &[FailoverKey], own: Whereabouts<'_>, endpoint: Whereabouts<'_>) -> u32 {
    let agrees = |key: &FailoverKey| {
        let wanted = key.value().or_else(|| own.value(key.name()));
        wanted.is_some() && wanted == endpoint.value(key.name())
    };
    let agreed = keys.iter().take_while(|key| agrees(key)).count();
    (keys.len() - agreed) as u32
}

/// All calls.
pub(crate) const WHOLE: u32 = 10_000;

/// One zone of a priority.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ZoneCount {
    /// Its endpoints.
    pub(crate) endpoints: Count,
    /// The instances of the calling service there.
    pub(crate) callers: usize,
}

/// What each zone takes, in parts of [`WHOLE`]; what is missing to the whole goes to all endpoints alike. Nothing if all
/// of it does.
pub(crate) fn zone_aware(policy: &ZoneAware, own: usize, zones: &[ZoneCount]) -> Option<Vec<u32>> {
    let usable: usize = zones.iter().map(|zone| zone.endpoints.usable).sum();
    let here = zones.get(own).filter(|zone| zones.len() > 1 && zone.endpoints.usable > 0)?;
    let enabled = |part: u64| (part * u64::from(policy.routing_enabled.min(100)) / 100) as u32;
    let only_here = || (0..zones.len()).map(|zone| if zone == own { enabled(u64::from(WHOLE)) } else { 0 }).collect();
    if policy.force_local_zone.is_some_and(|least| here.endpoints.usable >= least as usize) {
        return Some(only_here());
    }
    let callers: usize = zones.iter().map(|zone| zone.callers).sum();
    if usable < policy.min_cluster_size as usize || here.callers == 0 {
        return None;
    }
    let part = |of: usize, all: usize| u64::from(WHOLE) * of as u64 / all.max(1) as u64;
    let shares = zones.iter().map(|zone| (part(zone.endpoints.usable, usable), part(zone.callers, callers)));
    let shares: Vec<(u64, u64)> = shares.collect();
    let (endpoints, callers) = shares[own];
    if endpoints >= callers {
        return Some(only_here());
    }
    let stays = u64::from(WHOLE) * endpoints / callers;
    let spare = |zone: usize| shares[zone].0.saturating_sub(shares[zone].1);
    let all: u64 = (0..zones.len()).map(spare).sum();
    let goes = |zone| match zone == own {
        true => enabled(stays),
        false => enabled(((u64::from(WHOLE) - stays) * spare(zone)).checked_div(all).unwrap_or(0)),
    };
    Some((0..zones.len()).map(goes).collect())
}

/// What each zone takes by its weight and by what is left of it, in parts of [`WHOLE`]. Nothing if no zone with a weight
/// has a usable endpoint.
pub(crate) fn weighted(weights: &[u32], overprovisioning_factor: u32, zones: &[Count]) -> Option<Vec<u32>> {
    let effective = |(weight, zone): (&u32, &Count)| {
        let available = u64::from(overprovisioning_factor) * 100 * zone.usable as u64;
        u64::from(*weight) * available.checked_div(zone.total as u64).unwrap_or(0).min(10_000)
    };
    let effective: Vec<u64> = weights.iter().zip(zones).map(effective).collect();
    let all: u64 = effective.iter().sum();
    if all == 0 {
        return None;
    }
    let share = |weight: &u64| (u128::from(WHOLE) * u128::from(*weight) / u128::from(all)) as u32;
    let mut shares: Vec<u32> = effective.iter().map(share).collect();
    // What rounding left over goes where most goes.
    let left = WHOLE - shares.iter().sum::<u32>();
    if let Some(most) = shares.iter_mut().max() {
        *most += left;
    }
    Some(shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(of: &[(usize, usize)]) -> Vec<ZoneCount> {
        let zone =
            |&(usable, callers): &(usize, usize)| ZoneCount { endpoints: Count { usable, total: usable }, callers };
        of.iter().map(zone).collect()
    }

    #[test]
    fn what_the_own_zone_does_not_bear_goes_where_there_is_more_than_is_asked_for() {
        let zones = zones(&[(25, 40), (50, 40), (25, 20)]);
        assert_eq!(zone_aware(&ZoneAware::default(), 0, &zones), Some(vec![6_250, 2_500, 1_250]));
    }

    #[test]
    fn a_zone_with_enough_endpoints_keeps_everything() {
        let zones = zones(&[(50, 40), (25, 40), (25, 20)]);
        assert_eq!(zone_aware(&ZoneAware::default(), 0, &zones), Some(vec![10_000, 0, 0]));
    }

    #[test]
    fn zones_are_used_alike_where_little_is_known_or_there() {
        let policy = ZoneAware::default();
        assert_eq!(zone_aware(&policy, 0, &zones(&[(3, 1), (2, 1)])), None, "fewer than six");
        assert!(zone_aware(&policy, 0, &zones(&[(3, 1), (3, 1)])).is_some());
        assert_eq!(zone_aware(&policy, 0, &zones(&[(10, 1)])), None, "one zone only");
        assert_eq!(zone_aware(&policy, 0, &zones(&[(5, 0), (5, 0)])), None, "nobody knows of callers");
        assert_eq!(zone_aware(&policy, 0, &zones(&[(0, 1), (9, 1)])), None, "nothing usable here");
        assert_eq!(zone_aware(&policy, 2, &zones(&[(5, 1), (5, 1)])), None, "the own zone has no endpoints");
    }

    #[test]
    fn forced_into_the_own_zone_while_it_has_enough() {
        let policy = ZoneAware { force_local_zone: Some(2), ..ZoneAware::default() };
        assert_eq!(zone_aware(&policy, 1, &zones(&[(1, 0), (2, 0)])), Some(vec![0, 10_000]));
        assert_eq!(zone_aware(&policy, 0, &zones(&[(1, 0), (2, 0)])), None);
    }

    #[test]
    fn a_part_of_the_calls_may_be_left_out() {
        let policy = ZoneAware { routing_enabled: 50, ..ZoneAware::default() };
        let three = zones(&[(25, 40), (50, 40), (25, 20)]);
        assert_eq!(zone_aware(&policy, 0, &three), Some(vec![3_125, 1_250, 625]));
    }

    #[test]
    fn zones_by_weight_lose_their_share_with_their_endpoints() {
        let count = |usable, total| Count { usable, total };
        assert_eq!(weighted(&[3, 1], 140, &[count(5, 5), count(2, 2)]), Some(vec![7_500, 2_500]));
        assert_eq!(weighted(&[3, 1], 140, &[count(72, 100), count(2, 2)]), Some(vec![7_500, 2_500]));
        // Half of its endpoints bear 70 % of its weight: 2.1 of 3.1.
        assert_eq!(weighted(&[3, 1], 140, &[count(5, 10), count(2, 2)]), Some(vec![6_775, 3_225]));
        assert_eq!(weighted(&[3, 1], 140, &[count(0, 10), count(2, 2)]), Some(vec![0, 10_000]));
        assert_eq!(weighted(&[3, 0], 140, &[count(0, 10), count(2, 2)]), None);
        assert_eq!(weighted(&[u32::MAX, 1], 1_000, &[count(1, 1), count(1, 1)]), Some(vec![10_000, 0]));
    }

    #[test]
    fn endpoints_rank_by_the_first_key_in_which_they_differ() {
        let key = |text: &str| text.parse::<FailoverKey>().unwrap();
        let keys = [key("region"), key("zone"), key("network = n1")];
        let place =
            |region: &str, zone: &str| Locality { region: region.into(), zone: zone.into(), ..Locality::default() };
        let labels = |network: &str| BTreeMap::from([(Arc::from("network"), Arc::from(network))]);
        let (home, none) = (place("eu", "a"), BTreeMap::new());
        let own = Whereabouts { locality: &home, labels: &none };
        for (region, zone, network, expected) in
            [("eu", "a", "n1", 0), ("eu", "a", "n2", 1), ("eu", "b", "n1", 2), ("us", "a", "n1", 3), ("", "", "", 3)]
        {
            let (locality, labels) = (place(region, zone), labels(network));
            let endpoint = Whereabouts { locality: &locality, labels: &labels };
            assert_eq!(rank(&keys, own, endpoint), expected, "{region}/{zone} {network}");
        }
        // What this process does not know of itself nobody agrees with.
        let nowhere = Locality::default();
        let own = Whereabouts { locality: &nowhere, labels: &none };
        assert_eq!(rank(&keys[..1], own, own), 1);
        assert_eq!(keys[2].to_string(), "network=n1");
        assert!("=x".parse::<FailoverKey>().is_err() && "x=".parse::<FailoverKey>().is_err());
    }
}
