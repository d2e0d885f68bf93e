//! A reader of DER that accepts one encoding of each value: definite, minimal lengths and low tag numbers only.
//!
//! Path building is left to a library; what must be *counted* (names, extensions) is read here, because a library that
//! skips what it does not understand cannot say "exactly one".

/// Why bytes are not the DER that was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadDer(pub(crate) &'static str);

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;

/// `[n]`, primitive.
pub(crate) const fn context(n: u8) -> u8 {
    0x80 | n
}

/// `[n]`, constructed.
pub(crate) const fn constructed(n: u8) -> u8 {
    0xa0 | n
}

/// One value with its tag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tlv<'a> {
    pub(crate) tag: u8,
    pub(crate) value: &'a [u8],
    /// Tag, length and value.
    pub(crate) whole: &'a [u8],
}

/// Reads values one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The tag of the next value.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next value, whatever it is.
    pub(crate) fn any(&mut self) -> Result<Tlv<'a>, BadDer> {
        let start = self.rest;
        let (&tag, rest) = start.split_first().ok_or(BadDer("a value is missing"))?;
        if tag & 0x1f == 0x1f {
            return Err(BadDer("a tag number above 30"));
        }
        let (&first, mut rest) = rest.split_first().ok_or(BadDer("a length is missing"))?;
        let length = match first {
            0..=0x7f => usize::from(first),
            0x80 => return Err(BadDer("an indefinite length")),
            // Four bytes of length are more than anything here may have.
            0x81..=0x84 => {
                let bytes = usize::from(first & 0x7f);
                let (digits, behind) = rest.split_at_checked(bytes).ok_or(BadDer("a length is cut short"))?;
                rest = behind;
                let length = digits.iter().fold(0u64, |length, digit| length << 8 | u64::from(*digit));
                if digits[0] == 0 || length < 0x80 {
                    return Err(BadDer("a length that is not minimal"));
                }
                usize::try_from(length).map_err(|_| BadDer("a length beyond memory"))?
            }
            _ => return Err(BadDer("a length of more than four bytes")),
        };
        let (value, rest) = rest.split_at_checked(length).ok_or(BadDer("a value is cut short"))?;
        self.rest = rest;
        Ok(Tlv { tag, value, whole: &start[..start.len() - rest.len()] })
    }

    /// The next value, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<Tlv<'a>, BadDer> {
        let found = self.any()?;
        if found.tag == tag { Ok(found) } else { Err(BadDer("a value of another type")) }
    }

    /// The next value if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Tlv<'a>>, BadDer> {
        if self.peek() == Some(tag) { self.any().map(Some) } else { Ok(None) }
    }

    /// The value with this tag that is all there is.
    pub(crate) fn only(mut self, tag: u8) -> Result<Tlv<'a>, BadDer> {
        let found = self.expect(tag)?;
        self.end()?;
        Ok(found)
    }

    /// That nothing follows.
    pub(crate) fn end(self) -> Result<(), BadDer> {
        if self.rest.is_empty() { Ok(()) } else { Err(BadDer("bytes behind the end")) }
    }
}

impl<'a> Tlv<'a> {
    /// The values inside.
    pub(crate) fn inside(&self) -> Reader<'a> {
        Reader::new(self.value)
    }

    /// A boolean: 0x00 or 0xff.
    pub(crate) fn boolean(&self) -> Result<bool, BadDer> {
        match self.value {
            [0x00] => Ok(false),
            [0xff] => Ok(true),
            _ => Err(BadDer("a boolean that is neither 00 nor FF")),
        }
    }

    /// The bytes of an integer, minimal and not empty.
    pub(crate) fn integer(&self) -> Result<&'a [u8], BadDer> {
        match self.value {
            [] => Err(BadDer("an integer without bytes")),
            [0x00, next, ..] if next & 0x80 == 0 => Err(BadDer("an integer that is not minimal")),
            [0xff, next, ..] if next & 0x80 != 0 => Err(BadDer("an integer that is not minimal")),
            bytes => Ok(bytes),
        }
    }

    /// A small integer that is not negative.
    pub(crate) fn small(&self) -> Result<u32, BadDer> {
        let bytes = self.integer()?;
        if bytes[0] & 0x80 != 0 || bytes.len() > 4 {
            return Err(BadDer("an integer out of bounds"));
        }
        Ok(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    /// The bytes of an object identifier: every arc minimal and complete.
    pub(crate) fn oid(&self) -> Result<&'a [u8], BadDer> {
        let mut first = true;
        for byte in self.value {
            if first && *byte == 0x80 {
                return Err(BadDer("an object identifier that is not minimal"));
            }
            first = byte & 0x80 == 0;
        }
        if first && !self.value.is_empty() { Ok(self.value) } else { Err(BadDer("an object identifier cut short")) }
    }

    /// The named bits of a bit string, the first one highest; at most 16 and without trailing zeros.
    pub(crate) fn named_bits(&self) -> Result<u16, BadDer> {
        let (&unused, bytes) = self.value.split_first().ok_or(BadDer("a bit string without bytes"))?;
        let last = bytes.last().copied();
        if unused > 7 || (unused > 0 && last.is_none()) {
            return Err(BadDer("a bit string with a wrong count of unused bits"));
        }
        if let Some(last) = last {
            // Named bits end with a one: trailing zeros, and what is unused, are not encoded.
            if last.trailing_zeros() != u32::from(unused) {
                return Err(BadDer("a bit string that is not minimal"));
            }
        }
        match bytes {
            [] => Ok(0),
            [high] => Ok(u16::from(*high) << 8),
            [high, low] => Ok(u16::from(*high) << 8 | u16::from(*low)),
            _ => Err(BadDer("a bit string of more than 16 bits")),
        }
    }

    /// Seconds since 1970 of a UTCTime or GeneralizedTime as RFC 5280 §4.1.2.5 wants them: to the second, in Zulu time.
    pub(crate) fn time(&self) -> Result<u64, BadDer> {
        const BAD: BadDer = BadDer("a time that is not written as RFC 5280 wants it");
        let (year, rest) = match (self.tag, self.value.len()) {
            (UTC_TIME, 13) => {
                let year = digits(&self.value[..2]).ok_or(BAD)?;
                (if year < 50 { 2000 + year } else { 1900 + year }, &self.value[2..])
            }
            (GENERALIZED_TIME, 15) => (digits(&self.value[..4]).ok_or(BAD)?, &self.value[4..]),
            _ => return Err(BAD),
        };
        let mut parts = [0u32; 5];
        for (part, text) in parts.iter_mut().zip(rest.chunks(2)) {
            *part = digits(text).ok_or(BAD)?;
        }
        let [month, day, hour, minute, second] = parts;
        if rest[10] != b'Z' || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
            return Err(BAD);
        }
        if day == 0 || day > days_in(year, month) {
            return Err(BAD);
        }
        let days = days_since_1970(year, month, day).ok_or(BAD)?;
        Ok(days * 86_400 + u64::from(hour) * 3600 + u64::from(minute) * 60 + u64::from(second))
    }
}

fn digits(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u32::from(digit - b'0')))
}

fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u32, month: u32) -> u32 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: u32, month: u32, day: u32) -> Option<u64> {
    let years = year.checked_sub(1970)?;
    let before = |year: u32| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let months: u32 = (1..month).map(|month| days_in(year, month)).sum();
    Some(u64::from(years * 365 + before(year) - before(1970) + months + day - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Tlv<'_>, BadDer> {
        let mut reader = Reader::new(bytes);
        let value = reader.any()?;
        reader.end()?;
        Ok(value)
    }

    #[test]
    fn there_is_one_encoding_of_a_length() {
        assert_eq!(read(&[0x04, 0x01, 0x07]).unwrap().value, [7]);
        let long = [&[0x04, 0x81, 0x80][..], &[0; 128]].concat();
        assert_eq!(read(&long).unwrap().value.len(), 128);
        for bad in [
            &[][..],
            &[0x04],
            &[0x04, 0x01],
            &[0x04, 0x80, 0x00, 0x00],
            &[0x04, 0x81, 0x01, 0x00],
            &[0x04, 0x82, 0x00, 0x01, 0x00],
            &[0x04, 0x85, 0, 0, 0, 0, 1, 0],
            &[0x04, 0x84, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x1f, 0x01, 0x00],
            &[0x04, 0x00, 0x00],
        ] {
            assert!(read(bad).is_err(), "{bad:02x?}");
        }
    }

    #[test]
    fn values_are_minimal() {
        let tlv = |tag, value| Tlv { tag, value, whole: value };
        assert!(tlv(INTEGER, &[0x00, 0x80]).integer().is_ok());
        for bad in [&[][..], &[0x00, 0x7f], &[0xff, 0x80]] {
            assert!(tlv(INTEGER, bad).integer().is_err());
        }
        assert_eq!(tlv(INTEGER, &[1, 0]).small(), Ok(256));
        assert!(tlv(INTEGER, &[0x80]).small().is_err() && tlv(INTEGER, &[1, 0, 0, 0, 0]).small().is_err());
        assert!(tlv(BOOLEAN, &[1]).boolean().is_err());
        assert!(tlv(OID, &[0x55, 0x1d, 0x11]).oid().is_ok());
        for bad in [&[][..], &[0x55, 0x80, 0x11], &[0x55, 0x9d], &[0x80, 0x01]] {
            assert!(tlv(OID, bad).oid().is_err(), "{bad:02x?}");
        }
        assert_eq!(tlv(BIT_STRING, &[7, 0x80]).named_bits(), Ok(0x8000));
        assert_eq!(tlv(BIT_STRING, &[1, 0x06]).named_bits(), Ok(0x0600));
        assert_eq!(tlv(BIT_STRING, &[7, 0x00, 0x80]).named_bits(), Ok(0x0080));
        assert_eq!(tlv(BIT_STRING, &[0]).named_bits(), Ok(0));
        for bad in [&[][..], &[8, 0x80], &[1], &[0, 0x80], &[7, 0xc0], &[0, 0x00], &[0, 1, 1, 1]] {
            assert!(tlv(BIT_STRING, bad).named_bits().is_err(), "{bad:02x?}");
        }
    }

    #[test]
    fn times_are_read_to_the_second() {
        let time = |tag, text: &'static str| Tlv { tag, value: text.as_bytes(), whole: &[] }.time();
        assert_eq!(time(UTC_TIME, "700101000000Z"), Ok(0));
        assert_eq!(time(UTC_TIME, "491231235959Z"), Ok(2_524_607_999));
        assert_eq!(time(GENERALIZED_TIME, "20240229120000Z"), Ok(1_709_208_000));
        assert_eq!(time(GENERALIZED_TIME, "20380119031408Z"), Ok(1 << 31));
        assert_eq!(time(GENERALIZED_TIME, "99991231235959Z"), Ok(253_402_300_799));
        for bad in [
            "20230229120000Z",
            "20241301000000Z",
            "20240100000000Z",
            "20240101240000Z",
            "2024010100000+Z",
            "202401010000000",
        ] {
            assert!(time(GENERALIZED_TIME, bad).is_err(), "{bad}");
        }
        assert!(time(UTC_TIME, "691231235959Z").is_err());
        assert!(time(UTC_TIME, "2401010000Z").is_err() && time(GENERALIZED_TIME, "240101000000Z").is_err());
        assert!(time(GENERALIZED_TIME, "20240101000000.1Z").is_err());
        assert!(
            time(GENERALIZED_TIME, "19690101000000Z").is_err() && time(GENERALIZED_TIME, "00000101000000Z").is_err()
        );
    }
}
