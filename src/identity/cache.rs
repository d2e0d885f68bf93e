//! Chains that were accepted, so that a peer's next connection costs a hash and not a path.
//!
//! It belongs to one generation of trust and ends with it. What was accepted counts only while it would be accepted anew;
//! refusals are never kept.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::verify::{LEEWAY, Verified};

const SHARDS: usize = 16;
/// 1,024 chains in all.
const SHARD: usize = 64;

/// The hash of a chain.
pub(super) type Key = [u8; 32];

#[derive(Default)]
pub(super) struct Accepted {
    shards: [Mutex<HashMap<Key, Verified>>; SHARDS],
}

impl Accepted {
    /// What a chain proved, if it would prove it now.
    pub(super) fn find(&self, key: &Key, now: SystemTime) -> Option<Verified> {
        let mut shard = self.shard(key);
        let known = shard.get(key)?;
        if now > known.not_after || known.unrevoked_until.is_some_and(|until| now > until) {
            shard.remove(key);
            return None;
        }
        (known.not_before <= now + LEEWAY).then(|| known.clone())
    }

    /// Keeps what was accepted; a full shard forgets one of its own.
    pub(super) fn insert(&self, key: Key, verified: Verified) {
        let mut shard = self.shard(&key);
        if shard.len() >= SHARD
            && let Some(other) = shard.keys().next().copied()
        {
            shard.remove(&other);
        }
        shard.insert(key, verified);
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Verified>> {
        self.shards[usize::from(key[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        identity::path::Path,
        name::{SpiffeId, TrustDomain},
    };

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn verified(not_before: u64, not_after: u64, unrevoked_until: Option<u64>) -> Verified {
        let path = Path { domain: TrustDomain::new("a").unwrap(), links: Vec::new(), anchor: Default::default() };
        Verified {
            id: SpiffeId::new("spiffe://a/b").unwrap(),
            not_before: at(not_before),
            not_after: at(not_after),
            unrevoked_until: unrevoked_until.map(at),
            path: Arc::new(path),
        }
    }

    #[test]
    fn what_was_accepted_counts_while_it_would_be_accepted_anew() {
        let accepted = Accepted::default();
        accepted.insert([7; 32], verified(1_000, 2_000, None));
        let found = |key, now| accepted.find(&[key; 32], at(now)).is_some();
        assert!(!found(7, 939) && found(7, 940) && found(7, 2_000) && !found(8, 1_500));
        assert!(!found(7, 2_001));
        assert!(!found(7, 1_500), "once ended it is gone, also for a clock that jumps back");
        accepted.insert([7; 32], verified(1_000, 2_000, Some(1_500)));
        assert!(found(7, 1_500) && !found(7, 1_501));
    }

    #[test]
    fn it_is_bounded() {
        let accepted = Accepted::default();
        for n in 0..10_000u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_le_bytes());
            accepted.insert(key, verified(0, 1, None));
        }
        let kept: usize = accepted.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert_eq!(kept, SHARDS * SHARD);
    }
}
