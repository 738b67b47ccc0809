//! Encodes and decodes Thrift's binary protocol.
//!
//! Invariant: reading a reply takes at most [`REPLY_BYTES_MAX`] of memory, regardless of what the peer sends. Unknown fields
//! are preserved, so that a table can be sent back with a single field changed.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The memory that one reply may take.
pub(super) const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The memory counted for each value in addition to its text: one byte on the wire may become a whole value.
const VALUE_BYTES: usize = 64;
/// Nesting of structs, lists and maps. The deepest expected reply has seven levels.
const DEPTH_MAX: usize = 24;
/// Bytes of a text that are allocated and read per step.
const TEXT_STEP: usize = 64 * 1024;
/// The first word of every message, whose lowest byte is the message type.
const VERSION: u32 = 0x8001_0000;

/// Message types.
const CALL: u8 = 1;
const REPLY: u8 = 2;
const EXCEPTION: u8 = 3;

/// The fields of a struct, by their ids.
pub(super) type Struct = BTreeMap<i16, Value>;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Byte(i8),
    Double(f64),
    I16(i16),
    I32(i32),
    I64(i64),
    /// A string, or arbitrary bytes.
    Text(Vec<u8>),
    Struct(Struct),
    Map(Kind, Kind, Vec<(Self, Self)>),
    Set(Kind, Vec<Self>),
    List(Kind, Vec<Self>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool = 2,
    Byte = 3,
    Double = 4,
    I16 = 6,
    I32 = 8,
    I64 = 10,
    Text = 11,
    Struct = 12,
    Map = 13,
    Set = 14,
    List = 15,
}

/// Why a reply could not be read.
#[derive(Debug)]
pub(super) enum WireError {
    Io(io::Error),
    /// The bytes are not a message of this protocol, or not the expected one.
    Malformed(&'static str),
    TooLarge,
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The reply to a call.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// The result: field 0, or a declared exception under its own id.
    Result(Struct),
    /// The server could not execute the call: the type and text of a `TApplicationException`.
    Refused(i32, String),
}

/// Encodes a call.
pub(super) fn call(name: &str, sequence: i32, arguments: &Struct) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend((VERSION | u32::from(CALL)).to_be_bytes());
    put_text(&mut out, name.as_bytes());
    out.extend(sequence.to_be_bytes());
    put_struct(&mut out, arguments);
    out
}

/// Reads the reply to the call with this name and sequence number.
pub(super) async fn read_reply<R: AsyncRead + Unpin + Send>(
    from: &mut R,
    name: &str,
    sequence: i32,
) -> Result<Reply, WireError> {
    let mut reader = Reader { from, left: REPLY_BYTES_MAX };
    let head = reader.u32().await?;
    if head & 0xffff_0000 != VERSION {
        return Err(WireError::Malformed("its answer is not Thrift's binary protocol"));
    }
    let named = reader.text().await? == name.as_bytes();
    if !named || reader.i32().await? != sequence {
        return Err(WireError::Malformed("it answered something else than was asked"));
    }
    match head as u8 {
        REPLY => Ok(Reply::Result(reader.fields(0).await?)),
        EXCEPTION => {
            let mut fields = reader.fields(0).await?;
            let number = if let Some(Value::I32(number)) = fields.get(&2) { *number } else { 0 };
            Ok(Reply::Refused(number, fields.remove(&1).and_then(Value::into_text).unwrap_or_default()))
        }
        _ => Err(WireError::Malformed("its answer is not a reply")),
    }
}

impl Value {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into().into_bytes())
    }

    pub(super) fn texts(texts: impl IntoIterator<Item = String>) -> Self {
        Self::List(Kind::Text, texts.into_iter().map(Self::text).collect())
    }

    pub(super) fn structs(structs: impl IntoIterator<Item = Struct>) -> Self {
        Self::List(Kind::Struct, structs.into_iter().map(Self::Struct).collect())
    }

    /// A map of texts.
    pub(super) fn properties(properties: &[(&str, &str)]) -> Self {
        let entries = properties.iter().map(|(name, value)| (Self::text(*name), Self::text(*value)));
        Self::Map(Kind::Text, Kind::Text, entries.collect())
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    pub(super) fn into_text(self) -> Option<String> {
        match self {
            Self::Text(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            _ => None,
        }
    }

    pub(super) fn as_struct(&self) -> Option<&Struct> {
        match self {
            Self::Struct(fields) => Some(fields),
            _ => None,
        }
    }

    pub(super) fn as_items(&self) -> &[Self] {
        match self {
            Self::List(_, items) | Self::Set(_, items) => items,
            _ => &[],
        }
    }

    /// The value of a map of texts.
    pub(super) fn property(&self, name: &str) -> Option<&str> {
        match self {
            Self::Map(_, _, entries) => {
                entries.iter().find(|(key, _)| key.as_text() == Some(name)).and_then(|(_, value)| value.as_text())
            }
            _ => None,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Bool(_) => Kind::Bool,
            Self::Byte(_) => Kind::Byte,
            Self::Double(_) => Kind::Double,
            Self::I16(_) => Kind::I16,
            Self::I32(_) => Kind::I32,
            Self::I64(_) => Kind::I64,
            Self::Text(_) => Kind::Text,
            Self::Struct(_) => Kind::Struct,
            Self::Map(..) => Kind::Map,
            Self::Set(..) => Kind::Set,
            Self::List(..) => Kind::List,
        }
    }
}

impl Kind {
    fn of(byte: u8) -> Result<Self, WireError> {
        let all = [
            Self::Bool,
            Self::Byte,
            Self::Double,
            Self::I16,
            Self::I32,
            Self::I64,
            Self::Text,
            Self::Struct,
            Self::Map,
            Self::Set,
            Self::List,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte).ok_or(WireError::Malformed("its answer has an unknown type"))
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text);
}

fn put_struct(out: &mut Vec<u8>, fields: &Struct) {
    for (id, value) in fields {
        out.push(value.kind() as u8);
        out.extend(id.to_be_bytes());
        put_value(out, value);
    }
    out.push(0);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::Byte(value) => out.extend(value.to_be_bytes()),
        Value::Double(value) => out.extend(value.to_bits().to_be_bytes()),
        Value::I16(value) => out.extend(value.to_be_bytes()),
        Value::I32(value) => out.extend(value.to_be_bytes()),
        Value::I64(value) => out.extend(value.to_be_bytes()),
        Value::Text(text) => put_text(out, text),
        Value::Struct(fields) => put_struct(out, fields),
        Value::Map(key, of, entries) => {
            out.extend([*key as u8, *of as u8]);
            out.extend((entries.len() as u32).to_be_bytes());
            for (key, value) in entries {
                put_value(out, key);
                put_value(out, value);
            }
        }
        Value::Set(kind, items) | Value::List(kind, items) => {
            out.push(*kind as u8);
            out.extend((items.len() as u32).to_be_bytes());
            items.iter().for_each(|item| put_value(out, item));
        }
    }
}

/// Reads values within the memory bound.
struct Reader<'a, R> {
    from: &'a mut R,
    left: usize,
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, WireError>> + Send + 'a>>;

impl<R: AsyncRead + Unpin + Send> Reader<'_, R> {
    async fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.from.read_u8().await?)
    }

    async fn u32(&mut self) -> Result<u32, WireError> {
        Ok(self.from.read_u32().await?)
    }

    async fn i32(&mut self) -> Result<i32, WireError> {
        Ok(self.from.read_i32().await?)
    }

    fn take(&mut self, bytes: usize) -> Result<(), WireError> {
        self.left = self.left.checked_sub(bytes).ok_or(WireError::TooLarge)?;
        Ok(())
    }

    /// Reads the length of a list. Memory is allocated as items arrive, not as announced.
    async fn count(&mut self) -> Result<usize, WireError> {
        usize::try_from(self.i32().await?).map_err(|_| WireError::Malformed("its answer has a negative length"))
    }

    async fn text(&mut self) -> Result<Vec<u8>, WireError> {
        let length = self.count().await?;
        self.take(length)?;
        let mut text = Vec::new();
        while text.len() < length {
            let from = text.len();
            text.resize(length.min(from + TEXT_STEP), 0);
            self.from.read_exact(&mut text[from..]).await?;
        }
        Ok(text)
    }

    fn fields(&mut self, depth: usize) -> Boxed<'_, Struct> {
        Box::pin(async move {
            if depth > DEPTH_MAX {
                return Err(WireError::TooLarge);
            }
            let mut fields = Struct::new();
            loop {
                let kind = self.u8().await?;
                if kind == 0 {
                    return Ok(fields);
                }
                let (kind, id) = (Kind::of(kind)?, self.from.read_i16().await?);
                let value = self.value(kind, depth).await?;
                fields.insert(id, value);
            }
        })
    }

    async fn value(&mut self, kind: Kind, depth: usize) -> Result<Value, WireError> {
        self.take(VALUE_BYTES)?;
        Ok(match kind {
            Kind::Bool => Value::Bool(self.u8().await? != 0),
            Kind::Byte => Value::Byte(self.from.read_i8().await?),
            Kind::Double => Value::Double(self.from.read_f64().await?),
            Kind::I16 => Value::I16(self.from.read_i16().await?),
            Kind::I32 => Value::I32(self.i32().await?),
            Kind::I64 => Value::I64(self.from.read_i64().await?),
            Kind::Text => Value::Text(self.text().await?),
            Kind::Struct => Value::Struct(self.fields(depth + 1).await?),
            Kind::Map => self.map(depth + 1).await?,
            Kind::Set => {
                let (kind, items) = self.items(depth + 1).await?;
                Value::Set(kind, items)
            }
            Kind::List => {
                let (kind, items) = self.items(depth + 1).await?;
                Value::List(kind, items)
            }
        })
    }

    fn items(&mut self, depth: usize) -> Boxed<'_, (Kind, Vec<Value>)> {
        Box::pin(async move {
            let (kind, count) = (self.u8().await?, self.count().await?);
            if depth > DEPTH_MAX {
                return Err(WireError::TooLarge);
            }
            let (kind, mut items) = (Kind::of(kind)?, Vec::new());
            for _ in 0..count {
                items.push(self.value(kind, depth).await?);
            }
            Ok((kind, items))
        })
    }

    fn map(&mut self, depth: usize) -> Boxed<'_, Value> {
        Box::pin(async move {
            let (key, value, count) = (self.u8().await?, self.u8().await?, self.count().await?);
            if depth > DEPTH_MAX {
                return Err(WireError::TooLarge);
            }
            // An empty map need not declare its types.
            if count == 0 && (key == 0 || value == 0) {
                return Ok(Value::Map(Kind::Text, Kind::Text, Vec::new()));
            }
            let (key, value, mut entries) = (Kind::of(key)?, Kind::of(value)?, Vec::new());
            for _ in 0..count {
                entries.push((self.value(key, depth).await?, self.value(value, depth).await?));
            }
            Ok(Value::Map(key, value, entries))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i8>().prop_map(Value::Byte),
            any::<i16>().prop_map(Value::I16),
            any::<i32>().prop_map(Value::I32),
            any::<i64>().prop_map(Value::I64),
            (-1e9..1e9).prop_map(Value::Double),
            any::<Vec<u8>>().prop_map(Value::Text),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            let texts = prop::collection::vec("[a-z]{0,9}", 0..6);
            prop_oneof![
                prop::collection::btree_map(any::<i16>(), inner, 0..8).prop_map(Value::Struct),
                texts.clone().prop_map(Value::texts),
                texts.prop_map(|texts| Value::Set(Kind::Text, texts.into_iter().map(Value::text).collect())),
                prop::collection::vec(("[a-z]{0,9}", any::<i64>()), 0..6).prop_map(|entries| {
                    let entries = entries.into_iter().map(|(key, value)| (Value::text(key), Value::I64(value)));
                    Value::Map(Kind::Text, Kind::I64, entries.collect())
                }),
            ]
        })
    }

    fn reply(kind: u8, fields: &Struct) -> Vec<u8> {
        let mut bytes = call("ask", 7, fields);
        bytes[3] = kind;
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Reply, WireError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read_reply(&mut &bytes[..], "ask", 7))
    }

    proptest! {
        #[test]
        fn values_survive_the_round_trip(fields in prop::collection::btree_map(any::<i16>(), values(), 0..8)) {
            let bytes = reply(REPLY, &fields);
            prop_assert_eq!(read(&bytes).unwrap(), Reply::Result(fields));
        }

        #[test]
        fn truncated_or_changed_bytes_are_an_error_or_a_value(
            fields in prop::collection::btree_map(any::<i16>(), values(), 0..8),
            at in any::<prop::sample::Index>(),
            with in any::<u8>(),
        ) {
            let mut bytes = reply(REPLY, &fields);
            let at = at.index(bytes.len());
            prop_assert!(read(&bytes[..at]).is_err());
            bytes[at] = with;
            let _ = read(&bytes);
        }
    }

    #[test]
    fn a_refusal_has_its_type_and_text() {
        let fields = Struct::from([(1, Value::text("no such call")), (2, Value::I32(1))]);
        assert_eq!(read(&reply(EXCEPTION, &fields)).unwrap(), Reply::Refused(1, "no such call".to_owned()));
    }

    #[test]
    fn announced_lengths_allocate_no_memory() {
        let huge = i32::MAX.to_be_bytes();
        let head = reply(REPLY, &Struct::new());
        let with = |rest: &[&[u8]]| [&head[..head.len() - 1], &rest.concat()].concat();
        // A text, a list of structs and one of booleans, a map; and lists within lists without end.
        assert!(matches!(read(&with(&[&[11, 0, 0], &huge])), Err(WireError::TooLarge)));
        assert!(matches!(read(&with(&[&[15, 0, 0, 12], &huge])), Err(WireError::Io(_))));
        assert!(matches!(read(&with(&[&[15, 0, 0, 2], &huge, &[1; 1_000_000]])), Err(WireError::TooLarge)));
        assert!(matches!(read(&with(&[&[13, 0, 0, 11, 11], &huge, &[0; 4_000_000]])), Err(WireError::TooLarge)));
        assert!(matches!(read(&with(&[&[12, 0, 0].repeat(100_000)])), Err(WireError::TooLarge)));
        assert!(matches!(read(&with(&[&[15, 0, 0], &[15, 0, 0, 0, 1].repeat(100)])), Err(WireError::TooLarge)));
        assert!(matches!(read(&with(&[&[15, 0, 0, 8, 255, 255, 255, 255]])), Err(WireError::Malformed(_))));
        assert!(matches!(read(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Err(WireError::Malformed(_))));
    }
}
