//! Deduplication of message ids: the newest in memory, the others in sorted runs in the file.

mod index;
pub(super) mod key;
mod sorted_run;

pub(super) use index::Dedup;

#[cfg(test)]
mod tests;
