//! The Parquet schema of the table of columns. Partition columns are in the path only.
//!
//! All integers are signed, since not every engine reads unsigned ones. A column's field id is its position, from 1.

use std::sync::{Arc, LazyLock};

use super::table::{COLUMNS, Kind};
use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::schema::types::{ColumnDescriptor, SchemaDescPtr, SchemaDescriptor, Type, TypePtr};

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
    let fields = COLUMNS.iter().zip(1..).map(|(column, id)| {
        let repetition = if column.kind.is_nullable() { Repetition::OPTIONAL } else { Repetition::REQUIRED };
        field(&(column.name, physical(column.kind)), repetition, id)
    });
    let root = Type::group_type_builder("event").with_fields(fields.collect()).build();
    Arc::new(root.expect("the table of columns makes a valid schema"))
}

fn physical(kind: Kind) -> Physical {
    match kind {
        Kind::Text | Kind::Category | Kind::EventType | Kind::Payload | Kind::DeviceText => Physical::BYTE_ARRAY,
        Kind::Number => Physical::INT64,
        Kind::DeviceNumber => Physical::INT32,
        Kind::DeviceFlag => Physical::BOOLEAN,
    }
}

pub(super) fn field((name, physical): &(&str, Physical), repetition: Repetition, id: i32) -> TypePtr {
    let text = (*physical == Physical::BYTE_ARRAY).then_some(LogicalType::String);
    let field = Type::primitive_type_builder(name, *physical).with_repetition(repetition).with_logical_type(text);
    Arc::new(field.with_id(Some(id)).build().expect("the table of columns makes valid fields"))
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
            let device = (7..=21).contains(&column.self_type().get_basic_info().id());
            assert_eq!(column.max_def_level() == 1, device, "{}", column.name());
        }
    }
}
