//! Public signatures name only the crates that a user of the API has to know.
//!
//! Read from the text of the sources: every plain `pub` counts as reachable, which the lint `unreachable_pub` makes true.
//! `.ci/api` checks the same on rustdoc's JSON where a nightly toolchain is at hand.

mod json;
mod scan;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Crates whose types and traits may stand in public signatures.
const ALLOWED: &[&str] =
    &["std", "core", "alloc", "http", "http_body", "bytes", "tower_service", "tower_layer", "serde", "futures_core"];
/// Items of other crates that a trait needs.
const ALLOWED_ITEMS: &[&str] = &["tokio::io::AsyncRead", "tokio::io::AsyncWrite"];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every dependency of the library, as it is written in code.
fn dependencies() -> BTreeSet<String> {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let begin = manifest.find("[dependencies]").unwrap();
    let rest = &manifest[begin + "[dependencies]".len()..];
    let section = &rest[..rest.find("\n[").unwrap_or(rest.len())];
    let name = |line: &str| line.split_once(" = ").map(|(name, _)| name.trim().replace('-', "_"));
    section.lines().filter(|line| !line.starts_with('#')).filter_map(name).collect()
}

#[test]
fn public_signatures_name_no_crate_that_users_need_not_know() {
    let foreign: BTreeSet<_> = dependencies().into_iter().filter(|name| !ALLOWED.contains(&name.as_str())).collect();
    assert!(foreign.contains("hyper") && foreign.contains("tokio") && foreign.contains("tonic"), "{foreign:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    found.sort();
    let mut wrong = Vec::new();
    let mut signatures = 0;
    for path in found {
        let file = path.strip_prefix(&root).unwrap().display().to_string();
        if file.starts_with("adapter/") || file.starts_with("bin/") || file.contains("tests") {
            continue;
        }
        let source = scan::Source::new(&fs::read_to_string(&path).unwrap());
        for signature in source.signatures() {
            signatures += 1;
            for name in source.paths(signature) {
                let crate_name = name.split("::").next().unwrap_or_default();
                if name != crate_name && foreign.contains(crate_name) && !ALLOWED_ITEMS.contains(&name.as_str()) {
                    wrong.push(format!(
                        "{file}: `{name}` in `{}`",
                        signature.split_whitespace().collect::<Vec<_>>().join(" ")
                    ));
                }
            }
        }
    }
    assert!(signatures > 500, "only {signatures} signatures were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_scan_sees_through_imports_and_skips_what_is_private() {
    let text = "use tokio::{io::{AsyncRead as Read, ReadBuf}, task::JoinHandle};\n\
        use hyper::body;\n\
        /// pub fn doc() -> tokio::time::Sleep\n\
        pub fn a() -> JoinHandle<()> { let x: tokio::sync::Notify = y(); }\n\
        pub(crate) fn b() -> h2::Reason {}\n\
        pub struct C<R: Read> { inner: h2::Ping, pub open: body::Incoming }\n\
        pub enum D { E(regex::Regex) }\n\
        impl hyper::rt::Timer for Private { type F = tokio::time::Sleep; }\n\
        impl Future for C { type Output = h2::Error; fn poll(self) { h2::x() } }\n\
        #[cfg(test)]\nmod tests { pub fn f() -> arc_swap::Guard {} }\n";
    let source = scan::Source::new(text);
    let mut names: Vec<_> = source.signatures().flat_map(|signature| source.paths(signature)).collect();
    names.retain(|name| ["tokio", "hyper", "h2", "regex", "arc_swap"].iter().any(|root| name.starts_with(root)));
    names.sort();
    assert_eq!(
        names,
        ["h2::Error", "hyper::body::Incoming", "regex::Regex", "tokio::io::AsyncRead", "tokio::task::JoinHandle"]
    );
}
