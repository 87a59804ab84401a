//! The adapter against a scripted client stack.

mod fake;
mod reads;
mod schema;
mod traps;
mod writes;
