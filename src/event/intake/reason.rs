//! The reason for a refusal as one of a few words, for metrics, logs and filters of dead letters.
//!
//! Derived from the text of the first error, so that only refused input pays for it.

use super::admit::{NO_PAYLOAD, OTHER_APP};
use super::binary::NOT_UTF8;
use super::field_error::FieldError;
use super::json_reader::{DUPLICATE, UNKNOWN};
use super::request::Refused;
use super::validate::{MALFORMED, REQUIRED};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The input is malformed.
    Malformed,
    /// A required field is missing.
    Required,
    /// A field is unknown.
    UnknownField,
    /// The app is not that of the API key.
    OtherApp,
    /// A size, depth or count exceeds its limit.
    Limit,
    /// A value has the wrong type or is not allowed.
    Value,
}

impl Reason {
    pub const ALL: [Self; 6] =
        [Self::Malformed, Self::Required, Self::UnknownField, Self::OtherApp, Self::Limit, Self::Value];

    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Required => "required",
            Self::UnknownField => "unknown_field",
            Self::OtherApp => "other_app",
            Self::Limit => "limit",
            Self::Value => "value",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// The reason for refusing an event.
    pub fn of(errors: &[FieldError]) -> Self {
        let Some(error) = errors.first() else { return Self::Malformed };
        if super::admit::is_of_other_app(errors) {
            return Self::OtherApp;
        }
        match error.detail.as_str() {
            NO_PAYLOAD => Self::Required,
            detail if detail.starts_with(REQUIRED) => Self::Required,
            OTHER_APP => Self::OtherApp,
            MALFORMED | NOT_UTF8 | DUPLICATE => Self::Malformed,
            detail if detail.starts_with(UNKNOWN) => Self::UnknownField,
            detail if UNREADABLE.iter().any(|start| detail.starts_with(start)) => Self::Malformed,
            detail if LIMITS.iter().any(|start| detail.starts_with(start)) => Self::Limit,
            _ => Self::Value,
        }
    }

    /// The reason for refusing a whole body.
    pub fn of_body(refused: &Refused) -> Self {
        match refused.errors.is_empty() {
            true if LIMITS_OF_BODIES.iter().any(|part| refused.detail.contains(part)) => Self::Limit,
            true => Self::Malformed,
            false => Self::of(&refused.errors),
        }
    }
}

const UNREADABLE: [&str; 2] = ["is not UTF-8", "is not well-formed"];
const LIMITS: [&str; 4] = ["must have at most", "must have 1 to", "must not nest", "the key must have at most"];
const LIMITS_OF_BODIES: [&str; 2] = ["more than", "too large"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::intake::request::{accept_json_event, accept_json_single};
    use crate::event::{Arrival, EVENT_BYTES_MAX};

    /// Runs the real checks, since the reason depends on their wording.
    #[test]
    fn reasons_follow_from_the_errors_of_the_checks() {
        let arrival =
            Arrival { received_at_ms: 1, key_app: Some("shop"), event_bytes_max: EVENT_BYTES_MAX, assigned_id: None };
        let long = format!(r#"{{"deviceId":"{}","appStart":{{}}}}"#, "d".repeat(300));
        let many = format!(
            r#"{{"deviceId":"d","customEvent":{{"eventName":"e","properties":{{"l":[{}]}}}}}}"#,
            vec!["0"; 2_000].join(",")
        );
        let deep = format!(
            r#"{{"deviceId":"d","customEvent":{{"eventName":"e","properties":{{"l":{}{}}}}}}}"#,
            "[".repeat(40),
            "]".repeat(40)
        );
        for (event, reason) in [
            (r#"{"deviceId":"#, Reason::Malformed),
            (r#"{"deviceId":"d","deviceId":"d","appStart":{}}"#, Reason::Malformed),
            (r#"{"appStart":{}}"#, Reason::Required),
            (r#"{"deviceId":"d"}"#, Reason::Required),
            (r#"{"deviceId":"d","appStart":{},"color":1}"#, Reason::UnknownField),
            (r#"{"appId":"other","deviceId":"d","appStart":{}}"#, Reason::OtherApp),
            (&long, Reason::Limit),
            (&many, Reason::Limit),
            (&deep, Reason::Limit),
            (r#"{"deviceId":7,"appStart":{}}"#, Reason::Value),
            (r#"{"deviceId":"d","productView":{"productId":"p","currency":"EURO"}}"#, Reason::Value),
        ] {
            let refused = accept_json_event(event.as_bytes(), &arrival).unwrap_err();
            assert_eq!(Reason::of(&refused.errors), reason, "{event}: {refused:?}");
            assert_eq!(Reason::named(reason.name()), Some(reason));
        }
        let malformed = accept_json_single(b"{\"event\":", &arrival).unwrap_err();
        assert_eq!(Reason::of_body(&malformed), Reason::Malformed);
    }
}
