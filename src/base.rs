//! Foundations: values and small mechanisms that know nothing of events.

pub mod backoff;
pub mod bloom;
pub mod chain_verifier;
pub mod clock;
pub mod disk;
pub mod duration;
pub mod errors;
pub mod faults;
pub mod json_pointer;
pub mod memory;
pub mod nearest;
pub mod network;
pub mod settings;
pub mod sqlite;
pub mod supervisor;
pub mod time;
pub mod varint;
