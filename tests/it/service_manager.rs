//! What a service manager sees and passes: `sd_notify(3)`, the watchdog, and sockets that outlive the process.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, binary, free_port, get, post, signal, wait_until};

const EVENT: &str = r#"{"event":{"appId":"a","deviceId":"d","userLogin":{}}}"#;

/// A service, started as systemd does it: descriptor 3 is the socket.
struct Service {
    child: Child,
    notified: UnixDatagram,
    admin: String,
}

impl Service {
    fn start(dir: &Path, socket: &TcpListener, names: &str, environment: &[(&str, &str)]) -> Self {
        let path = dir.join("notify");
        let _ = std::fs::remove_file(&path);
        let notified = UnixDatagram::bind(&path).unwrap();
        notified.set_read_timeout(Some(PATIENCE)).unwrap();
        let admin = format!("127.0.0.1:{}", free_port());
        // The process is to find its own number in LISTEN_PID, which only a shell that becomes it knows.
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\" run";
        let child = Command::new("sh")
            .args(["-c", script])
            .arg(binary())
            .env_clear()
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", names)
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "300000")
            .env("DATA_DIR", dir.join("data"))
            .env("ADMIN_ADDR", &admin)
            .env("LOG_FORMAT", "json")
            .envs(environment.iter().copied())
            .stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())))
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(dir.join("log.jsonl")).unwrap())
            .spawn()
            .unwrap();
        Self { child, notified, admin: format!("http://{admin}") }
    }

    /// Reads notifications up to the first that has this line; returns all their lines.
    fn wait_for(&self, line: &str) -> Vec<String> {
        let (began, mut lines, mut space) = (Instant::now(), Vec::new(), [0; 4096]);
        loop {
            let count = self.notified.recv(&mut space).unwrap();
            let message = String::from_utf8_lossy(&space[..count]).into_owned();
            lines.extend(message.lines().map(str::to_owned));
            if lines.iter().any(|seen| seen == line) {
                return lines;
            }
            assert!(began.elapsed() < PATIENCE, "no `{line}` in {lines:?}");
        }
    }

    fn stop(&mut self) {
        signal(self.child.id(), "TERM");
        self.wait_for_exit();
    }

    fn wait_for_exit(&mut self) {
        wait_until("it ends", || self.child.try_wait().unwrap().is_some());
        assert!(self.child.wait().unwrap().success());
    }

    /// What it says when it refuses to start.
    fn refusal(mut self, dir: &Path) -> String {
        assert!(!self.child.wait().unwrap().success());
        std::fs::read_to_string(dir.join("log.jsonl")).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn local() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Connects, sends an event with this key, and waits for the status line of its answer.
fn send(address: &str, key: &str) -> String {
    let mut tcp = TcpStream::connect(address).expect("no connection is refused");
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = EVENT.len();
    let head = "POST /v1/events/ingest HTTP/1.1\r\nhost: t\r\nconnection: close\r\n";
    tcp.write_all(format!("{head}x-api-key: {key}\r\ncontent-length: {length}\r\n\r\n{EVENT}").as_bytes()).unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_service_manager_learns_when_it_starts_lives_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Service::start(dir.path(), &local(), "http", &[]);
    let lines = service.wait_for("READY=1");
    assert!(lines.iter().any(|line| line.starts_with("STATUS=starting")), "{lines:?}");
    assert_eq!(get(&format!("{}/ready", service.admin)).unwrap().0, 200);
    assert!(lines.contains(&"STATUS=ready".to_owned()), "{lines:?}");
    for _ in 0..5 {
        service.wait_for("WATCHDOG=1");
    }
    // Frozen, it does not feed the watchdog; the manager would kill it now.
    signal(service.child.id(), "STOP");
    service.notified.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    let mut space = [0; 4096];
    while service.notified.recv(&mut space).is_ok() {}
    service.notified.set_read_timeout(Some(PATIENCE)).unwrap();
    signal(service.child.id(), "CONT");
    service.wait_for("WATCHDOG=1");
    signal(service.child.id(), "TERM");
    let lines = service.wait_for("STOPPING=1");
    assert!(lines.contains(&"STATUS=draining".to_owned()), "{lines:?}");
    service.wait_for_exit();
}

#[test]
fn no_connection_is_refused_while_a_service_with_a_passed_socket_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let socket = local();
    let address = socket.local_addr().unwrap().to_string();
    let start = || Service::start(dir.path(), &socket, "causality.socket", &[("AUTH_ENABLED", "true")]);
    let mut service = start();
    service.wait_for("READY=1");
    let keys = format!("{}/api/admin/keys", service.admin);
    let (_, created) = post(&keys, br#"{"app_id": "a", "name": "k"}"#, "application/json").unwrap();
    let created: serde_json::Value = serde_json::from_str(&created).unwrap();
    let key = created["key"].as_str().unwrap().to_owned();
    wait_until("the gateway knows the key", || send(&address, &key) == "HTTP/1.1 200 OK");
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (address, key) = (address.clone(), key.clone());
            std::thread::spawn(move || {
                let until = Instant::now() + Duration::from_secs(4);
                let mut answers = Vec::new();
                while Instant::now() < until {
                    answers.push(send(&address, &key));
                }
                answers
            })
        })
        .collect();
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(500));
        service.stop();
        service = start();
    }
    service.wait_for("READY=1");
    let answers: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert!(answers.len() > 100, "{}", answers.len());
    let others: Vec<_> = answers.iter().filter(|answer| *answer != "HTTP/1.1 200 OK").collect();
    assert!(others.is_empty(), "{others:?}");
    service.stop();
}

#[test]
fn sockets_that_do_not_fit_the_settings_are_refused() {
    let refusal = |socket: &TcpListener, names: &str, environment: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        Service::start(dir.path(), socket, names, environment).refusal(dir.path())
    };
    let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
    let said = refusal(&everywhere, "http", &[]);
    assert!(said.contains("other machines can reach") && said.contains("http_addr"), "{said}");
    let said = refusal(&everywhere, "admin", &[]);
    assert!(said.contains("other machines can reach") && said.contains("admin_addr"), "{said}");
    let said = refusal(&local(), "http:admin", &[]);
    assert!(said.contains("LISTEN_FDNAMES"), "{said}");
    let said = refusal(&local(), "http", &[("LISTEN_FDS", "2")]);
    assert!(said.contains("LISTEN_FDNAMES") || said.contains("descriptor"), "{said}");
}
