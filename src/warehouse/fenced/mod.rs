//! Fenced writes: files that may have become visible after the leases of their messages had ended.
//!
//! Their rows may be in other files too, because the messages were delivered to other processes.
//! A mark makes every process aware of such a file, and reconciling it leaves each row in one file.

mod write;

mod marks;
mod reconcile;

pub(crate) use marks::{SeenMarks, abandoned, mark};
pub use reconcile::Reconciled;
pub(crate) use reconcile::reconcile;
pub use write::FencedWrite;

pub(super) use super::layout::{MARKS, mark_name};
