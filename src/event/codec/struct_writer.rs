//! Writes the members of a `google.protobuf.Struct` with nested values in one pass. It reserves one byte for each
//! length and fills it in when the length is known.
//!
//! Enforces no limits: the event that the members belong to is validated as a whole.

use super::wire::{LENGTH_DELIMITED, Reader, begin, end, put_bytes, put_double, put_key, put_number, put_varint};
use crate::event::proto::event_envelope::Payload;
use crate::event::schema::tables::Kind;

/// The start of a field whose length is not known yet.
#[must_use]
#[derive(Debug)]
pub struct Open(usize);

/// A member whose value is being written.
#[must_use]
#[derive(Debug)]
pub struct OpenMember {
    entry: Open,
    value: Open,
}

#[derive(Debug)]
pub struct StructWriter<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> StructWriter<'o> {
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Write one value next, then call [`Self::end_member`].
    pub fn begin_member(&mut self, key: &str) -> OpenMember {
        let entry = self.begin(1);
        put_bytes(self.out, 1, key.as_bytes());
        OpenMember { entry, value: self.begin(2) }
    }

    pub fn end_member(&mut self, member: OpenMember) {
        self.end(member.value);
        self.end(member.entry);
    }

    pub fn null(&mut self) {
        put_number(self.out, 1, 0);
    }

    pub fn number(&mut self, number: f64) {
        put_double(self.out, 2, number);
    }

    pub fn text(&mut self, text: &str) {
        put_bytes(self.out, 3, text.as_bytes());
    }

    pub fn bool(&mut self, is: bool) {
        put_number(self.out, 4, u64::from(is));
    }

    /// A value. Write its members next, then call [`Self::end`].
    pub fn begin_object(&mut self) -> Open {
        self.begin(5)
    }

    /// A value. Write its elements next, then call [`Self::end`].
    pub fn begin_list(&mut self) -> Open {
        self.begin(6)
    }

    /// Write one value next, then call [`Self::end`].
    pub fn begin_element(&mut self) -> Open {
        self.begin(1)
    }

    pub fn end(&mut self, Open(start): Open) {
        end(self.out, start);
    }

    fn begin(&mut self, number: u32) -> Open {
        Open(begin(self.out, number))
    }
}

/// Appends the payload of an event with these members as its `properties`. The payload itself must have none.
pub fn put_payload(out: &mut Vec<u8>, payload: &Payload, properties: &[u8]) {
    if properties.is_empty() {
        return payload.encode(out);
    }
    let kind = Kind::of(payload);
    let mut typed = Vec::with_capacity(payload.encoded_len());
    payload.encode(&mut typed);
    let body = Reader::new(&typed).next().ok().flatten().and_then(|(_, value)| value.bytes().ok()).unwrap_or_default();
    let field = kind.message.fields.iter().find(|field| field.name == "properties");
    let mut tail = Vec::with_capacity(8);
    if let Some(field) = field {
        put_key(&mut tail, field.number, LENGTH_DELIMITED);
        put_varint(&mut tail, properties.len() as u64);
    }
    put_key(out, kind.number, LENGTH_DELIMITED);
    put_varint(out, (body.len() + tail.len() + properties.len()) as u64);
    for part in [body, &tail, properties] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use pbjson_types::Struct;
    use prost::Message as _;
    use serde_json::json;

    use super::*;
    use crate::event::proto::{CustomEvent, EventEnvelope, ScreenView};

    #[test]
    fn members_nest_at_every_length() {
        for length in [0, 1, 100, 127, 128, 129, 16_383, 16_384, 300_000] {
            let long = "x".repeat(length);
            let mut out = Vec::new();
            let mut writer = StructWriter::new(&mut out);
            let member = writer.begin_member("o");
            let object = writer.begin_object();
            let inner = writer.begin_member(&long);
            let list = writer.begin_list();
            for element in 0..3 {
                let element_open = writer.begin_element();
                match element {
                    0 => writer.text(&long),
                    1 => writer.null(),
                    _ => writer.bool(true),
                }
                writer.end(element_open);
            }
            writer.end(list);
            writer.end_member(inner);
            writer.end(object);
            writer.end_member(member);
            let member = writer.begin_member("n");
            writer.number(-0.5);
            writer.end_member(member);
            let read = Struct::decode(&*out).unwrap();
            // Other encoders leave an empty key out.
            assert!(read.encoded_len() == out.len() || length == 0, "{length}");
            let expected = json!({"o": {&long: [long, null, true]}, "n": -0.5});
            assert_eq!(serde_json::to_value(read).unwrap(), expected, "{length}");
        }
    }

    #[test]
    fn properties_become_those_of_the_payload() {
        let mut properties = Vec::new();
        let mut writer = StructWriter::new(&mut properties);
        let member = writer.begin_member("a");
        writer.text(&"b".repeat(200));
        writer.end_member(member);
        for payload in [
            Payload::ScreenView(ScreenView { screen_name: "Home".into(), ..ScreenView::default() }),
            Payload::CustomEvent(CustomEvent { event_name: "e".into(), ..CustomEvent::default() }),
        ] {
            for properties in [&properties[..], &[]] {
                let mut bytes = Vec::new();
                put_payload(&mut bytes, &payload, properties);
                let read = EventEnvelope::decode(&*bytes).unwrap().payload.unwrap();
                let expected = (!properties.is_empty()).then(|| Struct::decode(properties).unwrap());
                let (own, name) = match read {
                    Payload::ScreenView(view) => (view.properties, view.screen_name),
                    Payload::CustomEvent(event) => (event.properties, event.event_name),
                    other => panic!("{other:?}"),
                };
                assert_eq!((own, name.is_empty()), (expected, false));
            }
        }
    }
}
