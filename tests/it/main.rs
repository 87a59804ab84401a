//! End-to-end and contract tests.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod command_line;
mod commands;
mod costs;
mod daemon_run;
mod demo;
mod histories;
mod once;
mod passes;
mod sign_in;
mod stage;
mod trouble;
