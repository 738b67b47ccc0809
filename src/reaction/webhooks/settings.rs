//! The settings of the dispatcher.

use std::time::Duration;

use super::address::AllowedNetworks;
use super::tls::TlsFiles;
use crate::base::backoff::Backoff;
use crate::base::supervisor::StopBudget;

/// How long a claimed delivery may wait for its request, in addition to one preceding request and its own.
const CLAIM_SPARE: Duration = Duration::from_secs(5);

/// The lease of a claim when a request may take `request_timeout`.
pub fn claim_lease(request_timeout: Duration) -> Duration {
    2 * request_timeout + CLAIM_SPARE
}

/// How webhooks are called.
#[derive(Clone, Debug)]
pub struct DispatcherSettings {
    /// Concurrent requests, not counting the first of each webhook, which is never delayed by other webhooks.
    pub workers: usize,
    /// How often the store is polled for due deliveries when nothing announces them.
    pub poll_interval: Duration,
    /// Deliveries in one claim.
    pub batch_size: usize,
    /// Backoff between the attempts of one delivery, and between the probes of a failing endpoint.
    pub backoff: Backoff,
    /// The longest `Retry-After` that is honoured.
    pub retry_after_max: Duration,
    /// The timeout of one attempt; a webhook's own timeout can be shorter.
    pub request_timeout: Duration,
    /// The lease of a claim. Must be longer than `request_timeout` where several processes claim. After a crash the
    /// embedded store releases the claims of the previous process when it opens, so no delivery waits for this.
    pub lease: Duration,
    /// Concurrent requests to one webhook.
    pub endpoint_concurrency_max: usize,
    /// Trusted authorities and the client certificate.
    pub tls: TlsFiles,
    /// Non-public networks that webhooks may reach.
    pub allowed_networks: AllowedNetworks,
    /// How long outstanding requests may take to finish after stop.
    pub stop_budget: StopBudget,
}

impl Default for DispatcherSettings {
    fn default() -> Self {
        Self {
            workers: 256,
            poll_interval: Duration::from_secs(5),
            batch_size: 256,
            backoff: Backoff { initial: Duration::from_secs(1), multiplier: 2.0, max: Duration::from_secs(300) },
            retry_after_max: Duration::from_secs(3_600),
            request_timeout: Duration::from_secs(30),
            lease: Duration::from_secs(120),
            endpoint_concurrency_max: 16,
            tls: TlsFiles::default(),
            allowed_networks: AllowedNetworks::default(),
            stop_budget: Duration::from_secs(10).into(),
        }
    }
}
