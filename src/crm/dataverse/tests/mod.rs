//! The adapter against a scripted client stack.

mod batch;
mod fake;
mod reads;
mod schema;
mod traps;
mod writes;
