//! The actions of a match: webhooks to call and subjects to publish to.

use uuid::Uuid;

use super::subject_template::SubjectTemplate;
use crate::event::{FieldError, Int64};
use crate::store::Actions;

/// Webhooks of one rule or anomaly config.
const WEBHOOKS_MAX: usize = 32;
/// Subjects of one rule or anomaly config.
const SUBJECTS_MAX: usize = 16;

/// A webhook to call, and the representation of 64-bit integers in its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reaction) struct WebhookCall {
    pub(in crate::reaction) webhook: Uuid,
    pub(in crate::reaction) int64: Int64,
}

pub(in crate::reaction) fn check_actions(actions: &Actions) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (pointer, length, max) in [
        ("/actions/webhooks", actions.webhooks.len(), WEBHOOKS_MAX),
        ("/actions/publish_subjects", actions.publish_subjects.len(), SUBJECTS_MAX),
    ] {
        if length > max {
            errors.push(FieldError::new(pointer, format!("must have at most {max} elements")));
        }
    }
    for (index, source) in actions.publish_subjects.iter().take(SUBJECTS_MAX).enumerate() {
        if let Err(detail) = SubjectTemplate::compile(source) {
            errors.push(FieldError::new(format!("/actions/publish_subjects/{index}"), detail));
        }
    }
    errors
}
