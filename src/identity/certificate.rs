//! What a certificate says, read from its raw bytes before any library judges it.

use std::time::{Duration, SystemTime};

use super::{
    der::{self, BadDer, Reader, Tlv},
    reject::Reject,
};
use crate::name::SpiffeId;

/// `id-ce`, 2.5.29.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
/// Certificate policies and their mappings, constraints and inhibition, which concern nobody who asks for no policy.
const POLICIES: [&[u8]; 4] = [&[0x55, 0x1d, 0x20], &[0x55, 0x1d, 0x21], &[0x55, 0x1d, 0x24], &[0x55, 0x1d, 0x36]];

/// `id-kp`, 1.3.6.1.5.5.7.3.
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// The private mark of a development authority: an extension that only development accepts. The arc is that of UUIDs.
const DEVELOPMENT: &[u8] = &[0x69, 0x83, 0xa5, 0xa1, 0x21, 0x9f, 0x21];

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 8192;

const DIGITAL_SIGNATURE: u16 = 1 << 15;
const KEY_CERT_SIGN: u16 = 1 << 10;
const CRL_SIGN: u16 = 1 << 9;

/// The most that one certificate may be; a chain is bounded by the verifier.
const MAX_CERTIFICATE: usize = 16 * 1024;
/// RFC 5280 §4.1.2.2 has 20 octets; one more for the sign.
const MAX_SERIAL: usize = 21;
const MAX_EXTENSIONS: usize = 64;
/// Large sites put several hundred into one certificate.
const MAX_NAMES: usize = 1_024;

/// A certificate, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    pub(super) serial: &'a [u8],
    /// The issuer's name, without tag and length.
    pub(super) issuer: &'a [u8],
    pub(super) subject: &'a [u8],
    /// The whole `SubjectPublicKeyInfo`.
    pub(super) spki: &'a [u8],
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    basic: Option<Basic>,
    key_usage: Option<KeyUsage>,
    purposes: Option<Purposes>,
    /// Every name of type `[6]`, also those that are no text.
    uris: Vec<&'a [u8]>,
    pub(super) development: bool,
    /// Says which names its own certificates may have.
    constrains: bool,
    /// Has a critical extension that is not understood. Below an authority, the library refuses that.
    pub(super) mystery: bool,
}

#[derive(Clone, Copy, Debug)]
struct Basic {
    ca: bool,
    path_length: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct KeyUsage {
    bits: u16,
    critical: bool,
}

#[derive(Clone, Copy, Default, Debug)]
struct Purposes {
    server: bool,
    client: bool,
}

impl<'a> Facts<'a> {
    /// Reads a certificate of version 3.
    pub(super) fn of(certificate: &'a [u8]) -> Result<Self, BadDer> {
        if certificate.len() > MAX_CERTIFICATE {
            return Err(BadDer("a certificate of more than 16 KiB"));
        }
        let mut outer = Reader::new(certificate).only(der::SEQUENCE)?.inside();
        let tbs = outer.expect(der::SEQUENCE)?;
        algorithm(outer.expect(der::SEQUENCE)?)?;
        outer.expect(der::BIT_STRING)?;
        outer.end()?;

        let mut tbs = tbs.inside();
        let version = tbs.optional(der::constructed(0))?.ok_or(BadDer("a certificate of version 1"))?;
        if version.inside().only(der::INTEGER)?.small()? != 2 {
            return Err(BadDer("a certificate of another version than 3"));
        }
        let serial = tbs.expect(der::INTEGER)?.integer()?;
        if serial.len() > MAX_SERIAL {
            return Err(BadDer("a serial number of more than 20 octets"));
        }
        algorithm(tbs.expect(der::SEQUENCE)?)?;
        let issuer = name(tbs.expect(der::SEQUENCE)?)?;
        let (not_before, not_after) = validity(tbs.expect(der::SEQUENCE)?)?;
        let subject = name(tbs.expect(der::SEQUENCE)?)?;
        let spki = tbs.expect(der::SEQUENCE)?;
        let mut key = spki.inside();
        algorithm(key.expect(der::SEQUENCE)?)?;
        key.expect(der::BIT_STRING)?;
        key.end()?;
        let mut facts = Self {
            serial,
            issuer,
            subject,
            spki: spki.whole,
            not_before,
            not_after,
            basic: None,
            key_usage: None,
            purposes: None,
            uris: Vec::new(),
            development: false,
            constrains: false,
            mystery: false,
        };
        if let Some(extensions) = tbs.optional(der::constructed(3))? {
            facts.extensions(extensions.inside().only(der::SEQUENCE)?)?;
        }
        tbs.end()?;
        Ok(facts)
    }

    fn extensions(&mut self, extensions: Tlv<'a>) -> Result<(), BadDer> {
        let mut seen: Vec<&[u8]> = Vec::new();
        let mut extensions = extensions.inside();
        while !extensions.is_empty() {
            let mut extension = extensions.expect(der::SEQUENCE)?.inside();
            let oid = extension.expect(der::OID)?.oid()?;
            let critical = match extension.optional(der::BOOLEAN)? {
                // DER leaves out what is the default.
                Some(critical) if !critical.boolean()? => return Err(BadDer("a default that is written out")),
                critical => critical.is_some(),
            };
            let value = Reader::new(extension.expect(der::OCTET_STRING)?.value);
            extension.end()?;
            if seen.contains(&oid) {
                return Err(BadDer("an extension that occurs twice"));
            }
            if seen.len() == MAX_EXTENSIONS {
                return Err(BadDer("more than 64 extensions"));
            }
            seen.push(oid);
            match oid {
                SUBJECT_ALT_NAME => self.names(value.only(der::SEQUENCE)?)?,
                BASIC_CONSTRAINTS => self.basic = Some(basic(value.only(der::SEQUENCE)?)?),
                KEY_USAGE => {
                    let bits = value.only(der::BIT_STRING)?.named_bits()?;
                    if bits == 0 {
                        return Err(BadDer("a key usage without any use"));
                    }
                    self.key_usage = Some(KeyUsage { bits, critical });
                }
                EXTENDED_KEY_USAGE => self.purposes = Some(purposes(value.only(der::SEQUENCE)?)?),
                DEVELOPMENT => self.development = true,
                NAME_CONSTRAINTS => self.constrains = true,
                // RFC 5280 §4.2.1.1, §4.2.1.2
                SUBJECT_KEY_ID | AUTHORITY_KEY_ID if critical => {
                    return Err(BadDer("a key identifier that is critical"));
                }
                SUBJECT_KEY_ID | AUTHORITY_KEY_ID => {}
                oid => self.mystery |= critical && !POLICIES.contains(&oid),
            }
        }
        Ok(())
    }

    fn names(&mut self, names: Tlv<'a>) -> Result<(), BadDer> {
        let mut names = names.inside();
        let mut count = 0;
        while !names.is_empty() {
            let name = names.any()?;
            // GeneralName: [0] to [8], of which these four are constructed.
            let number = name.tag & 0x1f;
            let wanted = if matches!(number, 0 | 3 | 4 | 5) { der::constructed(number) } else { der::context(number) };
            if number > 8 || name.tag != wanted {
                return Err(BadDer("a name of no known type"));
            }
            count += 1;
            if count > MAX_NAMES {
                return Err(BadDer("more than 1,024 names"));
            }
            if number == 6 {
                self.uris.push(name.value);
            }
        }
        if count == 0 { Err(BadDer("a list of names without names")) } else { Ok(()) }
    }

    pub(super) fn is_ca(&self) -> bool {
        self.basic.is_some_and(|basic| basic.ca)
    }

    /// Whether a key usage says that it may sign certificates; `None` if none is given.
    pub(super) fn key_cert_sign(&self) -> Option<bool> {
        self.key_usage.map(|usage| usage.bits & KEY_CERT_SIGN != 0)
    }

    /// Whether a key usage says that it may sign revocation lists; `None` if none is given.
    pub(super) fn crl_sign(&self) -> Option<bool> {
        self.key_usage.map(|usage| usage.bits & CRL_SIGN != 0)
    }

    /// What RFC 5280 wants of a certificate that signs others, beyond its usages. (§4.1.2.6)
    pub(super) fn is_named(&self) -> bool {
        !self.subject.is_empty()
    }

    /// A serial number of zero is none. (RFC 5280 §4.1.2.2)
    pub(super) fn is_numbered(&self) -> bool {
        self.serial != [0]
    }

    /// What no certificate at the end of a path has.
    fn end(&self) -> Result<(), Reject> {
        if self.constrains {
            return Err(Reject::Malformed("name constraints are for authorities"));
        }
        if !self.is_numbered() {
            return Err(Reject::Malformed("its serial number is zero"));
        }
        Ok(())
    }

    /// Whether its key is of a kind that is accepted: RSA of 2048 to 8192 bits, P-256, P-384, P-521 or Ed25519. What signs
    /// with it is checked by who verifies; a key that nobody has used yet is not.
    pub(super) fn has_strong_key(&self) -> bool {
        self.key_kind().is_ok_and(|strong| strong)
    }

    /// The type of its key, as JSON web keys call it.
    pub(super) fn key_type(&self) -> Option<&'static str> {
        let mut spki = Reader::new(self.spki).only(der::SEQUENCE).ok()?.inside();
        let mut algorithm = spki.expect(der::SEQUENCE).ok()?.inside();
        match algorithm.expect(der::OID).ok()?.value {
            RSA => Some("RSA"),
            EC => Some("EC"),
            ED25519 => Some("OKP"),
            _ => None,
        }
    }

    fn key_kind(&self) -> Result<bool, BadDer> {
        let mut spki = Reader::new(self.spki).only(der::SEQUENCE)?.inside();
        let mut algorithm = spki.expect(der::SEQUENCE)?.inside();
        let key = spki.expect(der::BIT_STRING)?.value;
        Ok(match algorithm.expect(der::OID)?.oid()? {
            ED25519 => algorithm.is_empty(),
            EC => matches!(algorithm.expect(der::OID)?.oid()?, P256 | P384 | P521),
            RSA => {
                let key = key.split_first().map_or(key, |(_unused, key)| key);
                let modulus = Reader::new(key).only(der::SEQUENCE)?.inside().expect(der::INTEGER)?.integer()?;
                let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
                let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
                (MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits)
            }
            _ => false,
        })
    }

    /// How many further issuers may follow below it.
    pub(super) fn path_length(&self) -> Option<u32> {
        self.basic.and_then(|basic| basic.path_length)
    }

    /// The id of a signing certificate, if it has one.
    pub(super) fn issuer_id(&self) -> Option<SpiffeId> {
        self.uris.iter().find_map(|uri| SpiffeId::new(std::str::from_utf8(uri).ok()?).ok())
    }

    /// The id of a workload, if this is its certificate. (X509-SVID §2, §4, §5)
    pub(super) fn workload(&self) -> Result<SpiffeId, Reject> {
        let [uri] = self.uris[..] else { return Err(Reject::SanCount(self.uris.len())) };
        let text =
            std::str::from_utf8(uri).map_err(|_| Reject::SanSyntax("the certificate's URI is not UTF-8".into()))?;
        let id = SpiffeId::new(text).map_err(|error| Reject::SanSyntax(error.to_string()))?;
        if id.path().is_empty() {
            return Err(Reject::SanSyntax(format!("`{id}` is a trust domain, not a workload of one")));
        }
        if self.is_ca() {
            return Err(Reject::KeyUsage("a certificate authority is not a workload (basicConstraints)"));
        }
        let Some(usage) = self.key_usage else { return Err(Reject::KeyUsage("the certificate has no keyUsage")) };
        if !usage.critical {
            return Err(Reject::KeyUsage("keyUsage is not critical"));
        }
        if usage.bits & (KEY_CERT_SIGN | CRL_SIGN) != 0 {
            return Err(Reject::KeyUsage("a workload may not sign certificates or revocation lists (keyUsage)"));
        }
        if usage.bits & DIGITAL_SIGNATURE == 0 {
            return Err(Reject::KeyUsage("the certificate may not be used for signatures (keyUsage)"));
        }
        if self.purposes.is_some_and(|purposes| !(purposes.server && purposes.client)) {
            return Err(Reject::KeyUsage("the certificate is not for servers and clients both (extKeyUsage)"));
        }
        self.end()?;
        Ok(id)
    }

    /// Whether this may be the certificate of a server outside of the mesh.
    pub(super) fn server(&self) -> Result<(), Reject> {
        if self.is_ca() {
            return Err(Reject::KeyUsage("a certificate authority is not a server (basicConstraints)"));
        }
        if self.key_cert_sign() == Some(true) {
            return Err(Reject::KeyUsage("a server may not sign certificates (keyUsage)"));
        }
        self.end()
    }
}

/// A time of a certificate on the wall clock.
pub(super) fn wall_time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn algorithm(algorithm: Tlv<'_>) -> Result<(), BadDer> {
    let mut inside = algorithm.inside();
    inside.expect(der::OID)?.oid()?;
    if !inside.is_empty() {
        inside.any()?;
    }
    inside.end()
}

/// A name as a sequence of sets of pairs; the values are compared as bytes and not read.
fn name(name: Tlv<'_>) -> Result<&[u8], BadDer> {
    const SET: u8 = 0x31;
    let mut sets = name.inside();
    while !sets.is_empty() {
        let mut set = sets.expect(SET)?.inside();
        while !set.is_empty() {
            let mut pair = set.expect(der::SEQUENCE)?.inside();
            pair.expect(der::OID)?.oid()?;
            pair.any()?;
            pair.end()?;
        }
    }
    Ok(name.value)
}

fn validity(validity: Tlv<'_>) -> Result<(SystemTime, SystemTime), BadDer> {
    let mut inside = validity.inside();
    let (not_before, not_after) = (wall_time(inside.any()?.time()?), wall_time(inside.any()?.time()?));
    inside.end()?;
    if not_before > not_after {
        return Err(BadDer("a validity that ends before it begins"));
    }
    Ok((not_before, not_after))
}

fn basic(value: Tlv<'_>) -> Result<Basic, BadDer> {
    let mut inside = value.inside();
    let ca = match inside.optional(der::BOOLEAN)? {
        Some(ca) if !ca.boolean()? => return Err(BadDer("a default that is written out")),
        ca => ca.is_some(),
    };
    let path_length = inside.optional(der::INTEGER)?.map(|length| length.small()).transpose()?;
    inside.end()?;
    if path_length.is_some() && !ca {
        return Err(BadDer("a path length without cA"));
    }
    Ok(Basic { ca, path_length })
}

fn purposes(value: Tlv<'_>) -> Result<Purposes, BadDer> {
    let mut inside = value.inside();
    if inside.is_empty() {
        return Err(BadDer("an extended key usage without any use"));
    }
    let mut purposes = Purposes::default();
    while !inside.is_empty() {
        match inside.expect(der::OID)?.oid()? {
            SERVER_AUTH => purposes.server = true,
            CLIENT_AUTH => purposes.client = true,
            _ => {}
        }
    }
    Ok(purposes)
}
