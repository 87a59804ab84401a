//! Settings of the loop (`[daemon]`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::HumanDuration;

/// `[daemon]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DaemonSettings {
    /// How long one cycle may work; what is left is pending and the next cycle goes on.
    pub work_budget: HumanDuration,
    /// How long writes under way may take to end when the daemon is asked to stop.
    pub grace_period: HumanDuration,
    /// Where the control socket lives; absent: `$RUNTIME_DIRECTORY`, else the state directory.
    pub runtime_directory: Option<PathBuf>,
}
