//! The process under attack, and whether it is afterwards what it was before.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Server, get, wait_until};

/// What the process may hold more afterwards than when it was warm: buffers that the allocator keeps.
const RSS_RATIO_MAX: f64 = 1.25;
const RSS_SPARE_KB: u64 = 16 * 1024;
/// Connections that it opens by itself meanwhile.
const DESCRIPTORS_SPARE: usize = 4;

/// Where it stands.
#[derive(Debug)]
pub(super) struct Standing {
    rss_kb: u64,
    descriptors: usize,
}

impl Standing {
    /// Once it has served some requests.
    pub(super) fn warm(server: &Server) -> Self {
        for _ in 0..50 {
            for base in [&server.http, &server.admin] {
                get(&format!("{base}/health"));
            }
        }
        Self::of(server)
    }

    fn of(server: &Server) -> Self {
        Self { rss_kb: rss_kb(server), descriptors: descriptors(server) }
    }

    /// With so much more memory.
    pub(super) fn with_kb(self, more: u64) -> Self {
        Self { rss_kb: self.rss_kb + more, ..self }
    }

    /// The process answers on both ports, has closed what it had open, and holds what it held.
    pub(super) fn is_regained_by(&self, server: &Server) {
        wait_until("both ports are healthy", || {
            [&server.http, &server.admin].iter().all(|base| {
                ["health", "ready"]
                    .iter()
                    .all(|path| get(&format!("{base}/{path}")).is_some_and(|(code, _)| code == 200))
            })
        });
        wait_until(&format!("descriptors are as few as in {self:?}"), || {
            descriptors(server) <= self.descriptors + DESCRIPTORS_SPARE
        });
        let most = (self.rss_kb as f64 * RSS_RATIO_MAX) as u64 + RSS_SPARE_KB;
        wait_until(&format!("memory is at most {most} kB, as in {self:?}"), || rss_kb(server) <= most);
        println!("{self:?} before, {:?} after", Self::of(server));
    }
}

fn rss_kb(server: &Server) -> u64 {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", server.pid())) else { return 0 };
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).map_or(0, Iterator::count)
}

/// A server that keeps what arrives: every event makes a delivery to a webhook that is switched off.
pub(super) fn start(dir: &Path, environment: &[(&str, &str)]) -> Server {
    let server = Server::start(dir, environment);
    server.admin_create("/webhooks", &json!({"name": "kept", "url": "http://127.0.0.1:1/", "enabled": false}));
    server.admin_create("/rules", &json!({"name": "all", "actions": {"webhooks": ["kept"]}}));
    server
}

/// The device of every event that arrived, sorted.
pub(super) fn arrived(server: &Server) -> Vec<String> {
    let of = |item: &Value| {
        let field = |name: &str| item["payload"][name].as_str().unwrap_or_default().to_owned();
        format!("{} {}", field("app_id"), field("device_id"))
    };
    let mut all: Vec<_> = items(server, "/deliveries").iter().map(of).collect();
    all.sort_unstable();
    all
}

/// The names of all webhooks, sorted.
pub(super) fn webhooks(server: &Server) -> Vec<String> {
    let mut all: Vec<_> =
        items(server, "/webhooks").iter().map(|item| item["name"].as_str().unwrap_or_default().to_owned()).collect();
    all.sort_unstable();
    all
}

fn items(server: &Server, path: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server.admin_get(&format!("{path}?limit=1000{cursor}"));
        all.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}
