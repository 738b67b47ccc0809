//! The bench of the sink's tests: a separate bus and directory, and a sink that can be stopped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::base::supervisor::Tasks;
use crate::bus::{Batch, Bus, ConsumerSpec, Delivery, EmbeddedSettings, SINK_CONSUMER, Subscription};
use crate::event::proto::event_envelope::Payload;
use crate::event::proto::{EventEnvelope, ScreenView};
use crate::event::subject::write_event_subject;
use crate::sink::worker::FILTER;
use crate::sink::{Settings, SinkError, SinkStatus};
use crate::warehouse::{Warehouse, scan_ids};

/// Longer than any test.
pub(super) const NEVER: Duration = Duration::from_secs(3_600);
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Bench {
    pub(super) dir: TempDir,
    pub(super) bus: Bus,
}

pub(super) struct Running {
    pub(super) stop: CancellationToken,
    pub(super) status: SinkStatus,
    pub(super) ended: oneshot::Receiver<Result<(), SinkError>>,
}

impl Bench {
    pub(super) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let bus = open_bus(&dir.path().join("bus"));
        Self { dir, bus }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.dir.path().join("warehouse")
    }

    pub(super) fn warehouse(&self) -> Warehouse {
        Warehouse::open_local(self.root()).unwrap()
    }

    pub(super) fn start(&self, settings: Settings) -> Running {
        self.start_into(self.warehouse(), settings)
    }

    pub(super) fn start_into(&self, warehouse: Warehouse, settings: Settings) -> Running {
        let (stop, status) = (CancellationToken::new(), SinkStatus::new());
        let (tell, ended) = oneshot::channel();
        let workers = crate::sink::workers(settings, &self.bus, &warehouse, &status).into_iter();
        let running = futures_util::future::join_all(workers.map(|worker| worker.run(stop.clone())));
        Tasks::new(stop.clone()).spawn(async move {
            let _ = tell.send(running.await.into_iter().collect());
        });
        Running { stop, status, ended }
    }

    pub(super) async fn publish(&self, events: &[EventEnvelope]) {
        let mut batch = Batch::new();
        for event in events {
            let mut subject = String::new();
            write_event_subject(&mut subject, &event.app_id, "screen", "view");
            batch.push(&subject, None, |out| event.encode_raw(out));
        }
        assert!(self.bus.publish(batch).await.iter().all(Result::is_ok));
    }

    /// Fetches all messages of the stream as the sink's consumer.
    pub(super) async fn fetch(&self, count: usize, ack_wait: Duration) -> (Vec<Delivery>, Subscription) {
        let spec = ConsumerSpec {
            name: SINK_CONSUMER.into(),
            filter: FILTER.into(),
            matches_most: false,
            coarse_acks: false,
            ack_wait,
            max_deliver: 100,
            pending_max: 100_000,
        };
        let mut subscription = self.bus.subscribe(spec).await.unwrap();
        let mut deliveries = Vec::new();
        while deliveries.len() < count {
            deliveries.extend(subscription.fetch(count, usize::MAX).await.unwrap());
        }
        (deliveries, subscription)
    }

    pub(super) fn ids(&self) -> Vec<String> {
        let mut ids = Vec::new();
        scan_ids(&self.root(), |id| ids.push(id.to_owned())).unwrap();
        ids.sort();
        ids
    }

    pub(super) async fn wait_for_rows(&self, rows: usize) {
        self.wait(|bench| bench.ids().len() >= rows).await;
    }

    pub(super) async fn wait(&self, done: impl Fn(&Self) -> bool) {
        let waited = async {
            while !done(self) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.expect("in time");
    }

    /// Reopens the bus as after a crash: unacknowledged messages may have been stored.
    pub(super) async fn reopen_bus(&mut self) {
        self.bus.close().await;
        self.bus = open_bus(&self.dir.path().join("bus"));
    }

    /// Drops the bus as when the process dies, without closing it.
    pub(super) fn crash_bus(&mut self) {
        let dir = self.dir.path().join("bus");
        drop(std::mem::replace(&mut self.bus, open_bus(&self.dir.path().join("meanwhile"))));
        self.bus = open_bus(&dir);
    }

    pub(super) async fn backlog(&self) -> u64 {
        self.bus.status().await.unwrap().consumers.iter().map(|consumer| consumer.backlog).sum()
    }
}

impl Running {
    /// Bytes in open files and uploads.
    pub(super) fn held_bytes(&self) -> u64 {
        let snapshot = self.status.snapshot();
        snapshot["open_bytes"].as_u64().unwrap() + snapshot["writing_bytes"].as_u64().unwrap()
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.status.trouble()
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.ended.await.unwrap().unwrap();
    }
}

pub(super) fn open_bus(dir: &Path) -> Bus {
    Bus::open_embedded(EmbeddedSettings {
        dir: dir.to_owned(),
        bytes_max: 1 << 30,
        age_max: NEVER,
        dead_letter_age_max: NEVER,
        dedup_window: Duration::from_secs(60),
        tail_bytes_max: 1 << 20,
    })
    .unwrap()
}

pub(super) fn settings() -> Settings {
    Settings { flush_interval: NEVER, ..Settings::default() }
}

pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

pub(super) fn event(app: &str, id: impl std::fmt::Display, timestamp_ms: i64) -> EventEnvelope {
    EventEnvelope {
        id: id.to_string(),
        app_id: app.into(),
        device_id: "device".into(),
        timestamp_ms,
        payload: Some(Payload::ScreenView(ScreenView { screen_name: "Home".into(), ..Default::default() })),
        ..Default::default()
    }
}

pub(super) fn events(app: &str, ids: std::ops::Range<usize>) -> Vec<EventEnvelope> {
    ids.map(|id| event(app, format!("{app}-{id:05}"), now_ms())).collect()
}

pub(super) fn ids_of(events: &[EventEnvelope]) -> Vec<String> {
    let mut ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    ids.sort();
    ids
}
