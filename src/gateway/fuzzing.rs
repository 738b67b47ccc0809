//! Entry points for the fuzz targets that are not public: bodies that are read according to their headers or path.

use std::sync::OnceLock;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;

use super::events::cloud_events::{Mode, attributes};
use super::exchange::Exchange;
use super::segment::messages;
use super::segment::route::SegmentRoute;
use super::settings::{Destination, Settings};
use super::state::Gateway;
use crate::event::Arrival;
use crate::event::cloud_event;
use crate::event::request::{Accepted, Refused};
use crate::event::segment::MESSAGE_BYTES_MAX;
use crate::http::{Problem, Readiness};

/// A gateway that asks for no key and stores nothing.
fn gateway() -> &'static Gateway {
    static GATEWAY: OnceLock<Gateway> = OnceLock::new();
    GATEWAY.get_or_init(|| Gateway::new(Settings::default(), Destination::Discard, Readiness::new()))
}

/// The gateway's reply to a message or a batch of Segment's API.
pub struct SegmentReply {
    pub status: u16,
    pub body: Bytes,
    /// The memory reserved for the reply body.
    pub body_bytes_max: usize,
}

/// Passes the events of a Segment message or batch to `show`, and returns the reply. `None` when the path takes no
/// messages or the body is too large.
pub fn segment(path: &str, headers: &HeaderMap, body: &[u8], show: impl FnOnce(&Accepted)) -> Option<SegmentReply> {
    let (call, bytes_max) = match SegmentRoute::of(path)? {
        SegmentRoute::Message(call) => (Some(call), MESSAGE_BYTES_MAX),
        SegmentRoute::Batch => (None, messages::BATCH_BYTES_MAX),
        SegmentRoute::OwnMetrics | SegmentRoute::Settings => return None,
    };
    if body.len() > bytes_max {
        return None;
    }
    let gateway = gateway();
    let (mut head, ()) = Request::new(()).into_parts();
    head.headers.clone_from(headers);
    let exchange = Exchange::begin(&head, gateway.cors_policy.of(&head));
    let mut body_bytes_max = usize::MAX;
    let answered = match messages::read(call, body) {
        Err(refused) => Err(Problem::new(StatusCode::BAD_REQUEST, refused.detail)),
        Ok(mut messages) => {
            let app = messages::named_app(headers, &messages);
            body_bytes_max = messages::reply_bytes(messages.len());
            let mut accepted = Accepted::default();
            while !messages.is_empty() {
                accepted.append(messages.next(100, body, call, &app, &gateway.arrival(&exchange.caller)));
            }
            show(&accepted);
            let (outcomes, _) = gateway.prepare(accepted);
            let mut tally = messages::Tally::of(call.is_some());
            tally.add(&outcomes).and_then(|()| tally.answer())
        }
    };
    let (head, body) = answered.unwrap_or_else(Problem::into_reply).into_parts();
    let Ok(body) = body.collect().now_or_never().expect("a reply is all there");
    Some(SegmentReply { status: head.status.as_u16(), body: body.to_bytes(), body_bytes_max })
}

/// How the gateway parses a CloudEvent; `None` when the headers do not announce one, or announce an unsupported format.
pub fn cloud_event(headers: &HeaderMap, body: &[u8], arrival: &Arrival<'_>) -> Option<Result<Accepted, Refused>> {
    Some(match Mode::of(headers)? {
        Mode::Structured => cloud_event::accept_structured(body, arrival),
        Mode::Batched => cloud_event::accept_batched(body, gateway().batch_events_max, arrival),
        Mode::Binary => {
            let content_type = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            cloud_event::accept_binary(attributes(headers).ok()?, content_type, body, arrival)
        }
        Mode::Unknown => return None,
    })
}
