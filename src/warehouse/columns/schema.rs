//! The columns of every file, in order. Partition columns are in the path only.
//!
//! All integers are signed, since not every engine reads unsigned ones. A column's field id is its position, from 1, so
//! new columns must be added at the end.

use std::sync::{Arc, LazyLock};

use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::schema::types::{ColumnDescriptor, SchemaDescPtr, SchemaDescriptor, Type, TypePtr};

/// The columns of the device context, NULL if the event has none.
const DEVICE: [(&str, Physical); 15] = [
    ("platform", Physical::BYTE_ARRAY),
    ("os_version", Physical::BYTE_ARRAY),
    ("app_version", Physical::BYTE_ARRAY),
    ("build_number", Physical::BYTE_ARRAY),
    ("device_model", Physical::BYTE_ARRAY),
    ("manufacturer", Physical::BYTE_ARRAY),
    ("screen_width", Physical::INT32),
    ("screen_height", Physical::INT32),
    ("locale", Physical::BYTE_ARRAY),
    ("timezone", Physical::BYTE_ARRAY),
    ("network_type", Physical::BYTE_ARRAY),
    ("carrier", Physical::BYTE_ARRAY),
    ("is_jailbroken", Physical::BOOLEAN),
    ("is_emulator", Physical::BOOLEAN),
    ("sdk_version", Physical::BYTE_ARRAY),
];

const BEFORE_DEVICE: [(&str, Physical); 6] = [
    ("id", Physical::BYTE_ARRAY),
    ("device_id", Physical::BYTE_ARRAY),
    ("timestamp_ms", Physical::INT64),
    ("correlation_id", Physical::BYTE_ARRAY),
    ("event_category", Physical::BYTE_ARRAY),
    ("event_type", Physical::BYTE_ARRAY),
];

const AFTER_DEVICE: [(&str, Physical); 6] = [
    ("payload_json", Physical::BYTE_ARRAY),
    ("received_at_ms", Physical::INT64),
    ("idempotency_key", Physical::BYTE_ARRAY),
    ("stream_sequence", Physical::INT64),
    ("user_id", Physical::BYTE_ARRAY),
    ("session_id", Physical::BYTE_ARRAY),
];

static SCHEMA: LazyLock<SchemaDescPtr> = LazyLock::new(|| Arc::new(SchemaDescriptor::new(root())));

/// Partition columns, which are in the path.
pub(crate) const OF_THE_PATH: [&str; 5] = ["app_id", "year", "month", "day", "hour"];
/// The smallest field id of a promoted column.
pub(super) const PROMOTED_ID_MIN: u32 = 1_000;

/// The schema without promoted columns.
pub(crate) fn schema() -> &'static SchemaDescPtr {
    &SCHEMA
}

/// Whether an additional column of a file is a promoted one.
pub(crate) fn is_promoted(column: &ColumnDescriptor) -> bool {
    let info = column.self_type().get_basic_info();
    info.has_id() && info.id().cast_unsigned() >= PROMOTED_ID_MIN
}

/// Whether every file, or its path, has a column of this name.
pub(crate) fn is_taken(name: &str) -> bool {
    OF_THE_PATH.contains(&name) || schema().columns().iter().any(|column| column.name() == name)
}

fn root() -> TypePtr {
    let (required, optional) = (Repetition::REQUIRED, Repetition::OPTIONAL);
    let groups: [(&[_], _); 3] = [(&BEFORE_DEVICE, required), (&DEVICE, optional), (&AFTER_DEVICE, required)];
    let columns = groups.iter().flat_map(|(columns, repetition)| columns.iter().map(|column| (column, *repetition)));
    let all = columns.zip(1..).map(|((column, repetition), id)| field(column, repetition, id)).collect();
    let root = Type::group_type_builder("event").with_fields(all).build();
    Arc::new(root.expect("the columns above make a valid schema"))
}

pub(super) fn field((name, physical): &(&str, Physical), repetition: Repetition, id: i32) -> TypePtr {
    let text = (*physical == Physical::BYTE_ARRAY).then_some(LogicalType::String);
    let field = Type::primitive_type_builder(name, *physical).with_repetition(repetition).with_logical_type(text);
    Arc::new(field.with_id(Some(id)).build().expect("the columns above make valid fields"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_and_their_field_ids_do_not_change() {
        let names: Vec<&str> = schema().columns().iter().map(|column| column.name()).collect();
        let expected = "id device_id timestamp_ms correlation_id event_category event_type platform os_version \
            app_version build_number device_model manufacturer screen_width screen_height locale timezone network_type \
            carrier is_jailbroken is_emulator sdk_version payload_json received_at_ms idempotency_key stream_sequence \
            user_id session_id";
        assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
        let ids = schema().columns().iter().map(|column| column.self_type().get_basic_info().id());
        assert_eq!(ids.collect::<Vec<_>>(), (1..=27).collect::<Vec<i32>>());
    }

    #[test]
    fn only_device_columns_are_nullable() {
        for column in schema().columns() {
            let device = DEVICE.iter().any(|(name, _)| *name == column.name());
            assert_eq!(column.max_def_level() == 1, device, "{}", column.name());
        }
    }
}
