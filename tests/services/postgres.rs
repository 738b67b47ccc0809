//! A PostgreSQL cluster, run by a user that PostgreSQL accepts: never root.
//!
//! The programs are looked for under `POSTGRES_BIN` (a directory), on the PATH, and where Debian
//! and Homebrew put them.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::certificates::Certificate;
use super::free_port;

/// The superuser of the cluster.
pub(crate) const USER: &str = "causality";
pub(crate) const PASSWORD: &str = "opensesame";

/// A running cluster; killed when dropped.
#[derive(Debug)]
pub(crate) struct PostgresServer {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
    databases: AtomicU32,
}

impl PostgresServer {
    /// What was acknowledged is on the disk, as in production.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more settings, `name=value`.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        Self::start_holding(settings, &[])
    }

    /// With TLS, and this certificate.
    pub(crate) fn start_tls(certificate: &Certificate) -> Self {
        let files = [("server.crt", &*certificate.chain), ("server.key", &*certificate.key)];
        Self::start_holding(&["ssl = on"], &files)
    }

    fn start_holding(settings: &[&str], files: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let password = dir.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        if let Some((uid, gid)) = stand_in() {
            for path in [dir.path(), &password] {
                std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
        let made = command("initdb")
            .args(["--no-locale", "--encoding=UTF8", "--no-sync", "--auth=scram-sha-256", "--username", USER])
            .arg("--pwfile")
            .arg(&password)
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let mut text = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nmax_connections = 300\n\
             shared_buffers = 64MB\n"
        );
        settings.iter().for_each(|setting| text.push_str(&format!("{setting}\n")));
        let conf = data.join("postgresql.conf");
        let old = std::fs::read_to_string(&conf).unwrap();
        std::fs::write(&conf, old + &text).unwrap();
        for (name, bytes) in files {
            put_private(&data.join(name), bytes);
        }
        let mut server = Self { child: spawn(&data), dir, port, databases: AtomicU32::new(0) };
        server.wait();
        server
    }

    /// Shows another certificate to whoever connects from now on.
    pub(crate) fn present(&self, certificate: &Certificate) {
        put_private(&self.data().join("server.crt"), &certificate.chain);
        put_private(&self.data().join("server.key"), &certificate.key);
        self.reload();
    }

    /// From now on only these lines of `pg_hba.conf` hold.
    pub(crate) fn admit(&self, lines: &str) {
        std::fs::write(self.data().join("pg_hba.conf"), lines).unwrap();
        self.reload();
    }

    fn reload(&self) {
        let loaded = || self.sql("postgres", "SELECT pg_conf_load_time()");
        let before = loaded();
        self.sql("postgres", "SELECT pg_reload_conf()");
        let started = Instant::now();
        while loaded() == before {
            assert!(started.elapsed() < Duration::from_secs(30), "PostgreSQL does not read its configuration again");
        }
    }

    /// Every process of the cluster, standing still (`STOP`) or going on (`CONT`).
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg("--").args(self.processes()).status();
        assert!(sent.unwrap().success());
    }

    /// The server and those that it has started, which lead groups of their own.
    fn processes(&self) -> Vec<String> {
        let server = self.child.id().to_string();
        let started = Command::new("pgrep").args(["-P", &server]).output().map(|found| found.stdout);
        let started = String::from_utf8(started.unwrap_or_default()).unwrap();
        std::iter::once(server).chain(started.lines().map(str::to_owned)).collect()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where its configuration and data are.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A new, empty database.
    pub(crate) fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs one statement as an outsider would, and answers what it prints.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let done = command("psql")
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--command", sql])
            .arg(self.url(database))
            .output()
            .unwrap();
        assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// As a power cut of the server, without one of the disk: no process of the cluster ends in order.
    pub(crate) fn kill9(&mut self) {
        let group = self.child.id().to_string();
        let _ = Command::new("kill").args(["-9", "--", &format!("-{group}")]).status();
        self.child.wait().unwrap();
    }

    /// After [`PostgresServer::kill9`]: on the same port, with the same data.
    pub(crate) fn restart(&mut self) {
        let started = Instant::now();
        loop {
            let _ = std::fs::remove_file(self.data().join("postmaster.pid"));
            self.child = spawn(&self.data());
            // Processes of the killed cluster may hold its shared memory or port for a moment: it ends then.
            match self.answers() {
                Ok(()) => return,
                Err(log) => assert!(started.elapsed() < Duration::from_secs(30), "PostgreSQL ends again: {log}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn wait(&mut self) {
        self.answers().unwrap_or_else(|log| panic!("PostgreSQL ended: {log}"));
    }

    /// Waits until it does; its log when it ended instead.
    fn answers(&mut self) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let asked =
                command("psql").args(["--no-psqlrc", "--command", "SELECT 1"]).arg(self.url("postgres")).output();
            if asked.is_ok_and(|asked| asked.status.success()) {
                return Ok(());
            }
            let log_path = self.data().join("server.log");
            let log = || std::fs::read_to_string(&log_path).unwrap_or_default();
            if self.child.try_wait().unwrap().is_some() {
                return Err(log());
            }
            assert!(started.elapsed() < Duration::from_secs(60), "PostgreSQL does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", "--"]).args(self.processes()).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

/// A file that only the server's user may read, as it demands of keys.
fn put_private(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    if let Some((uid, gid)) = stand_in() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    }
}

fn spawn(data: &Path) -> Child {
    let log = File::options().create(true).append(true).open(data.join("server.log")).unwrap();
    command("postgres")
        .arg("-D")
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // A group of its own, so that its helpers are killed with it.
        .process_group(0)
        .spawn()
        .unwrap()
}

/// One of PostgreSQL's programs, as a user that is not root.
fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    if let Some((uid, gid)) = stand_in() {
        command.uid(uid).gid(gid);
    }
    // Neither the password file nor the certificates of whoever runs the tests.
    command.current_dir("/").env("PGCONNECT_TIMEOUT", "5").env("HOME", "/nonexistent");
    command
}

/// For root: the user and group `postgres`, else `nobody`.
fn stand_in() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).stderr(Stdio::null()).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse::<u32>().ok()
    };
    if id(&["-u"]) != Some(0) {
        return None;
    }
    let found = ["postgres", "nobody"].iter().find_map(|user| Some((id(&["-u", user])?, id(&["-g", user])?)));
    Some(found.expect("root needs a user `postgres` or `nobody` to run PostgreSQL as"))
}

fn program(name: &str) -> PathBuf {
    let given = std::env::var_os("POSTGRES_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = given.into_iter().chain(std::env::split_paths(&path)).collect();
    for parent in ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"] {
        let mut versions: Vec<PathBuf> = std::fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join("bin"))
            .filter(|bin| bin.join("initdb").is_file())
            .collect();
        versions.sort();
        places.extend(versions.into_iter().rev());
    }
    let found = places.iter().map(|place| place.join(name)).find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: run .ci/setup --tests, or set POSTGRES_BIN to its directory"))
}
