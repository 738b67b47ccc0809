//! The engine's handle: it lends connections, and retries or aborts use cases on conflicts and silence.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::error::{failed, is_conflict, of_postgres};
use super::server_clock::ServerClock;
use super::silence::{ServerSilent, StaleCutoff, fail_on_silence};
use super::wake::{Wake, bump};
use crate::base::supervisor::Tasks;
use crate::store::audit::Caller;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::secrets::Sealer;
use crate::store::status::StoreStatus;

/// Attempts of a use case that PostgreSQL aborts because of a conflict with another one.
const ATTEMPTS_MAX: usize = 5;
/// Silence allowed while the server is pinged.
const PING_SILENCE_MAX: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub(in crate::store) struct Engine(
    pub(super) Arc<Shared>,
    /// The caller on whose behalf changes are made.
    pub(super) Option<Arc<Caller>>,
);

/// How a transaction ends that did not fail.
pub(super) enum Ending<T> {
    /// Commits, and wakes these watchers in all processes.
    Commit(T, Wake),
    Rollback(T),
}

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

    /// Runs a use case on a connection of the pool, again while PostgreSQL aborts it because of a conflict with another
    /// one. The connection is discarded if the use case is cancelled, is silent for longer than a statement may take, or
    /// fails with an error of PostgreSQL.
    pub(super) async fn run<T, F>(&self, context: &'static str, use_case: impl Fn(Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut attempt = 1;
        loop {
            match self.run_within(self.0.silence_max, context, &use_case).await {
                Err(error) if attempt < ATTEMPTS_MAX && is_conflict(&error) => attempt += 1,
                done => return done,
            }
        }
    }

    async fn run_within<T, F>(
        &self,
        silence_max: Duration,
        context: &'static str,
        use_case: impl FnOnce(Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let running = async {
            let client = Client::new(self.connection(context).await?);
            let done = use_case(client.clone()).await;
            if !matches!(&done, Err(error) if of_postgres(error).is_some()) {
                client.keep();
            }
            done
        };
        match fail_on_silence(silence_max, running).await {
            Ok(done) => done,
            Err(ServerSilent) => {
                self.0.cutoff.advance();
                let why = "PostgreSQL (database_host) did not answer in time";
                Err(StoreError::caused(StoreErrorKind::Unavailable, context, why))
            }
        }
    }

    async fn connection(&self, context: &'static str) -> Result<deadpool_postgres::Object, StoreError> {
        if self.0.closing.is_cancelled() {
            return Err(StoreError::new(StoreErrorKind::Closed, context));
        }
        self.0.pool.get().await.map_err(|error| match error {
            deadpool_postgres::PoolError::Backend(error)
            | deadpool_postgres::PoolError::PostCreateHook(deadpool_postgres::HookError::Backend(error)) => {
                failed(context)(error)
            }
            deadpool_postgres::PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => {
                let text = "every connection was in use for database_connect_timeout (database_max_open_conns)";
                StoreError::caused(StoreErrorKind::Unavailable, context, text)
            }
            error => StoreError::caused(StoreErrorKind::Unavailable, context, error.to_string()),
        })
    }

    /// [`Self::run`] in a transaction.
    pub(super) async fn transact<T, F>(
        &self,
        context: &'static str,
        use_case: impl Fn(Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<Ending<T>, StoreError>>,
    {
        self.run(context, async |client| self.transact_on(&client, context, &use_case).await).await
    }

    /// Runs a transaction on a connection. An error that is not PostgreSQL's rolls it back.
    pub(super) async fn transact_on<T, F>(
        &self,
        client: &Client,
        context: &'static str,
        use_case: impl FnOnce(Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<Ending<T>, StoreError>>,
    {
        let execute = async |sql| client.batch_execute(sql).await.map_err(failed(context));
        execute("BEGIN").await?;
        match use_case(client.clone()).await {
            Ok(Ending::Commit(value, wake)) => {
                if let Some(sql) = wake.sql() {
                    execute(sql).await?;
                }
                execute("COMMIT").await?;
                // This process is woken directly, before the response: the notification may arrive after the next event.
                if matches!(wake, Wake::Changes | Wake::Both) {
                    bump(&self.0.changes);
                }
                Ok(value)
            }
            Ok(Ending::Rollback(value)) => execute("ROLLBACK").await.map(|()| value),
            Err(error) if of_postgres(&error).is_none() => execute("ROLLBACK").await.and(Err(error)),
            Err(error) => Err(error),
        }
    }

    pub(in crate::store) async fn ping(&self) -> Result<(), StoreError> {
        let context = "reach PostgreSQL";
        let ping = async |client: Client| client.batch_execute("").await.map_err(failed(context));
        self.run_within(PING_SILENCE_MAX, context, ping).await
    }

    pub(in crate::store) async fn status(&self) -> Result<StoreStatus, StoreError> {
        let context = "count store";
        self.run(context, async |client| {
            let sql = "SELECT (SELECT count(*) FROM deliveries WHERE status IN ('pending', 'in_progress')),
                              (SELECT count(*) FROM deliveries WHERE status IN ('dead_letter', 'failed')),
                              (SELECT coalesce(sum(deliveries_given_up), 0)::bigint FROM webhooks),
                              (SELECT count(*) FROM webhooks), (SELECT count(*) FROM rules),
                              (SELECT count(*) FROM anomaly_configs)";
            let statement = client.prepare_cached(sql).await.map_err(failed(context))?;
            let row = client.query_one(&statement, &[]).await.map_err(failed(context))?;
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
