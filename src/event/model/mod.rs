//! A stored event: its fields read in place, its JSON view, its bus subject and the person that it is about.

pub(in crate::event) mod envelope;
pub(in crate::event) mod ids;

pub(in crate::event) mod device_ref;
pub(in crate::event) mod event_ref;
pub(in crate::event) mod json_view;
pub(in crate::event) mod rule_view;

pub(in crate::event) mod person;
pub mod subject;

#[cfg(test)]
mod view_tests;
