//! Several workers of one process give the guarantees of a single sink.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Bench, PATIENCE, events, ids_of, settings};
use crate::base::supervisor::Tasks;
use crate::sink::{Settings, SinkStatus, workers};

/// Workers share the consumer like sinks of separate processes: each event is stored once, and each worker gets a share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_workers_store_each_event_once_within_the_memory_of_one() {
    const EVENTS: usize = 6_000;
    let bench = Bench::new();
    let memory_bytes_max = 8 << 20;
    let together = Settings {
        workers: 3,
        memory_bytes_max,
        fetch_messages_max: 300,
        flush_interval: Duration::from_millis(100),
        max_concurrent_writes: 1,
        ..settings()
    };
    let running = bench.start(together.clone());
    let mut sent = Vec::new();
    for part in 0..20 {
        let events = events("shop", part * EVENTS / 20..(part + 1) * EVENTS / 20);
        bench.publish(&events).await;
        sent.extend(events);
        let snapshot = running.status.snapshot();
        let held = snapshot["open_bytes"].as_u64().unwrap() + snapshot["writing_bytes"].as_u64().unwrap();
        assert!(held < memory_bytes_max as u64 * 2, "{snapshot}");
    }
    let status = running.status.clone();
    assert_eq!(status.snapshot()["workers"], 3);
    bench.wait_for_rows(EVENTS / 2).await;
    running.stop().await;
    let snapshot = status.snapshot();
    assert_eq!((bench.ids(), bench.backlog().await), (ids_of(&sent), 0));
    assert_eq!((&snapshot["stored_rows"], &snapshot["open_rows"]), (&EVENTS.into(), &0.into()));
    assert_eq!(snapshot["running"], false);

    let workers = workers(together, &bench.bus, &bench.warehouse(), &SinkStatus::new());
    let whole: usize = workers.iter().map(|worker| worker.settings.memory_bytes_max).sum();
    assert!(whole <= memory_bytes_max && workers.iter().all(|worker| worker.writers.available_permits() == 1));
}

/// A worker dies with events in flight: another worker of the process receives them and stores the missing ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_leaves_its_events_to_the_others() {
    const EVENTS: usize = 2_000;
    let bench = Bench::new();
    let quick = Settings {
        workers: 2,
        fetch_messages_max: 200,
        flush_interval: Duration::from_millis(30),
        ack_wait: Duration::from_secs(1),
        ..settings()
    };
    let stop = CancellationToken::new();
    let warehouse = bench.warehouse();
    let mut all = workers(quick, &bench.bus, &warehouse, &SinkStatus::new());
    let (dying, living) = (all.remove(1), all.remove(0));
    let tasks = Tasks::new(stop.clone());
    let (tell, ended) = oneshot::channel();
    tasks.spawn({
        let stop = stop.clone();
        async move {
            let _ = tell.send(living.run(stop).await);
        }
    });
    let mut sent = Vec::new();
    for part in 0..10u64 {
        let events = events("shop", part as usize * EVENTS / 10..(part as usize + 1) * EVENTS / 10);
        bench.publish(&events).await;
        sent.extend(events);
        // Dropped at an arbitrary await point.
        let life = Duration::from_millis(10 + part * 11);
        let _ = tokio::time::timeout(life, dying.clone().run(CancellationToken::new())).await;
    }
    let waited = async {
        while bench.backlog().await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("in time");
    stop.cancel();
    ended.await.unwrap().unwrap();
    assert_eq!(bench.ids(), ids_of(&sent));
}
