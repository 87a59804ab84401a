//! End-to-end and contract tests.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod command_line;
mod commands;
mod costs;
mod daemon_run;
mod demo;
mod disk;
mod histories;
mod once;
mod outage;
mod sign_in;
mod stage;
mod torture;
mod trouble;
