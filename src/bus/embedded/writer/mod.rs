//! The writer thread: takes what is queued, commits it as one transaction, answers.

mod commands;
mod dead_letters;
mod erasure;
mod outcome;
mod rejections;
mod thread;

pub(super) use thread::start;
