//! Verbs: pure functions from values to values.

pub mod settings;
