//! Policies of the user's own as keys of the document, and the schema that knows them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sinew::{
    config::{Loader, schema},
    model::Policy,
    seat::{Position, Seat, seat_fn},
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Quota {
    limits: Vec<Limit>,
}

#[derive(Serialize, Deserialize)]
struct Limit {
    rate: u32,
}

impl Policy for Quota {
    const NAME: &'static str = "quota";
    const SEAT: Position = Position::Outer;

    fn schema() -> String {
        r#"{"type": "object", "properties": {"limits": {"type": "array"}}}"#.into()
    }

    fn validate(&self) -> Result<(), String> {
        if self.limits.is_empty() { Err("`limits` is empty: give at least one".into()) } else { Ok(()) }
    }

    fn seat(self: Arc<Self>) -> Arc<dyn Seat> {
        Arc::new(seat_fn(|request, next| next.run(request)))
    }
}

#[derive(Serialize, Deserialize)]
struct Clashing;

impl Policy for Clashing {
    const NAME: &'static str = "timeouts";
    const SEAT: Position = Position::Outer;

    fn seat(self: Arc<Self>) -> Arc<dyn Seat> {
        Arc::new(seat_fn(|request, next| next.run(request)))
    }
}

fn loader() -> Loader {
    Loader::new().policy::<Quota>().unwrap()
}

#[test]
fn a_policy_is_a_key_of_defaults_services_and_routes() {
    let text =
        "defaults: {quota: {limits: [{rate: 1}]}}\nservices:\n  a:\n    routes:\n    - quota: {limits: [{rate: 2}]}\n";
    let snapshot = loader().load_str("sinew.yaml", text).unwrap();
    let service = &snapshot.services["a"];
    assert_eq!(service.policies.names().collect::<Vec<_>>(), ["quota"]);
    assert_eq!(service.route_policies[0].names().collect::<Vec<_>>(), ["quota"]);
}

#[test]
fn errors_point_inside_the_policy_and_at_the_wrong_seat() {
    let fails = |text: &str| loader().load_str("sinew.yaml", text).unwrap_err().to_string();
    let inside = fails("defaults:\n  quota:\n    limits:\n    - rate: many\n");
    assert!(inside.contains("sinew.yaml:4:13") && inside.contains("defaults.quota.limits[0].rate"), "{inside}");
    let whole = fails("defaults: {quota: {limits: []}}");
    assert!(whole.contains("give at least one") && whole.contains("at: defaults.quota\n"), "{whole}");
    let seat = fails("inbound: {quota: {limits: [{rate: 1}]}}");
    assert!(seat.contains("does not act at `inbound`"), "{seat}");
    assert_eq!(seat.matches("error:").count(), 1, "{seat}");
    let misspelt = fails("defaults: {qouta: {}}");
    assert!(misspelt.contains("did you mean `quota`?"), "{misspelt}");
}

#[test]
fn a_name_that_is_a_key_already_is_refused() {
    assert!(Loader::new().policy::<Clashing>().is_err());
}

/// Every key of every object in the schema, with its path.
fn keys(schema: &Value, path: &str, found: &mut Vec<String>) {
    for part in ["anyOf"] {
        for option in schema[part].as_array().into_iter().flatten() {
            keys(option, path, found);
        }
    }
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        keys(value, &path, found);
        found.push(path);
    }
    for (part, suffix) in [("items", "[]"), ("additionalProperties", ".*")] {
        if schema[part].is_object() {
            keys(&schema[part], &format!("{path}{suffix}"), found);
        }
    }
}

#[test]
fn the_schema_describes_every_key_and_knows_registered_policies() {
    let schema: Value = serde_json::from_str(&schema(&loader())).unwrap();
    let mut found = Vec::new();
    keys(&schema, "", &mut found);
    for key in [
        ".services.*.timeouts.per_try",
        ".services.*.routes[].match.path.template",
        ".services.*.endpoints[].static[].address",
        ".services.*.quota.limits",
        ".defaults.quota",
        ".services.*.routes[].quota",
        ".listeners.ops.listen",
    ] {
        assert!(found.iter().any(|path| path == key), "{key}: {found:#?}");
    }
    assert!(!found.iter().any(|path| path.contains("inbound.quota") || path.ends_with(".ring_hash")));
    let timeout = &schema["properties"]["defaults"]["properties"]["timeouts"]["properties"]["connect"];
    assert!(timeout["description"].as_str().unwrap().contains("Default 5s"));
}

/// The schema is the grammar's own word, so a key it names must be one that the decoder knows.
#[test]
fn the_decoder_knows_every_key_of_the_schema() {
    let schema: Value = serde_json::from_str(&schema(&Loader::new())).unwrap();
    for (section, parent) in [("defaults", "defaults"), ("mesh", "mesh"), ("drain", "drain")] {
        for key in schema["properties"][section]["properties"].as_object().unwrap().keys() {
            let text = format!("{parent}: {{{key}: [[]]}}");
            let report = Loader::new().load_str("x", &text).unwrap_err().to_string();
            assert!(!report.contains("unknown field"), "{report}");
        }
    }
}
