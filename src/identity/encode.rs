//! Writing DER: what a request for a certificate is made of.

use super::der;

/// A value of this tag, made of these parts.
pub(super) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 5);
    out.push(tag);
    match length {
        0..=0x7f => out.push(length as u8),
        _ => {
            let bytes = length.to_be_bytes();
            let digits = &bytes[length.leading_zeros() as usize / 8..];
            out.push(0x80 | digits.len() as u8);
            out.extend_from_slice(digits);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(der::SEQUENCE, parts)
}

/// An extension, its value wrapped as it has to be.
pub(super) fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let (oid, value) = (tlv(der::OID, &[oid]), tlv(der::OCTET_STRING, &[value]));
    let critical: &[u8] = if critical { &[der::BOOLEAN, 1, 0xff] } else { &[] };
    sequence(&[&oid, critical, &value])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::der::Reader;

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let bytes = vec![7; length];
            let written = tlv(der::OCTET_STRING, &[&bytes[..length / 2], &bytes[length / 2..]]);
            assert_eq!(Reader::new(&written).only(der::OCTET_STRING).unwrap().value, bytes);
        }
    }
}
