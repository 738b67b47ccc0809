//! The routes of the gateway, and the metrics of each.

use http::{Method, StatusCode};

use super::segment::route::SegmentRoute;
use crate::http::Problem;
use crate::metrics::GatewayRoute;

#[derive(Clone, Copy)]
pub(super) enum Route {
    Ingest,
    Batch,
    Segment(SegmentRoute),
    Logs,
    Health,
    Ready,
    OpenApi,
}

/// The paths, most frequent first. The paths of Segment's API have a table of their own.
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
        own.or_else(|| SegmentRoute::of(path).map(Self::Segment))
    }

    /// All paths in OpenAPI notation.
    pub(super) fn all() -> impl Iterator<Item = (&'static str, Self)> {
        let of_segment = SegmentRoute::PATHS.iter().map(|(path, segment_route)| (*path, Self::Segment(*segment_route)));
        PATHS.into_iter().chain(of_segment)
    }

    /// Whether the route needs no key, or its handler authenticates because the key may be in the body.
    pub(super) fn is_public(self) -> bool {
        match self {
            Self::Health | Self::Ready | Self::OpenApi | Self::Segment(_) => true,
            Self::Ingest | Self::Batch | Self::Logs => false,
        }
    }

    /// The allowed methods, as the `Allow` header lists them.
    pub(super) fn methods(self) -> &'static str {
        match self {
            Self::Segment(segment_route) if segment_route.method() == Method::GET => "GET",
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
