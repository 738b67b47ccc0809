//! The steps that all ways in share: read a body, validate its events, publish them, and note what is refused.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::StatusCode;

use super::outcome::{Verdicts, count, judge, judge_only};
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
use crate::metrics::GatewayVerdicts;

impl Gateway {
    /// Reads a body and judges what it holds. The body is freed at once, unless something of it is to be kept: while the
    /// request waits for what it set going, that memory serves the next one.
    pub(crate) async fn read(
        &self,
        body: &mut Inbound,
        coding: Coding,
        exchange: &mut Exchange,
        origin: impl FnOnce() -> Origin,
        judge: impl FnOnce(&[u8], &Arrival<'_>) -> Result<Accepted, Refused>,
    ) -> Result<Result<Accepted, Refused>, Problem> {
        let bytes = self.read_whole(body, coding, self.body_bytes_max).await?;
        let judged = judge(&bytes, &self.arrival(&exchange.caller));
        let all_accepted = || judged.as_ref().is_ok_and(|accepted| accepted.refused().next().is_none());
        if self.quarantines() && !all_accepted() {
            self.note_refused(&origin(), &bytes, judged.as_ref(), exchange);
        }
        Ok(judged)
    }

    /// Reads a body of at most so many bytes, as sent and inflated.
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

    /// The verdicts of what need not be published, and what must be.
    pub(crate) fn judge(&self, accepted: Accepted) -> (Verdicts, Batch) {
        match &self.destination {
            Destination::Discard => (judge_only(accepted), Batch::default()),
            Destination::Bus(_) => judge(accepted),
        }
    }

    /// Returns when every event of the request has its verdict.
    pub(crate) async fn publish(&self, verdicts: &mut Verdicts, batch: Batch, exchange: &Exchange) {
        if let Destination::Bus(bus) = &self.destination
            && !batch.is_empty()
        {
            let answers = bus.publish(batch).await;
            self.bus_health.learn(&answers);
            verdicts.settle(&answers);
            let duplicates: Vec<Original> = duplicates(&answers).collect();
            if !duplicates.is_empty() {
                verdicts.set_first_ids(first_ids(bus, duplicates, &exchange.ids).await);
            }
        }
        let counted = count(verdicts);
        self.events.add(counted);
        if counted.rejected > 0 {
            self.refusals.note(verdicts, exchange);
        }
    }

    pub(crate) fn arrival<'c>(&self, caller: &'c Caller) -> Arrival<'c> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Arrival {
            received_at_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            key_app: caller.app(),
            event_bytes_max: self.event_bytes_max,
            assigned_id: None,
        }
    }

    pub(crate) fn refuse(&self, refused: Refused, events: u64, exchange: &Exchange) -> Problem {
        self.refusals.note_whole(&refused, exchange);
        self.events.add(GatewayVerdicts { rejected: events, ..GatewayVerdicts::default() });
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

/// The ids of the events that duplicates repeat. What cannot be found changes nothing of the verdict.
async fn first_ids(
    bus: &Bus,
    duplicates: Vec<Original>,
    ids: &RequestIds,
) -> impl Iterator<Item = Option<String>> + use<> {
    // Another publisher's id may be of any length and of any characters: such a one is not told.
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
