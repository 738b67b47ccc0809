//! Verifies that the position of a consumer lies within its stream.
//!
//! After a power cut, a stream on a single disk may lack its last messages, and new messages reuse their sequences. Not
//! every server resets its consumers then (2.10 does not): they would skip new messages. On any server, acknowledgements
//! of lost messages that are still on their way apply to the new ones.

use super::acker::Acker;
use super::incarnation::Incarnation;
use super::subscription::Subscription;
use crate::bus::BusError;
use crate::bus::nats::dead_letter;
use crate::bus::nats::failed::failed;
use crate::bus::nats::shared::unix_ms_of;
use crate::bus::nats::topology::consumers;

impl Subscription {
    /// Fails when messages that this consumer has received are lost, or when it is ahead of the stream, and deletes the
    /// consumer. A loss is detected by the end of the stream, or by the message at the sequence of the last one received.
    pub(crate) async fn check_position(&mut self, seen: &Incarnation) -> Result<(), BusError> {
        let Acker { shared, consumer, .. } = &self.acker;
        let stream = consumer.stream_in(shared);
        let info = stream.get_info().await.map_err(|error| failed("read stream", error))?;
        let mut passes_over = consumers::is_ahead(seen.delivered, &info);
        let mut is_lost = false;
        if let Some((sequence, stored_at_ms)) = self.latest
            && info.config.num_replicas == 1
        {
            is_lost = sequence > info.state.last_sequence
                || dead_letter::raw(stream, sequence).await?.is_some_and(|now| unix_ms_of(now.time) != stored_at_ms);
            // One that was created since has started over, after another process had detected the loss.
            let is_known = self.consumer.as_ref().is_some_and(|known| known.is_same(seen));
            passes_over |= is_lost && (is_known || seen.delivered >= sequence);
        }
        if passes_over {
            consumers::remove_ahead(stream, &consumer.name).await?;
        }
        if is_lost {
            // Not before: the next check must detect it again if the consumer could not be deleted.
            self.latest = None;
        }
        if !passes_over {
            return Ok(());
        }
        shared.topology.request_check();
        Err(failed("read consumer", format!("consumer {} has received messages that its stream lost", consumer.name)))
    }
}
