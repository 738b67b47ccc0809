//! The settings of the dispatcher.

use std::time::Duration;

use super::address::AllowedNetworks;
use super::tls::TlsFiles;
use crate::base::backoff::Backoff;
use crate::base::supervisor::StopBudget;

/// How long a claimed delivery may wait for its request, beyond a request before it and its own.
const CLAIM_SPARE: Duration = Duration::from_secs(5);

/// How long a claim holds where a request may take `request_timeout`.
pub fn claim_lease(request_timeout: Duration) -> Duration {
    2 * request_timeout + CLAIM_SPARE
}

/// How webhooks are called.
#[derive(Clone, Debug)]
pub struct DispatcherSettings {
    /// Requests on their way at once, beside the first of each webhook, which no other one keeps waiting.
    pub workers: usize,
    /// How often due deliveries are looked for when nothing announced them.
    pub poll_interval: Duration,
    /// Deliveries claimed at once.
    pub batch_size: usize,
    /// How the attempts of one delivery, and the probes of a dead endpoint, spread.
    pub backoff: Backoff,
    /// The longest `Retry-After` that is honoured.
    pub retry_after_max: Duration,
    /// The longest that one attempt may take; a webhook's own timeout can be shorter.
    pub request_timeout: Duration,
    /// How long a claim holds. Must be longer than `request_timeout` where several processes claim. After a crash
    /// the embedded store releases the claims of its previous life when it opens, so nothing waits for this.
    pub lease: Duration,
    /// Requests on their way to one webhook at once.
    pub endpoint_concurrency_max: usize,
    /// Whom TLS trusts, and what it shows.
    pub tls: TlsFiles,
    /// Networks that webhooks may reach although they are not public.
    pub allowed_networks: AllowedNetworks,
    /// How long requests on their way may take to end after stop.
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
