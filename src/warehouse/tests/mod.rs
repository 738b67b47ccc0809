//! The warehouse over real files: reading back, fenced writes, damage and concurrent look-ups.

mod concurrent_lookups;
mod damaged_files;
mod fenced_writes;
mod other_versions;
mod read_back;
