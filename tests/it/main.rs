//! End-to-end and contract tests.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod brakes;
mod budgets;
mod columns;
mod command_line;
mod commands;
mod costs;
mod daemon_run;
mod decisions;
mod demo;
mod flapping;
mod histories;
mod once;
mod sign_in;
mod stage;
mod town;
mod trouble;
