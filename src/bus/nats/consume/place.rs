//! Whether a consumer's place is one in its stream.
//!
//! A stream on one server's disk may come back from a power cut without its last messages, and not every server puts its
//! consumers back then (2.10 does not): they would pass over the messages that get the sequences of the lost ones.

use super::acker::Acker;
use super::seen::Seen;
use super::subscription::Subscription;
use crate::bus::BusError;
use crate::bus::nats::dead_letter;
use crate::bus::nats::failed::failed;
use crate::bus::nats::shared::unix_ms_of;
use crate::bus::nats::topology::consumers;

impl Subscription {
    /// Fails when the consumer stands behind messages that the stream has lost: it goes then. Whether it has lost any
    /// shows at its end, or where the last message was that came here.
    pub(crate) async fn check_place(&mut self, seen: &Seen) -> Result<(), BusError> {
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
        shared.keeper.doubt();
        Err(failed("read consumer", format!("consumer {} stood behind the end of its stream", consumer.name)))
    }
}
