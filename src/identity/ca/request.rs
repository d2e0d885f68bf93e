//! What is asked of an authority: PKCS #10, as RFC 2986 writes it.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{SignatureScheme, sign::SigningKey};

use crate::{
    identity::{
        Svid,
        der::{self, constructed, context},
        encode::{extension, sequence, tlv},
    },
    name::SpiffeId,
};

const SET: u8 = 0x31;
const UTF8_STRING: u8 = 0x0c;
/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// `id-ce-subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// `extensionRequest`, 1.2.840.113549.1.9.14.
const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
/// `ecdsa-with-SHA256`, 1.2.840.10045.4.3.2.
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// A request for a certificate, and how long it should live.
#[derive(Clone)]
pub struct CertificateRequest {
    id: SpiffeId,
    lifetime: Option<Duration>,
    key: Arc<dyn SigningKey>,
    der: Vec<u8>,
    /// What it is to replace.
    pub(super) current: Option<Svid>,
}

impl CertificateRequest {
    pub(super) fn new(
        id: &SpiffeId,
        lifetime: Option<Duration>,
        key: Arc<dyn SigningKey>,
        current: Option<Svid>,
    ) -> Result<Self, String> {
        let der = write(id, "", &*key)?;
        Ok(Self { id: id.clone(), lifetime, key, der, current })
    }

    /// Who asks. An authority that knows better, because of a token, may issue another identity of the trust domain.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// How long the certificate should live; `None` leaves it to the authority, which may shorten it in any case.
    pub fn lifetime(&self) -> Option<Duration> {
        self.lifetime
    }

    /// The request: PKCS #10 in DER, signed with a new key on P-256. Its subject is empty, its one name the identity.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The same in PEM.
    pub fn pem(&self) -> String {
        pem(&self.der)
    }

    /// The same in PEM, with a subject.
    pub(super) fn pem_as(&self, common_name: &str) -> Result<String, String> {
        write(&self.id, common_name, &*self.key).map(|der| pem(&der))
    }

    pub(super) fn into_key(self) -> Arc<dyn SigningKey> {
        self.key
    }
}

impl fmt::Debug for CertificateRequest {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateRequest")
            .field("id", &self.id)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

fn write(id: &SpiffeId, common_name: &str, key: &dyn SigningKey) -> Result<Vec<u8>, String> {
    let wrong = |what: &str| format!("a request cannot be signed: {what}");
    let public = key.public_key().ok_or_else(|| wrong("the key does not tell its public one"))?;
    let subject = match common_name {
        "" => sequence(&[]),
        name => {
            let pair = sequence(&[&tlv(der::OID, &[COMMON_NAME]), &tlv(UTF8_STRING, &[name.as_bytes()])]);
            sequence(&[&tlv(SET, &[&pair])])
        }
    };
    let names = sequence(&[&tlv(context(6), &[id.as_str().as_bytes()])]);
    // Without a subject the name is all there is. (RFC 5280 §4.2.1.6)
    let names = extension(SUBJECT_ALT_NAME, common_name.is_empty(), &names);
    let attribute = sequence(&[&tlv(der::OID, &[EXTENSION_REQUEST]), &tlv(SET, &[&sequence(&[&names])])]);
    let version = tlv(der::INTEGER, &[&[0]]);
    let info = sequence(&[&version, &subject, public.as_ref(), &tlv(constructed(0), &[&attribute])]);
    let signer =
        key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).ok_or_else(|| wrong("the key is not on P-256"))?;
    let signature = signer.sign(&info).map_err(|error| wrong(&error.to_string()))?;
    let algorithm = sequence(&[&tlv(der::OID, &[ECDSA_SHA256])]);
    Ok(sequence(&[&info, &algorithm, &tlv(der::BIT_STRING, &[&[0], &signature])]))
}

fn pem(der: &[u8]) -> String {
    const LABEL: &str = "CERTIFICATE REQUEST";
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {LABEL}-----\n");
    let mut rest = &*text;
    while !rest.is_empty() {
        let (line, behind) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = behind;
    }
    out.push_str(&format!("-----END {LABEL}-----\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{default_provider, der::Reader};

    #[test]
    fn a_request_is_what_rfc_2986_says_and_its_signature_holds() {
        let provider = default_provider().unwrap();
        let id = SpiffeId::new("spiffe://a.example/ns/default/sa/web").unwrap();
        let key = super::super::key::generate(&provider).unwrap();
        let request = CertificateRequest::new(&id, None, key, None).unwrap();
        for (der, subject) in [(request.der.clone(), ""), (write(&id, "web", &*request.key).unwrap(), "web")] {
            let mut outer = Reader::new(&der).only(der::SEQUENCE).unwrap().inside();
            let signed = outer.expect(der::SEQUENCE).unwrap();
            outer.expect(der::SEQUENCE).unwrap();
            let signature = outer.expect(der::BIT_STRING).unwrap().value;
            outer.end().unwrap();
            let mut info = signed.inside();
            assert_eq!(info.expect(der::INTEGER).unwrap().small(), Ok(0));
            let name = info.expect(der::SEQUENCE).unwrap();
            assert_eq!(name.value.ends_with(subject.as_bytes()), !subject.is_empty() || name.value.is_empty());
            let public = info.expect(der::SEQUENCE).unwrap().whole;
            let attributes = info.expect(constructed(0)).unwrap();
            info.end().unwrap();
            let uri = id.as_str().as_bytes();
            assert!(attributes.value.windows(uri.len()).any(|window| window == uri));
            let spki = rustls_pki_types::SubjectPublicKeyInfoDer::from(public);
            let entity = webpki::RawPublicKeyEntity::try_from(&spki).unwrap();
            let ecdsa = provider
                .signature_verification_algorithms
                .mapping
                .iter()
                .find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256)
                .unwrap();
            entity.verify_signature(ecdsa.1[0], signed.whole, &signature[1..]).unwrap();
        }
        let pem = request.pem();
        assert!(pem.lines().all(|line| line.len() <= 64) && pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\nMI"));
    }
}
