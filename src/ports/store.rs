//! The port to the ledger: entries, intents and history, and what is found out about them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{DecisionChange, Decisions, Memo};
use crate::model::{Cause, Entry, LeadId, ReferralId, Standing, Timestamp};

/// Where the ledger is kept. Reads are quick and synchronous; writes are atomic; `intend` and `record` return after the
/// durable barrier.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// One entry.
    fn get(&self, id: ReferralId) -> Result<Option<Entry>, StoreError>;

    /// The referral that a lead speaks for.
    fn by_lead(&self, lead: LeadId) -> Result<Option<ReferralId>, StoreError>;

    /// Entries in key order after `after`, at most `limit`.
    fn scan(&self, after: Option<ReferralId>, limit: usize) -> Result<Vec<(ReferralId, Entry)>, StoreError>;

    /// Referrals whose `look_at` is not later than `now`, earliest first, at most `limit`.
    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<ReferralId>, StoreError>;

    /// The known referrals that were updated last (by `referral_updated`), newest first, at most `limit` (≤ 100).
    fn newest(&self, limit: usize) -> Result<Vec<ReferralId>, StoreError>;

    /// New referrals whose deadline is not later than `until`, the next deadline first, at most `limit`.
    fn deadlines(&self, until: Timestamp, limit: usize) -> Result<Vec<(ReferralId, Timestamp)>, StoreError>;

    /// What is remembered besides entries.
    fn memo(&self) -> Result<Memo, StoreError>;

    /// How many entries there are, by standing and trouble; kept, not counted.
    fn counters(&self) -> Result<Counters, StoreError>;

    /// Intents whose outcome is not known, oldest first.
    fn intents(&self) -> Result<Vec<Intent>, StoreError>;

    /// Puts an intent on record before its writes are sent; returns its commit number. An error means: send nothing.
    async fn intend(&self, actions: Vec<IntendedAction>) -> Result<u64, StoreError>;

    /// Records a batch in one transaction.
    async fn record(&self, batch: Batch) -> Result<(), StoreError>;

    /// What was done to a referral, oldest first.
    fn history(&self, id: ReferralId) -> Result<Vec<HistoryLine>, StoreError>;

    /// Removes history lines older than `before`. One call looks at no more than `limit` lines and goes on where the
    /// last one stopped; call it until [`Pruned::is_complete`].
    async fn prune_history(&self, before: Timestamp, limit: usize) -> Result<Pruned, StoreError>;

    /// Removes everything about one referral: its entry, its intended actions, its history and its lines in exports.
    async fn forget(&self, id: ReferralId) -> Result<(), StoreError>;

    /// What the newest export that fits remembers of a referral, as far as it may be believed ([`Entry::recalled`]).
    /// `None` without one, and for another CRM organization than `organization`.
    async fn recall(&self, id: ReferralId, organization: Option<uuid::Uuid>) -> Result<Option<Entry>, StoreError>;

    /// Writes an export beside the ledger and deletes those that are too many. An error leaves the old ones; given up
    /// as soon as `stop` is set.
    async fn keep_export(&self, now: Timestamp, stop: Arc<AtomicBool>) -> Result<(), StoreError>;

    /// Which exports there are.
    fn exports_kept(&self) -> ExportsKept;

    /// Writes an export into `out`; returns the number of entries.
    async fn export(&self, now: Timestamp, out: Box<dyn std::io::Write + Send>) -> Result<u64, StoreError>;

    /// Reads everything and says what it found. Writing waits meanwhile.
    async fn check(&self) -> Result<Check, StoreError>;

    /// If damage was found since the ledger was opened: moves it aside and begins a new one. True when it did. Called
    /// between two passes, so that nothing read before is mixed with an empty ledger.
    async fn mend(&self) -> Result<bool, StoreError>;

    /// How often the ledger was opened in this process: more often when the disk refused something. What was read before
    /// may be missing since.
    fn openings(&self) -> u64;

    /// Operator decisions and latched brakes: what no service can give back (`keep/`).
    fn decisions(&self) -> Result<Decisions, StoreError>;

    /// Changes them durably, in one step whoever else decides meanwhile; returns them as they were before and after it.
    async fn decide(&self, change: DecisionChange) -> Result<(Decisions, Decisions), StoreError>;

    /// The 128-bit key of all fingerprints.
    fn fingerprint_key(&self) -> [u8; 16];

    /// What was noticed when the ledger was opened; a damaged or short ledger asks for a sweep.
    fn opening(&self) -> Opening;
}

/// Which exports there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportsKept {
    /// How many.
    pub count: u64,
    /// When the one that knows most was made.
    pub newest: Option<Timestamp>,
}

/// What reading the whole ledger found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// Entries that were read; each with its checksum.
    pub entries: u64,
    /// Those by standing.
    pub by_standing: BTreeMap<Standing, u64>,
    /// Intended actions whose outcome is not known.
    pub intended: u64,
    /// History lines.
    pub history: u64,
    /// Last commit number found.
    pub commit: u64,
    /// Last commit number that was made durable, by the notes beside the ledger.
    pub commit_expected: u64,
    /// What is wrong: entries that cannot be read, indices or counters that disagree with them, missing records.
    pub damage: Option<String>,
    /// Exports, the one that knows most first.
    pub exports: Vec<ExportCheck>,
}

impl Check {
    /// The ledger is whole.
    pub fn is_whole(&self) -> bool {
        self.damage.is_none()
    }
}

/// What reading one export found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExportCheck {
    /// Its file.
    pub file: PathBuf,
    /// When it was made.
    pub exported: Timestamp,
    /// Its entries.
    pub entries: u64,
    /// Why it cannot be used.
    pub trouble: Option<String>,
}

/// What opening the ledger found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opening {
    /// It was empty: first start.
    Fresh,
    /// The last process stopped in order.
    Clean,
    /// The last process did not stop in order.
    Unclean,
    /// The newest records are missing; a sweep is due.
    TailLost {
        /// Commit number in the side file.
        expected: u64,
        /// Commit number in the ledger.
        found: u64,
    },
    /// It could not be read and was moved aside.
    MovedAside {
        /// Where it is now.
        to: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A batch of changes to the ledger, recorded in one transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Entries to put; `None` removes one.
    pub entries: Vec<(ReferralId, Option<Entry>)>,
    /// The new memo, if it changed.
    pub memo: Option<Memo>,
    /// Intents whose outcome is known now: commit number and referral.
    pub settled: Vec<(u64, ReferralId)>,
    /// Lines for the history.
    pub history: Vec<HistoryLine>,
}

/// An intent as it was put on record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// Commit number.
    pub commit: u64,
    /// What was about to be done.
    pub actions: Vec<IntendedAction>,
}

/// One write that is about to be sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntendedAction {
    /// The referral it is about.
    pub referral: ReferralId,
    /// What kind of write.
    pub kind: ActionKind,
    /// Per group: key, fingerprint of the referral's half, fingerprint of the lead's half about to be written.
    pub groups: Vec<(u32, u64, u64)>,
}

/// The kinds of writes; brakes count by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    /// Create a lead.
    Create,
    /// Update columns of a lead.
    Update,
    /// Disqualify a lead whose referral was closed.
    Disqualify,
    /// Write fields or the lead id to a referral.
    WriteBack,
    /// Accept a referral.
    Accept,
    /// Close a referral.
    Close,
}

impl ActionKind {
    /// Acceptances and closings: the referrals side takes neither back.
    pub fn is_irreversible(self) -> bool {
        match self {
            ActionKind::Accept | ActionKind::Close => true,
            ActionKind::Create | ActionKind::Update | ActionKind::Disqualify | ActionKind::WriteBack => false,
        }
    }
}

impl std::fmt::Display for ActionKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ActionKind::Create => "create",
            ActionKind::Update => "update",
            ActionKind::Disqualify => "disqualify",
            ActionKind::WriteBack => "write-back",
            ActionKind::Accept => "acceptance",
            ActionKind::Close => "closing",
        })
    }
}

/// One line of the history of a referral: at most 64 bytes encoded, no values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// Which referral.
    pub referral: ReferralId,
    /// When.
    pub at: Timestamp,
    /// What was done.
    pub kind: ActionKind,
    /// What came of it: `done`, or the fault in a word.
    pub outcome: String,
}

/// How far one call of [`StateStore::prune_history`] came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Lines removed by this call.
    pub removed: usize,
    /// The end of the history was reached; the next call begins anew.
    pub is_complete: bool,
}

/// How many entries there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// All entries.
    pub entries: u64,
    /// By standing.
    pub by_standing: BTreeMap<Standing, u64>,
    /// Dead letters by cause.
    pub dead_letters: BTreeMap<Cause, u64>,
    /// Entries in trouble that are still tried.
    pub retrying: u64,
    /// Entries by bit of `Entry::holds`.
    pub holds: BTreeMap<u8, u64>,
    /// New referrals that wait for an answer.
    pub unanswered: u64,
}

/// The ledger failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("another daemon holds the state in {directory}{}", .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Locked {
        /// The state directory.
        directory: PathBuf,
        /// Its process, when known.
        pid: Option<u32>,
    },
    /// Written by a newer program.
    #[error(
        "the ledger in {directory} was written by a newer referrald (format {found}, this one reads up to {known})"
    )]
    Newer {
        /// The state directory.
        directory: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Reading or writing failed: disk full, read-only, damage found while running.
    #[error("the ledger failed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}
