//! Records that a database has lost committed transactions, in a file beside it, until an operator removes that file.
//!
//! Invariant: every start reports a recorded loss until its file is removed. The database itself cannot report it: once
//! it is open, the missing transactions have left no trace.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::Timestamp;

use super::log::beside;

const ENDING: &str = "-lost";

/// Records that only the first `frames` of the `committed` frames of the log are left.
pub(super) fn note(database: &Path, frames: u64, committed: u64) {
    let line = format!("{:.0} {committed} frames were committed, {frames} are left\n", Timestamp::now());
    let path = beside(database, ENDING);
    let noted = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).and_then(|mut file| {
        file.write_all(line.as_bytes())?;
        file.sync_all()
    });
    // An operator wants the process up. The loss is in the log in any case.
    if let Err(error) = noted {
        tracing::error!(%error, file = %path.display(), "the loss is not on record");
    }
}

/// Describes the recorded losses and how to acknowledge them. Returns `None` if there are none.
pub(super) fn recorded(database: &Path) -> Option<String> {
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
