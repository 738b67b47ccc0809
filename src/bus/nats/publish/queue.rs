//! The calls waiting for the next atomic batch.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};

use crate::bus::batch::Layout;
use crate::bus::{BusError, Published};

/// Calls that wait for a batch. Their bytes are bounded elsewhere.
const QUEUE_CALLS_MAX: usize = 1_024;

/// The messages of one call, waiting for a batch.
pub(crate) struct Job {
    pub(crate) records: Bytes,
    pub(crate) layouts: Vec<Layout>,
    pub(crate) reply: oneshot::Sender<Vec<Result<Published, BusError>>>,
}

pub(crate) type Queue = mpsc::Sender<Job>;
pub(crate) type Jobs = Arc<AsyncMutex<mpsc::Receiver<Job>>>;

pub(crate) fn queue() -> (Queue, Jobs) {
    let (sender, receiver) = mpsc::channel(QUEUE_CALLS_MAX);
    (sender, Arc::new(AsyncMutex::new(receiver)))
}
