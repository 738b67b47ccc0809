//! Erases a person's data: the server preselects rows that may match, and deletes by sequence, which is never reused.

use super::engine::Engine;
use super::error::failed;
use crate::event::Person;
use crate::store::erasure::{ErasedRecords, ErasedRows, TimeBudget};
use crate::store::error::StoreError;

/// Rows scanned in one statement. Rows that cannot match are not sent, unless the id can be written in several ways.
const SCAN_ROWS_MAX: i64 = 1_000;
const SCAN_WHOLE_ROWS_MAX: i64 = 32;
const CONTEXT: &str = "erase person";

struct Table {
    name: &'static str,
    /// The column whose content identifies the person.
    column: &'static str,
    /// An expression that finds `$2` in it.
    holds: &'static str,
}

const OUTBOX: Table =
    Table { name: "outbox", column: "payload", holds: "position(convert_to($2::text, 'UTF8') IN payload) > 0" };
const DELIVERIES: Table =
    Table { name: "deliveries", column: "convert_to(payload, 'UTF8')", holds: "strpos(payload, $2::text) > 0" };
const ANOMALY_EVENTS: Table =
    Table { name: "anomaly_events", column: "convert_to(document, 'UTF8')", holds: "strpos(document, $2::text) > 0" };

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
        let (group, app) = (person.group(), &person.app_id);
        self.run(CONTEXT, async |client| {
            let sql = "DELETE FROM anomaly_states WHERE group_value = $1 AND ($2::text IS NULL OR app_id = $2)";
            client.execute(sql, &[&group, app]).await.map_err(failed(CONTEXT))?;
            Ok(())
        })
        .await?;
        Ok(ErasedRecords { deliveries, anomaly_records, is_complete })
    }

    async fn erase_rows(
        &self,
        Table { name, column, holds }: Table,
        person: &Person,
        budget: TimeBudget,
    ) -> Result<ErasedRows, StoreError> {
        let id = person.unescaped_id();
        let limit = if id.is_some() { SCAN_ROWS_MAX } else { SCAN_WHOLE_ROWS_MAX };
        let select = format!(
            "SELECT seq, CASE WHEN $2::text IS NULL OR {holds} THEN {column} END
             FROM (SELECT * FROM {name} WHERE seq > $1 ORDER BY seq LIMIT $3) AS part ORDER BY seq"
        );
        let delete = format!("DELETE FROM {name} WHERE seq = ANY($1)");
        let (mut after, mut erased) = (i64::MIN, 0);
        loop {
            let (last, deleted) = self
                .run(CONTEXT, async |client| {
                    let rows = client.query(&select, &[&after, &id, &limit]).await.map_err(failed(CONTEXT))?;
                    let is_match = |row: &&tokio_postgres::Row| {
                        row.get::<_, Option<&[u8]>>(1).is_some_and(|document| person.has_document(document))
                    };
                    let found: Vec<i64> = rows.iter().filter(is_match).map(|row| row.get(0)).collect();
                    let mut deleted = 0;
                    if !found.is_empty() {
                        deleted = client.execute(&delete, &[&found]).await.map_err(failed(CONTEXT))?;
                    }
                    Ok((rows.last().map(|row| row.get::<_, i64>(0)), deleted))
                })
                .await?;
            erased += deleted;
            match last {
                None => return Ok(ErasedRows { rows: erased, is_complete: true }),
                Some(_) if budget.is_exhausted(erased) => return Ok(ErasedRows { rows: erased, is_complete: false }),
                Some(last) => after = last,
            }
        }
    }
}
