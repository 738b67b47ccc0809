//! A route: its method, its path and its audience.

use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};

use crate::store::AdminRole;

/// The path prefix of all resources.
pub(super) const BASE: &str = "/api/admin";

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// Everyone: probes have no token.
    Anyone,
    /// Everyone who uses one of the API's host names: a browser loads these before a token is entered.
    Page,
    /// A viewer, the holder of the metrics token, or everyone, depending on the settings.
    Metrics,
    /// Holders of a token with at least this role.
    Role(AdminRole),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verb {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

/// A route whose state is supplied later, so that the table can be read without one.
pub(super) struct Route<S = ()> {
    pub(super) verb: Verb,
    pub(super) path: String,
    pub(super) audience: Audience,
    /// Whether its handler reads the query string.
    pub(super) has_query: bool,
    pub(super) handler: MethodRouter<S>,
}

impl<S: Clone + Send + Sync + 'static> Route<S> {
    pub(super) fn with_state(self, state: &S) -> Route {
        let Self { verb, path, audience, has_query, handler } = self;
        Route { verb, path, audience, has_query, handler: handler.with_state(state.clone()) }
    }

    /// The description of the route, without its handler.
    pub(super) fn info(&self) -> RouteInfo {
        RouteInfo { verb: self.verb, path: self.path.clone(), audience: self.audience }
    }
}

/// The description of a route.
#[derive(Clone, Debug)]
pub(super) struct RouteInfo {
    pub(super) verb: Verb,
    pub(super) path: String,
    pub(super) audience: Audience,
}

impl Verb {
    fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Put => MethodFilter::PUT,
            Self::Patch => MethodFilter::PATCH,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

/// A list of routes below one path.
pub(super) struct Table<S> {
    base: &'static str,
    pub(super) routes: Vec<Route<S>>,
}

impl<S: Clone + Send + Sync + 'static> Table<S> {
    pub(super) fn below(base: &'static str) -> Self {
        Self { base, routes: Vec::new() }
    }

    pub(super) fn add<H, T>(&mut self, verb: Verb, path: &str, audience: Audience, handler: H)
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.routes.push(Route {
            verb,
            path: format!("{}{path}", self.base),
            audience,
            has_query: false,
            handler: on(verb.filter(), handler),
        });
    }

    /// Adds a route whose handler reads the query string and refuses unknown parameters.
    pub(super) fn add_with_query<H, T>(&mut self, verb: Verb, path: &str, audience: Audience, handler: H)
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.add(verb, path, audience, handler);
        if let Some(route) = self.routes.last_mut() {
            route.has_query = true;
        }
    }
}
