//! What one cycle saw of one referral: one row, both sides and our memory.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{Entry, Lead, LeadId, Opportunity, Referral, ReferralId, Timestamp};
use crate::ports::{Groups, IntendedAction};

/// One row: everything a decision about one referral may look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Which referral.
    pub id: ReferralId,
    /// The referral, as far as it was read this cycle.
    pub referral: Seen<Referral>,
    /// When `referral` was read by itself, or came as the answer to our own write; `None` when it was only listed.
    pub referral_read: Option<Timestamp>,
    /// The linked lead (a merged lead is already followed to its master), as far as it was read this cycle.
    pub lead: Seen<Lead>,
    /// All opportunities of the lead, if they were read.
    pub opportunities: Option<Vec<Opportunity>>,
    /// What the search for an existing lead gave; `None` when it was not searched.
    pub adoption: Option<Adoption>,
    /// Which referral speaks for a lead that this row may link or create.
    pub claims: BTreeMap<LeadId, Claim>,
    /// Our memory.
    pub entry: Option<Entry>,
    /// What the newest export remembers of it, while our memory has no lead for it.
    pub recalled: Option<Box<Entry>>,
    /// A write of ours whose outcome was not known when this row was read.
    pub intent: Option<IntendedAction>,
    /// An operator asked to rewrite these groups after a change of mapping.
    pub backfill: Option<Groups>,
    /// The lead was refused the referral id just now: another lead holds that key (dataverse §7).
    pub is_key_taken: bool,
}

/// How much of one side was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen<T> {
    /// Not read in this cycle: as last seen.
    Unseen,
    /// Read.
    Present(Box<T>),
    /// Asked for by id, and the service says that it does not exist.
    Absent,
}

impl<T> Seen<T> {
    /// It was not read in this cycle.
    pub fn is_unseen(&self) -> bool {
        matches!(self, Seen::Unseen)
    }

    /// The value, if it was read.
    pub fn present(&self) -> Option<&T> {
        match self {
            Seen::Present(value) => Some(value),
            Seen::Unseen | Seen::Absent => None,
        }
    }
}

impl<T> From<T> for Seen<T> {
    fn from(value: T) -> Self {
        Seen::Present(Box::new(value))
    }
}

/// What the search for an existing lead gave (spec 2).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adoption {
    /// Leads that claim this referral, each once, merged ones followed.
    pub candidates: Vec<Lead>,
    /// `externalReferenceId` names a lead that does not exist: asked by id and confirmed.
    pub is_reference_gone: bool,
    /// Merged leads from which a candidate was followed.
    pub followed: Vec<LeadId>,
    /// A lead that claims this referral was merged into one that does not exist any more.
    pub is_master_gone: bool,
    /// The lead it had by the newest export, where that does not exist any more: asked by id and confirmed.
    pub lost: Option<LeadId>,
}

/// Who speaks for a lead already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The referral that has it.
    pub referral: ReferralId,
    /// When that referral was created.
    pub created: Option<Timestamp>,
}

/// A referral that was read longer ago than this is not fresh any more.
pub const FRESH_TIME: Duration = Duration::from_secs(60);

impl Row {
    /// Whether what is known of the referral is good enough for an irreversible step.
    pub fn is_referral_fresh(&self, now: Timestamp) -> bool {
        self.referral_read.is_some_and(|read| now.since(read) <= FRESH_TIME)
    }

    /// A row about which nothing is known yet but its id.
    pub fn new(id: ReferralId) -> Self {
        Row {
            id,
            referral: Seen::Unseen,
            referral_read: None,
            lead: Seen::Unseen,
            opportunities: None,
            adoption: None,
            claims: BTreeMap::new(),
            entry: None,
            recalled: None,
            intent: None,
            backfill: None,
            is_key_taken: false,
        }
    }
}
