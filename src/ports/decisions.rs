//! What people decided, the brakes that wait for a decision, and how long a service wants to be left alone: what no service
//! can give back.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use serde::{Deserialize, Serialize};

use crate::model::{ReferralId, Side, Timestamp};

/// Operator decisions, latched brakes and closed windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decisions {
    /// Writing is suspended by an operator.
    pub is_suspended: bool,
    /// Referrals an operator put on hold.
    pub held: BTreeSet<ReferralId>,
    /// Latched brakes by name, with what they hold back.
    pub brakes: BTreeMap<String, LatchedBrake>,
    /// Digests of sets that were approved and are not sent yet.
    pub approved: BTreeSet<String>,
    /// What is not done yet of approved sets, by brake, as [`crate::plan::brakes::line`] names it: a large set takes several
    /// passes, and what is new meanwhile is no part of it.
    pub let_go: BTreeMap<String, BTreeSet<String>>,
    /// Instants of the last hour's closings, for the hourly brake.
    pub closings: Vec<Timestamp>,
    /// Instants of the last hour's acceptances, for the hourly brake.
    pub acceptances: Vec<Timestamp>,
    /// Instants at which, in the last hour, a lead was taken for deleted without an approval.
    pub vanished: Vec<Timestamp>,
    /// The last rewrite that was asked for.
    pub backfill: Option<Backfill>,
    /// Tombstones of referrals that were forgotten: keyed hashes of their ids. They are not imported again.
    pub forgotten: BTreeSet<u64>,
    /// Until when a service asked us not to send anything: it says so once, and whoever sends all the same waits longer.
    /// Windows that are over may still stand here.
    pub closed_until: BTreeMap<Side, Timestamp>,
}

impl Decisions {
    /// The tombstone of a referral under the fingerprint key.
    pub fn tombstone(key: &[u8; 16], id: ReferralId) -> u64 {
        let mut hasher = siphasher::sip::SipHasher24::new_with_key(key);
        hasher.write(b"forgotten referral");
        hasher.write(id.uuid().as_bytes());
        hasher.finish()
    }

    /// An operator had this referral forgotten.
    pub fn has_forgotten(&self, key: &[u8; 16], id: ReferralId) -> bool {
        !self.forgotten.is_empty() && self.forgotten.contains(&Decisions::tombstone(key, id))
    }
}

/// A rewrite of leads after a change of mapping, asked for by an operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backfill {
    /// When it was asked for; tells it from others.
    pub asked: Timestamp,
    /// Which groups it rewrites.
    pub groups: Groups,
    /// The name of the one group; `None` for all.
    pub group: Option<String>,
    /// Its sweep has begun; a restart goes on with it.
    pub is_begun: bool,
    /// Sweeps begun so far.
    pub rounds: u32,
    /// Leads rewritten so far.
    pub written: u64,
    /// Leads that the sweep under way wanted to rewrite and could not, or not yet.
    pub left: u64,
    /// Somebody looked at the sample and let the rest go.
    pub is_approved: bool,
    /// When it was over; kept so that `status` can tell.
    pub finished: Option<Timestamp>,
}

/// Which mapping groups something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Groups {
    /// Every group.
    All,
    /// The group with this key.
    One(u32),
}

impl Groups {
    /// True for a group it is about.
    pub fn contains(self, key: u32) -> bool {
        match self {
            Groups::All => true,
            Groups::One(one) => one == key,
        }
    }
}

/// A change to the decisions; it sees them as they are at that moment.
pub type DecisionChange = Box<dyn FnOnce(&mut Decisions) + Send>;

/// A brake that holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatchedBrake {
    /// Since when.
    pub since: Timestamp,
    /// How many actions it holds back.
    pub count: u64,
    /// The limit that was exceeded.
    pub limit: u64,
    /// Digest of the exact set: `approve` names it.
    pub digest: String,
    /// One sentence for people.
    pub reason: String,
    /// The side whose answers latched it, where another answer of the same side may release it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
}
