//! The servers that tests run against: real ones, each started by its test on a free port in a
//! temporary directory, and stopped when dropped. Shared by the unit tests (the conformance
//! suites) and by `tests/it`.

pub(crate) mod certificates;
pub(crate) mod clouds;
pub(crate) mod nats;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod s3;

/// Sends a process a signal, such as `STOP`.
pub(crate) fn signal(pid: u32, name: &str) {
    let sent = std::process::Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(sent.unwrap().success());
}

/// A port of this machine that nobody uses now.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
