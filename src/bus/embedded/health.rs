//! Whether the bus's files can be written, read and found again.

use rusqlite::Connection;

use super::{Engine, Shared, file, lock};
use crate::base::sqlite;
use crate::bus::{BusError, BusErrorKind};

impl Engine {
    /// Fails when what is stored would not be found again, or nothing can be stored.
    pub(in crate::bus) async fn ping(&self) -> Result<(), BusError> {
        let shared = self.0.shared.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let failed = |kind| move |text| BusError::caused(kind, "check bus files", text);
            shared.watch.check().map_err(failed(BusErrorKind::Unavailable))?;
            if let Some(damage) = lock(&shared.damage).clone() {
                return Err(failed(BusErrorKind::Corrupt)(damage));
            }
            shared.watch.check_disk().map_err(failed(BusErrorKind::Unavailable))
        });
        asked.await.map_err(|error| BusError::caused(BusErrorKind::Unavailable, "check bus files", error))?
    }

    /// What the file has lost, until that is acknowledged.
    pub(in crate::bus) fn warning(&self) -> (&'static str, Option<String>) {
        ("bus_file_lost", sqlite::losses(&self.0.shared.path))
    }
}

impl Shared {
    pub(super) fn open_reader(&self) -> Result<Connection, BusError> {
        self.check_files()?;
        let opened = sqlite::open_reader(&self.path);
        let reader = opened.map_err(|error| file::failure(&self.path, "open bus reader", error))?;
        // They may have been moved away meanwhile.
        self.check_files()?;
        Ok(reader)
    }

    /// Fails when a restart would not find the files that are open.
    pub(super) fn check_files(&self) -> Result<(), BusError> {
        self.watch.check().map_err(|text| BusError::caused(BusErrorKind::Unavailable, "check bus files", text))
    }

    /// Remembers damage for readiness: whoever meets it may not meet it again.
    pub(super) fn note_damage(&self, error: Option<&BusError>) {
        if let Some(error) = error.filter(|error| error.kind == BusErrorKind::Corrupt) {
            lock(&self.damage).get_or_insert_with(|| reason(error));
        }
    }
}

/// An error with what caused it, in one line.
pub(super) fn reason(error: &BusError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
