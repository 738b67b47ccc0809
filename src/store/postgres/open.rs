//! Connecting: schema, secrets key, and the tasks that listen and prune the pool.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connect::Connector;
use super::engine::{Engine, Shared};
use super::listen::listen;
use super::server_clock::ServerClock;
use super::silence::{StaleCutoff, fail_on_silence};
use super::{schema, webhooks};
use crate::base::supervisor::Tasks;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::secrets::Sealer;
use crate::store::settings::PostgresSettings;

/// Silence of the server beyond what one statement may take, after which a connection counts as dead.
const SILENCE_SPARE: Duration = Duration::from_secs(1);
/// Silence allowed while the schema is checked: another process may be setting an empty database up.
const CHECK_SILENCE_MAX: Duration = Duration::from_secs(30);
/// Idle connections are checked at least this often.
const PRUNE_INTERVAL: Duration = Duration::from_secs(15);

impl Engine {
    pub(in crate::store) async fn connect(settings: PostgresSettings) -> Result<Self, StoreError> {
        let sealer = settings.secrets_key.as_deref().map(Sealer::given).transpose()?;
        let connector = Connector::of(&settings)?;
        let cutoff = StaleCutoff::new();
        let pool = connector.pool(&settings, cutoff.clone())?;
        let context = "check schema";
        let silent =
            |_| StoreError::caused(StoreErrorKind::Unavailable, context, "PostgreSQL (database_host) is silent");
        fail_on_silence(CHECK_SILENCE_MAX, schema::check(&connector, settings.migrate)).await.map_err(silent)??;
        let shared = Arc::new(Shared {
            pool,
            sealer,
            floors: Mutex::default(),
            clock: ServerClock::default(),
            silence_max: settings.statement_timeout.max(settings.connect_timeout) + SILENCE_SPARE,
            cutoff,
            changes: Arc::new(watch::Sender::new(0)),
            work: Arc::new(watch::Sender::new(0)),
            closing: CancellationToken::new(),
            tasks: Tasks::default(),
        });
        let engine = Self(shared, None);
        let shared = &engine.0;
        let mut first_wake = shared.work.subscribe();
        let listening = listen(connector, shared.changes.clone(), shared.work.clone());
        let closing = shared.closing.clone();
        shared.tasks.spawn(async move {
            closing.run_until_cancelled(listening).await;
        });
        // Changes before the connection listens would be missed.
        let _ = tokio::time::timeout(settings.connect_timeout, first_wake.changed()).await;
        let (pool, closing) = (shared.pool.clone(), shared.closing.clone());
        let limits = (settings.idle_connections_max, settings.connection_lifetime_max);
        shared.tasks.spawn(async move {
            closing.run_until_cancelled(prune(pool, limits)).await;
        });
        webhooks::check_key(&engine, settings.secrets_key_replaced).await?;
        webhooks::seal_clear_secrets(&engine).await?;
        Ok(engine)
    }
}

/// Closes idle connections that are too many or too old. Never returns.
async fn prune(pool: Pool, (idle_max, lifetime_max): (usize, Duration)) {
    let interval = if lifetime_max.is_zero() { PRUNE_INTERVAL } else { PRUNE_INTERVAL.min(lifetime_max / 4) };
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
