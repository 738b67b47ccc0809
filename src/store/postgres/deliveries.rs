//! Deliveries: claim under a lease, finish, list, retry and delete.
//!
//! Invariant: processes skip rows that another one is claiming, so that none waits and no delivery is claimed twice.

use std::time::Instant;

use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::client::Client;
use super::clock;
use super::engine::Ending::Commit;
use super::engine::Engine;
use super::error::{damaged, failed};
use super::row::{is_storable, timestamp};
use super::statement::run;
use super::wake::Wake;
use crate::base::clock::unix_ms;
use crate::store::cursor;
use crate::store::delivery::{
    ABANDON_ROWS_MAX, BacklogLimits, ClaimLimits, Delivery, DeliveryFilter, DeliveryOutcome, DeliveryStatus,
    RETENTION_MS, RETRIES_MAX, RetryFilter, WAITED_TOO_LONG,
};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::page::{Page, PageRequest};

const LIST: u8 = b'd';
const COLUMNS: &str = "d.seq, d.id, d.webhook_id, d.rule_id, d.anomaly_config_id, d.event_id, d.payload, d.status, \
     d.attempts, d.max_attempts, d.due_at, d.last_attempt_at, d.last_error, d.last_status_code, d.created_at, \
     d.finished_at";
/// Deliveries deleted in one statement, so that others do not wait long for it.
const DELETE_ROWS_MAX: i64 = 1_000;

impl Engine {
    pub(in crate::store) async fn claim_due_deliveries(
        &self,
        limits: ClaimLimits,
    ) -> Result<Vec<Delivery>, StoreError> {
        let context = "claim deliveries";
        let lease_ms = i64::try_from(limits.lease.as_millis()).unwrap_or(i64::MAX / 4);
        self.0.clock.record_lease(lease_ms);
        let most = |quota: usize| quota.min(limits.deliveries) as i64;
        let (named, quotas): (Vec<Uuid>, Vec<i64>) =
            limits.quotas.iter().map(|(id, quota)| (*id, most(*quota))).unzip();
        let (limit, per_webhook) = (limits.deliveries as i64, most(limits.per_webhook));
        let bytes = i64::try_from(limits.payload_bytes).unwrap_or(i64::MAX);
        // The oldest of each webhook, so that no webhook's backlog is scanned; then every webhook's first before any
        // second.
        let sql = format!(
            "WITH found AS MATERIALIZED (
                 SELECT x.seq, x.due_at, x.webhook_id, x.bytes
                 FROM webhooks w
                 LEFT JOIN unnest($3::uuid[], $4::bigint[]) AS q (id, quota) ON q.id = w.id
                 CROSS JOIN LATERAL (
                     SELECT seq, due_at, webhook_id, octet_length(payload) AS bytes FROM deliveries
                     WHERE webhook_id = w.id AND due_at <= causality_now_ms()
                     ORDER BY due_at, seq LIMIT coalesce(q.quota, $5) FOR UPDATE SKIP LOCKED) x
                 WHERE w.enabled AND coalesce(q.quota, $5) > 0),
             ranked AS (
                 SELECT *, row_number() OVER (PARTITION BY webhook_id ORDER BY due_at, seq) AS rank FROM found),
             taken AS (
                 SELECT *, sum(bytes) OVER (ORDER BY rank, due_at, seq) - bytes AS before FROM ranked),
             due AS (
                 SELECT seq, due_at FROM taken WHERE before <= $6 ORDER BY rank, due_at, seq LIMIT $1),
             claimed AS (
                 UPDATE deliveries d SET status = 'in_progress', due_at = causality_now_ms() + $2
                 FROM due WHERE d.seq = due.seq
                 RETURNING {COLUMNS}, due.due_at AS was_due_at)
             SELECT * FROM claimed ORDER BY was_due_at, seq"
        );
        let values: [&(dyn ToSql + Sync); 6] = [&limit, &lease_ms, &named, &quotas, &per_webhook, &bytes];
        self.run(context, async |client| {
            let statement = client.prepare_cached(&sql).await.map_err(failed(context))?;
            let rows = client.query(&statement, &values).await.map_err(failed(context))?;
            rows.iter().map(|row| delivery(row).map(|(_, delivery)| delivery)).collect()
        })
        .await
    }

    pub(in crate::store) async fn next_due_ms(&self, skip: &[Uuid]) -> Result<Option<i64>, StoreError> {
        let requested_at = Instant::now();
        let (mut wait_ms, now_ms) = self.next_due(skip).await?;
        if clock::observe(self, now_ms, requested_at).await {
            (wait_ms, _) = self.next_due(skip).await?;
        }
        // In this process's time, whose clock may differ from the database's.
        Ok(wait_ms.map(|wait_ms| unix_ms().saturating_add(wait_ms)))
    }

    /// How long until the next delivery is due, and what the server's clock shows.
    async fn next_due(&self, skip: &[Uuid]) -> Result<(Option<i64>, i64), StoreError> {
        let context = "find next due delivery";
        let sql = "SELECT min(x.due_at) - causality_now_ms(), causality_now_ms() FROM webhooks w CROSS JOIN LATERAL (
                       SELECT due_at FROM deliveries WHERE webhook_id = w.id AND due_at IS NOT NULL
                       ORDER BY due_at LIMIT 1) x
                   WHERE w.enabled AND NOT w.id = ANY($1)";
        self.run(context, async |client| {
            let statement = client.prepare_cached(sql).await.map_err(failed(context))?;
            let row = client.query_one(&statement, &[&skip]).await.map_err(failed(context))?;
            Ok((row.get(0), row.get(1)))
        })
        .await
    }

    pub(in crate::store) async fn release_deliveries(&self, ids: Vec<Uuid>) -> Result<(), StoreError> {
        let context = "release deliveries";
        let sql = "UPDATE deliveries SET status = 'pending', due_at = causality_now_ms()
                   WHERE status = 'in_progress' AND seq IN
                       (SELECT seq FROM deliveries WHERE id = ANY($1) ORDER BY seq FOR UPDATE)";
        let values: [&(dyn ToSql + Sync); 1] = [&ids];
        self.transact(context, async |tx| {
            run(&tx, sql, &values, context).await?;
            Ok(Commit((), Wake::Work))
        })
        .await
    }

    pub(in crate::store) async fn trim_backlog(&self, bounds: BacklogLimits) -> Result<u64, StoreError> {
        let context = "give up deliveries";
        let age_ms = i64::try_from(bounds.age_max.as_millis()).unwrap_or(i64::MAX / 4);
        let mut abandoned = 0;
        loop {
            let count = self
                .transact(context, async |tx| {
                    let sql = "SELECT id FROM webhooks WHERE NOT enabled ORDER BY id";
                    let disabled = tx.query(sql, &[]).await.map_err(failed(context))?;
                    let mut count = 0;
                    for webhook in disabled.iter().map(|row| row.get(0)) {
                        count += delete_beyond_limit(&tx, webhook, bounds.deliveries_max).await?;
                        count += cancel_older(&tx, webhook, age_ms).await?;
                    }
                    Ok(Commit(count, Wake::None))
                })
                .await?;
            abandoned += count;
            if count == 0 {
                return Ok(abandoned);
            }
        }
    }

    pub(in crate::store) async fn finish_deliveries(&self, outcomes: Vec<DeliveryOutcome>) -> Result<(), StoreError> {
        let context = "finish deliveries";
        let now_ms = unix_ms();
        let mut outcomes = outcomes;
        outcomes.sort_by_key(|outcome| outcome.id);
        let again = outcomes.iter().any(|outcome| outcome.status == DeliveryStatus::Pending);
        let ids: Vec<Uuid> = outcomes.iter().map(|outcome| outcome.id).collect();
        let statuses: Vec<&str> = outcomes.iter().map(|outcome| outcome.status.text()).collect();
        let attempts: Vec<i32> = outcomes.iter().map(|outcome| outcome.attempts as i32).collect();
        // Ages and waits instead of times, because the database has its own clock.
        let ages: Vec<i64> = outcomes.iter().map(|outcome| (now_ms - outcome.attempted_at_ms).max(0)).collect();
        let wait = |outcome: &DeliveryOutcome| {
            let pending = outcome.status == DeliveryStatus::Pending;
            pending.then(|| outcome.wait_ms.unwrap_or(0))
        };
        let waits: Vec<Option<i64>> = outcomes.iter().map(wait).collect();
        let codes: Vec<Option<i32>> = outcomes.iter().map(|outcome| outcome.status_code.map(i32::from)).collect();
        let errors: Vec<Option<String>> = outcomes.iter().map(|outcome| outcome.error.as_deref().map(text)).collect();
        // A delivery that was cancelled or ended in the meantime stays so, unless this attempt delivered it.
        let sql = "
            UPDATE deliveries d SET status = o.status, attempts = o.attempts, last_attempt_at = now - o.age,
                due_at = now + o.wait, last_status_code = o.code, last_error = o.error,
                finished_at = CASE WHEN o.status = 'pending' THEN NULL ELSE now END
            FROM unnest($1::uuid[], $2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::int[], $7::text[])
                     AS o (id, status, attempts, age, wait, code, error), causality_now_ms() now
            WHERE d.id = o.id
                AND (d.due_at IS NOT NULL OR (o.status = 'delivered' AND d.status <> 'delivered'))";
        let values: [&(dyn ToSql + Sync); 7] = [&ids, &statuses, &attempts, &ages, &waits, &codes, &errors];
        self.transact(context, async |tx| {
            run(&tx, sql, &values, context).await?;
            Ok(Commit((), if again { Wake::Work } else { Wake::None }))
        })
        .await
    }

    pub(in crate::store) async fn delivery(&self, id: Uuid) -> Result<Option<Delivery>, StoreError> {
        self.run("read delivery", async |client| delivery_in(&client, id).await).await
    }

    pub(in crate::store) async fn deliveries(
        &self,
        filter: DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError> {
        let context = "list deliveries";
        let before = cursor::after::<i64>(LIST, &page)?;
        if !filter.event_id.as_deref().is_none_or(is_storable) {
            return Ok(cursor::page(LIST, &page, Vec::<(i64, Delivery)>::new()));
        }
        self.run(context, async |client| {
            // Only the given conditions, so that each finds its index.
            let status = filter.status.map(DeliveryStatus::text);
            let limit = page.limit as i64 + 1;
            let mut values: Vec<&(dyn ToSql + Sync)> = vec![&limit];
            let mut wheres = String::from("true");
            let mut and = |column: &str, value| {
                values.push(value);
                wheres.push_str(&format!(" AND {column} ${}", values.len()));
            };
            if let Some(status) = &status {
                and("d.status =", status);
            }
            if let Some(id) = &filter.webhook_id {
                and("d.webhook_id =", id);
            }
            if let Some(id) = &filter.rule_id {
                and("d.rule_id =", id);
            }
            if let Some(id) = &filter.event_id {
                and("d.event_id =", id);
            }
            if let Some(before) = &before {
                and("d.seq <", before);
            }
            let sql = format!("SELECT {COLUMNS} FROM deliveries d WHERE {wheres} ORDER BY d.seq DESC LIMIT $1");
            let rows = client.query(&sql, &values).await.map_err(failed(context))?;
            let rows: Result<Vec<_>, _> = rows.iter().map(delivery).collect();
            Ok(cursor::page(LIST, &page, rows?))
        })
        .await
    }

    pub(in crate::store) async fn retry_delivery(&self, id: Uuid) -> Result<Delivery, StoreError> {
        let context = "retry delivery";
        self.transact(context, async |tx| {
            let sql = "SELECT d.status, EXISTS (SELECT 1 FROM webhooks w WHERE w.id = d.webhook_id)
                       FROM deliveries d WHERE d.id = $1 FOR UPDATE OF d";
            let row = tx.query_opt(sql, &[&id]).await.map_err(failed(context))?;
            let row = row.ok_or_else(|| StoreError::new(StoreErrorKind::NotFound, context))?;
            let status: &str = row.get(0);
            let not_retryable = |detail: String| Err(StoreError::caused(StoreErrorKind::NotRetryable, context, detail));
            if !DeliveryStatus::parse(status).is_some_and(DeliveryStatus::is_retryable) {
                return not_retryable(format!("its status is {status}"));
            }
            if !row.get::<_, bool>(1) {
                return not_retryable("its webhook no longer exists".to_owned());
            }
            let sql = format!(
                "UPDATE deliveries d SET status = 'pending', attempts = 0, due_at = causality_now_ms(), finished_at = NULL
                 WHERE d.id = $1 RETURNING {COLUMNS}"
            );
            let before = delivery_in(&tx, id).await?;
            let row = tx.query_one(&sql, &[&id]).await.map_err(failed(context))?;
            let (_, retried) = delivery(&row)?;
            self.record_change(&tx, || Delivery::change("retry", id, before.as_ref(), Some(&retried))).await?;
            Ok(Commit(retried, Wake::Work))
        })
        .await
    }

    pub(in crate::store) async fn retry_deliveries(&self, filter: RetryFilter) -> Result<u64, StoreError> {
        let context = "retry deliveries";
        let statuses = filter.status_texts();
        let limit = RETRIES_MAX as i64;
        let sql = "
            UPDATE deliveries SET status = 'pending', attempts = 0, due_at = causality_now_ms(), finished_at = NULL
            WHERE seq IN (
                SELECT seq FROM deliveries d WHERE status = ANY($1) AND created_at >= $2 AND created_at < $3
                    AND ($4::uuid IS NULL OR webhook_id = $4) AND ($5::uuid IS NULL OR rule_id = $5)
                    AND EXISTS (SELECT 1 FROM webhooks w WHERE w.id = d.webhook_id)
                ORDER BY seq LIMIT $6 FOR UPDATE OF d)";
        self.transact(context, async |tx| {
            let values: [&(dyn ToSql + Sync); 6] =
                [&statuses, &filter.since_ms, &filter.until_ms, &filter.webhook_id, &filter.rule_id, &limit];
            let retried = tx.execute(sql, &values).await.map_err(failed(context))?;
            self.record_change(&tx, || filter.change(retried)).await?;
            Ok(Commit(retried, Wake::Work))
        })
        .await
    }

    pub(in crate::store) async fn delete_delivery(&self, id: Uuid) -> Result<bool, StoreError> {
        let context = "delete delivery";
        self.transact(context, async |tx| {
            let sql = format!("DELETE FROM deliveries d WHERE d.id = $1 RETURNING {COLUMNS}");
            let row = tx.query_opt(&sql, &[&id]).await.map_err(failed(context))?;
            if let Some(row) = &row {
                let (_, deleted) = delivery(row)?;
                self.record_change(&tx, || Delivery::change("delete", id, Some(&deleted), None)).await?;
            }
            Ok(Commit(row.is_some(), Wake::None))
        })
        .await
    }
}

async fn delivery_in(client: &Client, id: Uuid) -> Result<Option<Delivery>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM deliveries d WHERE d.id = $1");
    let row = client.query_opt(&sql, &[&id]).await.map_err(failed("read delivery"))?;
    row.map(|row| delivery(&row).map(|(_, delivery)| delivery)).transpose()
}

/// Deletes a disabled webhook's oldest deliveries beyond the limit; returns how many. Skips rows that another process
/// is deleting.
pub(super) async fn delete_beyond_limit(tx: &Client, webhook: Uuid, backlog_max: u64) -> Result<u64, StoreError> {
    let backlog_max = i64::try_from(backlog_max).unwrap_or(i64::MAX);
    // The index alone answers the count. A request of an earlier claim may still be in flight.
    let sql = "
        WITH beyond AS MATERIALIZED (
            SELECT seq FROM deliveries WHERE webhook_id = $1 AND due_at IS NOT NULL
            ORDER BY due_at DESC, seq DESC OFFSET $2 LIMIT $3),
        mine AS MATERIALIZED (
            SELECT seq FROM deliveries WHERE seq IN (SELECT seq FROM beyond)
                AND (status = 'pending' OR due_at <= causality_now_ms()) FOR UPDATE SKIP LOCKED),
        gone AS (DELETE FROM deliveries WHERE seq IN (SELECT seq FROM mine) RETURNING 1)
        SELECT count(*) FROM gone";
    count_abandoned(tx, webhook, sql, &[&webhook, &backlog_max, &ABANDON_ROWS_MAX]).await
}

/// Cancels deliveries that have been due for a disabled webhook for longer than `age_ms`; returns how many.
async fn cancel_older(tx: &Client, webhook: Uuid, age_ms: i64) -> Result<u64, StoreError> {
    let sql = "
        WITH old AS MATERIALIZED (
            SELECT seq FROM deliveries WHERE webhook_id = $1 AND due_at < causality_now_ms() - $2
            ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED),
        gone AS (
            UPDATE deliveries SET status = 'cancelled', due_at = NULL, finished_at = causality_now_ms(), last_error = $4
            WHERE seq IN (SELECT seq FROM old) RETURNING 1)
        SELECT count(*) FROM gone";
    count_abandoned(tx, webhook, sql, &[&webhook, &age_ms, &ABANDON_ROWS_MAX, &WAITED_TOO_LONG]).await
}

async fn count_abandoned(
    tx: &Client,
    webhook: Uuid,
    sql: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<u64, StoreError> {
    let context = "give up deliveries";
    let statement = tx.prepare_cached(sql).await.map_err(failed(context))?;
    let count: i64 = tx.query_one(&statement, values).await.map_err(failed(context))?.get(0);
    if count > 0 {
        let sql = "UPDATE webhooks SET deliveries_given_up = deliveries_given_up + $2 WHERE id = $1";
        run(tx, sql, &[&webhook, &count], context).await?;
    }
    Ok(count as u64)
}

/// Deletes deliveries that ended long ago; returns how many.
pub(super) async fn delete_expired_deliveries(engine: &Engine) -> Result<u64, StoreError> {
    let context = "forget deliveries";
    // End times in the future, from before the clock was set back, would block the deletion of all behind them.
    let ahead =
        "UPDATE deliveries SET finished_at = causality_now_ms() WHERE finished_at > causality_now_ms() AND seq IN
                     (SELECT seq FROM deliveries WHERE status = $1 ORDER BY seq LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let old = "DELETE FROM deliveries WHERE finished_at < causality_now_ms() - $2 AND seq IN
                   (SELECT seq FROM deliveries WHERE status = $1 ORDER BY seq LIMIT $3 FOR UPDATE SKIP LOCKED)";
    let mut deleted = 0;
    for (status, retention_ms) in RETENTION_MS {
        loop {
            let count = engine
                .run(context, async |client| {
                    client.execute(ahead, &[&status.text(), &DELETE_ROWS_MAX]).await.map_err(failed(context))?;
                    let values: [&(dyn ToSql + Sync); 3] = [&status.text(), &retention_ms, &DELETE_ROWS_MAX];
                    let count = client.execute(old, &values).await.map_err(failed(context))?;
                    Ok(count)
                })
                .await?;
            deleted += count;
            if count == 0 {
                break;
            }
        }
    }
    Ok(deleted)
}

/// PostgreSQL's text has no NUL; a server's response may.
fn text(error: &str) -> String {
    error.replace('\0', "\u{fffd}")
}

fn delivery(row: &Row) -> Result<(i64, Delivery), StoreError> {
    let context = "read delivery";
    let optional_time = |column: usize| row.get::<_, Option<i64>>(column).map(timestamp).transpose();
    let status = DeliveryStatus::parse(row.get(7)).ok_or_else(|| damaged(context, "unknown delivery status"))?;
    let finished_at = optional_time(15)?;
    let delivery = Delivery {
        id: row.get(1),
        webhook_id: row.get(2),
        rule_id: row.get(3),
        anomaly_config_id: row.get(4),
        event_id: row.get(5),
        payload: RawValue::from_string(row.get(6)).map_err(|error| damaged(context, error))?,
        status,
        attempts: row.get::<_, i32>(8) as u32,
        max_attempts: row.get::<_, i32>(9) as u32,
        next_attempt_at: optional_time(10)?.filter(|_| status == DeliveryStatus::Pending),
        last_attempt_at: optional_time(11)?,
        last_error: row.get(12),
        last_status_code: row.get::<_, Option<i32>>(13).map(|code| code as u16),
        created_at: timestamp(row.get(14))?,
        delivered_at: finished_at.filter(|_| status == DeliveryStatus::Delivered),
    };
    Ok((row.get(0), delivery))
}
