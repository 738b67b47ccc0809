//! Runs the real binary on free ports with its own data directory, and looks at it from
//! outside: HTTP, signals, files, its log.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) use crate::services::{free_port, signal};

/// Generous, since the machine may be busy; nothing waits this long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running `causality run`, killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) dir: PathBuf,
    pub(crate) http: String,
    pub(crate) admin: String,
    http_port: u16,
    admin_port: u16,
    environment: Vec<(String, String)>,
    role: Option<&'static str>,
    small: Option<PathBuf>,
}

impl Server {
    /// Starts on free ports with data in `dir` and returns when it is ready.
    pub(crate) fn start(dir: &Path, environment: &[(&str, &str)]) -> Self {
        let server = Self::launch(dir, environment);
        server.wait_ready();
        server
    }

    /// Does not wait for anything.
    pub(crate) fn launch(dir: &Path, environment: &[(&str, &str)]) -> Self {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Self::spawn(dir, environment, None, (free_port(), free_port()))
    }

    /// Only this role.
    pub(crate) fn start_role(dir: &Path, role: &'static str, environment: &[(String, String)]) -> Self {
        let server = Self::spawn(dir, environment.to_vec(), Some(role), (free_port(), free_port()));
        server.wait_ready();
        server
    }

    fn spawn(
        dir: &Path,
        environment: Vec<(String, String)>,
        role: Option<&'static str>,
        (http_port, admin_port): (u16, u16),
    ) -> Self {
        let mut command = Command::new(binary());
        command.arg("run");
        if let Some(role) = role {
            command.args(["--role", role]);
        }
        let mut server = Self::spawn_command(command, dir, &dir.join("data"), environment, http_port, admin_port);
        server.role = role;
        server
    }

    fn spawn_command(
        mut command: Command,
        dir: &Path,
        data: &Path,
        environment: Vec<(String, String)>,
        http_port: u16,
        admin_port: u16,
    ) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let log = File::options().create(true).append(true).open(dir.join("log.jsonl")).unwrap();
        let child = command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATA_DIR", data)
            .env("HTTP_ADDR", format!("127.0.0.1:{http_port}"))
            .env("ADMIN_ADDR", format!("127.0.0.1:{admin_port}"))
            .env("LOG_FORMAT", "json")
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            child,
            dir: dir.to_owned(),
            http: format!("http://127.0.0.1:{http_port}"),
            admin: format!("http://127.0.0.1:{admin_port}"),
            http_port,
            admin_port,
            environment,
            role: None,
            small: None,
        }
    }

    /// Like [`Server::start`], with these limits of open files.
    pub(crate) fn start_with_descriptors(dir: &Path, soft: usize, hard: usize) -> Self {
        let mut command = Command::new("sh");
        let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec '{}' run", binary().display());
        command.args(["-c", &script]);
        let server = Self::spawn_command(command, dir, &dir.join("data"), Vec::new(), free_port(), free_port());
        server.wait_ready();
        server
    }

    /// Like [`Server::start`], with its data on a tmpfs of its own that only it and [`Server::tmpfs`] see.
    pub(crate) fn start_on_tmpfs(dir: &Path, bytes: u64, environment: &[(&str, &str)]) -> Self {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let small = dir.join("small");
        std::fs::create_dir_all(&small).unwrap();
        // A mount namespace: no root needed where user namespaces are allowed, and gone with the process.
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let script =
            format!("mount -t tmpfs -o size={bytes} tmpfs '{}' && exec '{}' run", small.display(), binary().display());
        command.args(["--mount", "sh", "-c", &script]);
        let mut server = Self::spawn_command(command, dir, &small.join("data"), environment, free_port(), free_port());
        server.small = Some(small);
        server.wait_ready();
        server
    }

    /// Like [`Server::start`], where no file may become longer than this.
    pub(crate) fn start_with_file_limit(dir: &Path, bytes: u64, environment: &[(&str, &str)]) -> Self {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let mut command = Command::new("sh");
        // The shell counts in blocks of 512 bytes. Ignored, the signal (SIGXFSZ) becomes an error of the write.
        let script = format!("trap '' XFSZ && ulimit -f {} && exec '{}' run", bytes / 512, binary().display());
        command.args(["-c", &script]);
        let server = Self::spawn_command(command, dir, &dir.join("data"), environment, free_port(), free_port());
        server.wait_ready();
        server
    }

    /// The root of its tmpfs, as seen from outside its mount namespace.
    pub(crate) fn tmpfs(&self) -> PathBuf {
        let small = self.small.as_ref().expect("started with start_on_tmpfs");
        PathBuf::from(format!("/proc/{}/root{}", self.pid(), small.display()))
    }

    pub(crate) fn wait_ready(&self) {
        let url = format!("{}/ready", self.admin);
        let (started, mut last) = (Instant::now(), None);
        while last.as_ref().is_none_or(|(status, _)| *status != 200) {
            assert!(
                started.elapsed() < PATIENCE,
                "waited {PATIENCE:?} in vain until {url} answers 200; last answer {last:?}; log in {}",
                self.dir.display()
            );
            std::thread::sleep(Duration::from_millis(20));
            last = get(&url);
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn warehouse(&self) -> PathBuf {
        self.dir.join("data/warehouse")
    }

    /// SIGKILL, then the same process again on the same ports and data.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// After [`Server::kill`] or [`Server::terminate`].
    pub(crate) fn restart(&mut self) {
        self.relaunch();
        self.wait_ready();
    }

    /// Like [`Server::restart`], and does not wait for anything.
    pub(crate) fn relaunch(&mut self) {
        let environment = std::mem::take(&mut self.environment);
        let next = Self::spawn(&self.dir, environment, self.role, (self.http_port, self.admin_port));
        *self = next;
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Starts the process again whenever it has ended, as a service manager does.
    pub(crate) fn keep_alive_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let started = Instant::now();
        while !done(self) {
            assert!(started.elapsed() < 2 * PATIENCE, "in vain until {what}; log in {}", self.dir.display());
            if self.has_ended() {
                self.relaunch();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM; the exit status, which must come within `limit`.
    pub(crate) fn terminate(&mut self, limit: Duration) -> ExitStatus {
        signal(self.pid(), "TERM");
        self.wait_for_exit(limit)
    }

    /// The exit status of a process that is about to end.
    pub(crate) fn wait_for_exit(&mut self, limit: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < limit, "still running after {limit:?}; log in {}", self.dir.display());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn admin_get(&self, path: &str) -> Value {
        let url = format!("{}/api/admin{path}", self.admin);
        let (status, body) = get(&url).unwrap_or_else(|| panic!("no answer from {url}"));
        assert_eq!(status, 200, "{url}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Creates a document; it must be accepted.
    pub(crate) fn admin_create(&self, path: &str, document: &Value) -> Value {
        let (status, body) =
            post(&format!("{}/api/admin{path}", self.admin), document.to_string().as_bytes(), "application/json")
                .unwrap();
        assert_eq!(status, 201, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    pub(crate) fn admin_delete(&self, path: &str) {
        let deleted = agent().delete(format!("{}/api/admin{path}", self.admin)).call().unwrap();
        assert_eq!(deleted.status().as_u16(), 204, "{path}");
    }

    /// Posts a JSON event or batch.
    pub(crate) fn send(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let (status, body) = post(&format!("{}{path}", self.http), body.to_string().as_bytes(), "application/json")?;
        Some((status, serde_json::from_str(&body).unwrap_or(Value::Null)))
    }

    /// Waits until both consumers have acknowledged everything.
    pub(crate) fn wait_drained(&self) {
        wait_until(&format!("no backlog; log in {}", self.dir.display()), || {
            let status = self.admin_get("/status");
            let consumers = status["consumers"].as_array().cloned().unwrap_or_default();
            !consumers.is_empty() && consumers.iter().all(|consumer| consumer["backlog"] == 0)
        });
    }

    /// Fails when the log holds a WARN or ERROR that none of `expected` occurs in.
    pub(crate) fn expect_quiet_log(&self, expected: &[&str]) {
        let log = std::fs::read_to_string(self.dir.join("log.jsonl")).unwrap();
        let loud: Vec<_> = log
            .lines()
            .filter(|line| !line.contains(r#""level":"INFO""#) && !line.contains(r#""level":"DEBUG""#))
            // One nats-server is less than a cluster, and says so at the start.
            .filter(|line| !line.contains("a 2xx is weaker than an event on disk"))
            .filter(|line| !expected.iter().any(|known| line.contains(known)))
            .collect();
        assert!(loud.is_empty(), "unexpected in the log:\n{}", loud.join("\n"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary under test; another build of it may be named to run these tests against.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("CAUSALITY_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_causality").into(), Into::into)
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(20)))
        .build()
        .into()
}

/// `None` when there is no answer at all.
pub(crate) fn get(url: &str) -> Option<(u16, String)> {
    let mut response = agent().get(url).call().ok()?;
    Some((response.status().as_u16(), response.body_mut().read_to_string().ok()?))
}

pub(crate) fn post(url: &str, body: &[u8], content_type: &str) -> Option<(u16, String)> {
    let (status, body) = post_bytes(url, body, content_type)?;
    Some((status, String::from_utf8(body).unwrap()))
}

pub(crate) fn post_bytes(url: &str, body: &[u8], content_type: &str) -> Option<(u16, Vec<u8>)> {
    let mut response = agent().post(url).header("content-type", content_type).send(body).ok()?;
    Some((response.status().as_u16(), response.body_mut().read_to_vec().ok()?))
}

/// Runs a Python script of this folder with the interpreter that has DuckDB; its standard output.
pub(crate) fn python(script: &str, arguments: &[&str], input: &str) -> String {
    python_in("target/python", ".ci/setup --tests", script, arguments, input)
}

/// The same with the interpreter of an environment that `setup` lays.
pub(crate) fn python_in(environment: &str, setup: &str, script: &str, arguments: &[&str], input: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let interpreter = root.join(environment).join("bin/python");
    assert!(interpreter.exists(), "{} is missing: run {setup}", interpreter.display());
    let mut child = Command::new(interpreter)
        .arg(root.join("tests/it").join(script))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A webhook as its receiver saw it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) method: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A real HTTP server that keeps what it receives; answers 200, or what `answer` says.
pub(crate) struct Receiver {
    pub(crate) url: String,
    received: Arc<Mutex<Vec<Received>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        Self::answering(|_| 200)
    }

    /// Each answer comes this late, so that requests are on their way at any time.
    pub(crate) fn slow(delay: Duration) -> Self {
        Self::answering_after(delay, |_| 200)
    }

    pub(crate) fn answering(answer: impl Fn(&Received) -> u16 + Send + Sync + 'static) -> Self {
        Self::answering_after(Duration::ZERO, answer)
    }

    fn answering_after(delay: Duration, answer: impl Fn(&Received) -> u16 + Send + Sync + 'static) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = received.clone();
        let answer = Arc::new(answer);
        let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
            let (seen, answer) = (seen.clone(), answer.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
                let headers = head
                    .headers
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                    .collect();
                let one = Received { path: head.uri.path().to_owned(), method: head.method.to_string(), headers, body };
                let status = answer(&one);
                seen.lock().unwrap().push(one);
                tokio::time::sleep(delay).await;
                axum::http::StatusCode::from_u16(status).unwrap()
            }
        });
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, received, _runtime: runtime }
    }

    pub(crate) fn count(&self) -> usize {
        self.received.lock().unwrap().len()
    }

    pub(crate) fn all(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// How many deliveries were attempted more than once.
    pub(crate) fn repeated(&self) -> usize {
        let mut attempts = BTreeMap::<String, usize>::new();
        for one in self.all() {
            *attempts.entry(one.header("webhook-id").unwrap().to_owned()).or_default() += 1;
        }
        attempts.values().filter(|count| **count > 1).count()
    }

    /// Waits for at least `count` requests to `path`.
    pub(crate) fn wait_for(&self, path: &str, count: usize) -> Vec<Received> {
        let mut found = Vec::new();
        wait_until(&format!("{count} webhooks at {path}"), || {
            found = self.all().into_iter().filter(|one| one.path == path).collect();
            found.len() >= count
        });
        found
    }
}
