//! The events of a run, rendered once: a request is a copy of a stretch of the pool with ids, times
//! and keys patched in place. At 100,000 events/s next to the server there is no time to encode any.
//!
//! Invariant: event number `n` of a run is always template `n % len`, whichever request carries it.

use prost::Message as _;
use serde::Serialize as _;

use super::identity::{ID_LEN, IdTime, RunTag, patch_id};
use super::patch::{write_decimal, write_hex, write_varint};
use super::random::SplitMix64;
use super::sample;
use super::segment::{self, TEXT_TIME_LEN, TextTimes};
use crate::event::proto::EventEnvelope;

/// Enough to vary, few enough to stay in a cache.
const TEMPLATES: usize = 2_048;
/// Events lie this far back at most, as on a device that sends once a second.
const AGE_MS_MAX: u64 = 1_000;
const TIME_LEN: usize = 13;
/// A placeholder with the length of any time from 2001 to 2286, in digits and as a varint.
const TIME_BLANK: i64 = 1_111_111_111_111;
const KEY_LEN: usize = 27;
const KEY_NUMBER: std::ops::Range<usize> = 17..27;

/// How events travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Binary,
    /// Messages of Segment's API, always in a batch. The id of an event is its `messageId`.
    Segment,
}

/// What the events of a run look like.
#[derive(Clone, Debug)]
pub(super) struct Looks {
    pub(super) form: Form,
    pub(super) seed: u64,
    pub(super) app_ids: Vec<String>,
    pub(super) idempotency_keys: bool,
}

/// Where a template lies in the pool, and what changes in it.
#[derive(Clone, Copy, Debug)]
struct Spot {
    start: u32,
    id: u32,
    time: u32,
    key: Option<u32>,
    age_ms: u64,
}

/// The time of a request in the forms that are patched in.
struct Times {
    ms: u64,
    of_ids: IdTime,
    texts: TextTimes,
}

pub(super) struct Pool {
    form: Form,
    bytes: Vec<u8>,
    spots: Vec<Spot>,
}

impl Pool {
    pub(super) fn render(looks: &Looks, run: RunTag) -> Result<Self, String> {
        let mut random = SplitMix64::new(looks.seed);
        let mut pool = Self { form: looks.form, bytes: Vec::new(), spots: Vec::with_capacity(TEMPLATES) };
        for kind in sample::kinds(TEMPLATES, &mut random) {
            let app_id = &looks.app_ids[random.below(looks.app_ids.len() as u64) as usize];
            let mut event = sample::event(kind, app_id, &mut random);
            event.id = run.blank_id();
            event.timestamp_ms = TIME_BLANK;
            if looks.idempotency_keys {
                event.idempotency_key = blank_key(run);
            }
            let spot = pool.add(&event, random.below(AGE_MS_MAX))?;
            pool.spots.push(spot);
        }
        Ok(pool)
    }

    fn add(&mut self, event: &EventEnvelope, age_ms: u64) -> Result<Spot, String> {
        let start = self.bytes.len();
        let time = match self.form {
            Form::Json => {
                let mut json = serde_json::Serializer::new(&mut self.bytes);
                event.serialize(&mut json).map_err(|error| format!("render an event: {error}"))?;
                self.bytes.push(b',');
                TIME_BLANK.to_string().into_bytes()
            }
            Form::Segment => {
                let message = segment::message(event)?;
                serde_json::to_writer(&mut self.bytes, &message)
                    .map_err(|error| format!("render a message: {error}"))?;
                self.bytes.push(b',');
                segment::text_time(TIME_BLANK as u64).into_bytes()
            }
            Form::Binary => {
                // Field 1 of a batch as of a single request, length-delimited.
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
        Ok(Spot {
            start: start as u32,
            id: find(event.id.as_bytes())?,
            time: find(&time)?,
            key: if event.idempotency_key.is_empty() { None } else { Some(find(event.idempotency_key.as_bytes())?) },
            age_ms,
        })
    }

    /// Appends the body of a request with events `first..first + count`. A `single` body holds one event.
    pub(super) fn write_body(&self, out: &mut Vec<u8>, first: u64, count: usize, now_ms: u64, single: bool) {
        match (self.form, single) {
            (Form::Binary, _) => {}
            (Form::Json, true) => out.extend_from_slice(b"{\"event\":"),
            (Form::Json, false) => out.extend_from_slice(b"{\"events\":["),
            (Form::Segment, _) => out.extend_from_slice(b"{\"batch\":["),
        }
        let times = Times { ms: now_ms, of_ids: IdTime::new(now_ms), texts: TextTimes::until(now_ms) };
        let mut number = first;
        let end = first + count as u64;
        while number < end {
            // A stretch of neighbours is one copy.
            let from = (number % self.spots.len() as u64) as usize;
            let to = self.spots.len().min(from + (end - number) as usize);
            let pool_start = self.spots[from].start as usize;
            let pool_end = self.spots.get(to).map_or(self.bytes.len(), |spot| spot.start as usize);
            let out_start = out.len();
            out.extend_from_slice(&self.bytes[pool_start..pool_end]);
            let stretch = &mut out[out_start..];
            for spot in &self.spots[from..to] {
                self.patch(stretch, pool_start, spot, &times, number);
                number += 1;
            }
        }
        if self.form != Form::Binary {
            // Every template ends with the comma that its successor needs; the last has none.
            out.pop();
        }
        match (self.form, single) {
            (Form::Binary, _) => {}
            (Form::Json, true) => out.push(b'}'),
            (Form::Json, false) => out.extend_from_slice(b"]}"),
            (Form::Segment, _) => {
                out.extend_from_slice(b"],\"sentAt\":\"");
                out.extend_from_slice(segment::text_time(now_ms).as_bytes());
                out.extend_from_slice(b"\"}");
            }
        }
    }

    fn patch(&self, stretch: &mut [u8], pool_start: usize, spot: &Spot, times: &Times, number: u64) {
        let at = |position: u32| position as usize - pool_start;
        patch_id(&mut stretch[at(spot.id)..][..ID_LEN], &times.of_ids, number);
        let event_ms = times.ms.saturating_sub(spot.age_ms);
        match self.form {
            Form::Json => write_decimal(&mut stretch[at(spot.time)..][..TIME_LEN], event_ms),
            Form::Binary => write_varint(&mut stretch[at(spot.time)..][..6], event_ms),
            Form::Segment => times.texts.write(&mut stretch[at(spot.time)..][..TEXT_TIME_LEN], event_ms),
        }
        if let Some(key) = spot.key {
            write_hex(&mut stretch[at(key)..][..KEY_LEN][KEY_NUMBER], number);
        }
    }

    /// The mean size of a rendered event in bytes.
    pub(super) fn event_bytes(&self) -> usize {
        self.bytes.len() / self.spots.len()
    }

    pub(super) fn form(&self) -> Form {
        self.form
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

    fn looks(form: Form, idempotency_keys: bool) -> Looks {
        Looks { form, seed: 7, app_ids: vec!["shop".into(), "news".into(), "games".into()], idempotency_keys }
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
    fn every_event_is_accepted_in_both_forms_and_every_kind_occurs() {
        let run = RunTag::new(7, 1);
        for keys in [false, true] {
            let json = Pool::render(&looks(Form::Json, keys), run).unwrap();
            let binary = Pool::render(&looks(Form::Binary, keys), run).unwrap();
            let mut kinds = BTreeSet::new();
            // Steps that do not divide the pool, so that requests go round its end.
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
    fn messages_of_segment_are_the_events_that_they_are_made_from() {
        let run = RunTag::new(7, 1);
        let pool = Pool::render(&looks(Form::Segment, false), run).unwrap();
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
    fn a_single_event_is_a_request_of_its_own() {
        let run = RunTag::new(7, 1);
        for form in [Form::Json, Form::Binary] {
            let pool = Pool::render(&looks(form, true), run).unwrap();
            let mut body = Vec::new();
            pool.write_body(&mut body, 2_047, 1, NOW_MS, true);
            let accepted = match form {
                Form::Json => request::accept_json_single(&body, &ARRIVAL).unwrap(),
                Form::Binary | Form::Segment => request::accept_binary_single(&body, &ARRIVAL).unwrap(),
            };
            let events = read(&accepted);
            assert_eq!(events[0].idempotency_key, format!("{}-k00000007ff", run.name()));
            assert_eq!(kinds_of(&events, run, 2_047).len(), 1);
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_events_of_the_usual_size() {
        let run = RunTag::new(7, 1);
        let pool = Pool::render(&looks(Form::Json, false), run).unwrap();
        assert_eq!(pool.bytes, Pool::render(&looks(Form::Json, false), run).unwrap().bytes);
        let other_seed = Looks { seed: 8, ..looks(Form::Json, false) };
        assert_ne!(pool.bytes, Pool::render(&other_seed, run).unwrap().bytes);
        assert!((700..=750).contains(&pool.event_bytes()), "{}", pool.event_bytes());
    }
}
