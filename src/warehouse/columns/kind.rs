//! The category and type columns.
//!
//! Except for custom events, each kind has a fixed category and type, so their dictionary keys are looked up once per kind.

use crate::event::{EventRef, Kind};
use crate::warehouse::error::WarehouseError;
use crate::warehouse::pages::chunk::Chunk;
use crate::warehouse::pages::column::DictionaryColumn;
use crate::warehouse::pages::compression::Compressor;

pub(crate) struct KindColumns {
    category: DictionaryColumn,
    event_type: DictionaryColumn,
    /// The keys of category and type, indexed by the number of the kind.
    known: Vec<Option<(u16, u16)>>,
}

impl KindColumns {
    pub(crate) fn new() -> Self {
        let numbers = Kind::all().iter().map(|kind| kind.number as usize + 1).max().unwrap_or(0);
        Self { category: DictionaryColumn::new(), event_type: DictionaryColumn::new(), known: vec![None; numbers] }
    }

    pub(crate) fn push(&mut self, event: &EventRef<'_>, seed: u64) {
        if event.kind.is_custom() || self.category.is_plain() || self.event_type.is_plain() {
            return self.push_texts(event.category(), &event.event_type(), seed);
        }
        let Self { category, event_type, known } = self;
        let (category_key, type_key) = *known[event.kind.number as usize].get_or_insert_with(|| {
            (category.key_of(event.kind.category, seed), event_type.key_of(event.kind.event_type, seed))
        });
        category.push_keys([category_key]);
        event_type.push_keys([type_key]);
    }

    pub(crate) fn push_texts(&mut self, category: &str, event_type: &str, seed: u64) {
        self.category.push(category, seed);
        self.event_type.push(event_type, seed);
    }

    pub(crate) fn is_heavy(&self) -> bool {
        self.event_type.is_heavy()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let known = self.known.capacity() * size_of::<Option<(u16, u16)>>();
        known + self.category.memory_bytes() + self.event_type.memory_bytes()
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        self.category.encoded_bytes() + self.event_type.encoded_bytes()
    }

    pub(crate) fn close_page(&mut self, rows: usize, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        self.category.close_page(&[], rows, compressor)?;
        self.event_type.close_page(&[], rows, compressor)
    }

    /// The chunks of category and type.
    pub(crate) fn close(self, compressor: &mut Compressor) -> Result<(Chunk, Chunk), WarehouseError> {
        Ok((self.category.close(compressor)?, self.event_type.close(compressor)?))
    }
}
