//! Runs CPU-bound work without stalling the other tasks of the runtime.

/// Runs CPU-bound work while the other tasks of this worker thread move to another one.
pub(super) fn off_the_runtime<T>(run: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(run),
        // There is no other thread to move them to.
        _ => run(),
    }
}
