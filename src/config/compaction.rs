//! What the settings of compaction must hold together.

use std::time::Duration;

use super::{Config, Setting};

/// Less is what row groups have.
const TARGET_BYTES_LEAST: u64 = 1 << 20;
/// More than readers share among themselves, and than one request copies in an object store.
const TARGET_BYTES_MAX: u64 = 1 << 30;
/// The log forgets what it removed after twice that.
const RETENTION_MAX: Duration = Duration::from_secs(10 * 24 * 3_600);

/// Refuses by key, value and what is allowed.
pub(super) fn check(config: &Config, refuse: &mut impl FnMut(&str, String, &str)) {
    if config.compaction_enabled.0 && !config.delta_enabled.0 {
        let allowed = "false as long as delta_enabled is false: the Delta log is what makes compaction safe";
        refuse("compaction_enabled", config.compaction_enabled.show(), allowed);
    }
    if !(TARGET_BYTES_LEAST..=TARGET_BYTES_MAX).contains(&config.compaction_target_size.0) {
        refuse("compaction_target_size", config.compaction_target_size.show(), "a size from 1MiB to 1GiB");
    }
    if config.compaction_min_files.0 < 2 {
        refuse("compaction_min_files", config.compaction_min_files.show(), "a whole number from 2");
    }
    if config.compaction_schedule.0 < Duration::from_secs(1) {
        refuse("compaction_schedule", config.compaction_schedule.show(), "a duration from 1s");
    }
    if config.vacuum_retention.0 > RETENTION_MAX {
        refuse("vacuum_retention", config.vacuum_retention.show(), "a duration up to 240h");
    }
}
