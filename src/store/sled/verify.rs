//! One pass over everything that a decision depends on.
//!
//! Some damage makes sled forget records without a word. Counts and indices that disagree with the entries give it away.

use super::codec::{Failure, instant_key, latest_key, referral_at};
use super::failure::from_sled;
use super::ledger::{Ledger, lead_key};
use crate::model::{Entry, ReferralId};
use crate::ports::Counters;
use crate::store::index::{Marks, Tally};

/// Checks that every entry can be read and that indices and counters agree with them. Of more than `entries_max`, only
/// the first ones are read.
pub(super) fn verify(ledger: &Ledger, entries_max: u64) -> Result<(), Failure> {
    let kept = ledger.tally()?;
    ledger.memo()?;
    ledger.counters()?;
    let intended: usize = ledger.intents()?.iter().map(|intent| intent.actions.len()).sum();
    if intended as u64 != kept.intended {
        return Err(Failure::Damage(format!("{intended} intended actions where {} are on record", kept.intended)));
    }
    if kept.entries > entries_max {
        return verify_some(ledger, entries_max);
    }
    let mut tally = Tally::default();
    let mut marks = [0u64; 4];
    for item in ledger.entries.iter() {
        let (key, value) = item.map_err(|error| from_sled(&error))?;
        let id = referral_at("an entry", &key, 0)?;
        let entry = ledger.decode(&value)?;
        tally.add(&entry);
        for (count, found) in marks.iter_mut().zip(marks_found(ledger, id, &entry)?) {
            *count += u64::from(found);
        }
    }
    let counted = tally.applied_to(Counters::default());
    if counted != ledger.counters()? {
        return Err(Failure::Damage(format!(
            "{} entries were found and {} are on record, or their counters differ",
            counted.entries, kept.entries
        )));
    }
    for (tree, expected) in [&ledger.leads, &ledger.due, &ledger.newest, &ledger.deadlines].into_iter().zip(marks) {
        let mut found = 0;
        for key in tree.iter().keys() {
            key.map_err(|error| from_sled(&error))?;
            found += 1;
        }
        if found != expected {
            return Err(Failure::Damage(format!("an index has {found} lines for {expected} entries")));
        }
    }
    Ok(())
}

/// A ledger too large to be read whole at every start: its first entries stand for the rest.
fn verify_some(ledger: &Ledger, entries_max: u64) -> Result<(), Failure> {
    let first = ledger.entries.iter().take(usize::try_from(entries_max).unwrap_or(usize::MAX));
    for item in first {
        ledger.decode(&item.map_err(|error| from_sled(&error))?.1)?;
    }
    Ok(())
}

/// Which of the four indices an entry has a line in. A missing line is damage.
fn marks_found(ledger: &Ledger, id: ReferralId, entry: &Entry) -> Result<[bool; 4], Failure> {
    let marks = Marks::of(entry);
    let keys = [
        (&ledger.leads, marks.lead.map(|lead| lead_key(lead, id))),
        (&ledger.due, marks.due.map(|due| instant_key(due, id))),
        (&ledger.newest, marks.updated.map(|updated| latest_key(updated, id))),
        (&ledger.deadlines, marks.deadline.map(|deadline| instant_key(deadline, id))),
    ];
    let mut found = [false; 4];
    for ((tree, key), found) in keys.into_iter().zip(&mut found) {
        let Some(key) = key else { continue };
        if !tree.contains_key(key).map_err(|error| from_sled(&error))? {
            return Err(Failure::Damage("an index line is missing".to_owned()));
        }
        *found = true;
    }
    Ok(found)
}
