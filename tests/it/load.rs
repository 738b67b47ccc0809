//! Load from several threads, remembering exactly what was acknowledged: events with ids of their own, or events
//! with idempotency keys, sent again and again under their key until they are acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Receiver, post, python};

const THREADS: usize = 4;
const BATCH: usize = 50;
/// Every so many events one that the rule of [`matching`] matches.
const MATCH_EVERY: u64 = 25;
/// A key is not sent again after this long: two minutes less than the default `DEDUP_WINDOW`, within which the
/// server knows it.
const KEY_KNOWN_FOR: Duration = Duration::from_secs(8 * 60);

/// Ids of events that were acknowledged. With keys, the first part of an id names the event, and the rest the
/// attempt; of an event whose last attempt was told to be a duplicate, only the name.
pub(crate) type Acknowledged = BTreeSet<String>;

/// A running load; stop it to learn what was acknowledged.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    keyed: bool,
    /// The threads take turns among them; what was not acknowledged goes to the next.
    gateways: Vec<String>,
    pause: Duration,
    stop: AtomicBool,
    next: AtomicU64,
    acknowledged: Mutex<Acknowledged>,
    statuses: Mutex<BTreeMap<u16, u64>>,
    again: AtomicU64,
    duplicates: AtomicU64,
}

impl Load {
    /// Every event once, whatever becomes of it.
    pub(crate) fn start(http: &str) -> Self {
        Self::spawn(Shared { gateways: vec![http.to_owned()], ..Shared::default() })
    }

    /// Every event under its key, until it is acknowledged.
    pub(crate) fn start_keyed(gateways: &[&str]) -> Self {
        Self::start_keyed_paced(gateways, Duration::ZERO)
    }

    /// Each thread rests for `pause` before each of its requests.
    pub(crate) fn start_keyed_paced(gateways: &[&str], pause: Duration) -> Self {
        let gateways = gateways.iter().map(|http| (*http).to_owned()).collect();
        Self::spawn(Shared { keyed: true, gateways, pause, ..Shared::default() })
    }

    fn spawn(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        let thread = |number| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.run(number))
        };
        Self { threads: (0..THREADS).map(thread).collect(), shared }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.shared.acknowledged.lock().unwrap().len()
    }

    /// How many replies of each status came so far.
    pub(crate) fn statuses(&self) -> BTreeMap<u16, u64> {
        self.shared.statuses.lock().unwrap().clone()
    }

    /// How many events were sent a second time or more often.
    pub(crate) fn sent_again(&self) -> u64 {
        self.shared.again.load(Ordering::Relaxed)
    }

    /// With keys, the gateways have to be there: everything that was ever sent is acknowledged in the end.
    pub(crate) fn stop(self) -> Acknowledged {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let (again, duplicates) = (&self.shared.again, &self.shared.duplicates);
        let acknowledged = std::mem::take(&mut *self.shared.acknowledged.lock().unwrap());
        eprintln!("load: {} events, {again:?} sent again, {duplicates:?} duplicates", acknowledged.len());
        acknowledged
    }
}

impl Shared {
    fn run(&self, number: usize) {
        while !self.stop.load(Ordering::SeqCst) {
            let first = self.next.fetch_add(BATCH as u64, Ordering::SeqCst);
            let mut missing: Vec<u64> = (first..first + BATCH as u64).collect();
            let (began, mut stopped) = (Instant::now(), None);
            for attempt in 0.. {
                std::thread::sleep(self.pause);
                let gateway = &self.gateways[(number + attempt) % self.gateways.len()];
                self.send(gateway, attempt, &mut missing);
                if missing.is_empty() || !self.keyed || began.elapsed() > KEY_KNOWN_FOR {
                    break;
                }
                self.again.fetch_add(missing.len() as u64, Ordering::Relaxed);
                if self.stop.load(Ordering::SeqCst) {
                    let waited = stopped.get_or_insert_with(Instant::now).elapsed();
                    assert!(waited < PATIENCE, "never acknowledged: {missing:?}");
                }
            }
        }
    }

    /// Leaves those that were not acknowledged.
    fn send(&self, gateway: &str, attempt: usize, missing: &mut Vec<u64>) {
        let events: Vec<Value> = missing.iter().map(|index| self.event(*index, attempt)).collect();
        let body = json!({"events": events}).to_string();
        let Some((status, reply)) = post(&format!("{gateway}/v1/events/batch"), body.as_bytes(), "application/json")
        else {
            // No answer: it may or may not have been stored. Nothing was promised.
            std::thread::sleep(Duration::from_millis(5));
            return;
        };
        *self.statuses.lock().unwrap().entry(status).or_default() += 1;
        if status != 200 {
            std::thread::sleep(Duration::from_millis(20));
            return;
        }
        let reply: Value = serde_json::from_str(&reply).unwrap();
        let mut acknowledged = self.acknowledged.lock().unwrap();
        let mut results = reply["results"].as_array().unwrap().iter();
        missing.retain(|index| {
            let result = results.next().unwrap();
            let accepted = result["status"] == "accepted";
            let duplicate = result["duplicate"] == true;
            // A key that was not sent before cannot be known.
            assert!(!duplicate || attempt > 0, "{result}");
            assert!(accepted || !self.keyed || result["retryable"] == true, "{result}");
            self.duplicates.fetch_add(u64::from(duplicate), Ordering::Relaxed);
            let id = result["eventId"].as_str().unwrap();
            if accepted {
                // The first event of a duplicate cannot always be read at once, of a server that was just killed.
                assert!(name(id) == name_of(*index) || duplicate && id.is_empty(), "{result}");
                // The id of a duplicate is stored nowhere.
                acknowledged.insert(if duplicate { name_of(*index) } else { id.to_owned() });
            }
            !accepted
        });
    }

    fn event(&self, index: u64, attempt: usize) -> Value {
        let mut event = json!({"appId": format!("app{}", index % 3), "deviceId": format!("d{}", index % 100)});
        event["id"] = if self.keyed { json!(format!("{}.{attempt}", name_of(index))) } else { json!(name_of(index)) };
        if self.keyed {
            event["idempotencyKey"] = json!(name_of(index));
        }
        if index.is_multiple_of(MATCH_EVERY) {
            event["purchaseComplete"] = json!({"orderId": format!("o{index}"), "totalCents": index});
        } else {
            event["screenView"] = json!({"screenName": "home", "params": {"index": index.to_string()}});
        }
        event
    }
}

fn name_of(index: u64) -> String {
    format!("load-{index}")
}

/// What all attempts to send one event have in common.
fn name(id: &str) -> &str {
    id.split_once('.').map_or(id, |(name, _)| name)
}

/// Whether the event with this id fires [`rule`].
pub(crate) fn matching(id: &str) -> bool {
    name(id).trim_start_matches("load-").parse::<u64>().unwrap().is_multiple_of(MATCH_EVERY)
}

/// A rule on the purchases of the load.
pub(crate) fn rule(webhook: &str) -> Value {
    json!({"name": "purchases", "event_type": "purchase_complete", "actions": {"webhooks": [webhook]}})
}

/// Every acknowledged event is in the warehouse, under the id that was answered, and no event is there twice,
/// whichever of its attempts it came from.
pub(crate) fn check_warehouse(dir: &std::path::Path, acknowledged: &Acknowledged) {
    let read: Value = serde_json::from_str(&python("read_parquet.py", &[dir.to_str().unwrap(), "ids"], "")).unwrap();
    let (ids, places) = (read["ids"].as_array().unwrap(), read["places"].as_array().unwrap());
    let mut found: BTreeMap<&str, Vec<(&str, &Value)>> = BTreeMap::new();
    for (id, place) in ids.iter().zip(places) {
        let id = id.as_str().unwrap();
        found.entry(name(id)).or_default().push((id, place));
    }
    let stored = |id: &String| found.get(name(id)).is_some_and(|rows| name(id) == id || rows[0].0 == id);
    let doubled: Vec<_> = found.values().filter(|rows| rows.len() > 1).collect();
    assert!(doubled.is_empty(), "{} doubled, such as {:?}", doubled.len(), &doubled[..doubled.len().min(5)]);
    let lost: Vec<_> = acknowledged.iter().filter(|id| !stored(id)).collect();
    assert!(lost.is_empty(), "{} of {} lost, such as {:?}", lost.len(), acknowledged.len(), &lost[..lost.len().min(5)]);
}

/// Every acknowledged event that matches was delivered, all attempts of one under one `webhook-id`.
pub(crate) fn check_deliveries(receiver: &Receiver, acknowledged: &Acknowledged) {
    let wanted: Vec<_> = acknowledged.iter().filter(|id| matching(id)).collect();
    let mut webhook_ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut delivered = BTreeSet::new();
    for one in receiver.all() {
        let event_id = one.json()["event_id"].as_str().unwrap().to_owned();
        let webhook_id = one.header("webhook-id").unwrap().to_owned();
        webhook_ids.entry(name(&event_id).to_owned()).or_default().insert(webhook_id);
        delivered.extend([name(&event_id).to_owned(), event_id]);
    }
    let lost: Vec<_> = wanted.iter().filter(|id| !delivered.contains(**id)).collect();
    assert!(
        lost.is_empty(),
        "{} of {} deliveries lost, such as {:?}",
        lost.len(),
        wanted.len(),
        &lost[..lost.len().min(5)]
    );
    let doubled: Vec<_> = webhook_ids.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(doubled.is_empty(), "events with more than one delivery: {:?}", &doubled[..doubled.len().min(5)]);
}
