//! Reading the ledger. Every read is a few microseconds and takes no lock of ours.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::PoisonError;

use ::sled::IVec;

use super::codec::{Failure, array_at, join, referral_at, sortable, unseal, unsortable};
use super::entry;
use super::failure::from_sled;
use super::ledger::{Ledger, LineV1, TallyV1};
use crate::model::{Cause, Entry, LeadId, ReferralId, Timestamp};
use crate::ports::{Counters, HistoryLine, IntendedAction, Intent, Memo, Pruned};
use crate::store::{NEWEST_MAX, lock};

impl Ledger {
    /// One entry.
    pub(super) fn get(&self, id: ReferralId) -> Result<Option<Entry>, Failure> {
        let bytes = self.entries.get(id.uuid().as_bytes()).map_err(|error| from_sled(&error))?;
        bytes.map(|bytes| self.decode(&bytes)).transpose()
    }

    /// Decodes an entry.
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<Entry, Failure> {
        entry::decode(bytes, &self.shapes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The referral that a lead speaks for.
    pub(super) fn by_lead(&self, lead: LeadId) -> Result<Option<ReferralId>, Failure> {
        let first = self.leads.scan_prefix(lead.uuid().as_bytes()).keys().next();
        let first = first.transpose().map_err(|error| from_sled(&error))?;
        first.map(|key| referral_at("a lead's line", &key, 16)).transpose()
    }

    /// A page of entries in key order.
    pub(super) fn scan(&self, after: Option<ReferralId>, limit: usize) -> Result<Vec<(ReferralId, Entry)>, Failure> {
        let after = after.map(ReferralId::uuid);
        let from = after.as_ref().map_or(Bound::Unbounded, |id| Bound::Excluded(&id.as_bytes()[..]));
        let page = self.entries.range::<&[u8], _>((from, Bound::Unbounded)).take(limit);
        page.map(|item| {
            let (key, value) = item.map_err(|error| from_sled(&error))?;
            Ok((referral_at("an entry", &key, 0)?, self.decode(&value)?))
        })
        .collect()
    }

    /// Due referrals, earliest first.
    pub(super) fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<ReferralId>, Failure> {
        let end = join(&[&sortable(now), &[0xff; 17]]);
        let due = self.due.range::<&[u8], _>(..=&end[..]).keys().take(limit);
        due.map(|key| referral_at("a due line", &key.map_err(|error| from_sled(&error))?, 8)).collect()
    }

    /// Referrals that were updated last, newest first.
    pub(super) fn newest(&self, limit: usize) -> Result<Vec<ReferralId>, Failure> {
        let newest = self.newest.iter().keys().take(limit.min(NEWEST_MAX));
        newest
            .map(|key| {
                let key = key.map_err(|error| from_sled(&error))?;
                let id: [u8; 16] = array_at("a newest line", &key, 8)?;
                Ok(ReferralId::new(uuid::Uuid::from_bytes(id.map(|byte| !byte))))
            })
            .collect()
    }

    /// Deadlines of unanswered referrals up to an instant, the next first.
    pub(super) fn deadlines(&self, until: Timestamp, limit: usize) -> Result<Vec<(ReferralId, Timestamp)>, Failure> {
        let end = join(&[&sortable(until), &[0xff; 17]]);
        let lines = self.deadlines.range::<&[u8], _>(..=&end[..]).keys().take(limit);
        lines
            .map(|key| {
                let key = key.map_err(|error| from_sled(&error))?;
                Ok((referral_at("a deadline", &key, 8)?, unsortable(array_at("a deadline", &key, 0)?)))
            })
            .collect()
    }

    /// The memo.
    pub(super) fn memo(&self) -> Result<Memo, Failure> {
        let memo = self.meta_value("memo")?.map(|bytes| unseal("the memo", &bytes));
        memo.transpose().map(Option::unwrap_or_default)
    }

    /// The counters without causes.
    pub(super) fn tally(&self) -> Result<TallyV1, Failure> {
        let tally = self.meta_value("tally")?.map(|bytes| unseal("the counters", &bytes));
        tally.transpose().map(Option::unwrap_or_default)
    }

    /// The counters.
    pub(super) fn counters(&self) -> Result<Counters, Failure> {
        let TallyV1 { entries, by_standing, retrying, holds, unanswered, intended: _ } = self.tally()?;
        let mut dead_letters = BTreeMap::new();
        for item in self.causes.iter() {
            let (key, value) = item.map_err(|error| from_sled(&error))?;
            dead_letters.insert(unseal::<Cause>("a cause", &key)?, unseal::<u64>("a cause", &value)?);
        }
        Ok(Counters { entries, by_standing, dead_letters, retrying, holds, unanswered })
    }

    /// Intents whose outcome is not known, oldest first.
    pub(super) fn intents(&self) -> Result<Vec<Intent>, Failure> {
        let mut intents: Vec<Intent> = Vec::new();
        for item in self.intents.iter() {
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

    /// History of one referral, oldest first.
    pub(super) fn history(&self, id: ReferralId) -> Result<Vec<HistoryLine>, Failure> {
        let lines = self.history.scan_prefix(id.uuid().as_bytes()).values();
        lines
            .map(|value| {
                let LineV1 { at, kind, outcome } =
                    unseal("a history line", &value.map_err(|error| from_sled(&error))?)?;
                Ok(HistoryLine { referral: id, at, kind, outcome })
            })
            .collect()
    }

    /// Removes old history lines, a bounded piece at a time. Needs no barrier: what comes back is pruned again.
    pub(super) fn prune_history(&self, before: Timestamp, limit: usize) -> Result<Pruned, Failure> {
        let mut pruned_to = lock(&self.pruned_to);
        let from = pruned_to.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(&key[..]));
        let mut batch = ::sled::Batch::default();
        let (mut looked_at, mut removed, mut last) = (0, 0, None);
        for item in self.history.range::<&[u8], _>((from, Bound::Unbounded)).take(limit) {
            let (key, value) = item.map_err(|error| from_sled(&error))?;
            looked_at += 1;
            // A line that cannot be read is of no use to anyone: it goes with the old ones.
            if unseal::<LineV1>("a history line", &value).map_or(true, |line| line.at < before) {
                batch.remove(&key);
                removed += 1;
            }
            last = Some(key);
        }
        self.history.apply_batch(batch).map_err(|error| from_sled(&error))?;
        let is_complete = looked_at < limit;
        *pruned_to = if is_complete { None } else { last };
        Ok(Pruned { removed, is_complete })
    }

    /// One value of the meta tree.
    pub(super) fn meta_value(&self, key: &str) -> Result<Option<IVec>, Failure> {
        self.meta.get(key).map_err(|error| from_sled(&error))
    }
}
