//! Services on the lake: adding older files to the Delta log, registering partitions, compaction, retention.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::engines::{AUDIT_STORE, open_store, open_warehouse};
use super::retention::{Expirer, RetentionStatus};
use super::start_failure::{StartFailure, StartFailureKind};
use super::{fatal, settings};
use crate::base::backoff::{Backoff, random_unit};
use crate::base::supervisor::Stage;
use crate::config::Config;
use crate::sink::{Compactor, SinkStatus};
use crate::store::Store;
use crate::warehouse::{Adopted, LakeSettings, Metastore, Warehouse};

const RETRY: Backoff = Backoff { initial: Duration::from_secs(1), multiplier: 2.0, max: Duration::from_secs(60) };

/// Adds files that are older than the Delta log to it in the background, once in the life of a log.
pub(super) fn adopt(stage: &Stage, warehouse: &Warehouse) {
    let warehouse = warehouse.clone();
    stage.supervise("lake init", move |stop| {
        let warehouse = warehouse.clone();
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = adopt_all(&warehouse, &stop) => stop.cancelled().await,
            }
            Ok(())
        }
    });
}

/// Registers the sink's partitions with a Hive Metastore.
pub(super) fn register(stage: &Stage, warehouse: &Warehouse, metastore: &Metastore) {
    let (warehouse, metastore) = (warehouse.clone(), metastore.clone());
    stage.supervise("hive metastore", move |stop| {
        let (warehouse, metastore) = (warehouse.clone(), metastore.clone());
        async move {
            metastore.keep_registered(&warehouse, &stop).await;
            Ok(())
        }
    });
}

async fn adopt_all(warehouse: &Warehouse, stop: &CancellationToken) {
    let mut attempt = 0;
    loop {
        let going_on = stop.clone();
        match warehouse.adopt_files(false, move || !going_on.is_cancelled(), |_| {}).await {
            Ok(None) => return,
            Ok(Some(Adopted { added, known, unreadable, elsewhere })) => {
                return info!(added, known, unreadable, elsewhere, "files from before the Delta log are in its table");
            }
            Err(error) => {
                attempt += 1;
                warn!(%error, attempt, "files from before the Delta log could not be added, trying again");
                tokio::time::sleep(RETRY.delay(attempt, random_unit())).await;
            }
        }
    }
}

/// The lake, for commands that work on its files.
pub struct Lake {
    pub warehouse: Warehouse,
    pub settings: LakeSettings,
}

/// Opens the lake, with its log unless the settings turn it off.
pub async fn open_lake(config: &Config) -> Result<Lake, StartFailure> {
    let warehouse = open_warehouse(config, config.lake.log()).await?;
    let failed = |error: anyhow::Error| StartFailure::said(StartFailureKind::Refused, format!("{error:#}"));
    if let Some(told) = settings::metastore(config).map_err(failed)? {
        warehouse.note_for_metastore(told);
    }
    Ok(Lake { warehouse, settings: config.lake.clone() })
}

/// Opens the store for audit records of what a command removes. A configured PostgreSQL must be reachable. An embedded
/// store is used if it exists and no process has it open; otherwise returns the reason.
pub async fn open_audit_store(config: &Config) -> Result<Result<Store, String>, StartFailure> {
    let (postgres, dir) = (config.names_postgres, &config.sqlite.dir);
    if !postgres && !dir.join("store.db").exists() {
        return Ok(Err(format!("there is no store in {}", dir.display())));
    }
    match open_store(config, postgres, AUDIT_STORE).await {
        Err(failure) if !postgres => Ok(Err(failure.to_string())),
        opened => opened.map(Ok),
    }
}

/// Removes expired partitions in the background. Returns the status for readiness.
pub(super) fn expire(
    stage: &Stage,
    lake: &LakeSettings,
    warehouse: &Warehouse,
    store: Option<Store>,
) -> Option<RetentionStatus> {
    let settings = lake.retention.clone()?;
    let status = RetentionStatus::default();
    // Otherwise compaction vacuums.
    let vacuums = settings.keep_removed && !lake.compaction_enabled;
    let expirer = Expirer {
        warehouse: warehouse.clone(),
        settings,
        every: lake.schedule,
        vacuum: vacuums.then(|| (lake.compaction.clone(), lake.vacuum_retention)),
        store,
        status: status.clone(),
    };
    expirer.start(stage);
    Some(status)
}

/// Compacts partitions in the background.
pub(super) fn compact(stage: &Stage, config: &Config, warehouse: &Warehouse, status: &SinkStatus) {
    let compactor = Compactor {
        warehouse: warehouse.clone(),
        settings: config.lake.compaction.clone(),
        every: config.lake.schedule,
        vacuum_retention: config.lake.vacuum_retention,
        sink_bytes_max: config.sink.memory_bytes_max,
        sink: status.clone(),
    };
    stage.supervise("compaction", move |stop| {
        let compactor = compactor.clone();
        async move { fatal::exit_if_fsync_failed(compactor.run(stop).await) }
    });
}

/// Adds every stored file that the log does not name. Creates the log if there is none.
pub async fn init_lake(config: &Config, tell: impl Fn(Adopted) + Send + 'static) -> Result<Adopted, StartFailure> {
    let warehouse = open_warehouse(config, Some(config.lake.delta.clone())).await?;
    let adopted = warehouse.adopt_files(true, || true, tell).await;
    let failed = |error| StartFailure::new(StartFailureKind::Failed, "add files to the Delta log".to_owned(), &error);
    adopted.map(Option::unwrap_or_default).map_err(failed)
}
