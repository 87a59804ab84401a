//! Alarms: one message for each change for the worse or the better.

pub mod settings;

pub use settings::AlarmSettings;
