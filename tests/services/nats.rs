//! A `nats-server` with JetStream.
//!
//! The binary is looked for under `NATS_SERVER_2_10` or `NATS_SERVER_2_15`, then in
//! `target/tools`, where `.ci/setup --tests` puts it.

use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::certificates::Certificate;
use super::free_port;

/// Which server: the oldest that is supported, or the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Oldest,
    Newest,
}

impl Version {
    fn binary(self) -> PathBuf {
        let (number, variable) = match self {
            Self::Oldest => ("2.10.29", "NATS_SERVER_2_10"),
            Self::Newest => ("2.15.2", "NATS_SERVER_2_15"),
        };
        let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/tools/nats-server-{number}"));
        let binary = std::env::var_os(variable).map_or(cached, PathBuf::from);
        assert!(
            binary.is_file(),
            "{} is missing: run .ci/setup --tests, or set {variable} to a nats-server {number}",
            binary.display()
        );
        binary
    }
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct NatsServer {
    child: Child,
    dir: tempfile::TempDir,
    version: Version,
    port: u16,
}

impl NatsServer {
    pub(crate) fn start(version: Version) -> Self {
        Self::start_with(version, "")
    }

    /// With more lines of configuration; those of `jetstream` go into its block after a line `#jetstream`.
    pub(crate) fn start_with(version: Version, configuration: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), version, configuration)
    }

    /// Three servers that replicate what they store to one another.
    pub(crate) fn start_cluster(version: Version) -> [Self; 3] {
        let ports = [free_port(), free_port(), free_port()];
        let routes = ports.map(|port| format!("nats://127.0.0.1:{port}")).join(", ");
        [0, 1, 2].map(|n| {
            let listen = format!("cluster {{ name: three, listen: \"127.0.0.1:{}\", routes: [{routes}] }}", ports[n]);
            Self::start_with(version, &format!("server_name: server-{n}\n{listen}"))
        })
    }

    fn start_in(dir: tempfile::TempDir, version: Version, configuration: &str) -> Self {
        let port = free_port();
        let (outside, inside) = configuration.split_once("#jetstream").unwrap_or((configuration, ""));
        let text = format!(
            "listen: 127.0.0.1:{port}\n{outside}\njetstream {{\n  store_dir: \"{}\"\n{inside}\n}}\n",
            dir.path().join("data").display()
        );
        std::fs::write(dir.path().join("nats.conf"), text).unwrap();
        let mut server = Self { child: spawn(version, dir.path()), dir, version, port };
        server.wait();
        server
    }

    /// With TLS, and this certificate.
    pub(crate) fn start_tls(version: Version, certificate: &Certificate, configuration: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("server.crt"), &certificate.chain).unwrap();
        std::fs::write(dir.path().join("server.key"), &certificate.key).unwrap();
        let tls = "tls { cert_file: server.crt, key_file: server.key }";
        Self::start_in(dir, version, &format!("{tls}\n{configuration}"))
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Of some of the messages of a stream that lie all over it: how many came in an atomic batch, and how many
    /// were looked at.
    pub(crate) fn in_batches(&self, stream: &str) -> (usize, usize) {
        const LOOKED_AT_MAX: u64 = 200;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = async_nats::connect(self.url()).await.unwrap();
            let stream = async_nats::jetstream::new(client).get_stream(stream).await.unwrap();
            let state = &stream.cached_info().state;
            let step = (state.messages / LOOKED_AT_MAX).max(1) as usize;
            let (mut batches, mut looked_at) = (0, 0);
            for sequence in (state.first_sequence..=state.last_sequence).step_by(step) {
                let message = stream.get_raw_message(sequence).await.unwrap();
                batches += usize::from(message.headers.get("Nats-Batch-Id").is_some());
                looked_at += 1;
            }
            (batches, looked_at)
        })
    }

    /// Deletes a consumer of the stream, or the stream itself.
    pub(crate) fn delete(&self, stream: &str, consumer: Option<&str>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let context = async_nats::jetstream::new(async_nats::connect(self.url()).await.unwrap());
            match consumer {
                Some(name) => drop(context.get_stream(stream).await.unwrap().delete_consumer(name).await.unwrap()),
                None => drop(context.delete_stream(stream).await.unwrap()),
            }
        });
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Changes a part of the configuration, for the next start.
    pub(crate) fn reconfigure(&self, from: &str, to: &str) {
        let path = self.dir.path().join("nats.conf");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    /// After [`NatsServer::kill9`]: everything that it had stored is gone.
    pub(crate) fn lose_data(&self) {
        std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
    }

    /// After [`NatsServer::kill9`]: a copy of what is on the disk of a stream by then: of `STREAM/msgs`, its messages,
    /// or of `STREAM/obs/CONSUMER`, the state of a consumer.
    pub(crate) fn copy_stored(&self, part: &str, to: &Path) {
        copy(&self.stored(part), to);
    }

    /// After [`NatsServer::kill9`]: this part is as in the copy, and nothing else has changed, as if what was written
    /// since had not been synced when the power failed.
    pub(crate) fn put_back(&self, part: &str, from: &Path) {
        let stored = self.stored(part);
        std::fs::remove_dir_all(&stored).unwrap();
        copy(from, &stored);
    }

    fn stored(&self, part: &str) -> PathBuf {
        self.dir.path().join(format!("data/jetstream/$G/streams/{part}"))
    }

    /// After [`NatsServer::kill9`]: on the same port, with the same data.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.version, self.dir.path());
        self.wait();
    }

    fn wait(&mut self) {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(self.child.try_wait().unwrap().is_none(), "nats-server ended: {}", log());
            assert!(started.elapsed() < Duration::from_secs(30), "nats-server does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn spawn(version: Version, dir: &Path) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    Command::new(version.binary())
        .arg("-c")
        .arg(dir.join("nats.conf"))
        // Where the names of files in the configuration begin.
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
