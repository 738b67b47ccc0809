//! What the process uses of its machine, as metrics; and what the metrics themselves use.

use std::path::Path;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use crate::base::disk::Disk;
use crate::metrics;

/// How often the samples of histograms are put into their buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Called when the metrics are read.
pub(super) fn set_gauges(data_dir: Option<&Path>) {
    if let Some(disk) = data_dir.and_then(Disk::of).filter(|disk| disk.bytes > 0) {
        metrics::disk(disk.bytes, disk.free_bytes);
    }
    let resident = || -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    if let (Some(resident), Ok(files)) = (resident(), std::fs::read_dir("/proc/self/fd")) {
        metrics::process_usage(resident, files.count() as u64);
    }
}

/// The recorder keeps each sample until the metrics are read, so without a Prometheus its memory would grow.
pub(super) async fn upkeep(prometheus: PrometheusHandle, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        prometheus.run_upkeep();
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(UPKEEP_INTERVAL) => {}
        }
    }
}
