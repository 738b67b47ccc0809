//! Causality ingests app events over HTTP, keeps every event it accepts, writes them as Parquet that any engine reads, and
//! reacts to them within milliseconds.
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
//! Each port has two engines: SQLite or NATS JetStream for the bus, SQLite or PostgreSQL for the store, a directory or an
//! object store for the warehouse. With the servers, the three roles run as separate processes, any number of each.
//! `docs/architecture.md` follows one event through the rooms and describes the byte formats.
//!
//! # Invariants
//!
//! 1. A 2xx is sent only after the event is durable ([`bus::Bus::publish`]).
//! 2. An idempotency key is stored once within the window. A failed publish stores none.
//! 3. Every accepted event is in the warehouse exactly once: each file carries the stream sequences of its rows, the sink
//!    looks possibly redelivered messages up there, stores only under a lease, and acknowledges only stored messages.
//! 4. The effects of a batch of events and the sequences that caused them are one transaction of the store, which refuses
//!    a batch that another process committed first. A delivery keeps its `webhook-id` over all its attempts.
//! 5. The bus never drops unacknowledged messages. Ingest answers 503 instead.
//! 6. Every queue, body, batch, retry and cache has a named bound.
//! 7. A service that fails is restarted; one that keeps failing ends the process. A failed fsync ends it immediately.
//! 8. Stopping is ordered: gateway, sink, reaction, webhooks, upkeep, admin, then the files close.
//!
//! # Imports
//!
//! [`event`] imports nothing of ours. The ports ([`bus`], [`store`], [`warehouse`]) import the event and the foundations.
//! The roles ([`gateway`], [`sink`], [`reaction`], [`admin`]) import ports and what they share ([`http`], [`openapi`],
//! [`quarantine`]), never one another. Each part reads its own settings ([`base::settings`]); [`config`] puts them together.
//! Only [`app`] connects the parts. Tests hold this, and that no file is in an import
//! circle.
//!
//! The modules, in reading order:

// The event model.
pub mod event;

// Foundations: values and small mechanisms that know nothing of events, and every metric.
pub mod base;
pub mod metrics;

// Ports: durable state.
pub mod bus;
pub mod store;
pub mod warehouse;

// Refused input: kept by the gateway, replayed by the admin API.
pub mod quarantine;

// Roles, the HTTP that two of them share, and the import of files.
pub mod http;
pub mod openapi;

pub mod gateway;
pub mod import;
pub mod sink;

pub mod reaction;

pub mod admin;

// The settings of all parts, the composition of engines and roles, and the command line.
pub mod config;

pub mod app;
pub mod cli;

/// The fuzz targets. Tests replay their seeds. They refer to this crate by name.
#[cfg(test)]
#[allow(unreachable_pub, reason = "it is a crate of its own for the fuzzer")]
#[path = "../fuzz/src/lib.rs"]
mod fuzz;
#[cfg(test)]
extern crate self as causality;

/// The servers that the conformance suites use; also part of `tests/it`.
#[cfg(test)]
#[allow(dead_code, reason = "each test binary uses its own part")]
#[path = "../tests/services/mod.rs"]
mod services;
