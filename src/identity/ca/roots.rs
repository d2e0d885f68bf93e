//! Whom to trust while authorities come and go.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

/// How many that are no longer named are kept.
const MOST: usize = 16;

/// Authorities that are named, and those that were until a moment ago.
#[derive(Debug, Default)]
pub(super) struct Roots {
    named: Vec<CertificateDer<'static>>,
    /// With the time until which certificates of theirs may be in use.
    leaving: Vec<(CertificateDer<'static>, SystemTime)>,
}

impl Roots {
    /// Takes what is named now. Who is not any more is kept until `until`.
    pub(super) fn name(&mut self, now: Vec<CertificateDer<'static>>, until: SystemTime) {
        self.leaving.retain(|(root, _)| !now.contains(root));
        for root in self.named.drain(..).filter(|root| !now.contains(root)) {
            self.leaving.push((root, until));
        }
        let over = self.leaving.len().saturating_sub(MOST);
        self.leaving.drain(..over);
        self.named = now;
    }

    /// Who is trusted at `now`.
    pub(super) fn trusted(&mut self, now: SystemTime) -> Vec<CertificateDer<'static>> {
        self.leaving.retain(|(_, until)| now < *until);
        self.named.iter().chain(self.leaving.iter().map(|(root, _)| root)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_leaves_is_trusted_for_a_while_and_who_comes_back_stays() {
        let root = |n: u8| CertificateDer::from(vec![n]);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut roots = Roots::default();
        roots.name(vec![root(1)], at(10));
        roots.name(vec![root(2)], at(10));
        assert_eq!(roots.trusted(at(0)), [root(2), root(1)]);
        roots.name(vec![root(3)], at(20));
        assert_eq!(roots.trusted(at(9)), [root(3), root(1), root(2)]);
        assert_eq!(roots.trusted(at(10)), [root(3), root(2)]);
        roots.name(vec![root(2), root(3)], at(30));
        assert_eq!(roots.trusted(at(50)), [root(2), root(3)]);
        for n in 0..100 {
            roots.name(vec![root(n)], at(1_000));
        }
        assert_eq!(roots.trusted(at(50)).len(), 1 + MOST);
    }
}
