//! Peers that are not metastores, or misbehave: each is reported as what it is, without taking much memory or time.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::client::Client;
use super::error::{Failure, FailureKind};

/// Answers the first call of each connection with these bytes, which may be incomplete, then closes it. Its thread ends
/// with the test process.
fn peer(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection: TcpStream = connection.unwrap();
            let mut call = vec![0; 64 * 1024];
            let Ok(length) = connection.read(&mut call) else { continue };
            let _ = connection.write_all(&answer(&call[..length]));
        }
    });
    address
}

/// The head of a reply of this type to the call.
fn head(call: &[u8], kind: u8) -> Vec<u8> {
    let name_length = u32::from_be_bytes(call[4..8].try_into().unwrap()) as usize;
    let mut head = call[..12 + name_length].to_vec();
    head[3] = kind;
    head
}

async fn ask(address: String) -> Failure {
    let mut client = Client::new(vec![address]);
    client.has_database("causality").await.unwrap_err()
}

#[tokio::test]
async fn a_peer_that_is_not_a_metastore_is_reported_as_what_it_is() {
    let huge = i32::MAX.to_be_bytes();
    let with = |rest: Vec<u8>| move |call: &[u8]| [head(call, 2), rest.clone()].concat();
    for (address, kind, what) in [
        (
            peer(|_| b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec()),
            FailureKind::Protocol,
            "wants TLS",
        ),
        (peer(|_| vec![0x15, 3, 3, 0, 2, 2, 70]), FailureKind::Protocol, "no Hive Metastore"),
        (peer(|_| Vec::new()), FailureKind::Unreachable, "closed the connection before it answered"),
        (
            peer(|call| head(call, 2)[..9].to_vec()),
            FailureKind::Unreachable,
            "closed the connection before it answered",
        ),
        (peer(with(vec![12, 0, 0, 11])), FailureKind::Unreachable, "closed the connection before it answered"),
        (peer(with([&[11, 0, 0][..], &huge].concat())), FailureKind::Protocol, "more than 16 MiB"),
        (peer(with([&[15, 0, 0, 2][..], &huge, &[1; 1 << 20]].concat())), FailureKind::Protocol, "more than 16 MiB"),
        (peer(with([12, 0, 0].repeat(10_000))), FailureKind::Protocol, "too deep"),
        (peer(with(vec![77, 0, 0])), FailureKind::Protocol, "unknown type"),
        (peer(|call| head(call, 1)), FailureKind::Protocol, "not a reply"),
        (
            peer(|call| head(call, 2).iter().map(|byte| byte ^ u8::from(*byte == b'g')).collect()),
            FailureKind::Protocol,
            "something else",
        ),
    ] {
        let failure = ask(address).await;
        assert!(failure.kind == kind && failure.to_string().contains(what), "{what}: {failure}");
    }
}

#[tokio::test]
async fn an_old_metastore_is_reported() {
    // TApplicationException { 1: "Invalid method name", 2: UNKNOWN_METHOD }.
    let refusal =
        |call: &[u8]| [head(call, 3), vec![11, 0, 1, 0, 0, 0, 2, b'n', b'o', 8, 0, 2, 0, 0, 0, 1, 0]].concat();
    let failure = ask(peer(refusal)).await;
    assert_eq!(failure.kind, FailureKind::Old);
    assert!(failure.to_string().contains("does not know the call get_database_req: it is older than Hive 4.0.0"));
}

#[tokio::test]
async fn texts_of_a_metastore_are_shown_on_one_line_and_truncated() {
    // MetaException { 1: text } under the id 2.
    let text = format!("no\nroom {}", "x".repeat(10_000));
    let thrown = move |call: &[u8]| {
        let length = (text.len() as u32).to_be_bytes();
        [&head(call, 2)[..], &[12, 0, 2, 11, 0, 1], &length, text.as_bytes(), &[0, 0]].concat()
    };
    let failure = ask(peer(thrown)).await;
    assert_eq!(failure.kind, FailureKind::Refused);
    let shown = failure.to_string();
    assert!(shown.contains("it refuses get_database_req: no room xxx") && shown.chars().count() < 400, "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_or_slow_peer_times_out() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let failure = ask(silent.local_addr().unwrap().to_string()).await;
    assert_eq!(failure.kind, FailureKind::Unreachable);
    assert!(failure.to_string().contains("does not answer in time (get_database_req)"), "{failure}");
    // A trickle of bytes does not extend the call: the clock of this test runs ahead of the peer's.
    let slow = peer(|call| {
        std::thread::sleep(Duration::from_millis(200));
        head(call, 2)[..5].to_vec()
    });
    assert_eq!(ask(slow).await.kind, FailureKind::Unreachable);
}

#[tokio::test]
async fn the_next_address_is_tried_and_a_closed_connection_is_reopened() {
    // get_database_req with an empty struct for its answer; then the connection is closed.
    let there = peer(|call| [head(call, 2), vec![12, 0, 0, 0, 0]].concat());
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut client = Client::new(vec![closed, there]);
    for _ in 0..3 {
        assert!(client.has_database("causality").await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
