//! Endpoints from a watched file.
//!
//! For whatever knows endpoints and can write a file: a deployment script, a sidecar of another registry, a ConfigMap.
//! A half-written or missing file must not take the service down, so a bad file is reported and the last good stays.
//!
//! Two forms: JSON, a list of `"ADDRESS"` or `{"address", "labels", "zone", "region", "weight", "priority"}`; or plain
//! text, one address per line, with `#` comments and an optional leading `- `. No endpoints is said by `[]`: an empty file
//! is a writer that is not done.

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{DiscoverError, Discovery, stream::unfold};
use crate::{
    model::{Address, EndpointSpec, EndpointUpdate, Labels, SetKind},
    name::Locality,
    rt::FileWatch,
};

/// About 100,000 endpoints.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Watches an endpoint file.
pub(super) fn subscribe(path: &Path) -> Discovery {
    let state = Watching { path: path.to_owned(), watch: FileWatch::new(path), first: true, good: None, bad: None };
    Discovery::new(unfold(state, Watching::next))
}

struct Watching {
    path: PathBuf,
    watch: FileWatch,
    first: bool,
    good: Option<Vec<EndpointSpec>>,
    bad: Option<String>,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<EndpointUpdate, DiscoverError>, Self)> {
        loop {
            if !std::mem::take(&mut self.first) {
                self.watch.changed().await;
            }
            match read(&self.path) {
                Ok(endpoints) => {
                    self.bad = None;
                    if self.good.as_ref() != Some(&endpoints) {
                        self.good = Some(endpoints.clone());
                        let update = EndpointUpdate::Reset { endpoints, kind: SetKind::Replicas };
                        return Some((Ok(update), self));
                    }
                }
                Err(why) if self.bad.as_ref() == Some(&why) => {}
                Err(why) => {
                    let state = match self.good {
                        Some(_) => "the last good endpoints stay in use",
                        None => "calls wait until it is there",
                    };
                    let error = DiscoverError::new(format!("endpoint file {why}; {state}"));
                    self.bad = Some(why);
                    return Some((Err(error), self));
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<EndpointSpec>, String> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    read.map_err(|error| format!("{}: {error}", path.display()))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("{}: longer than 16 MiB", path.display()));
    }
    parse(&text).map_err(|(line, why)| format!("{}:{line}: {why}", path.display()))
}

/// The endpoints, or the line and what is wrong with it.
fn parse(text: &str) -> Result<Vec<EndpointSpec>, (usize, String)> {
    if text.trim().is_empty() {
        return Err((1, "empty; write `[]` if there are no endpoints".into()));
    }
    let endpoints = if text.trim_start().starts_with('[') { json(text)? } else { lines(text)? };
    let mut seen = BTreeSet::new();
    match endpoints.iter().find(|spec| !seen.insert(&spec.id)) {
        Some(twice) => {
            let id = twice.id.as_str();
            let line =
                text.lines().enumerate().filter(|(_, line)| line.contains(id)).nth(1).map_or(1, |(at, _)| at + 1);
            Err((line, format!("`{id}` is there twice")))
        }
        None => Ok(endpoints),
    }
}

fn json(text: &str) -> Result<Vec<EndpointSpec>, (usize, String)> {
    let entries: Vec<Entry> = serde_json::from_str(text).map_err(|error| (error.line(), error.to_string()))?;
    Ok(entries.into_iter().map(|entry| entry.0).collect())
}

fn lines(text: &str) -> Result<Vec<EndpointSpec>, (usize, String)> {
    let mut endpoints = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let line = line.strip_prefix("- ").map_or(line, str::trim);
        if !line.is_empty() {
            endpoints.push(EndpointSpec::new(line.parse::<Address>().map_err(|why| (at + 1, why))?));
        }
    }
    Ok(endpoints)
}

struct Entry(EndpointSpec);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    address: String,
    #[serde(default)]
    labels: Labels,
    zone: Option<Arc<str>>,
    region: Option<Arc<str>>,
    weight: Option<u32>,
    priority: Option<u32>,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as \"10.0.0.1:80\" or an object with `address`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Entry, E> {
                text.parse::<Address>().map(|address| Entry(EndpointSpec::new(address))).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
                let fields = Fields::deserialize(MapAccessDeserializer::new(map))?;
                let address = fields.address.parse::<Address>().map_err(serde::de::Error::custom)?;
                let locality = Locality {
                    zone: fields.zone.unwrap_or_default(),
                    region: fields.region.unwrap_or_default(),
                    ..Locality::default()
                };
                let spec = EndpointSpec::new(address)
                    .labels(fields.labels)
                    .locality(locality)
                    .weight(fields.weight.unwrap_or(1))
                    .priority(fields.priority.unwrap_or(0));
                Ok(Entry(spec))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    fn ids(update: EndpointUpdate) -> Vec<String> {
        match update {
            EndpointUpdate::Reset { endpoints, .. } => endpoints.iter().map(|spec| spec.id.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_forms_are_read() {
        let specs = parse("# blue\n10.0.0.1:80\n- [::1]:81 # green\n\nmemory:x\n").unwrap();
        assert_eq!(
            specs.iter().map(|spec| spec.id.as_str()).collect::<Vec<_>>(),
            ["10.0.0.1:80", "[::1]:81", "memory:x"]
        );
        let specs = parse(
            r#"["10.0.0.1:80", {"address": "10.0.0.2:80", "labels": {"version": "v2"}, "zone": "a", "region": "eu", "weight": 3, "priority": 1}]"#,
        )
        .unwrap();
        assert_eq!((specs[1].weight, specs[1].priority), (3, 1));
        assert_eq!((&*specs[1].locality.zone, &*specs[1].locality.region), ("a", "eu"));
        assert_eq!(specs[1].labels.get("version").map(|value| &**value), Some("v2"));
        assert!(parse("[]").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, why) in [
            ("", 1, "empty"),
            ("10.0.0.1:80\nreviews:80\n", 2, "`reviews:80` is not an address"),
            ("10.0.0.1:80\n10.0.0.1:80\n", 2, "twice"),
            ("[\n\"10.0.0.1:80\",\n{\"address\": \"10.0.0.2:80\", \"wieght\": 3}]", 3, "unknown field `wieght`"),
            ("[\n1]", 2, "an address such as"),
        ] {
            let (at, got) = parse(text).unwrap_err();
            assert!(at == line && got.contains(why), "{text:?}: line {at}: {got}");
        }
    }

    #[tokio::test]
    async fn a_bad_file_is_reported_and_the_next_good_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endpoints");
        let mut updates = subscribe(&path).updates;
        let error = updates.next().await.unwrap().unwrap_err().to_string();
        assert!(error.contains("calls wait"), "{error}");
        let replace = |text: &str| {
            fs::write(dir.path().join("new"), text).unwrap();
            fs::rename(dir.path().join("new"), &path).unwrap();
        };
        replace("10.0.0.1:80\n");
        assert_eq!(ids(updates.next().await.unwrap().unwrap()), ["10.0.0.1:80"]);
        replace("nonsense\n");
        let error = updates.next().await.unwrap().unwrap_err().to_string();
        assert!(error.contains(":1: `nonsense`") && error.contains("last good"), "{error}");
        replace("10.0.0.2:80\n");
        assert_eq!(ids(updates.next().await.unwrap().unwrap()), ["10.0.0.2:80"]);
        replace("[]");
        assert!(ids(updates.next().await.unwrap().unwrap()).is_empty());
    }
}
