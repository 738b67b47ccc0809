//! Commands of the admin API. Each queries a running process and prints the response as a table or as JSON.

mod answers;

pub mod apply;
pub(in crate::cli) mod audit;
pub(in crate::cli) mod dead_letters;
pub(in crate::cli) mod deliveries;
pub(in crate::cli) mod documents;
pub(in crate::cli) mod health;
pub(in crate::cli) mod keys;
pub(in crate::cli) mod status;
pub(in crate::cli) mod tokens;
