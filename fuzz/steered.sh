#!/usr/bin/env bash
# Each target under libFuzzer, steered by coverage, on a stable toolchain: `steered.sh [--seconds N] [TARGET...]`.
#
# The compiler's coverage pass is asked for by name, so neither a nightly toolchain nor cargo-fuzz is needed, only a C++
# compiler; what cargo-fuzz adds, a sanitizer, has nothing to find in a crate without unsafe code. Inputs that reach new code are kept
# in corpus/TARGET, one that fails in artifacts/. Ends with 1 at the first that fails.
set -euo pipefail
cd "$(dirname "$0")"

seconds=900
[ "${1:-}" = --seconds ] && { seconds=$2; shift 2; }
[ $# -gt 0 ] || set -- $(ls seeds)

# For the host named by itself, so that build scripts are compiled without any of it.
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module"
for arg in level=4 inline-8bit-counters pc-table trace-compares; do
    RUSTFLAGS+=" -Cllvm-args=-sanitizer-coverage-$arg"
done
export CARGO_TARGET_DIR=target/steered
cargo build --release --features libfuzzer --bin target --target "$host"

mkdir -p artifacts
for target in "$@"; do
    echo "-- $target"
    mkdir -p "corpus/$target"
    SINEW_FUZZ_TARGET=$target "$CARGO_TARGET_DIR/$host/release/target" "corpus/$target" "seeds/$target" \
        -max_total_time="$seconds" -max_len=16384 -timeout=10 -artifact_prefix=artifacts/ -verbosity=0 -print_final_stats=1
done
