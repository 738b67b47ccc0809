//! A stored event: read in place, as a JSON view, by its subject, and by the person that it is about.

pub(in crate::event) mod envelope;
pub(in crate::event) mod ids;

pub(in crate::event) mod device_ref;
pub(in crate::event) mod event_ref;
pub(in crate::event) mod json_view;

pub(in crate::event) mod person;
pub mod subject;

#[cfg(test)]
mod view_tests;
