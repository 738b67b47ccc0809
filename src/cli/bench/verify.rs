//! Checks that the accepted events are in the warehouse, each exactly once.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::number_set::NumberSet;
use super::run_ids::RunTag;
use crate::base::errors::chain;
use crate::warehouse;

/// Pause between two scans. The sink writes every few seconds.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Verification {
    pub(super) accepted: u64,
    pub(super) found: u64,
    pub(super) lost: u64,
    /// Rows with the id of another row.
    pub(super) doubled: u64,
    /// Rows of events that were sent and never acknowledged: neither lost nor doubled.
    pub(super) unacknowledged_but_present: u64,
    pub(super) waited_seconds: f64,
}

impl Verification {
    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0
    }
}

/// The column with the event's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MatchBy {
    Id,
    IdempotencyKey,
}

/// Scans until all accepted events are found once, `timeout` has passed, or `stopped` returns `true`. Blocks.
pub(super) fn verify(
    dir: &Path,
    (run, match_by): (RunTag, MatchBy),
    accepted: &NumberSet,
    timeout: Duration,
    stopped: impl Fn() -> bool,
) -> Result<Verification, String> {
    let started = Instant::now();
    loop {
        let looking = Instant::now();
        let looked = scan(dir, (run, match_by), accepted);
        // Scanning millions of ids takes processor time from the sink that it waits for.
        let pause = PAUSE.max(looking.elapsed());
        let waited = started.elapsed();
        let last = waited >= timeout || stopped();
        match looked {
            // Files appear during the scan, so only the last scan's error counts.
            Err(error) if last => return Err(error),
            Err(_) => {}
            Ok(mut seen) => {
                seen.waited_seconds = waited.as_secs_f64();
                if last || seen.is_clean() {
                    return Ok(seen);
                }
            }
        }
        std::thread::sleep(pause.min(timeout.saturating_sub(waited)));
    }
}

fn scan(dir: &Path, (run, match_by): (RunTag, MatchBy), accepted: &NumberSet) -> Result<Verification, String> {
    let mut present = NumberSet::default();
    let mut doubled = 0;
    let each = |id: &str| {
        if let Some(number) = run.number(id)
            && !present.add(number)
        {
            doubled += 1;
        }
    };
    let scanned = match match_by {
        MatchBy::Id => warehouse::scan_ids(dir, each),
        MatchBy::IdempotencyKey => warehouse::scan_keys(dir, each),
    };
    scanned.map_err(|error| chain(&error))?;
    let (accepted_count, found) = (accepted.len(), accepted.common(&present));
    Ok(Verification {
        accepted: accepted_count,
        found,
        lost: accepted_count - found,
        doubled,
        unacknowledged_but_present: present.len() - found,
        waited_seconds: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, RecordBatch, StringArray};
    use arrow_schema::{DataType, Field, Schema};
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::cli::bench::run_ids::{IdTime, patch_id};

    fn write(path: &Path, ids: Vec<String>) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let fields = vec![Field::new("row", DataType::Int64, false), Field::new("id", DataType::Utf8, false)];
        let schema = Arc::new(Schema::new(fields));
        let rows = Int64Array::from_iter_values(0..ids.len() as i64);
        let batch =
            RecordBatch::try_new(schema.clone(), vec![Arc::new(rows), Arc::new(StringArray::from(ids))]).unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), schema, None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn accepted_events_are_found_lost_or_doubled() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunTag::new(1, 2);
        let id = |number| {
            let mut id = run.blank_id().into_bytes();
            patch_id(&mut id, &IdTime::new(1_760_000_000_000), number);
            String::from_utf8(id).unwrap()
        };
        write(&dir.path().join("app_id=a/year=2026/events_1.parquet"), (0..20_000).map(id).collect());
        let other = uuid::Uuid::now_v7().to_string();
        write(&dir.path().join("app_id=b/events_2.parquet"), vec![id(30_000), other]);
        std::fs::write(dir.path().join("app_id=b/notes.txt"), "not parquet").unwrap();
        let mut accepted = NumberSet::default();
        accepted.add_range(0, 20_000);
        let clean = verify(dir.path(), (run, MatchBy::Id), &accepted, Duration::ZERO, || false).unwrap();
        assert_eq!((clean.found, clean.unacknowledged_but_present), (20_000, 1));
        assert!(clean.is_clean());

        accepted.add_range(40_000, 3);
        write(&dir.path().join("events_3.parquet"), vec![id(7), id(8)]);
        let wrong = verify(dir.path(), (run, MatchBy::Id), &accepted, Duration::from_millis(10), || false).unwrap();
        assert_eq!((wrong.accepted, wrong.found, wrong.lost, wrong.doubled), (20_003, 20_000, 3, 2));

        std::fs::write(dir.path().join("events_4.parquet"), "torn").unwrap();
        let error = verify(dir.path(), (run, MatchBy::Id), &accepted, Duration::ZERO, || false).unwrap_err();
        assert!(error.contains("events_4.parquet"), "{error}");
    }
}
