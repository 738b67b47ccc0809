//! The columns of the device context, which are NULL for events without one.
//!
//! Invariant: when a page closes, every row with a context is in all of these columns, in row
//! order. Knows nothing of the other columns.

use hashbrown::HashTable;

use super::table::{self, DEVICE_FLAGS, DEVICE_NUMBERS, DEVICE_TEXTS, DeviceValues};
use crate::base::varint::{put_varint, take_text};
use crate::event::EventRef;
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};
use crate::warehouse::pages::chunk::Chunk;
use crate::warehouse::pages::column::{BooleanColumn, DictionaryColumn, IntegerColumn, slice_of};
use crate::warehouse::pages::compression::Compressor;
use crate::warehouse::pages::short_text::hash;

/// The nullable columns.
///
/// Events of one device repeat the same context byte by byte. A known context
/// is not decoded again; the row only records its position. The columns get
/// their values when the page closes, column by column.
pub(crate) struct DeviceColumns {
    seen: SeenDevices,
    /// The context of each row of the open page, as a position in `seen`.
    pending: Vec<u16>,
    texts: [DictionaryColumn; DEVICE_TEXTS],
    numbers: [IntegerColumn; DEVICE_NUMBERS],
    flags: [BooleanColumn; DEVICE_FLAGS],
}

/// Where a stored row's device context comes from.
pub(crate) enum RowDevice<'a> {
    Read(DeviceValues<&'a str>),
    /// As written by [`DeviceValues::pack`].
    Packed(&'a [u8]),
}

impl DeviceValues<&str> {
    /// Appends the context in the encoding of [`DeviceColumns::push_packed`].
    pub(crate) fn pack(&self, out: &mut Vec<u8>) {
        self.numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        out.extend(self.flags.map(u8::from));
        for text in self.texts {
            put_varint(out, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

impl<'a> DeviceValues<&'a str> {
    fn unpack(mut packed: &'a [u8]) -> Option<Self> {
        let mut device = Self { texts: [""; DEVICE_TEXTS], numbers: [0; DEVICE_NUMBERS], flags: [false; DEVICE_FLAGS] };
        for number in &mut device.numbers {
            let (bytes, rest) = packed.split_first_chunk()?;
            (*number, packed) = (i32::from_le_bytes(*bytes), rest);
        }
        for flag in &mut device.flags {
            let (byte, rest) = packed.split_first()?;
            (*flag, packed) = (*byte != 0, rest);
        }
        for text in &mut device.texts {
            *text = take_text(&mut packed)?;
        }
        packed.is_empty().then_some(device)
    }
}

impl DeviceColumns {
    pub(crate) fn new() -> Self {
        Self {
            seen: SeenDevices::default(),
            pending: Vec::new(),
            texts: std::array::from_fn(|_| DictionaryColumn::new()),
            numbers: std::array::from_fn(|_| IntegerColumn::int32()),
            flags: std::array::from_fn(|_| BooleanColumn::default()),
        }
    }

    pub(crate) fn push(&mut self, event: &EventRef<'_>, seed: u64) {
        let bytes = event.device_bytes.unwrap_or_default();
        let hash = hash(bytes, seed);
        if let Some(position) = self.seen.find(hash, bytes) {
            self.pending.push(position);
            return;
        }
        let device = table::device_values(&event.device().unwrap_or_default());
        let DeviceValues { texts, numbers, flags } = &device;
        let texts = texts.each_ref().map(|text| &**text);
        self.push_new(hash, bytes, DeviceValues { texts, numbers: *numbers, flags: *flags }, seed);
    }

    /// Adds a context written by [`DeviceValues::pack`].
    pub(crate) fn push_packed(&mut self, packed: &[u8], seed: u64) -> Result<(), WarehouseError> {
        let hash = hash(packed, seed);
        if let Some(position) = self.seen.find(hash, packed) {
            self.pending.push(position);
            return Ok(());
        }
        let malformed = || WarehouseError::new(WarehouseErrorKind::Encode, "unpack device context");
        let device = DeviceValues::unpack(packed).ok_or_else(malformed)?;
        self.push_new(hash, packed, device, seed);
        Ok(())
    }

    fn push_new(&mut self, hash: u64, bytes: &[u8], device: DeviceValues<&str>, seed: u64) {
        if self.has_plain_text() {
            // No rows are pending from then on, so the row order is preserved.
            return self.push_values(device, seed);
        }
        let mut keys = [0; DEVICE_TEXTS];
        for ((key, column), text) in keys.iter_mut().zip(&mut self.texts).zip(device.texts) {
            *key = column.key_of(text, seed);
        }
        if !self.seen.has_room(bytes) {
            self.flush_pending();
            self.seen.forget();
        }
        let DeviceValues { numbers, flags, .. } = device;
        self.pending.push(self.seen.add(hash, bytes, DeviceValues { texts: keys, numbers, flags }, seed));
    }

    /// Whether a text column no longer has a dictionary.
    fn has_plain_text(&self) -> bool {
        self.texts.iter().any(DictionaryColumn::is_plain)
    }

    /// Adds the values of the pending rows to the columns.
    fn flush_pending(&mut self) {
        let mut devices = Vec::with_capacity(FLUSHED_ROWS);
        for positions in self.pending.chunks(FLUSHED_ROWS) {
            devices.clear();
            devices.extend(positions.iter().map(|position| self.seen.rows[usize::from(*position)]));
            for (index, column) in self.texts.iter_mut().enumerate() {
                column.push_keys(devices.iter().map(|device| device.texts[index]));
            }
            for (index, column) in self.numbers.iter_mut().enumerate() {
                column.extend(devices.iter().map(|device| i64::from(device.numbers[index])));
            }
            for (index, column) in self.flags.iter_mut().enumerate() {
                column.extend(devices.iter().map(|device| device.flags[index]));
            }
        }
        self.pending.clear();
    }

    pub(crate) fn push_values(&mut self, device: DeviceValues<&str>, seed: u64) {
        self.texts.iter_mut().zip(device.texts).for_each(|(column, text)| column.push(text, seed));
        self.numbers.iter_mut().zip(device.numbers).for_each(|(column, number)| column.push(i64::from(number)));
        self.flags.iter_mut().zip(device.flags).for_each(|(column, flag)| column.extend([flag].into_iter()));
    }

    /// Whether unusually long values have made an open page large.
    pub(crate) fn is_heavy(&self) -> bool {
        self.texts.iter().any(DictionaryColumn::is_heavy)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.texts.iter().map(DictionaryColumn::memory_bytes).sum::<usize>()
            + self.numbers.iter().map(IntegerColumn::memory_bytes).sum::<usize>()
            + self.flags.iter().map(BooleanColumn::memory_bytes).sum::<usize>()
            + self.seen.memory_bytes()
            + self.pending.capacity() * 2
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        self.texts.iter().map(DictionaryColumn::encoded_bytes).sum::<usize>()
            + self.numbers.iter().map(IntegerColumn::encoded_bytes).sum::<usize>()
            + self.flags.iter().map(BooleanColumn::encoded_bytes).sum::<usize>()
            + self.pending.len() * DEVICE_TEXTS
    }

    pub(crate) fn close_page(
        &mut self,
        levels: &[u8],
        rows: usize,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        self.flush_pending();
        self.texts.iter_mut().try_for_each(|column| column.close_page(levels, rows, compressor))?;
        if self.has_plain_text() {
            self.seen.forget();
        }
        self.numbers.iter_mut().try_for_each(|column| column.close_page(levels, rows, compressor))?;
        self.flags.iter_mut().try_for_each(|column| column.close_page(levels, rows, compressor))
    }

    /// The chunks, each kind in table order.
    pub(crate) fn close(self, compressor: &mut Compressor) -> Result<DeviceChunks, WarehouseError> {
        let texts = self.texts.into_iter().map(|column| column.close(compressor)).collect::<Result<Vec<_>, _>>()?;
        let numbers: Vec<Chunk> = self.numbers.into_iter().map(IntegerColumn::close).collect();
        let flags: Vec<Chunk> = self.flags.into_iter().map(BooleanColumn::close).collect();
        Ok(DeviceChunks { texts: texts.into_iter(), numbers: numbers.into_iter(), flags: flags.into_iter() })
    }
}

pub(crate) struct DeviceChunks {
    pub(crate) texts: std::vec::IntoIter<Chunk>,
    pub(crate) numbers: std::vec::IntoIter<Chunk>,
    pub(crate) flags: std::vec::IntoIter<Chunk>,
}

/// Pending rows whose contexts are gathered at a time, few enough for the CPU cache.
const FLUSHED_ROWS: usize = 512;
/// The most device contexts remembered per open row group.
const SEEN_DEVICES_MAX: usize = 32 * 1024;
/// The most bytes of remembered contexts, encoded.
const SEEN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A device context, its texts as dictionary keys.
type SeenDevice = DeviceValues<u16>;

/// Device contexts by their encoded bytes. Valid while every text column has a dictionary.
#[derive(Default)]
struct SeenDevices {
    index: HashTable<u16>,
    rows: Vec<SeenDevice>,
    bytes: Vec<u8>,
    /// The end of each context in `bytes`.
    ends: Vec<u32>,
}

impl SeenDevices {
    /// The position of a known context.
    fn find(&self, hash: u64, bytes: &[u8]) -> Option<u16> {
        self.index.find(hash, |position| self.bytes_of(*position) == bytes).copied()
    }

    fn has_room(&self, bytes: &[u8]) -> bool {
        self.rows.is_empty() || (self.rows.len() < SEEN_DEVICES_MAX && self.bytes.len() + bytes.len() <= SEEN_BYTES_MAX)
    }

    /// Adds a context and returns its position.
    fn add(&mut self, hash: u64, bytes: &[u8], row: SeenDevice, seed: u64) -> u16 {
        let position = self.rows.len() as u16;
        self.rows.push(row);
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len() as u32);
        let Self { index, bytes, ends, .. } = self;
        let rehash = |position: &u16| self::hash(slice_of(bytes, ends, *position), seed);
        index.insert_unique(hash, position, rehash);
        position
    }

    fn forget(&mut self) {
        self.index.clear();
        self.rows.clear();
        self.bytes.clear();
        self.ends.clear();
    }

    fn bytes_of(&self, position: u16) -> &[u8] {
        slice_of(&self.bytes, &self.ends, position)
    }

    fn memory_bytes(&self) -> usize {
        self.index.allocation_size()
            + self.rows.capacity() * size_of::<SeenDevice>()
            + self.bytes.capacity()
            + self.ends.capacity() * 4
    }
}
