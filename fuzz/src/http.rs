//! The ingest port: what one connection sends, as it stands. Every answer begins like HTTP, and the port answers the
//! next connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use causality::gateway::{Destination, Settings, serve};
use causality::http::Readiness;
use tokio_util::sync::CancellationToken;

/// Longer than any of the port's own timeouts: what takes as long hangs.
const PATIENCE: Duration = Duration::from_secs(20);

static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();

fn start() -> SocketAddr {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            send.send(listener.local_addr().expect("an address")).expect("the fuzzer waits");
            let settings = Settings { loopback: true, ..Settings::default() };
            serve(listener, settings, Destination::Discard, Readiness::new(), CancellationToken::new()).await;
        });
    });
    receive.recv().expect("the port listens")
}

pub fn run(sent: &[u8]) {
    let mut connection = TcpStream::connect(*ADDRESS.get_or_init(start)).expect("the port takes connections");
    connection.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // The port may have read enough before all was sent.
    let _ = connection.write_all(sent).and_then(|()| connection.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    match connection.read_to_end(&mut answer) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("no end: {answer:?}")
        }
        _ => {}
    }
    let http2 = sent.starts_with(b"PRI * HTTP/2.0");
    assert!(answer.is_empty() || http2 || answer.starts_with(b"HTTP/1."), "{answer:?}");
}
