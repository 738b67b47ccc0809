//! Authenticates and authorizes requests: tokens, roles and refusals.
//!
//! Invariants: a token is compared by its SHA-256 and never kept; a refusal says what is missing, not what exists; a
//! token revoked in any process is refused on the next request, because the store is asked every time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use uuid::Uuid;

use super::attempts::Attempts;
use super::refusal_log::RefusalLog;
use crate::admin::problem::store_problem;
use crate::http::Problem;
use crate::metrics;
use crate::store::{AdminRole, Store, TokenHash, hash_token, is_token};

/// Failed attempts that one address may make in a burst.
const FAILURES_BURST: u32 = 10;
/// Valid tokens that are remembered, each for the minute of its use.
const KNOWN_MAX: usize = 1_024;
const MINUTE: Duration = Duration::from_secs(60);

/// The actor of the first token in the audit log.
pub(in crate::admin) const FIRST_ADMIN: &str = "ADMIN_TOKEN";
/// The actor in the audit log when no token is required.
pub(in crate::admin) const LOOPBACK: &str = "loopback";

const FORWARDED: &str = "Without ADMIN_TOKEN the admin API answers this machine alone, and this request came through a \
                         proxy (TRUSTED_PROXIES). Set ADMIN_TOKEN.";

/// What the API requires of its callers.
#[derive(Clone, Debug)]
pub struct AccessSettings {
    /// Whether a token is required at all.
    pub required: bool,
    /// The token of the first admin.
    pub admin_token: Option<TokenHash>,
    /// Grants access to the metrics and to nothing else, in every process, with or without a store.
    pub metrics_token: Option<TokenHash>,
    /// Metrics need no token.
    pub metrics_open: bool,
    /// Failed attempts that one address may make in a burst.
    pub failures_burst: u32,
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self {
            required: false,
            admin_token: None,
            metrics_token: None,
            metrics_open: false,
            failures_burst: FAILURES_BURST,
        }
    }
}

/// Authorizes each request. Cheap to clone.
#[derive(Clone)]
pub struct Access(Arc<Gate>);

struct Gate {
    settings: AccessSettings,
    /// Holds all other tokens; `None` in a process without a store.
    store: Option<Store>,
    attempts: Mutex<Attempts>,
    /// Valid tokens and when their use was last recorded. Their holders are admitted even when others at the same
    /// address fail.
    known: Mutex<HashMap<TokenHash, Instant>>,
    refusals: RefusalLog,
    /// Held while a token is looked up for an address that has failed too often: one lookup at a time.
    doubtful_lookups: tokio::sync::Semaphore,
}

/// The authenticated sender of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::admin) struct Identity {
    pub(in crate::admin) token_id: Option<Uuid>,
    pub(in crate::admin) name: String,
    pub(in crate::admin) role: AdminRole,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(in crate::admin) struct Peer {
    /// The client's address behind trusted proxies.
    pub(in crate::admin) address: IpAddr,
    /// A trusted proxy says that it forwards the request of a client.
    pub(in crate::admin) is_forwarded: bool,
}

/// Why a request is refused.
enum Refusal {
    Missing,
    Invalid,
    Expired,
    /// The API requires no token, so it serves this machine only, and the request came through a proxy.
    Forwarded,
    /// The address has failed too often.
    Throttled(Duration),
    /// The store could not be asked.
    Unknown(Problem),
}

impl Access {
    pub fn new(settings: AccessSettings, store: Option<Store>) -> Self {
        let attempts = Mutex::new(Attempts::new(settings.failures_burst));
        Self(Arc::new(Gate {
            settings,
            store,
            attempts,
            known: Mutex::default(),
            refusals: RefusalLog::default(),
            doubtful_lookups: tokio::sync::Semaphore::new(1),
        }))
    }

    /// Whether the API requires tokens at all.
    pub(in crate::admin) fn requires_tokens(&self) -> bool {
        self.0.settings.required
    }

    /// Writes the refusals that are not in the audit log yet.
    pub(in crate::admin) async fn write_refusals(&self) {
        if let Some(store) = &self.0.store {
            self.0.refusals.write(store).await;
        }
    }

    /// Whether the caller may see why the process is not ready.
    pub(in crate::admin) async fn shows_details(&self, headers: &HeaderMap, peer: Peer) -> bool {
        let may_know = !self.0.settings.required || headers.contains_key(AUTHORIZATION);
        may_know && self.0.identify(headers, peer).await.is_ok()
    }
}

impl Gate {
    async fn identify(&self, headers: &HeaderMap, peer: Peer) -> Result<Identity, Refusal> {
        let address = peer.address;
        if !self.settings.required {
            if peer.is_forwarded {
                return Err(Refusal::Forwarded);
            }
            return Ok(Identity { token_id: None, name: LOOPBACK.to_owned(), role: AdminRole::Admin });
        }
        let token = match bearer(headers) {
            Bearer::None => return Err(Refusal::Missing),
            Bearer::Unreadable => None,
            Bearer::Token(token) => Some(token),
        };
        let hash = token.map(hash_token);
        let now = Instant::now();
        let is_known = hash.is_some_and(|hash| self.known.lock().contains_key(&hash));
        let wait = if is_known { None } else { self.attempts.lock().wait(address, now) };
        if let Some(wait) = wait {
            return match (token, hash) {
                (Some(token), Some(hash)) => self.look_up_doubtful(token, hash, wait, now).await,
                _ => Err(Refusal::Throttled(wait)),
            };
        }
        let found = match (token, hash) {
            (Some(token), Some(hash)) => self.look_up(token, hash).await,
            _ => Err(Refusal::Invalid),
        };
        match (&found, hash) {
            (Ok(identity), Some(hash)) => self.record_use(hash, identity.token_id, now).await,
            (Err(Refusal::Invalid | Refusal::Expired), hash) => {
                if let Some(hash) = hash {
                    self.known.lock().remove(&hash);
                }
                self.attempts.lock().failed(address, now);
            }
            _ => {}
        }
        found
    }

    /// Looks a token up for an address that has failed too often. The store's tokens cannot be guessed, so a valid one
    /// is admitted; anything else gets the same answer as without a lookup. `ADMIN_TOKEN` was chosen by a person and is
    /// not compared.
    async fn look_up_doubtful(
        &self,
        token: &str,
        hash: TokenHash,
        wait: Duration,
        now: Instant,
    ) -> Result<Identity, Refusal> {
        let throttled = |refusal| match refusal {
            Refusal::Unknown(problem) => Refusal::Unknown(problem),
            _ => Refusal::Throttled(wait),
        };
        if self.store.is_none() || !is_token(token) {
            return Err(Refusal::Throttled(wait));
        }
        let _one_at_a_time = self.doubtful_lookups.acquire().await.map_err(|_| Refusal::Throttled(wait))?;
        let identity = self.look_up_stored(token, hash).await.map_err(throttled)?;
        self.record_use(hash, identity.token_id, now).await;
        Ok(identity)
    }

    async fn look_up(&self, token: &str, hash: TokenHash) -> Result<Identity, Refusal> {
        if self.settings.admin_token.is_some_and(|admin| are_equal(&admin, &hash)) {
            return Ok(Identity { token_id: None, name: FIRST_ADMIN.to_owned(), role: AdminRole::Admin });
        }
        self.look_up_stored(token, hash).await
    }

    async fn look_up_stored(&self, token: &str, hash: TokenHash) -> Result<Identity, Refusal> {
        let Some(store) = self.store.as_ref().filter(|_| is_token(token)) else { return Err(Refusal::Invalid) };
        let found = store.admin_token_by_hash(hash).await.map_err(|error| Refusal::Unknown(store_problem(error)))?;
        match found {
            None => Err(Refusal::Invalid),
            Some(found) if found.expired => Err(Refusal::Expired),
            Some(found) => {
                let token = found.token;
                Ok(Identity { token_id: Some(token.id), name: token.name, role: token.role })
            }
        }
    }

    /// Records the use of a token, once a minute.
    async fn record_use(&self, hash: TokenHash, token_id: Option<Uuid>, now: Instant) {
        let recorded = {
            let mut known = self.known.lock();
            if known.len() >= KNOWN_MAX && !known.contains_key(&hash) {
                known.retain(|_, recorded| now.duration_since(*recorded) < MINUTE);
                if known.len() >= KNOWN_MAX {
                    known.clear();
                }
            }
            let recorded = known.entry(hash).or_insert(now);
            let due = *recorded == now || now.duration_since(*recorded) >= MINUTE;
            if due {
                *recorded = now;
            }
            !due
        };
        if let (false, Some(id), Some(store)) = (recorded, token_id, &self.store)
            && let Err(error) = store.record_token_use(id).await
        {
            tracing::debug!(%error, "the use of a token is not noted");
        }
    }

    /// Counts a refusal and answers it.
    async fn refuse(&self, refusal: Refusal, address: IpAddr) -> Response {
        let reason = match &refusal {
            Refusal::Missing => "missing",
            Refusal::Invalid => "invalid",
            Refusal::Expired => "expired",
            Refusal::Forwarded => "forwarded",
            Refusal::Throttled(_) => "throttled",
            Refusal::Unknown(problem) => return problem.clone().into_response(),
        };
        metrics::admin_refused(reason);
        self.refusals.add(reason, None, address);
        if let Some(store) = &self.store {
            self.refusals.write_when_due(store).await;
        }
        let unauthorized = |challenge: &'static str, detail: &'static str| {
            let problem = Problem::new(StatusCode::UNAUTHORIZED, detail);
            ([(WWW_AUTHENTICATE, challenge)], problem).into_response()
        };
        const INVALID: &str = r#"Bearer realm="causality", error="invalid_token""#;
        match refusal {
            Refusal::Missing => unauthorized(r#"Bearer realm="causality""#, self.missing()),
            Refusal::Forwarded => Problem::new(StatusCode::FORBIDDEN, FORWARDED).into_response(),
            Refusal::Expired => unauthorized(INVALID, "The token has expired."),
            Refusal::Throttled(wait) => {
                let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
                let detail = "Too many tokens from this address were wrong; send again later.";
                Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).with_retry_after(seconds).into_response()
            }
            _ => unauthorized(INVALID, "The token is not valid: it is unknown, or was revoked."),
        }
    }

    fn missing(&self) -> &'static str {
        match self.settings.admin_token {
            Some(_) => "This request needs a token, sent as Authorization: Bearer TOKEN.",
            None => {
                "This request needs a token, sent as Authorization: Bearer TOKEN. The first one is the setting \
                 ADMIN_TOKEN, which is not set in this process."
            }
        }
    }
}

/// Authenticates a request or refuses it.
pub(in crate::admin) async fn authenticate(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let peer = peer_of(request.extensions());
    match access.0.identify(request.headers(), peer).await {
        Ok(identity) => {
            request.extensions_mut().insert(identity);
            next.run(request).await
        }
        Err(refusal) => access.0.refuse(refusal, peer.address).await,
    }
}

/// Refuses callers whose role is below the route's.
pub(in crate::admin) async fn require(
    State((access, least)): State<(Access, AdminRole)>,
    request: Request,
    next: Next,
) -> Response {
    let Some(identity) = request.extensions().get::<Identity>() else {
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "Nobody is known who asks.").into_response();
    };
    if identity.role >= least {
        return next.run(request).await;
    }
    metrics::admin_refused("role");
    access.0.refusals.add("role", Some(&identity.name), peer_of(request.extensions()).address);
    if let Some(store) = &access.0.store {
        access.0.refusals.write_when_due(store).await;
    }
    let (least, own) = (least.text(), identity.role.text());
    let challenge = format!(r#"Bearer realm="causality", error="insufficient_scope", scope="{least}""#);
    let detail = format!("This request needs a token with the role {least}; this one's is {own}.");
    ([(WWW_AUTHENTICATE, challenge)], Problem::new(StatusCode::FORBIDDEN, detail)).into_response()
}

/// Admits callers with any role, and holders of the metrics token.
pub(in crate::admin) async fn admit_to_metrics(State(access): State<Access>, request: Request, next: Next) -> Response {
    let (gate, peer) = (&access.0, peer_of(request.extensions()));
    let settings = &gate.settings;
    let is_own = match (bearer(request.headers()), settings.metrics_token) {
        (Bearer::Token(token), Some(own)) => are_equal(&own, &hash_token(token)),
        _ => false,
    };
    if settings.metrics_open || is_own {
        return next.run(request).await;
    }
    match gate.identify(request.headers(), peer).await {
        Ok(_) => next.run(request).await,
        Err(refusal) => gate.refuse(refusal, peer.address).await,
    }
}

enum Bearer<'h> {
    None,
    /// Another scheme, more than one header, or not text.
    Unreadable,
    Token(&'h str),
}

fn bearer(headers: &HeaderMap) -> Bearer<'_> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    match (all.next(), all.next()) {
        (None, _) => Bearer::None,
        (Some(value), None) => {
            let pair = value.to_str().ok().and_then(|text| text.split_once(' '));
            match pair {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Bearer::Token(token.trim()),
                _ => Bearer::Unreadable,
            }
        }
        (Some(_), Some(_)) => Bearer::Unreadable,
    }
}

/// Compares in constant time.
fn are_equal(one: &TokenHash, other: &TokenHash) -> bool {
    one.iter().zip(other).fold(0, |difference, (one, other)| difference | (one ^ other)) == 0
}

/// Requests without a known address share one.
pub(in crate::admin) fn peer_of(extensions: &axum::http::Extensions) -> Peer {
    let unknown = Peer { address: Ipv4Addr::UNSPECIFIED.into(), is_forwarded: false };
    extensions.get().copied().unwrap_or(unknown)
}
