//! The progress of durable consumers.

use async_nats::jetstream::consumer::Info as ConsumerInfo;
use async_nats::jetstream::stream::{State, Stream};
use futures_util::TryStreamExt;

use super::failed::failed;
use crate::bus::BusError;

/// The maximum number of consumers listed per stream.
const CONSUMERS_MAX: usize = 1_000;

/// The progress of a durable consumer in the stream.
pub(crate) struct ConsumerProgress {
    pub(super) name: String,
    /// Everything up to here is acknowledged.
    pub(super) acknowledged_to: u64,
    /// Messages not acknowledged.
    pub(super) backlog: u64,
    /// Messages in flight: delivered and not acknowledged.
    pub(super) pending: u64,
}

impl ConsumerProgress {
    /// The progress of a consumer that has read nothing.
    pub(super) fn unread(name: String, state: &State) -> Self {
        let backlog = (state.last_sequence + 1).saturating_sub(state.first_sequence.max(1));
        Self { name, acknowledged_to: 0, backlog, pending: 0 }
    }
}

pub(super) async fn durable(stream: &Stream) -> Result<Vec<ConsumerInfo>, BusError> {
    let durable = |consumer: &ConsumerInfo| consumer.config.durable_name.is_some();
    let mut all = stream.consumers();
    let mut found = Vec::new();
    while let Some(consumer) = all.try_next().await.map_err(|error| failed("list consumers", error))? {
        if durable(&consumer) && found.len() < CONSUMERS_MAX {
            found.push(consumer);
        }
    }
    Ok(found)
}
