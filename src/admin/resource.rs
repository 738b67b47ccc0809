//! Webhooks, rules and anomaly configs as the API sees them: reading and checking one kind of document.

use serde_json::Value;

use super::input::body::{check_name, without_own};
use super::input::decode::{Decoded, decode};
use super::state::Checks;
use crate::event::FieldError;
use crate::store::{Document, NewAnomalyConfig, NewRule, NewWebhook, WebhookDocument};

/// One kind of document, as a person writes it.
pub(super) trait Resource: Document {
    /// Whether a document with mistakes may still take part in a dry run: its replacement values must not be mistaken
    /// for secrets.
    const REHEARSED_IN_PARTS: bool = true;

    fn decode(document: Value) -> Decoded<Self> {
        decode(document)
    }

    fn check(&self, checks: &Checks) -> Vec<FieldError>;
}

/// Decodes and checks a document, and collects all errors of what could be decoded.
pub(super) fn validate<R: Resource>(document: Value, id: Option<&str>, checks: &Checks) -> Decoded<R> {
    let (document, of_id) = without_own(document, id);
    // One error about a name is enough; the first check reports it.
    R::decode(document)
        .check(|_| Vec::from_iter(of_id))
        .check(|new| Vec::from_iter(check_name(new.name())))
        .check(|new| new.check(checks))
}

impl Resource for NewWebhook {
    const REHEARSED_IN_PARTS: bool = false;

    fn decode(document: Value) -> Decoded<Self> {
        decode::<WebhookDocument>(document).map(WebhookDocument::into_webhook)
    }

    fn check(&self, checks: &Checks) -> Vec<FieldError> {
        (checks.webhook)(self)
    }
}

impl Resource for NewRule {
    fn check(&self, checks: &Checks) -> Vec<FieldError> {
        (checks.rule)(self)
    }
}

impl Resource for NewAnomalyConfig {
    fn check(&self, checks: &Checks) -> Vec<FieldError> {
        (checks.anomaly)(self)
    }
}
