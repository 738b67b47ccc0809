//! Fenced writes: files that may have been stored after their lease had ended.

mod marks;
mod reconcile;
mod write;

pub(crate) use marks::{MARKS, SeenMarks, abandoned, mark, mark_name};
pub use reconcile::Settled;
pub(crate) use reconcile::settle;
pub use write::LateFile;
