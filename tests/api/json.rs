//! The same on rustdoc's JSON, which knows what is reachable and what a name means.

use std::{collections::BTreeSet, env, fs};

use serde_json::Value;

use super::{ALLOWED, ALLOWED_ITEMS};

/// `.ci/api` makes the JSON with a nightly toolchain and names it in `SINEW_RUSTDOC_JSON`.
#[test]
fn the_documented_api_names_no_crate_that_users_need_not_know() {
    let Some(path) = env::var_os("SINEW_RUSTDOC_JSON") else {
        println!("skipped: `SINEW_RUSTDOC_JSON` names no file; `.ci/api` makes one");
        return;
    };
    let doc: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut wrong = BTreeSet::new();
    let mut items = 0;
    for item in doc["index"].as_object().unwrap().values().filter(|item| item["crate_id"] == 0) {
        let file = item["span"]["filename"].as_str().unwrap_or_default();
        let inner = &item["inner"];
        let of_itself = inner["impl"]["is_synthetic"] == true || !inner["impl"]["blanket_impl"].is_null();
        if file.contains("src/adapter/") || of_itself {
            continue;
        }
        items += 1;
        let mut found = Vec::new();
        names(inner, &mut found);
        for id in found {
            let summary = &doc["paths"][id.to_string()];
            let path: Vec<_> = summary["path"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let Some(crate_name) = path.first().filter(|_| summary["crate_id"] != 0) else { continue };
            let name = path.join("::");
            let allowed = ALLOWED.contains(crate_name)
                || ALLOWED_ITEMS.contains(&name.as_str())
                // The bound of `Unpin` that the macro writes.
                || *crate_name == "pin_project_lite"
                // Where serde's traits are defined.
                || *crate_name == "serde_core"
                // `tokio::io` by the module that defines it.
                || ["tokio::io::async_read::AsyncRead", "tokio::io::async_write::AsyncWrite"].contains(&name.as_str());
            if !allowed {
                let line = &item["span"]["begin"][0];
                wrong.insert(format!("{file}:{line}: `{name}` in `{}`", item["name"].as_str().unwrap_or("impl")));
            }
        }
    }
    assert!(items > 500, "only {items} items were found");
    assert!(wrong.is_empty(), "{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

/// Every path in a signature, by the number of what it names.
fn names(value: &Value, found: &mut Vec<u64>) {
    match value {
        Value::Object(map) => {
            if let (Some(_), Some(id)) = (map.get("path"), map.get("id").and_then(Value::as_u64)) {
                found.push(id);
            }
            map.values().for_each(|value| names(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| names(value, found)),
        _ => {}
    }
}
