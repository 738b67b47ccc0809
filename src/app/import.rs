//! `causality import`: files straight into the table.

use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tracing::warn;

use super::engines::open_warehouse;
use super::settings;
use super::start_failure::{StartFailure, StartFailureKind};
use crate::config::Config;
use crate::import::{self, Format, Progress};
use crate::warehouse::EncodeSettings;

/// What to import.
#[derive(Clone, Debug)]
pub struct Import {
    pub files: Vec<PathBuf>,
    pub format: Option<Format>,
    pub app: Option<String>,
    pub columns: Vec<(String, Option<String>)>,
    pub rejects: Option<PathBuf>,
    pub chunk_bytes: usize,
    pub dry_run: bool,
}

/// Imports the files one after another. Blocks. Calls `progress` with each file and its progress.
pub fn import_files(
    runtime: &Runtime,
    config: &Config,
    import: &Import,
    mut progress: impl FnMut(&Path, &Progress, bool),
) -> anyhow::Result<()> {
    if !config.lake.delta_enabled {
        let what = "import needs the Delta log, which keeps rows from being there twice: set delta_enabled to true";
        return Err(StartFailure::said(StartFailureKind::Refused, what.to_owned()).into());
    }
    let warehouse = runtime.block_on(open_warehouse(config, Some(config.lake.delta.clone())))?;
    let importing = import::Settings {
        format: import.format,
        app: import.app.clone(),
        columns: import.columns.clone(),
        rejects: import.rejects.clone(),
        dry_run: import.dry_run,
        chunk_bytes: import.chunk_bytes,
        event_bytes_max: config.gateway.event_bytes_max,
        encode: EncodeSettings {
            compression: config.sink.compression,
            row_group_rows_max: config.sink.row_group_rows,
            stream: config.sink.stream.clone(),
        },
        threads: available_parallelism().map_or(1, usize::from),
    };
    for file in &import.files {
        let done = import::import(&warehouse, file, &importing, &mut |done| progress(file, done, false));
        progress(file, &done.with_context(|| format!("cannot import {}", file.display()))?, true);
    }
    if let Some(metastore) = settings::metastore(config)?.filter(|_| !import.dry_run)
        && let Err(reason) = runtime.block_on(warehouse.note_for_metastore(metastore).register_all(&warehouse))
    {
        warn!(reason, "the Hive Metastore does not know the new partitions; the next sink that starts tells it");
    }
    Ok(())
}
