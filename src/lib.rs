#![doc = include_str!("ARCHITECTURE.md")]

// In reading order: what there is, what is decided, what is needed of the outside, one pass.
pub mod model;
pub mod plan;
pub mod ports;

pub mod cycle;

// The outside: both services, the ledger, and the client stack.
pub mod portal;

pub mod crm;
pub mod store;

pub mod http;

// The daemon around the pass, and who looks in.
pub mod trigger;

pub mod daemon;
pub mod lifecycle;

pub mod control;
pub mod observability;

pub mod alarm;
pub mod telemetry;

// What is configured, what is typed, and the toy world of the demonstration and the tests.
pub mod config;

pub mod cli;
pub mod sim;
