//! Work that takes processor time for long, kept away from the tasks of the runtime.

/// Runs what takes processor time for long while the other tasks of this thread go on elsewhere.
pub(super) fn off_the_runtime<T>(run: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(run),
        // There is no other thread to go on.
        _ => run(),
    }
}
