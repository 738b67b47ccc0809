//! The store on behalf of the caller of a request.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::access::{Identity, Peer};
use super::state::Shared;
use crate::http::{Problem, RequestIds};
use crate::store::{Caller, Store};

/// The store on behalf of the caller: every change is recorded in the audit log.
pub(super) struct AuditedStore(pub(super) Store);

impl FromRequestParts<Arc<Shared>> for AuditedStore {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let unknown = || Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "Nobody is known who asks.");
        let identity = parts.extensions.get::<Identity>().ok_or_else(unknown)?;
        Ok(Self(shared.state.store.on_behalf_of(Caller {
            token_id: identity.token_id,
            name: identity.name.clone(),
            address: parts.extensions.get::<Peer>().map(|peer| peer.address),
            method: parts.method.to_string(),
            request_id: parts.extensions.get::<RequestIds>().map(|ids| ids.request().to_owned()),
        })))
    }
}
