//! What a plan consists of: writes to make, differences left alone, reads that are missing.

use std::fmt;

use crate::model::{Cause, Closing, Column, ETag, LeadDraft, LeadId, LeadState, Patch, ReferralId, Side, Timestamp};
use crate::ports::{ActionKind, IntendedAction};

/// A write to make.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create the lead of a referral, only if there is none.
    Create {
        /// The referral.
        referral: ReferralId,
        /// The id computed for it.
        lead: LeadId,
        /// Everything the lead begins with.
        draft: LeadDraft,
        /// The groups in it.
        groups: Vec<GroupWrite>,
    },
    /// Update an open lead, only if it is still the version we decided on.
    Update {
        /// The referral.
        referral: ReferralId,
        /// Its lead.
        lead: LeadId,
        /// The version decided on.
        etag: ETag,
        /// Only what changes.
        draft: LeadDraft,
        /// The groups in it.
        groups: Vec<GroupWrite>,
        /// Why, beyond groups: a fixed phrase with its configuration key.
        also: Vec<&'static str>,
    },
    /// Write to a referral, only if it is still the version we decided on.
    Patch {
        /// The referral.
        referral: ReferralId,
        /// Its lead.
        lead: LeadId,
        /// The version decided on.
        etag: ETag,
        /// What to write.
        patch: Patch,
        /// The status step in it.
        step: Step,
        /// The groups in it.
        groups: Vec<GroupWrite>,
        /// The lead id is in it.
        sets_reference: bool,
        /// Decided on a fresh read; irreversible steps are sent only then.
        is_fresh: bool,
        /// Why the step, with its configuration key.
        why: String,
    },
}

/// The status step of a write to a referral.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// None: fields and the lead id only.
    None,
    /// Active / Accepted.
    Accept,
    /// Closed.
    Close(Closing),
}

/// One group in a write.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupWrite {
    /// Key in the ledger.
    pub group: u32,
    /// Name in the configuration.
    pub name: String,
    /// Hash of its mapping.
    pub mapping: u32,
    /// Fingerprint of the referral's half after the write.
    pub referral: u64,
    /// Fingerprint of the lead's half after the write.
    pub lead: u64,
    /// Columns (or referral paths) written.
    pub columns: Vec<Column>,
    /// Which rule decided.
    pub rule: Rule,
}

/// The rule that decided a group (spec 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The lead is new.
    NewLead,
    /// Only the referral moved.
    ReferralMoved,
    /// Only the lead moved and the path is two-way.
    LeadMoved,
    /// Both moved and the owner decided.
    Owner(&'static str),
    /// No common base, and the lead had no value.
    LeadWasEmpty,
    /// An operator released it.
    Released,
    /// The customer withdrew the consent.
    ConsentWithdrawn,
    /// The mapping changed and an operator asked for a backfill.
    Backfill,
}

impl Action {
    /// The referral it is about.
    pub fn referral(&self) -> ReferralId {
        match self {
            Action::Create { referral, .. } | Action::Update { referral, .. } | Action::Patch { referral, .. } => {
                *referral
            }
        }
    }

    /// Its kind; brakes count by kind.
    pub fn kind(&self) -> ActionKind {
        match self {
            Action::Create { .. } => ActionKind::Create,
            Action::Update { draft, .. } if draft.status.is_some() => ActionKind::Disqualify,
            Action::Update { .. } => ActionKind::Update,
            Action::Patch { step: Step::None, .. } => ActionKind::WriteBack,
            Action::Patch { step: Step::Accept, .. } => ActionKind::Accept,
            Action::Patch { step: Step::Close(_), .. } => ActionKind::Close,
        }
    }

    /// The groups in it.
    pub fn groups(&self) -> &[GroupWrite] {
        match self {
            Action::Create { groups, .. } | Action::Update { groups, .. } | Action::Patch { groups, .. } => groups,
        }
    }

    /// What would be written: lead column or referral path, and its value. For a person at a terminal, never for a log.
    pub fn values(&self) -> Vec<(&str, &serde_json::Value)> {
        match self {
            Action::Create { draft, .. } | Action::Update { draft, .. } => {
                draft.columns.iter().map(|(column, value)| (column.as_str(), value)).collect()
            }
            Action::Patch { patch, .. } => {
                patch.operations.iter().map(|operation| (operation.path.as_str(), &operation.value)).collect()
            }
        }
    }

    /// What it is about in a few words for the history: groups with the rule that decided, or how it is closed.
    pub fn gist(&self) -> String {
        match self {
            Action::Create { .. } => String::new(),
            Action::Patch { step: Step::Close(closing), .. } => closing.to_string(),
            Action::Update { groups, .. } | Action::Patch { groups, .. } => {
                let words: Vec<String> =
                    groups.iter().map(|write| format!("{}:{}", write.name, write.rule.word())).collect();
                words.join(" ")
            }
        }
    }

    /// What goes into the intent record before it is sent.
    pub fn intended(&self) -> IntendedAction {
        IntendedAction {
            referral: self.referral(),
            kind: self.kind(),
            groups: self.groups().iter().map(|write| (write.group, write.referral, write.lead)).collect(),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Create { referral, lead, draft, .. } => {
                let columns: Vec<&str> = draft.columns.keys().map(String::as_str).collect();
                write!(
                    f,
                    "create lead {lead} for referral {referral} with {}, then write its id back",
                    columns.join(", ")
                )
            }
            Action::Update { referral, lead, groups, also, .. } => {
                let mut reasons: Vec<String> = groups.iter().map(GroupWrite::to_string).collect();
                reasons.extend(also.iter().map(|text| (*text).to_owned()));
                write!(f, "update lead {lead} of referral {referral}: {}", reasons.join("; "))
            }
            Action::Patch { referral, lead, step, groups, sets_reference, why, .. } => {
                match step {
                    Step::None => write!(f, "write back to referral {referral}")?,
                    Step::Accept => write!(f, "accept referral {referral} (Active / Accepted): {why}")?,
                    Step::Close(closing) => write!(f, "close referral {referral} ({closing}): {why}")?,
                }
                let mut parts: Vec<String> = groups.iter().map(GroupWrite::to_string).collect();
                if *sets_reference {
                    parts.push(format!("externalReferenceId = lead {lead} (link)"));
                }
                match (parts.is_empty(), step) {
                    (true, _) => Ok(()),
                    (false, Step::None) => write!(f, ": {}", parts.join("; ")),
                    (false, _) => write!(f, "; with {}", parts.join("; ")),
                }
            }
        }
    }
}

impl fmt::Display for GroupWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}; mapping.groups.{}", self.columns.join(", "), self.rule, self.name)?;
        if let Rule::Owner(_) = self.rule {
            f.write_str(".owner")?;
        }
        f.write_str(")")
    }
}

impl Rule {
    /// The rule in one word, for the history.
    pub fn word(&self) -> &'static str {
        match self {
            Rule::NewLead => "new",
            Rule::ReferralMoved => "referral",
            Rule::LeadMoved => "lead",
            Rule::Owner(_) => "owner",
            Rule::LeadWasEmpty => "empty",
            Rule::Released => "released",
            Rule::ConsentWithdrawn => "consent",
            Rule::Backfill => "backfill",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::NewLead => f.write_str("the lead is new"),
            Rule::ReferralMoved => f.write_str("only the referral changed"),
            Rule::LeadMoved => f.write_str("only the lead changed and the path is two-way"),
            Rule::Owner(owner) => write!(f, "both changed, {owner}"),
            Rule::LeadWasEmpty => f.write_str("no common base, the lead had no value"),
            Rule::Released => f.write_str("released by an operator"),
            Rule::ConsentWithdrawn => f.write_str("the customer withdrew the consent to be contacted"),
            Rule::Backfill => f.write_str("backfill after a change of mapping"),
        }
    }
}

/// A difference we leave alone for now, and why.
#[derive(Clone, Debug, PartialEq)]
pub enum Hold {
    /// An operator holds the referral.
    ByOperator,
    /// Two or more leads claim it.
    TwoCandidates {
        /// The leads.
        leads: Vec<LeadId>,
    },
    /// The lead speaks for another referral.
    LeadTaken {
        /// The lead.
        lead: LeadId,
        /// The referral that has it.
        by: ReferralId,
    },
    /// The lead it claims spoke for another referral when it was last looked at.
    LeadTakenBefore,
    /// The lead was deleted.
    LeadDeleted {
        /// The lead.
        lead: LeadId,
    },
    /// The lead is not open and a difference is waiting.
    LeadClosed {
        /// The lead.
        lead: LeadId,
        /// Its state.
        state: LeadState,
        /// The groups that wait.
        groups: Vec<String>,
    },
    /// Two values and no memory of which came first.
    NoCommonBase {
        /// The group.
        group: String,
    },
    /// Both sides moved and the owner rule says that a person decides.
    BothMoved {
        /// The group.
        group: String,
        /// The owner rule.
        owner: &'static str,
    },
    /// A group was written again and again to the same two values: two authors undo each other.
    Flapping {
        /// The group.
        group: String,
        /// Who changed the lead last.
        author: Option<uuid::Uuid>,
        /// That is the user this daemon signs in as.
        is_ours: bool,
    },
    /// The lead's value cannot go back to the referral.
    NotWritable {
        /// The group.
        group: String,
        /// Why.
        reason: String,
    },
    /// The customer withdrew the consent to be contacted.
    ConsentWithdrawn {
        /// The contact groups that are frozen.
        groups: Vec<String>,
    },
    /// A column was left out.
    ColumnSkipped {
        /// The group.
        group: String,
        /// The column.
        column: Column,
        /// Why, without values.
        reason: String,
    },
    /// The outcome was there before the link.
    OutcomeOlderThanLink {
        /// How it would be closed.
        closing: Closing,
    },
    /// It has to stand a while longer.
    NotSettled {
        /// How it would be closed.
        closing: Closing,
        /// When it will be sent.
        until: Timestamp,
        /// The configuration key that says how long.
        key: &'static str,
    },
    /// The lead changed its mind after the closing.
    ClosedAlready {
        /// What the lead says now.
        now: String,
    },
    /// The external reference is somebody else's.
    ForeignReference,
    /// It failed and is tried again later.
    Retrying {
        /// Why.
        cause: Cause,
        /// When.
        until: Timestamp,
    },
    /// It failed for good.
    DeadLetter {
        /// Why.
        cause: Cause,
    },
    /// A brake holds its kind.
    Brake {
        /// Name of the brake.
        name: &'static str,
    },
    /// The referral cannot be read any more.
    ReferralMissing,
    /// The lead is gone together with many others: the brake decides.
    LeadVanished,
    /// Another lead holds the referral's id, so this one's column stays empty.
    ReferralIdTaken {
        /// The lead with the empty column.
        lead: LeadId,
    },
    /// The lead was created without an owner, because the service refused the one that the rules name.
    NoOwner,
    /// The lead's referral id column holds a text that is no referral id.
    ForeignReferralId {
        /// The lead.
        lead: LeadId,
    },
    /// The referral left a filter, so its fields stand still in both directions.
    Frozen,
}

impl Hold {
    /// The bit of this kind in [`crate::model::Entry::holds`]; zero for kinds that belong to one cycle only.
    pub fn bit(&self) -> u32 {
        HOLD_NAMES.iter().position(|name| *name == self.name()).map_or(0, |index| 1 << index)
    }

    /// Stable name for grouping and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Hold::ByOperator => "by operator",
            Hold::TwoCandidates { .. } => "two candidates",
            Hold::LeadTaken { .. } | Hold::LeadTakenBefore => "lead already linked",
            Hold::LeadDeleted { .. } => "lead deleted",
            Hold::LeadClosed { .. } => "lead closed",
            Hold::NoCommonBase { .. } => "no common base",
            Hold::BothMoved { .. } => "both changed",
            Hold::Flapping { .. } => "flapping",
            Hold::NotWritable { .. } => "not writable",
            Hold::ConsentWithdrawn { .. } => "consent withdrawn",
            Hold::ColumnSkipped { .. } => "column skipped",
            Hold::OutcomeOlderThanLink { .. } => "outcome older than the link",
            Hold::NotSettled { .. } => "not settled",
            Hold::ClosedAlready { .. } => "closed already",
            Hold::ForeignReference => "foreign reference",
            Hold::Retrying { .. } => "retrying",
            Hold::DeadLetter { .. } => "dead letter",
            Hold::Brake { .. } => "brake",
            Hold::ReferralMissing => "referral missing",
            Hold::LeadVanished => "lead vanished",
            Hold::ReferralIdTaken { .. } => "referral id taken",
            Hold::ForeignReferralId { .. } => "foreign referral id",
            Hold::NoOwner => "no owner",
            Hold::Frozen => "frozen by a filter",
        }
    }
}

/// The names of holds by the bit they have in [`crate::model::Entry::holds`]; only ever appended to.
pub const HOLD_NAMES: [&str; 23] = [
    "by operator",
    "two candidates",
    "lead already linked",
    "lead deleted",
    "lead closed",
    "no common base",
    "both changed",
    "not writable",
    "consent withdrawn",
    "column skipped",
    "outcome older than the link",
    "not settled",
    "closed already",
    "foreign reference",
    "retrying",
    "dead letter",
    "referral missing",
    "lead vanished",
    "flapping",
    "referral id taken",
    "foreign referral id",
    "no owner",
    "frozen by a filter",
];

/// Prints what is left alone and why, naming the configuration key; the referral is named by the caller.
impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::ByOperator => f.write_str("held by an operator; `release` lifts it"),
            Hold::TwoCandidates { leads } => {
                let leads: Vec<String> = leads.iter().map(LeadId::to_string).collect();
                write!(f, "leads {} all claim it; keep one of them (link.adopt)", leads.join(" and "))
            }
            Hold::LeadTaken { lead, by } => {
                write!(f, "lead already linked to referral {by}: {lead}; `release` tries again")
            }
            Hold::LeadTakenBefore => f.write_str("lead already linked to another referral; `release` tries again"),
            Hold::LeadDeleted { lead } => {
                write!(f, "lead {lead} was deleted and stays deleted (link.on_lead_deleted = \"leave\")")
            }
            Hold::LeadClosed { lead, state, groups } => {
                write!(f, "lead closed: {lead} is {state}, {} wait until it is reopened", groups.join(", "))
            }
            Hold::NoCommonBase { group } => write!(
                f,
                "no common base for {group}: both sides have a value; `release --take referral` or `--take lead` decides (mapping.groups.{group})"
            ),
            Hold::BothMoved { group, owner } => write!(
                f,
                "both sides changed {group}; `release --take referral` or `--take lead` decides (mapping.groups.{group}.owner = \"{owner}\")"
            ),
            Hold::Flapping { group, author, is_ours } => {
                let author = match (author, is_ours) {
                    (Some(id), true) => format!("our own user {id}"),
                    (Some(id), false) => format!("user {id}"),
                    (None, _) => "somebody".to_owned(),
                };
                write!(
                    f,
                    "flapping: {group} was written {} times within an hour to the same two values, undone by {author} in {} or in {}; `release --take referral` or `--take lead` decides, `release` alone goes on (mapping.groups.{group})",
                    crate::plan::fields::FLIPS_MAX,
                    Side::Crm,
                    Side::Portal,
                )
            }
            Hold::NotWritable { group, reason } => {
                write!(f, "the lead's {group} cannot be written back: {reason} (mapping.groups.{group}.write_back)")
            }
            Hold::ConsentWithdrawn { groups } => {
                write!(f, "consent withdrawn: {} are frozen (mapping.on_consent_withdrawn)", groups.join(", "))
            }
            Hold::ColumnSkipped { group, column, reason } => {
                write!(f, "column {column} is left out: {reason} (mapping.groups.{group})")
            }
            Hold::OutcomeOlderThanLink { closing } => {
                write!(f, "outcome older than the link: it would become {closing}; `approve` sends it (status)")
            }
            Hold::NotSettled { closing, until, key } => {
                write!(f, "not settled: it becomes {closing} at {until} if that still stands ({key})")
            }
            Hold::ClosedAlready { now } => {
                write!(f, "closed already, now the lead says {now}; a closed referral is never written")
            }
            Hold::ForeignReference => f.write_str(
                "externalReferenceId holds somebody else's key and is left alone (link.overwrite_foreign_reference)",
            ),
            Hold::Retrying { cause, until } => write!(f, "failed ({cause}), tried again at {until} (retry.delay)"),
            Hold::DeadLetter { cause } => {
                write!(f, "dead letter ({cause}); it is tried again when either side changes, or by `retry`")
            }
            Hold::Brake { name } => write!(f, "held back by the brake {name}; `approve` releases it (brakes)"),
            Hold::LeadVanished => {
                f.write_str("its lead is gone together with many others; the brake leads vanished holds it")
            }
            Hold::ReferralIdTaken { lead } => write!(
                f,
                "another lead holds the id of the referral, so the column of lead {lead} stays empty; when the other one has let it go, `release` tries again (referral_id_column)"
            ),
            Hold::NoOwner => write!(
                f,
                "its lead is nobody's, because {} refused the owner and there is no other: give it one, then `release` (mapping.fallback_owner)",
                Side::Crm
            ),
            Hold::ForeignReferralId { lead } => write!(
                f,
                "the column of lead {lead} holds a text that is no referral id, and is left alone; emptied, it is filled (referral_id_column)"
            ),
            Hold::ReferralMissing => f.write_str("the referral cannot be read any more; its lead is left alone"),
            Hold::Frozen => f.write_str(
                "frozen by a filter: the referral is out of scope now, so its fields stand still in both directions while its status goes on (scope.on_leaving_filter = \"freeze\")",
            ),
        }
    }
}

/// Reads that are missing before a row can be decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Read the referral.
    pub referral: bool,
    /// Read the lead.
    pub lead: bool,
    /// Read the lead's opportunities.
    pub opportunities: bool,
    /// Search for an existing lead.
    pub adoption: bool,
}

impl Needs {
    /// Nothing is missing.
    pub fn is_empty(self) -> bool {
        self == Needs::default()
    }
}
