//! The filters of a rule or an anomaly config, and the kinds of events that pass them.
//!
//! Invariant: valid filters can match an event. When they leave only some payloads, a document that names any other
//! payload can never match.

use crate::base::nearest::suggestion;
use crate::event::{FieldError, Kind, is_app_id};

/// The category of custom events, which apps name themselves.
const CUSTOM: &str = "custom";
/// Bytes of a custom event's name.
const TYPE_BYTES_MAX: usize = 256;

/// The events that pass the filters of a document.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::reaction) struct EventKinds<'d> {
    category: Option<&'d str>,
    event_type: Option<&'d str>,
}

impl<'d> EventKinds<'d> {
    pub(in crate::reaction) fn of(category: &'d Option<String>, event_type: &'d Option<String>) -> Self {
        Self { category: category.as_deref(), event_type: event_type.as_deref() }
    }

    /// Whether an event that passes may be of this kind.
    pub(in crate::reaction) fn include(&self, kind: &Kind) -> bool {
        let category = self.category.is_none_or(|category| category == kind.category);
        let of_type = |wanted: &str| kind.is_custom() || wanted == kind.event_type;
        category && self.event_type.is_none_or(of_type)
    }
}

/// Validates the filters.
pub(in crate::reaction) fn check_filters(
    app_id: &Option<String>,
    category: &Option<String>,
    event_type: &Option<String>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if app_id.as_ref().is_some_and(|app| !is_app_id(app)) {
        let detail = "must be null or the id of an app: 1 to 128 letters, digits, `.`, `_` and `-`, beginning with a letter or a digit";
        errors.push(FieldError::new("/app_id", detail));
    }
    let categories = categories();
    if let Some(category) = category.as_deref()
        && !categories.contains(&category)
    {
        let near = suggestion(category, categories);
        errors.push(FieldError::new("/event_category", format!("is not a category of events{near}")));
        // Without a category, the expected types are unknown.
        return errors;
    }
    if let Some(event_type) = event_type.as_deref()
        && let Some(detail) = check_event_type(category.as_deref(), event_type)
    {
        errors.push(FieldError::new("/event_type", detail));
    }
    errors
}

fn check_event_type(category: Option<&str>, event_type: &str) -> Option<String> {
    if event_type.is_empty() || event_type.len() > TYPE_BYTES_MAX || event_type.chars().any(char::is_control) {
        return Some(format!("must be null or 1 to {TYPE_BYTES_MAX} bytes without control characters"));
    }
    let known = |kind: &&Kind| !kind.is_custom() && category.is_none_or(|category| category == kind.category);
    let types = || Kind::all().iter().filter(known).map(|kind| kind.event_type);
    if types().any(|known| known == event_type) {
        return None;
    }
    // A custom event can have any name; its type is lower case whatever the app writes.
    let lower = event_type.to_lowercase();
    let custom = category.is_none_or(|category| category == CUSTOM);
    if custom && lower == event_type {
        return None;
    }
    if custom && (category.is_some() || !types().any(|known| known == lower)) {
        return Some("must be in lower case, as the types of custom events are whatever their names".to_owned());
    }
    let owner = Kind::all().iter().find(|kind| kind.event_type == lower).map(|kind| kind.category);
    Some(match (category, owner) {
        (Some(category), Some(owner)) if owner != category => {
            format!("is a type of the category `{owner}`, not of `{category}`")
        }
        (Some(category), _) => {
            format!("is not a type of the category `{category}`{}", suggestion(event_type, types()))
        }
        (None, _) => format!("is not a type of events{}", suggestion(event_type, types())),
    })
}

fn categories() -> Vec<&'static str> {
    let mut categories: Vec<&str> = Kind::all().iter().map(|kind| kind.category).collect();
    categories.sort_unstable();
    categories.dedup();
    categories
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(app: Option<&str>, category: Option<&str>, event_type: Option<&str>) -> Vec<String> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let errors = check_filters(&own(app), &own(category), &own(event_type));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_kind_can_be_filtered_and_custom_types_are_free() {
        for kind in Kind::all().iter().filter(|kind| !kind.is_custom()) {
            assert_eq!(check(None, Some(kind.category), Some(kind.event_type)), [""; 0]);
            assert_eq!(check(None, None, Some(kind.event_type)), [""; 0]);
        }
        for event_type in ["level_up", "größe", "purchase_complete", "a b"] {
            assert_eq!(check(Some("com.shop"), Some("custom"), Some(event_type)), [""; 0], "{event_type}");
            assert_eq!(check(None, None, Some(event_type)), [""; 0], "{event_type}");
        }
        assert_eq!(check(None, None, None), [""; 0]);
    }

    #[test]
    fn impossible_filters_are_refused_with_the_nearest_name() {
        for (category, event_type, expected) in [
            (Some("commerse"), None, "/event_category: is not a category of events (did you mean `commerce`?)"),
            (Some("Commerce"), None, "/event_category: is not a category of events (did you mean `commerce`?)"),
            (
                None,
                Some("PURCHASE_COMPLETE"),
                "/event_type: is not a type of events (did you mean `purchase_complete`?)",
            ),
            (
                Some("commerce"),
                Some("purchase_completed"),
                "/event_type: is not a type of the category `commerce` (did you mean `purchase_complete`?)",
            ),
            (Some("commerce"), Some("login"), "/event_type: is a type of the category `user`, not of `commerce`"),
            (Some("custom"), Some("Level_Up"), "/event_type: must be in lower case"),
            (None, Some("Level_Up"), "/event_type: must be in lower case"),
            (None, Some(""), "/event_type: must be null or 1 to 256 bytes"),
        ] {
            let errors = check(None, category, event_type);
            assert!(errors.len() == 1 && errors[0].starts_with(expected), "{category:?} {event_type:?} {errors:?}");
        }
        for app in ["", "a b", "shop*", "_x", &"a".repeat(129)] {
            assert!(check(Some(app), None, None)[0].starts_with("/app_id: must be null or the id of an app"), "{app}");
        }
    }
}
