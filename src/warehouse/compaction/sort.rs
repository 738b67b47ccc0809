//! Rows in order, however many they are: sorted in memory, and by way of scratch files when they are more than that takes.
//!
//! What is over is sorted and written by a thread of its own while the next rows come, and runs are merged by one while
//! their rows are taken away.
//!
//! Bounds: twice [`ROWS_BYTES_MAX`] for the rows that are sorted at once; [`RUNS_TOGETHER`] runs that are merged at once, each
//! with one block of about [`BLOCK_BYTES`], and that compressed; [`AHEAD_BLOCKS`] of [`AHEAD_BYTES`] that are merged ahead.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use super::record::{self, RowKey};
use crate::warehouse::WarehouseError;
use crate::warehouse::columns::row::StoredRow;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::maintenance::{Scratch, THREAD, lower_priority};

/// Rows that are sorted at once, with what is known of each.
pub(super) const ROWS_BYTES_MAX: usize = 64 << 20;
/// Sorted runs that are merged at once.
const RUNS_TOGETHER: usize = 400;
const BLOCK_BYTES: usize = 64 << 10;
/// Records that are merged ahead of whoever takes them.
const AHEAD_BYTES: usize = 256 << 10;
const AHEAD_BLOCKS: usize = 4;
/// Memory is taken in pieces of this size: what grows by doubling would need twice its bound.
const PIECE_BYTES: usize = 1 << 20;

/// One row that waits in memory.
#[derive(Clone, Copy)]
struct Place {
    key: RowKey,
    piece: u32,
    start: u32,
    end: u32,
}

/// Rows that wait to be sorted.
#[derive(Default)]
struct Rows {
    pieces: Vec<Vec<u8>>,
    places: Vec<Place>,
    bytes: usize,
}

impl Rows {
    fn push(&mut self, row: &StoredRow<'_>) {
        let full = |piece: &Vec<u8>| piece.len() > PIECE_BYTES - PIECE_BYTES / 8;
        if self.pieces.last().is_none_or(full) {
            self.pieces.push(Vec::with_capacity(PIECE_BYTES));
            self.bytes += PIECE_BYTES;
        }
        let piece_index = self.pieces.len() - 1;
        let piece = &mut self.pieces[piece_index];
        let (start, before) = (piece.len(), piece.capacity());
        record::put(piece, row);
        self.bytes += piece.capacity() - before + size_of::<Place>();
        let place =
            Place { key: RowKey::of(row), piece: piece_index as u32, start: start as u32, end: piece.len() as u32 };
        self.places.push(place);
    }

    fn record(&self, place: &Place) -> &[u8] {
        &self.pieces[place.piece as usize][place.start as usize..place.end as usize]
    }

    fn sort(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        places.sort_unstable_by(|one, other| {
            one.key.cmp(&other.key).then_with(|| record::compare(self.record(one), self.record(other)))
        });
        self.places = places;
    }

    fn each<E>(&self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.places.iter().try_for_each(|place| each(self.record(place)))
    }

    /// As a run on disk.
    fn write(mut self, mut run: RunWriter) -> Result<File, WarehouseError> {
        self.sort();
        self.each(|record| run.push(record))?;
        run.finish()
    }
}

/// Takes rows in any order and gives them back in theirs.
pub(super) struct Sorter<'a> {
    rows: Rows,
    rows_bytes_max: usize,
    /// The run that is being written.
    writing: Option<JoinHandle<Result<File, WarehouseError>>>,
    runs: Vec<File>,
    scratch: &'a Scratch,
}

impl<'a> Sorter<'a> {
    pub(super) fn new(scratch: &'a Scratch, rows_bytes_max: usize) -> Self {
        Self { rows: Rows::default(), rows_bytes_max, writing: None, runs: Vec::new(), scratch }
    }

    pub(super) fn push(&mut self, row: &StoredRow<'_>) -> Result<(), WarehouseError> {
        self.rows.push(row);
        if self.rows.bytes < self.rows_bytes_max { Ok(()) } else { self.write_run() }
    }

    /// Lets the rows become a run, once the one before is written.
    fn write_run(&mut self) -> Result<(), WarehouseError> {
        self.settle()?;
        let (rows, run) = (std::mem::take(&mut self.rows), RunWriter::new(self.scratch)?);
        let write = move || {
            lower_priority();
            rows.write(run)
        };
        self.writing = Some(Builder::new().name(THREAD.to_owned()).spawn(write).map_err(failed)?);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), WarehouseError> {
        if let Some(writing) = self.writing.take() {
            self.runs.push(writing.join().unwrap_or_else(|_| Err(damaged("the thread that wrote it has died")))?);
        }
        Ok(())
    }

    /// Calls `each` with every record in order.
    pub(super) fn finish<E: From<WarehouseError>>(
        mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.writing.is_none() && self.runs.is_empty() {
            self.rows.sort();
            return self.rows.each(each);
        }
        self.write_run()?;
        self.settle()?;
        while self.runs.len() > RUNS_TOGETHER {
            let together: Vec<File> = self.runs.drain(..RUNS_TOGETHER).collect();
            let mut run = RunWriter::new(self.scratch)?;
            merge(together, |record| run.push(record))?;
            self.runs.push(run.finish()?);
        }
        let runs = self.runs;
        let (filled, blocks) = sync_channel(AHEAD_BLOCKS);
        std::thread::scope(|scope| {
            let merging = Builder::new().name(THREAD.to_owned()).spawn_scoped(scope, move || {
                lower_priority();
                merge_ahead(runs, &filled);
            });
            merging.map_err(failed)?;
            take_away(blocks, &mut each)
        })
    }
}

/// Merges until all is merged, something fails, or nobody takes the blocks any more.
fn merge_ahead(runs: Vec<File>, filled: &SyncSender<Result<Vec<u8>, WarehouseError>>) {
    let mut block = Vec::with_capacity(AHEAD_BYTES + AHEAD_BYTES / 8);
    let nobody = || damaged("nobody takes the rows any more");
    let merged = merge(runs, |record| {
        put_record(&mut block, record);
        if block.len() < AHEAD_BYTES {
            return Ok(());
        }
        let full = std::mem::replace(&mut block, Vec::with_capacity(AHEAD_BYTES + AHEAD_BYTES / 8));
        filled.send(Ok(full)).map_err(|_| nobody())
    });
    // Whoever ended early does not listen.
    let _ = filled.send(merged.map(|()| block));
}

fn take_away<E: From<WarehouseError>>(
    blocks: Receiver<Result<Vec<u8>, WarehouseError>>,
    each: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    for block in blocks {
        let block = block?;
        let mut at = 0;
        while at < block.len() {
            let (start, end) = record_at(&block, at)?;
            each(&block[start..end])?;
            at = end;
        }
    }
    Ok(())
}

/// A record with its length before it.
fn put_record(block: &mut Vec<u8>, record: &[u8]) {
    block.extend_from_slice(&(record.len() as u32).to_le_bytes());
    block.extend_from_slice(record);
}

/// Where the record lies whose length is at `at`.
fn record_at(block: &[u8], at: usize) -> Result<(usize, usize), WarehouseError> {
    let length = block.get(at..at + LENGTH_BYTES).and_then(|bytes| bytes.try_into().ok());
    let length = length.map(u32::from_le_bytes).ok_or_else(|| damaged("a block ends within a length"))?;
    let (start, end) = (at + LENGTH_BYTES, at + LENGTH_BYTES + length as usize);
    if end > block.len() { Err(damaged("a block ends within a record")) } else { Ok((start, end)) }
}

/// The next record of a run. Ordered the other way round, for a heap whose greatest comes first.
struct Head {
    key: RowKey,
    run: Run,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = self.key.cmp(&other.key).then_with(|| record::compare(self.run.record(), other.run.record()));
        order.reverse()
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

fn merge<E: From<WarehouseError>>(runs: Vec<File>, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut heads = BinaryHeap::with_capacity(runs.len());
    for file in runs {
        let mut run = Run::open(file)?;
        if run.advance()? {
            heads.push(Head { key: run.key()?, run });
        }
    }
    while let Some(mut head) = heads.peek_mut() {
        each(head.run.record())?;
        if head.run.advance()? {
            head.key = head.run.key()?;
        } else {
            PeekMut::pop(head);
        }
    }
    Ok(())
}

/// Writes sorted records: blocks of a checksum, two lengths and snappy's bytes, each record with its length before it.
struct RunWriter {
    file: BufWriter<File>,
    block: Vec<u8>,
    packed: Vec<u8>,
    encoder: snap::raw::Encoder,
}

const BLOCK_HEAD_BYTES: usize = 12;
const LENGTH_BYTES: usize = 4;

impl RunWriter {
    fn new(scratch: &Scratch) -> Result<Self, WarehouseError> {
        let file = BufWriter::with_capacity(4 * BLOCK_BYTES, scratch.run()?);
        Ok(Self { file, block: Vec::new(), packed: Vec::new(), encoder: snap::raw::Encoder::new() })
    }

    fn push(&mut self, record: &[u8]) -> Result<(), WarehouseError> {
        put_record(&mut self.block, record);
        if self.block.len() >= BLOCK_BYTES { self.write_block() } else { Ok(()) }
    }

    fn write_block(&mut self) -> Result<(), WarehouseError> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.packed.resize(BLOCK_HEAD_BYTES + snap::raw::max_compress_len(self.block.len()), 0);
        let (head, packed) = self.packed.split_at_mut(BLOCK_HEAD_BYTES);
        let length = self.encoder.compress(&self.block, packed).map_err(damaged)?;
        head[..4].copy_from_slice(&crc32fast::hash(&packed[..length]).to_le_bytes());
        head[4..8].copy_from_slice(&(length as u32).to_le_bytes());
        head[8..].copy_from_slice(&(self.block.len() as u32).to_le_bytes());
        self.block.clear();
        self.file.write_all(&self.packed[..BLOCK_HEAD_BYTES + length]).map_err(failed)
    }

    fn finish(mut self) -> Result<File, WarehouseError> {
        self.write_block()?;
        let mut file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.rewind().map_err(failed)?;
        Ok(file)
    }
}

/// Reads one run.
struct Run {
    file: File,
    left: u64,
    packed: Vec<u8>,
    block: Vec<u8>,
    /// The record that comes now.
    start: usize,
    end: usize,
}

impl Run {
    fn open(file: File) -> Result<Self, WarehouseError> {
        let left = file.metadata().map_err(failed)?.len();
        Ok(Self { file, left, packed: Vec::new(), block: Vec::new(), start: 0, end: 0 })
    }

    fn record(&self) -> &[u8] {
        &self.block[self.start..self.end]
    }

    fn key(&self) -> Result<RowKey, WarehouseError> {
        RowKey::of_record(self.record()).ok_or_else(|| damaged("a record is shorter than its head"))
    }

    /// False at the end.
    fn advance(&mut self) -> Result<bool, WarehouseError> {
        if self.end == self.block.len() && !self.read_block()? {
            return Ok(false);
        }
        (self.start, self.end) = record_at(&self.block, self.end)?;
        Ok(true)
    }

    fn read_block(&mut self) -> Result<bool, WarehouseError> {
        if self.left == 0 {
            return Ok(false);
        }
        let mut head = [0; BLOCK_HEAD_BYTES];
        self.file.read_exact(&mut head).map_err(failed)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (checksum, packed, raw) = (number(0), u64::from(number(4)), number(8) as usize);
        let left = self.left.checked_sub(BLOCK_HEAD_BYTES as u64 + packed);
        self.left = left.ok_or_else(|| damaged("a block is longer than its file"))?;
        self.packed.resize(packed as usize, 0);
        self.file.read_exact(&mut self.packed).map_err(failed)?;
        if crc32fast::hash(&self.packed) != checksum {
            return Err(damaged("a block does not match its checksum"));
        }
        self.block.resize(raw, 0);
        let length = snap::raw::Decoder::new().decompress(&self.packed, &mut self.block).map_err(damaged)?;
        self.block.truncate(length);
        (self.start, self.end) = (0, 0);
        Ok(true)
    }
}

fn failed(error: std::io::Error) -> WarehouseError {
    WarehouseError::io("sort rows by way of scratch files", error, false)
}

/// Of a file of ours that nobody else reads: not a stored one.
fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> WarehouseError {
    WarehouseError::caused(WarehouseErrorKind::Unavailable, "read scratch file", error)
}
