//! What is derived from an entry: where it is found, and what it counts as.

use std::collections::BTreeMap;

use crate::model::{Cause, Entry, LeadId, ReferralStatus, Standing, Timestamp};
use crate::ports::Counters;

/// Under which marks an entry is found. Both stores keep their indices by these and by nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// The lead it speaks for. An entry that lost its claim (`LeadTaken`) is not found by the lead.
    pub(super) lead: Option<LeadId>,
    /// Look again at this instant.
    pub(super) due: Option<Timestamp>,
    /// Last known update of the referral.
    pub(super) updated: Option<Timestamp>,
    /// When it expires unanswered.
    pub(super) deadline: Option<Timestamp>,
}

impl Marks {
    /// The marks of an entry.
    pub(super) fn of(entry: &Entry) -> Self {
        let lead = match entry.standing {
            Standing::LeadTaken => None,
            Standing::Pending
            | Standing::Linked
            | Standing::OutOfScope
            | Standing::ClosedUnlinked
            | Standing::LeadGone => entry.link.as_ref().map(|link| link.lead),
        };
        let is_waiting = is_unanswered(entry);
        let deadline = entry.deadline.filter(|_| is_waiting);
        Marks { lead, due: entry.look_at, updated: entry.referral_updated, deadline }
    }
}

/// It is New, in scope and waits for our answer.
fn is_unanswered(entry: &Entry) -> bool {
    entry.referral_status == ReferralStatus::New && entry.standing != Standing::OutOfScope
}

/// What changes in the counters when entries come and go. Causes are kept apart, as there may be many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// All entries.
    pub(super) entries: i64,
    /// By standing.
    pub(super) by_standing: BTreeMap<Standing, i64>,
    /// In trouble and still tried.
    pub(super) retrying: i64,
    /// By bit of `Entry::holds`.
    pub(super) holds: BTreeMap<u8, i64>,
    /// New and unanswered.
    pub(super) unanswered: i64,
    /// Dead letters by cause.
    pub(super) dead_letters: BTreeMap<Cause, i64>,
}

impl Tally {
    /// Counts an entry in.
    pub(super) fn add(&mut self, entry: &Entry) {
        self.count(entry, 1);
    }

    /// Counts an entry out.
    pub(super) fn remove(&mut self, entry: &Entry) {
        self.count(entry, -1);
    }

    fn count(&mut self, entry: &Entry, by: i64) {
        self.entries += by;
        *self.by_standing.entry(entry.standing).or_default() += by;
        for bit in (0..32u8).filter(|bit| entry.holds & (1 << bit) != 0) {
            *self.holds.entry(bit).or_default() += by;
        }
        if is_unanswered(entry) {
            self.unanswered += by;
        }
        match &entry.trouble {
            Some(trouble) if trouble.is_dead_letter => {
                *self.dead_letters.entry(trouble.cause.clone()).or_default() += by;
            }
            Some(_) => self.retrying += by,
            None => {}
        }
    }

    /// The counters after this change.
    pub(super) fn applied_to(&self, mut counters: Counters) -> Counters {
        counters.entries = moved(counters.entries, self.entries);
        counters.retrying = moved(counters.retrying, self.retrying);
        for (standing, by) in &self.by_standing {
            let count = counters.by_standing.entry(*standing).or_default();
            *count = moved(*count, *by);
        }
        counters.unanswered = moved(counters.unanswered, self.unanswered);
        for (bit, by) in &self.holds {
            let count = counters.holds.entry(*bit).or_default();
            *count = moved(*count, *by);
        }
        for (cause, by) in &self.dead_letters {
            let count = counters.dead_letters.entry(cause.clone()).or_default();
            *count = moved(*count, *by);
        }
        counters.holds.retain(|_, count| *count > 0);
        counters.by_standing.retain(|_, count| *count > 0);
        counters.dead_letters.retain(|_, count| *count > 0);
        counters
    }
}

/// A count moved by a difference; it never goes below zero.
pub(super) fn moved(count: u64, by: i64) -> u64 {
    count.saturating_add_signed(by)
}
