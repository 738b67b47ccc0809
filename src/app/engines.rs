//! Which engine stands behind each port, and opening them.
//!
//! A port that nothing is said about is embedded when one process plays all roles, and the
//! production engine at its usual address when roles run apart.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::warn;

use super::settings;
use crate::app::role::{Role, RoleSet};
use crate::base::errors::append_new;
use crate::bus::{Bus, BusError, BusErrorKind, ConsumerSpec};
use crate::config::{Config, Loaded};
use crate::http::Readiness;
use crate::store::{Store, StoreErrorKind};
use crate::warehouse::{DeltaSettings, Warehouse, WarehouseErrorKind};

/// How long a backend that cannot be reached is waited for at the start.
const START_PATIENCE: Duration = Duration::from_secs(30);
const START_PAUSE: Duration = Duration::from_secs(1);

/// What was chosen, in words; none where the role does not need the port.
pub(super) struct Choice {
    pub(super) nats: bool,
    pub(super) postgres: bool,
    pub(super) objects: bool,
    pub(super) reaction: bool,
    /// A gateway that asks for API keys.
    pub(super) keys: bool,
    /// A sink that has to record what it removes, and where.
    retention: bool,
    needs_warehouse: bool,
}

impl Choice {
    /// Refuses what cannot be, in one sentence.
    pub(super) fn of(loaded: &Loaded, roles: &RoleSet) -> Self {
        let config = &loaded.config;
        Self {
            nats: config.nats_url.is_some() || !roles.is_all(),
            postgres: config.database_url.is_some() || config.database_host.is_some() || !roles.is_all(),
            objects: in_objects(config),
            reaction: roles.has(Role::Reaction),
            keys: roles.has(Role::Gateway) && config.asks_for_keys(),
            retention: roles.has(Role::Sink)
                && settings::retention(config).is_some()
                && (config.database_url.is_some() || config.database_host.is_some()),
            needs_warehouse: roles.has(Role::Sink),
        }
    }

    fn needs_store(&self) -> bool {
        self.reaction || self.keys || self.retention
    }

    pub(super) fn bus_name(&self) -> &'static str {
        if self.nats { "nats" } else { "sqlite" }
    }

    pub(super) fn store_name(&self) -> &'static str {
        match (self.needs_store(), self.postgres) {
            (false, _) => "none",
            (true, true) => "postgres",
            (true, false) => "sqlite",
        }
    }

    pub(super) fn warehouse_name(&self) -> &'static str {
        match (self.needs_warehouse, self.objects) {
            (false, _) => "none",
            (true, true) => "objects",
            (true, false) => "local",
        }
    }

    /// Those that the roles of this process read from.
    fn consumers(&self, config: &Config) -> Vec<ConsumerSpec> {
        let sink = self.needs_warehouse.then(|| settings::sink(config, self).consumer());
        let reaction = self.reaction.then(|| settings::engine(config).consumer());
        sink.into_iter().chain(reaction).collect()
    }

    /// Whether anything is kept in the data directory.
    pub(super) fn needs_directory(&self) -> bool {
        !self.nats || (self.needs_store() && !self.postgres) || (self.needs_warehouse && !self.objects)
    }
}

/// Whether the warehouse is in an object store.
pub(super) fn in_objects(config: &Config) -> bool {
    config.warehouse_directory().is_none()
        && (config.warehouse_url.is_some() || config.s3_bucket.is_some() || config.s3_endpoint.is_some())
}

/// The engines that the roles of this process need.
pub(super) struct Engines {
    pub(super) bus: Bus,
    pub(super) store: Option<Store>,
    pub(super) warehouse: Option<Warehouse>,
}

impl Engines {
    /// A backend that is waited for is told to `readiness`.
    pub(super) async fn open(
        choice: &Choice,
        config: &Config,
        data_dir: &Path,
        readiness: &Readiness,
    ) -> Result<Self, StartFailure> {
        let failure = |error: BusError| {
            let how = match error.kind {
                BusErrorKind::Refused => How::Refused,
                BusErrorKind::Unavailable if choice.nats => How::Unreachable,
                _ => How::Failed,
            };
            StartFailure::new(how, place(choice.nats, "bus", "NATS", data_dir), &error)
        };
        let bus = open(("nats", "nats_url"), readiness, || async {
            let opened = if choice.nats {
                Bus::connect_nats(settings::nats(config)).await
            } else {
                Bus::open_embedded(settings::bus(config, data_dir))
            };
            opened.map_err(failure)
        })
        .await?;
        // Before all else that may fail: what these roles have not read is kept for them from now on.
        for consumer in choice.consumers(config) {
            let bring = || async { bus.bring(&consumer).await.map_err(failure) };
            open(("nats", "nats_url"), readiness, bring).await?;
        }
        let store = match choice.needs_store() {
            false => None,
            true => Some(
                open(("postgres", "database_host"), readiness, || async {
                    let opened = if choice.postgres {
                        Store::connect_postgres(settings::postgres(config)).await
                    } else {
                        Store::open_sqlite(settings::store(config, data_dir))
                    };
                    opened.map_err(|error| {
                        let how = match error.kind {
                            StoreErrorKind::Refused => How::Refused,
                            StoreErrorKind::Unavailable if choice.postgres => How::Unreachable,
                            _ => How::Failed,
                        };
                        let port = match (choice.reaction, choice.keys) {
                            (true, _) => "store",
                            (false, true) => "store of the API keys (auth_enabled)",
                            (false, false) => "store of the audit record (warehouse_retention)",
                        };
                        StartFailure::new(how, place(choice.postgres, port, "PostgreSQL", data_dir), &error)
                    })
                })
                .await?,
            ),
        };
        let setting = if config.warehouse_url.is_some() { "warehouse_url" } else { "s3_endpoint" };
        let warehouse = match choice.needs_warehouse {
            false => None,
            true => Some(
                open(("warehouse", setting), readiness, || async {
                    open_warehouse(config, data_dir, choice.objects, settings::delta(config)).await
                })
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

/// Of a warehouse that is in no object store.
pub(super) fn warehouse_directory(config: &Config, data_dir: &Path) -> PathBuf {
    config.warehouse_directory().unwrap_or_else(|| data_dir.join("warehouse"))
}

/// With the log that the settings want.
pub(super) async fn open_warehouse(
    config: &Config,
    data_dir: &Path,
    objects: bool,
    delta: Option<DeltaSettings>,
) -> Result<Warehouse, StartFailure> {
    let columns = settings::columns(config)
        .map_err(|what| StartFailure::said(How::Refused, format!("warehouse_columns: {what}")))?;
    let opened = match objects {
        true => Warehouse::open_objects(settings::objects(config)).await,
        false => Warehouse::open_local(warehouse_directory(config, data_dir)),
    };
    let opened = opened.map(|warehouse| warehouse.promote(columns));
    let opened = match (opened, delta) {
        (Ok(warehouse), Some(delta)) => warehouse.keep_log(delta).await,
        (opened, _) => opened,
    };
    opened.map_err(|error| {
        let how = match error.kind {
            WarehouseErrorKind::Refused => How::Refused,
            WarehouseErrorKind::Unavailable if objects => How::Unreachable,
            _ => How::Failed,
        };
        StartFailure::new(how, place(objects, "warehouse", "the object store", data_dir), &error)
    })
}

fn place(remote: bool, port: &str, server: &str, data_dir: &Path) -> String {
    if remote { format!("open the {port} on {server}") } else { format!("open the {port} in {}", data_dir.display()) }
}

/// Tries until it works, until it cannot work, or until patience ends.
async fn open<T, F: Future<Output = Result<T, StartFailure>>>(
    (component, setting): (&'static str, &'static str),
    readiness: &Readiness,
    attempt: impl Fn() -> F,
) -> Result<T, StartFailure> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        match attempt().await {
            Err(failure) if failure.how == How::Unreachable && Instant::now() < deadline => {
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

/// Why the process did not start.
#[derive(Debug)]
pub struct StartFailure {
    pub how: How,
    pub(super) text: String,
}

/// What a start failed of; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A setting, a credential or a schema is wrong.
    Refused,
    /// A server does not answer.
    Unreachable,
    Failed,
}

impl StartFailure {
    pub(super) fn new(how: How, place: String, error: &dyn std::error::Error) -> Self {
        let text = append_new(format!("{place}: {error}"), error);
        Self { how, text }
    }

    pub(super) fn said(how: How, text: String) -> Self {
        Self { how, text }
    }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for StartFailure {}

/// Brings the PostgreSQL schema to this version; the versions before and after.
pub async fn migrate(config: &Config) -> Result<(u32, u32), StartFailure> {
    let migrated = crate::store::migrate_postgres(settings::postgres(config)).await;
    migrated.map(|migrated| (migrated.from, migrated.to)).map_err(|error| {
        let how = if error.kind == StoreErrorKind::Unavailable { How::Unreachable } else { How::Refused };
        StartFailure::new(how, "migrate the store on PostgreSQL".to_owned(), &error)
    })
}
