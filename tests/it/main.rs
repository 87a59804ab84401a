//! End-to-end and contract tests.

#![allow(clippy::unwrap_used)]

mod command_line;
mod demo;
mod histories;
mod once;
mod stage;
