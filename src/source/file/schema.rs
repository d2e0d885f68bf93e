//! The JSON Schema of `sinew.yaml`, for editors and CI: what the grammar says of itself.

use serde_json::{Value, json};

use super::{cursor::Reading, grammar, loader::Loader};

/// The JSON Schema (draft 2020-12) of the documents that `loader` accepts, its registered policies included, as JSON
/// text.
///
/// It says what a key may hold on its own; what only the whole document can tell (an unknown subset, a route that is
/// never reached) is left to [`Loader::load_str`].
pub fn schema(loader: &Loader) -> String {
    format!("{:#}", describe(loader))
}

pub(crate) fn describe(loader: &Loader) -> Value {
    let mut reading = Reading::new("schema".into(), loader.registry());
    let mut schema = reading.describe(grammar::document);
    if let Value::Object(schema) = &mut schema {
        schema.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        schema.insert("title".into(), json!("sinew.yaml"));
        schema.insert("type".into(), json!("object"));
    }
    schema
}
