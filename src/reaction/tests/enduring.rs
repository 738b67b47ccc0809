//! Failures that must not count against an endpoint, or affect other endpoints.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::receiver::{PATIENCE, Receiver};
use super::{World, custom, dispatcher_settings, purchase};
use crate::base::supervisor::Tasks;
use crate::reaction::{DispatcherSettings, TlsFiles, check_tls_files};
use crate::services::certificates::Authority;
use crate::store::{DeliveryStatus, NewAnomalyConfig, NewWebhook};

const BODY: &str = r#"{"event_id":"0190"}"#;

/// Reads one request with [`BODY`]. Returns `false` at the end of the connection.
async fn read_request(tcp: &mut TcpStream) -> bool {
    let (mut read, mut buffer) = (Vec::new(), [0; 4_096]);
    while !read.ends_with(BODY.as_bytes()) {
        match tcp.read(&mut buffer).await {
            Ok(count) if count > 0 => read.extend_from_slice(&buffer[..count]),
            _ => return false,
        }
    }
    true
}

/// A server that runs `handle` for each connection.
async fn serve<F>(tasks: &Tasks, handle: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (address, connections) = (listener.local_addr().unwrap(), tasks.clone());
    tasks.spawn(async move {
        while let Some(Ok((tcp, _))) = connections.stop().run_until_cancelled(listener.accept()).await {
            let (handled, stop) = (handle(tcp), connections.stop().clone());
            connections.spawn(async move {
                stop.run_until_cancelled(handled).await;
            });
        }
    });
    address
}

/// Sends `text` for any request and leaves the connection open.
async fn answer(mut tcp: TcpStream, text: &'static str) {
    if read_request(&mut tcp).await {
        let _ = tcp.write_all(text.as_bytes()).await;
        let _ = read_request(&mut tcp).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_decides_whatever_the_body_does() {
    let world = World::open();
    let stalls =
        serve(&world.tasks, |tcp| answer(tcp, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome of it")).await;
    let breaks = serve(&world.tasks, |mut tcp| async move {
        read_request(&mut tcp).await;
        let _ = tcp.write_all(b"HTTP/1.1 202 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense").await;
    })
    .await;
    world.run_dispatcher(dispatcher_settings());
    for (name, address, code) in [("stalls", stalls, 200), ("breaks", breaks, 202)] {
        let url = format!("http://{address}/");
        let webhook = world.webhook_with(json!({"name": name, "url": url, "timeout_ms": 5_000})).await;
        let started = Instant::now();
        let id = world.add_delivery(webhook.id, BODY).await;
        let delivered = world.finished(id).await;
        assert_eq!((delivered.status, delivered.attempts), (DeliveryStatus::Delivered, 1), "{name}");
        assert_eq!(delivered.last_status_code, Some(code));
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reused_connection_that_closes_without_a_response_is_no_attempt() {
    let world = World::open();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    // Responds, then reads the next request on the same connection and closes it.
    let closing = serve(&world.tasks, move |tcp| {
        counted.fetch_add(1, Ordering::Relaxed);
        answer(tcp, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    })
    .await;
    world.run_dispatcher(dispatcher_settings());
    let webhook = world.webhook("closing", &format!("http://{closing}/")).await;
    for _ in 0..10 {
        let id = world.add_delivery(webhook.id, BODY).await;
        let delivered = world.finished(id).await;
        assert_eq!((delivered.status, delivered.attempts), (DeliveryStatus::Delivered, 1));
        assert_eq!(delivered.last_error, None);
    }
    let ids = world.add_deliveries(webhook.id, BODY, 100).await;
    for id in ids {
        assert_eq!(world.finished(id).await.attempts, 1);
    }
    assert!(connections.load(Ordering::Relaxed) > 10, "the connections were never used again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_connection_that_closes_without_a_response_is_an_attempt() {
    let world = World::open();
    let rude = serve(&world.tasks, |mut tcp| async move {
        read_request(&mut tcp).await;
    })
    .await;
    world.run_dispatcher(dispatcher_settings());
    let webhook = world.webhook("rude", &format!("http://{rude}/")).await;
    let id = world.add_delivery(webhook.id, BODY).await;
    let dead = world.finished(id).await;
    assert_eq!((dead.status, dead.attempts), (DeliveryStatus::DeadLetter, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_date_in_any_format_pauses_the_endpoint() {
    let world = World::open();
    // RFC 850, two seconds after the answer's own date, years ago.
    let text = "HTTP/1.1 503 Busy\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sunday, 06-Nov-94 08:49:39 GMT\r\n\
                Content-Length: 0\r\n\r\n";
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let busy = serve(&world.tasks, move |tcp| {
        counted.fetch_add(1, Ordering::Relaxed);
        answer(tcp, text)
    })
    .await;
    world.run_dispatcher(dispatcher_settings());
    let webhook = world.webhook("busy", &format!("http://{busy}/")).await;
    let started = jiff::Timestamp::now();
    let id = world.add_delivery(webhook.id, BODY).await;
    let deadline = Instant::now() + PATIENCE;
    let waiting = loop {
        let delivery = world.store.delivery(id).await.unwrap().unwrap();
        if delivery.attempts > 0 {
            break delivery;
        }
        assert!(Instant::now() < deadline, "{delivery:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let wait = waiting.next_attempt_at.unwrap().duration_since(started).as_millis();
    assert!((1_990..30_000).contains(&wait), "{wait}");
    // Other deliveries to the same endpoint wait as well.
    world.add_deliveries(webhook.id, BODY, 5).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}

/// The latencies of single deliveries, sorted.
async fn waits(world: &World, receiver: &Receiver, webhook: uuid::Uuid, count: usize) -> Vec<Duration> {
    let mut waits = Vec::new();
    for _ in 0..count {
        let before = receiver.all().len();
        let started = Instant::now();
        world.add_delivery(webhook, BODY).await;
        receiver.wait_for(before + 1).await;
        waits.push(started.elapsed());
    }
    waits.sort();
    waits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_endpoints_do_not_delay_others() {
    const HANGING: usize = 40;
    let world = World::open();
    // Accepts and never responds.
    let silent = serve(&world.tasks, |mut tcp| async move { while read_request(&mut tcp).await {} }).await;
    let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
    let alive = world.webhook("alive", &receiver.url()).await;
    // Fewer workers than hanging endpoints, and a small claim batch.
    world.run_dispatcher(DispatcherSettings { workers: 16, batch_size: 32, ..dispatcher_settings() });
    let before = waits(&world, &receiver, alive.id, 50).await;
    for n in 0..HANGING {
        let hanging = world.webhook(&format!("hanging {n}"), &format!("http://{silent}/{n}")).await;
        world.add_deliveries(hanging.id, BODY, 50).await;
    }
    let during = waits(&world, &receiver, alive.id, 50).await;
    // A busy machine delays single deliveries; one that waited for a hanging endpoint would take seconds.
    let (was, is) = (before[44], during[44]);
    assert!(is < was * 2 + Duration::from_millis(100), "90th of 100: {was:?} before, {is:?} during");
    let ids = world.add_deliveries(alive.id, BODY, 500).await;
    let started = Instant::now();
    for id in ids {
        assert_eq!(world.finished(id).await.status, DeliveryStatus::Delivered);
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_deliveries_of_a_disabled_webhook_are_sent_when_it_is_enabled() {
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |n| (if n == 0 { 410 } else { 200 }, None)).await;
    let webhook = world.webhook("ops", &receiver.url()).await;
    world.rule(json!({"name": "all", "event_category": "custom", "actions": {"webhooks": ["ops"]}})).await;
    world.run().await;
    world.publish(vec![custom("shop", "gone")]).await;
    let deadline = Instant::now() + PATIENCE;
    while world.store.find::<NewWebhook>("ops").await.unwrap().unwrap().document.enabled {
        assert!(Instant::now() < deadline, "the webhook is still enabled");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for n in 0..20 {
        world.publish(vec![custom("shop", &format!("e{n}"))]).await;
    }
    while world.store.status().await.unwrap().deliveries_pending < 20 {
        assert!(Instant::now() < deadline, "{:?}", world.store.status().await.unwrap());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(receiver.all().len(), 1);
    let mut document = webhook.document;
    document.enabled = true;
    world.store.replace::<NewWebhook>("ops", document, None).await.unwrap();
    let received = receiver.wait_for(21).await;
    let name =
        |place: usize| received[place].json()["event"]["custom_event"]["event_name"].as_str().unwrap().to_owned();
    let mut names: Vec<String> = (1..21).map(name).collect();
    // The oldest are sent first, as many concurrently as the endpoint's window allows: four, and one more for each
    // response so far, the 410 included. Concurrent requests arrive in any order.
    for (place, name) in names.iter().enumerate() {
        let sent: usize = name[1..].parse().unwrap();
        assert!(sent < place + 5 + place, "{names:?}");
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_can_receive_64_bit_integers_as_strings() {
    const CENTS: i64 = 9_007_199_254_740_993;
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
    for (name, int64_as_string) in [("numbers", false), ("strings", true)] {
        let url = format!("http://{}/{name}", receiver.address);
        world.webhook_with(json!({"name": name, "url": url, "int64_as_string": int64_as_string})).await;
    }
    let webhooks = json!({"webhooks": ["numbers", "strings"]});
    world.rule(json!({"name": "all", "event_category": "commerce", "actions": webhooks})).await;
    let config = json!({"path": "$.purchase_complete.total_cents", "max": 1});
    let anomaly = json!({"name": "huge", "detection_type": "threshold", "config": config, "actions": webhooks});
    world.store.create::<NewAnomalyConfig>(serde_json::from_value(anomaly).unwrap()).await.unwrap();
    world.run().await;
    let event = purchase("shop", CENTS);
    world.publish(vec![event.clone()]).await;
    for request in receiver.wait_for(4).await {
        let body = request.json();
        let of = |number: i64| if request.path == "/strings" { json!(number.to_string()) } else { json!(number) };
        assert_eq!(body["timestamp_ms"], of(event.timestamp_ms), "{body}");
        if body.get("rule_id").is_some() {
            assert_eq!(body["event"]["purchase_complete"]["total_cents"], of(CENTS), "{body}");
            assert_eq!(body["event"]["timestamp_ms"], of(event.timestamp_ms));
        }
    }
}

/// An HTTPS server that requires a client certificate from this authority and responds with 200.
fn https(authority: &Authority) -> SocketAddr {
    let certificate = authority.issue("DNS:localhost,IP:127.0.0.1");
    let chain = CertificateDer::pem_slice_iter(&certificate.chain).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(&certificate.key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.file()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for tcp in listener.incoming().map_while(Result::ok) {
            tcp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let tls = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, tcp);
            let mut request = Vec::new();
            let mut buffer = [0; 4_096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                request.extend_from_slice(&buffer[..count]);
                if request.ends_with(BODY.as_bytes()) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    break;
                }
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_authorities_and_client_certificates_are_used() {
    let authority = Authority::new();
    let address = https(&authority);
    let dir = tempfile::tempdir().unwrap();
    let client = authority.issue_client();
    let (certificate, key) = (dir.path().join("client.pem"), dir.path().join("client.key"));
    std::fs::write(&certificate, &client.chain).unwrap();
    std::fs::write(&key, &client.key).unwrap();
    let whole = TlsFiles {
        ca: Some(authority.file()),
        client_certificate: Some(certificate.clone()),
        client_key: Some(key.clone()),
    };
    let anonymous = TlsFiles { ca: Some(authority.file()), ..TlsFiles::default() };
    for (tls, error) in [
        (whole.clone(), None),
        (anonymous, Some("see webhook_client_cert_file")),
        (TlsFiles::default(), Some("webhook_ca_file must hold the authority")),
    ] {
        let world = World::open();
        world.run_dispatcher(DispatcherSettings { tls, ..dispatcher_settings() });
        let webhook = world.webhook("secure", &format!("https://localhost:{}/", address.port())).await;
        let id = world.add_delivery(webhook.id, BODY).await;
        let ended = world.finished(id).await;
        match error {
            None => assert_eq!(ended.status, DeliveryStatus::Delivered, "{:?}", ended.last_error),
            Some(error) => assert!(ended.last_error.as_ref().unwrap().contains(error), "{:?}", ended.last_error),
        }
    }
    let missing = dir.path().join("nowhere.pem");
    for (files, named) in [
        (TlsFiles { ca: Some(missing.clone()), ..whole.clone() }, "webhook_ca_file"),
        (TlsFiles { ca: Some(key.clone()), ..whole.clone() }, "webhook_ca_file"),
        (TlsFiles { client_certificate: Some(missing), ..whole.clone() }, "webhook_client_cert_file"),
        (TlsFiles { client_key: Some(certificate), ..whole.clone() }, "webhook_client_key_file"),
        (TlsFiles { client_key: None, ..whole }, "webhook_client_key_file"),
    ] {
        let refused = check_tls_files(&files).unwrap_err().to_string();
        assert!(refused.contains(named), "{refused}");
    }
}
