//! Validates the rows of a chunk as the gateway does, on all cores.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use memchr::{memchr, memchr_iter};
use parking_lot::Mutex;
use uuid::{Builder, Uuid};

use super::chunk::Chunk;
use super::format::Format;
use super::identities::IdentityHasher;
use crate::event::request::Accepted;
use crate::event::segment::Body;
use crate::event::{Arrival, FieldError, is_of_other_app};
use crate::warehouse::hour_of;

/// Bytes of text that one thread validates at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// Stands for a missing timestamp; no event can carry this value. The time of the import would differ each time the file
/// is imported.
const NO_TIMESTAMP: i64 = -1;

/// Validates rows. The fields are the same for all rows of an import.
pub(super) struct Validator {
    pub(super) app: Option<String>,
    pub(super) format: Format,
    pub(super) event_bytes_max: usize,
    pub(super) now_ms: i64,
    pub(super) import: String,
    pub(super) threads: usize,
    pub(super) hasher: IdentityHasher,
}

/// A chunk's events and its rejected rows, in order.
pub(super) struct ValidatedChunk {
    pub(super) blocks: Vec<Block>,
    text: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Block {
    bytes: Vec<u8>,
    pub(super) rows: Vec<Row>,
    pub(super) apps: Vec<String>,
    rejected: Vec<RejectedRow>,
}

/// An event of a block.
pub(super) struct Row {
    pub(super) at: Range<u32>,
    pub(super) app: u32,
    pub(super) hour: i64,
    pub(super) timestamp_ms: i64,
    /// The hash of the id.
    pub(super) id: u128,
    /// The hash of the idempotency key, if the event has one.
    pub(super) key: Option<u128>,
}

/// A row that is not a valid event.
pub(super) struct RejectedRow {
    /// From 1.
    pub(super) row: u64,
    pub(super) errors: Vec<FieldError>,
    at: Range<usize>,
}

impl Block {
    pub(super) fn event(&self, row: &Row) -> &[u8] {
        &self.bytes[row.at.start as usize..row.at.end as usize]
    }
}

impl ValidatedChunk {
    /// Returns the chunk's text buffer for reuse.
    pub(super) fn into_text(self) -> Vec<u8> {
        self.text
    }

    /// The rejected rows, each with its text.
    pub(super) fn rejected(&self) -> impl Iterator<Item = (&RejectedRow, &[u8])> {
        self.blocks.iter().flat_map(|block| &block.rejected).map(|rejected| (rejected, &self.text[rejected.at.clone()]))
    }
}

impl Validator {
    pub(super) fn validate(&self, chunk: Chunk) -> ValidatedChunk {
        let Chunk { text, first_row, faults, .. } = chunk;
        let ranges = blocks(&text, first_row);
        let blocks: Vec<Mutex<Block>> = ranges.iter().map(|_| Mutex::default()).collect();
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..self.threads.min(ranges.len()) {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        let Some((at, first_row)) = ranges.get(n) else { return };
                        let block = self.validate_block(&text, at.clone(), *first_row, &faults);
                        *blocks[n].lock() = block;
                    }
                });
            }
        });
        let blocks = blocks.into_iter().map(|block| block.into_inner());
        ValidatedChunk { blocks: blocks.collect(), text }
    }

    fn validate_block(&self, text: &[u8], at: Range<usize>, first_row: u64, faults: &HashMap<u64, &str>) -> Block {
        let mut block = Block::default();
        let mut accepted = Accepted::default();
        let mut lines: Vec<(u64, Range<usize>)> = Vec::new();
        let mut row = first_row;
        let mut start = at.start;
        while start < at.end {
            let length = memchr(b'\n', &text[start..at.end]).unwrap_or(at.end - start);
            let line = start..start + length;
            start += length + 1;
            row += 1;
            let bytes = &text[line.clone()];
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            match faults.get(&row) {
                Some(fault) => accepted.add_refused(vec![FieldError::new("", *fault)]),
                None => self.validate_line(bytes, row, &mut accepted),
            }
            match accepted.take_refused() {
                Some(errors) => block.rejected.push(RejectedRow { row, errors: reworded(errors), at: line }),
                None => lines.push((row, line)),
            }
        }
        self.add_events(&accepted, lines, &mut block);
        block
    }

    fn validate_line(&self, line: &[u8], row: u64, accepted: &mut Accepted) {
        let arrival = Arrival {
            received_at_ms: NO_TIMESTAMP,
            key_app: self.app.as_deref(),
            event_bytes_max: self.event_bytes_max,
            assigned_id: Some(self.assigned_id(row)),
        };
        if self.format != Format::Segment {
            return accepted.add_json_line(line, &arrival);
        }
        match Body::of_message(line) {
            Ok(body) => {
                let app = self.app.as_deref().unwrap_or_default();
                accepted.append(body.exported().next(1, line, None, app, &arrival));
            }
            Err(refused) => accepted.add_refused(refused.field_errors().into_owned()),
        }
    }

    /// The id of a row that has none: the same each time the file is imported.
    fn assigned_id(&self, row: u64) -> Uuid {
        let import = u128::from_str_radix(&self.import, 16).unwrap_or_default();
        Builder::from_custom_bytes((import ^ u128::from(row).rotate_left(64)).to_be_bytes()).into_uuid()
    }

    fn add_events(&self, accepted: &Accepted, lines: Vec<(u64, Range<usize>)>, block: &mut Block) {
        let mut apps: HashMap<&str, u32> = HashMap::new();
        for (event, (row, line)) in accepted.iter().zip(lines) {
            let Ok(event) = event else { continue };
            if event.timestamp_ms == NO_TIMESTAMP {
                let errors = vec![FieldError::new("/timestampMs", "is required of an event that is imported")];
                block.rejected.push(RejectedRow { row, errors, at: line });
                continue;
            }
            let next = apps.len() as u32;
            let app = *apps.entry(event.app_id).or_insert(next);
            if app == next {
                block.apps.push(event.app_id.to_owned());
            }
            let start = block.bytes.len() as u32;
            block.bytes.extend_from_slice(event.bytes);
            block.rows.push(Row {
                at: start..block.bytes.len() as u32,
                app,
                hour: hour_of(event.timestamp_ms, self.now_ms),
                timestamp_ms: event.timestamp_ms,
                id: self.hasher.hash_id(event.id),
                key: (!event.idempotency_key.is_empty()).then(|| self.hasher.hash_key(event.idempotency_key)),
            });
        }
        block.rejected.sort_by_key(|rejected| rejected.row);
    }
}

/// Splits the text into blocks of whole lines, each with the number of rows before it.
fn blocks(text: &[u8], first_row: u64) -> Vec<(Range<usize>, u64)> {
    let (mut blocks, mut start, mut row) = (Vec::new(), 0, first_row);
    while start < text.len() {
        let near = (start + BLOCK_BYTES).min(text.len());
        let end = memchr(b'\n', &text[near..]).map_or(text.len(), |more| near + more + 1);
        blocks.push((start..end, row));
        row += memchr_iter(b'\n', &text[start..end]).count() as u64;
        start = end;
    }
    blocks
}

/// Replaces the gateway's wording for a foreign app, which speaks of an API key.
fn reworded(mut errors: Vec<FieldError>) -> Vec<FieldError> {
    if is_of_other_app(&errors) {
        errors.iter_mut().filter(|error| error.pointer == "/appId").for_each(|error| {
            error.detail = "must be the app that --app, or the file's path, names".into();
        });
    }
    errors
}
