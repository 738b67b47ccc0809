//! `causality lake vacuum`: removes files that compaction replaced.

use indicatif::HumanBytes;

use super::partitions::failed;
use super::progress::bar;
use crate::app::Lake;
use crate::cli::run::Layers;
use crate::cli::{Failure, output};
use crate::warehouse::Vacuumed;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct VacuumArgs {
    #[command(flatten)]
    layers: Layers,
}

impl VacuumArgs {
    pub(super) fn layers(&self) -> &Layers {
        &self.layers
    }
}

pub(super) async fn vacuum(lake: &Lake) -> Result<(), Failure> {
    let bar = bar(None, "{elapsed:>4} {spinner} {msg}");
    let progress = bar.clone();
    let show = move |done: &Vacuumed| {
        progress.set_message(format!("{} files removed", done.files + done.orphans));
        progress.tick();
        true
    };
    let done = lake.warehouse.vacuum(&lake.settings.compaction, lake.settings.vacuum_retention, show).await;
    bar.finish_and_clear();
    let Vacuumed { files, bytes, orphans, waiting } = done.map_err(|error| failed(&error))?;
    output::print(&format!(
        "{files} replaced files removed ({}), {orphans} left by interrupted compactions, {waiting} stay for now\n",
        HumanBytes(bytes)
    ))
}
