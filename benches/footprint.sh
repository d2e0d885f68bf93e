#!/usr/bin/env bash
# What sinew adds to a service of tonic, axum and rustls: crates, seconds of CPU of a clean and of an incremental release
# build, stripped size, memory at rest. Once with default features, then with each other feature on top.
#
#   benches/footprint.sh              all features, one after the other: half an hour on two cores
#   benches/footprint.sh FEATURE...   these ones
#
# Builds in a folder of its own that is removed at the end. CPU seconds rather than seconds on a clock, since those
# depend on what the machine does besides; crates that both have are built before and count for neither.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/footprint.XXXXXX")
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$work"' EXIT
mkdir "$work/src"
cp "$root/Cargo.lock" "$work/" 2>/dev/null || true
export CARGO_TARGET_DIR="$work/target"

manifest() { # SINEW-LINE
    cat >"$work/Cargo.toml" <<TOML
[package]
name = "footprint"
version = "0.0.0"
edition = "2024"

[dependencies]
axum = "0.8"
prost = "0.14"
tokio = { version = "1", features = ["full"] }
tokio-rustls = "0.26"
tonic = { version = "0.14", features = ["router", "transport"] }
tonic-health = "0.14"
tonic-prost = "0.14"
$1

[profile.release]
strip = true
TOML
}

theirs() {
    manifest ""
    cat >"$work/src/main.rs" <<'RUST'
use axum::{Router, routing::get};
use tonic_health::pb::health_client::HealthClient;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let provider = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider();
    let tls = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    let health = HealthClient::new(channel);
    let (_, service) = tonic_health::server::health_reporter();
    let app = tonic::service::Routes::new(service).into_axum_router().merge(
        Router::new().route("/", get(move || async move { format!("{:?} {:?}", health, tls.alpn_protocols) })),
    );
    axum::serve(tokio::net::TcpListener::bind("127.0.0.1:0").await?, app).await?;
    Ok(())
}
RUST
}

ours() { # FEATURES
    manifest "sinew = { path = \"$root\", features = [$1] }"
    cat >"$work/src/main.rs" <<'RUST'
use axum::{Router, routing::get};
use tonic_health::pb::health_client::HealthClient;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let provider = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider();
    let tls = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mesh = sinew::Mesh::from_env("footprint").await?;
    let health = HealthClient::new(mesh.client("other"));
    let (_, service) = tonic_health::server::health_reporter();
    let app = tonic::service::Routes::new(service).into_axum_router().merge(
        Router::new().route("/", get(move || async move { format!("{:?} {:?}", health, tls.alpn_protocols) })),
    );
    mesh.serve("127.0.0.1:0", app).await?;
    Ok(())
}
RUST
}

build() { # prints seconds of CPU
    local TIMEFORMAT='%U %S'
    { time cargo build --quiet --release --manifest-path "$work/Cargo.toml" 2>"$work/log" || cat "$work/log" >&2; } 2>&1 |
        awk '{ printf "%.0f", $1 + $2 }'
}

touched() { # an edit of the service's own code
    echo >>"$work/src/main.rs"
    build
}

crates() {
    cargo tree --quiet --manifest-path "$work/Cargo.toml" --edges normal,build --prefix none --no-dedupe |
        awk '{ print $1, $2 }' | sort -u | wc -l
}

rest() { # KiB of resident memory, two seconds after the start
    (cd "$work" && exec "$CARGO_TARGET_DIR/release/footprint" >/dev/null 2>&1) &
    server=$!
    sleep 2
    awk '/^VmRSS/ { print $2 }' "/proc/$server/status" 2>/dev/null || ps -o rss= -p "$server"
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=
}

row() { # NAME CLEAN
    printf '%-16s %7s %12s %12s %10s %10s\n' "$1" "$(crates)" "$2" "$(touched)" \
        "$(awk -v b="$(wc -c <"$CARGO_TARGET_DIR/release/footprint")" 'BEGIN { printf "%.2f", b / 1e6 }')" \
        "$(awk -v k="$(rest)" 'BEGIN { printf "%.1f", k / 1024 }')"
}

printf '%-16s %7s %12s %12s %10s %10s\n' "" crates "clean CPU s" "again CPU s" "MB" "rest MiB"
theirs
row "without sinew" "$(build)"
ours ""
row "default" "$(build)"
features=("$@")
[ ${#features[@]} -gt 0 ] || mapfile -t features < <(sed -n '/^\[features\]/,/^\[dep/s/^\([a-z][a-z-]*\) = .*/\1/p' "$root/Cargo.toml" |
    grep -vxE 'default|aws-lc|dns|file|tonic|axum')
for feature in "${features[@]}"; do
    ours "\"$feature\""
    row "+ $feature" "$(build)"
done
