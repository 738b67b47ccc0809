//! Errors after which the process must not go on.

use std::error::Error;

use tracing::error;

use crate::base::sqlite::FailedFsync;
use crate::sink::SinkError;

/// The exit code of `sysexits.h` for an input or output error.
const EXIT_IO: i32 = 74;

/// Ends the process after a failed fsync of the bus or the store in a file. Runs on the thread on which it failed.
pub(super) fn end_process(failed: &FailedFsync) {
    let FailedFsync { file, context, error } = failed;
    error!(file = %file.display(), context, error, "fsync failed: the process ends");
    std::process::exit(EXIT_IO);
}

/// Ends the process after a failed fsync. Nobody knows what is on disk then, and a retry may succeed although the data is
/// lost: Linux reports the error once and drops the pages.
pub(super) fn exit_after_failed_fsync(error: &(dyn Error + 'static)) -> ! {
    error!(error = ?error, "a failed fsync: what is on disk is unknown, ending the process");
    std::process::exit(EXIT_IO);
}

/// The end of a service of the sink. Ends the process instead if an fsync failed: a restart of the service would hide it.
pub(super) fn exit_if_fsync_failed(ended: Result<(), SinkError>) -> anyhow::Result<()> {
    match ended {
        Err(error) if error.is_fsync() => exit_after_failed_fsync(&error),
        ended => ended.map_err(Into::into),
    }
}
