//! The product with one role, as a process of its own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::services::free_port;

/// Killed when dropped.
pub(crate) struct Process {
    pub(crate) role: &'static str,
    child: Child,
    pub(crate) http: String,
    pub(crate) admin: String,
}

impl Process {
    /// Returns when it is ready.
    pub(crate) fn start(role: &'static str, dir: &Path, environment: &[(&str, String)]) -> Self {
        let (http, admin) = (free_port(), free_port());
        let child = Command::new(env!("CARGO_BIN_EXE_causality"))
            .args(["run", "--role", role])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env("HTTP_ADDR", format!("127.0.0.1:{http}"))
            .env("ADMIN_ADDR", format!("127.0.0.1:{admin}"))
            .env("DATA_DIR", dir.join(role))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let [http, admin] = [http, admin].map(|port| format!("http://127.0.0.1:{port}"));
        let process = Self { role, child, http, admin };
        let began = Instant::now();
        while ureq::get(format!("{}/ready", process.admin)).call().is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "the {role} does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        process
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
