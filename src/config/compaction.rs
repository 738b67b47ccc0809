//! Checks the settings of compaction.

use std::time::Duration;

use super::settings::Config;
use super::value::Setting;

/// Smaller files would be the size of a row group.
const TARGET_BYTES_LEAST: u64 = 1 << 20;
/// Beyond this, readers do not split a file among themselves, and an object store does not copy it in one request.
const TARGET_BYTES_MAX: u64 = 1 << 30;
/// The Delta log drops removed files after twice this time.
const RETENTION_MAX: Duration = Duration::from_secs(10 * 24 * 3_600);

/// Calls `refuse` with key, value and allowed values.
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
