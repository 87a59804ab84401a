//! The trees and the one transaction that changes them.
//!
//! | tree    | key                                | value                    |
//! |---------|------------------------------------|--------------------------|
//! | entries | referral                           | entry                    |
//! | leads   | lead, referral                     | –                        |
//! | due     | instant, referral                  | –                        |
//! | newest  | instant, referral                  | –                        |
//! | deadlines | instant, referral                | –                        |
//! | intents | commit, position, referral         | intended action          |
//! | history | referral, commit, position         | line                     |
//! | causes  | cause                              | number of dead letters   |
//! | shapes  | number                             | list of group keys       |
//! | meta    | `format` `commit` `key` `tally` `memo` | one each             |
//!
//! Indices and counters are derived from entries inside the transaction, from what it reads there.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use ::sled::transaction::{ConflictableTransactionError, TransactionError, Transactional, TransactionalTree};
use ::sled::{Db, IVec, Tree};
use serde::{Deserialize, Serialize};

use super::codec::{FORMAT, Failure, array_at, instant_key, join, latest_key, referral_at, seal, unseal};
use super::entry::{self, Shape, Shapes};
use super::failure::{disk, from_sled};
use super::side::{Note, SideFile};
use crate::model::{Entry, LeadId, ReferralId, Standing, Timestamp};
use crate::ports::{ActionKind, Batch, Counters, IntendedAction, Memo};
use crate::store::index::{Marks, Tally, moved};
use crate::store::{OUTCOME_BYTES_MAX, cut, lock};

/// A memo over this loses its last report: sled keeps larger values in files that it never syncs.
const MEMO_BYTES_MAX: usize = 64 * 1024;

/// An open ledger.
pub(super) struct Ledger {
    db: Db,
    pub(super) entries: Tree,
    pub(super) leads: Tree,
    pub(super) due: Tree,
    pub(super) newest: Tree,
    pub(super) deadlines: Tree,
    pub(super) intents: Tree,
    pub(super) history: Tree,
    pub(super) causes: Tree,
    shapes_kept: Tree,
    pub(super) meta: Tree,
    pub(super) shapes: RwLock<Shapes>,
    writing: Mutex<()>,
    committed: AtomicU64,
    barrier: Mutex<Barrier>,
    pub(super) pruned_to: Mutex<Option<IVec>>,
}

/// What is known to be on disk.
struct Barrier {
    db_file: File,
    side: SideFile,
    durable: u64,
}

/// One change of the ledger.
pub(super) struct Change<'a> {
    /// What a caller records.
    pub(super) batch: &'a Batch,
    /// Actions to put on record.
    pub(super) intended: &'a [IntendedAction],
    /// A referral to remove every trace of.
    pub(super) forget: Option<ReferralId>,
}

impl Default for Change<'_> {
    fn default() -> Self {
        static NOTHING: Batch = Batch { entries: Vec::new(), memo: None, settled: Vec::new(), history: Vec::new() };
        Change { batch: &NOTHING, intended: &[], forget: None }
    }
}

/// Counters as the ledger keeps them; causes have their own tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TallyV1 {
    pub(super) entries: u64,
    pub(super) by_standing: BTreeMap<Standing, u64>,
    pub(super) retrying: u64,
    /// By bit of `Entry::holds`.
    pub(super) holds: BTreeMap<u8, u64>,
    /// New and unanswered.
    pub(super) unanswered: u64,
    pub(super) intended: u64,
}

/// A history line without its referral, which is in the key.
#[derive(Serialize, Deserialize)]
pub(super) struct LineV1 {
    pub(super) at: Timestamp,
    pub(super) kind: ActionKind,
    pub(super) outcome: String,
}

impl Ledger {
    /// Opens the trees of a database. Reads nothing but the shapes and the commit number.
    pub(super) fn new(db: Db, path: &Path, side: SideFile) -> Result<Self, Failure> {
        let tree = |name: &str| db.open_tree(name).map_err(|error| from_sled(&error));
        let meta = tree("meta")?;
        if let Some(format) = meta.get("format").map_err(|error| from_sled(&error))? {
            let found = u32::from_be_bytes(array_at("the format", &format, 0)?);
            if found > FORMAT {
                return Err(Failure::Newer(found));
            }
        }
        let committed = match meta.get("commit").map_err(|error| from_sled(&error))? {
            Some(commit) => u64::from_be_bytes(array_at("the commit number", &commit, 0)?),
            None => 0,
        };
        let shapes_kept = tree("shapes")?;
        let db_file = File::open(path.join("db")).map_err(|error| disk(&error))?;
        let ledger = Ledger {
            entries: tree("entries")?,
            leads: tree("leads")?,
            due: tree("due")?,
            newest: tree("newest")?,
            deadlines: tree("deadlines")?,
            intents: tree("intents")?,
            history: tree("history")?,
            causes: tree("causes")?,
            shapes: RwLock::new(read_shapes(&shapes_kept)?),
            shapes_kept,
            meta,
            writing: Mutex::default(),
            committed: AtomicU64::new(committed),
            barrier: Mutex::new(Barrier { db_file, side, durable: 0 }),
            pruned_to: Mutex::default(),
            db,
        };
        Ok(ledger)
    }

    /// True before the first session.
    pub(super) fn is_new(&self) -> bool {
        self.committed() == 0 && self.meta.is_empty() && self.entries.is_empty()
    }

    /// Stamp of the fingerprint key; `None` for a ledger that was never begun.
    pub(super) fn stamp(&self) -> Result<Option<[u8; 8]>, Failure> {
        self.meta_value("key")?.map(|bytes| array_at("the key stamp", &bytes, 0)).transpose()
    }

    /// Last commit number.
    pub(super) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Begins a session: stamps the ledger, sets the memo and makes sure that the next commit comes after `commit`.
    pub(super) fn begin(&self, commit: u64, key_stamp: [u8; 8], memo: &Memo) -> Result<(), Failure> {
        let writing = lock(&self.writing);
        let commit = commit.max(self.committed()) + 1;
        let memo = sealed_memo(memo);
        let begun = self.meta.transaction(|meta: &TransactionalTree| {
            meta.insert("format", &FORMAT.to_be_bytes())?;
            meta.insert("key", &key_stamp)?;
            meta.insert("commit", &commit.to_be_bytes())?;
            meta.insert("memo", &memo[..])?;
            Ok::<(), ConflictableTransactionError<Failure>>(())
        });
        begun.map_err(from_transaction)?;
        self.committed.store(commit, Ordering::Release);
        drop(writing);
        self.make_durable(commit)
    }

    /// Makes one change in one transaction over all trees; returns its commit number. Not durable yet.
    pub(super) fn commit(&self, change: &Change<'_>) -> Result<u64, Failure> {
        let _writing = lock(&self.writing);
        let commit = self.committed() + 1;
        let staged = self.stage(change, commit)?;
        let trees = (
            &self.entries,
            &self.leads,
            &self.due,
            &self.newest,
            &self.deadlines,
            &self.intents,
            &self.history,
            &self.causes,
            &self.shapes_kept,
            &self.meta,
        );
        let done =
            trees.transaction(|(entries, leads, due, newest, deadlines, intents, history, causes, shapes, meta)| {
                let tally = self.write_entries(&staged, Indices { entries, leads, due, newest, deadlines })?;
                for (key, value) in &staged.others.intents {
                    put(intents, key, value.as_deref())?;
                }
                for (key, value) in &staged.others.history {
                    put(history, key, value.as_deref())?;
                }
                for (key, value) in &staged.others.shapes {
                    put(shapes, key, Some(value))?;
                }
                write_counts(&tally, staged.others.intended_by, causes, meta)?;
                if let Some(memo) = &staged.others.memo {
                    put(meta, b"memo", Some(memo))?;
                }
                put(meta, b"commit", Some(&commit.to_be_bytes()))
            });
        done.map_err(from_transaction)?;
        self.shapes.write().unwrap_or_else(PoisonError::into_inner).all_saved();
        self.committed.store(commit, Ordering::Release);
        Ok(commit)
    }

    /// Returns when this commit and all before it are on disk. Waiters share one barrier.
    ///
    /// sled's own flush never calls fsync, so the file is synced by hand, and the note beside the ledger after it.
    pub(super) fn make_durable(&self, commit: u64) -> Result<(), Failure> {
        let mut barrier = lock(&self.barrier);
        if barrier.durable >= commit {
            return Ok(());
        }
        let reached = self.committed();
        self.db.flush().map_err(|error| from_sled(&error))?;
        barrier.db_file.sync_data().map_err(|error| disk(&error))?;
        barrier.side.write(Note { format: FORMAT, commit: reached }).map_err(|error| disk(&error))?;
        barrier.durable = reached;
        Ok(())
    }

    /// Encodes a change outside the transaction, whose body may run more than once.
    fn stage<'a>(&self, change: &'a Change<'_>, commit: u64) -> Result<Staged<'a>, Failure> {
        let mut shapes = self.shapes.write().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Vec::with_capacity(change.batch.entries.len() + 1);
        for (id, entry) in &change.batch.entries {
            let encoded = entry.as_ref().map(|entry| entry::encode(entry, &mut shapes)).transpose()?;
            entries.push((*id, encoded));
        }
        entries.extend(change.forget.map(|id| (id, None)));
        let unsaved = shapes.unsaved();
        drop(shapes);

        let settled = self.settled_keys(change)?;
        let settled_count = i64::try_from(settled.len()).unwrap_or(i64::MAX);
        let intended_by = i64::try_from(change.intended.len()).unwrap_or(i64::MAX) - settled_count;
        let mut intents: Vec<KeyValue> = settled.into_iter().map(|key| (key, None)).collect();
        for (position, action) in (0u32..).zip(change.intended) {
            let id = action.referral.uuid();
            let key = join(&[&commit.to_be_bytes(), &position.to_be_bytes(), id.as_bytes()]);
            intents.push((key, Some(seal(action))));
        }

        let mut history: Vec<KeyValue> = Vec::new();
        for (position, line) in (0u32..).zip(&change.batch.history) {
            let id = line.referral.uuid();
            let key = join(&[id.as_bytes(), &commit.to_be_bytes(), &position.to_be_bytes()]);
            let outcome = cut(&line.outcome, OUTCOME_BYTES_MAX).to_owned();
            history.push((key, Some(seal(&LineV1 { at: line.at, kind: line.kind, outcome }))));
        }
        if let Some(id) = change.forget {
            for key in self.history.scan_prefix(id.uuid().as_bytes()).keys() {
                history.push((key.map_err(|error| from_sled(&error))?.to_vec(), None));
            }
        }

        let shapes = unsaved.iter().map(|(number, shape)| (number.to_be_bytes(), seal(&**shape))).collect();
        let memo = change.batch.memo.as_ref().map(sealed_memo);
        Ok(Staged { entries, others: Others { intents, intended_by, history, shapes, memo } })
    }

    /// Keys of the intended actions that this change settles.
    fn settled_keys(&self, change: &Change<'_>) -> Result<BTreeSet<Vec<u8>>, Failure> {
        let mut keys = BTreeSet::new();
        let settled: HashSet<(u64, ReferralId)> = change.batch.settled.iter().copied().collect();
        let commits: BTreeSet<u64> = settled.iter().map(|(commit, _)| *commit).collect();
        for commit in commits {
            for key in self.intents.scan_prefix(commit.to_be_bytes()).keys() {
                let key = key.map_err(|error| from_sled(&error))?;
                if settled.contains(&(commit, referral_at("an intent", &key, 12)?)) {
                    keys.insert(key.to_vec());
                }
            }
        }
        if let Some(id) = change.forget {
            for key in self.intents.iter().keys() {
                let key = key.map_err(|error| from_sled(&error))?;
                if referral_at("an intent", &key, 12)? == id {
                    keys.insert(key.to_vec());
                }
            }
        }
        Ok(keys)
    }

    /// Writes entries and their indices; returns what that changed in the counters.
    fn write_entries(&self, staged: &Staged<'_>, trees: Indices<'_>) -> Result<Tally, Conflictable> {
        let shapes = self.shapes.read().unwrap_or_else(PoisonError::into_inner);
        let mut tally = Tally::default();
        for (id, new) in &staged.entries {
            let key = id.uuid();
            let old = match new {
                Some((_, bytes)) => trees.entries.insert(&key.as_bytes()[..], &bytes[..])?,
                None => trees.entries.remove(&key.as_bytes()[..])?,
            };
            let old = old.map(|bytes| entry::decode(&bytes, &shapes)).transpose();
            let old = old.map_err(ConflictableTransactionError::Abort)?;
            let new = new.as_ref().map(|(entry, _)| entry.as_ref());
            old.as_ref().inspect(|entry| tally.remove(entry));
            new.inspect(|entry| tally.add(entry));
            let before = old.as_ref().map(Marks::of).unwrap_or_default();
            let after = new.map(Marks::of).unwrap_or_default();
            trees.move_marks(*id, before, after)?;
        }
        Ok(tally)
    }
}

/// A key and its new value; `None` removes it.
type KeyValue = (Vec<u8>, Option<Vec<u8>>);

type Conflictable = ConflictableTransactionError<Failure>;

/// A change in bytes.
struct Staged<'a> {
    entries: Vec<(ReferralId, Option<(Cow<'a, Entry>, Vec<u8>)>)>,
    others: Others,
}

/// The part of a change that needs no reading.
struct Others {
    intents: Vec<KeyValue>,
    intended_by: i64,
    history: Vec<KeyValue>,
    shapes: Vec<([u8; 4], Vec<u8>)>,
    memo: Option<Vec<u8>>,
}

/// The trees that follow entries.
struct Indices<'a> {
    entries: &'a TransactionalTree,
    leads: &'a TransactionalTree,
    due: &'a TransactionalTree,
    newest: &'a TransactionalTree,
    deadlines: &'a TransactionalTree,
}

impl Indices<'_> {
    fn move_marks(&self, id: ReferralId, before: Marks, after: Marks) -> Result<(), Conflictable> {
        let lead_key = |lead| lead_key(lead, id);
        let instant_key = |instant| instant_key(instant, id);
        move_mark(self.leads, before.lead.map(lead_key), after.lead.map(lead_key))?;
        move_mark(self.due, before.due.map(instant_key), after.due.map(instant_key))?;
        let latest_key = |instant| latest_key(instant, id);
        move_mark(self.newest, before.updated.map(latest_key), after.updated.map(latest_key))?;
        move_mark(self.deadlines, before.deadline.map(instant_key), after.deadline.map(instant_key))
    }
}

fn move_mark(tree: &TransactionalTree, before: Option<Vec<u8>>, after: Option<Vec<u8>>) -> Result<(), Conflictable> {
    if before == after {
        return Ok(());
    }
    if let Some(key) = before {
        put(tree, &key, None)?;
    }
    if let Some(key) = after {
        put(tree, &key, Some(&[]))?;
    }
    Ok(())
}

/// The key of a lead's index line.
pub(super) fn lead_key(lead: LeadId, id: ReferralId) -> Vec<u8> {
    join(&[lead.uuid().as_bytes(), id.uuid().as_bytes()])
}

fn put(tree: &TransactionalTree, key: &[u8], value: Option<&[u8]>) -> Result<(), Conflictable> {
    match value {
        Some(value) => tree.insert(key, value)?,
        None => tree.remove(key)?,
    };
    Ok(())
}

fn write_counts(
    tally: &Tally,
    intended_by: i64,
    causes: &TransactionalTree,
    meta: &TransactionalTree,
) -> Result<(), Conflictable> {
    if *tally == Tally::default() && intended_by == 0 {
        return Ok(());
    }
    let kept = meta.get("tally")?.map(|bytes| unseal::<TallyV1>("the counters", &bytes)).transpose();
    let kept = kept.map_err(ConflictableTransactionError::Abort)?.unwrap_or_default();
    let counters = Counters {
        entries: kept.entries,
        by_standing: kept.by_standing,
        retrying: kept.retrying,
        holds: kept.holds,
        unanswered: kept.unanswered,
        dead_letters: BTreeMap::new(),
    };
    let counters = tally.applied_to(counters);
    let kept = TallyV1 {
        entries: counters.entries,
        by_standing: counters.by_standing,
        retrying: counters.retrying,
        holds: counters.holds,
        unanswered: counters.unanswered,
        intended: moved(kept.intended, intended_by),
    };
    put(meta, b"tally", Some(&seal(&kept)))?;
    for (cause, by) in &tally.dead_letters {
        let key = seal(cause);
        let count = causes.get(&key)?.map(|bytes| unseal::<u64>("a cause", &bytes)).transpose();
        let count = moved(count.map_err(ConflictableTransactionError::Abort)?.unwrap_or_default(), *by);
        let value = (count > 0).then(|| seal(&count));
        put(causes, &key, value.as_deref())?;
    }
    Ok(())
}

fn sealed_memo(memo: &Memo) -> Vec<u8> {
    let bytes = seal(memo);
    if bytes.len() <= MEMO_BYTES_MAX {
        return bytes;
    }
    seal(&Memo { last_report: None, ..memo.clone() })
}

fn read_shapes(tree: &Tree) -> Result<Shapes, Failure> {
    let mut lists: Vec<Shape> = Vec::new();
    for (number, item) in (1u32..).zip(tree.iter()) {
        let (key, value) = item.map_err(|error| from_sled(&error))?;
        if u32::from_be_bytes(array_at("a list of groups", &key, 0)?) != number {
            return Err(Failure::Damage(format!("list of groups {number} is missing")));
        }
        lists.push(unseal("a list of groups", &value)?);
    }
    Ok(Shapes::saved(lists))
}

fn from_transaction(error: TransactionError<Failure>) -> Failure {
    match error {
        TransactionError::Abort(failure) => failure,
        TransactionError::Storage(error) => from_sled(&error),
    }
}
