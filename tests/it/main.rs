//! The product as its users meet it: the real binary, real HTTP, real files, real signals.
//! One test binary, so that linking stays short.

mod chaos;
mod cluster;
mod command_line;
mod encrypted;
mod faults;
mod harness;
mod imports;
mod load;
mod main_job;
mod object_faults;
mod settings;
mod stopping;
mod tidy;
mod warehouse_places;

#[allow(dead_code, reason = "each test binary uses its own part")]
#[path = "../services/mod.rs"]
mod services;
