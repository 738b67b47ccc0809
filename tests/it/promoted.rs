//! Fields of payloads as columns: typed, NULL where they do not fit, added and left out while older files stay.

use serde_json::{Value, json};

use crate::compaction::{done, lake};
use crate::harness::{Server, binary, get, python};

const DELTA: (&str, &str) = ("DELTA_ENABLED", "true");
const OFTEN: (&str, &str) = ("BATCH_FLUSH_INTERVAL", "50ms");

fn send(server: &Server, n: u64, properties: &Value) {
    let purchase = json!({"id": format!("p{n}"), "appId": "shop", "deviceId": "d",
        "purchaseComplete": {"orderId": "o", "totalCents": 100 * n, "currency": "EUR"}});
    let custom = json!({"id": format!("c{n}"), "appId": "shop", "deviceId": "d",
        "customEvent": {"eventName": "trial", "properties": properties}});
    let (status, reply) = server.send("/v1/events/batch", &json!({"events": [purchase, custom]})).unwrap();
    assert_eq!(status, 200, "{reply}");
    server.wait_drained();
}

#[test]
fn columns_come_and_go_while_older_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    let columns = |columns| [DELTA, OFTEN, ("WAREHOUSE_COLUMNS", columns)];
    let server = Server::start(dir.path(), &[DELTA, OFTEN]);
    send(&server, 1, &json!({"plan": "pro", "score": 1.5, "vip": true}));
    drop(server);
    let cents = "cents: int64 = $.purchase_complete.total_cents";
    let all = format!(
        "{cents}, plan: string = $.custom_event.properties.plan, score: double = $.custom_event.properties.score, \
         vip: boolean = $.custom_event.properties.vip, level: int64 = $.custom_event.properties.game.level"
    );
    let server = Server::start(dir.path(), &columns(&all));
    send(&server, 2, &json!({"plan": "pro", "score": 2.5, "vip": true, "game": {"level": 7}}));
    send(&server, 3, &json!({"plan": 5, "score": 3, "vip": "yes", "game": {"level": 7.5}}));
    send(&server, 4, &json!({"plan": null, "score": -0.0, "game": "chess"}));
    // Plan, vip and level of the third; `game` of the fourth has no level to be wrong.
    let (_, metrics) = get(&format!("{}/metrics", server.admin)).unwrap();
    for column in ["plan", "vip", "level"] {
        let counted = format!("causality_warehouse_column_mismatches_total{{column=\"{column}\"}} 1\n");
        assert!(metrics.contains(&counted), "{counted}");
    }
    drop(server);
    let server = Server::start(dir.path(), &columns(cents));
    send(&server, 5, &json!({"plan": "free"}));

    let table = server.warehouse();
    let rows = |source: &str, query: &str| -> Value {
        serde_json::from_str(&python("read_columns.py", &[table.to_str().unwrap(), source], query)).unwrap()
    };
    let query = "SELECT id, cents, plan, score, vip, level FROM events ORDER BY id";
    let expected = json!([
        ["c1", null, null, null, null, null],
        ["c2", null, "pro", 2.5, true, 7],
        ["c3", null, null, 3.0, null, null],
        ["c4", null, null, 0.0, null, null],
        ["c5", null, null, null, null, null],
        ["p1", null, null, null, null, null],
        ["p2", 200, null, null, null, null],
        ["p3", 300, null, null, null, null],
        ["p4", 400, null, null, null, null],
        ["p5", 500, null, null, null, null],
    ]);
    for source in ["deltalake", "duckdb", "polars", "files"] {
        assert_eq!(rows(source, query), expected, "{source}");
    }
    // Files are skipped by the columns' statistics, and none that has what is asked for.
    for (filter, id) in [("cents = 300", "p3"), ("score >= 3", "c3"), ("vip", "c2"), ("plan = 'pro'", "c2")] {
        let found = rows("duckdb", &format!("SELECT id FROM events WHERE {filter}"));
        assert_eq!(found, json!([[id]]), "{filter}");
    }
    assert_eq!(rows("duckdb", "SELECT count(*) FROM events WHERE payload_json LIKE '%\"plan\":5%'"), json!([[1]]));
    drop(server);
    // What is written again has the columns of today, of events from before them too.
    let said = done(lake(dir.path(), &["compact"], &[("WAREHOUSE_COLUMNS", &all)]).output().unwrap());
    assert!(said.contains("10 rows"), "{said}");
    let expected = json!([
        ["c1", null, "pro", 1.5, true, null],
        ["c2", null, "pro", 2.5, true, 7],
        ["c3", null, null, 3.0, null, null],
        ["c4", null, null, 0.0, null, null],
        ["c5", null, "free", null, null, null],
        ["p1", 100, null, null, null, null],
        ["p2", 200, null, null, null, null],
        ["p3", 300, null, null, null, null],
        ["p4", 400, null, null, null, null],
        ["p5", 500, null, null, null, null],
    ]);
    for source in ["deltalake", "duckdb", "polars", "files"] {
        assert_eq!(rows(source, query), expected, "{source}");
    }

    for (wrong, expected) in [
        ("cents: string = $.custom_event.event_name", "its column \"cents\" is \"long\" and not \"string\""),
        ("cents: int64 = $.purchase.total_cents", "warehouse_columns: column cents: no event has"),
    ] {
        let output = std::process::Command::new(binary())
            .args(["lake", "init"])
            .env("DATA_DIR", dir.path().join("data"))
            .env("WAREHOUSE_COLUMNS", wrong)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{told}");
        assert!(told.contains(expected), "{told}");
    }
}
