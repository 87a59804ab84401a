//! Settings of what is seen from outside (`[observability]`).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::HumanDuration;

/// `[observability]`: health, metrics and the status page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObservabilitySettings {
    /// Address and port; absent: no listener.
    pub listen: Option<SocketAddr>,
    /// Connections at once; more are told to come back.
    pub connections_max: u32,
    /// How long the head of a request may take to arrive, and its answer to leave.
    pub request_timeout: HumanDuration,
    /// How old the last look at both sides may be before it counts as trouble.
    pub lag_max: HumanDuration,
}
