//! The settings of the dispatcher.

use std::time::Duration;

use super::address::AllowedNetworks;
use super::tls::TlsFiles;
use crate::base::backoff::Backoff;
use crate::base::settings::{self, Reader};
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

impl DispatcherSettings {
    /// `loopback`: whether webhooks may reach services of this machine unless the settings say otherwise.
    pub fn read(from: &mut Reader<'_>, loopback: bool) -> Self {
        let request_timeout = from.get("dispatcher_request_timeout");
        let unset = || if loopback { AllowedNetworks::loopback() } else { AllowedNetworks::default() };
        let allowed_networks = from.optional("webhook_allowed_networks").map_or_else(unset, AllowedNetworks);
        let backoff = Backoff {
            initial: from.get("dispatcher_initial_backoff"),
            multiplier: from.get("dispatcher_backoff_multiplier"),
            max: from.get("dispatcher_max_backoff"),
        };
        if backoff.max < backoff.initial {
            from.refuse("dispatcher_max_backoff", "at least dispatcher_initial_backoff");
        }
        let tls = TlsFiles {
            ca: from.optional("webhook_ca_file"),
            client_certificate: from.optional("webhook_client_cert_file"),
            client_key: from.optional("webhook_client_key_file"),
        };
        if tls.client_certificate.is_some() != tls.client_key.is_some() {
            let missing = match tls.client_key {
                None => "webhook_client_key_file",
                Some(_) => "webhook_client_cert_file",
            };
            from.refuse(missing, "set together with the other of the two files, or neither");
        }
        Self {
            workers: from.get("dispatcher_workers"),
            poll_interval: from.get("dispatcher_poll_interval"),
            batch_size: from.get("dispatcher_batch_size"),
            backoff,
            retry_after_max: Duration::from_secs(3_600),
            request_timeout,
            lease: claim_lease(request_timeout),
            endpoint_concurrency_max: 16,
            tls,
            allowed_networks,
            stop_budget: Duration::from_secs(10).into(),
        }
    }
}

impl Default for DispatcherSettings {
    fn default() -> Self {
        settings::defaults(|from| Self::read(from, false))
    }
}
