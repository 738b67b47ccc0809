//! The writer thread: takes queued work, commits it as one transaction, and answers.

mod commands;
mod dead_letters;
mod erasure;
mod outcome;
mod rejections;
mod thread;

pub(super) use thread::Writer;
