//! The adapter against a scripted client stack.

mod batch;
mod changes;
mod fake;
mod polls;
mod reads;
mod schema;
mod setup;
mod traps;
mod writes;
