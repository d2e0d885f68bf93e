//! The strict reading of a path: one pass, and nothing allocated unless something is percent-encoded.

use super::Ambiguous;

/// What a byte of a path is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Slash,
    Dot,
    Percent,
    Backslash,
    /// Controls, spaces and everything that is not ASCII.
    Raw,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Plain; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'/' => Class::Slash,
            b'.' => Class::Dot,
            b'%' => Class::Percent,
            b'\\' => Class::Backslash,
            0..=0x20 | 0x7f..=0xff => Class::Raw,
            _ => Class::Plain,
        };
        byte += 1;
    }
    classes
};

/// RFC 3986 §2.3: encoding these changes nothing but what a filter sees.
pub(super) const fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The byte that `%XX` at the start of `text` stands for.
pub(super) fn decode_at(text: &[u8]) -> Option<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| (*byte as char).to_digit(16)).map(|digit| digit as u8);
    match (digit(text.get(1)), digit(text.get(2))) {
        (Some(high), Some(low)) => Some(high << 4 | low),
        _ => None,
    }
}

/// Checks a path without its query. `Some` is its decoded form, where that differs.
///
/// # Errors
/// If two readers could take it for two different paths.
pub(super) fn strict(path: &str) -> Result<Option<Box<str>>, Ambiguous> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(Ambiguous::path("it does not begin with `/`"));
    }
    // Where the segment began, and whether it is dots so far.
    let mut segment = 1;
    let mut dots = true;
    let mut decoded: Option<Vec<u8>> = None;
    let mut at = 1;
    while at < bytes.len() {
        let byte = bytes[at];
        let mut value = byte;
        match CLASSES[byte as usize] {
            Class::Plain => dots = false,
            Class::Dot => {}
            Class::Slash => {
                if at == segment {
                    return Err(Ambiguous::path("it has an empty segment (`//`)"));
                }
                if dots && at - segment <= 2 {
                    return Err(DOTS);
                }
                (segment, dots) = (at + 1, true);
            }
            Class::Backslash => return Err(Ambiguous::path("it has a `\\`")),
            Class::Raw => {
                return Err(Ambiguous::path("it has a control character, a space or a byte outside of ASCII"));
            }
            Class::Percent => {
                dots = false;
                value = match decode_at(&bytes[at..]) {
                    None => return Err(Ambiguous::path("a `%` is not followed by two hexadecimal digits")),
                    Some(b'/' | b'\\') => return Err(Ambiguous::path("it has an encoded slash (`%2F`, `%5C`)")),
                    Some(b'%') => return Err(Ambiguous::path("it has an encoded `%` (`%25`): encoded twice")),
                    Some(0..=0x1f | 0x7f) => return Err(Ambiguous::path("it has an encoded control character")),
                    Some(byte) if unreserved(byte) => {
                        return Err(Ambiguous::path("it encodes a character that needs no encoding"));
                    }
                    Some(byte) => byte,
                };
                decoded.get_or_insert_with(|| bytes[..at].to_vec());
            }
        }
        if let Some(decoded) = &mut decoded {
            decoded.push(value);
        }
        at += if byte == b'%' { 3 } else { 1 };
    }
    if dots && (1..=2).contains(&(bytes.len() - segment)) {
        return Err(DOTS);
    }
    let utf8 = |bytes| String::from_utf8(bytes).map(String::into_boxed_str);
    decoded.map(utf8).transpose().map_err(|_| Ambiguous::path("decoded it is not UTF-8"))
}

const DOTS: Ambiguous = Ambiguous::path("it has a segment `.` or `..`");

/// Whether this is the path of a gRPC method: `/package.Service/Method`.
pub(super) fn is_grpc_method(path: &str) -> bool {
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else { return false };
    let name = |text: &str, dots: bool| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || dots && b == b'.')
    };
    name(service, true) && name(method, true)
}

/// Why no canonical path of [`strict`] holds this text.
pub(crate) fn never_in_strict(text: &str) -> Option<&'static str> {
    // Dots are a segment only where slashes are on both sides.
    let dots = ["/./", "/../"].iter().any(|dots| text.contains(dots));
    match () {
        () if text.contains('%') => Some("patterns see paths decoded"),
        () if text.contains('\\') => Some("a path with `\\` is refused"),
        () if text.contains("//") => Some("a path with `//` is refused"),
        () if dots => Some("a path with `.` or `..` is refused"),
        () if text.chars().any(char::is_control) => Some("a path with control characters is refused"),
        () => None,
    }
}
