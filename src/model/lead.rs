//! The lead and its opportunities: what the CRM knows of one deal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ETag, ReferralId, Timestamp};

/// Logical name of a lead column, as the mapping names it.
pub type Column = String;

/// One lead as read, reduced to the core and the mapped columns.
///
/// `columns` holds plain JSON: text, whole numbers, decimal numbers for money, `YYYY-MM-DD` for dates, option numbers
/// for choices, the ISO 4217 code for the currency lookup (the adapter translates). A null column is absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Lead {
    /// The primary key.
    pub id: LeadId,
    /// The version.
    pub etag: Option<ETag>,
    /// Where it stands.
    pub status: LeadStatus,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// When it last changed, by anyone; whole seconds.
    pub modified: Option<Timestamp>,
    /// The user who made it.
    pub created_by: Option<uuid::Uuid>,
    /// The user who changed it last.
    pub modified_by: Option<uuid::Uuid>,
    /// It was merged into another lead; see `master`.
    pub is_merged: bool,
    /// The lead it was merged into.
    pub master: Option<LeadId>,
    /// The opportunity named by the qualification.
    pub opportunity: Option<uuid::Uuid>,
    /// Content of the configured referral id column, where there is one.
    pub referral: Option<ReferralId>,
    /// The referral id column holds a text that is no referral id: a person's.
    pub has_foreign_referral: bool,
    /// The mapped columns; the subject is always among them.
    pub columns: BTreeMap<Column, Value>,
}

/// A lead's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeadId(uuid::Uuid);

impl LeadId {
    /// Wraps a GUID.
    pub const fn new(id: uuid::Uuid) -> Self {
        LeadId(id)
    }

    /// Reads a GUID in any common spelling. `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        uuid::Uuid::try_parse(text.trim()).ok().map(LeadId)
    }

    /// The id computed from a referral's id (spec 2): a UUIDv5 of its lower-case hyphenated text.
    pub fn computed(namespace: uuid::Uuid, referral: ReferralId) -> Self {
        LeadId(uuid::Uuid::new_v5(&namespace, referral.to_string().as_bytes()))
    }

    /// The GUID.
    pub const fn uuid(self) -> uuid::Uuid {
        self.0
    }
}

impl std::fmt::Display for LeadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.as_hyphenated())
    }
}

/// A lead's state and its finer status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeadStatus {
    /// Fixed by the product.
    pub state: LeadState,
    /// Customisable; unknown codes count as their state's default (dataverse §2.3).
    pub code: i32,
}

/// `statecode` of a lead (dataverse §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LeadState {
    /// 0: the seller works on it.
    Open,
    /// 1: became an opportunity, or none.
    Qualified,
    /// 2: given up.
    Disqualified,
}

impl std::fmt::Display for LeadState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LeadState::Open => "Open",
            LeadState::Qualified => "Qualified",
            LeadState::Disqualified => "Disqualified",
        })
    }
}

/// One opportunity that came from a lead; read only.
#[derive(Clone, Debug, PartialEq)]
pub struct Opportunity {
    /// The primary key.
    pub id: uuid::Uuid,
    /// The lead it came from.
    pub lead: Option<LeadId>,
    /// Where it stands.
    pub state: OpportunityState,
    /// When it was created: the newest open one speaks.
    pub created: Option<Timestamp>,
    /// When it last changed.
    pub modified: Option<Timestamp>,
    /// `estimatedvalue`, exact.
    pub estimated_value: Option<rust_decimal::Decimal>,
    /// `actualvalue`, exact; set when won.
    pub actual_value: Option<rust_decimal::Decimal>,
    /// ISO 4217 code.
    pub currency: Option<String>,
    /// `YYYY-MM-DD`: `actualclosedate` when closed, else `estimatedclosedate`.
    pub close_date: Option<String>,
}

/// `statecode` of an opportunity (dataverse §2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OpportunityState {
    /// 0.
    Open,
    /// 1.
    Won,
    /// 2.
    Lost,
}

/// Columns to write to one lead. Only what changes is in it (dataverse §3.2).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeadDraft {
    /// Values in the JSON forms of [`Lead::columns`]; null clears.
    pub columns: BTreeMap<Column, Value>,
    /// Set on create only.
    pub owner: Option<Owner>,
    /// Set only by `on_referral_closed = "disqualify"`.
    pub status: Option<LeadStatus>,
}

impl LeadDraft {
    /// True when there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty() && self.owner.is_none() && self.status.is_none()
    }
}

/// Who shall own a new lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// A user's id.
    User(uuid::Uuid),
    /// A team's id.
    Team(uuid::Uuid),
}
