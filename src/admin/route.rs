//! What a route is: its method, its path, and whom it answers.

use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};

use crate::store::AdminRole;

/// The path that every resource is under.
pub(super) const BASE: &str = "/api/admin";

/// Whom a route answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// Everyone: a probe has no token.
    Anyone,
    /// Everyone, under names by which the API is answered: what a browser loads before anybody has typed a token.
    Page,
    /// A viewer, the holder of the metrics token, or everyone: as the settings say.
    Metrics,
    /// Holders of a token with this role or one that may do more.
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

/// A route over a state that it is given later, so that the table can be read without any.
pub(super) struct Route<S = ()> {
    pub(super) verb: Verb,
    pub(super) path: String,
    pub(super) audience: Audience,
    /// Whether its handler looks at the query string.
    pub(super) has_query: bool,
    pub(super) handler: MethodRouter<S>,
}

impl<S: Clone + Send + Sync + 'static> Route<S> {
    pub(super) fn with_state(self, state: &S) -> Route {
        let Self { verb, path, audience, has_query, handler } = self;
        Route { verb, path, audience, has_query, handler: handler.with_state(state.clone()) }
    }

    /// What it is, without what it does.
    pub(super) fn info(&self) -> RouteInfo {
        RouteInfo { verb: self.verb, path: self.path.clone(), audience: self.audience }
    }
}

/// What a route is.
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

/// Routes as they are listed, below one path.
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

    /// A route whose handler takes its query string apart, and refuses what it does not know.
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
