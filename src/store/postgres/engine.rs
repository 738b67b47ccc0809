//! The engine's handle: it lends connections, and retries or aborts use cases on conflicts and silence.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::sync::watch;
use tokio_postgres::Transaction;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::error::{failed, is_conflict};
use super::server_clock::ServerClock;
use super::silence::{ServerSilent, StaleCutoff, fail_on_silence};
use super::wake::{Wake, bump};
use crate::base::supervisor::Tasks;
use crate::store::audit::Caller;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::secrets::Sealer;
use crate::store::status::StoreStatus;

/// Attempts of a transaction that PostgreSQL aborts because of a conflict with another one.
const ATTEMPTS_MAX: usize = 5;
/// Silence allowed while the server is pinged.
const PING_SILENCE_MAX: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub(in crate::store) struct Engine(
    pub(super) Arc<Shared>,
    /// The caller on whose behalf changes are made.
    pub(super) Option<Arc<Caller>>,
);

pub(super) struct Shared {
    pub(super) pool: Pool,
    /// `None`: secrets can be neither stored nor read.
    pub(super) sealer: Option<Sealer>,
    /// Consumers whose floors have a row.
    pub(super) floors: Mutex<HashSet<String>>,
    pub(super) clock: ServerClock,
    pub(super) silence_max: Duration,
    pub(super) cutoff: StaleCutoff,
    pub(super) changes: Arc<watch::Sender<u64>>,
    pub(super) work: Arc<watch::Sender<u64>>,
    pub(super) closing: CancellationToken,
    pub(super) tasks: Tasks,
}

impl Engine {
    pub(in crate::store) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    pub(in crate::store) fn work(&self) -> watch::Receiver<u64> {
        self.0.work.subscribe()
    }

    pub(super) async fn client(&self, context: &'static str) -> Result<Client, StoreError> {
        if self.0.closing.is_cancelled() {
            return Err(StoreError::new(StoreErrorKind::Closed, context));
        }
        let object = self.0.pool.get().await.map_err(|error| match error {
            deadpool_postgres::PoolError::Backend(error)
            | deadpool_postgres::PoolError::PostCreateHook(deadpool_postgres::HookError::Backend(error)) => {
                failed(context)(error)
            }
            deadpool_postgres::PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => {
                let text = "every connection was in use for database_connect_timeout (database_max_open_conns)";
                StoreError::caused(StoreErrorKind::Unavailable, context, text)
            }
            error => StoreError::caused(StoreErrorKind::Unavailable, context, error.to_string()),
        })?;
        Ok(Client { object: Some(object), reusable: false })
    }

    /// Runs a use case; aborts it when the connection is silent for longer than a statement may take.
    pub(super) async fn call<T>(
        &self,
        context: &'static str,
        run: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.call_within(self.0.silence_max, context, run).await
    }

    async fn call_within<T>(
        &self,
        silence_max: Duration,
        context: &'static str,
        run: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match fail_on_silence(silence_max, run).await {
            Ok(done) => done,
            Err(ServerSilent) => {
                self.0.cutoff.advance();
                let why = "PostgreSQL (database_host) did not answer in time";
                Err(StoreError::caused(StoreErrorKind::Unavailable, context, why))
            }
        }
    }

    /// [`Self::call`], retried while PostgreSQL aborts the transaction because of a conflict.
    pub(super) async fn retrying<T, F>(&self, context: &'static str, run: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut attempt = 1;
        loop {
            match self.call(context, run()).await {
                Err(error) if attempt < ATTEMPTS_MAX && is_conflict(&error) => attempt += 1,
                done => return done,
            }
        }
    }

    /// Commits and notifies all processes. This one is woken directly, before the response: the notification may arrive
    /// after the next event.
    pub(super) async fn commit(
        &self,
        tx: deadpool_postgres::Transaction<'_>,
        wake: Wake,
        context: &'static str,
    ) -> Result<(), StoreError> {
        if let Some(sql) = wake.sql() {
            Transaction::batch_execute(&tx, sql).await.map_err(failed(context))?;
        }
        tx.commit().await.map_err(failed(context))?;
        if matches!(wake, Wake::Changes | Wake::Both) {
            bump(&self.0.changes);
        }
        Ok(())
    }

    pub(in crate::store) async fn ping(&self) -> Result<(), StoreError> {
        let context = "reach PostgreSQL";
        self.call_within(PING_SILENCE_MAX, context, async {
            let mut client = self.client(context).await?;
            client.batch_execute("").await.map_err(failed(context))?;
            client.reusable = true;
            Ok(())
        })
        .await
    }

    pub(in crate::store) async fn status(&self) -> Result<StoreStatus, StoreError> {
        let context = "count store";
        self.call(context, async {
            let mut client = self.client(context).await?;
            let sql = "SELECT (SELECT count(*) FROM deliveries WHERE status IN ('pending', 'in_progress')),
                              (SELECT count(*) FROM deliveries WHERE status IN ('dead_letter', 'failed')),
                              (SELECT coalesce(sum(deliveries_given_up), 0)::bigint FROM webhooks),
                              (SELECT count(*) FROM webhooks), (SELECT count(*) FROM rules),
                              (SELECT count(*) FROM anomaly_configs)";
            let statement = client.prepare_cached(sql).await.map_err(failed(context))?;
            let row = client.query_one(&statement, &[]).await.map_err(failed(context))?;
            client.reusable = true;
            let count = |column: usize| row.get::<_, i64>(column) as u64;
            Ok(StoreStatus {
                engine: "postgres".to_owned(),
                deliveries_pending: count(0),
                deliveries_dead: count(1),
                deliveries_given_up: count(2),
                webhooks: count(3),
                rules: count(4),
                anomaly_configs: count(5),
            })
        })
        .await
    }

    pub(in crate::store) async fn close(&self) {
        self.0.closing.cancel();
        self.0.tasks.wait().await;
        self.0.pool.close();
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
