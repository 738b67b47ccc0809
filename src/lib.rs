//! Causality takes in app events over HTTP, keeps every one it said yes to, lands them as
//! Parquet that any engine reads, and reacts to them in milliseconds.
//!
//! ```text
//!  apps, SDKs, curl                     ┌──────────── sink ────────────┐
//!       │ HTTP                          │ batch → Parquet → directory  │──► DuckDB, Trino, Spark
//!       ▼                               │ or object store → ack        │
//!  ┌─────────┐   durable publish  ┌─────┴───┐                          │
//!  │ gateway │ ─────────────────► │   bus   │──┤                       │
//!  └─────────┘   then reply 2xx   └─────┬───┘                          │
//!       ▲                               │ ┌───────── reaction ─────────┘
//!       │                               └─► rules, anomalies → store ──► webhooks, bus subjects
//!   http (accept loop, limits, problem+json)        ▲
//!       │                                           │
//!       ▼                                           │
//!     admin ──── health, metrics, REST API ─────────┘ ◄── cli
//! ```
//!
//! Each port has two engines: the bus SQLite or NATS JetStream, the store SQLite or PostgreSQL,
//! the warehouse a directory or an object store. With the servers the three roles run as
//! separate processes, several of each.
//!
//! # Invariants
//!
//! 1. A 2xx is sent only after the event is durable ([`bus::Bus::publish`]).
//! 2. An idempotency key is stored once within the window, and a failed publish marks none.
//! 3. Every accepted event is in the warehouse exactly once: files carry the stream
//!    sequences that they hold, what may have been stored before is looked up, nothing is
//!    stored without a lease, and the sink acknowledges only what is stored.
//! 4. The effects of a batch of events and the sequences that caused them are one
//!    transaction of the store, which refuses what another process committed first; a
//!    delivery keeps its `webhook-id` over all its attempts.
//! 5. What a consumer has not acknowledged is never dropped; ingest answers 503 instead.
//! 6. Every queue, body, batch, retry and cache has a named bound.
//! 7. A service that ends is restarted; one that keeps ending ends the process. A failed
//!    fsync ends it at once.
//! 8. Stopping is ordered: gateway, sink, reaction, webhooks, admin, then the files close.
//!
//! # Who may import whom
//!
//! [`event`] imports nothing of ours. The ports ([`bus`], [`store`], [`warehouse`]) import the
//! event and the foundations. The roles ([`gateway`], [`sink`], [`reaction`], [`admin`]) import
//! ports, never one another. Only [`app`] sees everything. A test holds this.
//!
//! The modules, in reading order:

// What an event is.
pub mod event;

// Foundations: values and small mechanisms that know nothing of events, the settings, and every metric.
pub mod base;
pub mod config;
pub mod metrics;

// Ports: where things are kept.
pub mod bus;
pub mod store;
pub mod warehouse;

// What the gateway refuses and the admin API reads again.
pub mod quarantine;

// Roles: what is done.
pub mod http;
pub mod openapi;

pub mod gateway;
pub mod import;
pub mod sink;

pub mod reaction;

pub mod admin;

// The whole: engines and roles put together, and the command line.
pub mod app;
pub mod cli;

/// The fuzz targets: their seeds are replayed among the tests. They call this crate by its name.
#[cfg(test)]
#[allow(unreachable_pub, reason = "it is a crate of its own for the fuzzer")]
#[path = "../fuzz/src/lib.rs"]
mod fuzz;
#[cfg(test)]
extern crate self as causality;

/// The servers that the conformance suites run against; also part of `tests/it`.
#[cfg(test)]
#[allow(dead_code, reason = "each test binary uses its own part")]
#[path = "../tests/services/mod.rs"]
mod services;
