//! A durable consumer in memory: what to deliver next, which leases are out, and which messages are answered.

mod missing;
pub(super) mod position;
mod state;
mod take;
pub(super) mod ticks;
pub(super) mod trial_logs;
pub(super) mod window;

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use self::state::ConsumerState;
pub(super) use self::take::{FetchOutcome, FetchRequest};
use self::window::Window;
use crate::bus::subject::Filter;
use crate::bus::trials::TrialLog;

pub(crate) struct Consumer {
    pub(super) name: String,
    /// Wakes a subscription: a message was released, or there is room for more.
    pub(super) wake: Notify,
    state: Mutex<ConsumerState>,
}

impl Consumer {
    pub(super) fn new(name: String, filter: (String, Filter), window: Window, log: TrialLog) -> Arc<Self> {
        let state = ConsumerState::new(filter, window, log);
        Arc::new(Self { name, wake: Notify::new(), state: Mutex::new(state) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ConsumerState> {
        self.state.lock()
    }
}
