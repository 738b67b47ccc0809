//! The admin API client that the commands share: address, token, TLS and requests.
//!
//! Knows paths and documents, not what commands do with them.

mod args;
mod token;

mod admin_client;
pub(in crate::cli) mod tls;

#[cfg(test)]
pub(in crate::cli) mod scripted_peer;

pub(in crate::cli) use admin_client::{AdminClient, InvalidField, percent_encoded};
pub(in crate::cli) use args::{AdminArgs, limit};
