//! Reads the gateway's response to a request: which of its events were accepted.

use prost::Message as _;
use serde::Deserialize;

use super::pool::BodyFormat;
use super::tally::Tally;
use crate::event::proto::{IngestEventBatchResponse, IngestEventResponse};

/// A 2xx response to a batch or a single request.
pub(super) struct Response<'a> {
    pub(super) format: BodyFormat,
    pub(super) single: bool,
    /// The number of the request's first event, and the number of its events.
    pub(super) first: u64,
    pub(super) count: usize,
    pub(super) body: &'a [u8],
    /// An event of this request may have been stored earlier, under the same idempotency key.
    pub(super) may_be_duplicate: bool,
}

impl Response<'_> {
    pub(super) fn count_into(&self, tally: &mut Tally) {
        if self.format == BodyFormat::Segment {
            self.count_messages(tally);
        } else if self.single {
            self.accept(tally, 0);
            tally.duplicates += u64::from(self.may_be_duplicate && self.duplicate_single());
        } else if !self.may_be_duplicate && self.all_accepted() {
            tally.accepted_numbers.add_range(self.first, self.count);
            tally.accepted += self.count as u64;
        } else {
            self.count_items(tally);
        }
    }

    fn accept(&self, tally: &mut Tally, index: usize) {
        tally.accepted_numbers.add_range(self.first + index as u64, 1);
        tally.accepted += 1;
    }

    /// Fast path for the usual case, from the first bytes: reading every outcome would cost more than the rest of the
    /// generator.
    fn all_accepted(&self) -> bool {
        match self.format {
            BodyFormat::Json | BodyFormat::Segment => {
                let members = [&b"\"acceptedCount\":"[..], b"\"accepted_count\":"];
                let body = self.body.strip_prefix(b"{").unwrap_or(self.body);
                let digits = members.iter().find_map(|member| body.strip_prefix(*member)).unwrap_or_default();
                let len = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
                std::str::from_utf8(&digits[..len]).ok().and_then(|text| text.parse().ok()) == Some(self.count)
            }
            BodyFormat::Binary => {
                let mut rest = self.body;
                rest.first() == Some(&0x08) && {
                    rest = &rest[1..];
                    prost::encoding::decode_varint(&mut rest).is_ok_and(|count| count == self.count as u64)
                }
            }
        }
    }

    fn duplicate_single(&self) -> bool {
        match self.format {
            BodyFormat::Json | BodyFormat::Segment => {
                serde_json::from_slice::<ItemDocument>(self.body).is_ok_and(|item| item.duplicate)
            }
            BodyFormat::Binary => IngestEventResponse::decode(self.body).is_ok_and(|item| item.duplicate),
        }
    }

    /// Segment's API reports success for the batch and lists only the first of its invalid messages.
    fn count_messages(&self, tally: &mut Tally) {
        let Ok(MessagesDocument { success: true, errors }) = serde_json::from_slice(self.body) else {
            tally.unacknowledged += self.count as u64;
            return tally.problem(|| "an answer of 2xx that cannot be read".to_owned());
        };
        if errors.is_empty() {
            tally.accepted_numbers.add_range(self.first, self.count);
            tally.accepted += self.count as u64;
            return;
        }
        // There may be more of them than are listed.
        tally.rejected += errors.len() as u64;
        tally.unacknowledged += self.count.saturating_sub(errors.len()) as u64;
        tally.problem(|| format!("a message was rejected: {}: {}", errors[0].pointer, errors[0].detail));
    }

    fn count_items(&self, tally: &mut Tally) {
        let items = match self.format {
            BodyFormat::Json | BodyFormat::Segment => {
                serde_json::from_slice::<BatchDocument>(self.body).ok().map(|batch| batch.results)
            }
            BodyFormat::Binary => IngestEventBatchResponse::decode(self.body).ok().map(|batch| {
                let item = |result: crate::event::proto::EventResult| ItemDocument {
                    index: result.index as usize,
                    status: result.status,
                    error: result.error,
                    duplicate: result.duplicate,
                };
                batch.results.into_iter().map(item).collect()
            }),
        };
        let Some(items) = items else {
            tally.unacknowledged += self.count as u64;
            tally.problem(|| "an answer of 2xx that cannot be read".to_owned());
            return;
        };
        let outcomes = items.len().min(self.count);
        for item in items.into_iter().filter(|item| item.index < self.count) {
            if item.status == "accepted" {
                self.accept(tally, item.index);
                tally.duplicates += u64::from(item.duplicate);
            } else {
                tally.rejected += 1;
                tally.problem(|| format!("event {} of a batch was rejected: {}", item.index, item.error));
            }
        }
        tally.unacknowledged += (self.count - outcomes) as u64;
    }
}

#[derive(Deserialize)]
struct MessagesDocument {
    success: bool,
    #[serde(default)]
    errors: Vec<MessageError>,
}

#[derive(Deserialize)]
struct MessageError {
    pointer: String,
    detail: String,
}

#[derive(Deserialize)]
struct BatchDocument {
    results: Vec<ItemDocument>,
}

/// proto3 JSON may leave out members with default values.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct ItemDocument {
    index: usize,
    status: String,
    error: String,
    duplicate: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::proto::EventResult;

    fn count(format: BodyFormat, body: &[u8], may_be_duplicate: bool) -> Tally {
        let mut tally = Tally::default();
        Response { format, single: false, first: 1_000, count: 3, body, may_be_duplicate }.count_into(&mut tally);
        tally
    }

    #[test]
    fn a_fully_accepted_batch_is_counted() {
        let json = br#"{"acceptedCount":3,"rejectedCount":0,"results":[]}"#;
        let binary = IngestEventBatchResponse { accepted_count: 3, ..Default::default() }.encode_to_vec();
        for tally in [count(BodyFormat::Json, json, false), count(BodyFormat::Binary, &binary, false)] {
            assert_eq!((tally.accepted, tally.rejected, tally.accepted_numbers.len()), (3, 0, 3));
            assert!(tally.accepted_numbers.contains(1_002));
        }
    }

    #[test]
    fn outcomes_are_read_item_by_item_if_they_differ() {
        let json = br#"{"acceptedCount":2,"rejectedCount":1,"results":[{"eventId":"a","status":"accepted"},
            {"index":1,"status":"rejected","error":"/deviceId: is required"},
            {"index":2,"status":"accepted","duplicate":true}]}"#;
        let result = |index, status: &str, duplicate| EventResult {
            index,
            status: status.into(),
            error: "/deviceId: is required".into(),
            duplicate,
            ..Default::default()
        };
        let results = vec![result(0, "accepted", false), result(1, "rejected", false), result(2, "accepted", true)];
        let binary = IngestEventBatchResponse { accepted_count: 2, rejected_count: 1, results }.encode_to_vec();
        for tally in [count(BodyFormat::Json, json, true), count(BodyFormat::Binary, &binary, true)] {
            assert_eq!((tally.accepted, tally.rejected, tally.duplicates, tally.unacknowledged), (2, 1, 1, 0));
            assert!(tally.accepted_numbers.contains(1_000) && !tally.accepted_numbers.contains(1_001));
            assert_eq!(tally.first_problem.as_deref(), Some("event 1 of a batch was rejected: /deviceId: is required"));
        }
    }

    #[test]
    fn messages_are_accepted_unless_some_are_listed() {
        let tally = count(BodyFormat::Segment, br#"{"success":true}"#, true);
        assert_eq!((tally.accepted, tally.accepted_numbers.len()), (3, 3));
        let named = br#"{"success":true,"errors":[{"pointer":"/batch/1/type","detail":"is required"}]}"#;
        let tally = count(BodyFormat::Segment, named, false);
        assert_eq!((tally.accepted, tally.rejected, tally.unacknowledged), (0, 1, 2));
        assert_eq!(tally.first_problem.as_deref(), Some("a message was rejected: /batch/1/type: is required"));
        assert_eq!(count(BodyFormat::Segment, b"{}", false).unacknowledged, 3);
    }

    #[test]
    fn an_unreadable_response_accepts_nothing() {
        for body in [&b"{}"[..], b"", b"{\"acceptedCount\":2}", b"null"] {
            let tally = count(BodyFormat::Json, body, false);
            assert_eq!((tally.accepted, tally.unacknowledged), (0, 3), "{body:?}");
        }
    }
}
