//! One change, worked out before it is written.
//!
//! There is one writer at a time, so everything is read and derived beforehand, and the transaction only writes. A
//! reader sees all of it or nothing.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::PoisonError;

use ::sled::transaction::{ConflictableTransactionError, TransactionError, Transactional, TransactionalTree};

use super::bucket::Buckets;
use super::codec::{FORMAT, Failure, instant_key, join, referral_at, seal, seal_key, unseal};
use super::entry;
use super::failure::from_sled;
use super::ledger::{LeadLines, Ledger, LineV1, Name, TallyV1, lead_bucket, newest_key, newest_line};
use crate::model::{LeadId, ReferralId, Timestamp};
use crate::ports::{Batch, Counters, HistoryLine, IntendedAction, Memo};
use crate::store::index::{Marks, Tally, moved};
use crate::store::{NEWEST_MAX, OUTCOME_BYTES_MAX, cut};

/// A memo over this loses its last report: sled keeps larger values in files that it never syncs.
const MEMO_BYTES_MAX: usize = 64 * 1024;

/// History lines under one key.
const HISTORY_LINES: usize = 50;

/// Of the newest referrals this many are indexed at most …
const NEWEST_LINES_MAX: u64 = 4 * NEWEST_MAX as u64;

/// … and this many are left when it gets to be more.
const NEWEST_LINES: usize = 2 * NEWEST_MAX;

/// What to write, by tree and key; `None` removes.
pub(super) struct Draft<'a> {
    ledger: &'a Ledger,
    commit: u64,
    writes: BTreeMap<Name, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    kept: TallyV1,
}

impl<'a> Draft<'a> {
    /// An empty change that will have this commit number.
    pub(super) fn new(ledger: &'a Ledger, commit: u64) -> Result<Self, Failure> {
        Ok(Draft { ledger, commit, writes: BTreeMap::new(), kept: ledger.tally()? })
    }

    /// Adds what a caller records.
    pub(super) fn record(&mut self, batch: &Batch) -> Result<(), Failure> {
        self.entries(&batch.entries)?;
        self.settle(&batch.settled)?;
        self.tell(&batch.history);
        if let Some(memo) = &batch.memo {
            self.memo(memo);
        }
        Ok(())
    }

    /// Adds actions that are about to be sent.
    pub(super) fn intend(&mut self, actions: &[IntendedAction]) {
        for (position, action) in (0u32..).zip(actions) {
            let id = action.referral.uuid();
            let key = join(&[&self.commit.to_be_bytes(), &position.to_be_bytes(), id.as_bytes()]);
            self.put(Name::Intents, key, Some(seal(action)));
        }
        self.kept.intended += actions.len() as u64;
    }

    /// Adds the removal of every trace of a referral.
    pub(super) fn forget(&mut self, id: ReferralId) -> Result<(), Failure> {
        self.entries(&[(id, None)])?;
        let intents: Vec<(u64, ReferralId)> = self.ledger.intents()?.iter().map(|intent| (intent.commit, id)).collect();
        self.settle(&intents)?;
        for item in self.ledger.tree(Name::History).iter() {
            let (key, value) = item.map_err(|error| from_sled(&error))?;
            let mut lines: Vec<LineV1> = unseal("a history line", &value)?;
            let count = lines.len();
            lines.retain(|line| line.referral != id);
            if lines.len() < count {
                self.put(Name::History, key.to_vec(), (!lines.is_empty()).then(|| seal(&lines)));
            }
        }
        Ok(())
    }

    /// Adds the stamps of a new session.
    pub(super) fn begin(&mut self, key_stamp: [u8; 8], memo: &Memo) {
        self.put(Name::Meta, b"format".to_vec(), Some(FORMAT.to_be_bytes().to_vec()));
        self.put(Name::Meta, b"key".to_vec(), Some(key_stamp.to_vec()));
        self.memo(memo);
    }

    /// Adds the newest referrals of the whole ledger, after more of them went than the index had to spare.
    pub(super) fn refill_newest(&mut self) -> Result<(), Failure> {
        let mut newest = BTreeSet::new();
        let mut is_all = true;
        for item in self.ledger.entries_after(None) {
            let (id, entry) = item?;
            newest.extend(entry.referral_updated.map(|updated| (updated, id)));
            if newest.len() > NEWEST_LINES {
                newest.pop_first();
                is_all = false;
            }
        }
        self.kept.newest_floor = if is_all { None } else { newest.first().copied() };
        self.kept.newest = newest.len() as u64;
        for (updated, id) in newest {
            self.put(Name::Newest, newest_key(updated, id), Some(Vec::new()));
        }
        Ok(())
    }

    /// Bytes of the keys and values to write.
    pub(super) fn bytes(&self) -> u64 {
        let writes = self.writes.values().flatten();
        writes.map(|(key, value)| (key.len() + value.as_ref().map_or(0, Vec::len)) as u64).sum()
    }

    /// Writes everything in one transaction; returns true when the index of the newest has to be filled again.
    pub(super) fn commit(mut self) -> Result<bool, Failure> {
        self.trim_newest()?;
        let tally = seal(&self.kept);
        self.put(Name::Meta, b"tally".to_vec(), Some(tally));
        self.put(Name::Meta, b"commit".to_vec(), Some(self.commit.to_be_bytes().to_vec()));
        let trees: Vec<_> = self.writes.keys().map(|name| self.ledger.tree(*name)).collect();
        let written = trees[..].transaction(|trees: &Vec<TransactionalTree>| {
            for (tree, writes) in trees.iter().zip(self.writes.values()) {
                for (key, value) in writes {
                    match value {
                        Some(value) => tree.insert(&key[..], &value[..])?,
                        None => tree.remove(&key[..])?,
                    };
                }
            }
            Ok::<(), ConflictableTransactionError<()>>(())
        });
        match written {
            Ok(()) => {
                if self.writes.contains_key(&Name::Shapes) {
                    self.ledger.shapes.write().unwrap_or_else(PoisonError::into_inner).all_saved();
                }
                Ok(self.kept.newest < NEWEST_MAX as u64 && self.kept.newest_floor.is_some())
            }
            Err(TransactionError::Storage(error)) => Err(from_sled(&error)),
            Err(TransactionError::Abort(())) => Err(Failure::Disk("the transaction was given up".to_owned())),
        }
    }

    fn put(&mut self, tree: Name, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.writes.entry(tree).or_default().insert(key, value);
    }

    /// A value as it will be after this change.
    fn get(&self, tree: Name, key: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Failure> {
        if let Some(value) = self.writes.get(&tree).and_then(|writes| writes.get(key)) {
            return Ok(value.as_deref().map(Cow::Borrowed));
        }
        let value = self.ledger.tree(tree).get(key).map_err(|error| from_sled(&error))?;
        Ok(value.map(|value| Cow::Owned(value.to_vec())))
    }

    /// At most once in a change: buckets are taken as they are in the ledger.
    fn entries(&mut self, entries: &[(ReferralId, Option<crate::model::Entry>)]) -> Result<(), Failure> {
        let mut shapes = self.ledger.shapes.write().unwrap_or_else(PoisonError::into_inner);
        let mut buckets = Buckets::default();
        let mut tally = Tally::default();
        let mut marks = Vec::with_capacity(entries.len());
        for (id, entry) in entries {
            let encoded = entry.as_ref().map(|entry| entry::encode(*id, entry, &mut shapes)).transpose()?;
            let (new, bytes) = encoded.unzip();
            let old = buckets.put(self.ledger.tree(Name::Entries), *id, bytes)?;
            let old = old.map(|bytes| entry::decode(&bytes, &shapes)).transpose()?;
            old.as_ref().inspect(|entry| tally.remove(entry));
            new.as_deref().inspect(|entry| tally.add(entry));
            let before = old.as_ref().map(Marks::of).unwrap_or_default();
            let after = new.as_deref().map(Marks::of).unwrap_or_default();
            marks.push((*id, before, after));
        }
        let unsaved = shapes.unsaved();
        drop(shapes);
        for (number, shape) in unsaved {
            self.put(Name::Shapes, number.to_be_bytes().to_vec(), Some(seal(&*shape)));
        }
        self.writes.entry(Name::Entries).or_default().extend(buckets.into_writes());
        for (id, before, after) in marks {
            self.move_marks(id, before, after)?;
        }
        self.count(&tally)
    }

    fn move_marks(&mut self, id: ReferralId, before: Marks, after: Marks) -> Result<(), Failure> {
        if before.lead != after.lead {
            before.lead.map_or(Ok(()), |lead| self.change_lead(lead, id, false))?;
            after.lead.map_or(Ok(()), |lead| self.change_lead(lead, id, true))?;
        }
        self.change_instant(Name::Due, id, before.due, after.due);
        self.change_instant(Name::Deadlines, id, before.deadline, after.deadline);
        if before.updated != after.updated {
            before.updated.map_or(Ok(()), |updated| self.change_newest(updated, id, false))?;
            after.updated.map_or(Ok(()), |updated| self.change_newest(updated, id, true))?;
        }
        Ok(())
    }

    fn change_instant(&mut self, index: Name, id: ReferralId, before: Option<Timestamp>, after: Option<Timestamp>) {
        if before == after {
            return;
        }
        for (instant, value) in [(before, None), (after, Some(Vec::new()))] {
            if let Some(instant) = instant {
                self.put(index, instant_key(instant, id), value);
            }
        }
    }

    fn change_lead(&mut self, lead: LeadId, id: ReferralId, is_there: bool) -> Result<(), Failure> {
        let key = lead_bucket(lead);
        let lines = self.get(Name::Leads, &key)?.map(|bytes| unseal::<LeadLines>("a lead's line", &bytes));
        let mut lines = lines.transpose()?.unwrap_or_default();
        if is_there {
            lines.insert((lead, id));
        } else {
            lines.remove(&(lead, id));
        }
        self.put(Name::Leads, key.to_vec(), (!lines.is_empty()).then(|| seal(&lines)));
        Ok(())
    }

    /// Only referrals at or above the floor are indexed; below it nothing is, and nothing is needed.
    fn change_newest(&mut self, updated: Timestamp, id: ReferralId, is_there: bool) -> Result<(), Failure> {
        if self.kept.newest_floor.is_some_and(|floor| (updated, id) < floor) {
            return Ok(());
        }
        self.kept.newest = moved(self.kept.newest, if is_there { 1 } else { -1 });
        self.put(Name::Newest, newest_key(updated, id), is_there.then(Vec::new));
        Ok(())
    }

    fn trim_newest(&mut self) -> Result<(), Failure> {
        if self.kept.newest <= NEWEST_LINES_MAX {
            return Ok(());
        }
        let mut keys = BTreeSet::new();
        for key in self.ledger.tree(Name::Newest).iter().keys() {
            keys.insert(key.map_err(|error| from_sled(&error))?.to_vec());
        }
        for (key, value) in self.writes.get(&Name::Newest).into_iter().flatten() {
            match value {
                Some(_) => keys.insert(key.clone()),
                None => keys.remove(key),
            };
        }
        while keys.len() > NEWEST_LINES {
            let oldest = keys.pop_last().expect("it is longer than that");
            self.put(Name::Newest, oldest, None);
        }
        self.kept.newest = keys.len() as u64;
        self.kept.newest_floor = keys.last().map(|key| newest_line(key)).transpose()?;
        Ok(())
    }

    fn count(&mut self, tally: &Tally) -> Result<(), Failure> {
        let counters = Counters {
            entries: self.kept.entries,
            by_standing: std::mem::take(&mut self.kept.by_standing),
            retrying: self.kept.retrying,
            holds: std::mem::take(&mut self.kept.holds),
            unanswered: self.kept.unanswered,
            dead_letters: BTreeMap::new(),
        };
        let counters = tally.applied_to(counters);
        self.kept.entries = counters.entries;
        self.kept.by_standing = counters.by_standing;
        self.kept.retrying = counters.retrying;
        self.kept.holds = counters.holds;
        self.kept.unanswered = counters.unanswered;
        for (cause, by) in &tally.dead_letters {
            let key = seal_key(cause);
            let count = self.get(Name::Causes, &key)?.map(|bytes| unseal::<u64>("a cause", &bytes));
            let count = moved(count.transpose()?.unwrap_or_default(), *by);
            self.put(Name::Causes, key, (count > 0).then(|| seal(&count)));
        }
        Ok(())
    }

    fn settle(&mut self, settled: &[(u64, ReferralId)]) -> Result<(), Failure> {
        let settled: HashSet<(u64, ReferralId)> = settled.iter().copied().collect();
        let commits: BTreeSet<u64> = settled.iter().map(|(commit, _)| *commit).collect();
        for commit in commits {
            for key in self.ledger.tree(Name::Intents).scan_prefix(commit.to_be_bytes()).keys() {
                let key = key.map_err(|error| from_sled(&error))?;
                if settled.contains(&(commit, referral_at("an intent", &key, 12)?)) {
                    self.put(Name::Intents, key.to_vec(), None);
                    self.kept.intended = moved(self.kept.intended, -1);
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, lines: &[HistoryLine]) {
        for (position, lines) in (0u32..).zip(lines.chunks(HISTORY_LINES)) {
            let lines: Vec<LineV1> = lines
                .iter()
                .map(|HistoryLine { referral, at, kind, outcome }| LineV1 {
                    referral: *referral,
                    at: *at,
                    kind: *kind,
                    outcome: cut(outcome, OUTCOME_BYTES_MAX).to_owned(),
                })
                .collect();
            let key = join(&[&self.commit.to_be_bytes(), &position.to_be_bytes()]);
            self.put(Name::History, key, Some(seal(&lines)));
        }
    }

    fn memo(&mut self, memo: &Memo) {
        let bytes = seal(memo);
        let bytes =
            if bytes.len() <= MEMO_BYTES_MAX { bytes } else { seal(&Memo { last_report: None, ..memo.clone() }) };
        self.put(Name::Meta, b"memo".to_vec(), Some(bytes));
    }
}
