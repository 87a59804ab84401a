//! Settings of one pass (`[cycle]`).

use serde::{Deserialize, Serialize};

use crate::config::HumanDuration;

/// `[cycle]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CycleSettings {
    /// Rows held in memory and ordered by urgency.
    pub window: u32,
    /// Writes per intent record.
    pub batch_max: u32,
    /// How far behind the watermark the overlap reaches.
    pub overlap: HumanDuration,
    /// The overlap is read every so many cycles.
    pub overlap_every: u32,
    /// An unordered listing becomes one sweep, at most one in this time.
    pub unordered_sweep_interval: HumanDuration,
    /// The last so many percent of a day's requests are kept for urgent work: polls, and referrals that are New or expire.
    pub urgent_requests_percent: u32,
    /// A clock further off than this from a service's stops writing.
    pub clock_skew_max: HumanDuration,
}
