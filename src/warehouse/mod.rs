//! Events as Parquet files, one directory per app and hour, for any engine to read.
//!
//! ```text
//!  sink, import ──► handle ──► file (encode, footer) ──► columns ──► pages
//!                     │                │
//!                     │                └──► storage (directory or object store)
//!                     ├──► catalog  which messages the stored files hold
//!                     ├──► delta    the log that makes one table of the files
//!                     └──► fenced   writes that may have outlived their lease
//!  compaction, erasure and retention (over maintenance) and metastore work on stored files through the handle
//! ```
//!
//! Invariants: a visible file is complete and durable; its footer lists the stream sequences of
//! its rows. Knows events and files, but nothing of consumers and acks.

mod handle;

mod error;
mod layout;
mod sequence_set;

mod storage;

mod pages;

mod columns;

mod file;

mod catalog;

mod delta;
mod metastore;

mod fenced;

mod maintenance;

mod compaction;
mod erasure;
mod imported;
mod retention;

mod settings;

#[cfg(test)]
mod tests;

pub use catalog::footers::{PartitionFooters, RowId};
pub use columns::origin::Origin;
pub use columns::promoted::{ColumnType, PromotedColumn, PromotedColumns};
pub use compaction::{Candidate, Compacted, CompactionOutcome, LakeStatus, Vacuumed};
pub use delta::{Adopted, DeltaSettings};
pub use erasure::{Erased, ErasureOutcome, PersonSearch, PersonalFiles};
pub use error::{WarehouseError, WarehouseErrorKind};
pub use fenced::{FencedWrite, Reconciled};
pub use file::encode::{EncodeSettings, Encoder, OpenFile};
pub use file::scan::{scan_ids, scan_keys};
pub use handle::{Commit, Warehouse};
pub use imported::ImportedFile;
pub use layout::{Partition, hour_of, is_path_safe};
pub use maintenance::{CompactionProgress, CompactionSettings, PartitionFilter, Throttle};
pub use metastore::{Metastore, MetastoreSettings};
pub use pages::compression::Compression;
pub use retention::{Expired, ExpiryOutcome, OldPartition, OldPartitions, RetentionRules, RetentionSettings};
pub use sequence_set::{MalformedSequenceSet, SequenceSet};
pub use settings::LakeSettings;
pub use storage::ObjectSettings;
