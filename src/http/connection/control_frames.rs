//! Bounds the HTTP/2 frames that carry no part of a request: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM,
//! GOAWAY, empty DATA and unknown frames.
//!
//! hyper accepts them, and answers PING and SETTINGS, for as long as a client sends them and reads the answers
//! (CVE-2019-9512 and its successors). Here each of them uses up part of the connection's allowance, which is refilled
//! by requests, replies and time, the ordinary reasons to send such frames.
//!
//! Parses only the nine bytes of each frame header (RFC 9113, 4.1).

use bytes::Bytes;

use crate::http::reply::raw_reply;

/// The initial and maximum allowance.
const BURST: u32 = 1_000;
/// Refill per request: its windows, reset and priority, and more than one ping.
const REFILL_PER_REQUEST: u32 = 10;
/// Refill of one frame per this time.
const REFILL_INTERVAL_MS: u64 = 100;
/// Refill of one frame per this many reply bytes, since their reader updates windows. The answer to a PING has 17
/// bytes.
const REFILL_REPLY_BYTES: usize = 1024;

/// The preface precedes the first frame.
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
// RFC 9113, 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// Counts the frames of one connection.
pub(crate) struct ControlFrames {
    /// The header of the current frame, as far as it was received.
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// Remaining bytes of the preface or of a payload.
    payload_bytes: usize,
    /// How many more frames are allowed.
    allowance: u32,
    /// Time up to which the refill is credited, in milliseconds.
    counted_ms: u64,
    /// Reply bytes whose refill is not credited yet.
    reply_bytes: usize,
    /// The last stream that the client opened.
    last_stream: u32,
}

/// A client sends more such frames than it can have a use for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flood {
    last_stream: u32,
}

impl Flood {
    /// The last bytes for the client.
    pub(crate) fn last_bytes(&self) -> Bytes {
        raw_reply::http2_enhance_your_calm(self.last_stream)
    }
}

impl ControlFrames {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            head: [0; HEAD_BYTES],
            head_bytes: 0,
            payload_bytes: PREFACE_BYTES,
            allowance: BURST,
            counted_ms: now_ms,
            reply_bytes: 0,
            last_stream: 0,
        }
    }

    /// Counts the frames in received bytes.
    pub(crate) fn received(&mut self, mut bytes: &[u8], now_ms: u64) -> Result<(), Flood> {
        loop {
            let skipped = self.payload_bytes.min(bytes.len());
            self.payload_bytes -= skipped;
            bytes = &bytes[skipped..];
            let missing = &mut self.head[self.head_bytes..];
            let part = missing.len().min(bytes.len());
            missing[..part].copy_from_slice(&bytes[..part]);
            self.head_bytes += part;
            bytes = &bytes[part..];
            if self.head_bytes < HEAD_BYTES {
                return Ok(());
            }
            self.head_bytes = 0;
            self.begin(now_ms)?;
        }
    }

    /// Counts sent reply bytes.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.reply_bytes += bytes;
    }

    /// Counts a frame, given its complete header.
    fn begin(&mut self, now_ms: u64) -> Result<(), Flood> {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.payload_bytes = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            CONTINUATION => Ok(()),
            DATA if self.payload_bytes > 0 || flags & END_STREAM != 0 => Ok(()),
            HEADERS => {
                self.refill(REFILL_PER_REQUEST);
                self.last_stream = self.last_stream.max(u32::from_be_bytes(stream) & !(1 << 31));
                Ok(())
            }
            _ => self.consume(now_ms),
        }
    }

    fn consume(&mut self, now_ms: u64) -> Result<(), Flood> {
        if self.allowance == 0 {
            let by_time = now_ms.saturating_sub(self.counted_ms) / REFILL_INTERVAL_MS;
            self.counted_ms += by_time * REFILL_INTERVAL_MS;
            let by_replies = self.reply_bytes / REFILL_REPLY_BYTES;
            self.reply_bytes %= REFILL_REPLY_BYTES;
            self.refill(u32::try_from(by_time).unwrap_or(BURST));
            self.refill(u32::try_from(by_replies).unwrap_or(BURST));
        }
        self.allowance = self.allowance.checked_sub(1).ok_or(Flood { last_stream: self.last_stream })?;
        Ok(())
    }

    fn refill(&mut self, frames: u32) {
        self.allowance = self.allowance.saturating_add(frames).min(BURST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), &vec![0xff; payload][..]].concat()
    }

    fn opened() -> ControlFrames {
        let mut frames = ControlFrames::new(0);
        frames.received(&[b'P'; PREFACE_BYTES], 0).unwrap();
        frames
    }

    /// How many of `many` frames are accepted.
    fn taken(frames: &mut ControlFrames, many: usize, frame: &[u8], now_ms: u64) -> usize {
        let count = (0..many).take_while(|_| frames.received(frame, now_ms).is_ok()).count();
        // Skips the rest of a refused frame; a real connection would be closed.
        frames.payload_bytes = 0;
        count
    }

    #[test]
    fn the_allowance_is_refilled_by_requests_replies_and_time() {
        let (mut frames, ping) = (opened(), frame(PING, 0, 0, 8));
        assert_eq!(taken(&mut frames, 2_000, &ping, 0), 1_000);
        assert_eq!(taken(&mut frames, 2_000, &ping, 2_000), 20, "two seconds");
        frames.received(&frame(HEADERS, 5, 7, 20), 2_000).unwrap();
        assert_eq!(taken(&mut frames, 2_000, &ping, 2_000), 10, "a request");
        frames.sent(5 * REFILL_REPLY_BYTES);
        assert_eq!(taken(&mut frames, 2_000, &ping, 2_000), 5, "replies");
        assert_eq!(taken(&mut frames, 2_000, &ping, 3_600_000), 1_000, "an hour, and no more than a burst");
        assert_eq!(frames.received(&ping, 3_600_000), Err(Flood { last_stream: 7 }));
    }

    #[test]
    fn ping_answers_do_not_refill_the_allowance() {
        let (mut frames, ping) = (opened(), frame(PING, 0, 0, 8));
        let count = (0..1_000_000)
            .take_while(|_| {
                frames.sent(ping.len());
                frames.received(&ping, 0).is_ok()
            })
            .count();
        assert!(count < 1_100, "{count}");
    }

    #[test]
    fn frames_of_requests_are_not_counted() {
        let mut frames = opened();
        let request =
            [frame(HEADERS, 0, 1, 40), frame(CONTINUATION, 4, 1, 40), frame(DATA, 0, 1, 1), frame(DATA, 1, 1, 0)];
        assert_eq!(taken(&mut frames, 5_000, &request.concat(), 0), 5_000);
        for kind in (0..=255).filter(|kind| !matches!(*kind, HEADERS | CONTINUATION)) {
            assert_eq!(taken(&mut opened(), 5_000, &frame(kind, 0, 1, 0), 0), 1_000, "{kind}");
        }
    }

    #[test]
    fn chunking_does_not_affect_counting() {
        let sent = [&frame(SETTINGS, 0, 0, 6)[..], &frame(DATA, 0, 1, 16_384), &frame(PING, 0, 0, 8)].concat();
        for size in [1, 2, 8, 9, 10, 1_000, 1 << 20] {
            let mut frames = opened();
            let many = sent.repeat(249);
            assert!(many.chunks(size).all(|part| frames.received(part, 0).is_ok()), "{size}");
            assert_eq!(frames.allowance, 1_000 - 2 * 249, "{size}");
        }
    }
}
