//! CORS (the Fetch standard): which web pages may send events.
//!
//! A browser prevents a page from reading replies and from sending requests that need a preflight, but not from sending
//! simple requests: a page of any origin can post `text/plain`. The gateway therefore refuses requests from disallowed
//! pages itself. Requests without `Origin` (SDKs, servers, curl) do not come from a page.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderName, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use super::origins::{Allowed, Origins};
use super::settings::CorsSettings;
use crate::http::{Problem, header_values, own_origin};
use crate::metrics;

const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const ANY: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
const VARY_PREFLIGHT: HeaderValue = HeaderValue::from_static(
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network",
);

/// The settings as header values.
pub(crate) struct Cors {
    origins: Origins,
    methods: HeaderValue,
    request_headers: HeaderValue,
    exposed_headers: Option<HeaderValue>,
    credentials: bool,
    max_age: HeaderValue,
}

/// The web page that sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// The request does not come from a page, or pages are not checked.
    None,
    /// A page of the gateway's own origin: it needs no CORS headers.
    Own,
    Allowed {
        origin: HeaderValue,
        how: Allowed,
    },
    Foreign,
}

impl Cors {
    pub(crate) fn new(settings: &CorsSettings) -> Self {
        // `*` in the list of request headers does not cover this one (Fetch, "CORS non-wildcard").
        let mut request_headers = settings.request_headers.clone();
        if request_headers.iter().any(|name| name == "*") {
            request_headers.push("Authorization".to_owned());
        }
        Self {
            origins: Origins::new(&settings.origins),
            methods: list(&settings.methods),
            request_headers: list(&request_headers),
            exposed_headers: (!settings.exposed_headers.is_empty()).then(|| list(&settings.exposed_headers)),
            credentials: settings.credentials,
            max_age: HeaderValue::from(settings.max_age_seconds),
        }
    }

    fn page(&self, head: &Parts, loopback: bool) -> Page {
        let mut origins = header_values(&head.headers, ORIGIN);
        let Some(origin) = origins.next() else { return Page::None };
        if origins.next().is_some() {
            return Page::Foreign;
        }
        match self.origins.check(origin.as_bytes()) {
            Some(how) => Page::Allowed { origin: origin.clone(), how },
            None if own_origin::check(&head.uri, &head.headers, loopback, &[]).is_ok() => Page::Own,
            None => Page::Foreign,
        }
    }

    /// The headers that every reply to a page carries, including errors.
    fn add_headers(&self, page: &Page, headers: &mut HeaderMap) {
        if !headers.contains_key(VARY) {
            headers.insert(VARY, VARY_ORIGIN);
        }
        let Page::Allowed { origin, how } = page else { return };
        let any = *how == Allowed::Any && !self.credentials;
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, if any { ANY } else { origin.clone() });
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(exposed) = &self.exposed_headers {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }

    /// The answer to a preflight lists what is allowed; the browser compares that with the request.
    fn preflight(&self, page: &Page, head: &Parts) -> Response<Full<Bytes>> {
        let mut reply = match page {
            Page::Foreign | Page::None => foreign().into_reply(),
            Page::Own | Page::Allowed { .. } => {
                let mut reply = Response::new(Full::default());
                *reply.status_mut() = StatusCode::NO_CONTENT;
                let headers = reply.headers_mut();
                headers.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, self.request_headers.clone());
                headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
                // A public page may reach a private network only if its origin is listed.
                let listed = matches!(page, Page::Allowed { how: Allowed::Listed, .. });
                if listed && head.headers.get(REQUEST_PRIVATE_NETWORK).is_some_and(|wanted| wanted == "true") {
                    headers.insert(ALLOW_PRIVATE_NETWORK, TRUE);
                }
                reply
            }
        };
        reply.headers_mut().insert(VARY, VARY_PREFLIGHT);
        reply
    }
}

/// The CORS policy of the gateway.
pub(crate) struct CorsPolicy {
    cors: Option<Cors>,
    /// The listener is bound to loopback: pages of other origins are refused even with CORS off.
    loopback: bool,
}

impl CorsPolicy {
    pub(crate) fn new(settings: Option<&CorsSettings>, loopback: bool) -> Self {
        Self { cors: settings.map(Cors::new), loopback }
    }

    pub(crate) fn of(&self, head: &Parts) -> Page {
        match &self.cors {
            Some(cors) => cors.page(head, self.loopback),
            None if self.loopback && own_origin::check(&head.uri, &head.headers, true, &[]).is_err() => Page::Foreign,
            None => Page::None,
        }
    }

    /// The answer to a preflight, for any path; `None` when the request is not a preflight.
    pub(crate) fn preflight(&self, page: &Page, head: &Parts) -> Option<Response<Full<Bytes>>> {
        let cors = self.cors.as_ref()?;
        let is_preflight = head.method == Method::OPTIONS
            && head.headers.contains_key(ORIGIN)
            && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        is_preflight.then(|| cors.preflight(page, head))
    }

    pub(crate) fn add_headers(&self, page: &Page, headers: &mut HeaderMap) {
        if let Some(cors) = &self.cors {
            cors.add_headers(page, headers);
        }
    }
}

impl Page {
    /// Refuses a page that is not allowed, unless the method is safe.
    pub(crate) fn check(&self, method: &Method) -> Result<(), Problem> {
        if *self == Self::Foreign && !method.is_safe() { Err(foreign()) } else { Ok(()) }
    }
}

fn foreign() -> Problem {
    metrics::gateway_refused_origin();
    let detail = "A web page of this origin may not send events here: see cors_allowed_origins.";
    Problem::new(StatusCode::FORBIDDEN, detail)
}

/// The settings are tokens, so they are valid header values.
fn list(items: &[String]) -> HeaderValue {
    HeaderValue::from_str(&items.join(", ")).unwrap_or_else(|_| HeaderValue::from_static(""))
}
