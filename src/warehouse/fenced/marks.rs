//! The marks of fenced writes: they tell every process what has to be reconciled.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use parquet::file::reader::{ChunkReader, Length};
use serde::{Deserialize, Serialize};

use super::write::FencedWrite;
use crate::warehouse::catalog::damaged::Damaged;
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};
use crate::warehouse::layout::{MARKS, Partition, is_data_file, is_path_safe, mark_name};
use crate::warehouse::storage::{Listed, Objects};

/// The content of a mark: which partition its file is in.
#[derive(Deserialize, Serialize)]
struct Mark {
    app_id: String,
    /// Hours since the Unix epoch.
    hour: i64,
}

/// Puts a mark for a fenced write.
pub(crate) fn mark(objects: &Objects, write: &FencedWrite) -> Result<(), WarehouseError> {
    let Partition { app_id, hour } = write.partition.clone();
    let mark = Mark { app_id, hour };
    let text = serde_json::to_vec(&mark)
        .map_err(|error| WarehouseError::caused(WarehouseErrorKind::Encode, "write mark of late file", error))?;
    objects.store(MARKS, &mark_name(&write.name), &Bytes::from(text), || true).map(drop)
}

/// The marks that this process has seen, and since when by its own clock. The time restarts if a mark is put again.
#[derive(Debug, Default)]
pub(crate) struct SeenMarks(Mutex<HashMap<String, (Listed, Instant)>>);

impl SeenMarks {
    /// The listed marks that have not changed for at least `patience`.
    fn older_than(&self, patience: Duration, listed: Vec<Listed>) -> Vec<Listed> {
        let now = Instant::now();
        let mut seen = self.0.lock();
        seen.retain(|_, (mark, _)| listed.contains(mark));
        let old = |mark: &Listed| {
            let (_, since) = seen.entry(mark.name.clone()).or_insert_with(|| (mark.clone(), now));
            now.duration_since(*since) >= patience
        };
        listed.into_iter().filter(old).collect()
    }
}

/// The fenced writes whose marks this process has seen for longer than `patience`: the processes that made them have
/// died or stalled. The store's timestamps are not compared with this machine's clock.
pub(crate) fn abandoned(
    objects: &Objects,
    damaged: &Damaged,
    seen: &SeenMarks,
    patience: Duration,
    gone: &dyn Fn(&Partition, &str) -> Result<(), WarehouseError>,
) -> Result<Vec<FencedWrite>, WarehouseError> {
    let mut marks = objects.list(MARKS)?;
    marks.retain(|mark| marked_by(&mark.name).is_some());
    damaged.keep(MARKS, &marks);
    let mut abandoned = Vec::new();
    for mark in seen.older_than(patience, marks) {
        match abandoned_by(objects, &mark, gone) {
            Ok(write) => abandoned.extend(write),
            // An unreadable mark does not name its partition, and must not block the others.
            Err(error) if error.kind == WarehouseErrorKind::Corrupt => damaged.note(MARKS, &mark, &error),
            Err(error) => return Err(error.at(format!("{MARKS}/{}", mark.name))),
        }
    }
    Ok(abandoned)
}

/// The write that a mark is for. If its file does not exist, calls `gone`, removes the mark and returns `None`.
fn abandoned_by(
    objects: &Objects,
    marked: &Listed,
    gone: &dyn Fn(&Partition, &str) -> Result<(), WarehouseError>,
) -> Result<Option<FencedWrite>, WarehouseError> {
    let Some(name) = marked_by(&marked.name) else { return Ok(None) };
    let text = read_whole(objects, MARKS, marked)?;
    let mark: Mark = serde_json::from_slice(&text)
        .map_err(|error| WarehouseError::caused(WarehouseErrorKind::Corrupt, "read mark of late file", error))?;
    let partition = Partition { app_id: mark.app_id, hour: mark.hour };
    if !is_path_safe(&partition.app_id) {
        return Err(WarehouseError::new(WarehouseErrorKind::Corrupt, "find the file of a mark"));
    }
    let Some(file) = objects.list(&objects.directory(&partition))?.into_iter().find(|file| file.name == name) else {
        // Never stored, or removed just before its mark.
        gone(&partition, name)?;
        objects.remove(MARKS, &marked.name)?;
        return Ok(None);
    };
    let bytes = read_whole(objects, &objects.directory(&partition), &file)?;
    Ok(Some(FencedWrite { name: name.to_owned(), bytes, partition }))
}

fn read_whole(objects: &Objects, directory: &str, file: &Listed) -> Result<Bytes, WarehouseError> {
    objects.open(directory, file)?.read_with(|source| {
        let read = source.get_bytes(0, source.len() as usize);
        read.map_err(|error| WarehouseError::parquet("read late file", error))
    })
}

/// The name of the file that a mark is for.
pub(super) fn marked_by(mark: &str) -> Option<&str> {
    mark.strip_suffix(".late").filter(|name| is_data_file(name))
}
