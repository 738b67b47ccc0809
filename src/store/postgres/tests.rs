//! The conformance suite over PostgreSQL, and what only this engine promises.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::engine::{Ending, Engine};
use super::error::failed;
use crate::services::postgres::PostgresServer;
use crate::store::conformance::{causes, conformance_suite, consumed, delivery};
use crate::store::*;

conformance_suite!(fresh);

/// One cluster for all concurrent tests: it takes seconds to create.
pub(super) fn cluster() -> Arc<PostgresServer> {
    static SHARED: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(PostgresServer::start());
        *shared = Arc::downgrade(&server);
        server
    })
}

pub(super) fn settings(server: &PostgresServer, database: &str) -> PostgresSettings {
    PostgresSettings {
        url: Some(server.url(database).into()),
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
    }
}

async fn fresh() -> (Store, Arc<PostgresServer>) {
    let server = cluster();
    let database = server.database();
    (Store::connect_postgres(settings(&server, &database)).await.unwrap(), server)
}

fn rule(name: &str) -> NewRule {
    serde_json::from_value(json!({"name": name})).unwrap()
}

/// How long [`hold_rules`] holds the lock: long enough to tell a timeout from its end on a busy machine.
const HELD: Duration = Duration::from_secs(6);

/// Another session locks the rules table.
fn hold_rules(server: &Arc<PostgresServer>, database: &str) -> std::thread::JoinHandle<()> {
    let held =
        "SELECT count(*) FROM pg_locks WHERE relation = 'rules'::regclass AND mode = 'AccessExclusiveLock' AND granted";
    let holder = {
        let (server, database) = (server.clone(), database.to_owned());
        let sql =
            format!("BEGIN; LOCK TABLE rules IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep({}); COMMIT", HELD.as_secs());
        std::thread::spawn(move || drop(server.sql(&database, &sql)))
    };
    while server.sql(database, held) == "0" {
        std::thread::sleep(Duration::from_millis(10));
    }
    holder
}

/// Concurrently or on a migrated database: each migration is applied once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_migrations_apply_each_step_once() {
    let server = cluster();
    let database = server.database();
    let all = join_all((0..6).map(|_| migrate_postgres(settings(&server, &database)))).await;
    let all: Vec<Migrated> = all.into_iter().map(|migrated| migrated.unwrap()).collect();
    assert!(all.iter().all(|migrated| migrated.to == all[0].to));
    assert_eq!(all.iter().filter(|migrated| migrated.from < migrated.to).count(), 1, "{all:?}");
    let rows = server.sql(&database, "SELECT count(*) || ' ' || max(version) FROM schema_migrations");
    assert_eq!(rows, format!("{0} {0}", all[0].to));
    // The first process to connect also migrates an empty database.
    let empty = server.database();
    let stores = join_all((0..6).map(|_| Store::connect_postgres(settings(&server, &empty)))).await;
    join_all(stores.into_iter().map(|store| async move { store.unwrap().close().await })).await;
}

/// Poolers close connections that ask for unknown options.
#[tokio::test]
async fn connections_use_no_startup_options() {
    let connector = super::connect::Connector::of(&settings(&cluster(), "any")).unwrap();
    assert_eq!(connector.config.get_options(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_statement_is_cancelled_and_the_store_keeps_working() {
    let server = cluster();
    let database = server.database();
    let limit = Duration::from_millis(400);
    let quick = PostgresSettings { statement_timeout: limit, ..settings(&server, &database) };
    let store = Store::connect_postgres(quick).await.unwrap();
    let holder = hold_rules(&server, &database);
    let started = Instant::now();
    let error = store.create(rule("a")).await.unwrap_err();
    let took = started.elapsed();
    assert!(error.kind == StoreErrorKind::Unavailable && took >= limit && took < HELD / 2, "{error} after {took:?}");
    holder.join().unwrap();
    store.create(rule("a")).await.unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_limited_and_waiting_times_out() {
    let server = cluster();
    let database = server.database();
    let wait = Duration::from_millis(500);
    let few = PostgresSettings { connections_max: 2, connect_timeout: wait, ..settings(&server, &database) };
    let store = Store::connect_postgres(few).await.unwrap();
    let holder = hold_rules(&server, &database);
    let busy = [store.create(rule("a")), store.create(rule("b"))];
    let third = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let started = Instant::now();
        let error = store.status().await.unwrap_err();
        let text = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
        assert!(
            error.kind == StoreErrorKind::Unavailable && text.contains("database_max_open_conns"),
            "{error}: {text}"
        );
        let took = started.elapsed();
        assert!(took >= wait && took < HELD / 2, "{took:?}");
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND application_name = 'causality'"
        );
        // Two for use cases and one that listens.
        assert_eq!(server.sql("postgres", &sql), "3");
    };
    let (done, ()) = tokio::join!(join_all(busy), third);
    done.into_iter().for_each(|created| drop(created.unwrap()));
    holder.join().unwrap();
    assert_eq!(store.status().await.unwrap().rules, 2);
    store.close().await;
}

/// The backend of a use case's connection, and whether it is in a transaction of an earlier use case.
async fn backend(engine: &Engine) -> (i32, bool) {
    let sql = "SELECT pg_backend_pid(), pg_current_xact_id_if_assigned() IS NOT NULL";
    let backend = engine.run("read backend", async |client| Ok(client.query_one(sql, &[]).await.unwrap()));
    backend.await.map(|row| (row.get(0), row.get(1))).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_whole_connections_are_reused() {
    let server = cluster();
    let database = server.database();
    let one = PostgresSettings { connections_max: 1, ..settings(&server, &database) };
    let engine = Engine::connect(one).await.unwrap();
    let (context, insert) = ("test", "INSERT INTO consumer_floors (consumer, floor) VALUES ('test', 0)");
    let (first, _) = backend(&engine).await;
    assert_eq!(backend(&engine).await, (first, false));

    // A refusal rolls back.
    let refused = engine.transact(context, async |tx| {
        tx.execute(insert, &[]).await.unwrap();
        Err::<Ending<()>, _>(StoreError::new(StoreErrorKind::NotFound, context))
    });
    assert_eq!(refused.await.unwrap_err().kind, StoreErrorKind::NotFound);
    assert_eq!(backend(&engine).await, (first, false));

    // Cancelled within a transaction, and within a statement.
    let inserted = Notify::new();
    let endless = engine.transact(context, async |tx| {
        tx.execute(insert, &[]).await.unwrap();
        inserted.notify_one();
        std::future::pending::<Result<Ending<()>, StoreError>>().await
    });
    tokio::select! {
        _ = endless => unreachable!("it never ends"),
        () = inserted.notified() => {}
    }
    let (second, in_transaction) = backend(&engine).await;
    assert!(second != first && !in_transaction);
    let sleeping =
        format!("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = '{database}'");
    let asleep = async {
        while server.sql("postgres", &sleeping) == "0" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        _ = engine.run(context, async |client| {
            client.batch_execute("SELECT pg_sleep(60)").await.unwrap();
            Ok(())
        }) => {
            unreachable!("it is cancelled before")
        }
        () = asleep => {}
    }
    let started = Instant::now();
    let (third, _) = backend(&engine).await;
    assert!(third != second && started.elapsed() < Duration::from_secs(30), "it does not wait for the statement");

    let wrong = engine.run(context, async |client| client.batch_execute("SELECT 1 / 0").await.map_err(failed(context)));
    assert_eq!(wrong.await.unwrap_err().kind, StoreErrorKind::Unavailable);
    assert_ne!(backend(&engine).await.0, third);
    assert_eq!(server.sql(&database, "SELECT count(*) FROM consumer_floors"), "0");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_closed_by_count_and_age() {
    let server = cluster();
    let database = server.database();
    let lifetime = Duration::from_secs(2);
    let few =
        PostgresSettings { idle_connections_max: 2, connection_lifetime_max: lifetime, ..settings(&server, &database) };
    let store = Store::connect_postgres(few).await.unwrap();
    // Besides the listening connection, which is not pooled.
    let pooled = || {
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND application_name = 'causality'
             AND query NOT LIKE 'LISTEN%' AND query <> ''"
        );
        server.sql("postgres", &sql).lines().map(str::to_owned).collect::<HashSet<String>>()
    };
    // A slow machine may close connections of a burst before they are counted.
    let began = Instant::now();
    let mut round = 0;
    let first = loop {
        join_all((0..8).map(|n| store.create(rule(&format!("{round}-{n}"))))).await;
        let open = pooled();
        if open.len() > 2 {
            break open;
        }
        round += 1;
        assert!(began.elapsed() < Duration::from_secs(20), "never more than {open:?}");
    };
    let began = Instant::now();
    while pooled().len() > 2 {
        assert!(began.elapsed() < Duration::from_secs(20), "never fewer: {:?}", pooled());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while !pooled().is_disjoint(&first) {
        assert!(began.elapsed() < Duration::from_secs(20), "never closed: {:?}", pooled());
        store.status().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.close().await;
}

/// Processes see each other's changes again once the server is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_resume_after_the_server_was_killed() {
    let mut server = PostgresServer::start();
    let database = server.database();
    let quick = PostgresSettings { connect_timeout: Duration::from_secs(2), ..settings(&server, &database) };
    let writer = Store::connect_postgres(quick.clone()).await.unwrap();
    let listener = Store::connect_postgres(quick).await.unwrap();
    let mut changes = listener.changes();
    let notified = async |changes: &mut watch::Receiver<u64>| {
        tokio::time::timeout(Duration::from_secs(20), changes.changed()).await.expect("notified").unwrap();
    };
    for round in 0..2 {
        changes.mark_unchanged();
        writer.create(rule(&format!("before {round}"))).await.unwrap();
        notified(&mut changes).await;
        server.kill9();
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.restart();
        // Something may have been missed in the meantime.
        notified(&mut changes).await;
        let back = Instant::now();
        while let Err(error) = writer.create(rule(&format!("after {round}"))).await {
            assert!(error.kind == StoreErrorKind::Unavailable && back.elapsed() < Duration::from_secs(20), "{error}");
        }
        notified(&mut changes).await;
    }
}

/// Claims do not wait for each other, nothing is claimed twice, and nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_dispatchers_share_the_deliveries() {
    const DELIVERIES: usize = 600;
    let server = cluster();
    let database = server.database();
    let store = Store::connect_postgres(settings(&server, &database)).await.unwrap();
    let webhook = serde_json::from_value(json!({"name": "ops", "url": "http://127.0.0.1:1/"})).unwrap();
    let webhook = store.create::<NewWebhook>(webhook).await.unwrap().id;
    let delivery = |n: usize| NewDelivery {
        id: Uuid::now_v7(),
        webhook_id: webhook,
        rule_id: None,
        anomaly_config_id: None,
        event_id: n.to_string(),
        payload: RawValue::from_string("{}".to_owned()).unwrap(),
        max_attempts: 5,
    };
    let effects = Effects {
        consumer: "engine".to_owned(),
        causes: vec![Cause::new(1, 1)],
        deliveries: (0..DELIVERIES).map(delivery).collect(),
        ..Effects::default()
    };
    store.record_effects(effects).await.unwrap();
    let sent = Mutex::new(Vec::new());
    let dispatchers = (0..4).map(|_| async {
        let store = Store::connect_postgres(settings(&server, &database)).await.unwrap();
        loop {
            let claimed =
                store.claim_due_deliveries(ClaimLimits::up_to(7, Duration::from_secs(60), &[])).await.unwrap();
            if claimed.is_empty() {
                break;
            }
            sent.lock().unwrap().extend(claimed.iter().map(|delivery| delivery.id));
            let outcome = |delivery: Delivery| DeliveryOutcome {
                id: delivery.id,
                status: DeliveryStatus::Delivered,
                attempts: 1,
                attempted_at_ms: jiff::Timestamp::now().as_millisecond(),
                wait_ms: None,
                status_code: Some(200),
                error: None,
            };
            store.finish_deliveries(claimed.into_iter().map(outcome).collect()).await.unwrap();
        }
        store.close().await;
    });
    join_all(dispatchers).await;
    store.close().await;
    // This table was never analyzed; still, no plan may scan it.
    let walked = server.sql(&database, "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'deliveries'");
    assert_eq!(walked, "0");
    let sent = sent.into_inner().unwrap();
    assert_eq!((sent.len(), sent.iter().collect::<HashSet<_>>().len()), (DELIVERIES, DELIVERIES));
    let delivered =
        server.sql(&database, "SELECT count(*) FROM deliveries WHERE status = 'delivered' AND attempts = 1");
    assert_eq!(delivered, DELIVERIES.to_string());
}

/// Merging waits for commits below the floor, the first time as later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_floor_can_be_locked_from_the_first_commit_on() {
    let server = cluster();
    let database = server.database();
    let store = Store::connect_postgres(settings(&server, &database)).await.unwrap();
    let effects = |sequence: u64, acknowledged| Effects {
        consumer: "engine".to_owned(),
        causes: causes(&[sequence]),
        acknowledged,
        ..Effects::default()
    };
    store.record_effects(effects(1, None)).await.unwrap();
    // Another process is about to commit sequence 2.
    let committing = {
        let (server, database) = (server.clone(), database.clone());
        std::thread::spawn(move || {
            server.sql(
                &database,
                "BEGIN; SELECT floor FROM consumer_floors WHERE consumer = 'engine' FOR SHARE;
                 INSERT INTO consumed VALUES ('engine', 2, 2); SELECT pg_sleep(4); COMMIT",
            );
        })
    };
    let waiting =
        format!("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = '{database}'");
    while server.sql(&database, &waiting) == "0" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let started = Instant::now();
    store.record_effects(effects(3, Some(Cause::new(3, 3)))).await.unwrap();
    assert!(started.elapsed() > Duration::from_millis(500), "it did not wait: {:?}", started.elapsed());
    committing.join().unwrap();
    let entry = server.sql(&database, "SELECT sequence || ' ' || published_at_ms FROM consumed_up_to");
    assert_eq!(entry, "3 3");
    assert_eq!(consumed(&store, "engine", &[1, 2, 3, 4]).await, [1, 2, 3]);
    let kept = server.sql(&database, "SELECT count(*) FROM consumed");
    assert_eq!(kept, "0", "what was committed below the floor went with the rest");
}

/// Every process of the cluster is stopped, while the operating system keeps its connections open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_server_is_detected_by_its_silence() {
    let server = PostgresServer::start();
    let database = server.database();
    let connect = Duration::from_millis(500);
    let patient =
        PostgresSettings { connect_timeout: connect, statement_timeout: connect, ..settings(&server, &database) };
    let store = Store::connect_postgres(patient).await.unwrap();
    store.create(rule("a")).await.unwrap();
    server.signal("STOP");
    for _ in 0..3 {
        let started = Instant::now();
        let error = store.find::<NewRule>("a").await.unwrap_err();
        let took = started.elapsed();
        assert!(error.kind == StoreErrorKind::Unavailable && took < connect * 8, "{error} after {took:?}");
    }
    server.signal("CONT");
    let back = Instant::now();
    while store.find::<NewRule>("a").await.is_err() {
        assert!(back.elapsed() < Duration::from_secs(20), "not found again");
    }
    store.close().await;
}

/// When the server's clock is set back by three hours, or its standby is that far behind, no delivery is delayed by
/// that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_clock_that_is_set_back_delays_no_delivery() {
    const STEP_MS: i64 = 3 * 3_600 * 1_000;
    let server = cluster();
    let database = server.database();
    let set_clock = |ahead_ms: i64| {
        let sql = format!(
            "CREATE OR REPLACE FUNCTION causality_now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
             $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + {ahead_ms} $$"
        );
        server.sql(&database, &sql);
    };
    let store = Store::connect_postgres(settings(&server, &database)).await.unwrap();
    let webhook = store.create(super::super::conformance::webhook("ops")).await.unwrap().id;
    let lease = Duration::from_secs(60);
    for round in 0..2 {
        // The second store first observes the clock after it was set back.
        let fresh = Store::connect_postgres(settings(&server, &database)).await.unwrap();
        let store = if round == 0 { &store } else { &fresh };
        set_clock(STEP_MS);
        let deliveries: Vec<NewDelivery> = (0..3).map(|_| delivery(webhook, "e")).collect();
        let [owed, retried, claimed] = [0, 1, 2].map(|place| deliveries[place].id);
        let effects = Effects {
            consumer: "c".to_owned(),
            causes: vec![Cause::new(round + 1, 1)],
            deliveries,
            ..Effects::default()
        };
        store.record_effects(effects).await.unwrap();
        if round == 0 {
            store.next_due_ms(&[]).await.unwrap();
        }
        store.claim_due_deliveries(ClaimLimits::up_to(3, lease, &[])).await.unwrap();
        store.release_deliveries(vec![owed]).await.unwrap();
        let wait_ms = 5_000;
        let attempted_at_ms = jiff::Timestamp::now().as_millisecond();
        let (status, status_code, error) = (DeliveryStatus::Pending, None, None);
        let outcome = DeliveryOutcome {
            id: retried,
            status,
            attempts: 1,
            attempted_at_ms,
            wait_ms: Some(wait_ms),
            status_code,
            error,
        };
        store.finish_deliveries(vec![outcome]).await.unwrap();

        set_clock(0);
        let next_ms = store.next_due_ms(&[]).await.unwrap().unwrap();
        assert!(next_ms <= jiff::Timestamp::now().as_millisecond(), "due since it was created");
        let found = store.claim_due_deliveries(ClaimLimits::up_to(3, lease, &[])).await.unwrap();
        assert_eq!(found.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), [owed]);
        let sql = |id| format!("SELECT due_at - causality_now_ms() FROM deliveries WHERE id = '{id}'");
        let waits = [retried, claimed].map(|id| server.sql(&database, &sql(id)).parse::<i64>().unwrap());
        assert!(waits[0] <= wait_ms, "a retry waits no longer than it was to: {waits:?}");
        assert!(waits[1] <= lease.as_millis() as i64, "no claim outlasts the lease: {waits:?}");
        for id in [owed, retried, claimed] {
            store.delete_delivery(id).await.unwrap();
        }
        fresh.close().await;
    }
    store.close().await;
}
