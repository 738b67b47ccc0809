//! Progress bars on a terminal.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use crate::warehouse::CompactionProgress;

/// A progress bar on a terminal, hidden elsewhere.
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

/// A progress callback that adds the bytes read to the bar, each byte once even if the work is restarted.
pub(super) fn progress_on(bar: &ProgressBar, reported: &Arc<AtomicU64>) -> impl Fn(CompactionProgress) -> bool + use<> {
    let (bar, reported) = (bar.clone(), reported.clone());
    move |progress| {
        let before = reported.fetch_max(progress.bytes_read, Ordering::Relaxed);
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
