//! A Trino server with the catalogs that its test asks for.
//!
//! Its programs are looked for in `target/tools`, where `.ci/setup --trino` puts them, and Java is the one that it found.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::free_port;

const VERSION: &str = "476";
/// How long the start may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct TrinoServer {
    child: Child,
    _dir: tempfile::TempDir,
    port: u16,
}

impl TrinoServer {
    /// With these catalogs: their names and what their files say.
    pub(crate) fn start(catalogs: &[(&str, String)]) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let etc = dir.path().join("etc");
        std::fs::create_dir_all(etc.join("catalog")).unwrap();
        let config = format!(
            "coordinator=true\nnode-scheduler.include-coordinator=true\nhttp-server.http.port={port}\n\
             discovery.uri=http://127.0.0.1:{port}\nquery.max-memory-per-node=512MB\ncatalog.config-dir={}\n",
            etc.join("catalog").display()
        );
        std::fs::write(etc.join("config.properties"), config).unwrap();
        for (name, text) in catalogs {
            std::fs::write(etc.join(format!("catalog/{name}.properties")), text).unwrap();
        }
        let mut server = Self { child: spawn(&etc), _dir: dir, port };
        server.wait();
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn wait(&mut self) {
        let started = Instant::now();
        let url = format!("http://127.0.0.1:{}/v1/info", self.port);
        let is_up = || {
            ureq::get(&url).call().is_ok_and(|mut answer| {
                answer.body_mut().read_to_string().is_ok_and(|info| info.contains(r#""starting":false"#))
            })
        };
        while !is_up() {
            assert!(self.child.try_wait().unwrap().is_none(), "Trino ended");
            assert!(started.elapsed() < PATIENCE, "Trino does not answer");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// What a catalog's file says: over the tables of a metastore, with locations in this machine's directories.
pub(crate) fn catalog(connector: &str, metastore: &str) -> String {
    // The metastore has ten seconds by default, which is little where tests take all processors.
    format!(
        "connector.name={connector}\nhive.metastore.uri={metastore}\nhive.metastore.thrift.client.read-timeout=60s\n\
         fs.hadoop.enabled=true\n"
    )
}

impl Drop for TrinoServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the launcher would start, so that the process that is killed is the server.
fn spawn(etc: &Path) -> Child {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let programs = tools.join(format!("trino-server-{VERSION}"));
    assert!(programs.is_dir(), "{} is missing: run just trino", programs.display());
    let log = File::create(etc.join("log")).unwrap();
    Command::new(tools.join("trino-java"))
        .args(["-server", "-Xmx1500M", "-XX:+UseG1GC", "-Djdk.attach.allowAttachSelf=true"])
        .args(["-Dnode.environment=test", "-Dnode.id=one"])
        .arg(format!("-Dconfig={}", etc.join("config.properties").display()))
        .arg(format!("-Dnode.data-dir={}", etc.with_file_name("data").display()))
        .arg("-cp")
        .arg(format!("{}/*", programs.join("lib").display()))
        .arg("io.trino.server.TrinoServer")
        .current_dir(&programs)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
