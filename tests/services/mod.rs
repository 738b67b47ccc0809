//! The servers that tests run against: real ones, each started by its test on a free port in a
//! temporary directory, and stopped when dropped. Shared by the unit tests (the conformance
//! suites) and by `tests/it`.

pub(crate) mod certificates;
pub(crate) mod clouds;
pub(crate) mod metastore;
pub(crate) mod nats;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod s3;
pub(crate) mod trino;

use std::sync::atomic::{AtomicU32, Ordering};

/// Where the ports of [`free_port`] begin, and how many there are.
const FIRST_PORT: u16 = 12_000;
const PORTS: u32 = 20_000;

/// Sends a process a signal, such as `STOP`.
pub(crate) fn signal(pid: u32, name: &str) {
    let sent = std::process::Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(sent.unwrap().success());
}

/// A port of this machine that nobody uses now, and that this process has not given out before. From below those that
/// systems give to outgoing connections: one of them could take it before whoever asked listens there.
pub(crate) fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id().wrapping_mul(7_919);
    loop {
        let place = own.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let port = FIRST_PORT + place as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
