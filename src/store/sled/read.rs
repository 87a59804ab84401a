//! Reading the ledger. Looking up takes a few microseconds and no lock of ours, except for the history.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::PoisonError;

use super::bucket::{self, items_after};
use super::codec::{Failure, array_at, join, seal, sortable, unseal, unseal_grown};
use super::entry;
use super::failure::from_sled;
use super::ledger::{LeadLines, Ledger, LineV1, Name, TallyV1, instant_line, lead_bucket, newest_line};
use crate::model::{Cause, Entry, LeadId, ReferralId, Timestamp};
use crate::ports::{Counters, HistoryLine, IntendedAction, Intent, Memo, Pruned};
use crate::store::{NEWEST_MAX, lock};

/// Fields that the memo got in format 3: change tracking, what a sweep has met, its last page, and leads without the
/// referral id.
pub(super) const MEMO_GROWN: usize = 4;

impl Ledger {
    /// One entry.
    pub(super) fn get(&self, id: ReferralId) -> Result<Option<Entry>, Failure> {
        let Some((_, bytes)) = bucket::find(self.tree(Name::Entries), id)? else { return Ok(None) };
        for item in bucket::items(&bytes) {
            let (found, sealed) = item?;
            if found == id {
                return self.decode(sealed).map(Some);
            }
        }
        Ok(None)
    }

    /// Decodes an entry.
    pub(super) fn decode(&self, sealed: &[u8]) -> Result<Entry, Failure> {
        entry::decode(sealed, &self.shapes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The referral that a lead speaks for.
    pub(super) fn by_lead(&self, lead: LeadId) -> Result<Option<ReferralId>, Failure> {
        let found = self.lead_lines(lead)?.into_iter().find(|(found, _)| *found == lead);
        Ok(found.map(|(_, referral)| referral))
    }

    /// The lines of the bucket that a lead belongs to.
    pub(super) fn lead_lines(&self, lead: LeadId) -> Result<LeadLines, Failure> {
        let bytes = self.tree(Name::Leads).get(lead_bucket(lead)).map_err(|error| from_sled(&error))?;
        bytes.map_or_else(|| Ok(LeadLines::new()), |bytes| unseal("a lead's line", &bytes))
    }

    /// A page of entries in key order.
    pub(super) fn scan(&self, after: Option<ReferralId>, limit: usize) -> Result<Vec<(ReferralId, Entry)>, Failure> {
        self.entries_after(after).take(limit).collect()
    }

    /// All entries in key order.
    pub(super) fn entries_after(
        &self,
        after: Option<ReferralId>,
    ) -> impl Iterator<Item = Result<(ReferralId, Entry), Failure>> + use<'_> {
        let items = items_after(self.tree(Name::Entries), after);
        items.map(|item| item.and_then(|(id, sealed)| Ok((id, self.decode(&sealed)?))))
    }

    /// Due referrals, earliest first.
    pub(super) fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<ReferralId>, Failure> {
        self.lines_until(Name::Due, now, limit).map(|line| line.map(|(_, id)| id)).collect()
    }

    /// Referrals that were updated last, newest first.
    pub(super) fn newest(&self, limit: usize) -> Result<Vec<ReferralId>, Failure> {
        let newest = self.tree(Name::Newest).iter().keys().take(limit.min(NEWEST_MAX));
        newest.map(|key| Ok(newest_line(&key.map_err(|error| from_sled(&error))?)?.1)).collect()
    }

    /// Deadlines of unanswered referrals up to an instant, the next first.
    pub(super) fn deadlines(&self, until: Timestamp, limit: usize) -> Result<Vec<(ReferralId, Timestamp)>, Failure> {
        let lines = self.lines_until(Name::Deadlines, until, limit);
        lines.map(|line| line.map(|(deadline, id)| (id, deadline))).collect()
    }

    /// Lines of an index by instant, the earliest first.
    fn lines_until(
        &self,
        index: Name,
        until: Timestamp,
        limit: usize,
    ) -> impl Iterator<Item = Result<(Timestamp, ReferralId), Failure>> + use<> {
        let end = join(&[&sortable(until), &[0xff; 17]]);
        let keys = self.tree(index).range::<&[u8], _>(..=&end[..]).keys().take(limit);
        keys.map(|key| instant_line(&key.map_err(|error| from_sled(&error))?))
    }

    /// The memo.
    pub(super) fn memo(&self) -> Result<Memo, Failure> {
        let memo = self.meta("memo")?.map(|bytes| unseal_grown("the memo", &bytes, MEMO_GROWN));
        memo.transpose().map(Option::unwrap_or_default)
    }

    /// The counters without causes.
    pub(super) fn tally(&self) -> Result<TallyV1, Failure> {
        let tally = self.meta("tally")?.map(|bytes| unseal("the counters", &bytes));
        tally.transpose().map(Option::unwrap_or_default)
    }

    /// The counters.
    pub(super) fn counters(&self) -> Result<Counters, Failure> {
        let TallyV1 { entries, by_standing, retrying, holds, unanswered, .. } = self.tally()?;
        let mut dead_letters = BTreeMap::new();
        for item in self.tree(Name::Causes).iter() {
            let (key, value) = item.map_err(|error| from_sled(&error))?;
            dead_letters.insert(unseal::<Cause>("a cause", &key)?, unseal::<u64>("a cause", &value)?);
        }
        Ok(Counters { entries, by_standing, dead_letters, retrying, holds, unanswered })
    }

    /// Intents whose outcome is not known, oldest first.
    pub(super) fn intents(&self) -> Result<Vec<Intent>, Failure> {
        let mut intents: Vec<Intent> = Vec::new();
        for item in self.tree(Name::Intents).iter() {
            let (key, value) = item.map_err(|error| from_sled(&error))?;
            let commit = u64::from_be_bytes(array_at("an intent", &key, 0)?);
            let action: IntendedAction = unseal("an intent", &value)?;
            match intents.last_mut() {
                Some(intent) if intent.commit == commit => intent.actions.push(action),
                Some(_) | None => intents.push(Intent { commit, actions: vec![action] }),
            }
        }
        Ok(intents)
    }

    /// History of one referral, oldest first. Reads the whole history: an index would cost more than it is worth.
    pub(super) fn history(&self, id: ReferralId) -> Result<Vec<HistoryLine>, Failure> {
        let mut told = Vec::new();
        for value in self.tree(Name::History).iter().values() {
            let lines: Vec<LineV1> = unseal("a history line", &value.map_err(|error| from_sled(&error))?)?;
            let ours = lines.into_iter().filter(|line| line.referral == id);
            told.extend(ours.map(|LineV1 { referral, at, kind, outcome }| HistoryLine { referral, at, kind, outcome }));
        }
        Ok(told)
    }

    /// Removes old history lines, a bounded piece at a time. Needs no barrier: what comes back is pruned again.
    pub(super) fn prune_history(&self, before: Timestamp, limit: usize) -> Result<Pruned, Failure> {
        let _writing = lock(&self.writing);
        let mut pruned_to = lock(&self.pruned_to);
        let mut pruned = Pruned { removed: 0, is_complete: true };
        let mut batch = ::sled::Batch::default();
        let mut looked_at = 0;
        let from = pruned_to.take().map_or(Bound::Unbounded, Bound::Excluded);
        for item in self.tree(Name::History).range((from, Bound::Unbounded)) {
            let (key, value) = item.map_err(|error| from_sled(&error))?;
            // Lines that cannot be read are of no use to anyone: they go with the old ones.
            let lines: Vec<LineV1> = unseal("a history line", &value).unwrap_or_default();
            let young: Vec<LineV1> = lines.iter().filter(|line| line.at >= before).cloned().collect();
            if !lines.is_empty() && young.len() == lines.len() {
                // History is in the order of time: the rest is young, too.
                break;
            }
            match young.is_empty() {
                true => batch.remove(&key),
                false => batch.insert(&key, seal(&young)),
            }
            pruned.removed += lines.len() - young.len();
            looked_at += lines.len().max(1);
            if looked_at >= limit {
                pruned.is_complete = false;
                *pruned_to = Some(key);
                break;
            }
        }
        self.tree(Name::History).apply_batch(batch).map_err(|error| from_sled(&error))?;
        Ok(pruned)
    }
}
