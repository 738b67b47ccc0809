//! Progress bars on a terminal.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use crate::warehouse::CompactionProgress;

/// Only a terminal is shown it.
pub(super) fn bar(total: Option<u64>, template: &str) -> ProgressBar {
    let bar = match (std::io::stderr().is_terminal(), total) {
        (false, _) => ProgressBar::hidden(),
        (true, Some(total)) => ProgressBar::new(total),
        (true, None) => ProgressBar::new_spinner(),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Tells the bar of the bytes that were read, each once however often the work is begun.
pub(super) fn shown_on(bar: &ProgressBar, told: &Arc<AtomicU64>) -> impl Fn(CompactionProgress) -> bool + use<> {
    let (bar, told) = (bar.clone(), told.clone());
    move |progress| {
        let before = told.fetch_max(progress.bytes_read, Ordering::Relaxed);
        bar.inc(progress.bytes_read.saturating_sub(before));
        true
    }
}

pub(super) fn unbounded_bar(template: &str) -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::no_length() } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
