//! Input that was refused as invalid, kept as a whole so that it can be replayed once the cause is fixed.
//!
//! ```text
//!  gateway ── refused ──► Input ──► dead letters of the bus
//!                                        │ replay: parsed by the current rules
//!                                        ├── valid: its events are published, the letter is deleted
//!                                        └── not valid: it stays, with its current errors
//! ```
//!
//! Invariants: keeping input never makes it accepted; an event from it has the same id and message id in every replay.
//! Input may hold personal data and data sent by mistake. Knows nothing of HTTP.

mod input;
mod replay;

pub use input::{Attribute, INPUT_BYTES_MAX, Input, InputFormat};
pub use replay::{ReadSettings, ReplayOutcome, replay};
