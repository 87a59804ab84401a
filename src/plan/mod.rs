//! Verbs: pure functions from values to values.

pub mod policy;
pub mod settings;
