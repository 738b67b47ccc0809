//! Deliveries: claim under a lease, finish, list, retry and delete.

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::clock;
use super::clock::now_ms;
use super::engine::{Engine, Wake};
use super::error::{damaged, failed};
use super::row::{query_newest, timestamp, uuid};
use crate::store::cursor;
use crate::store::delivery::{
    ABANDON_ROWS_MAX, BacklogLimits, ClaimLimits, Delivery, DeliveryFilter, DeliveryOutcome, DeliveryStatus,
    RETENTION_MS, RETRIES_MAX, RetryFilter, WAITED_TOO_LONG,
};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::page::{Page, PageRequest};

const LIST: u8 = b'd';
const COLUMNS: &str = "seq, id, webhook_id, rule_id, anomaly_config_id, event_id, payload, status, attempts, \
     max_attempts, due_at, last_attempt_at, last_error, last_status_code, created_at, finished_at";

/// Deliveries deleted in one transaction, so that others do not wait long for it.
const DELETE_ROWS_MAX: i64 = 1_000;

impl Engine {
    pub(in crate::store) async fn claim_due_deliveries(
        &self,
        limits: ClaimLimits,
    ) -> Result<Vec<Delivery>, StoreError> {
        let claim = move |connection: &Connection| claim(connection, &limits).map_err(failed("claim deliveries"));
        self.write(Wake::None, "claim deliveries", claim).await
    }

    pub(in crate::store) async fn next_due_ms(&self, skip: &[Uuid]) -> Result<Option<i64>, StoreError> {
        let (context, skip) = ("find next due delivery", skip.to_vec());
        let sql = "SELECT id, (SELECT min(due_at) FROM deliveries d WHERE d.webhook_id = w.id AND d.due_at IS NOT NULL)
                   FROM webhooks w WHERE w.enabled";
        self.read(context, move |connection| {
            let mut statement = connection.prepare_cached(sql).map_err(failed(context))?;
            let mut rows = statement.query([]).map_err(failed(context))?;
            let mut next: Option<i64> = None;
            while let Some(row) = rows.next().map_err(failed(context))? {
                let (id, due): (_, Option<i64>) =
                    row.get(0).and_then(|id| Ok((uuid(id), row.get(1)?))).map_err(failed(context))?;
                if let Some(due) = due.filter(|_| !skip.contains(&id)) {
                    next = Some(next.map_or(due, |next| next.min(due)));
                }
            }
            Ok(next)
        })
        .await
    }

    pub(in crate::store) async fn release_deliveries(&self, ids: Vec<Uuid>) -> Result<(), StoreError> {
        let context = "release deliveries";
        let sql = "UPDATE deliveries SET status = 'pending', due_at = ?2 WHERE id = ?1 AND status = 'in_progress'";
        self.write(Wake::None, context, move |connection| {
            let mut statement = connection.prepare_cached(sql).map_err(failed(context))?;
            for id in ids {
                statement.execute(params![id.into_bytes(), now_ms()]).map_err(failed(context))?;
            }
            Ok(())
        })
        .await
    }

    pub(in crate::store) async fn trim_backlog(&self, bounds: BacklogLimits) -> Result<u64, StoreError> {
        let context = "give up deliveries";
        let age_ms = i64::try_from(bounds.age_max.as_millis()).unwrap_or(i64::MAX);
        let mut abandoned = 0;
        loop {
            let count = self
                .write(Wake::None, context, move |connection| {
                    let mut count = 0;
                    for webhook in disabled(connection).map_err(failed(context))? {
                        count += delete_beyond_limit(connection, webhook, bounds.deliveries_max)
                            .and_then(|beyond| Ok(beyond + cancel_older(connection, webhook, age_ms)?))
                            .map_err(failed(context))?;
                    }
                    Ok(count)
                })
                .await?;
            abandoned += count;
            if count == 0 {
                return Ok(abandoned);
            }
        }
    }

    pub(in crate::store) async fn finish_deliveries(&self, outcomes: Vec<DeliveryOutcome>) -> Result<(), StoreError> {
        let again = outcomes.iter().any(|outcome| outcome.status == DeliveryStatus::Pending);
        let wake = if again { Wake::Work } else { Wake::None };
        self.write(wake, "finish deliveries", move |connection| {
            outcomes.iter().try_for_each(|outcome| finish(connection, outcome)).map_err(failed("finish deliveries"))
        })
        .await
    }

    pub(in crate::store) async fn delivery(&self, id: Uuid) -> Result<Option<Delivery>, StoreError> {
        self.read("read delivery", move |connection| find(connection, id).map_err(failed("read delivery"))).await
    }

    pub(in crate::store) async fn deliveries(
        &self,
        filter: DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError> {
        let before = cursor::after::<i64>(LIST, &page)?;
        self.read("list deliveries", move |connection| {
            let rows = list(connection, &filter, before, page.limit + 1).map_err(failed("list deliveries"))?;
            Ok(cursor::page(LIST, &page, rows))
        })
        .await
    }

    pub(in crate::store) async fn retry_delivery(&self, id: Uuid) -> Result<Delivery, StoreError> {
        let auditor = self.auditor();
        self.write(Wake::Work, "retry delivery", move |connection| {
            let before = auditor.before(|| find(connection, id).map_err(failed("retry delivery")))?;
            let retried = retry(connection, id)?;
            auditor.record(connection, || Delivery::change("retry", id, before.as_ref(), Some(&retried)))?;
            Ok(retried)
        })
        .await
    }

    pub(in crate::store) async fn retry_deliveries(&self, filter: RetryFilter) -> Result<u64, StoreError> {
        let context = "retry deliveries";
        let auditor = self.auditor();
        self.write(Wake::Work, context, move |connection| {
            let retried = retry_all(connection, &filter).map_err(failed(context))?;
            auditor.record(connection, || filter.change(retried))?;
            Ok(retried)
        })
        .await
    }

    pub(in crate::store) async fn delete_delivery(&self, id: Uuid) -> Result<bool, StoreError> {
        let auditor = self.auditor();
        let context = "delete delivery";
        self.write(Wake::None, context, move |connection| {
            let before = auditor.before(|| find(connection, id).map_err(failed(context)))?;
            let sql = "DELETE FROM deliveries WHERE id = ?1";
            let deleted = connection.execute(sql, [id.into_bytes()]).map_err(failed(context))? > 0;
            if deleted {
                auditor.record(connection, || Delivery::change("delete", id, before.as_ref(), None))?;
            }
            Ok(deleted)
        })
        .await
    }

    /// Deletes deliveries that ended long ago; returns how many.
    pub(super) async fn delete_expired_deliveries(&self) -> Result<u64, StoreError> {
        let mut deleted = 0;
        for (status, retention_ms) in RETENTION_MS {
            loop {
                let delete = move |connection: &Connection| {
                    delete_expired(connection, status, now_ms() - retention_ms).map_err(failed("forget deliveries"))
                };
                let count = self.write(Wake::None, "forget deliveries", delete).await?;
                deleted += count as u64;
                if count == 0 {
                    break;
                }
            }
        }
        Ok(deleted)
    }
}

/// Makes deliveries due that a dead process had claimed: only this process claims.
pub(super) fn release_leases(connection: &Connection) -> Result<(), StoreError> {
    let sql = "UPDATE deliveries SET status = 'pending', due_at = ?1 WHERE status = 'in_progress'";
    let released =
        clock::shift_due_times_since_last_run(connection).and_then(|()| connection.execute(sql, [now_ms()]).map(drop));
    match released.map_err(failed("release leases")) {
        // The leases expire by themselves, so a full disk need not prevent the start.
        Err(error) if error.kind == StoreErrorKind::Full => {
            tracing::warn!("the disk is full; deliveries of the last run are sent when their leases end");
            Ok(())
        }
        released => released,
    }
}

/// Cancels a webhook's open deliveries.
pub(super) fn cancel_open_deliveries(connection: &Connection, webhook: Uuid, now: i64) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE deliveries SET status = 'cancelled', due_at = NULL, finished_at = ?2, last_error = 'webhook was deleted'
         WHERE webhook_id = ?1 AND due_at IS NOT NULL",
        params![webhook.into_bytes(), now],
    )
}

fn disabled(connection: &Connection) -> rusqlite::Result<Vec<Uuid>> {
    let mut statement = connection.prepare_cached("SELECT id FROM webhooks WHERE NOT enabled")?;
    statement.query_map([], |row| Ok(uuid(row.get(0)?)))?.collect()
}

/// Deletes a disabled webhook's oldest deliveries beyond the limit; returns how many.
pub(super) fn delete_beyond_limit(connection: &Connection, webhook: Uuid, backlog_max: u64) -> rusqlite::Result<u64> {
    let backlog_max = i64::try_from(backlog_max).unwrap_or(i64::MAX);
    // The index alone answers the count. A request of an earlier claim may still be in flight.
    let mut delete = connection.prepare_cached(
        "DELETE FROM deliveries WHERE seq IN
             (SELECT seq FROM deliveries WHERE webhook_id = ?1 AND due_at IS NOT NULL
              ORDER BY due_at DESC, seq DESC LIMIT ?3 OFFSET ?2)
         AND (status = 'pending' OR due_at <= ?4)",
    )?;
    let deleted = delete.execute(params![webhook.into_bytes(), backlog_max, ABANDON_ROWS_MAX, now_ms()])?;
    count_abandoned(connection, webhook, deleted)
}

/// Cancels deliveries that have been due for a disabled webhook for longer than `age_ms`; returns how many.
fn cancel_older(connection: &Connection, webhook: Uuid, age_ms: i64) -> rusqlite::Result<u64> {
    let mut cancel = connection.prepare_cached(
        "UPDATE deliveries SET status = 'cancelled', due_at = NULL, finished_at = ?3, last_error = ?4 WHERE seq IN
             (SELECT seq FROM deliveries WHERE webhook_id = ?1 AND due_at < ?2 ORDER BY due_at LIMIT ?5)",
    )?;
    let now = now_ms();
    let before = now.saturating_sub(age_ms);
    let cancelled = cancel.execute(params![webhook.into_bytes(), before, now, WAITED_TOO_LONG, ABANDON_ROWS_MAX])?;
    count_abandoned(connection, webhook, cancelled)
}

fn count_abandoned(connection: &Connection, webhook: Uuid, count: usize) -> rusqlite::Result<u64> {
    if count > 0 {
        let sql = "UPDATE webhooks SET deliveries_given_up = deliveries_given_up + ?2 WHERE id = ?1";
        connection.prepare_cached(sql)?.execute(params![webhook.into_bytes(), count as i64])?;
    }
    Ok(count as u64)
}

fn claim(connection: &Connection, limits: &ClaimLimits) -> rusqlite::Result<Vec<Delivery>> {
    let now = now_ms();
    // The oldest of each webhook, so that no webhook's backlog is scanned.
    let mut due: Vec<(usize, i64, i64)> = Vec::new();
    let mut webhooks = connection.prepare_cached("SELECT id FROM webhooks WHERE enabled")?;
    let mut oldest = connection.prepare_cached(
        "SELECT due_at, seq FROM deliveries WHERE webhook_id = ?1 AND due_at <= ?2 ORDER BY due_at, seq LIMIT ?3",
    )?;
    let ids = webhooks.query_map([], |row| Ok(uuid(row.get(0)?)))?;
    for id in ids {
        let id = id?;
        let quota = limits.quota(id).min(limits.deliveries);
        if quota > 0 {
            let rows =
                oldest.query_map(params![id.into_bytes(), now, quota as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
            for (rank, row) in rows.enumerate() {
                let (due_at, seq) = row?;
                due.push((rank, due_at, seq));
            }
        }
    }
    // Every webhook's first, then every webhook's second.
    due.sort_unstable();
    due.truncate(limits.deliveries);

    let lease_end = now.saturating_add(i64::try_from(limits.lease.as_millis()).unwrap_or(i64::MAX));
    let mut take = connection.prepare_cached(&format!(
        "UPDATE deliveries SET status = 'in_progress', due_at = ?2 WHERE seq = ?1 RETURNING {COLUMNS}"
    ))?;
    let mut claimed = Vec::with_capacity(due.len());
    let mut bytes = 0;
    for (_, due_at, seq) in due {
        if bytes > limits.payload_bytes {
            break;
        }
        let delivery = take.query_row([seq, lease_end], |row| delivery(row).map(|(_, delivery)| delivery))?;
        bytes += delivery.payload.get().len();
        claimed.push((due_at, seq, delivery));
    }
    claimed.sort_unstable_by_key(|(due_at, seq, _)| (*due_at, *seq));
    Ok(claimed.into_iter().map(|(.., delivery)| delivery).collect())
}

fn finish(connection: &Connection, outcome: &DeliveryOutcome) -> rusqlite::Result<()> {
    let pending = outcome.status == DeliveryStatus::Pending;
    // A delivery that was cancelled or ended in the meantime stays so, unless this attempt delivered it.
    let mut statement = connection.prepare_cached(
        "UPDATE deliveries SET status = ?2, attempts = ?3, last_attempt_at = ?4, due_at = ?5, last_status_code = ?6,
             last_error = ?7, finished_at = ?8
         WHERE id = ?1 AND (due_at IS NOT NULL OR (?2 = 'delivered' AND status <> 'delivered'))",
    )?;
    statement.execute(params![
        outcome.id.into_bytes(),
        outcome.status.text(),
        outcome.attempts,
        outcome.attempted_at_ms,
        pending.then(|| now_ms().saturating_add(outcome.wait_ms.unwrap_or(0))),
        outcome.status_code,
        outcome.error,
        (!pending).then(now_ms),
    ])?;
    Ok(())
}

fn find(connection: &Connection, id: Uuid) -> rusqlite::Result<Option<Delivery>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM deliveries WHERE id = ?1"))?;
    statement.query_row([id.into_bytes()], |row| delivery(row).map(|(_, d)| d)).optional()
}

fn list(
    connection: &Connection,
    filter: &DeliveryFilter,
    before: Option<i64>,
    limit: usize,
) -> rusqlite::Result<Vec<(i64, Delivery)>> {
    let mut wheres: Vec<(&str, Box<dyn ToSql>)> = Vec::new();
    if let Some(status) = filter.status {
        wheres.push(("status = ?", Box::new(status.text())));
    }
    if let Some(id) = filter.webhook_id {
        wheres.push(("webhook_id = ?", Box::new(id.into_bytes())));
    }
    if let Some(id) = filter.rule_id {
        wheres.push(("rule_id = ?", Box::new(id.into_bytes())));
    }
    if let Some(id) = &filter.event_id {
        wheres.push(("event_id = ?", Box::new(id.clone())));
    }
    if let Some(before) = before {
        wheres.push(("seq < ?", Box::new(before)));
    }
    query_newest(connection, &format!("SELECT {COLUMNS} FROM deliveries"), wheres, limit, delivery)
}

fn retry(connection: &Connection, id: Uuid) -> Result<Delivery, StoreError> {
    let context = "retry delivery";
    let found = find(connection, id).map_err(failed(context))?;
    let found = found.ok_or_else(|| StoreError::new(StoreErrorKind::NotFound, context))?;
    if !found.status.is_retryable() {
        let detail = format!("its status is {}", found.status.text());
        return Err(StoreError::caused(StoreErrorKind::NotRetryable, context, detail));
    }
    let webhook = connection
        .query_row("SELECT 1 FROM webhooks WHERE id = ?1", [found.webhook_id.into_bytes()], |_| Ok(()))
        .optional()
        .map_err(failed(context))?;
    if webhook.is_none() {
        return Err(StoreError::caused(StoreErrorKind::NotRetryable, context, "its webhook no longer exists"));
    }
    connection
        .execute(
            "UPDATE deliveries SET status = 'pending', attempts = 0, due_at = ?2, finished_at = NULL WHERE id = ?1",
            params![id.into_bytes(), now_ms()],
        )
        .map_err(failed(context))?;
    let retried = find(connection, id).map_err(failed(context))?;
    retried.ok_or_else(|| StoreError::new(StoreErrorKind::NotFound, context))
}

fn retry_all(connection: &Connection, filter: &RetryFilter) -> rusqlite::Result<u64> {
    let mut retried = 0;
    // By status, so that each query finds its index.
    for status in filter.status_texts() {
        retried += connection
            .prepare_cached(
                "UPDATE deliveries SET status = 'pending', attempts = 0, due_at = ?1, finished_at = NULL WHERE seq IN
                 (SELECT seq FROM deliveries d WHERE status = ?2 AND created_at >= ?3 AND created_at < ?4
                      AND (?5 IS NULL OR webhook_id = ?5) AND (?6 IS NULL OR rule_id = ?6)
                      AND EXISTS (SELECT 1 FROM webhooks w WHERE w.id = d.webhook_id)
                  ORDER BY seq LIMIT ?7)",
            )?
            .execute(params![
                now_ms(),
                status,
                filter.since_ms,
                filter.until_ms,
                filter.webhook_id.map(Uuid::into_bytes),
                filter.rule_id.map(Uuid::into_bytes),
                (RETRIES_MAX - retried) as i64,
            ])? as u64;
    }
    Ok(retried)
}

/// Scans only the oldest of a status: those that ended first were mostly created first, and the rest follows in later
/// calls.
fn delete_expired(connection: &Connection, status: DeliveryStatus, before: i64) -> rusqlite::Result<usize> {
    // End times in the future, from before the clock was set back, would block the deletion of all behind them.
    connection.execute(
        "UPDATE deliveries SET finished_at = ?2 WHERE finished_at > ?2 AND seq IN
             (SELECT seq FROM deliveries WHERE status = ?1 ORDER BY seq LIMIT ?3)",
        params![status.text(), now_ms(), DELETE_ROWS_MAX],
    )?;
    connection.execute(
        "DELETE FROM deliveries WHERE finished_at < ?2 AND seq IN
             (SELECT seq FROM deliveries WHERE status = ?1 ORDER BY seq LIMIT ?3)",
        params![status.text(), before, DELETE_ROWS_MAX],
    )
}

fn delivery(row: &Row<'_>) -> rusqlite::Result<(i64, Delivery)> {
    let optional_id = |column: usize| row.get::<_, Option<[u8; 16]>>(column).map(|id| id.map(uuid));
    let optional_time = |column: usize| row.get::<_, Option<i64>>(column)?.map(timestamp).transpose();
    let status = row.get_ref(7)?.as_str().map_err(damaged)?;
    let status = DeliveryStatus::parse(status).ok_or_else(|| damaged("unknown delivery status"))?;
    let finished_at = optional_time(15)?;
    let delivery = Delivery {
        id: uuid(row.get(1)?),
        webhook_id: uuid(row.get(2)?),
        rule_id: optional_id(3)?,
        anomaly_config_id: optional_id(4)?,
        event_id: row.get(5)?,
        payload: RawValue::from_string(row.get(6)?).map_err(damaged)?,
        status,
        attempts: row.get(8)?,
        max_attempts: row.get(9)?,
        next_attempt_at: optional_time(10)?.filter(|_| status == DeliveryStatus::Pending),
        last_attempt_at: optional_time(11)?,
        last_error: row.get(12)?,
        last_status_code: row.get(13)?,
        created_at: timestamp(row.get(14)?)?,
        delivered_at: finished_at.filter(|_| status == DeliveryStatus::Delivered),
    };
    Ok((row.get(0)?, delivery))
}
