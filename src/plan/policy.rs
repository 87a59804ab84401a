//! Everything the plan decides by: settings, the compiled mapping and the operator's decisions.

use crate::model::LeadId;
use crate::model::ReferralId;
use crate::plan::mapping::Mapping;
use crate::plan::settings::{LinkSettings, OnConsentWithdrawn, RetrySettings, ScopeSettings, StatusSettings, Writes};
use crate::ports::Decisions;

/// What a plan decides by. Plain data: built once per cycle.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How far writing goes.
    pub writes: Writes,
    /// Which referral and which lead belong together.
    pub link: LinkSettings,
    /// Which referrals get a lead.
    pub scope: ScopeSettings,
    /// What a status means.
    pub status: StatusSettings,
    /// Patience.
    pub retry: RetrySettings,
    /// How a referral becomes a lead.
    pub mapping: std::sync::Arc<Mapping>,
    /// What a withdrawn consent does.
    pub on_consent_withdrawn: OnConsentWithdrawn,
    /// The column `mark` sets.
    pub consent_mark_column: Option<String>,
    /// The lead column that carries the referral id, where it exists and is ours to fill by an ordinary write.
    pub referral_column: Option<String>,
    /// The lead's id is computed (derived identity).
    pub is_derived: bool,
    /// Our user in the CRM.
    pub crm_user: Option<uuid::Uuid>,
    /// Our organization at the portal, once known.
    pub organization: Option<String>,
    /// Hash of everything configured that can change a decision: wakes dead letters.
    pub configuration: u64,
    /// What operators decided.
    pub decisions: Decisions,
    /// Try rows whether due or not.
    pub ignores_delays: bool,
}

impl Policy {
    /// The computed lead id of a referral.
    pub fn computed(&self, referral: ReferralId) -> LeadId {
        LeadId::computed(self.link.namespace, referral)
    }

    /// True when referrals may be written.
    pub fn writes_referrals(&self) -> bool {
        match self.writes {
            Writes::Both | Writes::Off => true,
            Writes::LeadsOnly => false,
        }
    }
}
