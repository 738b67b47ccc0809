//! Load with unique ids from several threads, remembering exactly what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Receiver, post, python};

const THREADS: usize = 4;
const BATCH: usize = 50;
/// Every so many events one that the rule of [`matching`] matches.
const MATCH_EVERY: u64 = 25;

/// A running load; stop it to learn what was acknowledged.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    statuses: Arc<Mutex<BTreeMap<u16, u64>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(http: &str) -> Self {
        Self::start_on(&[http])
    }

    /// The threads take turns among the gateways.
    pub(crate) fn start_on(gateways: &[&str]) -> Self {
        Self::start_paced(gateways, Duration::ZERO)
    }

    /// Each thread rests for `pause` after each of its requests.
    pub(crate) fn start_paced(gateways: &[&str], pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
        let statuses = Arc::new(Mutex::new(BTreeMap::new()));
        let next = Arc::new(AtomicU64::new(0));
        let threads = (0..THREADS)
            .map(|thread| {
                let url = format!("{}/v1/events/batch", gateways[thread % gateways.len()]);
                let (stop, acknowledged, statuses, next) =
                    (stop.clone(), acknowledged.clone(), statuses.clone(), next.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        std::thread::sleep(pause);
                        let first = next.fetch_add(BATCH as u64, Ordering::SeqCst);
                        let events: Vec<Value> = (first..first + BATCH as u64).map(event).collect();
                        let Some((status, reply)) =
                            post(&url, json!({"events": events}).to_string().as_bytes(), "application/json")
                        else {
                            // No answer: it may or may not have been stored. Nothing was promised.
                            std::thread::sleep(Duration::from_millis(5));
                            continue;
                        };
                        *statuses.lock().unwrap().entry(status).or_default() += 1;
                        if status != 200 {
                            std::thread::sleep(Duration::from_millis(20));
                            continue;
                        }
                        let reply: Value = serde_json::from_str(&reply).unwrap();
                        let mut acknowledged = acknowledged.lock().unwrap();
                        for result in reply["results"].as_array().unwrap() {
                            if result["status"] == "accepted" {
                                acknowledged.insert(result["eventId"].as_str().unwrap().to_owned());
                            }
                        }
                    }
                })
            })
            .collect();
        Self { stop, acknowledged, statuses, threads }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// How many replies of each status came so far.
    pub(crate) fn statuses(&self) -> BTreeMap<u16, u64> {
        self.statuses.lock().unwrap().clone()
    }

    pub(crate) fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.acknowledged.lock().unwrap().clone()
    }
}

/// Whether the event with this id fires [`rule`].
pub(crate) fn matching(id: &str) -> bool {
    id.trim_start_matches("load-").parse::<u64>().unwrap().is_multiple_of(MATCH_EVERY)
}

/// A rule on the purchases of the load.
pub(crate) fn rule(webhook: &str) -> Value {
    json!({"name": "purchases", "event_type": "purchase_complete", "actions": {"webhooks": [webhook]}})
}

fn event(index: u64) -> Value {
    let mut event = json!({"id": format!("load-{index}"), "appId": format!("app{}", index % 3), "deviceId": format!("d{}", index % 100)});
    if index.is_multiple_of(MATCH_EVERY) {
        event["purchaseComplete"] = json!({"orderId": format!("o{index}"), "totalCents": index});
    } else {
        event["screenView"] = json!({"screenName": "home", "params": {"index": index.to_string()}});
    }
    event
}

/// Every acknowledged event is in the warehouse, and no event is there twice.
pub(crate) fn check_warehouse(dir: &std::path::Path, acknowledged: &BTreeSet<String>) {
    let read: Value = serde_json::from_str(&python("read_parquet.py", &[dir.to_str().unwrap(), "ids"], "")).unwrap();
    let mut seen = BTreeSet::new();
    let mut doubled = Vec::new();
    for id in read["ids"].as_array().unwrap() {
        let id = id.as_str().unwrap();
        if !seen.insert(id.to_owned()) {
            doubled.push(id);
        }
    }
    let lost: Vec<_> = acknowledged.difference(&seen).collect();
    let places: Vec<_> = doubled.iter().take(5).map(|id| (id, &read["doubled"][*id])).collect();
    assert!(doubled.is_empty(), "{} doubled, such as {places:?}", doubled.len());
    assert!(lost.is_empty(), "{} of {} lost, such as {:?}", lost.len(), acknowledged.len(), &lost[..lost.len().min(5)]);
}

/// Every acknowledged event that matches was delivered, all attempts of one under one `webhook-id`.
pub(crate) fn check_deliveries(receiver: &Receiver, acknowledged: &BTreeSet<String>) {
    let wanted: BTreeSet<String> = acknowledged.iter().filter(|id| matching(id)).cloned().collect();
    let mut webhook_ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for one in receiver.all() {
        let event_id = one.json()["event_id"].as_str().unwrap().to_owned();
        webhook_ids.entry(event_id).or_default().insert(one.header("webhook-id").unwrap().to_owned());
    }
    let lost: Vec<_> = wanted.iter().filter(|id| !webhook_ids.contains_key(*id)).collect();
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
