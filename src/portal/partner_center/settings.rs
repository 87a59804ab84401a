//! Settings of the referrals side (`[partner_center]`).

use serde::{Deserialize, Serialize};

use crate::http::settings::AuthSettings;

/// `[partner_center]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartnerCenterSettings {
    /// Host of the referrals API; `/v1.0/engagements/referrals` is added.
    pub base_url: url::Url,
    /// Host of the webhook registration API.
    pub webhook_api_url: url::Url,
    /// Pages of one scan at most.
    pub pages_max: u32,
    /// Empty pages in a row (with a link to a next one) that end a scan with an error.
    pub empty_pages_max: u32,
    /// Ask for `updatedDateTime ge`; falls back by itself when the service refuses.
    pub use_updated_filter: bool,
    /// Send `Prefer: return=representation` with writes, which saves a read.
    pub prefer_representation: bool,
    /// Requests per minute.
    pub requests_per_minute: u32,
    /// Requests at once.
    pub in_flight_max: u32,
    /// Daily request budget.
    pub requests_per_day: u64,
    /// Sign-in.
    pub auth: AuthSettings,
}
