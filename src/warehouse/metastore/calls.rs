//! The calls to the metastore. All of them exist since Hive 4.0.0; later versions lack the older forms that take no request
//! struct. The numbers are the field ids of `hive_metastore.thrift`.

use super::client::{Call, Client};
use super::error::{Failure, FailureKind};
use super::wire::{Struct, Value};

const GET_DATABASE: Call = Call { name: "get_database_req", throws: &[FailureKind::Missing, FailureKind::Refused] };
const CREATE_DATABASE: Call =
    Call { name: "create_database", throws: &[FailureKind::Exists, FailureKind::Refused, FailureKind::Refused] };
const GET_TABLE: Call = Call { name: "get_table_req", throws: &[FailureKind::Refused, FailureKind::Missing] };
const CREATE_TABLE: Call = Call {
    name: "create_table_req",
    throws: &[FailureKind::Exists, FailureKind::Refused, FailureKind::Refused, FailureKind::Missing],
};
const ALTER_TABLE: Call = Call { name: "alter_table_req", throws: &[FailureKind::Refused, FailureKind::Refused] };
const PARTITION_NAMES: Call =
    Call { name: "get_partition_names_ps_req", throws: &[FailureKind::Refused, FailureKind::Missing] };
const ADD_PARTITIONS: Call =
    Call { name: "add_partitions_req", throws: &[FailureKind::Missing, FailureKind::Exists, FailureKind::Refused] };
const DROP_PARTITIONS: Call =
    Call { name: "drop_partitions_req", throws: &[FailureKind::Missing, FailureKind::Refused] };

/// The default catalog, which every metastore has. Only the call for a database must name it.
const CATALOG: &str = "hive";
/// The owner of databases and tables.
const OWNER: &str = "causality";
/// The value of `PrincipalType.USER`.
const USER: i32 = 1;
/// Partition names per call. A year has at most 8,784 hours.
const NAMES_MAX: i16 = i16::MAX;

impl Client {
    pub(super) async fn has_database(&mut self, name: &str) -> Result<bool, Failure> {
        let request = Struct::from([(1, Value::text(name)), (2, Value::text(CATALOG))]);
        none_if_missing(self.call(&GET_DATABASE, argument(request)).await).map(|database| database.is_some())
    }

    /// Succeeds if it exists already.
    pub(super) async fn create_database(&mut self, name: &str) -> Result<(), Failure> {
        let database = Struct::from([
            (1, Value::text(name)),
            (2, Value::text("Events of causality")),
            (4, Value::properties(&[])),
            (6, Value::text(OWNER)),
            (7, Value::I32(USER)),
        ]);
        ok_if_exists(self.call(&CREATE_DATABASE, argument(database)).await)
    }

    pub(super) async fn table(&mut self, database: &str, name: &str) -> Result<Option<Struct>, Failure> {
        let request = Struct::from([(1, Value::text(database)), (2, Value::text(name))]);
        let answer = none_if_missing(self.call(&GET_TABLE, argument(request)).await)?;
        let Some(Value::Struct(mut answer)) = answer else { return Ok(None) };
        match answer.remove(&1) {
            Some(Value::Struct(table)) => Ok(Some(table)),
            _ => Err(Failure::new(FailureKind::Protocol, "it answered get_table_req without a table")),
        }
    }

    /// Succeeds if it exists already.
    pub(super) async fn create_table(&mut self, mut table: Struct) -> Result<(), Failure> {
        table.extend([(3, Value::text(OWNER)), (18, Value::I32(USER))]);
        let request = Struct::from([(1, Value::Struct(table)), (2, without_statistics())]);
        ok_if_exists(self.call(&CREATE_TABLE, argument(request)).await)
    }

    pub(super) async fn alter_table(&mut self, database: &str, name: &str, table: Struct) -> Result<(), Failure> {
        let request = Struct::from([
            (2, Value::text(database)),
            (3, Value::text(name)),
            (4, Value::Struct(table)),
            (5, without_statistics()),
        ]);
        self.call(&ALTER_TABLE, argument(request)).await.map(|_| ())
    }

    /// The names of the partitions that begin with these values, such as `app_id=shop/year=2026/…`. The result may contain
    /// others.
    pub(super) async fn partition_names(
        &mut self,
        database: &str,
        table: &str,
        values: Vec<String>,
    ) -> Result<Vec<String>, Failure> {
        let request = Struct::from([
            (2, Value::text(database)),
            (3, Value::text(table)),
            (4, Value::texts(values)),
            (5, Value::I16(NAMES_MAX)),
        ]);
        let answer = self.call(&PARTITION_NAMES, argument(request)).await?;
        let Some(Value::Struct(mut answer)) = answer else { return Ok(Vec::new()) };
        let Some(Value::List(_, names)) = answer.remove(&1) else { return Ok(Vec::new()) };
        Ok(names.into_iter().filter_map(Value::into_text).collect())
    }

    /// Adds the partitions that do not exist yet.
    pub(super) async fn add_partitions(
        &mut self,
        database: &str,
        table: &str,
        partitions: Vec<Struct>,
    ) -> Result<(), Failure> {
        let request = Struct::from([
            (1, Value::text(database)),
            (2, Value::text(table)),
            (3, Value::structs(partitions)),
            // Only if absent, and without repeating them in the reply.
            (4, Value::Bool(true)),
            (5, Value::Bool(false)),
        ]);
        self.call(&ADD_PARTITIONS, argument(request)).await.map(|_| ())
    }

    /// Drops partitions by their names, ignoring missing ones. Their files stay.
    pub(super) async fn drop_partitions(
        &mut self,
        database: &str,
        table: &str,
        names: Vec<String>,
    ) -> Result<(), Failure> {
        let request = Struct::from([
            (1, Value::text(database)),
            (2, Value::text(table)),
            (3, Value::Struct(Struct::from([(1, Value::texts(names))]))),
            // Keep the files, only if they exist, and without repeating them in the reply.
            (4, Value::Bool(false)),
            (5, Value::Bool(true)),
            (8, Value::Bool(false)),
        ]);
        none_if_missing(self.call(&DROP_PARTITIONS, argument(request)).await).map(|_| ())
    }
}

/// The arguments of a call that takes a single request.
fn argument(request: Struct) -> Struct {
    Struct::from([(1, Value::Struct(request))])
}

/// An `EnvironmentContext` that keeps the metastore from listing the whole table to count its files.
fn without_statistics() -> Value {
    Value::Struct(Struct::from([(1, Value::properties(&[("DO_NOT_UPDATE_STATS", "true")]))]))
}

fn none_if_missing(answer: Result<Option<Value>, Failure>) -> Result<Option<Value>, Failure> {
    match answer {
        Err(failure) if failure.kind == FailureKind::Missing => Ok(None),
        answer => answer,
    }
}

fn ok_if_exists(answer: Result<Option<Value>, Failure>) -> Result<(), Failure> {
    match answer {
        Err(failure) if failure.kind == FailureKind::Exists => Ok(()),
        answer => answer.map(|_| ()),
    }
}
