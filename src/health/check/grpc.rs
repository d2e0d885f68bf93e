//! The two messages of `grpc.health.v1`, by hand: one field each does not need a code generator.
//!
//! `HealthCheckRequest { string service = 1 }`, `HealthCheckResponse { ServingStatus status = 1 }`, each behind gRPC's
//! prefix of a flag and a length.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A request, framed.
pub(crate) fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | LENGTH_DELIMITED);
        varint(service.len() as u64, &mut message);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed.freeze()
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

const PREFIX: usize = 5;

/// No status takes more.
const MOST: usize = 4 * 1024;

fn varint(mut value: u64, into: &mut BytesMut) {
    while value >= 0x80 {
        into.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    into.put_u8(value as u8);
}

/// What a server says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ServingStatus {
    Unknown,
    Serving,
    NotServing,
    ServiceUnknown,
}

impl ServingStatus {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Serving => "SERVING",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }

    /// Unknown fields are skipped, as protobuf asks for; an unknown status is not `SERVING`.
    fn decode(mut message: &[u8]) -> Option<Self> {
        let mut status = 0;
        while message.has_remaining() {
            let key = read_varint(&mut message)?;
            match (key >> 3, (key & 7) as u8) {
                (1, VARINT) => status = read_varint(&mut message)?,
                (_, VARINT) => drop(read_varint(&mut message)?),
                (_, FIXED64) => message = message.get(8..)?,
                (_, FIXED32) => message = message.get(4..)?,
                (_, LENGTH_DELIMITED) => {
                    let length = usize::try_from(read_varint(&mut message)?).ok()?;
                    message = message.get(length..)?;
                }
                _ => return None,
            }
        }
        Some(match status {
            1 => Self::Serving,
            2 => Self::NotServing,
            3 => Self::ServiceUnknown,
            _ => Self::Unknown,
        })
    }
}

fn read_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *from.first()?;
        *from = &from[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Responses, as they come in pieces.
#[derive(Default)]
pub(crate) struct Messages {
    bytes: BytesMut,
}

impl Messages {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next response that has come whole.
    ///
    /// # Errors
    /// If what came is not one.
    pub(crate) fn next(&mut self) -> Result<Option<ServingStatus>, &'static str> {
        let Some(prefix) = self.bytes.first_chunk::<PREFIX>() else { return Ok(None) };
        let [flag, length @ ..] = *prefix;
        let length = u32::from_be_bytes(length) as usize;
        if flag != 0 {
            return Err("the answer is compressed, which was not offered");
        }
        if length > MOST {
            return Err("the answer is too long");
        }
        if self.bytes.len() < PREFIX + length {
            return Ok(None);
        }
        self.bytes.advance(PREFIX);
        let message = self.bytes.split_to(length);
        ServingStatus::decode(&message).map(Some).ok_or("the answer is not a message of grpc.health.v1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_protobuf_makes_of_them() {
        assert_eq!(&request("")[..], b"\0\0\0\0\0");
        assert_eq!(&request("abc")[..], b"\0\0\0\0\x05\x0a\x03abc");
        let long = request(&"x".repeat(300));
        assert_eq!((&long[..8], long.len()), (&b"\0\0\0\x01\x2f\x0a\xac\x02"[..], 5 + 303));
    }

    #[test]
    fn responses_come_in_any_pieces() {
        let bytes = b"\0\0\0\0\x02\x08\x01\0\0\0\0\0\0\0\0\0\x02\x08\x02\0\0\0\0\x02\x08\x03\0\0\0\0\x02\x08\x63";
        for size in 1..=bytes.len() {
            let mut messages = Messages::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                messages.push(piece);
                while let Some(serving) = messages.next().unwrap() {
                    found.push(serving);
                }
            }
            let expected = [
                ServingStatus::Serving,
                ServingStatus::Unknown,
                ServingStatus::NotServing,
                ServingStatus::ServiceUnknown,
                ServingStatus::Unknown,
            ];
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn unknown_fields_are_skipped_and_nonsense_is_refused() {
        let decode = |message: &[u8]| ServingStatus::decode(message);
        assert_eq!(decode(b"\x12\x02hi\x08\x01\x1d1234\x2112345678\x28\x80\x01"), Some(ServingStatus::Serving));
        for wrong in
            [&b"\x08"[..], b"\x12\x05hi", b"\x1d1", b"\x0b", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
        {
            assert_eq!(decode(wrong), None, "{wrong:?}");
        }
        let mut messages = Messages::default();
        messages.push(b"\x01\0\0\0\x01x");
        assert!(messages.next().is_err());
        let mut messages = Messages::default();
        messages.push(b"\0\xff\xff\xff\xff");
        assert!(messages.next().is_err());
    }
}
