//! `POST /v1/events/ingest` and `/batch`: body in, verdicts out.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;

use super::cloud_events::Mode;
use super::content_type::{self, Form};
use super::{idempotency_key, reply};
use crate::bus::BusErrorKind;
use crate::event::Arrival;
use crate::event::request::{self, Accepted, Refused};
use crate::gateway::exchange::Exchange;
use crate::gateway::intake::not_stored::not_stored;
use crate::gateway::intake::outcome::{Verdict, Verdicts};
use crate::gateway::quarantine::pending::Origin;
use crate::gateway::state::Gateway;
use crate::http::{Coding, Inbound, Problem};
use crate::quarantine;

impl Gateway {
    pub(crate) async fn ingest(
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
            Form::JsonLines => return Err(content_type::of_batches()),
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
            let whole =
                if form == Form::Json { quarantine::InputFormat::Json } else { quarantine::InputFormat::Protobuf };
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
    pub(crate) async fn store_single(
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
            Some(Verdict::NotStored { kind, .. }) => Err(not_stored(kind)),
            // An invalid event was refused above.
            Some(Verdict::Pending { .. } | Verdict::Invalid(_)) | None => Err(not_stored(BusErrorKind::Unavailable)),
        }
    }

    pub(crate) async fn batch(
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
            use quarantine::InputFormat as Kept;
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
    pub(crate) async fn store_batch(
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
            Some(kind) => Err(not_stored(kind)),
            None => Ok(reply::batch(form, &verdicts)),
        }
    }
}

/// Why nothing was stored, when that is the bus's fault.
fn nothing_stored(verdicts: &Verdicts) -> Option<BusErrorKind> {
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
