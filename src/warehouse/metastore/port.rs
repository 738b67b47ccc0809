//! The methods of the warehouse that concern the metastore.

use super::handle::Metastore;
use super::settings::MetastoreSettings;
use crate::warehouse::columns::promoted::hive_columns;
use crate::warehouse::layout::Partition;
use crate::warehouse::layout::is_data_file;
use crate::warehouse::{Warehouse, WarehouseError};

impl Warehouse {
    /// From now on notes stored files for a Hive Metastore. The returned handle registers them. Call it after
    /// [`Warehouse::keep_log`].
    pub fn note_for_metastore(&self, settings: MetastoreSettings) -> Metastore {
        let create = || Metastore::new(settings, hive_columns(self.promoted()), self.has_log());
        self.0.metastore.get_or_init(create).clone()
    }

    /// A message for operators about the Hive Metastore; `None` when all is well.
    pub fn metastore_trouble(&self) -> Option<String> {
        self.0.metastore.get().and_then(Metastore::trouble)
    }

    /// Calls `each` with every partition that has a file, until it returns false. The partitions of one app and year come
    /// in sequence; some may come more than once.
    pub(super) async fn list_partitions(
        &self,
        mut each: impl FnMut(Partition) -> bool + Send + 'static,
    ) -> Result<(), WarehouseError> {
        self.blocking(move |shared| {
            let mut last = String::new();
            shared.objects.walk(&mut |walked| {
                if walked.directory == last || !is_data_file(&walked.file.name) {
                    return Ok(true);
                }
                last.clone_from(&walked.directory);
                Ok(shared.objects.partition(&last).is_none_or(&mut each))
            })
        })
        .await
    }

    /// The partition's directory, relative to the root.
    pub(super) fn directory_of(&self, partition: &Partition) -> String {
        self.0.objects.directory(partition)
    }
}
