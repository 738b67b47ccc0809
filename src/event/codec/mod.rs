//! Encodings: the protobuf wire format, JSON text, numbers and `google.protobuf.Struct`.
//!
//! Invariant: reading never panics, whatever the input. Does not know whether an event is valid.

pub(in crate::event) mod wire;

pub(in crate::event) mod struct_members;
pub mod struct_writer;
pub(in crate::event) mod well_formed;

mod brackets;
pub(in crate::event) mod decimal;
pub(in crate::event) mod json_text;
pub(in crate::event) mod unescaped;
pub(in crate::event) mod unique_keys;
