//! End-to-end tests of reactions: a real bus, a real store, real HTTP.

mod delivering;
mod enduring;
mod hanging;
mod latency;
mod lost_tail;
mod reacting;
mod receiver;

use std::path::Path;
use std::time::{Duration, Instant};

use prost::Message as _;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::receiver::PATIENCE;
use super::{AllowedNetworks, DispatcherSettings, EngineSettings, run_dispatcher, run_engine};
use crate::base::backoff::Backoff;
use crate::base::supervisor::Tasks;
use crate::bus::{Batch, Bus, BusError, EmbeddedSettings, Published};
use crate::event::proto::{CustomEvent, EventEnvelope, PurchaseComplete, event_envelope::Payload};
use crate::event::{EventRef, subject};
use crate::services::postgres::PostgresServer;
use crate::store::{
    Delivery, DeliveryStatus, Effects, NewDelivery, NewRule, NewWebhook, PostgresSettings, SqliteSettings, SslMode,
    Store, Webhook,
};

/// Everything that reactions run on, in a temporary directory.
struct World {
    dir: TempDir,
    bus: Bus,
    store: Store,
    tasks: Tasks,
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

impl World {
    fn open() -> Self {
        Self::with(|dir| {
            Store::open_sqlite(SqliteSettings { dir: dir.to_owned(), secrets_key: None, secrets_key_replaced: false })
                .unwrap()
        })
    }

    async fn over_postgres(server: &PostgresServer) -> Self {
        let settings = PostgresSettings {
            url: Some(server.url(&server.database()).into()),
            host: String::new(),
            port: 5432,
            user: String::new(),
            password: None,
            database: String::new(),
            ssl_mode: SslMode::Prefer,
            ca_file: None,
            connections_max: 8,
            idle_connections_max: 4,
            connection_lifetime_max: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(30),
            secrets_key: Some("0f".repeat(32).into()),
            secrets_key_replaced: false,
            migrate: false,
        };
        let store = Store::connect_postgres(settings).await.unwrap();
        Self::with(|_| store)
    }

    fn with(store: impl FnOnce(&Path) -> Store) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bus = open_bus(dir.path());
        let store = store(dir.path());
        Self { dir, bus, store, tasks: Tasks::new(CancellationToken::new()) }
    }

    /// Runs the engine and the dispatcher until the world is dropped.
    async fn run(&self) {
        self.run_engine(self.tasks.stop().clone());
        self.run_dispatcher(dispatcher_settings());
        // Wait for the subscription, so that later events are seen.
        let deadline = Instant::now() + PATIENCE;
        while self.bus.status().await.unwrap().consumers.is_empty() {
            assert!(Instant::now() < deadline, "the engine did not subscribe");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Runs the engine and drops it at any point when `kill` is cancelled.
    fn run_engine(&self, kill: CancellationToken) {
        self.run_engine_with(EngineSettings::default(), kill);
    }

    fn run_engine_with(&self, settings: EngineSettings, kill: CancellationToken) -> oneshot::Receiver<()> {
        self.run_engine_on(self.bus.clone(), settings, kill)
    }

    /// The receiver resolves when the engine has ended.
    fn run_engine_on(&self, bus: Bus, settings: EngineSettings, kill: CancellationToken) -> oneshot::Receiver<()> {
        let settings = EngineSettings { ack_wait: Duration::from_millis(500), ..settings };
        let engine = run_engine(settings, bus, self.store.clone(), self.tasks.stop().clone());
        let (tell, ended) = oneshot::channel();
        self.tasks.spawn(async move {
            if let Some(ended) = kill.run_until_cancelled(engine).await {
                ended.expect("engine failed");
            }
            let _ = tell.send(());
        });
        ended
    }

    fn run_dispatcher(&self, settings: DispatcherSettings) {
        let (store, bus, stop) = (self.store.clone(), self.bus.clone(), self.tasks.stop().clone());
        let dispatcher = run_dispatcher(settings, store, bus, self.tasks.clone(), stop);
        self.tasks.spawn(async move { dispatcher.await.expect("dispatcher failed") });
    }

    async fn webhook(&self, name: &str, url: &str) -> Webhook {
        self.webhook_with(json!({"name": name, "url": url})).await
    }

    async fn webhook_with(&self, document: Value) -> Webhook {
        let document: NewWebhook = serde_json::from_value(document).unwrap();
        assert_eq!(super::check_webhook(&document), []);
        self.store.create::<NewWebhook>(document).await.unwrap()
    }

    async fn rule(&self, document: Value) -> Uuid {
        let rule = serde_json::from_value(document).unwrap();
        assert_eq!(super::check_rule(&rule), []);
        self.store.create::<NewRule>(rule).await.unwrap().id
    }

    async fn publish(&self, events: Vec<EventEnvelope>) {
        for published in self.publish_on(&self.bus, &events).await {
            published.unwrap();
        }
    }

    async fn publish_on(&self, bus: &Bus, events: &[EventEnvelope]) -> Vec<Result<Published, BusError>> {
        let mut batch = Batch::new();
        for event in events {
            let bytes = event.encode_to_vec();
            let read = EventRef::decode(&bytes).unwrap();
            let mut subject = String::new();
            subject::write_event_subject(&mut subject, read.app_id, read.category(), &read.event_type());
            batch.push(&subject, None, |out| out.extend_from_slice(&bytes));
        }
        bus.publish(batch).await
    }

    /// Stores a delivery with this body, as a rule does.
    async fn add_delivery(&self, webhook: Uuid, body: &str) -> Uuid {
        self.add_deliveries(webhook, body, 1).await[0]
    }

    async fn add_deliveries(&self, webhook_id: Uuid, body: &str, count: usize) -> Vec<Uuid> {
        let delivery = || NewDelivery {
            id: Uuid::now_v7(),
            webhook_id,
            rule_id: None,
            anomaly_config_id: None,
            event_id: "e".to_owned(),
            payload: RawValue::from_string(body.to_owned()).unwrap(),
            max_attempts: 3,
        };
        let deliveries: Vec<NewDelivery> = (0..count).map(|_| delivery()).collect();
        let ids = deliveries.iter().map(|delivery| delivery.id).collect();
        self.store.record_effects(Effects { deliveries, ..Effects::default() }).await.unwrap();
        ids
    }

    /// Waits until the delivery has a final status.
    async fn finished(&self, id: Uuid) -> Delivery {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let delivery = self.store.delivery(id).await.unwrap().unwrap();
            if !matches!(delivery.status, DeliveryStatus::Pending | DeliveryStatus::InProgress) {
                return delivery;
            }
            assert!(Instant::now() < deadline, "still {delivery:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn open_bus(dir: &Path) -> Bus {
    Bus::open_embedded(EmbeddedSettings {
        dir: dir.to_owned(),
        bytes_max: 1 << 30,
        age_max: Duration::from_secs(3_600),
        dead_letter_age_max: Duration::from_secs(3_600),
        dedup_window: Duration::from_secs(600),
        tail_bytes_max: 8 << 20,
    })
    .unwrap()
}

/// Whether it takes less than a second. Retried, since a busy machine may delay any run.
pub(super) fn is_quick(run: impl Fn()) -> bool {
    (0..3).any(|_| {
        let started = Instant::now();
        run();
        started.elapsed() < Duration::from_secs(1)
    })
}

/// Quick retries, and loopback allowed.
fn dispatcher_settings() -> DispatcherSettings {
    DispatcherSettings {
        backoff: Backoff { initial: Duration::from_millis(20), multiplier: 2.0, max: Duration::from_millis(200) },
        allowed_networks: AllowedNetworks::loopback(),
        ..DispatcherSettings::default()
    }
}

fn event(app: &str, payload: Payload) -> EventEnvelope {
    EventEnvelope {
        id: Uuid::now_v7().to_string(),
        app_id: app.to_owned(),
        device_id: "device-1".to_owned(),
        timestamp_ms: jiff::Timestamp::now().as_millisecond(),
        correlation_id: "c-1".to_owned(),
        payload: Some(payload),
        ..EventEnvelope::default()
    }
}

fn purchase(app: &str, total_cents: i64) -> EventEnvelope {
    let payload = PurchaseComplete { order_id: "o-1".to_owned(), total_cents, ..PurchaseComplete::default() };
    event(app, Payload::PurchaseComplete(payload))
}

fn custom(app: &str, name: &str) -> EventEnvelope {
    event(app, Payload::CustomEvent(CustomEvent { event_name: name.to_owned(), ..CustomEvent::default() }))
}
