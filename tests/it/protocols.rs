//! Clients that speak other protocols, as their makers ship them, against a gateway that asks for a key.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Server, python};

#[test]
fn clients_of_other_protocols_send_by_their_address_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[("AUTH_ENABLED", "true")]);
    let key = server.admin_create("/keys", &json!({"app_id": "shop", "name": "protocols"}));
    let replies = python("send_protocols.py", &[&server.http, key["key"].as_str().unwrap()], "");
    // Each CloudEvent came twice, in two modes.
    assert_eq!(replies.split_whitespace().collect::<Vec<_>>(), ["False", "True"].repeat(4));
    assert!(server.terminate(Duration::from_secs(35)).success());
    let query = |columns: &str, filter: &str| rows(&server, columns, filter);
    let of_cloud_event = "payload_json ->> '$.properties.cloudevent.id', app_id, device_id, \
                          payload_json ->> '$.properties.amount', payload_json ->> '$.properties.note', \
                          payload_json ->> '$.properties.cloudevent.data', \
                          payload_json ->> '$.properties.cloudevent.data_base64'";
    assert_eq!(
        query(of_cloud_event, "event_type = 'order.paid'"),
        json!([
            ["0", "shop", "cart é", "12.5", "é", null, null],
            ["1", "shop", "cart é", null, null, "héllo", null],
            ["2", "shop", "cart é", null, null, null, "AP8="],
            ["3", "shop", "cart é", null, null, null, null]
        ])
    );
    let of_record = "count(*), count(DISTINCT idempotency_key), min(app_id), min(device_id), min(app_version), \
                     min(platform), sum(CAST(payload_json ->> '$.properties.attributes.number' AS DOUBLE)), \
                     min(payload_json ->> '$.properties.attributes.list[1]'), \
                     min(payload_json ->> '$.properties.severity_text'), \
                     bool_and(abs(timestamp_ms - received_at_ms) < 60000)";
    let expected = json!([[200, 200, "shop", "d-1", "1.2.3", "PLATFORM_IOS", 9900.0, "b", "INFO", true]]);
    assert_eq!(query(of_record, "event_type = 'log'"), expected);
    let bodies = query("count(DISTINCT payload_json ->> '$.properties.body'), 1", "event_type = 'log'");
    assert_eq!(bodies, json!([[100, 1]]));
}

/// The client sends again what was not answered; its `messageId` tells what was stored.
#[test]
fn segment_s_client_loses_and_doubles_nothing_when_the_server_is_killed() {
    const MORE: usize = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[("AUTH_ENABLED", "true")]);
    let key = server.admin_create("/keys", &json!({"app_id": "shop", "name": "segment"}))["key"].clone();
    let url = server.http.clone();
    let sending = thread::spawn(move || {
        python("send_segment.py", &[&url, key.as_str().unwrap(), &MORE.to_string()], "");
    });
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(700));
        server.kill();
        server.restart();
    }
    sending.join().unwrap();
    server.wait_ready();
    assert!(server.terminate(Duration::from_secs(35)).success());

    let counted = "count(*), count(DISTINCT idempotency_key), \
                   count(DISTINCT CAST(payload_json ->> '$.properties.number' AS DOUBLE)), min(app_id), min(device_id)";
    assert_eq!(rows(&server, counted, "event_type = 'counted'"), json!([[MORE, MORE, MORE, "shop", "a"]]));
    let in_time = "bool_and(received_at_ms - timestamp_ms BETWEEN -1000 AND 60000), 1";
    assert_eq!(rows(&server, in_time, "true"), json!([[true, 1]]));
    let kinds = "event_type, user_id, count(*)";
    assert_eq!(
        rows(&server, kinds, "event_type <> 'counted' GROUP BY ALL"),
        json!([
            ["alias", "u", 1],
            ["group", "u", 1],
            ["profile_update", "u", 1],
            ["purchase_complete", "u", 1],
            ["view", "u", 2]
        ])
    );
}

/// What an independent reader finds in the files.
fn rows(server: &Server, columns: &str, filter: &str) -> Value {
    let files = format!("{}/**/events_*.parquet", server.warehouse().display());
    let query = format!("SELECT {columns} FROM read_parquet('{files}') WHERE {filter} ORDER BY 1, 2");
    serde_json::from_str(&python("read_parquet.py", &["", "query"], &query)).unwrap()
}
