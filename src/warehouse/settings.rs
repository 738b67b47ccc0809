//! The settings of the lake.

use std::time::Duration;

use super::delta::DeltaSettings;
use super::maintenance::CompactionSettings;
use super::metastore::MetastoreSettings;
use super::retention::RetentionSettings;
use super::storage::ObjectSettings;
use crate::base::settings::Reader;

/// The Delta log drops removed files after twice this time.
const VACUUM_RETENTION_MAX: Duration = Duration::from_secs(10 * 24 * 3_600);

/// Where the lake is, and how it is kept.
#[derive(Clone, Debug)]
pub struct LakeSettings {
    pub objects: ObjectSettings,
    /// The columns to promote, as text.
    pub columns: Vec<String>,
    pub delta_enabled: bool,
    pub delta: DeltaSettings,
    pub compaction_enabled: bool,
    /// The pause between passes of compaction and of retention.
    pub schedule: Duration,
    pub compaction: CompactionSettings,
    /// How long replaced files stay that are kept for readers of older versions.
    pub vacuum_retention: Duration,
    /// `None` keeps everything forever.
    pub retention: Option<RetentionSettings>,
    pub metastore: Option<MetastoreSettings>,
}

impl LakeSettings {
    pub fn read(from: &mut Reader<'_>) -> Self {
        let objects = ObjectSettings::read(from);
        let (delta_enabled, compaction_enabled): (bool, bool) =
            (from.get("delta_enabled"), from.get("compaction_enabled"));
        if compaction_enabled && !delta_enabled {
            let allowed = "false as long as delta_enabled is false: the Delta log is what makes compaction safe";
            from.refuse("compaction_enabled", allowed);
        }
        Self {
            columns: from.optional("warehouse_columns").unwrap_or_default(),
            retention: RetentionSettings::read(from),
            delta_enabled,
            delta: DeltaSettings::read(from),
            metastore: MetastoreSettings::read(from, &objects),
            objects,
            compaction_enabled,
            schedule: from.duration_from("compaction_schedule", Duration::from_secs(1)),
            compaction: CompactionSettings::read(from),
            vacuum_retention: from
                .get_if("vacuum_retention", "a duration up to 240h", |age| *age <= VACUUM_RETENTION_MAX),
        }
    }

    /// The Delta log, unless it is off.
    pub fn log(&self) -> Option<DeltaSettings> {
        self.delta_enabled.then(|| self.delta.clone())
    }
}
