//! One line of the ledger: what we remember of one referral and its lead. No personal data, at most 512 bytes encoded.

use serde::{Deserialize, Serialize};

use super::{Closing, ETag, LeadId, LeadStatus, ReferralStatus, Side, Substatus, Timestamp};

/// Our memory of one referral. The referral's id is its key in the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Where this referral stands with us.
    pub standing: Standing,
    /// When this daemon first saw it.
    pub first_seen: Timestamp,
    /// The referral's version as last seen or written; `None` when a write left it unknown.
    pub referral_etag: Option<ETag>,
    /// The referral's status as last seen.
    pub referral_status: ReferralStatus,
    /// The referral's substatus as last seen.
    pub referral_substatus: Substatus,
    /// `createdDateTime`: decides between claimants of one lead.
    pub referral_created: Option<Timestamp>,
    /// `updatedDateTime` as last seen: the newest known ones guard visibility.
    pub referral_updated: Option<Timestamp>,
    /// When a New referral expires unanswered: `expirationDateTime`, else 14 days after creation.
    pub deadline: Option<Timestamp>,
    /// What the referral says about our lead.
    pub external_reference: ExternalReference,
    /// Consent to contact, as last seen; `None` when the record never said.
    pub consent: Option<bool>,
    /// Consent was there once and has been withdrawn.
    pub is_consent_withdrawn: bool,
    /// Shared and with a deal registration: Won waits (spec 5).
    pub is_registered_co_sell: bool,
    /// It left a filter with `freeze`: fields stop in both directions.
    pub is_frozen: bool,
    /// The lead that speaks for it.
    pub link: Option<Link>,
    /// Memory per mapping group, sorted by `group`.
    pub groups: Vec<GroupMemory>,
    /// The lead's outcome as last observed, and since when: the settle time counts from here.
    pub outcome: Option<ObservedOutcome>,
    /// How we closed the referral, once we did.
    pub closed_by_us: Option<Closing>,
    /// An outcome that came after the closing and has been reported once: the outcome's code.
    pub reported_after_closing: Option<i32>,
    /// What went wrong last, while it is not mended.
    pub trouble: Option<Trouble>,
    /// Which kinds of holds it has, one bit each (`plan::Hold::bit`).
    pub holds: u32,
    /// Keyed hash of the contact person used last, so that the choice is sticky.
    pub primary_contact: Option<u32>,
    /// Look at this referral again at this instant even if neither side changes.
    pub look_at: Option<Timestamp>,
}

impl Entry {
    /// What may still be believed of an entry from an export or an old copy of the ledger, of which nobody knows what has
    /// happened since.
    ///
    /// Versions, ids and facts that cannot become untrue stay. A common base becomes a recalled one, which is proven by
    /// versions before anything follows from it; a base that was apart is forgotten and seen anew. What counts from an
    /// observation of ours (moves, the settle time of an outcome, attempts after trouble, a decision for one side) begins
    /// anew. A consent that was given is not remembered: that it is gone now may have been answered already, and a
    /// contact that a seller entered afterwards must not be cleared again.
    #[must_use]
    pub fn recalled(self, now: Timestamp) -> Entry {
        let is_pending = self.standing == Standing::Pending || self.look_at.is_some();
        Entry {
            groups: self.groups.into_iter().filter_map(GroupMemory::recalled).collect(),
            consent: self.consent.filter(|consent| !consent),
            is_consent_withdrawn: false,
            outcome: None,
            trouble: None,
            look_at: is_pending.then_some(now),
            ..self
        }
    }

    /// No version counts as known any more, so both sides are read before anything is decided.
    pub fn forget_versions(&mut self) {
        self.referral_etag = None;
        self.link.iter_mut().for_each(|link| link.etag = None);
    }

    /// A group's base has not been proven since it was recalled: both sides are read before anything is decided.
    pub fn has_recalled(&self) -> bool {
        self.groups.iter().any(|memory| matches!(memory.base, Base::Recalled { .. }))
    }
}

impl GroupMemory {
    fn recalled(self) -> Option<GroupMemory> {
        let (Base::Common { referral, lead } | Base::Recalled { referral, lead }) = self.base else { return None };
        let base = Base::Recalled { referral, lead };
        Some(GroupMemory { base, referral_moved: None, lead_moved: None, released: None, flips: None, ..self })
    }
}

/// Where a referral stands with us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// Seen, in scope, not linked yet: a create or a hold is pending.
    Pending,
    /// A lead speaks for it.
    Linked,
    /// Not imported: spam, outgoing, our own invitation, a counterpart's copy, or a filter.
    OutOfScope,
    /// It was closed when first seen and has no lead.
    ClosedUnlinked,
    /// Its lead was deleted; left alone.
    LeadGone,
    /// Another referral has the lead it claims.
    LeadTaken,
}

/// The lead that speaks for a referral, as last seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The lead.
    pub lead: LeadId,
    /// Its version as last seen or written; goes into `If-Match`.
    pub etag: Option<ETag>,
    /// Its state and status code.
    pub status: LeadStatus,
    /// `modifiedon` as last seen.
    pub modified: Option<Timestamp>,
    /// What its opportunities add up to.
    pub deal: Deal,
    /// The daemon made this lead: its id is the computed one or its creator is our user.
    pub is_ours: bool,
    /// The lead has been seen in another state since the link: an outcome is news (spec 5).
    pub has_changed_state: bool,
}

/// What the opportunities of a lead add up to: any Won, else any Open, else all Lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Deal {
    /// No opportunity known.
    #[default]
    None,
    /// At least one open, none won.
    Open,
    /// At least one won.
    Won,
    /// One or more, all lost.
    Lost,
}

/// What `externalReferenceId` holds, seen from the linked lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExternalReference {
    /// Null, absent or blank.
    #[default]
    Empty,
    /// The id of the linked lead, or one we wrote ourselves before a merge.
    Ours,
    /// A GUID of some other lead.
    OtherLead,
    /// Something else: left alone unless `overwrite_foreign_reference`.
    Foreign,
}

/// Memory of one mapping group: at most 65 bytes encoded, commonly 25.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupMemory {
    /// Key of the group: the first 4 bytes of the keyed hash of its name.
    pub group: u32,
    /// Hash of the group's mapping when the pair was taken; a change of mapping moves no lead (spec 4).
    pub mapping: u32,
    /// What both sides last agreed on, or what was seen when they could not be compared.
    pub base: Base,
    /// The referral's value has moved away from its half and that is not settled.
    pub referral_moved: Option<Moved>,
    /// The lead's value has moved away from its half and that is not settled.
    pub lead_moved: Option<Moved>,
    /// An operator decided which side wins: until that is carried out, or the other side says something new.
    pub released: Option<Take>,
    /// Our own writes of the last hour, so that two authors who undo each other are noticed.
    pub flips: Option<Flips>,
}

/// Our writes of one group within the last hour, as long as they go back and forth between the same two values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flips {
    /// The two values: the last 32 bits of the fingerprints that the lead had before the first write and after it.
    pub values: [u32; 2],
    /// When they were written, the last three, oldest first: whole seconds since 1970.
    pub at: Vec<u32>,
    /// Held as flapping: until an operator releases it, or both sides agree by themselves.
    pub is_held: bool,
}

/// The pair of keyed fingerprints of a group (spec 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// Both sides agreed, or a rule wrote: `referral` is the fingerprint of the derived value, `lead` of the lead's.
    Common {
        /// Half of the referral.
        referral: u64,
        /// Half of the lead, as the service returned it.
        lead: u64,
    },
    /// Seen without a common base; a later move of either side is decided by the owner as if both had moved.
    Apart {
        /// Half of the referral.
        referral: u64,
        /// Half of the lead.
        lead: u64,
        /// Both had a value: a person decides.
        is_disputed: bool,
    },
    /// Agreed on once, by an export or a ledger that is older than what has happened since: believed only of a side that
    /// is still in the very version it had then (`plan::fields`).
    Recalled {
        /// Half of the referral.
        referral: u64,
        /// Half of the lead, as the service returned it.
        lead: u64,
    },
}

/// Whose value wins when an operator releases a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Take {
    /// The referral's.
    Referral,
    /// The lead's.
    Lead,
}

/// A value that moved away from the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Fingerprint of the value as last seen.
    pub to: u64,
    /// When this daemon first observed the move.
    pub at: Timestamp,
}

/// The mapped outcome of a lead, and since when it has been the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedOutcome {
    /// How the referral would be closed.
    pub closing: Closing,
    /// Our first observation of it.
    pub since: Timestamp,
    /// An operator approved sending it although it is older than the link.
    pub is_approved: bool,
}

/// What went wrong with one referral for its own reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    /// Groups dead letters.
    pub cause: Cause,
    /// Failed attempts so far.
    pub attempts: u16,
    /// When the last attempt failed.
    pub since: Timestamp,
    /// We stopped trying until something changes.
    pub is_dead_letter: bool,
    /// Fingerprint of what the attempt was about (both sides' versions and the configuration): a change wakes it.
    pub about: u64,
}

/// Why a referral keeps failing; at most 80 bytes, no values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cause {
    /// Which service said so; `None` for our own rules.
    pub side: Option<Side>,
    /// Short words: a fault, the service's code, a column.
    pub what: String,
}

impl Cause {
    /// Longest `what` kept, in bytes.
    pub const WHAT_BYTES_MAX: usize = 72;

    /// A cause whose words are cut to [`Cause::WHAT_BYTES_MAX`].
    pub fn new(side: Option<Side>, what: &str) -> Self {
        let mut end = what.len().min(Self::WHAT_BYTES_MAX);
        while !what.is_char_boundary(end) {
            end -= 1;
        }
        Cause { side, what: what[..end].to_owned() }
    }

    /// Whose no it was, in a word of a short list ([`Cause::CLASSES`]): for counters that must stay few.
    pub fn class(&self) -> &'static str {
        match self.side {
            Some(Side::Portal) => Self::CLASSES[0],
            Some(Side::Crm) => Self::CLASSES[1],
            None => Self::CLASSES[2],
        }
    }

    /// Every class: refused by Partner Center, refused by Dynamics, not writable by our own rules.
    pub const CLASSES: [&str; 3] = ["partner_center", "dynamics", "rules"];
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.side {
            Some(side) => write!(f, "{side}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}
