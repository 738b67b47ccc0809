//! The state shared by publishers, subscriptions and background tasks.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::stream::{Info, Stream};
use async_nats::jetstream::{Context, context::RequestErrorKind};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::connection::calls::Calls;
use super::connection::link::Link;
use super::failed::failed;
use super::input_room::Room;
use super::publish::chooser::Chooser;
use super::publish::queue::Queue;
use super::topology::state::Topology;
use super::topology::streams::StreamRole;
use crate::base::supervisor::Tasks;
use crate::bus::subject::Filter;
use crate::bus::{BusError, BusErrorKind, NatsSettings};

pub(crate) struct Shared {
    pub(super) settings: NatsSettings,
    pub(super) client: Client,
    pub(super) link: Arc<Link>,
    pub(super) calls: Arc<Calls>,
    pub(super) context: Context,
    /// The server supports atomic batches.
    pub(super) atomic: bool,
    pub(super) stream: Stream,
    pub(super) dead_letters: Stream,
    /// The stream of chunks that consumers lease.
    pub(super) chunks: Stream,
    pub(super) topology: Arc<Topology>,
    /// The subjects of the stream.
    pub(super) covered: Vec<Filter>,
    pub(super) in_flight: Semaphore,
    /// The room for refused input.
    pub(super) input_room: Mutex<Room>,
    /// The first messages of duplicates are read by one call at a time.
    pub(super) reading: Semaphore,
    /// Held by the running trial.
    pub(super) trial_turn: Arc<Semaphore>,
    pub(super) open_trials: Mutex<Vec<OpenTrial>>,
    pub(super) chooser: Chooser,
    pub(super) batches: Queue,
    pub(super) full: Mutex<Option<String>>,
    /// The consumers that have acknowledged nothing of a filling stream.
    pub(super) blocked_by: Mutex<Option<String>>,
    /// Whether `full` is set: read by every publish.
    pub(super) is_full: AtomicBool,
    pub(super) closing: CancellationToken,
    pub(super) tasks: Tasks,
}

/// A trial begun by this process, as seen when the bus closes.
pub(crate) struct OpenTrial {
    pub(super) consumer: String,
    pub(super) messages: Vec<u64>,
}

impl Shared {
    pub(super) fn check_open(&self, context: &'static str) -> Result<(), BusError> {
        if self.closing.is_cancelled() {
            Err(BusError::new(BusErrorKind::Closed, context))
        } else {
            self.link.check_reconnects(context)
        }
    }

    pub(super) fn run_until_closed(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            closing.run_until_cancelled(task).await;
        });
    }

    pub(super) async fn stream_info(&self) -> Result<Info, BusError> {
        self.stream_info_within(self.settings.timeout).await
    }

    pub(super) async fn stream_info_within(&self, limit: Duration) -> Result<Info, BusError> {
        // The client's own timeout may be as long as ours: either may fire first.
        let response = tokio::time::timeout(limit, self.stream.get_info()).await;
        match response {
            Ok(Err(error)) if error.kind() != RequestErrorKind::TimedOut => Err(failed("read stream", error)),
            Ok(Ok(info)) => {
                self.link.answered();
                Ok(info)
            }
            Ok(Err(_)) | Err(_) => {
                self.link.unanswered(&self.client).await;
                Err(failed("read stream", format!("NATS did not answer within {limit:?}")))
            }
        }
    }

    /// The stream for consumers of this role.
    pub(super) fn stream_of(&self, role: StreamRole) -> &Stream {
        match role {
            StreamRole::Events => &self.stream,
            StreamRole::Chunks => &self.chunks,
            StreamRole::DeadLetters => &self.dead_letters,
        }
    }
}

pub(super) fn unix_ms_of(time: async_nats::datetime::DateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}
