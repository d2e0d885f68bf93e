//! A certificate authority for tests: signs whatever it is asked, with roots that come and go.
#![allow(dead_code, reason = "each user has a part of it")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams, SanType, SerialNumber,
    SignatureAlgorithm,
};
use sinew::{CertificateAuthority, CertificateRequest, IssuedCertificate, Signing, Trusting};

/// A root, able to sign.
pub struct Root {
    pub cert: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
    issued: AtomicUsize,
}

impl Root {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key).unwrap().der().to_vec();
        Self { cert, issuer: Issuer::new(params, key), issued: AtomicUsize::new(0) }
    }

    pub fn sign(&self, request: &[u8], id: &str, life: Duration) -> Vec<u8> {
        let params = leaf_params(id, life);
        params.signed_by(&Asked::of(request), &self.issuer).unwrap().der().to_vec()
    }
}

/// A certificate, its key, and how it is revoked.
pub struct Leaf {
    pub cert: Vec<u8>,
    /// PKCS #8.
    pub key: Vec<u8>,
    serial: SerialNumber,
}

impl Root {
    /// A member that needs no request.
    pub fn leaf(&self, id: &str, dns: &[&str], life: Duration) -> Leaf {
        self.member(leaf_params(id, life), dns)
    }

    /// One whose time is over.
    pub fn ended(&self, id: &str) -> Leaf {
        self.ended_for(id, &[])
    }

    /// The same, with these names as well.
    pub fn ended_for(&self, id: &str, dns: &[&str]) -> Leaf {
        let mut params = leaf_params(id, Duration::ZERO);
        params.not_before = (SystemTime::now() - Duration::from_secs(120)).into();
        params.not_after = (SystemTime::now() - Duration::from_secs(60)).into();
        self.member(params, dns)
    }

    /// One whose time has not come.
    pub fn early(&self, id: &str) -> Leaf {
        let mut params = leaf_params(id, Duration::from_secs(7_200));
        params.not_before = (SystemTime::now() + Duration::from_secs(3_600)).into();
        self.member(params, &[])
    }

    /// One that may do nothing but sign other certificates.
    pub fn misused(&self, id: &str) -> Leaf {
        let mut params = leaf_params(id, Duration::from_secs(3_600));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        self.member(params, &[])
    }

    fn member(&self, mut params: CertificateParams, dns: &[&str]) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let names = dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()));
        params.subject_alt_names.extend(names);
        let number = self.issued.fetch_add(1, Relaxed) as u64 + 1;
        let serial = SerialNumber::from(number);
        params.serial_number = Some(serial.clone());
        let cert = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Leaf { cert, key: key.serialize_der(), serial }
    }

    /// An intermediate that may sign members: its certificate and its key, PKCS #8.
    pub fn signer(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::new([]).unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        (cert, key.serialize_der())
    }

    /// The list of those who are revoked, DER.
    pub fn revokes(&self, number: u64, leaves: &[&Leaf]) -> Vec<u8> {
        let now = SystemTime::now();
        let revoked = leaves.iter().map(|leaf| RevokedCertParams {
            serial_number: leaf.serial.clone(),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: (now - Duration::from_secs(60)).into(),
            next_update: (now + Duration::from_secs(3_600)).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

/// One that vouches for itself.
pub fn self_signed(dns: &str) -> Leaf {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new([dns.to_owned()]).unwrap().self_signed(&key).unwrap().der().to_vec();
    Leaf { cert, key: key.serialize_der(), serial: SerialNumber::from(1) }
}

/// PEM of one thing.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn leaf_params(id: &str, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::new([]).unwrap();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.not_before = (SystemTime::now() - Duration::from_secs(1)).into();
    params.not_after = (SystemTime::now() + life).into();
    params
}

/// Clones are one authority.
#[derive(Clone)]
pub struct TestAuthority {
    shared: Arc<Shared>,
}

struct Shared {
    /// Who is named; the last signs.
    roots: Mutex<Vec<Arc<Root>>>,
    life: Mutex<Option<Duration>>,
    signed: AtomicUsize,
}

impl TestAuthority {
    /// One whose certificates live this long.
    pub fn new(life: Duration) -> Self {
        let roots = Mutex::new(vec![Arc::new(Root::new("root 0"))]);
        Self { shared: Arc::new(Shared { roots, life: Mutex::new(Some(life)), signed: AtomicUsize::new(0) }) }
    }

    /// How many certificates it has signed.
    pub fn signed(&self) -> usize {
        self.shared.signed.load(Relaxed)
    }

    /// Signs no more.
    pub fn fail(&self) {
        *self.shared.life.lock().unwrap() = None;
    }

    /// Who is named.
    pub fn name(&self, roots: Vec<Arc<Root>>) {
        *self.shared.roots.lock().unwrap() = roots;
    }

    /// Who is named.
    pub fn roots(&self) -> Vec<Arc<Root>> {
        self.shared.roots.lock().unwrap().clone()
    }

    fn named(&self) -> Vec<Vec<u8>> {
        self.roots().iter().map(|root| root.cert.clone()).collect()
    }
}

impl CertificateAuthority for TestAuthority {
    fn sign(&self, request: CertificateRequest) -> Signing {
        let life = *self.shared.life.lock().unwrap();
        let answer = life.ok_or_else(|| "out of order".into()).map(|life| {
            self.shared.signed.fetch_add(1, Relaxed);
            let leaf = self.roots().last().unwrap().sign(request.der(), request.id().as_str(), life);
            IssuedCertificate::new(vec![leaf], self.named())
        });
        Box::pin(async move { answer })
    }

    fn trusted(&self) -> Trusting {
        let named = self.named();
        Box::pin(async move { Ok(Some(named)) })
    }
}

/// The public key of a request, as rcgen wants it.
struct Asked(Vec<u8>);

impl Asked {
    fn of(request: &[u8]) -> Self {
        // CertificationRequest { info { version, subject, spki { algorithm, key }, .. }, .. }
        let info = value(value(request).0).0;
        let subject = value(info).1;
        let key = value(value(value(subject).1).0).1;
        Self(value(key).0[1..].to_vec())
    }
}

/// What is inside the first value, and what follows it.
fn value(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, header) = match der[1] {
        short @ 0..=0x7f => (usize::from(short), 2),
        long => {
            let digits = usize::from(long & 0x7f);
            (der[2..2 + digits].iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), 2 + digits)
        }
    };
    der[header..].split_at(length)
}

impl PublicKeyData for Asked {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}
