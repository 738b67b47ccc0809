//! Builds the definitions that are registered: the table of the files, its partitions, and the table of the Delta log. Also
//! checks whether existing tables of these names are ours.

use super::error::{Failure, FailureKind, shown};
use super::wire::{Kind, Struct, Value};
use crate::warehouse::layout::Partition;

/// The partition columns with their types. Integers, so that `month = 3` matches `month=03`.
const PARTITION_COLUMNS: [(&str, &str); 5] =
    [("app_id", "string"), ("year", "int"), ("month", "int"), ("day", "int"), ("hour", "int")];

const PARQUET_SERDE: &str = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe";
const PARQUET_INPUT: &str = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat";
const PARQUET_OUTPUT: &str = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat";

/// The formats that Spark and Trino give to a Delta table. A reader that does not know Delta reads nothing, rather than
/// files that the log does not name.
const DELTA_SERDE: &str = "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe";
const DELTA_INPUT: &str = "org.apache.hadoop.mapred.SequenceFileInputFormat";
const DELTA_OUTPUT: &str = "org.apache.hadoop.hive.ql.io.HiveSequenceFileOutputFormat";
/// The property by which both recognize a Delta table.
const PROVIDER: &str = "spark.sql.sources.provider";

/// Field ids of a table.
const NAME: i16 = 1;
const DATABASE: i16 = 2;
const DESCRIPTOR: i16 = 7;
const PARTITION_KEYS: i16 = 8;
const PARAMETERS: i16 = 9;
const TABLE_TYPE: i16 = 12;
/// Field ids of its storage descriptor.
const COLUMNS: i16 = 1;
const LOCATION: i16 = 2;
const INPUT: i16 = 3;
const SERDE: i16 = 7;

/// The lake as registered in the metastore.
#[derive(Clone, Debug)]
pub(super) struct Lake {
    pub(super) database: String,
    pub(super) table: String,
    /// The URI under which readers find it.
    pub(super) location: String,
    /// The columns of the files with their types in Hive.
    pub(super) columns: Vec<(String, &'static str)>,
    /// Whether there is a Delta log to register.
    pub(super) delta: bool,
}

/// The name of the Delta table.
pub(super) fn delta_name(lake: &Lake) -> String {
    format!("{}_delta", lake.table)
}

/// The table of the files.
pub(super) fn files_table(lake: &Lake) -> Struct {
    let descriptor = parquet(lake, lake.location.clone());
    // Dropping the table must not remove the files, and no automatic discovery should add partitions by their paths.
    let parameters = [("EXTERNAL", "TRUE"), ("external.table.purge", "false"), ("discover.partitions", "false")];
    table(lake, &lake.table, descriptor, columns(&PARTITION_COLUMNS), &parameters)
}

/// The table of the log. Its columns are defined by the log alone; the metastore requires at least one.
pub(super) fn delta_table(lake: &Lake) -> Struct {
    let serde = [("path", lake.location.as_str()), ("serialization.format", "1")];
    let descriptor = descriptor(
        columns(&[("col", "array<string>")]),
        lake.location.clone(),
        [DELTA_INPUT, DELTA_OUTPUT, DELTA_SERDE],
        &serde,
    );
    let parameters = [("EXTERNAL", "TRUE"), ("external.table.purge", "false"), (PROVIDER, "delta")];
    table(lake, &delta_name(lake), descriptor, columns(&[]), &parameters)
}

/// A partition of the files' table. Its values are plain numbers, not `03` as in its path, because a metastore compares
/// `month = 3` with the registered text.
pub(super) fn partition(lake: &Lake, partition: &Partition, directory: &str) -> Struct {
    let (year, month, day, hour) = partition.date();
    let values = std::iter::once(partition.app_id.clone()).chain([year, month, day, hour].map(|n| n.to_string()));
    Struct::from([
        (1, Value::texts(values)),
        (2, Value::text(&lake.database)),
        (3, Value::text(&lake.table)),
        (4, Value::I32(0)),
        (5, Value::I32(0)),
        (6, Value::Struct(parquet(lake, format!("{}/{directory}", lake.location)))),
        // More files will follow, so statistics taken now would soon be wrong.
        (7, Value::properties(&[("DO_NOT_UPDATE_STATS", "true")])),
    ])
}

fn table(lake: &Lake, name: &str, descriptor: Struct, partition_keys: Value, parameters: &[(&str, &str)]) -> Struct {
    Struct::from([
        (NAME, Value::text(name)),
        (DATABASE, Value::text(&lake.database)),
        (4, Value::I32(0)),
        (5, Value::I32(0)),
        (6, Value::I32(0)),
        (DESCRIPTOR, Value::Struct(descriptor)),
        (PARTITION_KEYS, partition_keys),
        (PARAMETERS, Value::properties(parameters)),
        (TABLE_TYPE, Value::text("EXTERNAL_TABLE")),
    ])
}

fn parquet(lake: &Lake, location: String) -> Struct {
    let columns = lake.columns.iter().map(|(name, kind)| column(name, kind));
    let formats = [PARQUET_INPUT, PARQUET_OUTPUT, PARQUET_SERDE];
    descriptor(Value::structs(columns), location, formats, &[("serialization.format", "1")])
}

fn descriptor(
    columns: Value,
    location: String,
    [input, output, serde]: [&str; 3],
    serde_parameters: &[(&str, &str)],
) -> Struct {
    let serde = Struct::from([(2, Value::text(serde)), (3, Value::properties(serde_parameters))]);
    Struct::from([
        (COLUMNS, columns),
        (LOCATION, Value::text(location)),
        (INPUT, Value::text(input)),
        (4, Value::text(output)),
        (5, Value::Bool(false)),
        // No buckets.
        (6, Value::I32(-1)),
        (SERDE, Value::Struct(serde)),
        (8, Value::texts([])),
        (9, Value::structs([])),
        (10, Value::properties(&[])),
    ])
}

fn columns(columns: &[(&str, &str)]) -> Value {
    Value::structs(columns.iter().map(|(name, kind)| column(name, kind)))
}

fn column(name: &str, kind: &str) -> Struct {
    Struct::from([(1, Value::text(name)), (2, Value::text(kind))])
}

/// The name and type of each column, in lower case.
fn named(columns: &Value) -> Vec<(String, String)> {
    let text = |fields: &Struct, id| fields.get(&id).and_then(Value::as_text).unwrap_or_default().to_lowercase();
    columns.as_items().iter().filter_map(Value::as_struct).map(|column| (text(column, 1), text(column, 2))).collect()
}

/// Compares the existing files' table with ours. Returns `None` if it is up to date, or the table with the columns that it
/// lacks.
pub(super) fn widened(lake: &Lake, there: &Struct) -> Result<Option<Struct>, Failure> {
    let existing = Existing::of(there);
    let conflict = |what: String| Err(conflict(lake, &lake.table, &what));
    let keys = named(existing.partition_keys);
    let ours = PARTITION_COLUMNS.map(|(name, kind)| (name.to_owned(), kind.to_owned()));
    if keys != ours {
        return conflict(format!("is partitioned by ({}) and not by ({})", listed(&keys), listed(&ours)));
    }
    if !existing.text(INPUT).to_lowercase().contains("parquet") {
        return conflict("is not stored as Parquet".to_owned());
    }
    if !same_location(existing.text(LOCATION), &lake.location) {
        let location = shown(existing.text(LOCATION));
        return conflict(format!("is at {location} and not at {}", lake.location));
    }
    let known = named(existing.columns);
    let mut missing = Vec::new();
    for (name, kind) in &lake.columns {
        match known.iter().find(|(known, _)| known == name) {
            None => missing.push(Value::Struct(column(name, kind))),
            Some((_, known)) if known == kind => {}
            Some((_, known)) => {
                return conflict(format!("has the column {name} as {} and not as {kind}", shown(known)));
            }
        }
    }
    if missing.is_empty() {
        return Ok(None);
    }
    let columns = existing.columns.as_items().iter().cloned().chain(missing).collect();
    let mut descriptor = existing.descriptor.clone();
    descriptor.insert(COLUMNS, Value::List(Kind::Struct, columns));
    let mut table = there.clone();
    table.insert(DESCRIPTOR, Value::Struct(descriptor));
    Ok(Some(table))
}

/// Compares the existing Delta table with ours.
pub(super) fn check_delta(lake: &Lake, there: &Struct) -> Result<(), Failure> {
    let existing = Existing::of(there);
    let conflict = |what: String| Err(conflict(lake, &delta_name(lake), &what));
    if !existing.parameters.property(PROVIDER).is_some_and(|provider| provider.eq_ignore_ascii_case("delta")) {
        return conflict(format!("is no Delta table ({PROVIDER} is not delta)"));
    }
    let serde = existing.descriptor.get(&SERDE).and_then(Value::as_struct).and_then(|serde| serde.get(&3));
    let path = serde.and_then(|parameters| parameters.property("path")).unwrap_or_else(|| existing.text(LOCATION));
    if !same_location(path, &lake.location) {
        return conflict(format!("is at {} and not at {}", shown(path), lake.location));
    }
    Ok(())
}

/// The name of a partition in the metastore.
pub(super) fn partition_name(partition: &Partition) -> String {
    let (year, month, day, hour) = partition.date();
    format!("app_id={}/year={year}/month={month}/day={day}/hour={hour}", partition.app_id)
}

/// The name of a partition that was added by its path.
pub(super) fn name_by_path(partition: &Partition) -> String {
    partition.to_string()
}

/// Distinguishes a table from a later one of the same name.
pub(super) fn identity(table: &Struct) -> (Option<Value>, Option<Value>) {
    // The creation time, and the id if the metastore returns one.
    (table.get(&4).cloned(), table.get(&25).cloned())
}

/// The relevant parts of an existing table.
struct Existing<'a> {
    descriptor: &'a Struct,
    columns: &'a Value,
    partition_keys: &'a Value,
    parameters: &'a Value,
}

impl<'a> Existing<'a> {
    fn of(table: &'a Struct) -> Self {
        static NONE: (Struct, Value) = (Struct::new(), Value::List(Kind::Struct, Vec::new()));
        let descriptor = table.get(&DESCRIPTOR).and_then(Value::as_struct).unwrap_or(&NONE.0);
        let part = |of: &'a Struct, id| of.get(&id).unwrap_or(&NONE.1);
        Self {
            descriptor,
            columns: part(descriptor, COLUMNS),
            partition_keys: part(table, PARTITION_KEYS),
            parameters: part(table, PARAMETERS),
        }
    }

    fn text(&self, id: i16) -> &'a str {
        self.descriptor.get(&id).and_then(Value::as_text).unwrap_or_default()
    }
}

fn conflict(lake: &Lake, table: &str, what: &str) -> Failure {
    let text = format!(
        "the table {}.{table} that is there {what}; set another HIVE_TABLE or HIVE_DATABASE, or drop that table",
        lake.database
    );
    Failure::new(FailureKind::Conflict, text)
}

fn listed(columns: &[(String, String)]) -> String {
    let columns: Vec<String> = columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    shown(&columns.join(", "))
}

/// `s3`, `s3a` and `s3n` name the same store, `file:/` and `file:///` the same directory.
fn same_location(one: &str, other: &str) -> bool {
    fn plain(location: &str) -> (&str, &str) {
        let (scheme, path) = location.split_once(':').unwrap_or(("", location));
        let scheme = if matches!(scheme, "s3a" | "s3n") { "s3" } else { scheme };
        let path = path.trim_end_matches('/');
        (scheme, if scheme == "file" { path.trim_start_matches('/') } else { path })
    }
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(columns: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
        columns.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect()
    }

    fn lake() -> Lake {
        Lake {
            database: "causality".to_owned(),
            table: "events".to_owned(),
            location: "s3a://lake/raw".to_owned(),
            columns: typed(&[("id", "string"), ("timestamp_ms", "bigint")]),
            delta: true,
        }
    }

    #[test]
    fn a_partition_has_the_numbers_of_its_path() {
        let partition = Partition { app_id: "007".to_owned(), hour: 491_000 };
        let partition = super::partition(&lake(), &partition, "app_id=007/year=2026/month=01/day=05/hour=08");
        let values: Vec<&str> = partition[&1].as_items().iter().filter_map(Value::as_text).collect();
        assert_eq!(values, ["007", "2026", "1", "5", "8"]);
        let location = partition[&6].as_struct().unwrap()[&LOCATION].as_text().unwrap();
        assert_eq!(location, "s3a://lake/raw/app_id=007/year=2026/month=01/day=05/hour=08");
    }

    #[test]
    fn our_own_tables_are_ours() {
        let lake = lake();
        assert_eq!(widened(&lake, &files_table(&lake)).unwrap(), None);
        check_delta(&lake, &delta_table(&lake)).unwrap();
        let same = Lake { location: "s3://lake/raw/".to_owned(), ..lake.clone() };
        assert_eq!(widened(&same, &files_table(&lake)).unwrap(), None);
    }

    #[test]
    fn columns_are_added_and_the_rest_of_the_table_stays() {
        let older = lake();
        let mut there = files_table(&older);
        there.insert(99, Value::text("of a later version"));
        let columns = typed(&[("id", "string"), ("timestamp_ms", "bigint"), ("user_id", "string")]);
        let newer = Lake { columns, ..older };
        let wider = widened(&newer, &there).unwrap().unwrap();
        assert_eq!(wider[&99], Value::text("of a later version"));
        assert_eq!(widened(&newer, &wider).unwrap(), None);
        let names: Vec<String> = named(Existing::of(&wider).columns).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["id", "timestamp_ms", "user_id"]);
        // An additional column is no conflict.
        assert_eq!(widened(&lake(), &wider).unwrap(), None);
    }

    #[test]
    fn a_conflicting_table_is_reported_with_the_difference() {
        let lake = lake();
        let elsewhere = Lake { location: "s3a://other".to_owned(), ..lake.clone() };
        let typed = Lake { columns: typed(&[("timestamp_ms", "string")]), ..lake.clone() };
        let mut unpartitioned = files_table(&lake);
        unpartitioned.insert(PARTITION_KEYS, Value::structs([]));
        for (there, what) in [
            (files_table(&elsewhere), "is at s3a://other and not at s3a://lake/raw"),
            (files_table(&typed), "has the column timestamp_ms as string and not as bigint"),
            (unpartitioned, "is partitioned by () and not by (app_id string, year int"),
            (Struct::new(), "is partitioned by ()"),
        ] {
            let failure = widened(&lake, &there).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Conflict);
            assert!(failure.to_string().contains(what), "{failure}");
        }
        let failure = check_delta(&lake, &files_table(&lake)).unwrap_err();
        assert!(failure.to_string().contains("events_delta") && failure.to_string().contains("no Delta table"));
        let failure = check_delta(&lake, &delta_table(&elsewhere)).unwrap_err();
        assert!(failure.to_string().contains("is at s3a://other"), "{failure}");
    }

    #[test]
    fn equivalent_locations_are_equal() {
        for (one, other, same) in [
            ("file:/srv/lake", "file:///srv/lake/", true),
            ("s3://lake/raw", "s3n://lake/raw", true),
            ("s3://lake/raw", "gs://lake/raw", false),
            ("s3://lake/raw", "s3://lake/Raw", false),
            ("", "file:///", false),
        ] {
            assert_eq!(same_location(one, other), same, "{one} {other}");
        }
    }
}
