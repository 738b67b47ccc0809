//! The lake through Trino, which finds it in metastores of both versions, as files and as a Delta table; and the queries
//! for Redash. Only `just trino` runs this: its comment says why.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, python, wait_until};
use crate::services::metastore::{MetastoreServer, VERSIONS};
use crate::services::trino::{self, TrinoServer};

const APPS: [&str; 8] = ["007", "07", "7", "NaN", "null", "1e5", "true", "2026-01-01"];
/// 2026-03-04T05:00:00Z.
const HOUR: i64 = 1_772_600_400_000;
const HOUR_MS: i64 = 3_600_000;

struct Lake {
    server: Server,
    metastore: MetastoreServer,
    _dir: tempfile::TempDir,
}

impl Lake {
    fn start(version: &'static str) -> Self {
        let (dir, metastore) = (tempfile::tempdir().unwrap(), MetastoreServer::start(version));
        let uri = metastore.uri();
        let settings =
            [("HIVE_METASTORE_URI", uri.as_str()), ("DELTA_ENABLED", "true"), ("BATCH_FLUSH_INTERVAL", "100ms")];
        Self { server: Server::start(dir.path(), &settings), metastore, _dir: dir }
    }

    fn send(&self, events: &[Value]) {
        let (status, reply) = self.server.send("/v1/events/batch", &json!({"events": events})).unwrap();
        assert_eq!(status, 200, "{reply}");
        self.server.wait_drained();
    }

    fn catalog(&self, connector: &str) -> String {
        trino::catalog(connector, &self.metastore.uri())
    }
}

fn event(app: &str, n: i64) -> Value {
    let mut event = json!({
        "id": format!("{app}-{n}"), "appId": app, "deviceId": format!("d{}", n % 3),
        "timestampMs": (HOUR + n * HOUR_MS).to_string(), "userLogin": {}
    });
    if n % 2 == 0 {
        event["deviceContext"] = json!({"screenWidth": n, "isEmulator": true});
    }
    event
}

fn ask(trino: &TrinoServer, table: &str, arguments: &[&str]) -> Value {
    let port = trino.port().to_string();
    let arguments: Vec<&str> = [port.as_str(), table].into_iter().chain(arguments.iter().copied()).collect();
    serde_json::from_str(&python("read_trino.py", &arguments, "")).unwrap()
}

#[test]
#[ignore = "needs what just trino installs"]
fn trino_reads_the_lake_through_both_metastores_and_catalogs() {
    let lakes = VERSIONS.map(Lake::start);
    let catalogs = [
        ("hive_a", lakes[0].catalog("hive")),
        ("delta_a", lakes[0].catalog("delta_lake")),
        ("hive_b", lakes[1].catalog("hive")),
        ("delta_b", lakes[1].catalog("delta_lake")),
    ];
    let trino = TrinoServer::start(&catalogs);
    let tables = [
        ["hive_a.causality.events", "delta_a.causality.events_delta"],
        ["hive_b.causality.events", "delta_b.causality.events_delta"],
    ];
    for (lake, tables) in lakes.iter().zip(tables) {
        let mut sent = 0;
        // Again with more files and partitions: nobody repairs anything in between.
        for round in 0..3 {
            let events: Vec<Value> = APPS
                .iter()
                .enumerate()
                .flat_map(|(n, app)| (0..=n as i64).map(move |m| event(app, round * 8 + m)))
                .collect();
            lake.send(&events);
            sent += events.len();
            readers_agree(&trino, tables, sent, round as usize + 1);
        }
        queries_answer(&trino, tables, lake);
        lake.server.expect_quiet_log(&[]);
    }
    drop(trino);
    for mut lake in lakes {
        assert!(lake.server.terminate(PATIENCE).success());
    }
}

fn readers_agree(trino: &TrinoServer, [hive, delta]: [&str; 2], sent: usize, rounds: usize) {
    let mut files = Value::Null;
    wait_until("all rows are there", || {
        files = ask(trino, hive, &["lake"]);
        let counts = files["counts"].as_object().unwrap().values();
        // What is asked first.
        counts.filter_map(Value::as_u64).sum::<u64>() >= sent as u64
    });
    let log = ask(trino, delta, &["lake"]);
    for part in ["counts", "filtered", "rows", "march"] {
        assert_eq!(files[part], log[part], "{part}");
    }
    let expected: serde_json::Map<String, Value> =
        APPS.iter().enumerate().map(|(n, app)| ((*app).to_owned(), json!((n + 1) * rounds))).collect();
    assert_eq!(files["counts"], Value::Object(expected));
    assert_eq!(files["filtered"], files["counts"]);
    assert_eq!(files["march"], json!(APPS.len()));
    let types = &files["types"];
    assert_eq!(types, &log["types"]);
    for (column, kind) in [
        ("app_id", "varchar"),
        ("year", "integer"),
        ("month", "integer"),
        ("day", "integer"),
        ("hour", "integer"),
        ("timestamp_ms", "bigint"),
        ("screen_width", "integer"),
        ("is_emulator", "boolean"),
        ("payload_json", "varchar"),
    ] {
        assert_eq!(types[column], kind, "{column}");
    }
}

/// Those of `deploy/redash`, over events of this hour.
fn queries_answer(trino: &TrinoServer, tables: [&str; 2], lake: &Lake) {
    let purchase = |n: usize, app: &str, currency: &str, cents: i64| {
        let purchase = json!({"orderId": format!("o{n}"), "currency": currency, "totalCents": cents});
        json!({"appId": app, "deviceId": format!("d{}", n % 2), "purchaseComplete": purchase})
    };
    let view = json!({"appId": "shop", "deviceId": "d9", "userLogin": {}});
    let events = [
        purchase(0, "shop", "EUR", 1_999),
        purchase(1, "shop", "EUR", 1),
        purchase(2, "shop", "EUR", 12_950),
        purchase(3, "shop", "", 100),
        purchase(4, "bar", "USD", 333),
        view,
    ];
    lake.send(&events);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/redash");
    let query = |table: &str, name: &str| ask(trino, table, &["query", folder.join(name).to_str().unwrap()]);
    wait_until("the partition is registered", || {
        query(tables[0], "top_event_types.sql").as_array().unwrap().len() == 2
    });
    for table in tables {
        let types = query(table, "top_event_types.sql");
        assert_eq!(types, json!([["commerce.purchase_complete", 5, 2], ["user.login", 1, 1]]), "{table}");
        let purchases = query(table, "purchases_by_app.sql");
        assert_eq!(
            purchases,
            json!([["shop", "EUR", 3, 2, 149.5], ["bar", "USD", 1, 1, 3.33], ["shop", "unknown", 1, 1, 1.0]]),
            "{table}"
        );
        let hours = query(table, "events_per_hour.sql");
        let hours = hours.as_array().unwrap();
        // More than one when the hour ends now.
        let of = |app: &str| hours.iter().filter(|row| row[0] == app).filter_map(|row| row[2].as_u64()).sum::<u64>();
        assert_eq!((of("shop"), of("bar")), (5, 1), "{hours:?}");
        assert!(hours.iter().all(|row| row[1].as_str().is_some_and(|hour| hour.ends_with(":00:00Z"))), "{hours:?}");
    }
}
