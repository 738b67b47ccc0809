//! The product as its users meet it: the real binary, real HTTP, real files, real signals.
//! One test binary, so that linking stays short.

mod admin_access;
mod api_keys;
mod bus_settings;
mod callers;
mod chaos;
mod circles;
#[cfg(target_os = "linux")]
mod clocks;
mod cluster;
mod command_line;
mod compaction;
mod constraints;
mod crowds;
mod delta;
mod delta_log;
mod draining;
mod encrypted;
mod engines;
mod erased_bus;
mod erasure;
mod faults;
#[cfg(target_os = "linux")]
mod faulty_disk;
mod full_stream;
mod harness;
mod hostile;
mod import;
mod imports;
mod keys;
mod killed;
mod kubernetes;
mod load;
mod lost_files;
mod main_job;
mod metastore;
mod monitoring;
mod object_faults;
mod objects_gone;
mod openapi;
mod promoted;
mod protocols;
mod quarantined;
mod retention;
mod roles;
mod sdks;
mod service_manager;
mod settings;
mod shedding;
mod starting;
mod stopping;
#[cfg(target_os = "linux")]
mod systemd;
mod tidy;
mod tls;
mod trino;
mod warehouse_places;

#[allow(dead_code, reason = "each test binary uses its own part")]
#[path = "../services/mod.rs"]
mod services;
