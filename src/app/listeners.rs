//! The listeners of the process, and the resources that they share: memory for requests, file descriptors, certificates.

use tracing::warn;

use super::certificates::Certificates;
use crate::config::Config;
use crate::http::{self, MemoryBudget};

/// The limit of admin connections. They come from people and scrapers, not from apps.
const ADMIN_CONNECTIONS_MAX: usize = 256;
/// With few descriptors, the admin listener gets one part in this many of all connections.
const ADMIN_PART: usize = 8;
/// Descriptors for files of the bus and the store, open Parquet files, and connections to servers and object stores.
const OWN_DESCRIPTORS: usize = 192;
/// With few descriptors, the process keeps at most one part in this many for itself.
const OWN_PART: usize = 3;

pub(super) struct Listeners {
    pub(super) memory: MemoryBudget,
    pub(super) gateway_connections_max: usize,
    pub(super) admin_connections_max: usize,
    pub(super) certificates: Certificates,
    descriptors: u64,
}

impl Listeners {
    /// Divides the descriptors that the process does not need itself.
    pub(super) fn of(config: &Config, descriptors: u64) -> Self {
        let all = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let own = OWN_DESCRIPTORS + config.postgres.connections_max + 2 * config.dispatcher.workers;
        let left = all - own.min(all / OWN_PART);
        // Each listener also keeps spare connections for probes.
        let left = left.saturating_sub(2 * http::SPARE_CONNECTIONS).max(2);
        let admin = ADMIN_CONNECTIONS_MAX.min((left / ADMIN_PART).max(1));
        Self {
            memory: config.http.memory(),
            gateway_connections_max: config.http.connections_max.min(left - admin),
            admin_connections_max: admin,
            certificates: Certificates::default(),
            descriptors,
        }
    }

    pub(super) fn warn_if_lowered(&self, config: &Config) {
        let (setting, lowered) = (config.http.connections_max, self.gateway_connections_max);
        if lowered < setting {
            warn!(
                setting,
                lowered,
                open_files_limit = self.descriptors,
                "http_max_connections is lowered to what the limit of open files allows (ulimit -n, LimitNOFILE)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn connections_fit_the_descriptors() {
        let config = load(None, &[]).unwrap().config;
        let connections = |descriptors| {
            let listeners = Listeners::of(&config, descriptors);
            (listeners.gateway_connections_max, listeners.admin_connections_max)
        };
        assert_eq!(connections(u64::MAX), (10_000, 256));
        assert_eq!(connections(1 << 20), (10_000, 256));
        let (gateway, admin) = connections(1_024);
        assert!(gateway > 400 && admin >= 64 && gateway + admin < 1_024 - 256, "{gateway} {admin}");
        let (gateway, admin) = connections(256);
        assert!(gateway >= 32 && admin >= 4 && gateway + admin < 256 - 85, "{gateway} {admin}");
        assert_eq!(connections(3), (1, 1));
    }
}
