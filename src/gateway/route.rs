//! Which request means what, and what every request is measured by.

use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use super::Gateway;
use super::caller::Caller;
use super::exchange::Exchange;
use super::logs::{self, LogsForm};
use super::openapi;
use super::rate_limit::Counted;
use super::segment::Asked;
use crate::http::{Inbound, Problem, Scope};
use crate::metrics::GatewayRoute;

type Reply = Response<Full<Bytes>>;

#[derive(Clone, Copy)]
pub(super) enum Route {
    Ingest,
    Batch,
    Segment(Asked),
    Logs,
    Health,
    Ready,
    OpenApi,
}

/// The paths, those of most requests first; those of Segment's API are in a table of their own.
const PATHS: [(&str, Route); 6] = [
    ("/v1/events/ingest", Route::Ingest),
    ("/v1/events/batch", Route::Batch),
    ("/v1/logs", Route::Logs),
    ("/health", Route::Health),
    ("/ready", Route::Ready),
    ("/openapi.json", Route::OpenApi),
];

impl Route {
    fn of(path: &str) -> Option<Self> {
        let own = PATHS.iter().find(|(known, _)| *known == path).map(|(_, route)| *route);
        own.or_else(|| Asked::of(path).map(Self::Segment))
    }

    /// Every path as OpenAPI writes it.
    pub(super) fn all() -> impl Iterator<Item = (&'static str, Self)> {
        let of_segment = Asked::PATHS.iter().map(|(path, asked)| (*path, Self::Segment(*asked)));
        PATHS.into_iter().chain(of_segment)
    }

    /// Whether nobody is asked who they are, or the handler asks since the body may say it.
    fn is_open(self) -> bool {
        match self {
            Self::Health | Self::Ready | Self::OpenApi | Self::Segment(_) => true,
            Self::Ingest | Self::Batch | Self::Logs => false,
        }
    }

    /// Its methods, as the header Allow has them.
    pub(super) fn methods(self) -> &'static str {
        match self {
            Self::Segment(asked) if asked.method() == Method::GET => "GET",
            Self::Ingest | Self::Batch | Self::Logs | Self::Segment(_) => "POST",
            Self::Health | Self::Ready | Self::OpenApi => "GET, HEAD",
        }
    }

    fn check_method(self, method: &Method) -> Result<(), Problem> {
        let allow = self.methods();
        if allow.split(", ").any(|allowed| allowed == method.as_str()) {
            return Ok(());
        }
        Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("This resource takes {allow}.")).with_allow(allow))
    }
}

/// The metrics of each route.
pub(super) struct RouteMetrics {
    ingest: GatewayRoute,
    batch: GatewayRoute,
    segment: GatewayRoute,
    logs: GatewayRoute,
    health: GatewayRoute,
    ready: GatewayRoute,
    openapi: GatewayRoute,
    preflight: GatewayRoute,
    unknown: GatewayRoute,
}

impl RouteMetrics {
    pub(super) fn lookup() -> Self {
        Self {
            ingest: GatewayRoute::lookup("ingest"),
            batch: GatewayRoute::lookup("batch"),
            segment: GatewayRoute::lookup("segment"),
            logs: GatewayRoute::lookup("logs"),
            health: GatewayRoute::lookup("health"),
            ready: GatewayRoute::lookup("ready"),
            openapi: GatewayRoute::lookup("openapi"),
            preflight: GatewayRoute::lookup("preflight"),
            unknown: GatewayRoute::lookup("unknown"),
        }
    }

    fn of(&self, route: Option<Route>) -> &GatewayRoute {
        match route {
            Some(Route::Ingest) => &self.ingest,
            Some(Route::Batch) => &self.batch,
            Some(Route::Segment(_)) => &self.segment,
            Some(Route::Logs) => &self.logs,
            Some(Route::Health) => &self.health,
            Some(Route::Ready) => &self.ready,
            Some(Route::OpenApi) => &self.openapi,
            None => &self.unknown,
        }
    }
}

/// How a route words what it refuses.
#[derive(Clone, Copy)]
enum Refusals {
    Problem,
    Logs(Option<LogsForm>),
}

impl Refusals {
    fn of(route: Option<Route>, head: &Parts) -> Self {
        match route {
            Some(Route::Logs) => Self::Logs(LogsForm::of(&head.headers)),
            _ => Self::Problem,
        }
    }

    fn reply(self, problem: Problem) -> Reply {
        match self {
            Self::Problem => problem.into_reply(),
            Self::Logs(form) => logs::refusal(form, problem),
        }
    }
}

impl Gateway {
    pub(super) async fn answer(&self, request: Request<Inbound>) -> Reply {
        let started = Instant::now();
        let route = Route::of(request.uri().path());
        let (head, mut body) = request.into_parts();
        let mut exchange = Exchange::begin(&head, self.pages.of(&head));
        let refusal = Refusals::of(route, &head);
        let (metrics, mut reply) = match self.pages.preflight(&exchange.page, &head) {
            Some(reply) => (&self.routes.preflight, reply),
            None => {
                let dispatched =
                    self.dispatch(route, Request::from_parts(head, &mut body), &mut exchange, started).await;
                (self.routes.of(route), dispatched.unwrap_or_else(|problem| refusal.reply(problem)))
            }
        };
        if exchange.waiting.is_some() {
            Box::pin(self.keep_refused(&mut exchange, &body, &mut reply)).await;
        }
        metrics.add(reply.status().as_u16(), started.elapsed());
        self.dress(exchange, metrics.name(), &mut reply);
        reply
    }

    /// Gives a reply the headers that every reply has.
    fn dress(&self, exchange: Exchange, route: &'static str, reply: &mut Reply) {
        let (status, headers) = (reply.status(), reply.headers_mut());
        self.pages.dress(&exchange.page, headers);
        exchange.end(route, status, headers);
    }

    /// The same of a reply that the listener made itself.
    pub(super) fn dress_refusal(&self, head: &Parts, headers: &mut HeaderMap) {
        let exchange = Exchange::begin(head, self.pages.of(head));
        self.pages.dress(&exchange.page, headers);
        exchange.ids.write(headers);
    }

    async fn dispatch(
        &self,
        route: Option<Route>,
        request: Request<&mut Inbound>,
        exchange: &mut Exchange,
        started: Instant,
    ) -> Result<Reply, Problem> {
        let Some(route) = route else {
            return Err(Problem::new(StatusCode::NOT_FOUND, "There is nothing at this path."));
        };
        route.check_method(request.method())?;
        exchange.page.check(request.method())?;
        if !route.is_open() {
            let admitted = self.access.admit(request.headers(), started);
            self.enter(admitted, request.body().peer(), request.headers(), exchange)?;
        }
        match route {
            Route::Ingest => self.ingest(request, exchange).await,
            Route::Batch => self.batch(request, exchange).await,
            Route::Segment(asked) => self.segment(asked, request, exchange, started).await,
            Route::Logs => Box::pin(self.logs(request, exchange)).await,
            Route::Health => Ok(document(StatusCode::OK, r#"{"status":"ok"}"#.into())),
            Route::Ready => Ok(self.ready()),
            Route::OpenApi => self.openapi(&request, exchange),
        }
    }

    /// Counted, since it is large and asks for no key.
    fn openapi(&self, request: &Request<&mut Inbound>, exchange: &mut Exchange) -> Result<Reply, Problem> {
        self.count(Caller::Anyone, request.body().peer(), request.headers(), exchange)?;
        Ok(self.document.get_or_init(|| openapi::served(&self.shown)).reply(request.headers()))
    }

    /// Counts a request of a caller that was admitted, or one that was not.
    pub(super) fn enter(
        &self,
        admitted: Result<Caller, Problem>,
        peer: IpAddr,
        headers: &HeaderMap,
        exchange: &mut Exchange,
    ) -> Result<(), Problem> {
        let refused = match admitted {
            Ok(caller) => return self.count(caller, peer, headers, exchange),
            Err(refused) => refused,
        };
        if let Some(limits) = &self.rate_limits
            && refused.status() == StatusCode::UNAUTHORIZED
        {
            limits.admit_stranger(self.trusted_proxies.client(peer, headers), &mut exchange.standing)?;
        }
        Err(refused)
    }

    /// Counts a request among those of its caller, who is known from here on.
    pub(super) fn count(
        &self,
        caller: Caller,
        peer: IpAddr,
        headers: &HeaderMap,
        exchange: &mut Exchange,
    ) -> Result<(), Problem> {
        exchange.caller = caller;
        let Some(limits) = &self.rate_limits else { return Ok(()) };
        let counted = exchange.counted.insert(match exchange.caller.key() {
            Some(key) => Counted::Key { id: key.id, own: key.limits },
            None => Counted::Address(self.trusted_proxies.client(peer, headers)),
        });
        limits.admit(counted, &mut exchange.standing)
    }

    /// Counts the events of a request whose body was read.
    pub(super) fn count_events(&self, events: usize, exchange: &mut Exchange) -> Result<(), Problem> {
        match (&self.rate_limits, &exchange.counted) {
            (Some(limits), Some(counted)) => limits.charge(counted, events, &mut exchange.standing),
            _ => Ok(()),
        }
    }

    fn ready(&self) -> Reply {
        let ready = self.readiness.ready_for(Scope::Ingest);
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut report = self.readiness.report_for(Scope::Ingest);
        if !self.ready_details {
            // Names of servers and what ails them are for operators, who have the admin port.
            report = json!({"status": report["status"]});
        }
        document(status, report.to_string().into())
    }
}

fn document(status: StatusCode, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}
