//! Opens the engines that were chosen, and waits a while for servers that are not up yet.

use std::path::Path;
use std::time::{Duration, Instant};

use tracing::warn;

use super::choice::Choice;
use super::start_failure::{StartFailure, StartFailureKind};
use super::{fatal, settings};
use crate::bus::{Bus, BusError, BusErrorKind, ConsumerSpec};
use crate::config::Config;
use crate::http::Readiness;
use crate::store::{Store, StoreErrorKind};
use crate::warehouse::{DeltaSettings, PromotedColumns, Warehouse, WarehouseErrorKind};

/// How long a start waits for a server that does not answer.
const START_PATIENCE: Duration = Duration::from_secs(30);
const START_PAUSE: Duration = Duration::from_secs(1);
/// The store where neither rules nor keys need it.
pub(super) const AUDIT_STORE: &str = "store of the audit record (warehouse_retention)";

/// The engines that the roles of this process need.
pub(super) struct Engines {
    pub(super) bus: Bus,
    pub(super) store: Option<Store>,
    pub(super) warehouse: Option<Warehouse>,
}

impl Engines {
    /// Opens them. `readiness` names a server that is not up yet.
    pub(super) async fn open(choice: &Choice, config: &Config, readiness: &Readiness) -> Result<Self, StartFailure> {
        let data_dir = &config.process.data_dir;
        let failure = |error: BusError| {
            if error.kind == BusErrorKind::Fsync {
                fatal::exit_after_failed_fsync(&error);
            }
            let kind = match error.kind {
                BusErrorKind::Refused => StartFailureKind::Refused,
                BusErrorKind::Unavailable if choice.nats => StartFailureKind::Unreachable,
                _ => StartFailureKind::Failed,
            };
            StartFailure::new(kind, place(choice.nats, "bus", "NATS", data_dir), &error)
        };
        let bus = open(("nats", "nats_url"), readiness, || async {
            let opened = if choice.nats {
                Bus::connect_nats(config.nats.clone()).await
            } else {
                Bus::open_embedded(config.embedded_bus.clone())
            };
            opened.inspect(|bus| bus.on_failed_fsync(fatal::end_process)).map_err(failure)
        })
        .await?;
        // Before anything else that may fail: from now on the bus keeps unread events for these roles.
        for consumer in consumers(choice, config) {
            let ensure = || async { bus.ensure_consumer(&consumer).await.map_err(failure) };
            open(("nats", "nats_url"), readiness, ensure).await?;
        }
        let store = match choice.needs_store() {
            false => None,
            true => Some(
                open(("postgres", "database_host"), readiness, || async {
                    let port = match (choice.reaction, choice.keys) {
                        (true, _) => "store",
                        (false, true) => "store of the API keys (auth_enabled)",
                        (false, false) => AUDIT_STORE,
                    };
                    open_store(config, choice.postgres, port).await
                })
                .await?,
            ),
        };
        let setting = if config.lake.objects.url.is_some() { "warehouse_url" } else { "s3_endpoint" };
        let warehouse = match choice.needs_warehouse {
            false => None,
            true => Some(
                open(("warehouse", setting), readiness, || async { open_warehouse(config, config.lake.log()).await })
                    .await?,
            ),
        };
        Ok(Self { bus, store, warehouse })
    }

    pub(super) async fn close(self) {
        self.bus.close().await;
        if let Some(store) = self.store {
            store.close().await;
        }
    }
}

/// Opens the store. `port` says in a failure what it is for.
pub(super) async fn open_store(config: &Config, postgres: bool, port: &str) -> Result<Store, StartFailure> {
    let opened = if postgres {
        Store::connect_postgres(config.postgres.clone()).await
    } else {
        Store::open_sqlite(config.sqlite.clone())
    };
    opened.inspect(|store| store.on_failed_fsync(fatal::end_process)).map_err(|error| {
        if error.kind == StoreErrorKind::Fsync {
            fatal::exit_after_failed_fsync(&error);
        }
        let kind = match error.kind {
            StoreErrorKind::Refused => StartFailureKind::Refused,
            StoreErrorKind::Unavailable if postgres => StartFailureKind::Unreachable,
            _ => StartFailureKind::Failed,
        };
        StartFailure::new(kind, place(postgres, port, "PostgreSQL", &config.process.data_dir), &error)
    })
}

/// Opens the warehouse, with the Delta log if `delta` is set.
pub(super) async fn open_warehouse(config: &Config, delta: Option<DeltaSettings>) -> Result<Warehouse, StartFailure> {
    let (lake, data_dir) = (&config.lake, &config.process.data_dir);
    let objects = lake.objects.is_remote();
    let columns = PromotedColumns::parse(lake.columns.iter().map(String::as_str))
        .map_err(|what| StartFailure::said(StartFailureKind::Refused, format!("warehouse_columns: {what}")))?;
    let opened = match objects {
        true => Warehouse::open_objects(lake.objects.clone()).await,
        false => Warehouse::open_local(lake.objects.directory_in(data_dir)),
    };
    let opened = opened.map(|warehouse| warehouse.promote(columns));
    let opened = match (opened, delta) {
        (Ok(warehouse), Some(delta)) => warehouse.keep_log(delta).await,
        (opened, _) => opened,
    };
    opened.map_err(|error| {
        let kind = match error.kind {
            WarehouseErrorKind::Refused => StartFailureKind::Refused,
            WarehouseErrorKind::Unavailable if objects => StartFailureKind::Unreachable,
            _ => StartFailureKind::Failed,
        };
        StartFailure::new(kind, place(objects, "warehouse", "the object store", data_dir), &error)
    })
}

/// The consumers that the roles of this process read from.
fn consumers(choice: &Choice, config: &Config) -> Vec<ConsumerSpec> {
    let sink = choice.needs_warehouse.then(|| settings::sink(config, choice).consumer());
    let reaction = choice.reaction.then(|| config.engine.consumer());
    sink.into_iter().chain(reaction).collect()
}

fn place(remote: bool, port: &str, server: &str, data_dir: &Path) -> String {
    if remote { format!("open the {port} on {server}") } else { format!("open the {port} in {}", data_dir.display()) }
}

/// Retries while a server is unreachable, for [`START_PATIENCE`].
async fn open<T, F: Future<Output = Result<T, StartFailure>>>(
    (component, setting): (&'static str, &'static str),
    readiness: &Readiness,
    attempt: impl Fn() -> F,
) -> Result<T, StartFailure> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        match attempt().await {
            Err(failure) if failure.kind == StartFailureKind::Unreachable && Instant::now() < deadline => {
                warn!(error = %failure, setting, "cannot be reached yet, trying again");
                readiness.set(component, Err(failure.to_string()));
                tokio::time::sleep(START_PAUSE).await;
            }
            done => {
                if readiness.failing(component) {
                    readiness.set(component, Ok(()));
                }
                return done;
            }
        }
    }
}

/// Migrates the PostgreSQL schema to this version. Waits for the server as a start does. Returns the versions before and
/// after.
pub async fn migrate(config: &Config) -> Result<(u32, u32), StartFailure> {
    open(("postgres", "database_host"), &Readiness::starting(), || async {
        let migrated = crate::store::migrate_postgres(config.postgres.clone()).await;
        migrated.map(|migrated| (migrated.from, migrated.to)).map_err(|error| {
            let kind = match error.kind {
                StoreErrorKind::Unavailable => StartFailureKind::Unreachable,
                _ => StartFailureKind::Refused,
            };
            StartFailure::new(kind, "migrate the store on PostgreSQL".to_owned(), &error)
        })
    })
    .await
}
