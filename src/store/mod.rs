//! Family: where the ledger is kept.
pub mod settings;
