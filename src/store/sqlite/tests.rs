//! The conformance suite over SQLite, and what only this engine promises.

use std::time::{Duration, Instant};

use serde_json::json;
use serde_json::value::RawValue;
use tempfile::TempDir;
use uuid::Uuid;

use super::engine::{Engine, Wake};
use crate::store::conformance::{conformance_suite, consumed};
use crate::store::port::Inner;
use crate::store::*;

/// A child process that another test is starting holds the lock until it has executed its program.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

conformance_suite!(fresh);

async fn fresh() -> (Store, TempDir) {
    open_fresh()
}

fn open_fresh() -> (Store, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (open(&dir, None).unwrap(), dir)
}

fn open(dir: &TempDir, secrets_key: Option<&str>) -> Result<Store, StoreError> {
    let settings = SqliteSettings {
        dir: dir.path().to_owned(),
        secrets_key: secrets_key.map(Into::into),
        secrets_key_replaced: false,
    };
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match Store::open_sqlite(settings.clone()) {
            Err(error) if error.kind == StoreErrorKind::Unavailable && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

fn webhook(name: &str, secret: &str) -> NewWebhook {
    let document = json!({"name": name, "url": "http://x", "auth_type": "bearer", "auth_config": {"token": secret}});
    serde_json::from_value(document).unwrap()
}

fn delivery(webhook_id: Uuid) -> NewDelivery {
    NewDelivery {
        id: Uuid::now_v7(),
        webhook_id,
        rule_id: None,
        anomaly_config_id: None,
        event_id: "e".to_owned(),
        payload: RawValue::from_string(format!("{{\"text\":\"{}\"}}", "x".repeat(600))).unwrap(),
        max_attempts: 5,
    }
}

#[tokio::test]
async fn data_survives_reopening_and_leases_are_released() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, None).unwrap();
    let id = store.create(webhook("ops", "s3cret")).await.unwrap().id;
    let effects = Effects {
        consumer: "engine".to_owned(),
        causes: vec![Cause::new(1, 1)],
        deliveries: vec![delivery(id)],
        ..Effects::default()
    };
    store.record_effects(effects).await.unwrap();
    assert_eq!(
        store.claim_due_deliveries(ClaimLimits::up_to(1, Duration::from_secs(3_600), &[])).await.unwrap().len(),
        1
    );
    // Dropped without closing, as if the process had died.
    drop(store);

    let store = open(&dir, None).unwrap();
    let found = store.find::<NewWebhook>("ops").await.unwrap().unwrap();
    assert_eq!(found.document.auth, Auth::Bearer { token: "s3cret".to_owned() });
    assert_eq!(consumed(&store, "engine", &[1]).await, [1]);
    assert_eq!(store.claim_due_deliveries(ClaimLimits::up_to(1, Duration::from_secs(1), &[])).await.unwrap().len(), 1);
    store.close().await;
    assert!(!dir.path().join("store.db-wal").exists(), "closing leaves the log behind");
}

#[tokio::test]
async fn secrets_are_not_in_the_file_and_a_wrong_key_names_the_webhook() {
    let dir = tempfile::tempdir().unwrap();
    let (key, other) = ("11".repeat(32), "22".repeat(32));
    let store = open(&dir, Some(&key)).unwrap();
    store.create(webhook("ops", "hunter2-hunter2")).await.unwrap();
    store.close().await;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
    }

    let store = open_replaced(&dir, &other).unwrap();
    let error = store.find::<NewWebhook>("ops").await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("webhook \"ops\""));
    // Written again as a whole, it works with the new key.
    assert!(store.replace("ops", webhook("ops", "***"), None).await.is_err());
    store.replace("ops", webhook("ops", "new"), None).await.unwrap();
    assert!(store.find::<NewWebhook>("ops").await.unwrap().is_some());
}

#[tokio::test]
async fn a_store_in_use_is_not_opened_again() {
    let (store, dir) = open_fresh();
    let error = open(&dir, None).err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("another process uses the store"));
    store.close().await;
    assert!(open(&dir, None).is_ok());
}

fn open_replaced(dir: &TempDir, secrets_key: &str) -> Result<Store, StoreError> {
    Store::open_sqlite(SqliteSettings {
        dir: dir.path().to_owned(),
        secrets_key: Some(secrets_key.into()),
        secrets_key_replaced: true,
    })
}

#[tokio::test]
async fn the_wrong_secrets_key_prevents_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (right, wrong) = ("0f".repeat(32), "f0".repeat(32));
    open(&dir, Some(&wrong)).unwrap().close().await;
    // Nothing is sealed yet.
    let store = open(&dir, Some(&right)).unwrap();
    let hidden = json!({"name": "ops", "url": "https://x/?token=t"});
    store.create::<NewWebhook>(serde_json::from_value(hidden.clone()).unwrap()).await.unwrap();
    store.close().await;
    for key in [Some(&*wrong), None] {
        let error = open(&dir, key).err().unwrap();
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(error.kind, StoreErrorKind::Refused, "{text}");
        assert!(text.contains("secrets_key"), "{text}");
    }
    open(&dir, Some(&right)).unwrap().close().await;
    let store = open_replaced(&dir, &wrong).unwrap();
    assert_eq!(store.find::<NewWebhook>("ops").await.unwrap_err().kind, StoreErrorKind::Corrupt);
    store.replace::<NewWebhook>("ops", serde_json::from_value(hidden).unwrap(), None).await.unwrap();
    store.close().await;
    assert_eq!(open(&dir, Some(&right)).err().unwrap().kind, StoreErrorKind::Refused);
    open(&dir, Some(&wrong)).unwrap().close().await;
}

/// A file of the version before URL and header secrets were sealed.
#[tokio::test]
async fn clear_text_secrets_of_older_versions_are_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let (file, key) = (dir.path().join("store.db"), "0f".repeat(32));
    let old = crate::base::sqlite::open_writer(&file).unwrap();
    old.execute_batch(&format!(
        "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL);
         INSERT INTO schema_migrations VALUES (1, '0001_store', 0);
         {}
         INSERT INTO webhooks VALUES (x'00000000000070008000000000000001', 'ops', 'https://ops.example.com/?token=hunter2',
             'POST', 1, 1000, '{{\"Authorization\":\"hunter2\",\"X-Env\":\"prod\"}}', 'none', NULL, NULL, 1, 1);
         INSERT INTO deliveries VALUES (1, x'00000000000070008000000000000002', x'00000000000070008000000000000001', NULL,
             NULL, 'e', '{{}}', 'pending', 0, 5, 1, NULL, NULL, NULL, 1, NULL);",
        include_str!("../../../sql/sqlite/0001_store.sql"),
    ))
    .unwrap();
    drop(old);
    let store = open(&dir, Some(&key)).unwrap();
    let webhook = store.find::<NewWebhook>("ops").await.unwrap().unwrap();
    assert_eq!(webhook.document.url, "https://ops.example.com/?token=hunter2");
    assert_eq!(webhook.document.headers["Authorization"], "hunter2");
    assert_eq!((webhook.document.headers["X-Env"].as_str(), webhook.document.int64_as_string), ("prod", false));
    assert_eq!(webhook.updated_at.as_millisecond(), 1);
    let claimed = store.claim_due_deliveries(ClaimLimits::up_to(5, Duration::from_secs(60), &[])).await.unwrap();
    assert_eq!(claimed.len(), 1);
    store.close().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"), "{}", path.display());
    }
    let store = open(&dir, Some(&key)).unwrap();
    assert_eq!(store.find::<NewWebhook>("ops").await.unwrap().unwrap(), webhook);
}

/// An older version sealed the query, but recognized neither the segment nor the header as secret.
#[tokio::test]
async fn partly_sealed_webhooks_are_sealed_completely() {
    let (dir, key) = (tempfile::tempdir().unwrap(), "0f".repeat(32));
    let store = open(&dir, Some(&key)).unwrap();
    let url = "https://ops.example.com/bot7:hunter2hunter2hunter2/x?q=1";
    let mut new = webhook("ops", "t");
    new.url = url.to_owned();
    store.create::<NewWebhook>(new).await.unwrap();
    store.close().await;
    let file = dir.path().join("store.db");
    let raw = crate::base::sqlite::open_writer(&file).unwrap();
    let (shown, headers) = (url.replace("q=1", "q=***"), r#"{"X-Id":"id:hunter2hunter2hunter2"}"#);
    assert_eq!(raw.execute("UPDATE webhooks SET url = ?1, headers = ?2", [shown.as_str(), headers]).unwrap(), 1);
    drop(raw);

    let store = open(&dir, Some(&key)).unwrap();
    let document = store.find::<NewWebhook>("ops").await.unwrap().unwrap().document;
    assert_eq!((document.url.as_str(), document.headers["X-Id"].as_str()), (url, "id:hunter2hunter2hunter2"));
    assert_eq!(document.auth, Auth::Bearer { token: "t".into() });
    store.close().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"), "{}", path.display());
    }
}

#[tokio::test]
async fn a_damaged_file_prevents_the_start_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store.db"), "this is not a database, it only has its name".repeat(100)).unwrap();
    let error = open(&dir, None).err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("store.db"));
}

#[tokio::test]
async fn damage_found_while_running_is_reported() {
    let (store, dir) = open_fresh();
    let id = store.create(webhook("ops", "s")).await.unwrap().id;
    let deliveries: Vec<_> = (0..400).map(|_| delivery(id)).collect();
    let ids: Vec<_> = deliveries.iter().map(|delivery| delivery.id).collect();
    let effects =
        Effects { consumer: "c".to_owned(), causes: vec![Cause::new(1, 1)], deliveries, ..Effects::default() };
    store.record_effects(effects).await.unwrap();
    store.close().await;
    let store = open(&dir, None).unwrap();
    store.ping().await.unwrap();
    // In place, so that it stays the same open file.
    let path = dir.path().join("store.db");
    let bytes = std::fs::metadata(&path).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0x5a; bytes as usize / 2], bytes / 2).unwrap();
    // Closing it would release the store's locks.
    std::mem::forget(file);
    let mut found = Ok(None);
    for id in ids {
        found = store.delivery(id).await;
        if found.is_err() {
            break;
        }
    }
    assert_eq!(found.unwrap_err().kind, StoreErrorKind::Corrupt);
    let said = store.ping().await.unwrap_err();
    assert_eq!(said.kind, StoreErrorKind::Corrupt);
    assert!(std::error::Error::source(&said).unwrap().to_string().contains("store.db"), "{said:?}");
}

#[tokio::test]
async fn a_store_that_a_restart_would_not_find_refuses_writes() {
    for file in ["store.db", "store.db-wal", "store.db-shm", "store.lock", "secrets.key"] {
        let (store, dir) = open_fresh();
        store.create(webhook("ops", "s")).await.unwrap();
        let (place, away) = (dir.path().join(file), dir.path().join("away"));
        std::fs::rename(&place, &away).unwrap();
        for name in ["second", "third"] {
            let refused = store.create(webhook(name, "s")).await.unwrap_err();
            let source = std::error::Error::source(&refused).unwrap().to_string();
            assert_eq!(refused.kind, StoreErrorKind::Unavailable);
            assert!(source.contains(file) && source.contains("was removed while in use"), "{source}");
        }
        assert_eq!(store.ping().await.unwrap_err().kind, StoreErrorKind::Unavailable);
        std::fs::rename(&away, &place).unwrap();
        store.ping().await.unwrap();
        store.create(webhook("third", "s")).await.unwrap();
    }
}

#[tokio::test]
async fn writes_fail_on_a_full_disk_and_succeed_later() {
    let (store, dir) = open_fresh();
    let id = store.create(webhook("ops", "s")).await.unwrap().id;
    // The page limit is SQLite's own "disk full".
    let limit_pages = |pages: i64| {
        let Inner::Sqlite(engine) = &store.0 else { unreachable!("opened as SQLite") };
        let engine = engine.clone();
        async move { engine.limit_pages(pages).await }
    };
    limit_pages(1).await;
    let mut stored = 0;
    let mut sequence = 0;
    let refused = loop {
        sequence += 1;
        let deliveries = (0..20).map(|_| delivery(id)).collect();
        let effects = Effects {
            consumer: "c".to_owned(),
            causes: vec![Cause::new(sequence, 1)],
            deliveries,
            ..Effects::default()
        };
        match store.record_effects(effects).await {
            Ok(recorded) => {
                assert_eq!(recorded, RecordOutcome::Committed);
                stored += 20;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind, StoreErrorKind::Full);
    assert!(std::error::Error::source(&refused).unwrap().to_string().contains("store.db"));
    assert_eq!(store.status().await.unwrap().deliveries_pending, stored);
    assert!(consumed(&store, "c", &[sequence]).await.is_empty());
    limit_pages(1_000_000).await;
    store.ping().await.unwrap();
    let effects = Effects {
        consumer: "c".to_owned(),
        causes: vec![Cause::new(sequence, 1)],
        deliveries: vec![delivery(id)],
        ..Effects::default()
    };
    store.record_effects(effects).await.unwrap();
    assert_eq!(store.status().await.unwrap().deliveries_pending, stored + 1);
    drop(dir);
}

/// Deliveries recorded, claimed and finished by concurrent callers share commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_use_cases_share_commits() {
    let (store, _dir) = open_fresh();
    let id = store.create(webhook("ops", "s")).await.unwrap().id;
    let started = Instant::now();
    let batches = (1..=500u64).map(|sequence| {
        let deliveries = (0..4).map(|_| delivery(id)).collect();
        store.record_effects(Effects {
            consumer: "c".to_owned(),
            causes: vec![Cause::new(sequence, 1)],
            deliveries,
            ..Effects::default()
        })
    });
    for result in futures_util::future::join_all(batches).await {
        result.unwrap();
    }
    let mut finished = 0;
    loop {
        let claimed = store.claim_due_deliveries(ClaimLimits::up_to(100, Duration::from_secs(60), &[])).await.unwrap();
        if claimed.is_empty() {
            break;
        }
        finished += claimed.len();
        let outcomes = claimed.iter().map(|delivery| DeliveryOutcome {
            id: delivery.id,
            status: DeliveryStatus::Delivered,
            attempts: 1,
            attempted_at_ms: 1,
            wait_ms: None,
            status_code: Some(200),
            error: None,
        });
        store.finish_deliveries(outcomes.collect()).await.unwrap();
    }
    assert_eq!(finished, 2_000);
    println!("2,000 deliveries recorded, claimed and finished in {:?}", started.elapsed());
    let pending = store.status().await.unwrap().deliveries_pending;
    assert_eq!(pending, 0);
}

#[tokio::test]
async fn expired_deliveries_are_deleted() {
    let (store, _dir) = open_fresh();
    let id = store.create(webhook("ops", "s")).await.unwrap().id;
    let deliveries: Vec<_> = (0..3).map(|_| delivery(id)).collect();
    let ids: Vec<_> = deliveries.iter().map(|delivery| delivery.id).collect();
    store
        .record_effects(Effects {
            consumer: "c".to_owned(),
            causes: vec![Cause::new(1, 1)],
            deliveries,
            ..Effects::default()
        })
        .await
        .unwrap();
    store.claim_due_deliveries(ClaimLimits::up_to(3, Duration::from_secs(60), &[])).await.unwrap();
    let outcomes = [DeliveryStatus::Delivered, DeliveryStatus::DeadLetter].into_iter().zip(&ids);
    let outcomes = outcomes.map(|(status, id)| DeliveryOutcome {
        id: *id,
        status,
        attempts: 1,
        attempted_at_ms: 1,
        wait_ms: None,
        status_code: None,
        error: None,
    });
    store.finish_deliveries(outcomes.collect()).await.unwrap();
    let Inner::Sqlite(engine) = &store.0 else { unreachable!("opened as SQLite") };
    assert_eq!(store.delete_expired(0).await.unwrap(), 0);
    engine.age_deliveries(Duration::from_secs(8 * 24 * 3_600)).await;
    assert_eq!(store.delete_expired(0).await.unwrap(), 1);
    assert!(store.delivery(ids[0]).await.unwrap().is_none());
    assert!(store.delivery(ids[1]).await.unwrap().is_some());
    engine.age_deliveries(Duration::from_secs(23 * 24 * 3_600)).await;
    assert_eq!(store.delete_expired(0).await.unwrap(), 1);
    assert_eq!(store.delivery(ids[2]).await.unwrap().unwrap().status, DeliveryStatus::InProgress);
}

/// Leftovers of a clock that was hours ahead: a disabled webhook's backlog, a pending retry, and an ended delivery.
#[tokio::test]
async fn restarts_after_a_clock_step_back_neither_delay_nor_age_deliveries() {
    const AHEAD_MS: i64 = 10 * 3_600 * 1_000;
    let (store, dir) = open_fresh();
    let id = store.create(webhook("ops", "s")).await.unwrap().id;
    let deliveries: Vec<_> = (0..3).map(|_| delivery(id)).collect();
    let [owed, retried, ended] = [0, 1, 2].map(|place| deliveries[place].id);
    let effects =
        Effects { consumer: "c".to_owned(), causes: vec![Cause::new(1, 1)], deliveries, ..Effects::default() };
    store.record_effects(effects).await.unwrap();
    let outcome = |id, status, wait_ms| DeliveryOutcome {
        id,
        status,
        attempts: 1,
        attempted_at_ms: jiff::Timestamp::now().as_millisecond(),
        wait_ms,
        status_code: None,
        error: None,
    };
    let wait_ms = 60_000;
    let outcomes =
        vec![outcome(retried, DeliveryStatus::Pending, Some(wait_ms)), outcome(ended, DeliveryStatus::Delivered, None)];
    store.finish_deliveries(outcomes).await.unwrap();
    store.disable_webhook(id, "by hand").await.unwrap();
    let Inner::Sqlite(engine) = &store.0 else { unreachable!("opened as SQLite") };
    engine.age_deliveries_by(-AHEAD_MS).await;
    store.close().await;
    drop(store);

    let due = async |store: &Store, id| store.delivery(id).await.unwrap().unwrap().next_attempt_at.unwrap();
    let mut first = None;
    for _ in 0..4 {
        let store = open(&dir, None).unwrap();
        let found = (due(&store, owed).await, due(&store, retried).await);
        let now_ms = jiff::Timestamp::now().as_millisecond();
        assert!(found.0.as_millisecond() <= now_ms, "due since it was created");
        assert!((1..=wait_ms).contains(&(found.1.as_millisecond() - now_ms)), "a retry waits no longer than it was to");
        assert_eq!(*first.get_or_insert(found), found, "a second restart moves nothing");
        let bounds = BacklogLimits { deliveries_max: 10, age_max: Duration::from_secs(3_600) };
        assert_eq!(store.trim_backlog(bounds).await.unwrap(), 0);
        store.delete_expired(0).await.unwrap();
        store.close().await;
    }
    let store = open(&dir, None).unwrap();
    let Inner::Sqlite(engine) = &store.0 else { unreachable!("opened as SQLite") };
    engine.age_deliveries_by(8 * 24 * 3_600 * 1_000).await;
    assert_eq!(store.delete_expired(0).await.unwrap(), 1, "what ended in the future is kept no longer than other ends");
    assert!(store.delivery(ended).await.unwrap().is_none());
}

/// Steps forward and back do not change the age of a disabled webhook's backlog.
#[tokio::test]
async fn clock_steps_in_both_directions_do_not_age_deliveries() {
    const STEP_MS: i64 = 3 * 3_600 * 1_000;
    let (store, _dir) = open_fresh();
    let id = store.create(webhook("ops", "s")).await.unwrap().id;
    let owed = vec![delivery(id)];
    let delivery_id = owed[0].id;
    let effects =
        Effects { consumer: "c".to_owned(), causes: vec![Cause::new(1, 1)], deliveries: owed, ..Effects::default() };
    store.record_effects(effects).await.unwrap();
    let due = async || store.delivery(delivery_id).await.unwrap().unwrap().next_attempt_at.unwrap();
    let before = due().await;
    let Inner::Sqlite(engine) = &store.0 else { unreachable!("opened as SQLite") };
    for _ in 0..5 {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        engine.follow_step(now_ms + STEP_MS, STEP_MS).await;
        engine.follow_step(now_ms, -STEP_MS).await;
    }
    assert_eq!(due().await, before);
}

impl Engine {
    async fn follow_step(&self, now_ms: i64, step_ms: i64) {
        let follow = move |connection: &_| {
            super::clock::shift_due_times(connection, now_ms, step_ms).map_err(super::error::failed("follow"))
        };
        self.write(Wake::None, "follow", follow).await.unwrap();
    }

    /// Moves all times of all deliveries into the past.
    async fn age_deliveries_by(&self, age_ms: i64) {
        self.write(Wake::None, "age deliveries", move |connection| {
            let sql = "UPDATE deliveries SET due_at = due_at - ?1, last_attempt_at = last_attempt_at - ?1,
                           created_at = created_at - ?1, finished_at = finished_at - ?1";
            connection.execute(sql, [age_ms]).map_err(super::error::failed("age deliveries"))
        })
        .await
        .unwrap();
    }

    async fn limit_pages(&self, pages: i64) {
        self.write(Wake::None, "limit pages", move |connection| {
            connection.pragma_update(None, "max_page_count", pages).map_err(super::error::failed("limit pages"))
        })
        .await
        .unwrap();
    }

    async fn age_deliveries(&self, age: Duration) {
        self.write(Wake::None, "age deliveries", move |connection| {
            connection
                .execute("UPDATE deliveries SET finished_at = finished_at - ?1", [age.as_millis() as i64])
                .map_err(super::error::failed("age deliveries"))
        })
        .await
        .unwrap();
    }
}
