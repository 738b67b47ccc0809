//! The embedded bus's index of message ids against an indexed table in the same SQLite file and the same transactions,
//! on the whole path of an event: accept JSON, look up its id, commit the group with an fsync, encode it to Parquet.
//!
//! Two producers accept and encode, one writer commits, as on a machine with two cores. Both sides start with
//! `CAUSALITY_BENCH_KEYS` ids in the window, more than fit SQLite's page cache. The table is spared expiry.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

// For the included modules.
use causality::base;
use causality::event::{Arrival, EVENT_BYTES_MAX, EventRef, request};
use causality::warehouse::{Compression, EncodeSettings, Encoder, Origin};
use dedup::index::Dedup;
use dedup::key::DedupKey;
use rusqlite::Connection;

#[path = "plain/compare.rs"]
#[allow(dead_code, reason = "each user has its own part")]
mod compare;
#[path = "../src/bus/embedded/dedup"]
#[allow(dead_code, unused_imports, reason = "the bench uses a part, without its tests")]
mod dedup {
    pub(crate) mod index;
    pub(crate) mod key;
    mod sorted_run;
}
#[path = "../src/bus/embedded/pack.rs"]
#[allow(dead_code, unused_imports, reason = "the bench uses a part, without its tests")]
mod pack;
mod shop;

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 5_000_000;
const EVENTS: u64 = 200_000;
const RUNS: usize = 7;
const REQUEST_EVENTS: u64 = 100;
/// As in the product.
const GROUP_BYTES_MAX: usize = 2 << 20;
const NOW_S: u32 = 1_767_225_600;
const WINDOW_S: u32 = 600;

/// Ids that no run repeats.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// The events of a request, encoded, and the keys of those with an id.
struct Request {
    records: Vec<u8>,
    keys: Vec<DedupKey>,
}

/// One way to remember ids, and its file.
struct Side {
    connection: Connection,
    /// `None` is the table.
    index: Option<Dedup>,
    packer: pack::Packer,
    next_sequence: u64,
}

fn main() {
    let parent = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent).expect("a directory for the bench");
    let keys = std::env::var("CAUSALITY_BENCH_KEYS").map_or(KEYS, |text| text.parse().expect("a number"));
    let mut ours = Side::open(&dir.path().join("index.db"), true);
    let mut plain = Side::open(&dir.path().join("table.db"), false);
    ours.fill(keys);
    plain.fill(keys);
    let bodies = bodies();
    let mut holds = true;
    for percent in [0, 10, 100] {
        let mut costs: [Vec<f64>; 4] = Default::default();
        for _ in 0..RUNS {
            for (side, at) in [(&mut ours, 0), (&mut plain, 2)] {
                let (processor, began) = (compare::processor_seconds(), Instant::now());
                run(side, &bodies, percent);
                costs[at].push((compare::processor_seconds() - processor) * 1e6 / EVENTS as f64);
                costs[at + 1].push(began.elapsed().as_secs_f64() * 1e6 / EVENTS as f64);
            }
        }
        println!("{percent} % of events with ids, {keys} ids in the window");
        let ratio = |unit, at: usize| compare::ratio(unit, ("index", &costs[at]), ("table", &costs[at + 2]));
        let best = ratio("µs of processor time an event", 0).max(ratio("µs an event", 1));
        // Without ids there is nothing to win, and nothing may be lost.
        holds &= best >= if percent == 100 { compare::BAR } else { 0.9 };
    }
    compare::hold(holds, "the index of message ids");
}

/// Requests with the events of a shop, as JSON.
fn bodies() -> Vec<String> {
    let mut random = shop::Random(42);
    let mut body = |request: u64| {
        let events = (0..REQUEST_EVENTS).map(|n| shop::event(request * REQUEST_EVENTS + n, &mut random));
        let events: Vec<_> = events.map(|event| serde_json::to_value(event).expect("an event as JSON")).collect();
        serde_json::json!({ "events": events }).to_string()
    };
    (0..200).map(&mut body).collect()
}

/// The whole path of `EVENTS` events.
fn run(side: &mut Side, bodies: &[String], percent: u64) {
    let (sender, receiver) = sync_channel(32);
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || produce(bodies, percent, next, &sender));
        }
        drop(sender);
        side.write(&receiver);
    });
    side.connection.execute("DELETE FROM groups", []).expect("delete");
}

/// Accepts requests as the gateway does, hands them to the writer, and encodes their events as the sink does.
fn produce(bodies: &[String], percent: u64, next: &AtomicU64, sender: &SyncSender<Request>) {
    let arrival = Arrival {
        received_at_ms: 1_767_225_600_000,
        key_app: None,
        event_bytes_max: EVENT_BYTES_MAX,
        assigned_id: None,
    };
    let settings =
        EncodeSettings { compression: Compression::Snappy, row_group_rows_max: 1_000_000, stream: "EVENTS".into() };
    let mut encoder = Encoder::new(settings).expect("encoder");
    let mut file = encoder.open("shop");
    let mut rows = 0;
    loop {
        let request = next.fetch_add(1, Ordering::Relaxed);
        if request >= EVENTS / REQUEST_EVENTS {
            break;
        }
        let body = &bodies[request as usize % bodies.len()];
        let accepted = request::accept_json_batch(body.as_bytes(), 1_000, &arrival).expect("accept");
        let mut out = Request { records: Vec::with_capacity(accepted.bytes_len()), keys: Vec::new() };
        for event in accepted.iter().flatten() {
            out.records.extend_from_slice(event.bytes);
            let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
            if id % 100 < percent {
                out.keys.push(DedupKey::of(format!("shop/0198f3a2-7c4b-7d3e-9a51-{id:012x}").as_bytes()));
            }
        }
        sender.send(out).expect("a writer");
        for event in accepted.iter().flatten() {
            rows += 1;
            let event = EventRef::decode_admitted(event.bytes).expect("decode");
            let origin = Origin { sequence: rows, received_at_ms: arrival.received_at_ms };
            encoder.push(&mut file, &event, origin).expect("push");
        }
    }
    assert!(!encoder.finish(file, 1..=rows).expect("finish").is_empty());
}

impl Side {
    fn open(path: &Path, indexed: bool) -> Self {
        let connection = Connection::open(path).expect("open");
        // As in the product, with a page cache that is worth the name.
        connection
            .execute_batch(
                "PRAGMA page_size = 16384; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                 PRAGMA wal_autocheckpoint = 4096; PRAGMA cache_size = -65536;
                 CREATE TABLE groups(first_sequence INTEGER PRIMARY KEY, published_at_ms INTEGER NOT NULL,
                    keys BLOB NOT NULL, data BLOB NOT NULL) STRICT;
                 CREATE TABLE dedup_runs(run INTEGER PRIMARY KEY, newest_s INTEGER NOT NULL,
                    last_sequence INTEGER NOT NULL, fences BLOB NOT NULL, filter BLOB NOT NULL) STRICT;
                 CREATE TABLE dedup_blocks(id INTEGER PRIMARY KEY, keys BLOB NOT NULL) STRICT;
                 CREATE TABLE message_ids(key BLOB PRIMARY KEY, published_s INTEGER NOT NULL,
                    first_sequence INTEGER NOT NULL) STRICT, WITHOUT ROWID;",
            )
            .expect("schema");
        let index = indexed.then(|| Dedup::open(&connection, WINDOW_S, NOW_S).expect("index"));
        Self { connection, index, packer: pack::Packer::new().expect("packer"), next_sequence: 1 }
    }

    /// Ids that were seen before the measurement.
    fn fill(&mut self, keys: u64) {
        let mut keys: Vec<DedupKey> = (0..keys).map(|n| DedupKey::of(&n.to_le_bytes())).collect();
        if self.index.is_none() {
            keys.sort_unstable();
        }
        for keys in keys.chunks(100_000) {
            self.commit(&[Request { records: Vec::new(), keys: keys.to_vec() }]);
        }
    }

    fn write(&mut self, receiver: &Receiver<Request>) {
        while let Ok(first) = receiver.recv() {
            let mut bytes = first.records.len();
            let mut requests = vec![first];
            while bytes < GROUP_BYTES_MAX
                && let Ok(request) = receiver.try_recv()
            {
                bytes += request.records.len();
                requests.push(request);
            }
            self.commit(&requests);
        }
    }

    /// One group: every id is looked up and remembered, then all is on disk.
    fn commit(&mut self, requests: &[Request]) {
        let Self { connection, index, packer, next_sequence } = self;
        let cached = |sql| connection.prepare_cached(sql).expect("prepare");
        cached("BEGIN IMMEDIATE").execute([]).expect("begin");
        let first = *next_sequence;
        let records: Vec<u8> = requests.iter().flat_map(|request| request.records.iter().copied()).collect();
        let mut stored: Vec<u8> = Vec::new();
        for key in requests.iter().flat_map(|request| &request.keys) {
            *next_sequence += 1;
            match index {
                Some(index) => {
                    assert!(index.seen(connection, key, (NOW_S, first)).expect("look up").is_none());
                    stored.extend_from_slice(&key.0);
                }
                None => {
                    let sql = "INSERT INTO message_ids VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
                    assert_eq!(cached(sql).execute((key.0, NOW_S, first)).expect("look up"), 1);
                }
            }
        }
        *next_sequence += 1;
        let group = (first, i64::from(NOW_S) * 1_000, &stored, packer.pack(&records).data);
        cached("INSERT INTO groups VALUES (?1, ?2, ?3, ?4)").execute(group).expect("insert");
        if let Some(index) = index {
            index.maintain(connection, NOW_S).expect("write runs");
        }
        cached("COMMIT").execute([]).expect("commit");
        if let Some(index) = index {
            index.committed(*next_sequence - 1, NOW_S);
        }
    }
}
