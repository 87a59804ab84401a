//! The loop: wait for bell or stop, run a cycle.
pub mod settings;
