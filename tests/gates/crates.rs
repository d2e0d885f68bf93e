//! Crates that a user builds.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[test]
fn default_features_build_at_most_180_crates() {
    let Some(crates) = tree(&manifest(), &[]) else { return };
    at_most(180, "with default features", &crates);
}

#[test]
fn no_features_build_at_most_120_crates() {
    let Some(crates) = tree(&manifest(), &["--no-default-features"]) else { return };
    at_most(120, "without features", &crates);
}

/// A team that has tonic, axum and rustls already adds only what is new to it.
#[test]
fn a_service_of_tonic_axum_and_rustls_gets_at_most_95_more_crates() {
    let Some(ours) = tree(&manifest(), &[]) else { return };
    // rustls's default provider may never have been downloaded here. Without rustls theirs is smaller and the gate
    // stricter.
    let Some(theirs) = ["tokio-rustls = \"0.26\"", ""].into_iter().find_map(|tls| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        tree(&their_service(folder.path(), tls), &[])
    }) else {
        return;
    };
    let added: BTreeSet<String> = ours.difference(&theirs).cloned().collect();
    at_most(95, "beyond tonic, axum and rustls", &added);
}

fn at_most(most: usize, what: &str, crates: &BTreeSet<String>) {
    println!("{} crates {what}", crates.len());
    assert!(crates.len() <= most, "{} crates {what}, at most {most}:\n{crates:#?}", crates.len());
}

fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")
}

/// The manifest of such a service, with the versions that this crate is locked to.
fn their_service(folder: &Path, tls: &str) -> PathBuf {
    let text = format!(
        r#"[package]
name = "theirs"
version = "0.0.0"
edition = "2024"

[dependencies]
axum = "0.8"
prost = "0.14"
tokio = {{ version = "1", features = ["full"] }}
tonic = "0.14"
tonic-prost = "0.14"
{tls}

[workspace]
"#
    );
    fs::create_dir(folder.join("src")).expect("a folder");
    fs::write(folder.join("src/main.rs"), "fn main() {}").expect("a file");
    // A library's tree may have no lock file beside it; then the newest of both sides meet.
    let _ = fs::copy(manifest().with_file_name("Cargo.lock"), folder.join("Cargo.lock"));
    let manifest = folder.join("Cargo.toml");
    fs::write(&manifest, text).expect("a file");
    manifest
}

/// Name and version of each crate that `manifest` links or expands; `None`, loudly, where cargo cannot say.
fn tree(manifest: &Path, features: &[&str]) -> Option<BTreeSet<String>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["tree", "-e", "normal", "--prefix", "none", "--offline", "--manifest-path"])
        .arg(manifest)
        .args(features)
        .output();
    match output {
        Ok(output) if output.status.success() => {
            // `name v1.2.3`, then `(*)`, `(proc-macro)` or a path.
            let text = String::from_utf8_lossy(&output.stdout);
            let crates = text.lines().filter_map(|line| {
                let mut words = line.split_whitespace();
                Some(format!("{} {}", words.next()?, words.next()?))
            });
            Some(crates.collect())
        }
        Ok(output) => {
            eprintln!("SKIPPED: cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
            None
        }
        Err(error) => {
            eprintln!("SKIPPED: cargo is not available: {error}");
            None
        }
    }
}
