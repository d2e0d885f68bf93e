//! The documents say what the code does: references are generated from it, guides name tests that exist, links lead
//! somewhere.
//!
//! `UPDATE_DOCS=1 cargo test --test docs` writes what is generated.

mod defaults;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use sinew::{Code, model::LintCode};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn files(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

fn all(dir: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&root().join(dir), extension, &mut found);
    found.sort();
    found
}

fn grpc_name(status: u8) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES[usize::from(status)]
}

fn errors() -> String {
    let mut text = String::from(
        "# Errors\n\n\
         Generated from `sinew::Code` by `UPDATE_DOCS=1 cargo test --test docs`; do not edit. The same text for one code: \
         `sinew explain E010`.\n\n\
         A call that the mesh refuses or cannot finish fails with one of these codes. It is in `Error::code()`, in the \
         header `sinew-error` of what a peer's mesh answered, in the label `flag` of `sinew_requests_total`, and in the \
         log line. Plain HTTP callers see the HTTP status, gRPC callers the gRPC status. `flag` is Envoy's response flag \
         for the same event, `Proxy-Status` the error type of RFC 9209. A code that belongs to a policy which is not built \
         yet is listed and never used.\n\n\
         | code | reason | HTTP | gRPC | flag | Proxy-Status | meaning |\n|---|---|---|---|---|---|---|\n",
    );
    for code in Code::ALL {
        let meaning = words(code.explanation());
        writeln!(
            text,
            "| `{code}` | `{}` | {} | {} {} | `{}` | `{}` | {meaning} |",
            code.reason(),
            code.http_status().as_u16(),
            code.grpc_status(),
            grpc_name(code.grpc_status()),
            code.flag(),
            code.proxy_status(),
        )
        .unwrap();
    }
    text
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn lints() -> String {
    let mut text = String::from(
        "# Warnings\n\n\
         Generated from `sinew::model::LintCode` by `UPDATE_DOCS=1 cargo test --test docs`; do not edit. The same text for \
         one code: `sinew explain W010`.\n\n\
         What is valid and probably not meant. A warning refuses nothing. It is looked for in the whole configuration, \
         builder and file together, at start and at every reload, and shown with its place, its code and what to do: in \
         the log, in `Mesh::status().lints`, and by `sinew config validate`, which exits with 0 all the same (`--strict`: \
         with 2). Only what somebody wrote is warned of, never a default, except that under Kubernetes an ops listener is \
         missed. Codes are not renumbered.\n\n\
         | code | reason | meaning | what to do |\n|---|---|---|---|\n",
    );
    for code in LintCode::ALL {
        writeln!(text, "| `{code}` | `{}` | {} | {} |", code.reason(), words(code.explanation()), words(code.cure()))
            .unwrap();
    }
    text
}

fn generated(path: &str, text: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(root().join(path), text).unwrap();
    }
    assert!(read(path) == text, "{path} is stale: run `UPDATE_DOCS=1 cargo test --test docs`");
}

#[test]
fn errors_are_listed_as_the_code_has_them() {
    generated("docs/reference/errors.md", &errors());
}

#[test]
fn warnings_are_listed_as_the_code_has_them() {
    generated("docs/reference/lints.md", &lints());
}

/// The names of metrics in a text: what stands between quotes or backticks.
fn metric_names(text: &str, quote: char) -> BTreeSet<String> {
    text.split(quote)
        .filter(|name| name.starts_with("sinew_"))
        .filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn metrics_are_listed_exactly() {
    let mut made = BTreeSet::new();
    for path in all("src", "rs") {
        if path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        made.extend(metric_names(text.split("#[cfg(test)]\nmod ").next().unwrap(), '"'));
    }
    let rows: String = read("docs/reference/metrics.md").lines().filter(|line| line.starts_with("| `sinew_")).fold(
        String::new(),
        |mut rows, line| {
            rows.push_str(line.split('|').nth(1).unwrap());
            rows
        },
    );
    assert_eq!(metric_names(&rows, '`'), made, "docs/reference/metrics.md (left) and src (right) differ");
}

fn documents() -> Vec<PathBuf> {
    let mut found = all("docs", "md");
    found.extend(["README.md", "CHANGELOG.md"].map(|name| root().join(name)));
    found
}

#[test]
fn links_lead_to_files() {
    let mut dead = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap();
            let outside = link.contains("://") || path.is_empty() || path.contains(char::is_whitespace);
            if !outside && !document.parent().unwrap().join(path).exists() {
                dead.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn every_guide_is_backed_by_tests_that_exist() {
    let mut wrong = Vec::new();
    let guides = all("docs/guides", "md");
    assert!(guides.len() >= 12);
    for guide in guides {
        let text = fs::read_to_string(&guide).unwrap();
        let name = guide.file_name().unwrap().to_string_lossy().into_owned();
        let Some(at) = text.find("\nTested by ") else {
            wrong.push(format!("{name}: no line `Tested by`"));
            continue;
        };
        let (mut source, mut tests) = (String::new(), 0);
        for word in text[at..].split('`').skip(1).step_by(2) {
            if word.ends_with(".rs") {
                source = fs::read_to_string(root().join(word)).unwrap_or_else(|error| {
                    wrong.push(format!("{name}: {word}: {error}"));
                    String::new()
                });
            } else {
                tests += 1;
                if !source.contains(&format!("fn {word}(")) {
                    wrong.push(format!("{name}: there is no test `{word}`"));
                }
            }
        }
        if tests == 0 {
            wrong.push(format!("{name}: names no test"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn guides_and_decisions_are_in_the_index() {
    let index = read("docs/README.md") + &read("docs/decisions/README.md");
    let mut missing = all("docs/guides", "md");
    missing.extend(all("docs/decisions", "md"));
    missing.retain(|path| !index.contains(&*path.file_name().unwrap().to_string_lossy()));
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_room_is_in_the_architecture() {
    let text = read("docs/architecture.md");
    let mut rooms: Vec<_> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().trim_end_matches(".rs").to_owned())
        .filter(|room| room != "lib")
        .collect();
    rooms.retain(|room| !text.contains(&format!("`{room}`")));
    assert!(rooms.is_empty(), "docs/architecture.md does not tell of {rooms:?}");
}

/// The names in the arrays of tests/layering.rs, and the rows of the table that says the same.
#[test]
fn floor_and_slices_are_those_of_the_layering_test() {
    let layering = read("tests/layering.rs");
    let text = read("docs/architecture.md");
    for (constant, row) in [("const FLOOR", "| floor |"), ("const SLICES", "| slices |")] {
        let after = &layering[layering.find(constant).unwrap()..];
        let array = &after[after.find(" =").unwrap()..after.find("];").unwrap()];
        let listed: BTreeSet<_> = array.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        let line = text.lines().find(|line| line.starts_with(row)).unwrap_or_else(|| panic!("no row {row}"));
        let told: BTreeSet<_> =
            line.split('|').nth(2).unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect();
        assert_eq!(told, listed, "{row} of docs/architecture.md (left) and tests/layering.rs (right) differ");
    }
}

#[test]
fn features_are_listed_as_the_manifest_has_them() {
    let manifest = read("Cargo.toml");
    let section = manifest.split("[features]").nth(1).unwrap().split("\n[").next().unwrap();
    let mut features = BTreeMap::new();
    let mut default = String::new();
    for line in section.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.split_once(" = ") else { continue };
        match name {
            "default" => default = value.to_owned(),
            name => drop(features.insert(name.to_owned(), false)),
        }
    }
    for (name, on) in &mut features {
        *on = default.contains(&format!("\"{name}\""));
    }
    for document in ["README.md", "src/lib.rs"] {
        let text = read(document);
        let table = text.split("| feature |").nth(1).unwrap();
        let mut told = BTreeMap::new();
        for line in table.lines().skip(2).map(|line| line.trim_start_matches("//! ")) {
            let mut cells = line.split('|').skip(1).map(str::trim);
            let (Some(name), Some(on)) = (cells.next(), cells.next()) else { break };
            told.insert(name.trim_matches('`').to_owned(), on == "yes");
        }
        assert_eq!(told, features, "{document}");
    }
}

/// Blocks of YAML that begin with a key of the document are whole documents.
#[test]
fn every_document_that_is_shown_is_valid() {
    const KEYS: [&str; 6] = ["version:", "mesh:", "defaults:", "services:", "drain:", "listeners:"];
    let loader = sinew::config::Loader::new();
    let mut shown = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for block in text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            if KEYS.iter().any(|key| block.starts_with(key)) {
                shown += 1;
                if let Err(report) = loader.load_str(&document.display().to_string(), block) {
                    panic!("{report}");
                }
            }
        }
    }
    assert!(shown >= 8, "{shown}");
}
