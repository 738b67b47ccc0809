//! Which message ids were seen within the window: the newest in memory, the others in sorted runs in the file.

mod index;
pub(super) mod key;
mod run;

pub(super) use index::Dedup;
