//! Istio's path normalization, for services whose callers send paths that `strict` refuses.

use std::borrow::Cow;

use super::{
    Ambiguous,
    path::{decode_at, unreserved},
};

/// How the path of a request is made to have one meaning. Default [`Strict`](PathNormalization::Strict).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum PathNormalization {
    /// Refuses what can be read in two ways: encoded slashes, `%25`, encoded control characters and unreserved
    /// characters, malformed `%`, raw bytes outside of ASCII, `\`, `//`, segments `.` and `..`. Patterns match the path
    /// percent-decoded once; the application gets it as it arrived.
    #[default]
    Strict,
    /// Takes the path as it is. Rules and application must agree about its meaning by themselves.
    None,
    /// Resolves `.` and `..`, turns `\` into `/`, decodes unreserved characters.
    Base,
    /// As `base`, then merges slashes.
    MergeSlashes,
    /// Decodes `%2F` and `%5C` first, then as `merge_slashes`.
    DecodeAndMergeSlashes,
}

impl PathNormalization {
    /// The word in `sinew.yaml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::None => "none",
            Self::Base => "base",
            Self::MergeSlashes => "merge_slashes",
            Self::DecodeAndMergeSlashes => "decode_and_merge_slashes",
        }
    }

    /// Every level.
    pub const ALL: [Self; 5] = [Self::Strict, Self::None, Self::Base, Self::MergeSlashes, Self::DecodeAndMergeSlashes];
}

/// The path without query as this level has it.
///
/// # Errors
/// If it has `%00`, at any level, or a malformed `%` at a level that decodes.
pub(super) fn normalize(path: &str, level: PathNormalization) -> Result<Cow<'_, str>, Ambiguous> {
    if path.contains("%00") {
        return Err(Ambiguous::path("it has an encoded NUL"));
    }
    if matches!(level, PathNormalization::None | PathNormalization::Strict) {
        return Ok(Cow::Borrowed(path));
    }
    let slashes = level == PathNormalization::DecodeAndMergeSlashes;
    let decoded = decode(path.as_bytes(), slashes)?;
    let mut resolved = resolve_dots(&decoded);
    if level != PathNormalization::Base {
        resolved.dedup_by(|b, a| *a == b'/' && *b == b'/');
    }
    if resolved == path.as_bytes() {
        return Ok(Cow::Borrowed(path));
    }
    String::from_utf8(resolved).map(Cow::Owned).map_err(|_| Ambiguous::path("it is not UTF-8"))
}

/// Decodes what changes nothing, encodes what may not stand raw, and makes one slash of two kinds.
fn decode(path: &[u8], slashes: bool) -> Result<Vec<u8>, Ambiguous> {
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        match path[at] {
            b'%' => {
                let Some(byte) = decode_at(&path[at..]) else {
                    return Err(Ambiguous::path("a `%` is not followed by two hexadecimal digits"));
                };
                match byte {
                    b'/' | b'\\' if slashes => out.push(b'/'),
                    byte if unreserved(byte) => out.push(byte),
                    _ => out.extend_from_slice(&path[at..at + 3]),
                }
                at += 3;
                continue;
            }
            b'\\' => out.push(b'/'),
            byte @ (0..=0x20 | b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | 0x7f..) => {
                out.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
            byte => out.push(byte),
        }
        at += 1;
    }
    Ok(out)
}

/// RFC 3986 §5.2.4.
fn resolve_dots(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut parts = path.strip_prefix(b"/").unwrap_or(path).split(|byte| *byte == b'/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            b"." => {}
            b".." => {
                segments.pop();
            }
            part => {
                segments.push(part);
                continue;
            }
        }
        if last {
            // `/a/.` and `/a/b/..` are directories.
            segments.push(b"");
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for segment in segments {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}
