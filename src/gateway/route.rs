//! The routes of the gateway, and the metrics of each.

use http::{Method, StatusCode};

use super::segment::route::Asked;
use crate::http::Problem;
use crate::metrics::GatewayRoute;

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
    pub(super) fn of(path: &str) -> Option<Self> {
        let own = PATHS.iter().find(|(known, _)| *known == path).map(|(_, route)| *route);
        own.or_else(|| Asked::of(path).map(Self::Segment))
    }

    /// Every path as OpenAPI writes it.
    pub(super) fn all() -> impl Iterator<Item = (&'static str, Self)> {
        let of_segment = Asked::PATHS.iter().map(|(path, asked)| (*path, Self::Segment(*asked)));
        PATHS.into_iter().chain(of_segment)
    }

    /// Whether nobody is asked who they are, or the handler asks since the body may say it.
    pub(super) fn is_open(self) -> bool {
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

    pub(super) fn check_method(self, method: &Method) -> Result<(), Problem> {
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
    pub(super) preflight: GatewayRoute,
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

    pub(super) fn of(&self, route: Option<Route>) -> &GatewayRoute {
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
