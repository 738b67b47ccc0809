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
/// that was seen before is not decoded, its dictionary keys are added as they were.
struct Device {
    seen: SeenDevices,
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
        self.rows += 1;
        if self.present.len() == PAGE_ROWS_MAX {
            self.close_page(compressor)?;
        }
        Ok(())
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
        if let Some(row) = self.seen.find(hash, bytes) {
            let row = *row;
            for (column, key) in self.dictionaries_mut().into_iter().zip(row.keys) {
                column.push_key(key);
            }
            return self.push_plain(row.plain);
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
        let mut keys = Some([0; DEVICE_TEXTS]);
        for (index, (column, text)) in self.dictionaries_mut().into_iter().zip(texts).enumerate() {
            match (column.push(text, seed), &mut keys) {
                (Some(key), Some(keys)) => keys[index] = key,
                _ => keys = None,
            }
        }
        let plain = PlainDevice {
            screen_width: device.screen_width,
            screen_height: device.screen_height,
            is_jailbroken: device.is_jailbroken,
            is_emulator: device.is_emulator,
        };
        self.push_plain(plain);
        if let Some(keys) = keys {
            self.seen.add(hash, bytes, SeenDevice { keys, plain }, seed);
        }
    }

    fn push_plain(&mut self, plain: PlainDevice) {
        self.screen_width.push(i64::from(plain.screen_width));
        self.screen_height.push(i64::from(plain.screen_height));
        self.is_jailbroken.push(plain.is_jailbroken);
        self.is_emulator.push(plain.is_emulator);
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
    }

    fn encoded_bytes(&self) -> usize {
        self.dictionaries().iter().map(|column| column.encoded_bytes()).sum::<usize>()
            + self.screen_width.encoded_bytes()
            + self.screen_height.encoded_bytes()
            + self.is_jailbroken.encoded_bytes()
            + self.is_emulator.encoded_bytes()
    }

    fn close_page(&mut self, levels: &[u8], rows: usize, compressor: &mut Compressor) -> Result<(), WarehouseError> {
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
const DEVICE_TEXTS: usize = 11;
/// Distinct device contexts remembered per open row group.
const SEEN_DEVICES_MAX: usize = 4096;
/// Their encoded bytes, all together.
const SEEN_BYTES_MAX: usize = 512 * 1024;

/// What a device context puts into the columns, but for its texts.
#[derive(Clone, Copy)]
struct PlainDevice {
    screen_width: i32,
    screen_height: i32,
    is_jailbroken: bool,
    is_emulator: bool,
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
    fn find(&self, hash: u64, bytes: &[u8]) -> Option<&SeenDevice> {
        let position = self.index.find(hash, |position| self.bytes_of(*position) == bytes)?;
        self.rows.get(usize::from(*position))
    }

    fn add(&mut self, hash: u64, bytes: &[u8], row: SeenDevice, seed: u64) {
        if self.rows.len() == SEEN_DEVICES_MAX || self.bytes.len() + bytes.len() > SEEN_BYTES_MAX {
            self.forget();
        }
        let position = self.rows.len() as u16;
        self.rows.push(row);
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len() as u32);
        let Self { index, bytes, ends, .. } = self;
        let rehash = |position: &u16| self::hash(slice_of(bytes, ends, *position), seed);
        index.insert_unique(hash, position, rehash);
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
