//! The trees, their commit numbers and the durable barrier.
//!
//! | tree    | key                                | value                                         |
//! |---------|------------------------------------|-----------------------------------------------|
//! | entries | upper bound of ids                 | a few entries (see `bucket`)                  |
//! | leads   | 14 bits of a hash of the lead      | pairs of lead and referral                    |
//! | due     | instant, referral                  | –                                             |
//! | newest  | instant, referral; inverted        | –, for the few hundred newest                 |
//! | deadlines | instant, referral                | –                                             |
//! | intents | commit, position, referral         | intended action                               |
//! | history | commit, position                   | lines                                         |
//! | causes  | cause                              | number of dead letters                        |
//! | shapes  | number                             | list of group keys (see `entry`)              |
//! | meta    | `format` `commit` `key` `tally` `memo` | one each                                  |
//!
//! Memory is paid by the key, so there are few keys for each referral: a share of an entry bucket and of a lead bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};

use ::sled::{Db, IVec, Tree};
use serde::{Deserialize, Serialize};

use super::codec::{FORMAT, Failure, array_at, instant_key, referral_at, unseal, unsortable};
use super::draft::Draft;
use super::entry::{Shape, Shapes};
use super::failure::{disk, from_sled};
use super::side::{MARK_EVERY, Note, SideFile, write_mark};
use crate::model::{LeadId, ReferralId, Standing, Timestamp};
use crate::ports::{ActionKind, Batch, IntendedAction, Memo};
use crate::store::lock;

/// The trees by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Entries,
    Leads,
    Due,
    Newest,
    Deadlines,
    Intents,
    History,
    Causes,
    Shapes,
    Meta,
}

/// In the order of `Name`.
const NAMES: [&str; 10] =
    ["entries", "leads", "due", "newest", "deadlines", "intents", "history", "causes", "shapes", "meta"];

/// An open ledger.
pub(super) struct Ledger {
    db: Db,
    trees: Vec<Tree>,
    pub(super) shapes: RwLock<Shapes>,
    pub(super) writing: Mutex<()>,
    committed: AtomicU64,
    written: AtomicU64,
    barrier: Mutex<Barrier>,
    pub(super) pruned_to: Mutex<Option<IVec>>,
}

/// What is known to be on disk.
struct Barrier {
    db_file: File,
    side: SideFile,
    durable: u64,
    /// The state directory, and the commit that its mark in `keep/` knows.
    state: PathBuf,
    marked: u64,
}

/// One change of the ledger.
#[derive(Clone, Copy)]
pub(super) enum Change<'a> {
    /// What a caller records.
    Record(&'a Batch),
    /// Actions to put on record.
    Intend(&'a [IntendedAction]),
    /// A referral to remove every trace of.
    Forget(ReferralId),
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
    /// Intended actions whose outcome is not known.
    pub(super) intended: u64,
    /// Lines in the index of the newest.
    pub(super) newest: u64,
    /// Everything from here up is in that index; `None` when everything is.
    pub(super) newest_floor: Option<(Timestamp, ReferralId)>,
}

/// A history line.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct LineV1 {
    pub(super) referral: ReferralId,
    pub(super) at: Timestamp,
    pub(super) kind: ActionKind,
    pub(super) outcome: String,
}

/// The pairs in one bucket of the lead index.
pub(super) type LeadLines = BTreeSet<(LeadId, ReferralId)>;

impl Ledger {
    /// Opens the trees of a database. Reads nothing but the shapes and the commit number.
    pub(super) fn new(db: Db, state: &Path, path: &Path, side: SideFile) -> Result<Self, Failure> {
        let trees: Result<Vec<Tree>, _> = NAMES.iter().map(|name| db.open_tree(name)).collect();
        let trees = trees.map_err(|error| from_sled(&error))?;
        let db_file = File::open(path.join("db")).map_err(|error| disk(&error))?;
        let mut ledger = Ledger {
            db,
            trees,
            shapes: RwLock::default(),
            writing: Mutex::default(),
            committed: AtomicU64::new(0),
            written: AtomicU64::new(0),
            barrier: Mutex::new(Barrier { db_file, side, durable: 0, state: state.to_owned(), marked: 0 }),
            pruned_to: Mutex::default(),
        };
        if let Some(format) = ledger.meta("format")? {
            let found = u32::from_be_bytes(array_at("the format", &format, 0)?);
            if found > FORMAT {
                return Err(Failure::Newer(found));
            }
        }
        if let Some(commit) = ledger.meta("commit")? {
            ledger.committed = AtomicU64::new(u64::from_be_bytes(array_at("the commit number", &commit, 0)?));
        }
        ledger.shapes = RwLock::new(read_shapes(ledger.tree(Name::Shapes))?);
        Ok(ledger)
    }

    /// One tree.
    pub(super) fn tree(&self, name: Name) -> &Tree {
        &self.trees[name as usize]
    }

    /// One value of the meta tree.
    pub(super) fn meta(&self, key: &str) -> Result<Option<IVec>, Failure> {
        self.tree(Name::Meta).get(key).map_err(|error| from_sled(&error))
    }

    /// True before the first session.
    pub(super) fn is_new(&self) -> bool {
        self.trees.iter().all(Tree::is_empty)
    }

    /// Stamp of the fingerprint key; `None` for a ledger that was never begun.
    pub(super) fn key_stamp(&self) -> Result<Option<[u8; 8]>, Failure> {
        self.meta("key")?.map(|bytes| array_at("the key stamp", &bytes, 0)).transpose()
    }

    /// Last commit number.
    pub(super) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Begins a session: stamps the ledger, sets the memo, and makes sure that every commit comes after `commit`.
    pub(super) fn begin(&self, commit: u64, key_stamp: [u8; 8], memo: &Memo) -> Result<(), Failure> {
        let commit = commit.max(self.committed()) + 1;
        {
            let _writing = lock(&self.writing);
            let mut draft = Draft::new(self, commit)?;
            draft.begin(key_stamp, memo);
            self.write(draft, commit)?;
        }
        self.make_durable(commit)
    }

    /// Makes one change in one transaction over all trees; returns its commit number. Not durable yet.
    pub(super) fn commit(&self, change: Change<'_>) -> Result<u64, Failure> {
        let _writing = lock(&self.writing);
        let commit = self.committed() + 1;
        let mut draft = Draft::new(self, commit)?;
        match change {
            Change::Record(batch) => draft.record(batch)?,
            Change::Intend(actions) => draft.intend(actions),
            Change::Forget(id) => draft.forget(id)?,
        }
        if !self.write(draft, commit)? {
            return Ok(commit);
        }
        let commit = commit + 1;
        let mut refill = Draft::new(self, commit)?;
        refill.refill_newest()?;
        self.write(refill, commit)?;
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
        let note = Note { format: FORMAT, commit: reached };
        barrier.side.write(note).map_err(|error| disk(&error))?;
        barrier.durable = reached;
        if reached >= barrier.marked + MARK_EVERY {
            write_mark(&barrier.state, note);
            barrier.marked = reached;
        }
        Ok(())
    }

    /// Bytes of keys and values that were written since the ledger was opened. What sled makes of them and reads when it
    /// is opened again is about twice as much.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Writes the mark in `keep/` now: at the end of a session.
    pub(super) fn mark(&self) {
        let mut barrier = lock(&self.barrier);
        if barrier.durable > barrier.marked {
            write_mark(&barrier.state, Note { format: FORMAT, commit: barrier.durable });
            barrier.marked = barrier.durable;
        }
    }

    /// Makes every entry one that is only recalled ([`crate::model::Entry::recalled`]) and forgets every intent: this
    /// ledger is older than what was done since. Under the number of its last commit, so that an interruption is noticed
    /// and the rest follows at the next opening. Not durable yet.
    pub(super) fn age(&self, now: Timestamp) -> Result<(), Failure> {
        let _writing = lock(&self.writing);
        let commit = self.committed();
        let mut after = None;
        loop {
            let page = self.scan(after, AGED_AT_ONCE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            let entries = page.into_iter().map(|(id, entry)| (id, Some(entry.recalled(now))));
            let mut draft = Draft::new(self, commit)?;
            draft.record(&Batch { entries: entries.collect(), ..Batch::default() })?;
            self.write(draft, commit)?;
        }
        let settled = self.intents()?.into_iter();
        let settled =
            settled.flat_map(|intent| intent.actions.into_iter().map(move |action| (intent.commit, action.referral)));
        let mut draft = Draft::new(self, commit)?;
        draft.record(&Batch { settled: settled.collect(), ..Batch::default() })?;
        self.write(draft, commit).map(drop)
    }

    fn write(&self, draft: Draft<'_>, commit: u64) -> Result<bool, Failure> {
        self.written.fetch_add(draft.bytes(), Ordering::Relaxed);
        let is_short = draft.commit()?;
        self.committed.store(commit, Ordering::Release);
        Ok(is_short)
    }
}

/// Entries aged in one transaction.
const AGED_AT_ONCE: usize = 500;

/// A million leads make buckets of about 60 lines; they are rewritten only when a lead is linked or let go.
const LEAD_BUCKET_BITS: u32 = 14;

/// The bucket of the lead index that a lead belongs to. A hash, because services hand out leads with similar ids.
pub(super) fn lead_bucket(lead: LeadId) -> [u8; 2] {
    let hash = crc32fast::hash(lead.uuid().as_bytes()) >> (32 - LEAD_BUCKET_BITS);
    (hash as u16).to_be_bytes()
}

/// Instant and referral of an index key.
pub(super) fn instant_line(key: &[u8]) -> Result<(Timestamp, ReferralId), Failure> {
    let instant: [u8; 8] = array_at("an index line", key, 0)?;
    Ok((unsortable(instant), referral_at("an index line", key, 8)?))
}

/// The key of a referral among the newest: inverted, so that the newest comes first.
pub(super) fn newest_key(updated: Timestamp, id: ReferralId) -> Vec<u8> {
    instant_key(updated, id).into_iter().map(|byte| !byte).collect()
}

/// Instant and referral of such a key.
pub(super) fn newest_line(key: &[u8]) -> Result<(Timestamp, ReferralId), Failure> {
    let key: Vec<u8> = key.iter().map(|byte| !byte).collect();
    instant_line(&key)
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
