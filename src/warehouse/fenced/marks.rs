//! The marks of late files: they say what there is to settle, to every process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parquet::file::reader::{ChunkReader, Length};
use serde::{Deserialize, Serialize};

use super::write::LateFile;
use crate::warehouse::catalog::damaged::Damaged;
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};
use crate::warehouse::layout::{Partition, is_data_file, is_path_safe};
use crate::warehouse::storage::{Listed, Objects};

/// Where the marks are. Query engines skip names that begin with an underscore.
pub(crate) const MARKS: &str = "_late";

/// What a mark says of its file.
#[derive(Deserialize, Serialize)]
struct Mark {
    app_id: String,
    /// The hour of the partition, counted from the Unix epoch.
    hour: i64,
}

/// Says that there is a late file to be settled.
pub(crate) fn mark(objects: &Objects, late: &LateFile) -> Result<(), WarehouseError> {
    let Partition { app_id, hour } = late.partition.clone();
    let mark = Mark { app_id, hour };
    let text = serde_json::to_vec(&mark)
        .map_err(|error| WarehouseError::caused(WarehouseErrorKind::Encode, "write mark of late file", error))?;
    objects.store(MARKS, &mark_name(&late.name), &Bytes::from(text), || true).map(drop)
}

/// The marks that were seen, and since when by this process's own clock. A mark that is put again counts anew.
#[derive(Debug, Default)]
pub(crate) struct SeenMarks(Mutex<HashMap<String, (Listed, Instant)>>);

impl SeenMarks {
    /// Those of the listed marks that have been the same for as long as `patience`.
    fn older_than(&self, patience: Duration, listed: Vec<Listed>) -> Vec<Listed> {
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, (mark, _)| listed.contains(mark));
        let old = |mark: &Listed| {
            let (_, since) = seen.entry(mark.name.clone()).or_insert_with(|| (mark.clone(), now));
            now.duration_since(*since) >= patience
        };
        listed.into_iter().filter(old).collect()
    }
}

/// The late files whose marks this process has seen for longer than `patience`: whoever stored them has died, or
/// stands still. No times of the store are compared with ours.
pub(crate) fn abandoned(
    objects: &Objects,
    damaged: &Damaged,
    seen: &SeenMarks,
    patience: Duration,
    gone: &dyn Fn(&Partition, &str) -> Result<(), WarehouseError>,
) -> Result<Vec<LateFile>, WarehouseError> {
    let mut marks = objects.list(MARKS)?;
    marks.retain(|mark| marked_by(&mark.name).is_some());
    damaged.keep(MARKS, &marks);
    let mut abandoned = Vec::new();
    for mark in seen.older_than(patience, marks) {
        match abandoned_by(objects, &mark, gone) {
            Ok(late) => abandoned.extend(late),
            // Neither does it say where its file is, nor does it hold the others up.
            Err(error) if error.kind == WarehouseErrorKind::Corrupt => damaged.note(MARKS, &mark, &error),
            Err(error) => return Err(error.at(format!("{MARKS}/{}", mark.name))),
        }
    }
    Ok(abandoned)
}

/// The file that a mark is for; none when it is not there, and then the mark goes too, after `gone` knows.
fn abandoned_by(
    objects: &Objects,
    marked: &Listed,
    gone: &dyn Fn(&Partition, &str) -> Result<(), WarehouseError>,
) -> Result<Option<LateFile>, WarehouseError> {
    let Some(name) = marked_by(&marked.name) else { return Ok(None) };
    let text = read_whole(objects, MARKS, marked)?;
    let mark: Mark = serde_json::from_slice(&text)
        .map_err(|error| WarehouseError::caused(WarehouseErrorKind::Corrupt, "read mark of late file", error))?;
    let partition = Partition { app_id: mark.app_id, hour: mark.hour };
    if !is_path_safe(&partition.app_id) {
        return Err(WarehouseError::new(WarehouseErrorKind::Corrupt, "find the file of a mark"));
    }
    let Some(file) = objects.list(&objects.directory(&partition))?.into_iter().find(|file| file.name == name) else {
        // Never stored, or removed and the mark not yet.
        gone(&partition, name)?;
        objects.remove(MARKS, &marked.name)?;
        return Ok(None);
    };
    let bytes = read_whole(objects, &objects.directory(&partition), &file)?;
    Ok(Some(LateFile { name: name.to_owned(), bytes, partition }))
}

fn read_whole(objects: &Objects, directory: &str, file: &Listed) -> Result<Bytes, WarehouseError> {
    objects.open(directory, file)?.read_with(|source| {
        let read = source.get_bytes(0, source.len() as usize);
        read.map_err(|error| WarehouseError::parquet("read late file", error))
    })
}

/// The mark's own name, which no query engine takes for a file of rows.
pub(crate) fn mark_name(name: &str) -> String {
    format!("{name}.late")
}

/// The file that a mark is for.
pub(super) fn marked_by(mark: &str) -> Option<&str> {
    mark.strip_suffix(".late").filter(|name| is_data_file(name))
}
