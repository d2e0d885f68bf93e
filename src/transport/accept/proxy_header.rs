//! The PROXY protocol, versions 1 and 2: what a balancer says of the connection that it passes on.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Strict, since the header is believed: what is optional in
//! it is checked where it is there, and whatever does not follow the text ends the connection. Never more is read than the
//! header, so that nothing of what follows is lost.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_HEAD: usize = 16;
/// Longest header of version 2 that is taken: 16 bytes and room for addresses and a few extensions.
const V2_MOST: usize = 536;
/// Longest line of version 1, its end included.
const V1_MOST: usize = 107;
/// The shortest line of version 1 is `PROXY UNKNOWN\r\n`, and longer than the signature of version 2.
const LEAST: usize = SIGNATURE.len();
/// Extension that holds a checksum of the header.
const CRC32C: u8 = 3;

/// What is known after some bytes of a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parsed {
    /// At least so many bytes more belong to it.
    More(usize),
    /// It is whole. `None`: the balancer speaks for itself, or does not know.
    Done(Option<SocketAddr>),
    /// It is none, and why.
    Bad(&'static str),
}

/// Reads the header, and says where the connection comes from.
pub(super) async fn read<I: AsyncRead + Unpin + ?Sized>(io: &mut I) -> io::Result<Option<SocketAddr>> {
    let mut bytes = Vec::with_capacity(V1_MOST);
    loop {
        match parse(&bytes) {
            Parsed::Done(source) => return Ok(source),
            Parsed::Bad(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
            Parsed::More(more) => {
                let have = bytes.len();
                bytes.resize(have + more, 0);
                io.read_exact(&mut bytes[have..]).await?;
            }
        }
    }
}

/// Judges the first bytes of a connection, which are never more than its header.
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let begin = &bytes[..bytes.len().min(LEAST)];
    if SIGNATURE.starts_with(begin) {
        if bytes.len() < LEAST { Parsed::More(LEAST - bytes.len()) } else { version2(bytes) }
    } else if bytes.starts_with(b"PROXY ") {
        version1(bytes)
    } else {
        Parsed::Bad("it does not begin with a PROXY header")
    }
}

fn version1(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return match bytes.len() {
            V1_MOST.. => Parsed::Bad("the line is longer than 107 bytes"),
            _ if bytes.last() == Some(&b'\r') => Parsed::More(1),
            // At least the two bytes of the end, as far as they fit.
            len => Parsed::More((V1_MOST - len).min(2)),
        };
    };
    let line = bytes[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let Some(line) = line.filter(|_| end + 1 == bytes.len()) else {
        return Parsed::Bad("the line does not end as it must");
    };
    if line == "PROXY UNKNOWN" || line.starts_with("PROXY UNKNOWN ") {
        return Parsed::Done(None);
    }
    let words: Vec<&str> = line.split(' ').collect();
    let addresses = match words[..] {
        ["PROXY", "TCP4", source, destination, from, to] => {
            pair::<Ipv4Addr>(source, destination).map(|ip| (IpAddr::V4(ip), from, to))
        }
        ["PROXY", "TCP6", source, destination, from, to] => {
            pair::<Ipv6Addr>(source, destination).map(|ip| (IpAddr::V6(ip), from, to))
        }
        _ => return Parsed::Bad("it is neither TCP4, TCP6 nor UNKNOWN with two addresses and two ports"),
    };
    match addresses.and_then(|(ip, from, to)| port(to).and(Some((ip, port(from)?)))) {
        Some((ip, port)) => Parsed::Done(Some(SocketAddr::new(ip, port))),
        None => Parsed::Bad("an address or a port of it is malformed"),
    }
}

/// The source, if both are addresses.
fn pair<A: FromStr>(source: &str, destination: &str) -> Option<A> {
    destination.parse::<A>().ok().and(source.parse().ok())
}

/// Decimal, without sign and leading zeros.
fn port(text: &str) -> Option<u16> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

fn version2(bytes: &[u8]) -> Parsed {
    if bytes.len() < V2_HEAD {
        return Parsed::More(V2_HEAD - bytes.len());
    }
    let (command, family) = (bytes[12], bytes[13]);
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if command >> 4 != 2 || command & 0xf > 1 {
        return Parsed::Bad("it is of a version or a command that is not known");
    }
    if V2_HEAD + length > V2_MOST {
        return Parsed::Bad("it is longer than 536 bytes");
    }
    let Some(rest) = bytes.get(V2_HEAD..V2_HEAD + length) else {
        return Parsed::More(V2_HEAD + length - bytes.len());
    };
    if bytes.len() > V2_HEAD + length {
        return Parsed::Bad("it is followed by something");
    }
    let addresses = match family {
        // What is local or unspecified may still carry what a family says, and nothing of it is used.
        _ if command & 0xf == 0 => return Parsed::Done(None),
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => return Parsed::Bad("it is of a family or a protocol that is not TCP"),
    };
    let Some((addresses, extensions)) = rest.split_at_checked(addresses) else {
        return Parsed::Bad("its addresses are cut short");
    };
    if let Err(why) = check(bytes, extensions) {
        return Parsed::Bad(why);
    }
    Parsed::Done(match addresses {
        [a, b, c, d, _, _, _, _, p, q, _, _] => {
            Some(SocketAddr::from(([*a, *b, *c, *d], u16::from_be_bytes([*p, *q]))))
        }
        [ips @ .., p, q, _, _] if ips.len() == 32 => {
            let ip = <[u8; 16]>::try_from(&ips[..16]).map(Ipv6Addr::from).ok();
            ip.map(|ip| SocketAddr::from((ip, u16::from_be_bytes([*p, *q]))))
        }
        _ => None,
    })
}

/// Walks the extensions; a checksum has to be right.
fn check(header: &[u8], mut extensions: &[u8]) -> Result<(), &'static str> {
    while let [kind, high, low, rest @ ..] = extensions {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = rest.split_at_checked(length).ok_or("an extension of it is cut short")?;
        if *kind == CRC32C {
            let told = <[u8; 4]>::try_from(value).map_err(|_| "its checksum is not four bytes")?;
            let at = header.len() - rest.len();
            let zeroed = [&header[..at], &[0; 4], next].concat();
            if crc32c(&zeroed) != u32::from_be_bytes(told) {
                return Err("its checksum is wrong");
            }
        }
        extensions = next;
    }
    if extensions.is_empty() { Ok(()) } else { Err("an extension of it is cut short") }
}

/// Castagnoli's, bit by bit: at most 536 bytes once a connection.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];

    #[test]
    fn version_1_is_read_as_it_is_written() {
        let done = |line: &str| parse(line.as_bytes());
        let source = |text: &str| Parsed::Done(Some(text.parse().unwrap()));
        assert_eq!(done("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"), source("192.0.2.1:56324"));
        assert_eq!(done("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n"), source("[2001:db8::1]:0"));
        assert_eq!(done("PROXY UNKNOWN\r\n"), Parsed::Done(None));
        assert_eq!(done("PROXY UNKNOWN ffff:f...f:ffff 1 2\r\n"), Parsed::Done(None));
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 16));
        assert_eq!((longest.len(), done(&longest)), (107, Parsed::Done(None)));
    }

    #[test]
    fn version_1_is_strict() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "proxy TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n",
            "PROXY  TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100 56324 443\r\n",
            "PROXY TCP4 2001:db8::1 ::1 56324 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 056 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +56 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY UNKNOWNX\r\n",
        ] {
            assert!(matches!(parse(line.as_bytes()), Parsed::Bad(_)), "{line:?}");
        }
        assert!(matches!(parse(&[&b"PROXY TCP4 "[..], &[b'1'; 96]].concat()), Parsed::Bad(_)));
    }

    #[test]
    fn version_2_is_read_as_it_is_written() {
        assert_eq!(parse(&v2(0x21, 0x11, &V4)), Parsed::Done(Some("192.0.2.1:56324".parse().unwrap())));
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        (v6[15], v6[33]) = (1, 80);
        assert_eq!(parse(&v2(0x21, 0x21, &v6)), Parsed::Done(Some("[2001:db8::1]:80".parse().unwrap())));
        assert_eq!(parse(&v2(0x20, 0x00, &[])), Parsed::Done(None));
        assert_eq!(parse(&v2(0x20, 0x11, &V4)), Parsed::Done(None), "a local one says nothing of others");
        assert_eq!(parse(&v2(0x21, 0x00, &[])), Parsed::Done(None));
        assert_eq!(parse(&v2(0x21, 0x31, &[0; 216])), Parsed::Done(None));
        let extended = [&V4[..], &[4, 0, 2, 9, 9]].concat();
        assert!(matches!(parse(&v2(0x21, 0x11, &extended)), Parsed::Done(Some(_))));
        assert!(matches!(parse(&v2(0x21, 0x00, &[4; 0])), Parsed::Done(None)));
    }

    #[test]
    fn version_2_is_strict() {
        let long = [&V4[..], &[4, 2, 0], &[0; 512]].concat();
        for (what, bytes) in [
            ("version", v2(0x11, 0x11, &V4)),
            ("command", v2(0x22, 0x11, &V4)),
            ("datagrams", v2(0x21, 0x12, &V4)),
            ("family", v2(0x21, 0x41, &V4)),
            ("short", v2(0x21, 0x11, &V4[..11])),
            ("extension", v2(0x21, 0x11, &[&V4[..], &[4, 0]].concat())),
            ("extension's length", v2(0x21, 0x11, &[&V4[..], &[4, 0, 3, 1]].concat())),
            ("length", v2(0x21, 0x11, &long)),
            ("checksum's length", v2(0x21, 0x11, &[&V4[..], &[3, 0, 1, 0]].concat())),
        ] {
            assert!(matches!(parse(&bytes), Parsed::Bad(_)), "{what}");
        }
    }

    #[test]
    fn a_checksum_is_checked() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let with = |sum: u32| v2(0x21, 0x11, &[&V4[..], &[3, 0, 4], &sum.to_be_bytes(), &[4, 0, 0]].concat());
        let right = crc32c(&with(0));
        assert!(matches!(parse(&with(right)), Parsed::Done(Some(_))));
        assert!(matches!(parse(&with(right ^ 1)), Parsed::Bad(_)));
    }

    #[tokio::test]
    async fn not_a_byte_of_what_follows_is_read() {
        for header in [&b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n"[..], b"PROXY UNKNOWN\r\n", &v2(0x21, 0x11, &V4)] {
            let bytes = [header, b"GET"].concat();
            let mut io = &bytes[..];
            read(&mut io).await.unwrap();
            assert_eq!(io, b"GET");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_within_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..600), v1 in 0usize..3) {
            let begin: &[u8] = [&b""[..], b"PROXY ", SIGNATURE][v1];
            let bytes = [begin, &bytes].concat();
            let mut have = 0;
            loop {
                match parse(&bytes[..have]) {
                    Parsed::More(0) => prop_assert!(false, "it asks for nothing"),
                    Parsed::More(more) if have + more > bytes.len() => break,
                    Parsed::More(more) => have += more,
                    _ => break,
                }
                prop_assert!(have <= V2_MOST);
            }
        }
    }
}
