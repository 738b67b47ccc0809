//! The store in a PostgreSQL database that several processes share.
//!
//! Invariants: a method is one transaction; times are the database's own, so that processes with
//! other clocks agree; leases end by time, never because a process started; a connection whose
//! use was broken off (a timeout, a cancelled call) is thrown away, not handed out again.

mod anomalies;
mod audit;
mod clock;
mod connect;
mod deliveries;
mod documents;
mod effects;
mod erasure;
mod keys;
mod listen;
mod schema;
mod set;
mod silence;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_tls;
mod tokens;
mod webhooks;

use std::collections::HashSet;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use self::silence::{Silent, Trust, until_silent};
use super::audit::Caller;
use super::secrets::Sealer;
use super::{PostgresSettings, StoreError, StoreErrorKind, StoreStatus};
use crate::base::supervisor::Tasks;

pub(super) use schema::migrate;

/// Times that a transaction is tried when PostgreSQL ends it for the sake of another one.
const ATTEMPTS_MAX: usize = 5;
/// How much longer than one statement may take a connection may be silent before it is taken for dead.
const SILENCE_SPARE: Duration = Duration::from_secs(1);
/// The same for the look whether the server is there.
const PING_SILENCE_MAX: Duration = Duration::from_secs(3);
/// The same at the start, where somebody else may be setting an empty database up.
const CHECK_SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often idle connections are looked at, at least.
const TIDY_INTERVAL: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub(super) struct Engine(
    Arc<Shared>,
    /// On whose behalf it changes what is stored.
    Option<Arc<Caller>>,
);

struct Shared {
    pool: Pool,
    /// None: secrets can neither be stored nor read.
    sealer: Option<Sealer>,
    /// Consumers whose floors have their rows.
    floors: Mutex<HashSet<String>>,
    clock: clock::ServerClock,
    silence_max: Duration,
    trust: Trust,
    changes: Arc<watch::Sender<u64>>,
    work: Arc<watch::Sender<u64>>,
    closing: CancellationToken,
    tasks: Tasks,
}

/// Whom a commit wakes, in every process that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Nobody,
    /// Those who hold compiled rules.
    Changes,
    /// Those who send deliveries.
    Work,
    Both,
}

impl Wake {
    fn sql(self) -> Option<&'static str> {
        match self {
            Self::Nobody => None,
            Self::Changes => Some("NOTIFY causality_changes"),
            Self::Work => Some("NOTIFY causality_work"),
            Self::Both => Some("NOTIFY causality_changes; NOTIFY causality_work"),
        }
    }
}

impl Engine {
    pub(super) async fn connect(settings: PostgresSettings) -> Result<Self, StoreError> {
        let sealer = settings.secrets_key.as_deref().map(Sealer::given).transpose()?;
        let reach = connect::Reach::of(&settings)?;
        let trust = Trust::new();
        let pool = reach.pool(&settings, trust.clone())?;
        let context = "check schema";
        let silent =
            |_| StoreError::caused(StoreErrorKind::Unavailable, context, "PostgreSQL (database_host) is silent");
        until_silent(CHECK_SILENCE_MAX, schema::check(&reach, settings.migrate)).await.map_err(silent)??;
        let shared = Arc::new(Shared {
            pool,
            sealer,
            floors: Mutex::default(),
            clock: clock::ServerClock::default(),
            silence_max: settings.statement_timeout.max(settings.connect_timeout) + SILENCE_SPARE,
            trust,
            changes: Arc::new(watch::Sender::new(0)),
            work: Arc::new(watch::Sender::new(0)),
            closing: CancellationToken::new(),
            tasks: Tasks::default(),
        });
        let engine = Self(shared, None);
        let shared = &engine.0;
        let mut heard = shared.work.subscribe();
        let listening = listen::listen(reach, shared.changes.clone(), shared.work.clone());
        let closing = shared.closing.clone();
        shared.tasks.spawn(async move {
            closing.run_until_cancelled(listening).await;
        });
        // Not before changes are heard of: one that came in between would be missed.
        let _ = tokio::time::timeout(settings.connect_timeout, heard.changed()).await;
        let (pool, closing) = (shared.pool.clone(), shared.closing.clone());
        let limits = (settings.idle_connections_max, settings.connection_lifetime_max);
        shared.tasks.spawn(async move {
            closing.run_until_cancelled(tidy(pool, limits)).await;
        });
        webhooks::check_key(&engine, settings.secrets_key_replaced).await?;
        webhooks::hide_secrets(&engine).await?;
        Ok(engine)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    pub(super) fn work(&self) -> watch::Receiver<u64> {
        self.0.work.subscribe()
    }

    async fn client(&self, context: &'static str) -> Result<Client, StoreError> {
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
        Ok(Client { object: Some(object), whole: false })
    }

    /// Runs a use case to its end; gives up on a connection that brings nothing for longer than a statement may take.
    async fn call<T>(
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
        match until_silent(silence_max, run).await {
            Ok(done) => done,
            Err(Silent) => {
                self.0.trust.lose();
                let why = "PostgreSQL (database_host) did not answer in time";
                Err(StoreError::caused(StoreErrorKind::Unavailable, context, why))
            }
        }
    }

    /// [`Self::call`], again while PostgreSQL ends the transaction for the sake of another one.
    async fn retrying<T, F>(&self, context: &'static str, run: impl Fn() -> F) -> Result<T, StoreError>
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

    /// Commits, telling other processes and this one, which knows of a change before its answer is out:
    /// the notification may come a little later than the next event.
    async fn commit(
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

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let context = "reach PostgreSQL";
        self.call_within(PING_SILENCE_MAX, context, async {
            let mut client = self.client(context).await?;
            client.batch_execute("").await.map_err(failed(context))?;
            client.whole = true;
            Ok(())
        })
        .await
    }

    pub(super) async fn status(&self) -> Result<StoreStatus, StoreError> {
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
            client.whole = true;
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

    pub(super) async fn close(&self) {
        self.0.closing.cancel();
        self.0.tasks.wait().await;
        self.0.pool.close();
    }
}

/// Closes idle connections that are too many or too old; never returns.
async fn tidy(pool: Pool, (idle_max, lifetime_max): (usize, Duration)) {
    let interval = if lifetime_max.is_zero() { TIDY_INTERVAL } else { TIDY_INTERVAL.min(lifetime_max / 4) };
    loop {
        tokio::time::sleep(interval).await;
        let mut kept = 0;
        pool.retain(|_, metrics| {
            let young = lifetime_max.is_zero() || metrics.age() < lifetime_max;
            kept += usize::from(young);
            young && kept <= idle_max
        });
    }
}

/// A connection of the pool; it goes back only when whoever used it says that its use came to its end.
struct Client {
    object: Option<Object>,
    whole: bool,
}

impl Deref for Client {
    type Target = deadpool_postgres::ClientWrapper;

    fn deref(&self) -> &Self::Target {
        self.object.as_ref().expect("taken only when dropped")
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.object.as_mut().expect("taken only when dropped")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(object) = self.object.take()
            && !self.whole
        {
            drop(Object::take(object));
        }
    }
}

fn bump(channel: &watch::Sender<u64>) {
    channel.send_modify(|version| *version += 1);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stored time; what is out of range can only be damage.
fn timestamp(ms: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_millisecond(ms).map_err(|error| damaged("read time", error))
}

/// PostgreSQL's text has no NUL: what is asked for with one is not there.
fn is_keepable(text: &str) -> bool {
    !text.contains('\0')
}

fn damaged(context: &'static str, error: impl std::fmt::Display) -> StoreError {
    StoreError::caused(StoreErrorKind::Corrupt, context, error.to_string())
}

fn is_conflict(error: &StoreError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
    let code = source.and_then(tokio_postgres::Error::code);
    code.is_some_and(|code| [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code))
}

/// Turns an error of PostgreSQL into the store's own.
fn failed(context: &'static str) -> impl Fn(tokio_postgres::Error) -> StoreError + Copy {
    move |error| StoreError::caused(kind_of(&error), context, error)
}

fn kind_of(error: &tokio_postgres::Error) -> StoreErrorKind {
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => StoreErrorKind::Full,
        Some(code) if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED => {
            StoreErrorKind::Corrupt
        }
        _ => StoreErrorKind::Unavailable,
    }
}
