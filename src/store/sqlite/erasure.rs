//! Erases a person's data: a reader finds rows, and the writer checks them again, deletes and overwrites them.

use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::engine::{Engine, Wake};
use super::error::failed;
use super::writer::Command;
use crate::event::Person;
use crate::store::erasure::{ErasedRecords, ErasedRows, TimeBudget};
use crate::store::error::{StoreError, StoreErrorKind};

/// Rows scanned in one read, one in memory at a time.
const SCAN_ROWS_MAX: i64 = 20_000;
/// Rows deleted in one transaction.
const DELETE_ROWS_MAX: usize = 500;
const CONTEXT: &str = "erase person";

/// A table, and the column whose content identifies the person.
#[derive(Clone, Copy)]
struct Table {
    select: &'static str,
    find: &'static str,
    delete: &'static str,
}

const DELIVERIES: Table = Table {
    select: "SELECT seq, payload FROM deliveries WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    find: "SELECT payload FROM deliveries WHERE seq = ?1",
    delete: "DELETE FROM deliveries WHERE seq = ?1",
};
const ANOMALY_EVENTS: Table = Table {
    select: "SELECT seq, document FROM anomaly_events WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    find: "SELECT document FROM anomaly_events WHERE seq = ?1",
    delete: "DELETE FROM anomaly_events WHERE seq = ?1",
};
const OUTBOX: Table = Table {
    select: "SELECT seq, payload FROM outbox WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    find: "SELECT payload FROM outbox WHERE seq = ?1",
    delete: "DELETE FROM outbox WHERE seq = ?1",
};

/// The person's rows, and the last row that was scanned; `None` if there was none.
struct Scan {
    found: Vec<i64>,
    last: Option<i64>,
}

impl Engine {
    pub(in crate::store) async fn erase_person(
        &self,
        person: &Person,
        budget: TimeBudget,
    ) -> Result<ErasedRecords, StoreError> {
        let (mut erased, mut is_complete) = ([0; 3], true);
        for (table, erased) in [OUTBOX, DELIVERIES, ANOMALY_EVENTS].into_iter().zip(&mut erased) {
            let of_table = self.erase_rows(table, person, budget).await?;
            *erased = of_table.rows;
            is_complete &= of_table.is_complete;
        }
        let [_, deliveries, anomaly_records] = erased;
        let (group, app) = (person.group(), person.app_id.clone());
        self.write(Wake::None, CONTEXT, move |connection| {
            let sql = "DELETE FROM anomaly_states WHERE group_value = ?1 AND (?2 IS NULL OR app_id = ?2)";
            connection.execute(sql, params![group, app]).map_err(failed(CONTEXT))
        })
        .await?;
        Ok(ErasedRecords { deliveries, anomaly_records, is_complete })
    }

    async fn erase_rows(&self, table: Table, person: &Person, budget: TimeBudget) -> Result<ErasedRows, StoreError> {
        let (mut after, mut erased) = (0, 0);
        loop {
            let of = person.clone();
            let scan = self
                .read(CONTEXT, move |connection| scan(connection, table.select, after, &of).map_err(failed(CONTEXT)));
            let Scan { found, last } = scan.await?;
            for some in found.chunks(DELETE_ROWS_MAX) {
                let (some, of) = (some.to_vec(), person.clone());
                erased += self
                    .write(Wake::None, CONTEXT, move |connection| {
                        delete(connection, table, &some, &of).map_err(failed(CONTEXT))
                    })
                    .await?;
                if budget.is_exhausted(erased) {
                    return Ok(ErasedRows { rows: erased, is_complete: false });
                }
            }
            match last {
                Some(last) => after = last,
                None => return Ok(ErasedRows { rows: erased, is_complete: true }),
            }
        }
    }

    pub(in crate::store) async fn wipe(&self) -> Result<bool, StoreError> {
        let (done, answer) = oneshot::channel();
        self.queue(CONTEXT, Command::Wipe(done)).await?;
        answer.await.map_err(|_| StoreError::new(StoreErrorKind::Closed, CONTEXT))?
    }
}

fn scan(connection: &Connection, select: &str, after: i64, person: &Person) -> rusqlite::Result<Scan> {
    let mut scan = Scan { found: Vec::new(), last: None };
    let mut statement = connection.prepare_cached(select)?;
    let mut rows = statement.query([after, SCAN_ROWS_MAX])?;
    while let Some(row) = rows.next()? {
        let seq = row.get(0)?;
        if person.has_document(row.get_ref(1)?.as_bytes()?) {
            scan.found.push(seq);
        }
        scan.last = Some(seq);
    }
    Ok(scan)
}

/// The sequence may have been reused in the meantime.
fn delete(connection: &Connection, table: Table, found: &[i64], person: &Person) -> rusqlite::Result<u64> {
    let mut find = connection.prepare_cached(table.find)?;
    let mut delete = connection.prepare_cached(table.delete)?;
    let mut deleted = 0;
    for seq in found {
        let is_match = {
            let mut rows = find.query([seq])?;
            match rows.next()? {
                Some(row) => person.has_document(row.get_ref(0)?.as_bytes()?),
                None => false,
            }
        };
        if is_match {
            deleted += delete.execute([seq])? as u64;
        }
    }
    Ok(deleted)
}
