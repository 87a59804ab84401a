//! One pass: observe, plan, apply, record.
pub mod settings;
