//! A ledger in memory: for simulations, demonstrations and throw-away runs. It keeps nothing when dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::index::{Marks, Tally};
use super::{NEWEST_MAX, OUTCOME_BYTES_MAX, cut, exports, lock};
use crate::model::{Entry, LeadId, ReferralId, Timestamp};
use crate::ports::{
    Batch, Check, Counters, DecisionChange, Decisions, ExportsKept, HistoryLine, IntendedAction, Intent, Memo, Opening,
    Pruned, StateStore, StoreError,
};

/// A ledger in memory.
#[derive(Debug)]
pub struct MemoryStore {
    ledger: Mutex<Ledger>,
    decisions: Mutex<Decisions>,
    key: [u8; 16],
    opening: Opening,
    export: Mutex<Option<Export>>,
}

/// What an export kept, in memory.
#[derive(Clone, Debug)]
struct Export {
    at: Timestamp,
    organization: Option<uuid::Uuid>,
    entries: BTreeMap<ReferralId, Entry>,
}

/// Everything that [`super::SledStore`] keeps in its trees.
#[derive(Clone, Debug, Default)]
struct Ledger {
    entries: BTreeMap<ReferralId, Entry>,
    by_lead: BTreeSet<(LeadId, ReferralId)>,
    due: BTreeSet<(Timestamp, ReferralId)>,
    newest: BTreeSet<(Timestamp, ReferralId)>,
    deadlines: BTreeSet<(Timestamp, ReferralId)>,
    counters: Counters,
    memo: Memo,
    intents: BTreeMap<u64, Vec<IntendedAction>>,
    history: BTreeMap<(ReferralId, u64), HistoryLine>,
    history_lines: u64,
    pruned_to: Option<(ReferralId, u64)>,
    commit: u64,
}

impl MemoryStore {
    /// An empty ledger whose fingerprints use `key`.
    pub fn new(key: [u8; 16]) -> Self {
        let memo = Memo { is_sweep_due: true, ..Memo::default() };
        MemoryStore {
            ledger: Mutex::new(Ledger { memo, ..Ledger::default() }),
            decisions: Mutex::default(),
            key,
            opening: Opening::Fresh,
            export: Mutex::default(),
        }
    }

    /// The store as the next process finds it: intact after a stop or a crash, empty but for decisions, key and commit
    /// number after the loss of the ledger.
    #[must_use]
    pub fn restarted(&self, is_ledger_lost: bool) -> Self {
        let mut ledger = lock(&self.ledger).clone();
        let export = lock(&self.export).clone();
        let opening = if is_ledger_lost {
            let opening = Opening::TailLost { expected: ledger.commit, found: 0 };
            ledger = Ledger { commit: ledger.commit, ..Ledger::default() };
            ledger.memo.crm_organization = export.as_ref().and_then(|export| export.organization);
            ledger.memo.lead_reading = Some(None);
            opening
        } else if ledger.memo.is_stopped_cleanly {
            Opening::Clean
        } else {
            Opening::Unclean
        };
        ledger.memo.is_stopped_cleanly = false;
        ledger.memo.is_sweep_due |= opening != Opening::Clean;
        ledger.pruned_to = None;
        let decisions = lock(&self.decisions).clone();
        MemoryStore {
            ledger: Mutex::new(ledger),
            decisions: Mutex::new(decisions),
            key: self.key,
            opening,
            export: Mutex::new(export),
        }
    }
}

impl MemoryStore {
    /// The store as the next process finds it when the newest records are missing: the ledger is that of `earlier`, a
    /// former state of this store, and its entries are only recalled.
    #[must_use]
    pub fn rolled_back(&self, earlier: &MemoryStore) -> Self {
        let mut ledger = lock(&earlier.ledger).clone();
        let expected = lock(&self.ledger).commit;
        let opening = Opening::TailLost { expected, found: ledger.commit };
        ledger.commit = expected;
        ledger.intents.clear();
        for (id, entry) in ledger.entries.clone() {
            ledger.put(id, Some(entry.recalled(Timestamp::EPOCH)));
        }
        ledger.memo.is_stopped_cleanly = false;
        ledger.memo.is_sweep_due = true;
        ledger.memo.sweep = None;
        ledger.memo.lead_reading = Some(None);
        ledger.pruned_to = None;
        let decisions = lock(&self.decisions).clone();
        let export = lock(&self.export).clone();
        MemoryStore {
            ledger: Mutex::new(ledger),
            decisions: Mutex::new(decisions),
            key: self.key,
            opening,
            export: Mutex::new(export),
        }
    }
}

impl Ledger {
    fn put(&mut self, id: ReferralId, entry: Option<Entry>) {
        let mut tally = Tally::default();
        let old = match &entry {
            Some(entry) => self.entries.insert(id, entry.clone()),
            None => self.entries.remove(&id),
        };
        if let Some(old) = old {
            tally.remove(&old);
            let marks = Marks::of(&old);
            marks.lead.map(|lead| self.by_lead.remove(&(lead, id)));
            marks.due.map(|due| self.due.remove(&(due, id)));
            marks.updated.map(|updated| self.newest.remove(&(updated, id)));
            marks.deadline.map(|deadline| self.deadlines.remove(&(deadline, id)));
        }
        if let Some(entry) = entry {
            tally.add(&entry);
            let marks = Marks::of(&entry);
            marks.lead.map(|lead| self.by_lead.insert((lead, id)));
            marks.due.map(|due| self.due.insert((due, id)));
            marks.updated.map(|updated| self.newest.insert((updated, id)));
            marks.deadline.map(|deadline| self.deadlines.insert((deadline, id)));
        }
        self.counters = tally.applied_to(std::mem::take(&mut self.counters));
    }

    fn settle(&mut self, commit: u64, referral: ReferralId) {
        if let Some(actions) = self.intents.get_mut(&commit) {
            actions.retain(|action| action.referral != referral);
            if actions.is_empty() {
                self.intents.remove(&commit);
            }
        }
    }

    fn tell(&mut self, mut line: HistoryLine) {
        line.outcome = cut(&line.outcome, OUTCOME_BYTES_MAX).to_owned();
        self.history_lines += 1;
        self.history.insert((line.referral, self.history_lines), line);
    }
}

#[async_trait]
impl StateStore for MemoryStore {
    fn get(&self, id: ReferralId) -> Result<Option<Entry>, StoreError> {
        Ok(lock(&self.ledger).entries.get(&id).cloned())
    }

    fn by_lead(&self, lead: LeadId) -> Result<Option<ReferralId>, StoreError> {
        let first = (lead, ReferralId::new(uuid::Uuid::nil()));
        let found = lock(&self.ledger).by_lead.range(first..).next().copied();
        Ok(found.filter(|(found, _)| *found == lead).map(|(_, referral)| referral))
    }

    fn scan(&self, after: Option<ReferralId>, limit: usize) -> Result<Vec<(ReferralId, Entry)>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ledger = lock(&self.ledger);
        let page = ledger.entries.range((from, Bound::Unbounded)).take(limit);
        Ok(page.map(|(id, entry)| (*id, entry.clone())).collect())
    }

    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<ReferralId>, StoreError> {
        let ledger = lock(&self.ledger);
        Ok(ledger.due.iter().take_while(|(due, _)| *due <= now).take(limit).map(|(_, id)| *id).collect())
    }

    fn newest(&self, limit: usize) -> Result<Vec<ReferralId>, StoreError> {
        Ok(lock(&self.ledger).newest.iter().rev().take(limit.min(NEWEST_MAX)).map(|(_, id)| *id).collect())
    }

    fn deadlines(&self, until: Timestamp, limit: usize) -> Result<Vec<(ReferralId, Timestamp)>, StoreError> {
        let ledger = lock(&self.ledger);
        let lines = ledger.deadlines.iter().take_while(|(at, _)| *at <= until).take(limit);
        Ok(lines.map(|(at, id)| (*id, *at)).collect())
    }

    fn memo(&self) -> Result<Memo, StoreError> {
        Ok(lock(&self.ledger).memo.clone())
    }

    fn counters(&self) -> Result<Counters, StoreError> {
        Ok(lock(&self.ledger).counters.clone())
    }

    fn intents(&self) -> Result<Vec<Intent>, StoreError> {
        let ledger = lock(&self.ledger);
        Ok(ledger
            .intents
            .iter()
            .map(|(commit, actions)| Intent { commit: *commit, actions: actions.clone() })
            .collect())
    }

    async fn intend(&self, actions: Vec<IntendedAction>) -> Result<u64, StoreError> {
        let mut ledger = lock(&self.ledger);
        ledger.commit += 1;
        let commit = ledger.commit;
        if !actions.is_empty() {
            ledger.intents.insert(commit, actions);
        }
        Ok(commit)
    }

    async fn record(&self, batch: Batch) -> Result<(), StoreError> {
        let mut ledger = lock(&self.ledger);
        ledger.commit += 1;
        for (id, entry) in batch.entries {
            ledger.put(id, entry);
        }
        for (commit, referral) in batch.settled {
            ledger.settle(commit, referral);
        }
        for line in batch.history {
            ledger.tell(line);
        }
        if let Some(memo) = batch.memo {
            ledger.memo = memo;
        }
        Ok(())
    }

    fn history(&self, id: ReferralId) -> Result<Vec<HistoryLine>, StoreError> {
        let ledger = lock(&self.ledger);
        Ok(ledger.history.range((id, 0)..=(id, u64::MAX)).map(|(_, line)| line.clone()).collect())
    }

    async fn prune_history(&self, before: Timestamp, limit: usize) -> Result<Pruned, StoreError> {
        let mut ledger = lock(&self.ledger);
        let from = ledger.pruned_to.map_or(Bound::Unbounded, Bound::Excluded);
        let page: Vec<_> = ledger.history.range((from, Bound::Unbounded)).take(limit).collect();
        let is_complete = page.len() < limit;
        let last = page.last().map(|(key, _)| **key);
        let old: Vec<_> = page.iter().filter(|(_, line)| line.at < before).map(|(key, _)| **key).collect();
        for key in &old {
            ledger.history.remove(key);
        }
        ledger.pruned_to = if is_complete { None } else { last };
        Ok(Pruned { removed: old.len(), is_complete })
    }

    async fn forget(&self, id: ReferralId) -> Result<(), StoreError> {
        let mut ledger = lock(&self.ledger);
        ledger.commit += 1;
        ledger.put(id, None);
        let commits: Vec<u64> = ledger.intents.keys().copied().collect();
        for commit in commits {
            ledger.settle(commit, id);
        }
        ledger.history.retain(|(referral, _), _| *referral != id);
        if let Some(export) = &mut *lock(&self.export) {
            export.entries.remove(&id);
        }
        Ok(())
    }

    async fn recall(&self, id: ReferralId, organization: Option<uuid::Uuid>) -> Result<Option<Entry>, StoreError> {
        let export = lock(&self.export);
        let fits =
            |export: &&Export| organization.is_none_or(|ours| export.organization.is_none_or(|theirs| theirs == ours));
        let entry = export.as_ref().filter(fits).and_then(|export| export.entries.get(&id).cloned());
        Ok(entry.map(|entry| entry.recalled(Timestamp::EPOCH)))
    }

    async fn keep_export(&self, now: Timestamp, _stop: Arc<AtomicBool>) -> Result<(), StoreError> {
        let ledger = lock(&self.ledger);
        let export = Export { at: now, organization: ledger.memo.crm_organization, entries: ledger.entries.clone() };
        *lock(&self.export) = Some(export);
        Ok(())
    }

    fn exports_kept(&self) -> ExportsKept {
        let newest = lock(&self.export).as_ref().map(|export| export.at);
        ExportsKept { count: u64::from(newest.is_some()), newest }
    }

    async fn export(&self, now: Timestamp, mut out: Box<dyn std::io::Write + Send>) -> Result<u64, StoreError> {
        let (memo, commit) = {
            let ledger = lock(&self.ledger);
            (ledger.memo.clone(), ledger.commit)
        };
        let header = exports::Header {
            referrald_export: exports::VERSION,
            exported: now,
            key: exports::key_id(&self.key),
            commit,
            crm_organization: memo.crm_organization,
            partner_organization: memo.partner_organization,
        };
        let page = |after| self.scan(after, exports::PAGE_ENTRIES);
        exports::write(&mut out, &header, page, &AtomicBool::new(false)).map(|trailer| trailer.count)
    }

    async fn check(&self) -> Result<Check, StoreError> {
        let ledger = lock(&self.ledger);
        Ok(Check {
            entries: ledger.counters.entries,
            by_standing: ledger.counters.by_standing.clone(),
            intended: ledger.intents.values().map(|actions| actions.len() as u64).sum(),
            history: ledger.history.len() as u64,
            commit: ledger.commit,
            commit_expected: ledger.commit,
            ..Check::default()
        })
    }

    async fn mend(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn openings(&self) -> u64 {
        1
    }

    fn decisions(&self) -> Result<Decisions, StoreError> {
        Ok(lock(&self.decisions).clone())
    }

    async fn decide(&self, change: DecisionChange) -> Result<(Decisions, Decisions), StoreError> {
        let mut decisions = lock(&self.decisions);
        let before = decisions.clone();
        change(&mut decisions);
        Ok((before, decisions.clone()))
    }

    fn fingerprint_key(&self) -> [u8; 16] {
        self.key
    }

    fn opening(&self) -> Opening {
        self.opening.clone()
    }
}
