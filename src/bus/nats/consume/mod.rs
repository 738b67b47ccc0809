//! The receiving side of single messages: pull requests, answers, and what is known of the consumer.

pub(super) mod acker;
mod place;
pub(super) mod pull;
mod seen;
pub(super) mod subscription;
pub(super) mod suspects;
pub(super) mod trials;
