//! Certificates put together byte by byte, to be wrong in exactly one place.

use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls_pki_types::CertificateDer;

use crate::{
    identity::{
        der,
        encode::{extension, sequence, tlv},
    },
    rt,
};
use std::time::{Duration, SystemTime};

pub(super) const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];

pub(super) const SAN: &[u8] = &[0x55, 0x1d, 0x11];
pub(super) const BASIC: &[u8] = &[0x55, 0x1d, 0x13];
pub(super) const USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
pub(super) const PURPOSES: &[u8] = &[0x55, 0x1d, 0x25];
pub(super) const CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];

/// A certificate about to be signed.
pub(super) struct Draft {
    /// With its tag; empty for a certificate of version 1.
    pub(super) version: Vec<u8>,
    pub(super) serial: Vec<u8>,
    pub(super) inner_algorithm: Vec<u8>,
    pub(super) outer_algorithm: Vec<u8>,
    pub(super) issuer: Vec<u8>,
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
    pub(super) subject: Vec<u8>,
    pub(super) spki: Vec<u8>,
    pub(super) extensions: Vec<(&'static [u8], Vec<u8>)>,
    /// Behind the extensions, inside of what is signed.
    pub(super) behind: Vec<u8>,
}

pub(super) struct Signer {
    pub(super) name: Vec<u8>,
    pub(super) key: KeyPair,
    pub(super) cert: CertificateDer<'static>,
}

pub(super) fn name(common: &str) -> Vec<u8> {
    let pair = sequence(&[&[0x06, 0x03, 0x55, 0x04, 0x03], &tlv(0x0c, &[common.as_bytes()])]);
    sequence(&[&tlv(0x31, &[&pair])])
}

pub(super) fn spki(key: &KeyPair) -> Vec<u8> {
    key.subject_public_key_info()
}

pub(super) fn uri(text: &[u8]) -> Vec<u8> {
    tlv(0x86, &[text])
}

pub(super) fn names(names: &[Vec<u8>]) -> Vec<u8> {
    sequence(&names.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// `keyUsage` of these bytes behind the count of unused bits.
pub(super) fn usage(unused: u8, bits: &[u8]) -> Vec<u8> {
    tlv(der::BIT_STRING, &[&[unused], bits])
}

pub(super) fn purposes(last_arcs: &[u8]) -> Vec<u8> {
    let oids: Vec<_> = last_arcs.iter().map(|arc| tlv(der::OID, &[&[0x2b, 6, 1, 5, 5, 7, 3, *arc]])).collect();
    names(&oids)
}

fn time(at: SystemTime) -> Vec<u8> {
    // rcgen's own dependency counts days; tests of the reader are elsewhere.
    let days = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 86_400;
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() % 86_400;
    let (mut year, mut left) = (1970, days);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let text = format!("{year:04}{:02}{:02}{hour:02}{minute:02}{second:02}Z", month + 1, left + 1);
    if year < 2050 {
        tlv(der::UTC_TIME, &[&text.as_bytes()[2..]])
    } else {
        tlv(der::GENERALIZED_TIME, &[text.as_bytes()])
    }
}

impl Draft {
    /// A certificate in which everything is right.
    pub(super) fn leaf(id: &str, spki: Vec<u8>) -> Self {
        let mut draft = Self::plain(name("workload"), spki);
        draft.extensions = vec![
            (BASIC, extension(BASIC, true, &sequence(&[]))),
            (USAGE, extension(USAGE, true, &usage(7, &[0x80]))),
            (PURPOSES, extension(PURPOSES, false, &purposes(&[1, 2]))),
            (SAN, extension(SAN, false, &names(&[uri(id.as_bytes())]))),
        ];
        draft
    }

    /// A signing certificate in which everything is right.
    pub(super) fn signer(common: &str, spki: Vec<u8>) -> Self {
        let mut draft = Self::plain(name(common), spki);
        draft.extensions = vec![
            (BASIC, extension(BASIC, true, &sequence(&[&[1, 1, 0xff]]))),
            (USAGE, extension(USAGE, true, &usage(1, &[0x06]))),
        ];
        draft
    }

    fn plain(subject: Vec<u8>, spki: Vec<u8>) -> Self {
        Self {
            version: vec![0xa0, 3, 2, 1, 2],
            serial: vec![2, 1, 7],
            inner_algorithm: ECDSA_SHA256.to_vec(),
            outer_algorithm: ECDSA_SHA256.to_vec(),
            issuer: Vec::new(),
            from: rt::wall() - Duration::from_secs(3_600),
            until: rt::wall() + Duration::from_secs(3_600),
            subject,
            spki,
            extensions: Vec::new(),
            behind: Vec::new(),
        }
    }

    /// Puts an extension in the place of the one with the same identifier, or at the end.
    pub(super) fn put(&mut self, oid: &'static [u8], critical: bool, value: &[u8]) {
        let written = extension(oid, critical, value);
        match self.extensions.iter_mut().find(|(known, _)| *known == oid) {
            Some((_, place)) => *place = written,
            None => self.extensions.push((oid, written)),
        }
    }

    pub(super) fn without(&mut self, oid: &[u8]) {
        self.extensions.retain(|(known, _)| *known != oid);
    }

    /// What is signed.
    fn tbs(&self) -> Vec<u8> {
        let extensions: Vec<_> = self.extensions.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        let extensions = tlv(0xa3, &[&sequence(&extensions)]);
        let extensions = if self.extensions.is_empty() { Vec::new() } else { extensions };
        let validity = sequence(&[&time(self.from), &time(self.until)]);
        sequence(&[
            &self.version,
            &self.serial,
            &self.inner_algorithm,
            &self.issuer,
            &validity,
            &self.subject,
            &self.spki,
            &extensions,
            &self.behind,
        ])
    }

    pub(super) fn signed_by(mut self, signer: &Signer) -> CertificateDer<'static> {
        self.issuer = signer.name.clone();
        self.signed_with(&signer.key)
    }

    fn signed_with(self, key: &KeyPair) -> CertificateDer<'static> {
        let tbs = self.tbs();
        let signature = tlv(der::BIT_STRING, &[&[0], &key.sign(&tbs).unwrap()]);
        sequence(&[&tbs, &self.outer_algorithm, &signature]).into()
    }

    pub(super) fn with_algorithms(mut self, inner: bool, outer: bool) -> Self {
        let pick = |other| if other { ECDSA_SHA384.to_vec() } else { ECDSA_SHA256.to_vec() };
        (self.inner_algorithm, self.outer_algorithm) = (pick(inner), pick(outer));
        self
    }
}

impl Signer {
    pub(super) fn root(change: impl FnOnce(&mut Draft)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut draft = Draft::signer("root", spki(&key));
        change(&mut draft);
        draft.issuer = draft.subject.clone();
        let name = draft.subject.clone();
        Self { name, cert: draft.signed_with(&key), key }
    }

    pub(super) fn sub(&self, common: &str, change: impl FnOnce(&mut Draft)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut draft = Draft::signer(common, spki(&key));
        change(&mut draft);
        Self { name: draft.subject.clone(), cert: draft.signed_by(self), key }
    }

    pub(super) fn leaf(&self, change: impl FnOnce(&mut Draft)) -> CertificateDer<'static> {
        let mut draft = Draft::leaf(super::ID, spki(&KeyPair::generate().unwrap()));
        change(&mut draft);
        draft.signed_by(self)
    }
}
