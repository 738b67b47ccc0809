//! What the fuzz targets call beside what is public: bodies whose headers or path say how they are read.

use std::sync::OnceLock;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;

use super::events::cloud_events::{Mode, attributes};
use super::exchange::Exchange;
use super::segment::messages;
use super::segment::route::Asked;
use super::settings::{Destination, Settings};
use super::state::Gateway;
use crate::event::Arrival;
use crate::event::cloud_event;
use crate::event::request::{Accepted, Refused};
use crate::event::segment::MESSAGE_BYTES_MAX;
use crate::http::{Problem, Readiness};

/// A gateway that asks nobody for a key and stores nothing.
fn gateway() -> &'static Gateway {
    static GATEWAY: OnceLock<Gateway> = OnceLock::new();
    GATEWAY.get_or_init(|| Gateway::new(Settings::default(), Destination::Discard, Readiness::new()))
}

/// What the gateway answers to a message or a batch of Segment's API.
pub struct SegmentReply {
    pub status: u16,
    pub body: Bytes,
    /// What memory is held for its body when it was read.
    pub body_bytes_max: usize,
}

/// Shows the events that a message or a batch of Segment's API has, and answers it. Nothing when the path takes no
/// messages, or the body is larger than it may be.
pub fn segment(path: &str, headers: &HeaderMap, body: &[u8], show: impl FnOnce(&Accepted)) -> Option<SegmentReply> {
    let (call, bytes_max) = match Asked::of(path)? {
        Asked::Message(call) => (Some(call), MESSAGE_BYTES_MAX),
        Asked::Batch => (None, messages::BATCH_BYTES_MAX),
        Asked::OwnMetrics | Asked::Settings => return None,
    };
    if body.len() > bytes_max {
        return None;
    }
    let gateway = gateway();
    let (mut head, ()) = Request::new(()).into_parts();
    head.headers.clone_from(headers);
    let exchange = Exchange::begin(&head, gateway.pages.of(&head));
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
            let (verdicts, _) = gateway.judge(accepted);
            let mut tally = messages::Tally::of(call.is_some());
            tally.add(&verdicts).and_then(|()| tally.answer())
        }
    };
    let (head, body) = answered.unwrap_or_else(Problem::into_reply).into_parts();
    let Ok(body) = body.collect().now_or_never().expect("a reply is all there");
    Some(SegmentReply { status: head.status.as_u16(), body: body.to_bytes(), body_bytes_max })
}

/// What the gateway makes of a CloudEvent; nothing when the headers tell of none, or of one in a form that it refuses.
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
