//! Moves refused input to the dead letters, if `QUARANTINE` is on.
//!
//! Invariants: a refusal stays a refusal whatever happens to its input. Input of requests without a valid key is never
//! kept, and neither is input that the client will send again. Pending input counts towards the memory of its request.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Deserialize;

use super::pending::{Origin, Quarantine};
use crate::base::errors::chain;
use crate::bus::{KeptInput, RefusedInput};
use crate::event::request::{Accepted, Refused, app_of, event_of};
use crate::event::{FieldError, Reason, is_app_id, is_of_other_app, new_id, otlp};
use crate::gateway::exchange::Exchange;
use crate::gateway::settings::Destination;
use crate::gateway::state::Gateway;
use crate::http::Inbound;
use crate::metrics;
use crate::quarantine::{Attribute, Input, InputFormat};

/// Reports how many inputs were quarantined.
const QUARANTINED: HeaderName = HeaderName::from_static("x-quarantined");
/// How long a refusal waits for its input to be stored.
const KEEP_TIMEOUT: Duration = Duration::from_secs(5);
const WARNING: &str = "quarantine";

impl Gateway {
    /// Whether refused input is quarantined.
    pub(crate) fn quarantines(&self) -> bool {
        self.quarantine.is_some()
    }

    /// Collects the refused parts of a body, to be quarantined once the reply is known.
    pub(crate) fn collect_refused(
        &self,
        origin: &Origin,
        body: &Bytes,
        validated: Result<&Accepted, &Refused>,
        exchange: &mut Exchange,
    ) {
        match validated {
            Err(refused) if is_of_other_app(&refused.errors) => {}
            Err(refused) => {
                let (reason, errors) = (Reason::of_body(refused), refused.field_errors());
                let input = self.input(origin, origin.whole, reason, &errors, body.clone(), exchange);
                exchange.pending_inputs.get_or_insert_default().push(input, self.body_bytes_max);
            }
            Ok(accepted) => {
                let Some(each) = origin.each else { return };
                for (errors, place) in accepted.refused().filter(|(errors, place)| is_kept(errors, place)) {
                    let data = body.slice(place);
                    let input = self.input(origin, each, Reason::of(errors), errors, data, exchange);
                    if !exchange.pending_inputs.get_or_insert_default().push(input, self.body_bytes_max) {
                        return;
                    }
                }
            }
        }
    }

    /// Like `collect_refused`, for log records of a protobuf export: each is kept with its resource and scope.
    pub(crate) fn collect_refused_records(
        &self,
        origin: &Origin,
        body: &[u8],
        accepted: &Accepted,
        exchange: &mut Exchange,
    ) {
        if !self.quarantines() {
            return;
        }
        let refused: Vec<_> = accepted.refused().filter(|(errors, place)| is_kept(errors, place)).collect();
        let mut errors = refused.iter().map(|(errors, _)| *errors);
        otlp::parts(body, refused.iter().map(|(_, place)| place.clone()), |part| {
            let Some(errors) = errors.next() else { return false };
            let mut input = self.input(origin, InputFormat::Otlp, Reason::of(errors), errors, part.into(), exchange);
            // Identical records get different keys.
            let mut hasher = DefaultHasher::new();
            input.data.hash(&mut hasher);
            let pending = exchange.pending_inputs.get_or_insert_default();
            let before = pending.repeats.entry(hasher.finish()).or_insert(0);
            if *before > 0 {
                input.attributes.push(Attribute::new("before", before.to_string()));
            }
            *before += 1;
            pending.push(input, self.body_bytes_max)
        });
    }

    fn input(
        &self,
        origin: &Origin,
        format: InputFormat,
        reason: Reason,
        errors: &[FieldError],
        data: Bytes,
        exchange: &Exchange,
    ) -> Input {
        let received_at_ms = self.arrival(&exchange.caller).received_at_ms;
        let key_app = exchange.caller.app().map(str::to_owned);
        let app = match &key_app {
            Some(app) => app.clone(),
            None if !origin.app.is_empty() => origin.app.clone(),
            None => {
                let named = origin.attributes.iter().find(|attribute| attribute.name == "ce-appid");
                let named = named.map(|attribute| attribute.value.clone()).filter(|app| is_app_id(app));
                named.or_else(|| app_in(format, &data)).unwrap_or_default()
            }
        };
        let data = match format {
            InputFormat::SegmentMessage | InputFormat::SegmentBatch => mask_write_keys(data),
            _ => data,
        };
        let mut input = Input {
            id: new_id(received_at_ms).to_string(),
            format: format.name().to_owned(),
            content_type: origin.content_type.clone(),
            key_app,
            app,
            received_at_ms,
            request_id: exchange.ids.request().to_owned(),
            correlation_id: exchange.ids.correlation().to_owned(),
            attributes: origin.attributes.clone(),
            data,
            ..Input::default()
        };
        input.set_errors(reason, errors);
        input
    }

    /// Stores the collected input now that the reply is known, and reports the number of inputs in the reply.
    pub(crate) async fn quarantine_refused(
        &self,
        exchange: &mut Exchange,
        body: &Inbound,
        reply: &mut Response<Full<Bytes>>,
    ) {
        let (Some(quarantine), Some(pending)) = (&self.quarantine, exchange.pending_inputs.take()) else { return };
        let Destination::Bus(bus) = &self.destination else { return };
        // A client retries after a temporary refusal, and events of another app are not kept.
        if !matches!(reply.status(), StatusCode::OK | StatusCode::BAD_REQUEST) {
            return;
        }
        count("too_large", pending.too_large);
        if pending.inputs.is_empty() {
            return;
        }
        let offered = pending.inputs.len();
        if quarantine.pauses() {
            return count("paused", offered as u64);
        }
        if !body.has_room_for_reply(2 * pending.bytes) {
            return count("no_memory", offered as u64);
        }
        let keep = async {
            // The semaphore is never closed.
            let _permit = quarantine.permits.acquire().await;
            let inputs: Vec<RefusedInput> = pending.inputs.into_iter().filter_map(Input::into_refused).collect();
            bus.keep_input(inputs, quarantine.bytes_max).await
        };
        let kept = match tokio::time::timeout(KEEP_TIMEOUT, keep).await {
            Ok(Ok(kept)) => {
                let full = "refused input is not kept: quarantine_max_bytes is used up, or the bus is full";
                self.report(quarantine, kept.full.then(|| full.to_owned()));
                kept
            }
            Ok(Err(error)) => {
                self.report(quarantine, Some(format!("refused input is not kept: {}", chain(&error))));
                KeptInput::default()
            }
            Err(_) => {
                self.report(quarantine, Some("refused input is not kept: the bus does not answer".to_owned()));
                KeptInput::default()
            }
        };
        count("kept", kept.kept as u64);
        count(if kept.full { "full" } else { "failed" }, offered.saturating_sub(kept.kept) as u64);
        if kept.kept > 0 {
            reply.headers_mut().insert(QUARANTINED, HeaderValue::from(kept.kept));
        }
    }

    fn report(&self, quarantine: &Quarantine, failure: Option<String>) {
        if failure.is_some() {
            *quarantine.failed_at() = Some(Instant::now());
        }
        let was_failing = quarantine.failing.swap(failure.is_some(), Relaxed);
        match (&failure, was_failing) {
            (Some(why), false) => tracing::warn!(why, "quarantine"),
            (None, true) => tracing::info!("refused input is kept again"),
            _ => {}
        }
        if failure.is_some() || was_failing {
            self.readiness.set_warning(WARNING, failure);
        }
    }
}

/// Excludes events of another app, and events whose place in the body is unknown.
fn is_kept(errors: &[FieldError], place: &Range<usize>) -> bool {
    !is_of_other_app(errors) && *place != (0..0)
}

/// Replaces write keys with asterisks: they are API keys, and readers of dead letters must not learn them. Works on the
/// raw text, which may not be JSON.
fn mask_write_keys(data: Bytes) -> Bytes {
    const NAME: &[u8] = b"\"writeKey\"";
    let mut masked: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(found) = data[at..].windows(NAME.len()).position(|window| window == NAME) {
        at += found + NAME.len();
        let is_between = |byte: &u8| byte.is_ascii_whitespace() || *byte == b':';
        let start = at + data[at..].iter().take_while(|byte| is_between(byte)).count();
        if data.get(start) == Some(&b'"') {
            let length = data[start + 1..].iter().take_while(|byte| **byte != b'"').count();
            masked.get_or_insert_with(|| data.to_vec())[start + 1..][..length].fill(b'*');
        }
    }
    masked.map_or(data, Bytes::from)
}

fn count(outcome: &'static str, inputs: u64) {
    if inputs > 0 {
        metrics::gateway_quarantined(outcome, inputs);
    }
}

/// The app that an event names, if it can be read.
fn app_in(format: InputFormat, data: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(alias = "app_id", rename = "appId")]
        app_id: Option<String>,
    }
    #[derive(Deserialize)]
    struct Single {
        event: Event,
    }
    #[derive(Deserialize)]
    struct CloudEventApp {
        appid: Option<String>,
    }
    let app = match format {
        InputFormat::Json => serde_json::from_slice::<Single>(data).ok()?.event.app_id,
        InputFormat::JsonEvent => serde_json::from_slice::<Event>(data).ok()?.app_id,
        InputFormat::Protobuf => app_of(event_of(data)?).map(str::to_owned),
        InputFormat::ProtobufEvent => app_of(data).map(str::to_owned),
        InputFormat::CloudEvent => serde_json::from_slice::<CloudEventApp>(data).ok()?.appid,
        InputFormat::Otlp => otlp::app_of(data),
        _ => None,
    };
    app.filter(|app| is_app_id(app))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_keys_are_masked() {
        for (text, masked) in [
            (r#"{"event":"E"}"#, r#"{"event":"E"}"#),
            (r#"{"writeKey" : "secret","a":1}"#, r#"{"writeKey" : "******","a":1}"#),
            (r#"{"writeKey":"ab","writeKey":"c"#, r#"{"writeKey":"**","writeKey":"*"#),
            (r#"{"writeKey":null}"#, r#"{"writeKey":null}"#),
            (r#"{"writeKey""#, r#"{"writeKey""#),
        ] {
            assert_eq!(mask_write_keys(Bytes::from_static(text.as_bytes())), masked, "{text}");
        }
    }

    #[test]
    fn the_app_is_extracted_if_readable() {
        assert_eq!(app_in(InputFormat::Json, br#"{"event":{"appId":"shop","x":1}}"#).as_deref(), Some("shop"));
        assert_eq!(app_in(InputFormat::JsonEvent, br#"{"app_id":"shop"}"#).as_deref(), Some("shop"));
        assert_eq!(app_in(InputFormat::JsonEvent, br#"{"appId":"not an app"}"#), None);
        assert_eq!(app_in(InputFormat::JsonEvent, b"{"), None);
    }
}
