//! The steps that all ingest APIs share: read a body, validate its events, publish them, and record refusals.

use bytes::Bytes;
use http::StatusCode;

use super::outcome::{ItemOutcomes, count, pack, without_publishing};
use crate::base::clock::unix_ms;
use crate::base::errors::chain;
use crate::bus::{Batch, Bus, BusError, Original, Published};
use crate::event::request::{Accepted, Refused};
use crate::event::{Arrival, EventRef, check_names, is_of_other_app};
use crate::gateway::auth::caller::Caller;
use crate::gateway::exchange::Exchange;
use crate::gateway::quarantine::pending::Origin;
use crate::gateway::settings::Destination;
use crate::gateway::state::Gateway;
use crate::http::{Coding, Inbound, Problem, RequestIds, read_body, read_coded};
use crate::metrics::GatewayOutcomes;

impl Gateway {
    /// Reads a body and validates its events. The body is freed immediately unless part of it is quarantined, so that
    /// its memory serves other requests while this one waits for the bus.
    pub(crate) async fn read(
        &self,
        body: &mut Inbound,
        coding: Coding,
        exchange: &mut Exchange,
        origin: impl FnOnce() -> Origin,
        validate: impl FnOnce(&[u8], &Arrival<'_>) -> Result<Accepted, Refused>,
    ) -> Result<Result<Accepted, Refused>, Problem> {
        let bytes = self.read_whole(body, coding, self.body_bytes_max).await?;
        let validated = validate(&bytes, &self.arrival(&exchange.caller));
        let all_accepted = || validated.as_ref().is_ok_and(|accepted| accepted.refused().next().is_none());
        if self.quarantines() && !all_accepted() {
            self.collect_refused(&origin(), &bytes, validated.as_ref(), exchange);
        }
        Ok(validated)
    }

    /// Reads a body of at most `bytes_max` bytes, both as sent and after decompression.
    pub(crate) async fn read_whole(
        &self,
        body: &mut Inbound,
        coding: Coding,
        bytes_max: usize,
    ) -> Result<Bytes, Problem> {
        let bytes_max = bytes_max.min(self.body_bytes_max);
        Ok(match coding {
            Coding::Identity => read_body(body, bytes_max, self.body_timeout).await?,
            coding => read_coded(body, coding, bytes_max, self.body_timeout).await?,
        })
    }

    /// Splits the events into outcomes and the batch to publish.
    pub(crate) fn prepare(&self, accepted: Accepted) -> (ItemOutcomes, Batch) {
        match &self.destination {
            Destination::Discard => (without_publishing(accepted), Batch::default()),
            Destination::Bus(_) => pack(accepted),
        }
    }

    /// Publishes the batch. When it returns, every event of the request has its final outcome.
    pub(crate) async fn publish(&self, outcomes: &mut ItemOutcomes, batch: Batch, exchange: &Exchange) {
        if let Destination::Bus(bus) = &self.destination
            && !batch.is_empty()
        {
            let answers = bus.publish(batch).await;
            self.bus_health.record_answers(&answers);
            outcomes.record_answers(&answers);
            let duplicates: Vec<Original> = duplicates(&answers).collect();
            if !duplicates.is_empty() {
                outcomes.set_original_ids(original_ids(bus, duplicates, &exchange.ids).await);
            }
        }
        let counted = count(outcomes);
        self.events.add(counted);
        if counted.rejected > 0 {
            self.refusals.record(outcomes, exchange);
        }
    }

    pub(crate) fn arrival<'c>(&self, caller: &'c Caller) -> Arrival<'c> {
        Arrival {
            received_at_ms: unix_ms(),
            key_app: caller.app(),
            event_bytes_max: self.event_bytes_max,
            assigned_id: None,
        }
    }

    pub(crate) fn refuse(&self, refused: Refused, events: u64, exchange: &Exchange) -> Problem {
        self.refusals.record_body(&refused, exchange);
        self.events.add(GatewayOutcomes { rejected: events, ..GatewayOutcomes::default() });
        if is_of_other_app(&refused.errors) {
            let detail = "The event belongs to another app than the API key.";
            return Problem::new(StatusCode::FORBIDDEN, detail).with_errors(refused.errors);
        }
        Problem::new(StatusCode::BAD_REQUEST, refused.detail).with_errors(refused.errors)
    }
}

fn duplicates(answers: &[Result<Published, BusError>]) -> impl Iterator<Item = Original> {
    answers.iter().flatten().filter(|published| published.duplicate).map(|published| published.original)
}

/// The ids of the original events of duplicates. Failing to find one does not change the outcome.
async fn original_ids(
    bus: &Bus,
    duplicates: Vec<Original>,
    ids: &RequestIds,
) -> impl Iterator<Item = Option<String>> + use<> {
    // Other publishers may use ids of any length and characters; only valid ids are reported.
    let read = |payload: &[u8]| {
        let event = EventRef::decode_admitted(payload).ok()?;
        check_names(&event).is_ok().then(|| event.id.to_owned())
    };
    let found = bus.originals(duplicates, read).await.unwrap_or_else(|error| {
        tracing::warn!(
            request_id = ids.request(),
            correlation_id = ids.correlation(),
            error = chain(&error),
            "the first events of duplicates could not be read"
        );
        Vec::new()
    });
    found.into_iter()
}
