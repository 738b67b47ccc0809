//! Threads with a low priority, so that maintenance leaves the processor to the pipeline.

use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::handle::Shared;
use crate::warehouse::{Warehouse, WarehouseError};

/// The name of every maintenance thread.
pub(in crate::warehouse) const THREAD: &str = "compaction";

impl Warehouse {
    /// Runs `work` on a new thread with a low priority.
    pub(in crate::warehouse) async fn in_background<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, WarehouseError> + Send + 'static,
    ) -> Result<T, WarehouseError> {
        let (done, answer) = tokio::sync::oneshot::channel();
        let shared = self.0.clone();
        let thread = std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
            lower_priority();
            // The caller may have been cancelled.
            let _ = done.send(work(&shared));
        });
        thread.map_err(|error| WarehouseError::io("start thread", error, false))?;
        let ended = |error| WarehouseError::caused(WarehouseErrorKind::Encode, "wait for compaction", error);
        answer.await.unwrap_or_else(|error| Err(ended(error)))
    }
}

/// Lowers the priority of the current thread, where threads have one of their own.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the standard library has no call for this")]
pub(in crate::warehouse) fn lower_priority() {
    /// Halfway to the lowest priority.
    const NICE: libc::c_int = 10;
    // SAFETY: it takes three numbers; on Linux 0 is the calling thread. A refusal costs priority alone.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

#[cfg(not(target_os = "linux"))]
pub(in crate::warehouse) fn lower_priority() {}
