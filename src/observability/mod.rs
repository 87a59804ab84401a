//! What is seen from outside: health, readiness, metrics and the status page.
//!
//! Everything shown comes from [`crate::daemon::Status`]. It reads and never decides, needs nothing of the reconcile core
//! but that page, and goes on while the ledger or a service is in trouble.

pub mod catalogue;
mod desk;
mod listener;
pub mod metrics;
pub mod page;
#[cfg(test)]
mod sample;
pub mod settings;

pub use desk::PAGES;
pub use listener::Observability;
pub use settings::ObservabilitySettings;
