//! Maps errors of the ports to responses.

use std::error::Error;

use axum::http::StatusCode;

use crate::bus::{BusError, BusErrorKind};
use crate::event::FieldError;
use crate::http::Problem;
use crate::store::{KEYS_MAX, SetFault, StoreError, StoreErrorKind, TOKENS_MAX};

/// When a client should retry after a failure to store.
const RETRY_AFTER_SECONDS: u32 = 5;

/// The document was readable but is not valid.
pub(super) fn invalid(errors: Vec<FieldError>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "The document is not valid; nothing was stored.").with_errors(errors)
}

/// The query string is not valid.
pub(super) fn bad_query(name: &str, detail: impl Into<String>) -> Problem {
    let error = FieldError::new(format!("/{name}"), detail);
    Problem::new(StatusCode::BAD_REQUEST, "The query string is not valid.").with_errors(vec![error])
}

pub(super) fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "There is none with this id or name.")
}

pub(super) fn store_problem(error: StoreError) -> Problem {
    let all = |pointers: &[String], detail: &str| {
        invalid(pointers.iter().map(|pointer| FieldError::new(pointer.clone(), detail)).collect())
    };
    match &error.kind {
        StoreErrorKind::NotFound => not_found(),
        StoreErrorKind::NameTaken => Problem::new(StatusCode::CONFLICT, "The name is taken.")
            .with_errors(vec![FieldError::new("/name", "is taken by another one")]),
        StoreErrorKind::Changed => {
            Problem::new(StatusCode::CONFLICT, "Others change it all the time; nothing was stored, try again.")
        }
        StoreErrorKind::InUse(users) => {
            Problem::new(StatusCode::CONFLICT, format!("It is still used by: {}.", users.join(", ")))
        }
        StoreErrorKind::UnknownWebhooks { indexes } => {
            let pointers: Vec<_> = indexes.iter().map(|index| format!("/actions/webhooks/{index}")).collect();
            all(&pointers, "is neither the id nor the name of a webhook")
        }
        StoreErrorKind::NoSecretToKeep { pointers } => {
            all(pointers, "is masked, and no secret is stored that it could stand for")
        }
        StoreErrorKind::SecretOfAnotherHost { pointers } => {
            all(pointers, "must be given again: the stored one belongs to the host that `url` named so far")
        }
        StoreErrorKind::Set(faults) => invalid(faults.iter().flat_map(set_errors).collect()),
        StoreErrorKind::TooManyKeys => {
            Problem::new(StatusCode::CONFLICT, format!("There are {KEYS_MAX} API keys; revoke some of them first."))
        }
        StoreErrorKind::TooManyTokens => {
            Problem::new(StatusCode::CONFLICT, format!("There are {TOKENS_MAX} tokens; revoke some of them first."))
        }
        StoreErrorKind::InvalidCursor => bad_query("cursor", "is not a cursor of this list"),
        StoreErrorKind::NotRetryable => {
            let why = cause(&error).map_or_else(String::new, |why| format!(": {why}"));
            Problem::new(StatusCode::CONFLICT, format!("This delivery is not sent again by hand{why}."))
        }
        StoreErrorKind::Full => unavailable("The disk of the store is full; nothing was stored."),
        // The cause names a setting, and only operators read it.
        StoreErrorKind::Refused => {
            tracing::error!(error = %error, cause = cause(&error), "the store refused an admin request");
            let detail = cause(&error).unwrap_or_else(|| "The store refuses it.".to_owned());
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_retry_after(RETRY_AFTER_SECONDS)
        }
        StoreErrorKind::Unavailable | StoreErrorKind::Fsync => {
            tracing::error!(error = %error, cause = cause(&error), "the store failed an admin request");
            unavailable("The store cannot be reached.")
        }
        StoreErrorKind::Closed => unavailable("The process is stopping."),
        StoreErrorKind::Corrupt => {
            let why = cause(&error);
            tracing::error!(error = %error, cause = why, "the store is damaged");
            // Only operators read this, and they need to know what is damaged.
            broken(why.unwrap_or_else(|| "Stored data is damaged.".to_owned()))
        }
    }
}

/// The errors of one document of a set, as they would be reported for it alone, with its place in the set as prefix.
pub(super) fn set_errors(fault: &SetFault) -> Vec<FieldError> {
    let prefix = format!("/{}/{}", fault.list, fault.index);
    let problem = store_problem(StoreError::new(fault.kind.clone(), "apply document"));
    match problem.errors() {
        [] => vec![FieldError::new(prefix, problem.detail().to_owned())],
        errors => errors.iter().map(|error| error.clone().under(&prefix)).collect(),
    }
}

pub(super) fn bus_problem(error: BusError) -> Problem {
    match error.kind {
        BusErrorKind::Full => unavailable("The bus is full; try again when its consumers have caught up."),
        BusErrorKind::Unavailable | BusErrorKind::Fsync => {
            tracing::error!(error = %error, cause = cause(&error), "the bus failed an admin request");
            unavailable("The bus cannot be reached.")
        }
        BusErrorKind::Closed => unavailable("The process is stopping."),
        BusErrorKind::Corrupt => {
            tracing::error!(error = %error, cause = cause(&error), "the bus is damaged");
            broken(error.to_string())
        }
        BusErrorKind::Refused | BusErrorKind::LeaseLost | BusErrorKind::Invalid => broken(error.to_string()),
    }
}

fn unavailable(detail: &'static str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_retry_after(RETRY_AFTER_SECONDS)
}

fn broken(detail: String) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
}

fn cause(error: &dyn Error) -> Option<String> {
    error.source().map(ToString::to_string)
}
