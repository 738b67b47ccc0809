//! The columns of the device context, which are NULL for events without one.
//!
//! Invariant: when a page closes, every row with a context is in all of these columns, in row
//! order. Knows nothing of the other columns.

use hashbrown::HashTable;

use crate::event::EventRef;
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};
use crate::warehouse::pages::chunk::Chunk;
use crate::warehouse::pages::column::{BooleanColumn, DictionaryColumn, IntegerColumn, hash, slice_of};
use crate::warehouse::pages::compression::Compressor;
use crate::warehouse::varint::{put_varint, take_text};

/// The nullable columns.
///
/// Events of one device repeat the same context byte by byte. A known context
/// is not decoded again; the row only records its position. The columns get
/// their values when the page closes, column by column.
pub(crate) struct DeviceColumns {
    seen: SeenDevices,
    /// The context of each row of the open page, as a position in `seen`.
    pending: Vec<u16>,
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

/// A device context as stored, with its texts in column order.
pub(crate) struct StoredDevice<'a> {
    pub(crate) texts: [&'a str; DEVICE_TEXTS],
    pub(crate) plain: PlainDevice,
}

/// Where a stored row's device context comes from.
pub(crate) enum RowDevice<'a> {
    Read(StoredDevice<'a>),
    /// As written by [`StoredDevice::pack`].
    Packed(&'a [u8]),
}

impl StoredDevice<'_> {
    /// Appends the context in the encoding of [`DeviceColumns::push_packed`].
    pub(crate) fn pack(&self, out: &mut Vec<u8>) {
        let PlainDevice { screen_width, screen_height, is_jailbroken, is_emulator } = self.plain;
        out.extend_from_slice(&screen_width.to_le_bytes());
        out.extend_from_slice(&screen_height.to_le_bytes());
        out.push(u8::from(is_jailbroken) | u8::from(is_emulator) << 1);
        for text in self.texts {
            put_varint(out, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

impl<'a> StoredDevice<'a> {
    fn unpack(mut packed: &'a [u8]) -> Option<Self> {
        let mut take = |bytes: usize| {
            let (taken, rest) = packed.split_at_checked(bytes)?;
            packed = rest;
            Some(taken)
        };
        let screen_width = i32::from_le_bytes(take(4)?.try_into().ok()?);
        let screen_height = i32::from_le_bytes(take(4)?.try_into().ok()?);
        let flags = take(1)?[0];
        let mut texts = [""; DEVICE_TEXTS];
        for text in &mut texts {
            *text = take_text(&mut packed)?;
        }
        let plain =
            PlainDevice { screen_width, screen_height, is_jailbroken: flags & 1 != 0, is_emulator: flags & 2 != 0 };
        packed.is_empty().then_some(Self { texts, plain })
    }
}

impl DeviceColumns {
    pub(crate) fn new() -> Self {
        Self {
            seen: SeenDevices::default(),
            pending: Vec::new(),
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

    pub(crate) fn push(&mut self, event: &EventRef<'_>, seed: u64) {
        let bytes = event.device_bytes.unwrap_or_default();
        let hash = hash(bytes, seed);
        if let Some(position) = self.seen.find(hash, bytes) {
            self.pending.push(position);
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
        self.push_new(hash, bytes, StoredDevice { texts, plain }, seed);
    }

    /// Adds a context written by [`StoredDevice::pack`].
    pub(crate) fn push_packed(&mut self, packed: &[u8], seed: u64) -> Result<(), WarehouseError> {
        let hash = hash(packed, seed);
        if let Some(position) = self.seen.find(hash, packed) {
            self.pending.push(position);
            return Ok(());
        }
        let malformed = || WarehouseError::new(WarehouseErrorKind::Encode, "unpack device context");
        let device = StoredDevice::unpack(packed).ok_or_else(malformed)?;
        self.push_new(hash, packed, device, seed);
        Ok(())
    }

    fn push_new(&mut self, hash: u64, bytes: &[u8], device: StoredDevice<'_>, seed: u64) {
        let StoredDevice { texts, plain } = device;
        if let Some(keys) = self.keys_of(texts, plain, seed) {
            if !self.seen.has_room(bytes) {
                self.flush_pending();
                self.seen.forget();
            }
            self.pending.push(self.seen.add(hash, bytes, SeenDevice { keys, plain }, seed));
        }
    }

    /// The keys of the texts. If a column no longer has a dictionary, adds the values to the columns and returns `None`.
    fn keys_of(&mut self, texts: [&str; DEVICE_TEXTS], plain: PlainDevice, seed: u64) -> Option<[u16; DEVICE_TEXTS]> {
        if self.dictionaries().iter().any(|column| column.is_plain()) {
            // No rows are pending from then on, so the row order is preserved.
            self.push_plain(texts, plain, seed);
            return None;
        }
        let mut keys = [0; DEVICE_TEXTS];
        for ((key, column), text) in keys.iter_mut().zip(self.dictionaries_mut()).zip(texts) {
            *key = column.key_of(text, seed);
        }
        Some(keys)
    }

    /// Adds the values of the pending rows to the columns.
    fn flush_pending(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let seen = std::mem::take(&mut self.seen);
        let mut rows_of = vec![0; seen.rows.len()];
        pending.iter().for_each(|position| rows_of[usize::from(*position)] += 1);
        let row = |position: &u16| &seen.rows[usize::from(*position)];
        for (index, column) in self.dictionaries_mut().into_iter().enumerate() {
            let counts = seen.rows.iter().zip(&rows_of).map(|(row, rows)| (row.keys[index], *rows));
            column.push_keys(pending.iter().map(|position| row(position).keys[index]), counts);
        }
        self.screen_width.extend(pending.iter().map(|position| i64::from(row(position).plain.screen_width)));
        self.screen_height.extend(pending.iter().map(|position| i64::from(row(position).plain.screen_height)));
        self.is_jailbroken.extend(pending.iter().map(|position| row(position).plain.is_jailbroken));
        self.is_emulator.extend(pending.iter().map(|position| row(position).plain.is_emulator));
        (self.pending, self.seen) = (pending, seen);
        self.pending.clear();
    }

    pub(crate) fn push_plain(&mut self, texts: [&str; DEVICE_TEXTS], plain: PlainDevice, seed: u64) {
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

    pub(crate) fn dictionaries(&self) -> [&DictionaryColumn; DEVICE_TEXTS] {
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

    pub(crate) fn memory_bytes(&self) -> usize {
        self.dictionaries().iter().map(|column| column.memory_bytes()).sum::<usize>()
            + self.screen_width.memory_bytes()
            + self.screen_height.memory_bytes()
            + self.is_jailbroken.memory_bytes()
            + self.is_emulator.memory_bytes()
            + self.seen.memory_bytes()
            + self.pending.capacity() * 2
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        self.dictionaries().iter().map(|column| column.encoded_bytes()).sum::<usize>()
            + self.screen_width.encoded_bytes()
            + self.screen_height.encoded_bytes()
            + self.is_jailbroken.encoded_bytes()
            + self.is_emulator.encoded_bytes()
            + self.pending.len() * DEVICE_TEXTS
    }

    pub(crate) fn close_page(
        &mut self,
        levels: &[u8],
        rows: usize,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        self.flush_pending();
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

    pub(crate) fn close_into(self, chunks: &mut Vec<Chunk>, compressor: &mut Compressor) -> Result<(), WarehouseError> {
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
pub(crate) const DEVICE_TEXTS: usize = 11;
/// The most device contexts remembered per open row group.
const SEEN_DEVICES_MAX: usize = 4096;
/// The most bytes of remembered contexts, encoded.
const SEEN_BYTES_MAX: usize = 512 * 1024;

/// The values of a device context that are not texts.
#[derive(Clone, Copy)]
pub(crate) struct PlainDevice {
    pub(crate) screen_width: i32,
    pub(crate) screen_height: i32,
    pub(crate) is_jailbroken: bool,
    pub(crate) is_emulator: bool,
}

/// A device context by its dictionary keys and plain values.
#[derive(Clone, Copy)]
struct SeenDevice {
    keys: [u16; DEVICE_TEXTS],
    plain: PlainDevice,
}

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
