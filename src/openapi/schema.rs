//! JSON Schemas of Rust types.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// The schema of the JSON that deserializes to a `T`.
pub fn schema_of_input<T: JsonSchema>() -> Value {
    schema_by::<T>(SchemaSettings::draft2020_12())
}

/// The schema of the JSON that a `T` serializes to.
pub fn schema_of_output<T: JsonSchema>() -> Value {
    schema_by::<T>(SchemaSettings::draft2020_12().for_serialize())
}

fn schema_by<T: JsonSchema>(settings: SchemaSettings) -> Value {
    let inlined = settings.with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    inlined.into_generator().into_root_schema_for::<T>().to_value()
}
