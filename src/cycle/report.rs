//! What a cycle tells about itself. No personal data: ids, counts and our own sentences.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{ReferralId, Side, Timestamp};
use crate::ports::ActionKind;

/// What came of one cycle.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// When it began.
    pub started: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Referrals read, each counted once.
    pub referrals_seen: u64,
    /// Leads read.
    pub leads_seen: u64,
    /// Writes done, by kind.
    pub done: BTreeMap<ActionKind, u64>,
    /// Writes that failed for the referral's own reason, by kind.
    pub failed: BTreeMap<ActionKind, u64>,
    /// Rows left for a later cycle: out of budget, a side is down, a closing that has not settled, a conflict that lasts.
    pub pending: u64,
    /// Closings among `pending` that only wait for their settle time.
    pub settling: u64,
    /// Differences left alone, by the name of the hold.
    pub holds: BTreeMap<String, u64>,
    /// Columns that are left out, by column and reason: how many referrals it has concerned.
    ///
    /// What does not fit the organization at all concerns every referral with a lead; what does not fit a value is counted
    /// when a referral is first met with it, until none has such a hold any more.
    pub left_out: BTreeMap<String, u64>,
    /// Brakes that hold, by name: a sentence each.
    pub brakes: BTreeMap<String, String>,
    /// Trouble that concerns a whole side: a sentence each.
    pub sides: BTreeMap<Side, String>,
    /// Sign-in trouble that a person must mend, among `sides`.
    pub needs_human: bool,
    /// Requests sent, by side, retries included.
    pub requests: BTreeMap<Side, u64>,
    /// Daily request budgets that are nearly or wholly used up: a sentence each.
    pub budgets: BTreeMap<Side, String>,
    /// Background scans under way: a sentence each.
    pub progress: Vec<String>,
    /// Everything that was due has been read to its end.
    pub is_complete: bool,
    /// Writing was off, suspended or stopped.
    pub writes_stopped: Option<String>,
    /// An operator wants that nothing is written: `writes = "off"`, or `suspend`.
    pub is_stop_wanted: bool,
    /// The last writes that were tried, the oldest first, at most [`RECENT_MAX`]. Not part of what is stored.
    #[serde(skip)]
    pub recent: std::collections::VecDeque<Tried>,
}

/// How many of the last writes a report keeps.
pub const RECENT_MAX: usize = 20;

/// Longest sentence about a write that is kept, in characters.
const SENTENCE_CHARS_MAX: usize = 240;

/// One write that was tried, and why. No values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// When it was answered.
    pub at: Timestamp,
    /// The referral it is about.
    pub referral: ReferralId,
    /// What was done.
    pub kind: String,
    /// What and why, as the plan says it: ids, columns and rules.
    pub text: String,
    /// What went wrong, as the history says it; `None` when it was done.
    pub fault: Option<String>,
}

impl Report {
    /// Writes done, all kinds.
    pub fn writes(&self) -> u64 {
        self.done.values().sum()
    }

    /// Notes a write that was tried; the oldest makes place.
    pub fn note(&mut self, at: Timestamp, referral: ReferralId, kind: ActionKind, text: &str, fault: Option<&str>) {
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        let mut short: String = text.chars().take(SENTENCE_CHARS_MAX).collect();
        if short.len() < text.len() {
            short.push('…');
        }
        let fault = fault.map(str::to_owned);
        self.recent.push_back(Tried { at, referral, kind: kind.to_string(), text: short, fault });
    }

    /// Failures, all kinds.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// What the next cycle would do: the same path, stopped after the plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Forecast {
    /// Writes that would be sent, as sentences, in order.
    pub actions: Vec<Sentence>,
    /// Differences that are left alone, as sentences.
    pub holds: Vec<Sentence>,
    /// Columns that are left out, as [`Report::left_out`].
    pub left_out: BTreeMap<String, u64>,
    /// Brakes that hold or would trip.
    pub brakes: BTreeMap<String, String>,
    /// None of the actions would be sent now: brakes hold all of them.
    #[serde(default)]
    pub is_held: bool,
    /// Trouble that concerns a whole side.
    pub sides: BTreeMap<Side, String>,
    /// Sign-in trouble that a person must mend.
    pub needs_human: bool,
    /// Requests spent.
    pub requests: BTreeMap<Side, u64>,
}

/// One line of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sentence {
    /// The referral it is about.
    pub referral: String,
    /// Name of the kind of action or hold, for grouping.
    pub kind: String,
    /// The sentence: ids, columns, rule and configuration key; no values.
    pub text: String,
}
