//! What a file is known to have lost, kept beside it until somebody has seen it.
//!
//! Invariant: a loss that a start has found is told from then on, by later starts too, until its file is removed. The
//! database itself cannot say it: once it is open, what is missing has left no trace.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::Timestamp;

use super::log::beside;

const ENDING: &str = "-lost";

/// Puts on record that of so many committed frames of the log only the first are left.
pub(super) fn note(database: &Path, frames: u64, committed: u64) {
    let line = format!("{:.0} {committed} frames were committed, {frames} are left\n", Timestamp::now());
    let path = beside(database, ENDING);
    let noted = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).and_then(|mut file| {
        file.write_all(line.as_bytes())?;
        file.sync_all()
    });
    // Whoever is woken at night wants the process up: the log has said it.
    if let Err(error) = noted {
        tracing::error!(%error, file = %path.display(), "the loss is not on record");
    }
}

/// What was lost, and how to say that it has been seen; none when nothing is on record.
pub fn told(database: &Path) -> Option<String> {
    let path = beside(database, ENDING);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => error.to_string(),
    };
    let losses = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let (name, path) = (database.display(), path.display());
    Some(format!(
        "{name} has lost committed transactions, since its write-ahead log was cut off or removed ({losses}): remove {path} \
         once that is seen"
    ))
}
