//! The effects of a batch of events, committed with the messages that it consumed.
//!
//! Invariant: of two commits with a message or a window in common, one is refused. The statements of a commit are
//! pipelined, so it costs about three round trips, whatever its size.

use futures_util::try_join;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::client::Client;
use super::engine::Ending::{Commit, Rollback};
use super::engine::Engine;
use super::error::failed;
use super::statement::run;
use super::wake::Wake;
use super::{anomalies, deliveries};
use crate::metrics;
use crate::store::effects::{Cause, Effects, OutboxMessage, RecordOutcome};
use crate::store::error::StoreError;

impl Engine {
    pub(in crate::store) async fn consumed(&self, consumer: &str, causes: &[Cause]) -> Result<Vec<Cause>, StoreError> {
        let context = "read consumed sequences";
        if causes.is_empty() {
            return Ok(Vec::new());
        }
        let (sequences, times) = columns(causes.iter());
        self.run(context, async |client| {
            let sql = "SELECT DISTINCT a.sequence, a.published_at_ms
                       FROM unnest($2::bigint[], $3::bigint[]) AS a (sequence, published_at_ms)
                       WHERE a.sequence <= (SELECT floor FROM consumer_floors WHERE consumer = $1)
                          OR EXISTS (SELECT 1 FROM consumed_up_to u WHERE u.consumer = $1
                                         AND u.sequence >= a.sequence AND u.published_at_ms >= a.published_at_ms)
                          OR EXISTS (SELECT 1 FROM consumed c WHERE c.consumer = $1 AND c.sequence = a.sequence
                                         AND c.published_at_ms IN (a.published_at_ms, -1))
                       ORDER BY a.sequence, a.published_at_ms";
            let statement = client.prepare_cached(sql).await.map_err(failed(context))?;
            let rows = client.query(&statement, &[&consumer, &sequences, &times]).await.map_err(failed(context))?;
            Ok(rows.iter().map(|row| Cause::new(row.get::<_, i64>(0) as u64, row.get(1))).collect())
        })
        .await
    }

    pub(in crate::store) async fn record_effects(&self, effects: Effects) -> Result<RecordOutcome, StoreError> {
        let context = "record effects";
        let recorded = self.run(context, async |client| self.record_on(&client, &effects).await).await?;
        match recorded {
            Some(abandoned) => {
                metrics::store_given_up(abandoned);
                Ok(RecordOutcome::Committed)
            }
            None => self.conflict(&effects).await,
        }
    }

    /// Returns how many deliveries were abandoned, or `None` if the effects conflict with recorded ones.
    async fn record_on(&self, client: &Client, effects: &Effects) -> Result<Option<u64>, StoreError> {
        let context = "record effects";
        self.ensure_floor(client, &effects.consumer).await?;
        let recorded = self.transact_on(client, context, async |tx| {
            let (marked, written, disabled, (), ()) = try_join!(
                mark(&tx, effects),
                anomalies::put_states(&tx, &effects.anomaly_states),
                insert_deliveries(&tx, effects),
                anomalies::insert_events(&tx, &effects.anomaly_events),
                insert_outbox(&tx, &effects.outbox),
            )?;
            if marked < effects.causes.len() || written < effects.anomaly_states.len() {
                return Ok(Rollback(None));
            }
            let mut abandoned = 0;
            for webhook in disabled {
                abandoned +=
                    deliveries::delete_beyond_limit(&tx, webhook, effects.backlog_max.unwrap_or(u64::MAX)).await?;
            }
            let due = !effects.deliveries.is_empty() || !effects.outbox.is_empty();
            Ok(Commit(Some(abandoned), if due { Wake::Work } else { Wake::None }))
        });
        let recorded = recorded.await?;
        if let (Some(_), Some(acknowledged)) = (recorded, effects.acknowledged) {
            // In its own transaction: its lock must not wait for locks that wait for it.
            let merge = async |tx: Client| {
                merge_consumed(&tx, &effects.consumer, acknowledged).await?;
                Ok(Commit((), Wake::None))
            };
            self.transact_on(client, context, merge).await?;
        }
        Ok(recorded)
    }

    /// Creates the row of a consumer's floor, once per process: a missing row cannot be locked.
    async fn ensure_floor(&self, client: &Client, consumer: &str) -> Result<(), StoreError> {
        if self.0.floors.lock().contains(consumer) {
            return Ok(());
        }
        let context = "make floor";
        let sql = "INSERT INTO consumer_floors (consumer, floor) VALUES ($1, 0) ON CONFLICT DO NOTHING";
        client.execute(sql, &[&consumer]).await.map_err(failed(context))?;
        self.0.floors.lock().insert(consumer.to_owned());
        Ok(())
    }

    /// The current state of what conflicted.
    async fn conflict(&self, effects: &Effects) -> Result<RecordOutcome, StoreError> {
        let consumed = self.consumed(&effects.consumer, &effects.causes).await?;
        let states = self.find_states(&effects.anomaly_states).await?;
        Ok(RecordOutcome::Conflict { consumed, states })
    }

    pub(in crate::store) async fn outbox(&self, limit: usize) -> Result<Vec<OutboxMessage>, StoreError> {
        let context = "read outbox";
        self.run(context, async |client| {
            let sql = "SELECT id, subject, payload FROM outbox ORDER BY seq LIMIT $1";
            let statement = client.prepare_cached(sql).await.map_err(failed(context))?;
            let rows = client.query(&statement, &[&(limit as i64)]).await.map_err(failed(context))?;
            let message =
                |row: &tokio_postgres::Row| OutboxMessage { id: row.get(0), subject: row.get(1), payload: row.get(2) };
            Ok(rows.iter().map(message).collect())
        })
        .await
    }

    pub(in crate::store) async fn remove_from_outbox(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        let context = "forget outbox";
        self.run(context, async |client| {
            let statement =
                client.prepare_cached("DELETE FROM outbox WHERE id = ANY($1)").await.map_err(failed(context))?;
            client.execute(&statement, &[&ids]).await.map_err(failed(context))?;
            Ok(())
        })
        .await
    }
}

/// Marks the batch's messages as consumed; the primary key makes a second commit impossible.
async fn mark(tx: &Client, effects: &Effects) -> Result<usize, StoreError> {
    let context = "consume sequences";
    if effects.causes.is_empty() {
        return Ok(0);
    }
    // Always in the same order, so that two commits do not deadlock.
    let mut causes = effects.causes.clone();
    causes.sort_unstable();
    let (sequences, times) = columns(causes.iter());
    // Nothing is merged until the commit; the next statement sees what was merged before.
    let lock = "SELECT FROM consumer_floors WHERE consumer = $1 FOR SHARE";
    // Messages covered by a merged record insert no row, like those with a record of their own.
    let insert = "INSERT INTO consumed (consumer, sequence, published_at_ms)
               SELECT $1, a.sequence, a.published_at_ms
               FROM unnest($2::bigint[], $3::bigint[]) AS a (sequence, published_at_ms)
               WHERE a.sequence > coalesce((SELECT floor FROM consumer_floors WHERE consumer = $1), 0)
                 AND NOT EXISTS (SELECT 1 FROM consumed_up_to u WHERE u.consumer = $1
                                     AND u.sequence >= a.sequence AND u.published_at_ms >= a.published_at_ms)
                 AND NOT EXISTS (SELECT 1 FROM consumed c WHERE c.consumer = $1
                                     AND c.sequence = a.sequence AND c.published_at_ms = -1)
               ON CONFLICT DO NOTHING";
    let lock = tx.prepare_cached(lock).await.map_err(failed(context))?;
    let insert = tx.prepare_cached(insert).await.map_err(failed(context))?;
    let consumer: [&(dyn ToSql + Sync); 1] = [&effects.consumer];
    let values: [&(dyn ToSql + Sync); 3] = [&effects.consumer, &sequences, &times];
    // Pipelined, in this order.
    let (_, marked) = try_join!(tx.execute(&lock, &consumer), tx.execute(&insert, &values)).map_err(failed(context))?;
    Ok(marked as usize)
}

/// Sequences and times, as parameters.
fn columns<'a>(causes: impl Iterator<Item = &'a Cause>) -> (Vec<i64>, Vec<i64>) {
    causes.map(|cause| (cause.sequence as i64, cause.published_at_ms)).unzip()
}

/// Merges acknowledged records into one. A record further ahead stays: it covers messages that the stream has since
/// lost, and whose sequences it reuses.
async fn merge_consumed(tx: &Client, consumer: &String, acknowledged: Cause) -> Result<(), StoreError> {
    let (floor, known_ms, context) = (acknowledged.sequence as i64, acknowledged.published_at_ms, "forget sequences");
    let latest = "SELECT max(published_at_ms) FROM consumed
                  WHERE consumer = $1 AND sequence <= $2 AND published_at_ms <= $3";
    let latest = tx.prepare_cached(latest).await.map_err(failed(context))?;
    let latest = || async {
        let row = tx.query_one(&latest, &[consumer, &floor, &known_ms]).await.map_err(failed(context))?;
        Ok::<Option<i64>, StoreError>(row.get(0))
    };
    // Only one of several processes merges.
    if latest().await?.is_none() {
        return Ok(());
    }
    // Waits for commits in flight, then sees their records.
    let lock = "SELECT FROM consumer_floors WHERE consumer = $1 FOR UPDATE";
    run(tx, lock, &[consumer], context).await?;
    let Some(latest) = latest().await? else { return Ok(()) };
    if latest < 0 {
        // An earlier version recorded them.
        let raise = "UPDATE consumer_floors SET floor = $2 WHERE consumer = $1 AND floor < $2";
        run(tx, raise, &[consumer, &floor], "raise floor").await?;
    } else {
        let passed = "UPDATE consumer_floors SET floor = 0 WHERE consumer = $1 AND floor BETWEEN 1 AND $2";
        run(tx, passed, &[consumer, &floor], "raise floor").await?;
        let passed = "DELETE FROM consumed_up_to WHERE consumer = $1 AND sequence <= $2 AND published_at_ms <= $3";
        run(tx, passed, &[consumer, &floor, &latest], "raise floor").await?;
        let enter = "INSERT INTO consumed_up_to (consumer, sequence, published_at_ms) SELECT $1, $2, $3 WHERE NOT EXISTS (
                         SELECT 1 FROM consumed_up_to WHERE consumer = $1 AND sequence >= $2 AND published_at_ms >= $3)";
        run(tx, enter, &[consumer, &floor, &latest], "raise floor").await?;
    }
    let delete = "DELETE FROM consumed WHERE consumer = $1 AND sequence <= $2 AND published_at_ms <= $3";
    run(tx, delete, &[consumer, &floor, &latest], context).await.map(drop)
}

/// Inserts the deliveries. If a webhook was deleted since its rule was compiled, the delivery is cancelled instead of
/// waiting forever; existing webhooks are locked until the commit. Returns the disabled webhooks.
async fn insert_deliveries(tx: &Client, effects: &Effects) -> Result<Vec<Uuid>, StoreError> {
    let deliveries = &effects.deliveries;
    if deliveries.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.id).collect();
    let webhooks: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.webhook_id).collect();
    let rules: Vec<Option<Uuid>> = deliveries.iter().map(|delivery| delivery.rule_id).collect();
    let configs: Vec<Option<Uuid>> = deliveries.iter().map(|delivery| delivery.anomaly_config_id).collect();
    let events: Vec<&str> = deliveries.iter().map(|delivery| delivery.event_id.as_str()).collect();
    let payloads: Vec<&str> = deliveries.iter().map(|delivery| delivery.payload.get()).collect();
    let attempts: Vec<i32> = deliveries.iter().map(|delivery| delivery.max_attempts as i32).collect();
    let sql = "
        WITH there AS MATERIALIZED (
            SELECT id, enabled FROM webhooks WHERE id = ANY($2) ORDER BY id FOR KEY SHARE),
        owed AS (
        INSERT INTO deliveries (id, webhook_id, rule_id, anomaly_config_id, event_id, payload, status, attempts,
            max_attempts, due_at, last_error, created_at, finished_at)
        SELECT d.id, d.webhook_id, d.rule_id, d.config_id, d.event_id, d.payload,
               CASE WHEN t.id IS NULL THEN 'cancelled' ELSE 'pending' END, 0, d.max_attempts,
               CASE WHEN t.id IS NULL THEN NULL ELSE now END,
               CASE WHEN t.id IS NULL THEN 'webhook was deleted' END, now,
               CASE WHEN t.id IS NULL THEN now END
        FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::int[])
                 WITH ORDINALITY AS d (id, webhook_id, rule_id, config_id, event_id, payload, max_attempts, place)
             LEFT JOIN there t ON t.id = d.webhook_id, causality_now_ms() now
        ORDER BY d.place)
        SELECT id FROM there WHERE NOT enabled ORDER BY id";
    let values: [&(dyn ToSql + Sync); 7] = [&ids, &webhooks, &rules, &configs, &events, &payloads, &attempts];
    let context = "owe deliveries";
    let statement = tx.prepare_cached(sql).await.map_err(failed(context))?;
    let disabled = tx.query(&statement, &values).await.map_err(failed(context))?;
    Ok(disabled.iter().map(|row| row.get(0)).collect())
}

async fn insert_outbox(tx: &Client, outbox: &[OutboxMessage]) -> Result<(), StoreError> {
    if outbox.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = outbox.iter().map(|message| message.id).collect();
    let subjects: Vec<&str> = outbox.iter().map(|message| message.subject.as_str()).collect();
    let payloads: Vec<&[u8]> = outbox.iter().map(|message| message.payload.as_slice()).collect();
    let sql = "INSERT INTO outbox (id, subject, payload)
               SELECT id, subject, payload FROM unnest($1::uuid[], $2::text[], $3::bytea[])
                   WITH ORDINALITY AS m (id, subject, payload, place) ORDER BY place";
    run(tx, sql, &[&ids, &subjects, &payloads], "owe messages").await.map(|_| ())
}
