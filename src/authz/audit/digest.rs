//! The hash of a line.

#[cfg(feature = "aws-lc")]
use aws_lc_rs::{digest, hmac};
#[cfg(all(feature = "ring", not(feature = "aws-lc")))]
use ring::{digest, hmac};

/// SHA-256, with a key HMAC-SHA-256. `None` where no cryptography is built in.
#[cfg(any(feature = "aws-lc", feature = "ring"))]
pub(super) fn digest(key: Option<&[u8]>, text: &[u8]) -> Option<[u8; 32]> {
    match key {
        None => digest::digest(&digest::SHA256, text).as_ref().try_into().ok(),
        Some(key) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().try_into().ok(),
    }
}

#[cfg(not(any(feature = "aws-lc", feature = "ring")))]
pub(super) fn digest(_key: Option<&[u8]>, _text: &[u8]) -> Option<[u8; 32]> {
    None
}

/// As it stands in a line.
pub(super) fn hex(hash: &[u8; 32]) -> String {
    use std::fmt::Write;
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
