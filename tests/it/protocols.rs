//! Clients that speak other protocols, as their makers ship them, against a gateway that asks for a key.

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
    let files = format!("{}/**/*.parquet", server.warehouse().display());
    assert!(server.terminate(Duration::from_secs(35)).success());

    let query = |columns: &str, filter: &str| -> Value {
        let query = format!("SELECT {columns} FROM read_parquet('{files}') WHERE {filter} ORDER BY 1, 2");
        serde_json::from_str(&python("read_parquet.py", &["", "query"], &query)).unwrap()
    };
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
