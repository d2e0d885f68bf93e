//! The one binary for libFuzzer, built and run by `steered.sh`.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("SINEW_FUZZ_TARGET").expect("SINEW_FUZZ_TARGET names a target");
        let found = sinew::fuzzing::TARGETS.iter().find(|(known, _)| *known == name);
        found.expect("SINEW_FUZZ_TARGET is a target").1
    })(data);
});
