//! The connections of a run. Each sends its next request as soon as it may.
//!
//! Invariants: a retried request has the same bytes, ids and keys included. Without idempotency keys, a request that
//! may have reached the server is never retried. Workers share nothing but a few counters.

use std::cell::RefCell;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::connection::{Connection, ResponseHead};
use super::load::{Load, Slice};
use super::request::RequestBuffer;
use super::response::Response;
use super::tally::Tally;

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// The wait after a 429 or 503 without Retry-After, and the longest wait that is honoured.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A request is abandoned after this time of retries, also in a run without a duration.
const RETRIES_TIME_MAX: Duration = Duration::from_secs(60);

/// Runs one thread's connections until the slice ends; blocks.
pub(super) fn work(load: &Load, slice: &Slice, thread: usize) -> std::io::Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tally = RefCell::new(Tally::default());
    let connections = (thread..load.connections).step_by(load.threads);
    runtime.block_on(join_all(connections.map(|_| Driver { load, slice, tally: &tally }.drive())));
    Ok(tally.into_inner())
}

/// One connection's view of the load.
#[derive(Clone, Copy)]
struct Driver<'a> {
    load: &'a Load,
    slice: &'a Slice,
    tally: &'a RefCell<Tally>,
}

/// The events of one request, and the time from which their latency counts.
#[derive(Clone, Copy)]
struct PendingRequest {
    first: u64,
    count: usize,
    due: Instant,
}

impl Driver<'_> {
    async fn drive(self) {
        let load = self.load;
        let mut request = RequestBuffer::new(&self.slice.target, load);
        let mut connection = None;
        while let Some(due) = self.next_turn().await {
            let Some((first, count)) = load.claim() else { break };
            request.fill(load, first, count);
            self.tally.borrow_mut().requests += 1;
            self.deliver(&mut connection, request.bytes(), PendingRequest { first, count, due }).await;
        }
    }

    /// Waits for this connection's next slot in the schedule. Latency counts from the scheduled time even if no
    /// connection was free then; otherwise a stalled server would hide it.
    async fn next_turn(&self) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let Some(rate) = self.load.rate else { return Some(Instant::now()) };
        let slot = self.slice.next_slot.fetch_add(1, Relaxed);
        let offset = slot as f64 * self.load.batch_events as f64 / rate;
        let due = self.slice.started + Duration::try_from_secs_f64(offset).unwrap_or(Duration::MAX / 4);
        if self.slice.until.is_some_and(|until| due >= until) {
            return None;
        }
        if due > Instant::now() {
            self.load.stop.run_until_cancelled(tokio::time::sleep_until(due.into())).await?;
        }
        Some(due)
    }

    fn is_over(&self) -> bool {
        self.load.stop.is_cancelled() || self.slice.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Sends a request until it has an outcome or is abandoned.
    async fn deliver(&self, connection: &mut Option<Connection>, request: &[u8], pending: PendingRequest) {
        let mut may_be_stored = false;
        let abandon = |may_be_stored: bool| {
            let mut tally = self.tally.borrow_mut();
            let events = if may_be_stored { &mut tally.unacknowledged } else { &mut tally.refused };
            *events += pending.count as u64;
        };
        loop {
            let pause = match self.attempt(connection, request, pending, may_be_stored).await {
                Attempt::Done => return,
                Attempt::NotSent => RECONNECT_PAUSE,
                Attempt::Later(pause) => pause,
                Attempt::Unknown => {
                    may_be_stored = true;
                    if !self.load.idempotency_keys {
                        return abandon(true);
                    }
                    RECONNECT_PAUSE
                }
            };
            if self.is_over() || pending.due.elapsed() > RETRIES_TIME_MAX {
                return abandon(may_be_stored);
            }
            // A stop cuts the pause short, and the next attempt is the last.
            self.load.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            self.tally.borrow_mut().retries += 1;
        }
    }

    async fn attempt(
        &self,
        connection: &mut Option<Connection>,
        request: &[u8],
        pending: PendingRequest,
        may_be_stored: bool,
    ) -> Attempt {
        let mut open = match connection.take() {
            Some(open) => open,
            None => match Connection::open(self.slice.address, self.slice.security.as_ref()).await {
                Ok(open) => open,
                Err(error) => {
                    self.count_broken(&error);
                    return Attempt::NotSent;
                }
            },
        };
        let round_trips = self.slice.round_trips.as_deref();
        if let Some(round_trips) = round_trips {
            round_trips.sent(pending.first, pending.count, Instant::now());
        }
        let exchange = tokio::time::timeout(RESPONSE_TIMEOUT, open.exchange(request)).await;
        let answered = Instant::now();
        match exchange.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
            Err(error) => {
                self.count_broken(&error);
                Attempt::Unknown
            }
            Ok(head) => {
                if let Some(round_trips) = round_trips.filter(|_| head.status < 300) {
                    round_trips.acknowledged(pending.first, pending.count, answered);
                }
                let attempt = self.record(&head, open.body(&head), pending, answered, may_be_stored);
                if !head.close {
                    *connection = Some(open);
                }
                attempt
            }
        }
    }

    fn record(
        &self,
        head: &ResponseHead,
        body: &[u8],
        pending: PendingRequest,
        answered: Instant,
        may_be_stored: bool,
    ) -> Attempt {
        let mut tally = self.tally.borrow_mut();
        *tally.statuses.entry(head.status).or_default() += 1;
        match head.status {
            200..300 => {
                let before = tally.accepted;
                let response = Response {
                    format: self.load.pool.format(),
                    single: self.load.single(),
                    first: pending.first,
                    count: pending.count,
                    body,
                    may_be_duplicate: may_be_stored,
                };
                response.count_into(&mut tally);
                tally.latency.record(answered.saturating_duration_since(pending.due));
                self.load.accepted.fetch_add(tally.accepted - before, Relaxed);
                Attempt::Done
            }
            status @ (429 | 503) => {
                tally.problem(|| format!("HTTP {status}: {}", summary(body)));
                Attempt::Later(head.retry_after.map_or(RETRY_PAUSE, |pause| pause.min(RETRY_PAUSE_MAX)))
            }
            status => {
                tally.refused += pending.count as u64;
                tally.problem(|| format!("HTTP {status}: {}", summary(body)));
                Attempt::Done
            }
        }
    }

    fn count_broken(&self, error: &std::io::Error) {
        let mut tally = self.tally.borrow_mut();
        tally.broken_connections += 1;
        tally.problem(|| format!("connection to {}: {error}", self.slice.target.url));
    }
}

/// The result of sending a request once.
enum Attempt {
    Done,
    /// Nothing was sent.
    NotSent,
    /// Refused for now. Nothing was stored.
    Later(Duration),
    /// It may have been stored: there was no response.
    Unknown,
}

/// The detail of a problem document, or the start of any other body.
fn summary(body: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    match document["detail"].as_str().or_else(|| document["title"].as_str()) {
        Some(text) => text.to_owned(),
        None => String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(120).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::AtomicU64;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::cli::bench::connection::Target;
    use crate::cli::bench::pool::{BodyFormat, Pool, PoolOptions};
    use crate::cli::bench::run_ids::RunTag;

    /// A peer that reads requests and answers each with the next of `answers`. An empty one closes the connection
    /// without a response. Returns the bodies that it read.
    fn serve(listener: TcpListener, answers: &[&str]) -> Vec<Vec<u8>> {
        let (mut bodies, mut connection): (_, Option<TcpStream>) = (Vec::new(), None);
        for answer in answers {
            let mut stream = connection.take().unwrap_or_else(|| listener.accept().unwrap().0);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length:")).unwrap();
            let mut body = vec![0; length.trim().parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            bodies.push(body);
            if !answer.is_empty() {
                stream.write_all(answer.as_bytes()).unwrap();
                connection = Some(stream);
            }
        }
        bodies
    }

    fn http(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    /// Sends `count` events in batches of two over one connection.
    fn run(answers: &[&str], count: u64, idempotency_keys: bool) -> (Tally, Vec<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let options = PoolOptions { format: BodyFormat::Json, seed: 1, app_ids: vec!["shop".into()], idempotency_keys };
        let load = Load {
            pool: Pool::render(&options, RunTag::new(1, 1)).unwrap(),
            batch_events: 2,
            connections: 1,
            threads: 1,
            api_key: None,
            app_id: "shop".into(),
            prepared: None,
            idempotency_keys,
            rate: None,
            count: Some(count),
            stop: CancellationToken::new(),
            next_event: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        };
        let slice = Slice {
            target: Target::parse(&format!("http://{address}")).unwrap(),
            security: None,
            address,
            started: Instant::now(),
            until: None,
            next_slot: AtomicU64::new(0),
            round_trips: None,
        };
        std::thread::scope(|scope| {
            let server = scope.spawn(|| serve(listener, answers));
            let tally = work(&load, &slice, 0).unwrap();
            (tally, server.join().unwrap())
        })
    }

    const ALL: &str = r#"{"acceptedCount":2,"results":[{"status":"accepted"},{"index":1,"status":"accepted"}]}"#;

    #[test]
    fn a_refused_request_is_retried_unchanged() {
        let busy = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";
        let one = http("200 OK", r#"{"acceptedCount":1}"#);
        let (tally, bodies) = run(&[busy, busy, &http("200 OK", ALL), &one], 3, false);
        assert_eq!((tally.requests, tally.retries, tally.accepted), (2, 2, 3));
        assert_eq!((tally.statuses[&503], tally.statuses[&200]), (2, 2));
        assert!(bodies[0] == bodies[1] && bodies[1] == bodies[2] && bodies[2] != bodies[3]);
        assert_eq!(tally.accepted_numbers.len(), 3);
    }

    #[test]
    fn without_keys_an_unanswered_request_is_not_retried() {
        let (tally, bodies) = run(&["", &http("200 OK", ALL)], 4, false);
        assert_eq!((tally.accepted, tally.unacknowledged, tally.retries, tally.broken_connections), (2, 2, 0, 1));
        assert_ne!(bodies[0], bodies[1]);
        assert!(!tally.accepted_numbers.contains(0) && tally.accepted_numbers.contains(2));
    }

    #[test]
    fn with_keys_an_unanswered_request_is_retried() {
        let duplicates = ALL.replace(r#""accepted"}"#, r#""accepted","duplicate":true}"#);
        let (tally, bodies) = run(&["", &http("200 OK", &duplicates)], 2, true);
        assert_eq!((tally.accepted, tally.unacknowledged, tally.retries, tally.duplicates), (2, 0, 1, 2));
        assert_eq!(bodies[0], bodies[1]);
    }

    #[test]
    fn a_refusal_is_counted_with_its_reason() {
        let refusal = http("401 Unauthorized", r#"{"title":"Unauthorized","detail":"the API key is not known"}"#);
        let (tally, _) = run(&[&refusal], 2, false);
        assert_eq!((tally.accepted, tally.refused, tally.statuses[&401]), (0, 2, 1));
        assert_eq!(tally.first_problem.as_deref(), Some("HTTP 401: the API key is not known"));
    }
}
