//! Which room may import which: the arrows of docs/architecture.md, read from the `use crate::` lines of every file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Rooms that everything may import and that import nothing above themselves.
const FLOOR: &[&str] = &[
    "body",
    "caller",
    "canon",
    "classify",
    "context",
    "enforcement",
    "error",
    "instrument",
    "matching",
    "name",
    "peer",
    "permit",
    "provide",
    "rescue",
    "rt",
    "seat",
    "switch",
];

/// Rooms of one mechanism each, which never import each other.
const SLICES: &[&str] = &[
    "authn",
    "authz",
    "balance",
    "breaker",
    "fault",
    "health",
    "limit",
    "mirror",
    "retry",
    "route",
    "shed",
    "telemetry",
    "timeout",
];

/// What a room may import besides the floor, directly or through others.
fn arrows() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let slices: BTreeSet<_> = SLICES.iter().copied().collect();
    let with = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
    let mut arrows = BTreeMap::new();
    for slice in SLICES {
        arrows.insert(*slice, BTreeSet::new());
    }
    let model = &slices | &with(&[]);
    arrows.insert("model", model.clone());
    let sources = &model | &with(&["model"]);
    arrows.insert("source", sources.clone());
    arrows.insert("discover", sources.clone());
    arrows.insert("identity", with(&[]));
    let transport = with(&["model", "identity"]);
    arrows.insert("transport", transport);
    let cluster = &sources | &with(&["transport", "discover", "identity"]);
    arrows.insert("cluster", cluster.clone());
    let client = &cluster | &with(&["cluster"]);
    arrows.insert("client", client.clone());
    arrows.insert("server", client.clone());
    arrows.insert("adapter", &client | &with(&["client", "server"]));
    let everything: BTreeSet<_> = [
        "source",
        "client",
        "server",
        "adapter",
        "ops",
        "discover",
        "transport",
        "cluster",
        "model",
        "mesh",
        "identity",
        "testing",
    ]
    .into_iter()
    .chain(slices)
    .collect();
    arrows.insert("ops", with(&["transport"]));
    arrows.insert("mesh", everything.clone());
    arrows.insert("testing", everything.clone());
    arrows.insert("fuzzing", everything.clone());
    arrows.insert("bin", everything);
    arrows
}

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

fn sources() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let relative = path.strip_prefix(&root).unwrap();
            let first = relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
            let room = first.strip_suffix(".rs").unwrap_or(&first).to_owned();
            (room, relative.display().to_string(), fs::read_to_string(&path).unwrap())
        })
        .filter(|(room, _, _)| room != "lib")
        .collect()
}

/// The rooms named by `crate::room` anywhere in a file, and by the groups of `use crate::{..}`. Doc links do not count.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    let mut rooms = BTreeSet::new();
    let mut rest = code.as_str();
    while let Some(at) = rest.find("crate::") {
        rest = &rest[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth > 0 {
                    continue;
                }
                if c.is_alphanumeric() || c == '_' {
                    word.push(c);
                } else {
                    if c == ':' || c == ',' {
                        rooms.insert(std::mem::take(&mut word));
                    }
                    if c == ':' {
                        // The rest of this path is inside the room.
                        word.push('\u{0}');
                    } else {
                        word.clear();
                    }
                }
            }
            rooms.insert(word);
        } else {
            rooms.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    rooms.retain(|room| !room.is_empty() && !room.starts_with('\u{0}'));
    rooms
}

#[test]
fn rooms_import_only_what_the_arrows_allow() {
    let arrows = arrows();
    let floor: BTreeSet<_> = FLOOR.iter().copied().collect();
    let known: BTreeSet<_> = arrows.keys().copied().chain(floor.iter().copied()).collect();
    let mut wrong = Vec::new();
    for (room, file, text) in sources() {
        // Macros, re-exports of the root and types named by `crate::Type` are not rooms.
        for import in imports(&text).iter().filter(|import| known.contains(import.as_str())) {
            let import = import.as_str();
            let allowed = import == room
                || floor.contains(import)
                || arrows.get(room.as_str()).is_some_and(|rooms| rooms.contains(import));
            if !allowed {
                wrong.push(format!("{file} (room {room}) imports {import}"));
            }
        }
        if !known.contains(room.as_str()) {
            wrong.push(format!("{file}: room `{room}` is in no table; add it here and to docs/architecture.md"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_groups_and_paths() {
    let text = "use crate::{\n    body::{Body, End},\n    error::Error,\n};\nuse crate::rt;\n/// [`x`](crate::client)\nfn f() { crate::route::g() }";
    let rooms: Vec<_> = imports(text).into_iter().collect();
    assert_eq!(rooms, ["body", "error", "route", "rt"]);
}

/// The text of every file outside of its tests.
fn production() -> Vec<(String, String)> {
    sources()
        .into_iter()
        .filter(|(_, file, _)| !file.contains("tests"))
        .map(|(_, file, text)| {
            let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
            (file, text[..end].to_owned())
        })
        .collect()
}

fn offenders(patterns: &[&str], allowed: &[&str]) -> Vec<String> {
    production()
        .into_iter()
        .filter(|(file, _)| !allowed.iter().any(|prefix| file.starts_with(prefix)))
        .flat_map(|(file, text)| {
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            patterns
                .iter()
                .filter(|pattern| code.contains(**pattern))
                .map(|pattern| format!("{file}: {pattern}"))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn only_rt_spawns_sleeps_and_reads_clocks() {
    // `sinew::spawn` is the user's spawn, with a context.
    let wrong = offenders(
        &["tokio::spawn(", "tokio::time::", "std::time::Instant::now", "SystemTime::now", "thread::spawn"],
        &["rt/", "context/task.rs", "bin/"],
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_transport_says_what_was_delivered() {
    let wrong = offenders(&[".with_delivery("], &["transport/error.rs", "error.rs"]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tonic_and_axum_are_named_only_where_they_may_be() {
    let wrong = offenders(&["tonic::", "axum::"], &["adapter/", "ops/", "control/", "admin/", "identity/"]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_transport_knows_no_status_and_the_balancer_no_http() {
    let named: Vec<_> = production()
        .into_iter()
        .filter(|(file, _)| file.starts_with("balance/"))
        .filter(|(_, text)| text.contains("use http") || text.contains("hyper::"))
        .map(|(file, _)| file)
        .collect();
    assert!(named.is_empty(), "{named:?}");
}
