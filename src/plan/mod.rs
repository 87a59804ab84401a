//! Verbs: pure functions from values to values.

pub mod mapping;
pub mod settings;
