//! Validates the name of a rule, an anomaly config or a webhook.

use crate::event::FieldError;

/// Characters of a name.
const NAME_CHARS_MAX: usize = 128;

pub(super) fn check_name(name: &str) -> Option<FieldError> {
    let fits = (1..=NAME_CHARS_MAX).contains(&name.chars().count());
    let clean = name.trim() == name && !name.chars().any(char::is_control);
    let detail = format!("must be from 1 to {NAME_CHARS_MAX} characters, without control characters or outer spaces");
    (!fits || !clean).then(|| FieldError::new("/name", detail))
}
