//! `POST /v1/events/ingest` and `/batch`.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;

use super::cloud_events::Mode;
use super::content_type::{self, ContentType};
use super::{idempotency_key, reply};
use crate::bus::BusErrorKind;
use crate::event::Arrival;
use crate::event::request::{self, Accepted, Refused};
use crate::gateway::exchange::Exchange;
use crate::gateway::intake::not_stored::not_stored;
use crate::gateway::intake::outcome::{ItemOutcome, ItemOutcomes};
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
            // Boxed, to keep the future of ordinary requests small.
            return Box::pin(self.cloud_events(mode, request, exchange)).await;
        }
        let content_type = ContentType::of(request.headers())?;
        let read = match content_type {
            ContentType::Json => request::accept_json_single,
            ContentType::Binary(_) => request::accept_binary_single,
            ContentType::JsonLines => return Err(content_type::json_lines_need_batch()),
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
            let whole = if content_type == ContentType::Json {
                quarantine::InputFormat::Json
            } else {
                quarantine::InputFormat::Protobuf
            };
            let origin = Origin::of(&head.headers, whole, None);
            match &key {
                Some(key) => origin.with("idempotency-key", &**key),
                None => origin,
            }
        };
        let accepted = self.read(body, coding, exchange, origin, accept).await?;
        self.store_single(content_type, accepted, exchange).await
    }

    /// Stores the event of a single request and builds the reply.
    pub(crate) async fn store_single(
        &self,
        content_type: ContentType,
        accepted: Result<Accepted, Refused>,
        exchange: &mut Exchange,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let accepted = accepted.map_err(|refused| self.refuse(refused, 1, exchange))?;
        self.count_events(accepted.len(), exchange)?;
        let (mut outcomes, batch) = self.prepare(accepted);
        self.publish(&mut outcomes, batch, exchange).await;
        match outcomes.iter().next() {
            Some(ItemOutcome::Stored { id, duplicate }) => Ok(reply::single(content_type, id, duplicate)),
            Some(ItemOutcome::NotStored { kind, .. }) => Err(not_stored(kind)),
            // Invalid events were refused above.
            Some(ItemOutcome::Pending { .. } | ItemOutcome::Invalid(_)) | None => {
                Err(not_stored(BusErrorKind::Unavailable))
            }
        }
    }

    pub(crate) async fn batch(
        &self,
        request: Request<&mut Inbound>,
        exchange: &mut Exchange,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        if let Some(mode) = Mode::of(request.headers()) {
            // Boxed, to keep the future of ordinary requests small.
            return Box::pin(self.cloud_events(mode, request, exchange)).await;
        }
        let content_type = ContentType::of(request.headers())?;
        let read = match content_type {
            ContentType::Json => request::accept_json_batch,
            ContentType::JsonLines => request::accept_json_lines,
            ContentType::Binary(_) => request::accept_binary_batch,
        };
        idempotency_key::refuse_for_batch(request.headers())?;
        let coding = Coding::of(request.headers())?;
        let (head, body) = request.into_parts();
        let origin = || {
            use quarantine::InputFormat;
            let (whole, each) = match content_type {
                ContentType::Json => (InputFormat::JsonBatch, InputFormat::JsonEvent),
                ContentType::JsonLines => (InputFormat::JsonLines, InputFormat::JsonEvent),
                ContentType::Binary(_) => (InputFormat::ProtobufBatch, InputFormat::ProtobufEvent),
            };
            Origin::of(&head.headers, whole, Some(each))
        };
        let read = |bytes: &[u8], arrival: &Arrival<'_>| read(bytes, self.batch_events_max, arrival);
        let accepted = self.read(body, coding, exchange, origin, read).await?;
        self.store_batch(content_type, accepted, body, exchange).await
    }

    /// Stores the events of a batch and replies with the outcome of each.
    pub(crate) async fn store_batch(
        &self,
        content_type: ContentType,
        accepted: Result<Accepted, Refused>,
        body: &Inbound,
        exchange: &mut Exchange,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let accepted = accepted.map_err(|refused| self.refuse(refused, 0, exchange))?;
        self.count_events(accepted.len(), exchange)?;
        let (mut outcomes, batch) = self.prepare(accepted);
        // Reserve memory for the reply first: once an event is stored, the request can no longer be refused.
        body.reserve_for_reply(reply::batch_bytes(&outcomes))?;
        let id_bytes = outcomes.id_bytes();
        self.publish(&mut outcomes, batch, exchange).await;
        // The ids of the original events may be longer than the ids that were sent.
        if outcomes.id_bytes() > id_bytes && !body.has_room_for_reply(reply::batch_bytes(&outcomes)) {
            outcomes.drop_original_ids();
        }
        match nothing_stored(&outcomes) {
            Some(kind) => Err(not_stored(kind)),
            None => Ok(reply::batch(content_type, &outcomes)),
        }
    }
}

/// The bus error that prevented all events from being stored, if there is one.
fn nothing_stored(outcomes: &ItemOutcomes) -> Option<BusErrorKind> {
    let mut failure = None;
    for outcome in outcomes.iter() {
        match outcome {
            ItemOutcome::Stored { .. } => return None,
            ItemOutcome::NotStored { kind, .. } if kind != BusErrorKind::Invalid => failure = Some(kind),
            _ => {}
        }
    }
    failure
}
