//! Which of many prefixes a text begins with, and which of many networks an address is in.
//!
//! Sorted, with a link from each entry to the longest other one that contains it. Whatever contains the text sorts at or
//! before it, and everything between the two begins with it as well; so the entries that contain the text are all on
//! the chain of links from the last entry that does not sort after it. One binary search, then a few steps.

use std::net::IpAddr;

use ipnet::IpNet;

/// Values by prefix of a byte string.
#[derive(Debug)]
pub(super) struct PrefixMap<V> {
    entries: Box<[Entry<Box<[u8]>, V>]>,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    parent: Option<u32>,
    value: V,
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self { entries: Box::default() }
    }
}

/// Sorted entries without equal keys, linked.
fn link<K: Ord, V>(mut entries: Vec<(K, V)>, contains: impl Fn(&K, &K) -> bool) -> Box<[Entry<K, V>]> {
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let mut linked: Vec<Entry<K, V>> = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let mut parent = linked.len().checked_sub(1).map(|last| last as u32);
        while let Some(at) = parent {
            let entry = &linked[at as usize];
            if contains(&entry.key, &key) {
                break;
            }
            parent = entry.parent;
        }
        linked.push(Entry { key, parent, value });
    }
    linked.into()
}

struct Walk<'m, K, V> {
    entries: &'m [Entry<K, V>],
    next: Option<u32>,
}

impl<'m, K, V> Iterator for Walk<'m, K, V> {
    type Item = &'m Entry<K, V>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = &self.entries[self.next? as usize];
        self.next = entry.parent;
        Some(entry)
    }
}

impl<V> PrefixMap<V> {
    /// Keys have to differ.
    pub(super) fn new(entries: Vec<(Box<[u8]>, V)>) -> Self {
        Self { entries: link(entries, |a, b| b.starts_with(a)) }
    }

    /// The values of all prefixes of the text, longest first.
    pub(super) fn walk(&self, text: &[u8]) -> impl Iterator<Item = &V> {
        let after = self.entries.partition_point(|entry| *entry.key <= *text);
        let walk = Walk { entries: &self.entries, next: after.checked_sub(1).map(|at| at as u32) };
        walk.filter(move |entry| text.starts_with(&entry.key)).map(|entry| &entry.value)
    }
}

/// Values by network.
#[derive(Debug)]
pub(super) struct NetMap<V> {
    entries: Box<[Entry<(IpAddr, u8), V>]>,
}

impl<V> Default for NetMap<V> {
    fn default() -> Self {
        Self { entries: Box::default() }
    }
}

/// An IPv4 network that is written inside of IPv6 is that IPv4 network.
pub(super) fn canonical(net: IpNet) -> IpNet {
    match (net.network().to_canonical(), net.prefix_len()) {
        (IpAddr::V4(address), 96..) if net.network().is_ipv6() => {
            IpNet::new(address.into(), net.prefix_len() - 96).unwrap_or(net)
        }
        _ => net.trunc(),
    }
}

fn contains(net: &(IpAddr, u8), address: IpAddr) -> bool {
    IpNet::new(net.0, net.1).is_ok_and(|net| net.contains(&address))
}

impl<V> NetMap<V> {
    pub(super) fn new(entries: impl IntoIterator<Item = (IpNet, V)>) -> Self {
        let key = |(net, value): (IpNet, V)| {
            let net = canonical(net);
            ((net.network(), net.prefix_len()), value)
        };
        Self { entries: link(entries.into_iter().map(key).collect(), |a, b| contains(a, b.0) && a.1 <= b.1) }
    }

    /// The values of all networks that hold the canonical address, smallest first.
    pub(super) fn walk(&self, address: IpAddr) -> impl Iterator<Item = &V> {
        let after = self.entries.partition_point(|entry| entry.key <= (address, u8::MAX));
        let walk = Walk { entries: &self.entries, next: after.checked_sub(1).map(|at| at as u32) };
        walk.filter(move |entry| contains(&entry.key, address)).map(|entry| &entry.value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn prefixes_are_found_as_by_looking_at_each(
            prefixes in prop::collection::btree_set("[ab]{0,6}", 0..20), text in "[abc]{0,8}"
        ) {
            let map = PrefixMap::new(prefixes.iter().map(|p| (p.as_bytes().into(), p.clone())).collect());
            let mut found: Vec<String> = map.walk(text.as_bytes()).cloned().collect();
            let mut expected: Vec<String> = prefixes.into_iter().filter(|p| text.starts_with(p)).collect();
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn networks_are_found_as_by_looking_at_each(
            nets in prop::collection::vec((0u32..64, 0u8..=32), 0..20), address in 0u32..64, six in any::<bool>()
        ) {
            let net = |(bits, len): (u32, u8)| IpNet::new(IpAddr::V4((bits << 26).into()), len).unwrap().trunc();
            let nets: std::collections::BTreeSet<IpNet> = nets.into_iter().map(net).collect();
            let address = IpAddr::V4((address << 26).into());
            let map = NetMap::new(nets.iter().map(|net| {
                let IpNet::V4(four) = net else { unreachable!() };
                let mapped = IpNet::new(four.addr().to_ipv6_mapped().into(), four.prefix_len() + 96).unwrap();
                (if six { mapped } else { *net }, *net)
            }));
            let mut found: Vec<IpNet> = map.walk(address).copied().collect();
            let mut expected: Vec<IpNet> = nets.into_iter().filter(|net| net.contains(&address)).collect();
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_mapped_address_is_not_in_a_network_of_the_other_family() {
        let map = NetMap::new([("::/0".parse().unwrap(), 6), ("0.0.0.0/0".parse().unwrap(), 4)]);
        let walk =
            |address: &str| map.walk(address.parse::<IpAddr>().unwrap().to_canonical()).copied().collect::<Vec<_>>();
        assert_eq!(walk("::ffff:10.0.0.1"), [4]);
        assert_eq!(walk("2001:db8::1"), [6]);
    }
}
