//! The HTTP service: dispatches requests to the handlers and records metrics.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::auth::caller::Caller;
use super::exchange::Exchange;
use super::logs::{self, OtlpEncoding};
use super::openapi::document::served;
use super::route::Route;
use super::settings::{Destination, Settings};
use super::state::Gateway;
use crate::http::{Drained, Inbound, Problem, Readiness, RefusalHeaders, Scope};

type Reply = Response<Full<Bytes>>;

/// Serves the ingest routes until `stop`, then completes the requests in flight. Reports the bus to `readiness` as
/// component `bus`.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    destination: Destination,
    readiness: Readiness,
    stop: CancellationToken,
) -> Drained {
    let mut limits = settings.http.clone();
    let gateway = Arc::new(Gateway::new(settings, destination, readiness));
    let for_refusals = Arc::clone(&gateway);
    limits.refusal_headers = RefusalHeaders::new(move |head, headers| for_refusals.add_refusal_headers(head, headers));
    let service = service_fn({
        let gateway = Arc::clone(&gateway);
        move |request| {
            let gateway = Arc::clone(&gateway);
            async move { Ok::<_, Infallible>(gateway.answer(request).await) }
        }
    });
    tokio::select! {
        drained = crate::http::serve(listener, service, limits, stop) => drained,
        never = gateway.bus_health.watch_recovery(&gateway.destination) => match never {},
    }
}

/// The format of a route's refusals.
#[derive(Clone, Copy)]
enum RefusalFormat {
    Problem,
    Logs(Option<OtlpEncoding>),
}

impl RefusalFormat {
    fn of(route: Option<Route>, head: &Parts) -> Self {
        match route {
            Some(Route::Logs) => Self::Logs(OtlpEncoding::of(&head.headers)),
            _ => Self::Problem,
        }
    }

    fn reply(self, problem: Problem) -> Reply {
        match self {
            Self::Problem => problem.into_reply(),
            Self::Logs(encoding) => logs::refusal(encoding, problem),
        }
    }
}

impl Gateway {
    pub(super) async fn answer(&self, request: Request<Inbound>) -> Reply {
        let started = Instant::now();
        let route = Route::of(request.uri().path());
        let (head, mut body) = request.into_parts();
        let mut exchange = Exchange::begin(&head, self.cors_policy.of(&head));
        let refusal = RefusalFormat::of(route, &head);
        let (metrics, mut reply) = match self.cors_policy.preflight(&exchange.page, &head) {
            Some(reply) => (&self.routes.preflight, reply),
            None => {
                let dispatched =
                    self.dispatch(route, Request::from_parts(head, &mut body), &mut exchange, started).await;
                (self.routes.of(route), dispatched.unwrap_or_else(|problem| refusal.reply(problem)))
            }
        };
        if exchange.pending_inputs.is_some() {
            Box::pin(self.quarantine_refused(&mut exchange, &body, &mut reply)).await;
        }
        metrics.add(reply.status().as_u16(), started.elapsed());
        self.add_headers(exchange, metrics.name(), &mut reply);
        reply
    }

    /// Adds the headers that every reply carries.
    fn add_headers(&self, exchange: Exchange, route: &'static str, reply: &mut Reply) {
        let (status, headers) = (reply.status(), reply.headers_mut());
        self.cors_policy.add_headers(&exchange.page, headers);
        exchange.end(route, status, headers);
    }

    /// Adds them to a refusal by the listener.
    pub(super) fn add_refusal_headers(&self, head: &Parts, headers: &mut HeaderMap) {
        let exchange = Exchange::begin(head, self.cors_policy.of(head));
        self.cors_policy.add_headers(&exchange.page, headers);
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
        if !route.is_public() {
            let admitted = self.access.admit(request.headers(), started);
            self.admit_caller(admitted, request.body().peer(), request.headers(), exchange)?;
        }
        match route {
            Route::Ingest => self.ingest(request, exchange).await,
            Route::Batch => self.batch(request, exchange).await,
            Route::Segment(segment_route) => self.segment(segment_route, request, exchange, started).await,
            Route::Logs => Box::pin(self.logs(request, exchange)).await,
            Route::Health => Ok(document(StatusCode::OK, r#"{"status":"ok"}"#.into())),
            Route::Ready => Ok(self.ready()),
            Route::OpenApi => self.openapi(&request, exchange),
        }
    }

    /// Rate limited, because the document is large and needs no key.
    fn openapi(&self, request: &Request<&mut Inbound>, exchange: &mut Exchange) -> Result<Reply, Problem> {
        self.count_request(Caller::Anyone, request.body().peer(), request.headers(), exchange)?;
        Ok(self.document.get_or_init(|| served(&self.document_options)).reply(request.headers()))
    }

    fn ready(&self) -> Reply {
        let ready = self.readiness.ready_for(Scope::Ingest);
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut report = self.readiness.report_for(Scope::Ingest);
        if !self.ready_details {
            // Server names and failures are for operators, who have the admin port.
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
