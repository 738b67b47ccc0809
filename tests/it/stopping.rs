//! A stop under the default budgets lets what is under way end, and leaves nothing for the next start to repeat.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Receiver, Server, signal, wait_until};

const BODY: &str = r#"{"event":{"id":"e1","appId":"a","deviceId":"d","userLogin":{}}}"#;
/// `shutdown_timeout`, and a machine that is busy.
const STOP_MAX: Duration = Duration::from_secs(40);

#[test]
fn a_slow_upload_ends_within_http_shutdown_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    let mut upload = TcpStream::connect(server.http.strip_prefix("http://").unwrap()).unwrap();
    let head = format!("POST /v1/events/ingest HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n", BODY.len());
    upload.write_all(head.as_bytes()).unwrap();
    upload.write_all(&BODY.as_bytes()[..10]).unwrap();
    // Time for the head to be read; a request that has not begun is not waited for.
    std::thread::sleep(Duration::from_millis(300));
    signal(server.pid(), "TERM");
    // Less than the default of 10 s, and more than a quarter of a stop's 30 s.
    std::thread::sleep(Duration::from_secs(8));
    upload.write_all(&BODY.as_bytes()[10..]).unwrap();
    let mut reply = String::new();
    upload.set_read_timeout(Some(STOP_MAX)).unwrap();
    upload.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(server.wait_for_exit(STOP_MAX).success());
    server.expect_quiet_log(&["still waiting"]);
}

#[test]
fn a_slow_webhook_ends_in_the_time_that_others_left() {
    let called = Arc::new(AtomicBool::new(false));
    let seen = called.clone();
    let receiver = Receiver::answering(move |_| {
        seen.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_secs(6));
        200
    });
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    server.admin_create("/webhooks", &json!({"name": "slow", "url": format!("{}/slow", receiver.url)}));
    server.admin_create("/rules", &json!({"name": "all", "actions": {"webhooks": ["slow"]}}));
    assert_eq!(server.send("/v1/events/ingest", &serde_json::from_str(BODY).unwrap()).unwrap().0, 200);
    wait_until("the webhook is called", || called.load(Ordering::SeqCst));
    assert!(server.terminate(STOP_MAX).success());
    server.expect_quiet_log(&["still waiting"]);
    server.restart();
    let deliveries = server.admin_get("/deliveries");
    let delivery = &deliveries["items"][0];
    assert_eq!((&delivery["status"], &delivery["attempts"]), (&json!("delivered"), &json!(1)), "{delivery}");
    assert_eq!(receiver.all().len(), 1);
}
