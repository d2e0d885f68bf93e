//! What a certificate says, read from its own bytes.
//!
//! rustls-webpki ignores key usage and skips names that it cannot read, so it cannot tell "exactly one URI", nor that a
//! signing certificate may sign. This reader takes definite, minimal lengths and low tags only, refuses bytes behind any
//! element it enters and every extension that stands twice; it looks into nothing that identity does not ask for.

use std::time::{Duration, SystemTime};

/// A certificate's bytes are not what they have to be; where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed(pub(super) &'static str);

type Result<T> = std::result::Result<T, Malformed>;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[6]` of a GeneralName: a URI.
const URI: u8 = 0x86;

const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// The private mark of a development authority: an extension that only development accepts. The arc is that of UUIDs.
pub(super) const DEVELOPMENT: &[u8] = &[0x69, 0x83, 0xa5, 0xa1, 0x21, 0x9f, 0x21];

/// Elements, one after another.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element: its tag, its content, and its whole bytes.
    fn any(&mut self) -> Result<(u8, &'a [u8], &'a [u8])> {
        let [tag, first, rest @ ..] = self.0 else { return Err(Malformed("an element is cut off")) };
        if tag & 0x1f == 0x1f {
            return Err(Malformed("a tag takes more than one byte"));
        }
        let (length, header) = match *first {
            short @ 0..=0x7f => (usize::from(short), 2),
            0x81 => match rest {
                [length @ 0x80..=0xff, ..] => (usize::from(*length), 3),
                _ => return Err(Malformed("a length is not written in its shortest form")),
            },
            0x82 => match rest {
                [high @ 1..=0xff, low, ..] => (usize::from(*high) << 8 | usize::from(*low), 4),
                _ => return Err(Malformed("a length is not written in its shortest form")),
            },
            _ => return Err(Malformed("a length is indefinite or beyond 64 KiB")),
        };
        let end = header + length;
        let (Some(content), Some(whole)) = (self.0.get(header..end), self.0.get(..end)) else {
            return Err(Malformed("an element is cut off"));
        };
        self.0 = &self.0[end..];
        Ok((*tag, content, whole))
    }

    fn expect(&mut self, tag: u8, what: &'static str) -> Result<&'a [u8]> {
        match self.any()? {
            (found, content, _) if found == tag => Ok(content),
            _ => Err(Malformed(what)),
        }
    }

    fn whole(&mut self, tag: u8, what: &'static str) -> Result<&'a [u8]> {
        match self.any()? {
            (found, _, whole) if found == tag => Ok(whole),
            _ => Err(Malformed(what)),
        }
    }

    fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>> {
        match self.peek() {
            Some(found) if found == tag => self.any().map(|(_, content, _)| Some(content)),
            _ => Ok(None),
        }
    }

    fn end(&self, what: &'static str) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(Malformed(what)) }
    }
}

/// `keyUsage`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct KeyUsage {
    pub(super) critical: bool,
    pub(super) digital_signature: bool,
    pub(super) key_cert_sign: bool,
    pub(super) crl_sign: bool,
}

/// What identity asks of a certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Facts<'a> {
    pub(super) serial: &'a [u8],
    /// Names whole, tag and length included.
    pub(super) issuer: &'a [u8],
    pub(super) subject: &'a [u8],
    pub(super) spki: &'a [u8],
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// `cA` of `basicConstraints`; `None` without the extension.
    pub(super) ca: Option<bool>,
    pub(super) path_len: Option<u32>,
    pub(super) key_usage: Option<KeyUsage>,
    /// Whether server and client authentication are both allowed; `None` without the extension.
    pub(super) both_auth: Option<bool>,
    /// The URIs of `subjectAltName`, as bytes: what is not UTF-8 counts too.
    pub(super) uris: Vec<&'a [u8]>,
    /// It carries the mark of a development authority.
    pub(super) development: bool,
}

impl<'a> Facts<'a> {
    /// Reads a certificate.
    pub(super) fn read(der: &'a [u8]) -> Result<Self> {
        let mut file = Reader::new(der);
        let mut certificate = Reader::new(file.expect(SEQUENCE, "a certificate is not a SEQUENCE")?);
        file.end("bytes stand behind the certificate")?;
        let mut tbs = Reader::new(certificate.expect(SEQUENCE, "the signed part is not a SEQUENCE")?);
        certificate.expect(SEQUENCE, "the signature has no algorithm")?;
        certificate.expect(BIT_STRING, "there is no signature")?;
        certificate.end("bytes stand behind the signature")?;

        let version = tbs.optional(0xa0)?.ok_or(Malformed("it is not of version 3"))?;
        if version != [INTEGER, 1, 2] {
            return Err(Malformed("it is not of version 3"));
        }
        let serial = tbs.expect(INTEGER, "it has no serial number")?;
        if serial.is_empty() || serial.len() > 21 {
            return Err(Malformed("its serial number is not of 1 to 20 bytes"));
        }
        tbs.expect(SEQUENCE, "the signed part names no algorithm")?;
        let issuer = tbs.whole(SEQUENCE, "it has no issuer")?;
        let mut validity = Reader::new(tbs.expect(SEQUENCE, "it has no validity")?);
        let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
        validity.end("bytes stand behind the validity")?;
        let subject = tbs.whole(SEQUENCE, "it has no subject")?;
        let spki = tbs.whole(SEQUENCE, "it has no public key")?;
        tbs.optional(0x81)?;
        tbs.optional(0x82)?;
        let mut facts = Self {
            serial,
            issuer,
            subject,
            spki,
            not_before,
            not_after,
            ca: None,
            path_len: None,
            key_usage: None,
            both_auth: None,
            uris: Vec::new(),
            development: false,
        };
        if let Some(extensions) = tbs.optional(0xa3)? {
            facts.extensions(extensions)?;
        }
        tbs.end("bytes stand behind the extensions")?;
        Ok(facts)
    }

    fn extensions(&mut self, wrapped: &'a [u8]) -> Result<()> {
        let mut outer = Reader::new(wrapped);
        let mut list = Reader::new(outer.expect(SEQUENCE, "the extensions are not a SEQUENCE")?);
        outer.end("bytes stand behind the extensions")?;
        let mut seen: Vec<&[u8]> = Vec::new();
        while !list.is_empty() {
            let mut extension = Reader::new(list.expect(SEQUENCE, "an extension is not a SEQUENCE")?);
            let oid = extension.expect(OID, "an extension has no OID")?;
            check_oid(oid)?;
            let critical = match extension.optional(BOOLEAN)? {
                None => false,
                Some([0xff]) => true,
                Some(_) => return Err(Malformed("a default or no BOOLEAN says whether an extension is critical")),
            };
            let value = extension.expect(OCTET_STRING, "an extension has no value")?;
            extension.end("bytes stand behind an extension")?;
            if seen.contains(&oid) {
                return Err(Malformed("an extension stands twice"));
            }
            seen.push(oid);
            match oid {
                BASIC_CONSTRAINTS => self.basic_constraints(value)?,
                KEY_USAGE => self.key_usage(value, critical)?,
                EXTENDED_KEY_USAGE => self.extended_key_usage(value)?,
                SUBJECT_ALT_NAME => self.subject_alt_name(value)?,
                DEVELOPMENT => self.development = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn basic_constraints(&mut self, value: &[u8]) -> Result<()> {
        let mut outer = Reader::new(value);
        let mut fields = Reader::new(outer.expect(SEQUENCE, "basicConstraints is not a SEQUENCE")?);
        outer.end("bytes stand behind basicConstraints")?;
        self.ca = Some(match fields.optional(BOOLEAN)? {
            None => false,
            Some([0xff]) => true,
            Some(_) => return Err(Malformed("cA is a default or no BOOLEAN")),
        });
        self.path_len = match fields.optional(INTEGER)? {
            None => None,
            Some([len @ 0..=0x7f]) => Some(u32::from(*len)),
            Some(_) => return Err(Malformed("pathLenConstraint is negative or beyond 127")),
        };
        fields.end("bytes stand behind basicConstraints")
    }

    fn key_usage(&mut self, value: &[u8], critical: bool) -> Result<()> {
        let mut outer = Reader::new(value);
        let bits = outer.expect(BIT_STRING, "keyUsage is not a BIT STRING")?;
        outer.end("bytes stand behind keyUsage")?;
        let (unused, first) = match bits {
            [unused @ 0..=7, first] | [unused @ 0..=7, first, _] => (*unused, *first),
            _ => return Err(Malformed("keyUsage has no or too many bits")),
        };
        let last = bits[bits.len() - 1];
        if last.trailing_zeros() < u32::from(unused) {
            return Err(Malformed("keyUsage has bits set that it says it does not use"));
        }
        let bit = |n: u8| first & (0x80 >> n) != 0;
        self.key_usage =
            Some(KeyUsage { critical, digital_signature: bit(0), key_cert_sign: bit(5), crl_sign: bit(6) });
        Ok(())
    }

    fn extended_key_usage(&mut self, value: &[u8]) -> Result<()> {
        let mut outer = Reader::new(value);
        let mut list = Reader::new(outer.expect(SEQUENCE, "extKeyUsage is not a SEQUENCE")?);
        outer.end("bytes stand behind extKeyUsage")?;
        let (mut server, mut client) = (false, false);
        while !list.is_empty() {
            let oid = list.expect(OID, "extKeyUsage names something that is no OID")?;
            check_oid(oid)?;
            server |= oid == SERVER_AUTH;
            client |= oid == CLIENT_AUTH;
        }
        self.both_auth = Some(server && client);
        Ok(())
    }

    fn subject_alt_name(&mut self, value: &'a [u8]) -> Result<()> {
        let mut outer = Reader::new(value);
        let mut names = Reader::new(outer.expect(SEQUENCE, "subjectAltName is not a SEQUENCE")?);
        outer.end("bytes stand behind subjectAltName")?;
        while !names.is_empty() {
            let (tag, content, _) = names.any()?;
            if tag == URI {
                self.uris.push(content);
            }
        }
        Ok(())
    }
}

/// Each number of an OID ends, and does not begin with a padding byte.
fn check_oid(oid: &[u8]) -> Result<()> {
    let mut begins = true;
    for byte in oid {
        if begins && *byte == 0x80 {
            return Err(Malformed("an OID is not written in its shortest form"));
        }
        begins = byte & 0x80 == 0;
    }
    if begins && !oid.is_empty() { Ok(()) } else { Err(Malformed("an OID is cut off")) }
}

fn time(reader: &mut Reader<'_>) -> Result<SystemTime> {
    const WRONG: Malformed = Malformed("a time is not `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`");
    let (tag, text, _) = reader.any()?;
    let digits = |bytes: &[u8]| {
        bytes.iter().try_fold(0u64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
    };
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 13) => {
            let year = digits(&text[..2]).ok_or(WRONG)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 15) => (digits(&text[..4]).ok_or(WRONG)?, &text[4..]),
        _ => return Err(WRONG),
    };
    let mut parts = [0; 5];
    for (part, pair) in parts.iter_mut().zip(rest[..10].chunks(2)) {
        *part = digits(pair).ok_or(WRONG)?;
    }
    let [month, day, hour, minute, second] = parts;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let known = rest[10] == b'Z'
        && (1..=12).contains(&month)
        && day >= 1
        && day <= days_of[(month - 1) as usize]
        && hour < 24
        && minute < 60
        && second < 60;
    if !known || year < 1970 {
        return Err(WRONG);
    }
    let years = year - 1970;
    let leaps = (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400 - (1969 / 4 - 1969 / 100 + 1969 / 400);
    let days = years * 365 + leaps + days_of[..(month - 1) as usize].iter().sum::<u64>() + day - 1;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(WRONG)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
        SanType,
    };

    use super::*;

    fn seconds(at: SystemTime) -> u64 {
        at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |tag, text: &str| {
            let bytes = [&[tag, text.len() as u8], text.as_bytes()].concat();
            time(&mut Reader::new(&bytes)).map(seconds)
        };
        assert_eq!(at(UTC_TIME, "700101000000Z"), Ok(0));
        assert_eq!(at(UTC_TIME, "240229235959Z"), Ok(1_709_251_199));
        assert_eq!(at(GENERALIZED_TIME, "20510203040506Z"), Ok(2_559_009_906));
        assert_eq!(at(GENERALIZED_TIME, "99991231235959Z"), Ok(253_402_300_799));
        for wrong in
            ["230229000000Z", "231301000000Z", "230101240000Z", "230101000060Z", "230101000000+", "2301010000Z"]
        {
            assert!(at(UTC_TIME, wrong).is_err(), "{wrong}");
        }
        assert!(at(UTC_TIME, "691231235959Z").is_err());
    }

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new([]).unwrap();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn what_identity_asks_is_read() {
        let der = certificate(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(2));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.subject_alt_names = vec![
                SanType::URI("spiffe://a/b".try_into().unwrap()),
                SanType::DnsName("x".try_into().unwrap()),
                SanType::URI("https://c".try_into().unwrap()),
            ];
        });
        let facts = Facts::read(&der).unwrap();
        assert_eq!((facts.ca, facts.path_len, facts.both_auth), (Some(true), Some(2), Some(false)));
        let usage = facts.key_usage.unwrap();
        assert!(usage.critical && usage.key_cert_sign && usage.crl_sign && !usage.digital_signature);
        assert_eq!(facts.uris, [&b"spiffe://a/b"[..], b"https://c"]);
        assert_eq!(facts.issuer, facts.subject);
        assert!(!facts.development && facts.not_before < facts.not_after);
    }

    #[test]
    fn an_extension_that_stands_twice_is_refused() {
        let der = certificate(|params| {
            let once = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            params.custom_extensions = vec![once.clone(), once];
        });
        assert_eq!(Facts::read(&der), Err(Malformed("an extension stands twice")));
    }

    #[test]
    fn no_prefix_and_no_longer_form_of_a_certificate_is_one() {
        let der = certificate(|_| {});
        for length in 0..der.len() {
            assert!(Facts::read(&der[..length]).is_err(), "{length}");
        }
        assert!(Facts::read(&[&der[..], &[0]].concat()).is_err());
        let mut long = vec![SEQUENCE, 0x83, 0];
        long.extend_from_slice(&der[2..]);
        assert!(Facts::read(&long).is_err());
        assert!(Facts::read(&[SEQUENCE, 0x80, 0, 0]).is_err());
        assert!(Facts::read(&[0x3f, 0x81, 1, 0]).is_err());
    }

    #[test]
    fn numbers_of_oids_are_written_in_their_shortest_form() {
        assert!(check_oid(DEVELOPMENT).is_ok() && check_oid(SERVER_AUTH).is_ok());
        for wrong in [&[][..], &[0x80, 1], &[0x55, 0x80, 0x13], &[0x55, 0x9d]] {
            assert!(check_oid(wrong).is_err(), "{wrong:?}");
        }
    }
}
