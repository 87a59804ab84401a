//! Family: reasons to run.
pub mod settings;
