//! Input that was refused for what it is, kept whole so that it can be read again once the reason is gone.
//!
//! ```text
//!  gateway ── refused ──► Input ──► dead letters of the bus
//!                                        │ replay: read again by the rules of today
//!                                        ├── valid: its events go to the bus, the letter goes
//!                                        └── not valid: it stays, with what is wrong now
//! ```
//!
//! Invariants: keeping input never makes it accepted; an event that it becomes has the same id and the same message id
//! however often it is replayed. Input may hold personal data, and what was sent by mistake. Knows nothing of HTTP.

mod input;
mod replay;

pub use input::{Attribute, INPUT_BYTES_MAX, Input, InputFormat};
pub use replay::{ReadSettings, ReplayOutcome, replay};
