//! The events of a run, rendered once. A request copies a range of the pool and patches ids, times and keys in place.
//! At 100,000 events/s on the server's machine there is no time to encode any.
//!
//! Invariant: event number `n` of a run is always template `n % len`, whichever request has it.

use prost::Message as _;
use serde::Serialize as _;

use super::patch::{write_decimal, write_hex, write_varint};
use super::random::SplitMix64;
use super::run_ids::{ID_LEN, IdTime, RunTag, patch_id};
use super::sample;
use super::segment::{self, TEXT_TIME_LEN, TextTimes};
use crate::event::proto::EventEnvelope;

/// Enough for variety, few enough for a cache.
const TEMPLATES: usize = 2_048;
/// Maximum age of an event, as on a device that sends once a second.
const AGE_MS_MAX: u64 = 1_000;
const TIME_LEN: usize = 13;
/// A placeholder as long as any time from 2001 to 2286, in digits and as a varint.
const TIME_BLANK: i64 = 1_111_111_111_111;
const KEY_LEN: usize = 27;
const KEY_NUMBER: std::ops::Range<usize> = 17..27;

/// The encoding of request bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFormat {
    Json,
    Binary,
    /// Batches of Segment's API. The id of an event is its `messageId`.
    Segment,
}

/// Options for the events of a run.
#[derive(Clone, Debug)]
pub(super) struct PoolOptions {
    pub(super) format: BodyFormat,
    pub(super) seed: u64,
    pub(super) app_ids: Vec<String>,
    pub(super) idempotency_keys: bool,
}

/// The place of a template in the pool, and of the fields to patch.
#[derive(Clone, Copy, Debug)]
struct Template {
    start: u32,
    id: u32,
    time: u32,
    key: Option<u32>,
    age_ms: u64,
}

/// The time of a request, in every encoding.
struct Times {
    ms: u64,
    of_ids: IdTime,
    texts: TextTimes,
}

pub(super) struct Pool {
    format: BodyFormat,
    bytes: Vec<u8>,
    templates: Vec<Template>,
}

impl Pool {
    pub(super) fn render(options: &PoolOptions, run: RunTag) -> Result<Self, String> {
        let mut random = SplitMix64::new(options.seed);
        let mut pool = Self { format: options.format, bytes: Vec::new(), templates: Vec::with_capacity(TEMPLATES) };
        for kind in sample::kinds(TEMPLATES, &mut random) {
            let app_id = &options.app_ids[random.below(options.app_ids.len() as u64) as usize];
            let mut event = sample::event(kind, app_id, &mut random);
            event.id = run.blank_id();
            event.timestamp_ms = TIME_BLANK;
            if options.idempotency_keys {
                event.idempotency_key = blank_key(run);
            }
            let template = pool.add(&event, random.below(AGE_MS_MAX))?;
            pool.templates.push(template);
        }
        Ok(pool)
    }

    fn add(&mut self, event: &EventEnvelope, age_ms: u64) -> Result<Template, String> {
        let start = self.bytes.len();
        let time = match self.format {
            BodyFormat::Json => {
                let mut json = serde_json::Serializer::new(&mut self.bytes);
                event.serialize(&mut json).map_err(|error| format!("render an event: {error}"))?;
                self.bytes.push(b',');
                TIME_BLANK.to_string().into_bytes()
            }
            BodyFormat::Segment => {
                let message = segment::message(event)?;
                serde_json::to_writer(&mut self.bytes, &message)
                    .map_err(|error| format!("render a message: {error}"))?;
                self.bytes.push(b',');
                segment::text_time(TIME_BLANK as u64).into_bytes()
            }
            BodyFormat::Binary => {
                // Field 1 of both a batch and a single request, length-delimited.
                self.bytes.push(0x0a);
                event.encode_length_delimited(&mut self.bytes).map_err(|error| format!("render an event: {error}"))?;
                let mut varint = Vec::new();
                prost::encoding::encode_varint(TIME_BLANK as u64, &mut varint);
                varint
            }
        };
        let find = |blank: &[u8]| -> Result<u32, String> {
            let at = self.bytes[start..].windows(blank.len()).position(|window| window == blank);
            at.map(|at| (start + at) as u32).ok_or_else(|| "find a blank in a rendered event".to_owned())
        };
        Ok(Template {
            start: start as u32,
            id: find(event.id.as_bytes())?,
            time: find(&time)?,
            key: if event.idempotency_key.is_empty() { None } else { Some(find(event.idempotency_key.as_bytes())?) },
            age_ms,
        })
    }

    /// Appends the body of a request with events `first..first + count`. A `single` body has one event.
    pub(super) fn write_body(&self, out: &mut Vec<u8>, first: u64, count: usize, now_ms: u64, single: bool) {
        match (self.format, single) {
            (BodyFormat::Binary, _) => {}
            (BodyFormat::Json, true) => out.extend_from_slice(b"{\"event\":"),
            (BodyFormat::Json, false) => out.extend_from_slice(b"{\"events\":["),
            (BodyFormat::Segment, _) => out.extend_from_slice(b"{\"batch\":["),
        }
        let times = Times { ms: now_ms, of_ids: IdTime::new(now_ms), texts: TextTimes::until(now_ms) };
        let mut number = first;
        let end = first + count as u64;
        while number < end {
            // Neighbouring events are one copy.
            let from = (number % self.templates.len() as u64) as usize;
            let to = self.templates.len().min(from + (end - number) as usize);
            let pool_start = self.templates[from].start as usize;
            let pool_end = self.templates.get(to).map_or(self.bytes.len(), |template| template.start as usize);
            let out_start = out.len();
            out.extend_from_slice(&self.bytes[pool_start..pool_end]);
            let stretch = &mut out[out_start..];
            for template in &self.templates[from..to] {
                self.patch(stretch, pool_start, template, &times, number);
                number += 1;
            }
        }
        if self.format != BodyFormat::Binary {
            // Every template ends with a comma. Remove the last one.
            out.pop();
        }
        match (self.format, single) {
            (BodyFormat::Binary, _) => {}
            (BodyFormat::Json, true) => out.push(b'}'),
            (BodyFormat::Json, false) => out.extend_from_slice(b"]}"),
            (BodyFormat::Segment, _) => {
                out.extend_from_slice(b"],\"sentAt\":\"");
                out.extend_from_slice(segment::text_time(now_ms).as_bytes());
                out.extend_from_slice(b"\"}");
            }
        }
    }

    fn patch(&self, stretch: &mut [u8], pool_start: usize, template: &Template, times: &Times, number: u64) {
        let at = |position: u32| position as usize - pool_start;
        patch_id(&mut stretch[at(template.id)..][..ID_LEN], &times.of_ids, number);
        let event_ms = times.ms.saturating_sub(template.age_ms);
        match self.format {
            BodyFormat::Json => write_decimal(&mut stretch[at(template.time)..][..TIME_LEN], event_ms),
            BodyFormat::Binary => write_varint(&mut stretch[at(template.time)..][..6], event_ms),
            BodyFormat::Segment => times.texts.write(&mut stretch[at(template.time)..][..TEXT_TIME_LEN], event_ms),
        }
        if let Some(key) = template.key {
            write_hex(&mut stretch[at(key)..][..KEY_LEN][KEY_NUMBER], number);
        }
    }

    /// The mean size of a rendered event in bytes.
    pub(super) fn event_bytes(&self) -> usize {
        self.bytes.len() / self.templates.len()
    }

    pub(super) fn format(&self) -> BodyFormat {
        self.format
    }
}

fn blank_key(run: RunTag) -> String {
    format!("{}-k{:010}", run.name(), 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::event::request::{self, Accepted};
    use crate::event::{Arrival, EVENT_BYTES_MAX, Kind};
    use prost::Message;

    const NOW_MS: u64 = 1_760_000_000_123;

    fn options(format: BodyFormat, idempotency_keys: bool) -> PoolOptions {
        PoolOptions { format, seed: 7, app_ids: vec!["shop".into(), "news".into(), "games".into()], idempotency_keys }
    }

    const ARRIVAL: Arrival<'static> =
        Arrival { received_at_ms: NOW_MS as i64, key_app: None, event_bytes_max: EVENT_BYTES_MAX, assigned_id: None };

    fn read(accepted: &Accepted) -> Vec<EventEnvelope> {
        let accepted = accepted.iter().map(|event| event.expect("accept an event of the pool"));
        accepted.map(|event| EventEnvelope::decode(event.bytes).unwrap()).collect()
    }

    fn kinds_of(events: &[EventEnvelope], run: RunTag, first: u64) -> BTreeSet<&'static str> {
        let mut kinds = BTreeSet::new();
        for (number, sent) in (first..).zip(events) {
            assert_eq!(run.number(&sent.id), Some(number));
            let age = NOW_MS as i64 - sent.timestamp_ms;
            assert!((0..=AGE_MS_MAX as i64).contains(&age), "{}", sent.timestamp_ms);
            kinds.insert(Kind::of(sent.payload.as_ref().unwrap()).field);
        }
        kinds
    }

    #[test]
    fn every_event_is_accepted_in_both_formats_and_every_kind_occurs() {
        let run = RunTag::new(7, 1);
        for keys in [false, true] {
            let json = Pool::render(&options(BodyFormat::Json, keys), run).unwrap();
            let binary = Pool::render(&options(BodyFormat::Binary, keys), run).unwrap();
            let mut kinds = BTreeSet::new();
            // A step that does not divide the pool, so that requests wrap around its end.
            for first in (0..TEMPLATES as u64 + 200).step_by(100) {
                let (mut json_body, mut binary_body) = (b"head".to_vec(), Vec::new());
                json.write_body(&mut json_body, first, 100, NOW_MS, false);
                binary.write_body(&mut binary_body, first, 100, NOW_MS, false);
                let events = read(&request::accept_json_batch(&json_body[4..], 1_000, &ARRIVAL).unwrap());
                assert_eq!(events, read(&request::accept_binary_batch(&binary_body, 1_000, &ARRIVAL).unwrap()));
                assert_eq!(events.len(), 100);
                assert!(events.iter().all(|event| event.idempotency_key.is_empty() != keys));
                kinds.extend(kinds_of(&events, run, first));
            }
            assert_eq!(kinds.len(), Kind::all().len());
        }
    }

    #[test]
    fn segment_messages_match_their_events() {
        let run = RunTag::new(7, 1);
        let pool = Pool::render(&options(BodyFormat::Segment, false), run).unwrap();
        assert!((700..=800).contains(&pool.event_bytes()), "{}", pool.event_bytes());
        for first in (0..TEMPLATES as u64 + 200).step_by(100) {
            let mut body = Vec::new();
            pool.write_body(&mut body, first, 100, NOW_MS, false);
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["sentAt"], "2025-10-09T08:53:20.123Z");
            let batch = body["batch"].as_array().unwrap();
            assert_eq!(batch.len(), 100);
            for (number, message) in (first..).zip(batch) {
                assert_eq!(run.number(message["messageId"].as_str().unwrap()), Some(number));
                let at: jiff::Timestamp = message["timestamp"].as_str().unwrap().parse().unwrap();
                let age = NOW_MS as i64 - at.as_millisecond();
                assert!((0..=AGE_MS_MAX as i64).contains(&age), "{at}");
            }
        }
    }

    #[test]
    fn single_requests_have_one_event() {
        let run = RunTag::new(7, 1);
        for format in [BodyFormat::Json, BodyFormat::Binary] {
            let pool = Pool::render(&options(format, true), run).unwrap();
            let mut body = Vec::new();
            pool.write_body(&mut body, 2_047, 1, NOW_MS, true);
            let accepted = match format {
                BodyFormat::Json => request::accept_json_single(&body, &ARRIVAL).unwrap(),
                BodyFormat::Binary | BodyFormat::Segment => request::accept_binary_single(&body, &ARRIVAL).unwrap(),
            };
            let events = read(&accepted);
            assert_eq!(events[0].idempotency_key, format!("{}-k00000007ff", run.name()));
            assert_eq!(kinds_of(&events, run, 2_047).len(), 1);
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_events_of_the_usual_size() {
        let run = RunTag::new(7, 1);
        let pool = Pool::render(&options(BodyFormat::Json, false), run).unwrap();
        assert_eq!(pool.bytes, Pool::render(&options(BodyFormat::Json, false), run).unwrap().bytes);
        let other_seed = PoolOptions { seed: 8, ..options(BodyFormat::Json, false) };
        assert_ne!(pool.bytes, Pool::render(&other_seed, run).unwrap().bytes);
        assert!((700..=750).contains(&pool.event_bytes()), "{}", pool.event_bytes());
    }
}
