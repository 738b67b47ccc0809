//! Reading and writing: the protobuf wire format, JSON text, numbers and `google.protobuf.Struct`.
//!
//! Invariant: reading never panics, whatever the bytes. Knows forms, not whether an event may enter.

pub(in crate::event) mod wire;

pub(in crate::event) mod struct_members;
pub mod struct_writer;
pub(in crate::event) mod well_formed;

pub(in crate::event) mod decimal;
pub(in crate::event) mod json_text;
pub(in crate::event) mod unescaped;
pub(in crate::event) mod unique_keys;
