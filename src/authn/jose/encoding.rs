//! base64url in its one canonical form: no padding, no whitespace, no bits set behind the last byte.

use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

const STRICT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(false),
);

pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    STRICT.decode(text).ok()
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    STRICT.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_decodes() {
        assert_eq!(decode("Zm9v").as_deref(), Some(b"foo".as_slice()));
        assert_eq!(decode("_-8").as_deref(), Some([0xff, 0xef].as_slice()));
        assert_eq!(decode("").as_deref(), Some([].as_slice()));
        for bad in ["Zm9v=", "Zm8=", "Zm9", "Z", "Zm9v\n", " Zm9v", "+/8", "_-9", "Zm9v.", "Zm9v%3D"] {
            assert!(decode(bad).is_none(), "{bad}");
        }
    }
}
