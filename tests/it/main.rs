//! End-to-end and contract tests.

#![allow(clippy::unwrap_used)]

mod backfill;
mod bad_input;
mod budgets;
mod columns;
mod command_line;
mod commands;
mod costs;
mod daemon_run;
mod decisions;
mod demo;
mod flapping;
mod disk;
mod histories;
mod once;
mod outage;
mod sign_in;
mod stage;
mod torture;
mod town;
mod trouble;
