//! One durable consumer in memory: what to deliver next, to whom it is leased, what was answered.

pub(super) mod books;
mod gone;
pub(super) mod position;
mod state;
mod take;
pub(super) mod ticks;
pub(super) mod window;

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use self::state::Mind;
pub(super) use self::take::{Found, Request};
use self::window::Window;
use crate::bus::subject::Filter;
use crate::bus::trials::Book;

pub(crate) struct Consumer {
    pub(super) name: String,
    /// Wakes a subscription: a message was given back, or there is room for more.
    pub(super) wake: Notify,
    state: Mutex<Mind>,
}

impl Consumer {
    pub(super) fn new(name: String, filter: (String, Filter), window: Window, book: Book) -> Arc<Self> {
        let state = Mind::new(filter, window, book);
        Arc::new(Self { name, wake: Notify::new(), state: Mutex::new(state) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Mind> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
