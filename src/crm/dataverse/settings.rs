//! Settings of the leads side (`[dataverse]`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::HumanDuration;
use crate::http::Protection;
use crate::http::settings::{AuthSettings, LimitSettings};

/// The sliding window of service protection (dataverse §6.1).
const PROTECTION_WINDOW: Duration = Duration::from_secs(300);

/// Requests of one user to one server within it (dataverse §6.1).
const PROTECTION_REQUESTS: u32 = 6000;

/// Execution time of one user at one server within it (dataverse §6.1).
const PROTECTION_EXECUTION: Duration = Duration::from_secs(1200);

/// `[dataverse]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataverseSettings {
    /// The environment, for example `https://contoso.crm4.dynamics.com`.
    pub url: Option<url::Url>,
    /// Value of the `tag` parameter of every write: lets plug-ins recognise ours.
    pub tag: String,
    /// How changed leads are heard of.
    pub observe: Observe,
    /// Rows per page of a poll.
    pub page_size: u32,
    /// Pages of one poll at most; beyond, linked leads are read by id.
    pub poll_pages_max: u32,
    /// Ids per request when reading by id (dataverse §4.2: at most 50).
    pub ids_per_request: u32,
    /// How far behind the watermark a poll begins.
    pub poll_overlap: HumanDuration,
    /// Requests per minute.
    pub requests_per_minute: u32,
    /// Requests at once.
    pub in_flight_max: u32,
    /// The part of the service's protection limits that we may use, in percent; the rest is for other programs that work
    /// under the same application user.
    pub budget_share_percent: u32,
    /// Writes that may travel in one request (`$batch`) when many wait; 1: every write goes singly.
    pub batch_size: u32,
    /// Daily request budget.
    pub requests_per_day: u64,
    /// Sign-in.
    pub auth: AuthSettings,
}

/// How changed leads are heard of (`dataverse.observe`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Observe {
    /// By `modifiedon`.
    #[default]
    Poll,
    /// By change tracking: deletions are heard of, too, and the whole lead table is looked at.
    Delta,
}

impl DataverseSettings {
    /// What the client stack is limited to.
    pub fn limits(&self) -> LimitSettings {
        LimitSettings {
            requests_per_minute: self.requests_per_minute,
            in_flight_max: self.in_flight_max,
            protection: Some(Protection {
                window: PROTECTION_WINDOW,
                requests: PROTECTION_REQUESTS,
                execution: PROTECTION_EXECUTION,
                share: f64::from(self.budget_share_percent.clamp(1, 100)) / 100.0,
            }),
        }
    }
}

/// What identifies a lead (`identity`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The lead's id is computed from the referral's id.
    Derived,
    /// A custom column with an alternate key carries the referral's id.
    AlternateKey,
}

impl Identity {
    /// True when the lead's id is computed.
    pub fn is_derived(self) -> bool {
        match self {
            Identity::Derived => true,
            Identity::AlternateKey => false,
        }
    }
}
