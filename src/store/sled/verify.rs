//! One pass over everything that a decision depends on.
//!
//! Some damage makes sled forget records without a word. Counts and indices that disagree with the entries give it away.

use std::collections::BTreeSet;

use super::bucket::{self, key_id};
use super::codec::{Failure, instant_key, unseal};
use super::failure::from_sled;
use super::ledger::{LeadLines, Ledger, Name, TallyV1, instant_line, newest_key};
use crate::model::{Entry, ReferralId};
use crate::ports::Counters;
use crate::store::index::{Marks, Tally};

/// Checks that every entry can be read and that indices and counters agree with them. Of a ledger with more entries than
/// `entries_max` only so many are read.
pub(super) fn verify(ledger: &Ledger, entries_max: u64) -> Result<(), Failure> {
    let kept = ledger.tally()?;
    verify_intents(ledger, &kept)?;
    if kept.entries <= entries_max {
        return verify_all(ledger, &kept);
    }
    let limit = usize::try_from(entries_max).unwrap_or(usize::MAX);
    ledger.entries_after(None).take(limit).try_for_each(|item| item.map(drop))
}

fn verify_intents(ledger: &Ledger, kept: &TallyV1) -> Result<(), Failure> {
    let intended: usize = ledger.intents()?.iter().map(|intent| intent.actions.len()).sum();
    if intended as u64 == kept.intended {
        return Ok(());
    }
    Err(Failure::Damage(format!("{intended} intended actions are there and {} on record", kept.intended)))
}

fn verify_all(ledger: &Ledger, kept: &TallyV1) -> Result<(), Failure> {
    verify_buckets(ledger)?;
    let mut tally = Tally::default();
    let mut expected = Lines::default();
    for item in ledger.entries_after(None) {
        let (id, entry) = item?;
        tally.add(&entry);
        expected.check(ledger, kept, id, &entry)?;
    }
    let counted = tally.applied_to(Counters::default());
    if counted != ledger.counters()? {
        let (found, on_record) = (counted.entries, kept.entries);
        return Err(Failure::Damage(format!(
            "{found} entries are there and {on_record} on record, or counters differ"
        )));
    }
    let mut found = Lines::default();
    for lines in ledger.tree(Name::Leads).iter().values() {
        let lines: LeadLines = unseal("a lead's line", &lines.map_err(|error| from_sled(&error))?)?;
        found.leads += lines.len() as u64;
    }
    for (name, count) in
        [(Name::Due, &mut found.due), (Name::Newest, &mut found.newest), (Name::Deadlines, &mut found.deadlines)]
    {
        for key in ledger.tree(name).iter().keys() {
            instant_line(&key.map_err(|error| from_sled(&error))?)?;
            *count += 1;
        }
    }
    if found != expected || found.newest != kept.newest {
        return Err(Failure::Damage(format!("{found:?} lines are in the indices where {expected:?} belong")));
    }
    Ok(())
}

/// Every bucket holds ids up to its own key and beyond the one before.
fn verify_buckets(ledger: &Ledger) -> Result<(), Failure> {
    let mut before = None;
    for item in ledger.tree(Name::Entries).iter() {
        let (key, bytes) = item.map_err(|error| from_sled(&error))?;
        let bound = key_id(&key)?;
        let ids: Result<BTreeSet<ReferralId>, _> = bucket::items(&bytes).map(|item| item.map(|(id, _)| id)).collect();
        let ids = ids?;
        let is_within = ids.first() > before.as_ref() && ids.last().is_some_and(|last| *last <= bound);
        if !is_within {
            return Err(Failure::Damage("an entry lies in the wrong bucket".to_owned()));
        }
        before = Some(bound);
    }
    Ok(())
}

/// Lines in the indices.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lines {
    leads: u64,
    due: u64,
    newest: u64,
    deadlines: u64,
}

impl Lines {
    /// Looks for the lines of one entry and counts them.
    fn check(&mut self, ledger: &Ledger, kept: &TallyV1, id: ReferralId, entry: &Entry) -> Result<(), Failure> {
        let marks = Marks::of(entry);
        let is_there = |name, key: Vec<u8>| ledger.tree(name).contains_key(key).map_err(|error| from_sled(&error));
        let mut is_whole = true;
        if let Some(lead) = marks.lead {
            self.leads += 1;
            is_whole &= ledger.lead_lines(lead)?.contains(&(lead, id));
        }
        if let Some(due) = marks.due {
            self.due += 1;
            is_whole &= is_there(Name::Due, instant_key(due, id))?;
        }
        let is_above = |updated| kept.newest_floor.is_none_or(|floor| (updated, id) >= floor);
        if let Some(updated) = marks.updated.filter(|updated| is_above(*updated)) {
            self.newest += 1;
            is_whole &= is_there(Name::Newest, newest_key(updated, id))?;
        }
        if let Some(deadline) = marks.deadline {
            self.deadlines += 1;
            is_whole &= is_there(Name::Deadlines, instant_key(deadline, id))?;
        }
        if is_whole { Ok(()) } else { Err(Failure::Damage("an index line is missing".to_owned())) }
    }
}
