//! Settings of the ledger's place (`[state]`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[state]`: where the daemon keeps its memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StateSettings {
    /// Holds `ledger/` (disposable) and `keep/` (not).
    pub directory: PathBuf,
    /// Memory for the ledger's page cache, in bytes; a hint, scans overshoot it.
    pub cache_bytes: u64,
}
