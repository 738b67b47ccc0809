//! Verifies that the position of a consumer lies within its stream.
//!
//! After a power cut, a stream on a single disk may lack its last messages, and not every server resets its consumers
//! in that case (2.10 does not): they would skip the messages that reuse the lost sequences.

use super::acker::Acker;
use super::incarnation::Incarnation;
use super::subscription::Subscription;
use crate::bus::BusError;
use crate::bus::nats::dead_letter;
use crate::bus::nats::failed::failed;
use crate::bus::nats::shared::unix_ms_of;
use crate::bus::nats::topology::consumers;

impl Subscription {
    /// Fails when the consumer is ahead of messages that the stream has lost, and deletes it. A loss is detected by the
    /// end of the stream, or by the message at the sequence of the last one received.
    pub(crate) async fn check_position(&mut self, seen: &Incarnation) -> Result<(), BusError> {
        let Acker { shared, consumer, .. } = &self.acker;
        let stream = consumer.stream_in(shared);
        let info = stream.get_info().await.map_err(|error| failed("read stream", error))?;
        let mut passes_over = consumers::is_ahead(seen.delivered, &info);
        if let Some((sequence, stored_at_ms)) = self.latest
            && info.config.num_replicas == 1
        {
            let is_lost = sequence > info.state.last_sequence
                || dead_letter::raw(stream, sequence).await?.is_some_and(|now| unix_ms_of(now.time) != stored_at_ms);
            if is_lost {
                passes_over |= seen.delivered >= sequence;
                self.latest = None;
            }
        }
        if !passes_over {
            return Ok(());
        }
        consumers::remove_ahead(stream, &consumer.name).await?;
        shared.topology.request_check();
        Err(failed("read consumer", format!("consumer {} stood behind the end of its stream", consumer.name)))
    }
}
