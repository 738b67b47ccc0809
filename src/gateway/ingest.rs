//! `POST /v1/events/ingest` and `/batch`: body in, verdicts out.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;

use super::caller::Caller;
use super::cloud_events::Mode;
use super::exchange::Exchange;
use super::form::{self, Form};
use super::intake::{Verdict, Verdicts, count, judge, judge_only};
use super::quarantine::Origin;
use super::{Destination, Gateway, idempotency_key, reply};
use crate::base::errors::chain;
use crate::bus::{Batch, Bus, BusError, BusErrorKind, Original, Published};
use crate::event::request::{self, Accepted, Refused};
use crate::event::{Arrival, EventRef, check_names, is_of_other_app};
use crate::http::{Coding, Inbound, Problem, RequestIds, read_body, read_coded};
use crate::metrics::GatewayVerdicts;
use crate::quarantine;

impl Gateway {
    pub(super) async fn ingest(
        &self,
        request: Request<&mut Inbound>,
        exchange: &mut Exchange,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        if let Some(mode) = Mode::of(request.headers()) {
            // Kept apart, so that what most requests need stays small.
            return Box::pin(self.cloud_events(mode, request, exchange)).await;
        }
        let form = Form::of(request.headers())?;
        let read = match form {
            Form::Json => request::accept_json_single,
            Form::Binary(_) => request::accept_binary_single,
            Form::JsonLines => return Err(form::of_batches()),
        };
        let (head, body) = request.into_parts();
        let key = idempotency_key::of(&head.headers)?;
        let coding = Coding::of(&head.headers)?;
        let accept = |bytes: &[u8], arrival: &Arrival<'_>| {
            let mut accepted = read(bytes, arrival)?;
            if let Some(key) = &key {
                accepted.set_idempotency_key(key, arrival)?;
            }
            Ok(accepted)
        };
        let origin = || {
            let whole = if form == Form::Json { quarantine::Form::Json } else { quarantine::Form::Protobuf };
            let origin = Origin::of(&head.headers, whole, None);
            match &key {
                Some(key) => origin.with("idempotency-key", &**key),
                None => origin,
            }
        };
        let accepted = self.read(body, coding, exchange, origin, accept).await?;
        self.store_single(form, accepted, exchange).await
    }

    /// Stores the event of a single request, and answers.
    pub(super) async fn store_single(
        &self,
        form: Form,
        accepted: Result<Accepted, Refused>,
        exchange: &mut Exchange,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let accepted = accepted.map_err(|refused| self.refuse(refused, 1, exchange))?;
        self.count_events(accepted.len(), exchange)?;
        let (mut verdicts, batch) = self.judge(accepted);
        self.publish(&mut verdicts, batch, exchange).await;
        match verdicts.iter().next() {
            Some(Verdict::Stored { id, duplicate }) => Ok(reply::single(form, id, duplicate)),
            Some(Verdict::NotStored { kind, .. }) => Err(reply::not_stored(kind)),
            // An invalid event was refused above.
            Some(Verdict::Pending { .. } | Verdict::Invalid(_)) | None => {
                Err(reply::not_stored(BusErrorKind::Unavailable))
            }
        }
    }

    pub(super) async fn batch(
        &self,
        request: Request<&mut Inbound>,
        exchange: &mut Exchange,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        if let Some(mode) = Mode::of(request.headers()) {
            // Kept apart, so that what most requests need stays small.
            return Box::pin(self.cloud_events(mode, request, exchange)).await;
        }
        let form = Form::of(request.headers())?;
        let read = match form {
            Form::Json => request::accept_json_batch,
            Form::JsonLines => request::accept_json_lines,
            Form::Binary(_) => request::accept_binary_batch,
        };
        idempotency_key::refuse_for_batch(request.headers())?;
        let coding = Coding::of(request.headers())?;
        let (head, body) = request.into_parts();
        let origin = || {
            use quarantine::Form as Kept;
            let (whole, each) = match form {
                Form::Json => (Kept::JsonBatch, Kept::JsonEvent),
                Form::JsonLines => (Kept::JsonLines, Kept::JsonEvent),
                Form::Binary(_) => (Kept::ProtobufBatch, Kept::ProtobufEvent),
            };
            Origin::of(&head.headers, whole, Some(each))
        };
        let read = |bytes: &[u8], arrival: &Arrival<'_>| read(bytes, self.batch_events_max, arrival);
        let accepted = self.read(body, coding, exchange, origin, read).await?;
        self.store_batch(form, accepted, body, exchange).await
    }

    /// Stores the events of a batch, and answers with the verdict of each.
    pub(super) async fn store_batch(
        &self,
        form: Form,
        accepted: Result<Accepted, Refused>,
        body: &Inbound,
        exchange: &mut Exchange,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let accepted = accepted.map_err(|refused| self.refuse(refused, 0, exchange))?;
        self.count_events(accepted.len(), exchange)?;
        let (mut verdicts, batch) = self.judge(accepted);
        // Once something is stored there is no way back: the reply's room is made sure of before.
        body.hold_for_reply(reply::batch_bytes(&verdicts))?;
        let id_bytes = verdicts.id_bytes();
        self.publish(&mut verdicts, batch, exchange).await;
        // The ids of the first events of duplicates may be longer than those that were sent.
        if verdicts.id_bytes() > id_bytes && !body.has_room_for_reply(reply::batch_bytes(&verdicts)) {
            verdicts.forget_first_ids();
        }
        match nothing_stored(&verdicts) {
            Some(kind) => Err(reply::not_stored(kind)),
            None => Ok(reply::batch(form, &verdicts)),
        }
    }

    /// Reads a body and judges what it holds. The body is freed at once, unless something of it is to be kept: while the
    /// request waits for what it set going, that memory serves the next one.
    pub(super) async fn read(
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
    pub(super) async fn read_whole(
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
    pub(super) fn judge(&self, accepted: Accepted) -> (Verdicts, Batch) {
        match &self.destination {
            Destination::Discard => (judge_only(accepted), Batch::default()),
            Destination::Bus(_) => judge(accepted),
        }
    }

    /// Returns when every event of the request has its verdict.
    pub(super) async fn publish(&self, verdicts: &mut Verdicts, batch: Batch, exchange: &Exchange) {
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

    pub(super) fn arrival<'c>(&self, caller: &'c Caller) -> Arrival<'c> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Arrival {
            received_at_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            key_app: caller.app(),
            event_bytes_max: self.event_bytes_max,
            assigned_id: None,
        }
    }

    pub(super) fn refuse(&self, refused: Refused, events: u64, exchange: &Exchange) -> Problem {
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

/// Why nothing was stored, when that is the bus's fault.
pub(super) fn nothing_stored(verdicts: &Verdicts) -> Option<BusErrorKind> {
    let mut failure = None;
    for verdict in verdicts.iter() {
        match verdict {
            Verdict::Stored { .. } => return None,
            Verdict::NotStored { kind, .. } if kind != BusErrorKind::Invalid => failure = Some(kind),
            _ => {}
        }
    }
    failure
}
