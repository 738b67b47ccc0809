//! Messages that are tried in isolation, and crashes that must not be held against them.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::s3::objects;
use super::{Bench, PATIENCE, event, now_ms, settings};
use crate::base::supervisor::Tasks;
use crate::services::proxy::{Fault, Proxy};
use crate::services::s3::S3Server;
use crate::sink::{Settings, SinkStatus, workers};
use crate::warehouse::{ObjectSettings, Warehouse, scan_ids};

/// Twice as many crashes as it takes to isolate and dead-letter a message.
const LIVES: usize = 12;

/// The process ends each time during the look-up, for an unrelated reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_look_up_is_not_held_against_the_messages() {
    let server = S3Server::start();
    let proxy = Proxy::start(server.port());
    let slow = ObjectSettings {
        endpoint: Some(format!("http://127.0.0.1:{}", proxy.port()).into()),
        silence_max: PATIENCE * 2,
        ..objects(&server)
    };
    let mut bench = Bench::new();
    bench.publish(&[event("shop", "innocent", now_ms())]).await;
    let warehouse = Warehouse::open_objects(slow).await.unwrap();
    proxy.set(Fault::Stall);
    for life in 0..LIVES {
        let (kill, status) = (CancellationToken::new(), SinkStatus::new());
        let mut workers = workers(settings(), &bench.bus, &warehouse, &status).into_iter();
        let worker = workers.next().unwrap();
        let (tell, ended) = tokio::sync::oneshot::channel();
        let killed = kill.clone();
        Tasks::new(CancellationToken::new()).spawn(async move {
            killed.run_until_cancelled(worker.run(CancellationToken::new())).await;
            let _ = tell.send(());
        });
        let started = Instant::now();
        while bench.bus.status().await.unwrap().consumers.iter().all(|consumer| consumer.pending == 0) {
            assert!(started.elapsed() < PATIENCE, "in life {life} nothing is delivered");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Long enough for a trial to begin.
        tokio::time::sleep(Duration::from_millis(50)).await;
        kill.cancel();
        ended.await.unwrap();
        drop(workers);
        bench.crash_bus();
    }
    proxy.set(Fault::None);
    let running = bench.start_into(warehouse, Settings { flush_interval: Duration::from_millis(50), ..settings() });
    let started = Instant::now();
    while bench.backlog().await > 0 || bench.bus.status().await.unwrap().consumers.is_empty() {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop().await;
    let dead = bench.bus.dead_letters(None, 10).await.unwrap();
    assert!(dead.is_empty(), "{dead:?}");
    let mut ids = Vec::new();
    scan_ids(&server.bucket(), |id| ids.push(id.to_owned())).unwrap();
    assert_eq!(ids, ["innocent"]);
}
