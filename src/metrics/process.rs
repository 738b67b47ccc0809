//! The metrics of the process as a whole.

use std::time::SystemTime;

use metrics::gauge;

use super::catalog;

/// Sets what this process is, once.
pub fn process_started(roles: &[&'static str]) {
    catalog::start_counters(roles);
    for role in roles {
        gauge!("causality_role", "role" => *role).set(1.0);
    }
    gauge!("causality_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    gauge!("causality_process_start_time_seconds").set(now.as_secs_f64());
}

/// Sets what the process uses of the machine.
pub fn process_usage(resident_bytes: u64, open_files: u64) {
    gauge!("causality_process_resident_bytes").set(resident_bytes as f64);
    gauge!("causality_process_open_files").set(open_files as f64);
}

/// Sets the size and the free bytes of the disk with the data directory.
pub fn disk(bytes: u64, free_bytes: u64) {
    gauge!("causality_disk_bytes").set(bytes as f64);
    gauge!("causality_disk_free_bytes").set(free_bytes as f64);
}

/// 1 while the process can use a backend, otherwise 0.
pub fn component(name: &'static str, up: bool) {
    gauge!("causality_component_up", "component" => name).set(if up { 1.0 } else { 0.0 });
}
