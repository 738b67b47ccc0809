//! Takes the first failed fsync of a database to the code that ends the process.
//!
//! Invariant: once a failure is reported, the engine refuses all work, so nothing is answered as stored. Ends nothing
//! itself: the handler does.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// A failed fsync. Nobody knows what is on disk then, and a retry may succeed although the data is lost: Linux reports the
/// error once and drops the pages. Only a new process reads what is really there.
#[derive(Clone, Debug)]
pub struct FailedFsync {
    pub file: PathBuf,
    pub context: &'static str,
    pub error: String,
}

#[derive(Debug, Default)]
pub(super) struct Fatal {
    is_reported: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failed: Option<FailedFsync>,
    handler: Option<fn(&FailedFsync)>,
}

impl Fatal {
    pub(super) fn is_reported(&self) -> bool {
        self.is_reported.load(Ordering::Acquire)
    }

    /// `handler` runs on the thread that reports the failure, so no other work delays it; on this one if that was before.
    pub(super) fn on_failure(&self, handler: fn(&FailedFsync)) {
        self.change(|state| state.handler = Some(handler));
    }

    pub(super) fn report(&self, failed: FailedFsync) {
        self.is_reported.store(true, Ordering::Release);
        self.change(|state| {
            state.failed.get_or_insert(failed);
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        if let State { failed: Some(failed), handler: Some(handler) } = &*state {
            handler(failed);
        }
    }
}
