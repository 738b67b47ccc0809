//! The open row group: every column of the schema, fed from one event at a time.

use hashbrown::HashTable;
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedRowGroupWriter;

use crate::event::EventRef;

use super::WarehouseError;
use super::chunk::Chunk;
use super::column::{BooleanColumn, DictionaryColumn, IntegerColumn, PAGE_ROWS_MAX, TextColumn, hash, slice_of};
use super::compression::Compressor;
use super::encodings::put_hybrid;
use super::schema::schema;

/// What a row carries beside the event: how the bus knows it.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub sequence: u64,
    /// When the bus stored the message, milliseconds since the Unix epoch.
    pub received_at_ms: i64,
}

/// A row as a file holds it.
pub(super) struct StoredRow<'a> {
    pub(super) id: &'a str,
    pub(super) device_id: &'a str,
    pub(super) timestamp_ms: i64,
    pub(super) correlation_id: &'a str,
    pub(super) event_category: &'a str,
    pub(super) event_type: &'a str,
    pub(super) device: Option<StoredDevice<'a>>,
    pub(super) payload_json: &'a str,
    pub(super) received_at_ms: i64,
    pub(super) idempotency_key: &'a str,
    pub(super) stream_sequence: i64,
    pub(super) user_id: &'a str,
    pub(super) session_id: &'a str,
}

/// A device context as a file holds it, its texts in the order of the columns.
pub(super) struct StoredDevice<'a> {
    pub(super) texts: [&'a str; DEVICE_TEXTS],
    pub(super) plain: PlainDevice,
}

/// Rows on their way into one row group.
pub(super) struct RowGroup {
    rows: usize,
    /// Which rows of the open page have a device context. All columns but the plain text
    /// ones close their pages together, so the levels are encoded once for all of them.
    present: Vec<u16>,
    seed: u64,
    id: TextColumn,
    device_id: TextColumn,
    timestamp_ms: IntegerColumn,
    correlation_id: TextColumn,
    event_category: DictionaryColumn,
    event_type: DictionaryColumn,
    device: Device,
    payload_json: TextColumn,
    received_at_ms: IntegerColumn,
    idempotency_key: TextColumn,
    stream_sequence: IntegerColumn,
    user_id: TextColumn,
    session_id: TextColumn,
}

/// The nullable columns.
///
/// The events of one device carry the same context again and again, to the byte: a context
/// that was seen before is not decoded, and a row only notes which one it has. The columns get
/// their values when the page closes, one column after the other.
struct Device {
    seen: SeenDevices,
    /// The context of each row of the open page, as its position in `seen`.
    picked: Vec<u16>,
    platform: DictionaryColumn,
    os_version: DictionaryColumn,
    app_version: DictionaryColumn,
    build_number: DictionaryColumn,
    device_model: DictionaryColumn,
    manufacturer: DictionaryColumn,
    screen_width: IntegerColumn,
    screen_height: IntegerColumn,
    locale: DictionaryColumn,
    timezone: DictionaryColumn,
    network_type: DictionaryColumn,
    carrier: DictionaryColumn,
    is_jailbroken: BooleanColumn,
    is_emulator: BooleanColumn,
    sdk_version: DictionaryColumn,
}

impl RowGroup {
    /// `seed` keeps the dictionaries' hashes from being guessed.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rows: 0,
            present: Vec::new(),
            seed,
            id: TextColumn::new(true, true),
            device_id: TextColumn::new(true, true),
            timestamp_ms: IntegerColumn::int64(),
            correlation_id: TextColumn::new(true, false),
            event_category: DictionaryColumn::new(),
            event_type: DictionaryColumn::new(),
            device: Device::new(),
            payload_json: TextColumn::new(false, false),
            received_at_ms: IntegerColumn::int64(),
            idempotency_key: TextColumn::new(true, false),
            stream_sequence: IntegerColumn::int64(),
            user_id: TextColumn::new(true, false),
            session_id: TextColumn::new(true, false),
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn push(
        &mut self,
        event: &EventRef<'_>,
        origin: Origin,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        let seed = self.seed;
        self.id.push(event.id, compressor)?;
        self.device_id.push(event.device_id, compressor)?;
        self.timestamp_ms.push(event.timestamp_ms);
        self.correlation_id.push(event.correlation_id, compressor)?;
        self.event_category.push(event.category(), seed);
        self.event_type.push(&event.event_type(), seed);
        if event.device_bytes.is_some() {
            self.device.push(event, seed);
        }
        self.present.push(u16::from(event.device_bytes.is_some()));
        self.payload_json.push_with(|out| event.write_payload_json(out), compressor)?;
        self.received_at_ms.push(origin.received_at_ms);
        self.idempotency_key.push(event.idempotency_key, compressor)?;
        self.stream_sequence.push(origin.sequence as i64);
        self.user_id.push(event.user_id, compressor)?;
        self.session_id.push(event.session_id, compressor)?;
        self.row_done(compressor)
    }

    pub(super) fn push_stored(
        &mut self,
        row: &StoredRow<'_>,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        let seed = self.seed;
        self.id.push(row.id, compressor)?;
        self.device_id.push(row.device_id, compressor)?;
        self.timestamp_ms.push(row.timestamp_ms);
        self.correlation_id.push(row.correlation_id, compressor)?;
        self.event_category.push(row.event_category, seed);
        self.event_type.push(row.event_type, seed);
        if let Some(device) = &row.device {
            self.device.push_plain(device.texts, device.plain, seed);
        }
        self.present.push(u16::from(row.device.is_some()));
        self.payload_json.push_with(|out| out.extend_from_slice(row.payload_json.as_bytes()), compressor)?;
        self.received_at_ms.push(row.received_at_ms);
        self.idempotency_key.push(row.idempotency_key, compressor)?;
        self.stream_sequence.push(row.stream_sequence);
        self.user_id.push(row.user_id, compressor)?;
        self.session_id.push(row.session_id, compressor)?;
        self.row_done(compressor)
    }

    fn row_done(&mut self, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        self.rows += 1;
        if self.present.len() == PAGE_ROWS_MAX { self.close_page(compressor) } else { Ok(()) }
    }

    /// Closes the open page early when unusually long values have made it large.
    pub(super) fn relieve(&mut self, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        let heavy = self.event_type.is_heavy() || self.device.dictionaries().iter().any(|column| column.is_heavy());
        if heavy && !self.present.is_empty() { self.close_page(compressor) } else { Ok(()) }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let texts = self.texts().iter().map(|column| column.memory_bytes()).sum::<usize>();
        let integers = [&self.timestamp_ms, &self.received_at_ms, &self.stream_sequence];
        let integers = integers.iter().map(|column| column.memory_bytes()).sum::<usize>();
        let types = self.event_category.memory_bytes() + self.event_type.memory_bytes();
        size_of::<Self>() + self.present.capacity() * 2 + texts + integers + types + self.device.memory_bytes()
    }

    /// About what the group will add to the file if it closes now.
    pub(super) fn encoded_bytes(&self) -> usize {
        let texts = self.texts().iter().map(|column| column.encoded_bytes()).sum::<usize>();
        let integers = [&self.timestamp_ms, &self.received_at_ms, &self.stream_sequence];
        let integers = integers.iter().map(|column| column.encoded_bytes()).sum::<usize>();
        let types = self.event_category.encoded_bytes() + self.event_type.encoded_bytes();
        texts + integers + types + self.device.encoded_bytes()
    }

    pub(super) fn append_to(
        mut self,
        group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        if !self.present.is_empty() {
            self.close_page(compressor)?;
        }
        let mut chunks = Vec::with_capacity(schema().num_columns());
        chunks.push(self.id.close(compressor)?);
        chunks.push(self.device_id.close(compressor)?);
        chunks.push(self.timestamp_ms.close());
        chunks.push(self.correlation_id.close(compressor)?);
        chunks.push(self.event_category.close(compressor)?);
        chunks.push(self.event_type.close(compressor)?);
        self.device.close_into(&mut chunks, compressor)?;
        chunks.push(self.payload_json.close(compressor)?);
        chunks.push(self.received_at_ms.close());
        chunks.push(self.idempotency_key.close(compressor)?);
        chunks.push(self.stream_sequence.close());
        chunks.push(self.user_id.close(compressor)?);
        chunks.push(self.session_id.close(compressor)?);
        let append = |(chunk, column): (Chunk, _)| chunk.append_to(group, column, compressor.compression);
        let appended: Result<(), ParquetError> = chunks.into_iter().zip(schema().columns()).try_for_each(append);
        appended.map_err(WarehouseError::encode)
    }

    fn close_page(&mut self, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        let rows = self.present.len();
        let levels = levels(&self.present);
        self.present.clear();
        for column in [&mut self.timestamp_ms, &mut self.received_at_ms, &mut self.stream_sequence] {
            column.close_page(&[], rows, compressor)?;
        }
        self.event_category.close_page(&[], rows, compressor)?;
        self.event_type.close_page(&[], rows, compressor)?;
        self.device.close_page(&levels, rows, compressor)
    }

    fn texts(&self) -> [&TextColumn; 7] {
        [
            &self.id,
            &self.device_id,
            &self.correlation_id,
            &self.payload_json,
            &self.idempotency_key,
            &self.user_id,
            &self.session_id,
        ]
    }
}

impl Device {
    fn new() -> Self {
        Self {
            seen: SeenDevices::default(),
            picked: Vec::new(),
            platform: DictionaryColumn::new(),
            os_version: DictionaryColumn::new(),
            app_version: DictionaryColumn::new(),
            build_number: DictionaryColumn::new(),
            device_model: DictionaryColumn::new(),
            manufacturer: DictionaryColumn::new(),
            screen_width: IntegerColumn::int32(),
            screen_height: IntegerColumn::int32(),
            locale: DictionaryColumn::new(),
            timezone: DictionaryColumn::new(),
            network_type: DictionaryColumn::new(),
            carrier: DictionaryColumn::new(),
            is_jailbroken: BooleanColumn::default(),
            is_emulator: BooleanColumn::default(),
            sdk_version: DictionaryColumn::new(),
        }
    }

    fn push(&mut self, event: &EventRef<'_>, seed: u64) {
        let bytes = event.device_bytes.unwrap_or_default();
        let hash = hash(bytes, seed);
        if let Some(position) = self.seen.find(hash, bytes) {
            self.picked.push(position);
            return;
        }
        let device = event.device().unwrap_or_default();
        let (platform, network_type) = (device.platform_name(), device.network_type_name());
        let texts = [
            &*platform,
            device.os_version,
            device.app_version,
            device.build_number,
            device.device_model,
            device.manufacturer,
            device.locale,
            device.timezone,
            &*network_type,
            device.carrier,
            device.sdk_version,
        ];
        let plain = PlainDevice {
            screen_width: device.screen_width,
            screen_height: device.screen_height,
            is_jailbroken: device.is_jailbroken,
            is_emulator: device.is_emulator,
        };
        if let Some(keys) = self.keys_of(texts, plain, seed) {
            if !self.seen.has_room(bytes) {
                self.settle_picked();
                self.seen.forget();
            }
            self.picked.push(self.seen.add(hash, bytes, SeenDevice { keys, plain }, seed));
        }
    }

    /// The keys of the texts. None once a dictionary was given up: then the values are in the columns.
    fn keys_of(&mut self, texts: [&str; DEVICE_TEXTS], plain: PlainDevice, seed: u64) -> Option<[u16; DEVICE_TEXTS]> {
        if self.dictionaries().iter().any(|column| column.is_plain()) {
            // Nothing is picked any more since then, so the order of the rows holds.
            self.push_plain(texts, plain, seed);
            return None;
        }
        let mut keys = [0; DEVICE_TEXTS];
        for ((key, column), text) in keys.iter_mut().zip(self.dictionaries_mut()).zip(texts) {
            *key = column.key_of(text, seed);
        }
        Some(keys)
    }

    /// Gives the columns the values of the rows that were picked.
    fn settle_picked(&mut self) {
        let picked = std::mem::take(&mut self.picked);
        let seen = std::mem::take(&mut self.seen);
        let mut rows_of = vec![0; seen.rows.len()];
        picked.iter().for_each(|position| rows_of[usize::from(*position)] += 1);
        let row = |position: &u16| &seen.rows[usize::from(*position)];
        for (index, column) in self.dictionaries_mut().into_iter().enumerate() {
            let counts = seen.rows.iter().zip(&rows_of).map(|(row, rows)| (row.keys[index], *rows));
            column.push_keys(picked.iter().map(|position| row(position).keys[index]), counts);
        }
        self.screen_width.extend(picked.iter().map(|position| i64::from(row(position).plain.screen_width)));
        self.screen_height.extend(picked.iter().map(|position| i64::from(row(position).plain.screen_height)));
        self.is_jailbroken.extend(picked.iter().map(|position| row(position).plain.is_jailbroken));
        self.is_emulator.extend(picked.iter().map(|position| row(position).plain.is_emulator));
        (self.picked, self.seen) = (picked, seen);
        self.picked.clear();
    }

    fn push_plain(&mut self, texts: [&str; DEVICE_TEXTS], plain: PlainDevice, seed: u64) {
        self.dictionaries_mut().into_iter().zip(texts).for_each(|(column, text)| column.push(text, seed));
        self.screen_width.push(i64::from(plain.screen_width));
        self.screen_height.push(i64::from(plain.screen_height));
        self.is_jailbroken.extend([plain.is_jailbroken].into_iter());
        self.is_emulator.extend([plain.is_emulator].into_iter());
    }

    fn dictionaries_mut(&mut self) -> [&mut DictionaryColumn; DEVICE_TEXTS] {
        [
            &mut self.platform,
            &mut self.os_version,
            &mut self.app_version,
            &mut self.build_number,
            &mut self.device_model,
            &mut self.manufacturer,
            &mut self.locale,
            &mut self.timezone,
            &mut self.network_type,
            &mut self.carrier,
            &mut self.sdk_version,
        ]
    }

    fn dictionaries(&self) -> [&DictionaryColumn; DEVICE_TEXTS] {
        [
            &self.platform,
            &self.os_version,
            &self.app_version,
            &self.build_number,
            &self.device_model,
            &self.manufacturer,
            &self.locale,
            &self.timezone,
            &self.network_type,
            &self.carrier,
            &self.sdk_version,
        ]
    }

    fn memory_bytes(&self) -> usize {
        self.dictionaries().iter().map(|column| column.memory_bytes()).sum::<usize>()
            + self.screen_width.memory_bytes()
            + self.screen_height.memory_bytes()
            + self.is_jailbroken.memory_bytes()
            + self.is_emulator.memory_bytes()
            + self.seen.memory_bytes()
            + self.picked.capacity() * 2
    }

    fn encoded_bytes(&self) -> usize {
        self.dictionaries().iter().map(|column| column.encoded_bytes()).sum::<usize>()
            + self.screen_width.encoded_bytes()
            + self.screen_height.encoded_bytes()
            + self.is_jailbroken.encoded_bytes()
            + self.is_emulator.encoded_bytes()
            + self.picked.len() * DEVICE_TEXTS
    }

    fn close_page(&mut self, levels: &[u8], rows: usize, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        self.settle_picked();
        for column in self.dictionaries_mut() {
            column.close_page(levels, rows, compressor)?;
        }
        if self.dictionaries().iter().any(|column| column.is_plain()) {
            self.seen.forget();
        }
        self.screen_width.close_page(levels, rows, compressor)?;
        self.screen_height.close_page(levels, rows, compressor)?;
        self.is_jailbroken.close_page(levels, rows, compressor)?;
        self.is_emulator.close_page(levels, rows, compressor)
    }

    fn close_into(self, chunks: &mut Vec<Chunk>, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        chunks.push(self.platform.close(compressor)?);
        chunks.push(self.os_version.close(compressor)?);
        chunks.push(self.app_version.close(compressor)?);
        chunks.push(self.build_number.close(compressor)?);
        chunks.push(self.device_model.close(compressor)?);
        chunks.push(self.manufacturer.close(compressor)?);
        chunks.push(self.screen_width.close());
        chunks.push(self.screen_height.close());
        chunks.push(self.locale.close(compressor)?);
        chunks.push(self.timezone.close(compressor)?);
        chunks.push(self.network_type.close(compressor)?);
        chunks.push(self.carrier.close(compressor)?);
        chunks.push(self.is_jailbroken.close());
        chunks.push(self.is_emulator.close());
        chunks.push(self.sdk_version.close(compressor)?);
        Ok(())
    }
}

/// The text columns of a device context.
pub(super) const DEVICE_TEXTS: usize = 11;
/// Distinct device contexts remembered per open row group.
const SEEN_DEVICES_MAX: usize = 4096;
/// Their encoded bytes, all together.
const SEEN_BYTES_MAX: usize = 512 * 1024;

/// What a device context puts into the columns, but for its texts.
#[derive(Clone, Copy)]
pub(super) struct PlainDevice {
    pub(super) screen_width: i32,
    pub(super) screen_height: i32,
    pub(super) is_jailbroken: bool,
    pub(super) is_emulator: bool,
}

/// A device context as its columns know it.
#[derive(Clone, Copy)]
struct SeenDevice {
    keys: [u16; DEVICE_TEXTS],
    plain: PlainDevice,
}

/// Device contexts by their encoded bytes. Valid while every text column has its dictionary.
#[derive(Default)]
struct SeenDevices {
    index: HashTable<u16>,
    rows: Vec<SeenDevice>,
    bytes: Vec<u8>,
    /// Where each one's bytes end in `bytes`.
    ends: Vec<u32>,
}

impl SeenDevices {
    /// The position of a context that was seen before.
    fn find(&self, hash: u64, bytes: &[u8]) -> Option<u16> {
        self.index.find(hash, |position| self.bytes_of(*position) == bytes).copied()
    }

    fn has_room(&self, bytes: &[u8]) -> bool {
        self.rows.is_empty() || (self.rows.len() < SEEN_DEVICES_MAX && self.bytes.len() + bytes.len() <= SEEN_BYTES_MAX)
    }

    /// Answers the context's position.
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

/// The definition levels of a page: their length in bytes, then the levels.
fn levels(present: &[u16]) -> Vec<u8> {
    let mut levels = vec![0; 4];
    put_hybrid(&mut levels, present, 1);
    let length = (levels.len() - 4) as u32;
    levels[..4].copy_from_slice(&length.to_le_bytes());
    levels
}
