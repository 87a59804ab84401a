//! The ledger as people handle it while no daemon has it: looked at without a change, exported, set aside, filled.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::codec::Failure;
use super::ledger::{Ledger, LineV1, Name};
use super::opening::Place;
use super::verify::verify;
use super::{SledStore, take};
use crate::model::Timestamp;
use crate::ports::{Batch, Check, ExportCheck, Memo, StateStore, StoreError};
use crate::store::exports::{self, Exports, Header, PAGE_ENTRIES, Reader, Unusable};
use crate::store::keep::{Keep, move_to_side};
use crate::store::owner::Seat;

/// What an import took.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Imported {
    /// Entries that were taken.
    pub taken: u64,
    /// Entries of referrals that the ledger knows itself: its own stay.
    pub known: u64,
    /// Entries of referrals that an operator had forgotten.
    pub forgotten: u64,
    /// When the export was made.
    pub exported: Timestamp,
}

/// Opens the place of a ledger that no process has, and changes nothing in it.
fn place(directory: &Path, cache_bytes: u64) -> Result<(Seat, Place), StoreError> {
    if !directory.is_dir() {
        return Err(StoreError::Failed { reason: format!("there is no state in {}", directory.display()) });
    }
    let seat = take(directory)?;
    let keep = Keep::open(directory, None)?;
    Ok((seat, Place::new(directory, cache_bytes, keep.key())))
}

/// Reads everything in a state directory that no process has, and says what it found. Nothing is moved or mended. Blocks.
///
/// # Errors
///
/// As [`crate::store::open`], and [`StoreError::Failed`] when there is no state directory. Damage is no error: the
/// answer tells of it.
pub fn examine(directory: &Path, cache_bytes: u64) -> Result<Check, StoreError> {
    let (_seat, place) = place(directory, cache_bytes)?;
    let commit_expected = place.note().map_err(|failure| place.told(&failure))?.unwrap_or_default().commit;
    let looked = match fs::symlink_metadata(place.path()) {
        Ok(_) => place.apart(|place| {
            let ledger = place.read()?;
            if ledger.key_stamp()?.is_some_and(|stamp| stamp != place.key_stamp) {
                return Err(Failure::Damage("its fingerprints were made with another key".to_owned()));
            }
            check(&ledger)
        }),
        Err(_) if commit_expected == 0 => Ok(Check::default()),
        Err(_) => Ok(Check { damage: Some("the ledger is gone".to_owned()), ..Check::default() }),
    };
    let mut found = match looked {
        Ok(found) => found,
        Err(Failure::Damage(reason)) => Check { damage: Some(reason), ..Check::default() },
        Err(failure) => return Err(place.told(&failure)),
    };
    found.commit_expected = commit_expected;
    if found.damage.is_none() && found.commit < commit_expected {
        found.damage = Some(format!(
            "the newest records are missing: it ends with commit {}, and {commit_expected} was reached",
            found.commit
        ));
    }
    found.exports = check_exports(&place.exports);
    Ok(found)
}

/// What a ledger that no process has remembers of itself; `None` when there is none yet. Nothing is moved, mended or
/// verified. Blocks.
///
/// # Errors
///
/// As [`examine`]; also when the ledger is damaged.
pub fn recall(directory: &Path, cache_bytes: u64) -> Result<Option<Memo>, StoreError> {
    let (_seat, place) = place(directory, cache_bytes)?;
    if fs::symlink_metadata(place.path()).is_err() {
        return Ok(None);
    }
    let told = |failure: Failure| place.told(&failure);
    let ledger = place.apart(Place::read).map_err(told)?;
    ledger.memo().map(Some).map_err(told)
}

/// Reads a whole ledger. Damage is an error.
pub(super) fn check(ledger: &Ledger) -> Result<Check, Failure> {
    verify(ledger, u64::MAX)?;
    let counters = ledger.counters()?;
    let mut history = 0;
    for value in ledger.tree(Name::History).iter().values() {
        let value = value.map_err(|error| super::failure::from_sled(&error))?;
        let lines: Vec<LineV1> = super::codec::unseal("a history line", &value)?;
        history += lines.len() as u64;
    }
    Ok(Check {
        entries: counters.entries,
        by_standing: counters.by_standing,
        intended: ledger.tally()?.intended,
        history,
        commit: ledger.committed(),
        ..Check::default()
    })
}

/// Reads every export to its end.
pub(super) fn check_exports(exports: &Exports) -> Vec<ExportCheck> {
    let of = |kept: exports::Kept| {
        let (entries, trouble) = match exports::examine(&kept.file, exports.key()) {
            Ok((_, entries)) => (entries, None),
            Err(error) => (0, Some(error.to_string())),
        };
        ExportCheck { file: kept.file, exported: kept.header.exported, entries, trouble }
    };
    exports.list().into_iter().map(of).collect()
}

/// Moves the ledger of a state directory aside, whatever is in it, so that the next cycle rebuilds it; says where it is
/// now, or `None` when there was none. Blocks.
///
/// # Errors
///
/// As [`examine`].
pub fn set_aside(directory: &Path, cache_bytes: u64) -> Result<Option<PathBuf>, StoreError> {
    let (_seat, place) = place(directory, cache_bytes)?;
    if fs::symlink_metadata(place.path()).is_err() {
        return Ok(None);
    }
    let moved = move_to_side(&place.path(), "aside");
    let failed = |error: std::io::Error| StoreError::Failed {
        reason: format!("{} could not be moved aside: {error}", place.path().display()),
    };
    moved.map(Some).map_err(failed)
}

/// Writes the ledger of a state directory that no process has as an export, and changes nothing in it. Blocks.
///
/// # Errors
///
/// As [`examine`]; also when the ledger is damaged, or `out` refuses something.
pub fn export(directory: &Path, cache_bytes: u64, now: Timestamp, out: &mut dyn Write) -> Result<u64, StoreError> {
    let (_seat, place) = place(directory, cache_bytes)?;
    if fs::symlink_metadata(place.path()).is_err() {
        let reason = format!("there is no ledger in {}", directory.display());
        return Err(StoreError::Failed { reason });
    }
    let ledger = place.apart(Place::read).map_err(|failure| place.told(&failure))?;
    let told = |failure: Failure| place.told(&failure);
    let memo = ledger.memo().map_err(told)?;
    let header = header(&place.exports, &memo, ledger.committed(), now);
    let page = |after| ledger.scan(after, PAGE_ENTRIES).map_err(told);
    exports::write(out, &header, page, &AtomicBool::new(false)).map(|trailer| trailer.count)
}

/// The first line of an export of this ledger.
pub(super) fn header(exports: &Exports, memo: &crate::ports::Memo, commit: u64, now: Timestamp) -> Header {
    Header {
        referrald_export: exports::VERSION,
        exported: now,
        key: exports.key().to_owned(),
        commit,
        crm_organization: memo.crm_organization,
        partner_organization: memo.partner_organization.clone(),
    }
}

impl SledStore {
    /// Fills the ledger from an export: every referral it does not know itself, and that was not forgotten. What is taken
    /// is only recalled ([`crate::model::Entry::recalled`]): the next cycles read both sides of each and prove it.
    ///
    /// The whole file is read first, so that nothing changes when it is damaged, incomplete or somebody else's.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] with the reason.
    pub async fn import(&self, file: &Path, now: Timestamp) -> Result<Imported, StoreError> {
        let refused = |error: Unusable| StoreError::Failed { reason: format!("{}: {error}", file.display()) };
        let exports = self.exports();
        let (header, _) = exports::examine(file, exports.key()).map_err(refused)?;
        let memo = self.memo()?;
        let foreign = |whose: &str, theirs: &str, ours: &str| StoreError::Failed {
            reason: format!(
                "{} belongs to the {whose} organization {theirs}, and this ledger to {ours}: nothing was taken",
                file.display()
            ),
        };
        if let (Some(theirs), Some(ours)) = (header.crm_organization, memo.crm_organization)
            && theirs != ours
        {
            return Err(foreign("Dynamics", &theirs.to_string(), &ours.to_string()));
        }
        if let (Some(theirs), Some(ours)) = (&header.partner_organization, &memo.partner_organization)
            && !theirs.eq_ignore_ascii_case(ours)
        {
            return Err(foreign("partner", theirs, ours));
        }
        let decisions = self.decisions()?;
        let key = self.fingerprint_key();
        let opened = File::open(file).map_err(Unusable::from).map_err(refused)?;
        let mut reader = Reader::open(BufReader::new(opened)).map_err(refused)?;
        let mut imported = Imported { taken: 0, known: 0, forgotten: 0, exported: header.exported };
        let mut entries = Vec::new();
        // First, so that an interruption leaves nothing unread.
        let memo = crate::ports::Memo {
            crm_organization: memo.crm_organization.or(header.crm_organization),
            partner_organization: memo.partner_organization.or(header.partner_organization),
            is_sweep_due: true,
            sweep: None,
            lead_reading: Some(None),
            ..self.memo()?
        };
        self.record(Batch { memo: Some(memo), ..Batch::default() }).await?;
        while let Some((id, entry)) = reader.next_entry().map_err(refused)? {
            if decisions.has_forgotten(&key, id) {
                imported.forgotten += 1;
            } else if self.get(id)?.is_some() {
                imported.known += 1;
            } else {
                imported.taken += 1;
                entries.push((id, Some(entry.recalled(now))));
            }
            if entries.len() >= PAGE_ENTRIES {
                self.record(Batch { entries: std::mem::take(&mut entries), ..Batch::default() }).await?;
            }
        }
        self.record(Batch { entries, ..Batch::default() }).await?;
        Ok(imported)
    }
}
