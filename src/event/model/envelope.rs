//! The envelope of an encoded event, read in place.
//!
//! Knows where the fields are, not whether their values are valid.

use crate::event::codec::wire::{DecodeError, Reader, is_utf8};
use crate::event::schema::tables::Kind;

/// The raw fields of the envelope. Nested messages are not read, and text is not checked for UTF-8.
#[derive(Default)]
pub(crate) struct Envelope<'a> {
    pub(crate) id: &'a [u8],
    pub(crate) app_id: &'a [u8],
    pub(crate) device_id: &'a [u8],
    pub(crate) timestamp_ms: i64,
    pub(crate) correlation_id: &'a [u8],
    pub(crate) idempotency_key: &'a [u8],
    pub(crate) user_id: &'a [u8],
    pub(crate) session_id: &'a [u8],
    pub(crate) device: Option<&'a [u8]>,
    pub(crate) payload: Option<(&'static Kind, &'a [u8])>,
    /// Fields that were read, with unknown ones and every occurrence.
    fields: usize,
}

impl<'a> Envelope<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut envelope = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            envelope.fields += 1;
            match number {
                1 => envelope.id = value.bytes()?,
                2 => envelope.app_id = value.bytes()?,
                3 => envelope.device_id = value.bytes()?,
                4 => envelope.timestamp_ms = value.varint()?.cast_signed(),
                5 => envelope.correlation_id = value.bytes()?,
                6 => envelope.device = Some(value.bytes()?),
                7 => envelope.idempotency_key = value.bytes()?,
                8 => envelope.user_id = value.bytes()?,
                9 => envelope.session_id = value.bytes()?,
                _ => {
                    if let Some(kind) = Kind::by_number(number) {
                        envelope.payload = Some((kind, value.bytes()?));
                    }
                }
            }
        }
        envelope.fields += usize::from(reader.skipped_group());
        Ok(envelope)
    }

    /// Whether every field is known, occurs once and is not the default, and the text is UTF-8.
    pub(crate) fn is_canonical(&self) -> bool {
        let texts = [
            self.id,
            self.app_id,
            self.device_id,
            self.correlation_id,
            self.idempotency_key,
            self.user_id,
            self.session_id,
        ];
        let texts_present = texts.iter().filter(|text| !text.is_empty()).count();
        let others = [self.timestamp_ms != 0, self.device.is_some(), self.payload.is_some()];
        self.fields == texts_present + others.into_iter().filter(|present| *present).count()
            && texts.into_iter().all(is_utf8)
    }
}
