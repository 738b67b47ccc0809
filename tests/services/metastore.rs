//! A Hive Metastore with its data in Derby.
//!
//! Its programs are looked for in `target/tools`, where `.ci/setup --tests` puts them, and Java is the one that it found.

use std::fs::File;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::free_port;

/// How long it may take to make its database and listen, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// The oldest version that is supported, and the newest.
pub(crate) const VERSIONS: [&str; 2] = ["4.0.0", "4.0.1"];

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct MetastoreServer {
    child: Child,
    dir: tempfile::TempDir,
    version: &'static str,
    port: u16,
}

impl MetastoreServer {
    pub(crate) fn start(version: &'static str) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let property =
            |name: &str, value: &str| format!("<property><name>{name}</name><value>{value}</value></property>");
        let properties = [
            property("metastore.warehouse.dir", &format!("file://{}/warehouse", dir.path().display())),
            property("javax.jdo.option.ConnectionURL", "jdbc:derby:;databaseName=metastore_db;create=true"),
            property("javax.jdo.option.ConnectionDriverName", "org.apache.derby.jdbc.EmbeddedDriver"),
            property("datanucleus.schema.autoCreateAll", "true"),
            property("metastore.schema.verification", "false"),
            property("metastore.thrift.bind.host", "127.0.0.1"),
            property("metastore.event.db.notification.api.auth", "false"),
        ];
        std::fs::create_dir(dir.path().join("conf")).unwrap();
        let text = format!("<configuration>{}</configuration>", properties.concat());
        std::fs::write(dir.path().join("conf/metastore-site.xml"), text).unwrap();
        let mut server = Self { child: spawn(version, dir.path(), port), dir, version, port };
        server.wait();
        server
    }

    pub(crate) fn uri(&self) -> String {
        format!("thrift://127.0.0.1:{}", self.port)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// After [`MetastoreServer::kill9`]: on the same port, with the same data.
    pub(crate) fn restart(&mut self) {
        // A killed Derby leaves its lock.
        let _ = std::fs::remove_file(self.dir.path().join("metastore_db/db.lck"));
        self.child = spawn(self.version, self.dir.path(), self.port);
        self.wait();
    }

    fn wait(&mut self) {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(self.child.try_wait().unwrap().is_none(), "the metastore ended: {}", log());
            assert!(started.elapsed() < PATIENCE, "the metastore does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for MetastoreServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(version: &str, dir: &Path, port: u16) -> Child {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let programs = tools.join(format!("hive-metastore-{version}"));
    assert!(programs.join("installed").is_file(), "{} is missing: run .ci/setup --tests", programs.display());
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let opens =
        ["java.net", "java.util", "java.lang"].map(|package| format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
    Command::new(tools.join("metastore-java"))
        .args(opens)
        .args(["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
        .arg(format!("conf:{}/*", programs.join("lib").display()))
        .args(["org.apache.hadoop.hive.metastore.HiveMetaStore", "-p", &port.to_string()])
        // Where Derby keeps its files.
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
