//! The client of the admin API that the commands share: where the server is, how it is trusted, and what is sent.
//!
//! Knows paths and documents, not what a command does with them.

mod args;
mod token;

mod admin_client;
pub(in crate::cli) mod tls;

#[cfg(test)]
pub(in crate::cli) mod scripted_peer;

pub(in crate::cli) use admin_client::{AdminClient, Wrong, percent_encoded};
pub(in crate::cli) use args::{AdminArgs, limit};
