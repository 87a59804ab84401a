//! End-to-end and contract tests.

#![allow(clippy::unwrap_used)]

mod alarm;
mod architecture;
mod backfill;
mod bad_input;
mod brakes;
mod browser;
mod budgets;
mod bundle;
mod columns;
mod command_line;
mod commands;
mod corpus;
mod costs;
mod daemon_run;
mod deaf;
mod decisions;
mod demo;
mod disk;
mod doctor;
mod explain;
mod first_hour;
mod flapping;
mod histories;
mod login;
mod lost_answers;
mod memory;
mod metrics_files;
mod month;
mod once;
mod outage;
mod passes;
mod poison;
mod quick_status;
mod reload;
mod seeing;
mod sign_in;
mod stage;
mod state;
mod torture;
mod town;
mod transcripts;
mod trouble;
mod two_daemons;
mod webhook;
