//! The outside world on one page: what a cycle needs of it, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::{
    ETag, Entry, Lead, LeadDraft, LeadId, Opportunity, Patch, Referral, ReferralId, RemoteError, Side, Timestamp,
    Watermark,
};

pub use crate::model::Take;

/// Everything a cycle may touch.
#[derive(Clone)]
pub struct Ports {
    /// Where referrals come from.
    pub portal: Arc<dyn Portal>,
    /// Where leads live.
    pub crm: Arc<dyn Crm>,
    /// Where the ledger is kept.
    pub store: Arc<dyn StateStore>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl Ports {
    /// The line to the service of this side.
    pub fn line(&self, side: Side) -> &dyn Line {
        match side {
            Side::Portal => self.portal.line(),
            Side::Crm => self.crm.line(),
        }
    }
}

/// The time, so that histories can run on a paused clock.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The local instant.
    fn now(&self) -> Timestamp;
    /// Waits.
    async fn sleep(&self, duration: Duration);
}

/// Where referrals come from.
#[async_trait]
pub trait Portal: Send + Sync {
    /// Reads one page of a scan. `cursor` is the one the page before ended with; `None` starts the scan.
    async fn page(&self, scan: &Scan, cursor: Option<&Cursor>) -> Result<Page<Referral>, RemoteError>;

    /// Reads one referral. `Fault::Missing` when it does not exist or is not visible.
    async fn get(&self, id: ReferralId) -> Result<Referral, RemoteError>;

    /// Writes one JSON Patch under `If-Match`. Returns the entity when the service sends it, else `None`.
    ///
    /// `Fault::Conflict` when the version is stale. `request` is the idempotency key: the same for replays of one write.
    async fn patch(
        &self,
        id: ReferralId,
        etag: &ETag,
        patch: &Patch,
        request: uuid::Uuid,
    ) -> Result<Option<Referral>, RemoteError>;

    /// The line to the service.
    fn line(&self) -> &dyn Line;
}

/// The line to one service: what can be asked and told of it, whatever is sent over it. Who wraps it hands it on whole.
pub trait Line: Send + Sync {
    /// Until when the service asked us not to send anything; `None` when it is open.
    fn closed_until(&self) -> Option<Timestamp>;

    /// Restores a window that a former process was told of. A longer one that is known already stays.
    fn close_until(&self, until: Timestamp);

    /// Requests sent since the process started, retries included, tokens excluded; items of a batch count singly.
    fn requests_sent(&self) -> u64;

    /// How they were answered.
    fn traffic(&self) -> Traffic;

    /// Limits what is sent from now on; takes the place of what was allowed before. `None` is no limit. A request beyond
    /// it fails with `Fault::Throttled`, unsent.
    fn allow(&self, allowance: Option<Allowance>);
}

/// What became of the requests to one service since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Requests by outcome: `done`, or the fault in a word ([`crate::model::Fault::word`]). Retries count each, a batch is one.
    pub outcomes: std::collections::BTreeMap<String, u64>,
    /// How long the service asked us to leave it alone, all its answers added up, in milliseconds.
    pub asked_to_wait_ms: u64,
}

/// What may still be sent to one service; a request beyond it fails unsent, as `Fault::Throttled` until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// So many requests, retries included …
    pub requests: u64,
    /// … until this instant; from then on nothing is limited.
    pub until: Timestamp,
}

impl Allowance {
    /// Uses up so many requests; the error is the end of a budget that has too few left.
    pub fn take(allowance: &mut Option<Allowance>, items: u32, now: Timestamp) -> Result<(), Timestamp> {
        match allowance {
            Some(Allowance { until, .. }) if *until <= now => *allowance = None,
            Some(Allowance { requests, until }) => match requests.checked_sub(u64::from(items)) {
                Some(left) => *requests = left,
                None => return Err(*until),
            },
            None => {}
        }
        Ok(())
    }

    /// The words of a refusal.
    pub const USED_UP: &str = "today's requests are used up; nothing was sent (requests_per_day)";
}

/// Which referrals to list, in which order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scan {
    /// `updatedDateTime desc`: the newest changes first.
    Recent,
    /// `createdDateTime asc`: every referral; updates do not reshuffle it.
    Sweep,
    /// `status eq 'New'`, oldest first: the peek that begins a catch-up.
    New,
    /// Opt-in filter `updatedDateTime ge`; `Fault::Refused` when the service does not know it.
    ChangedSince(Timestamp),
    /// `engagementId eq`: all referrals of one engagement (partner-center §1.3).
    Engagement(uuid::Uuid),
}

/// One page and how to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The rows in the order of the service.
    pub items: Vec<T>,
    /// Rows that could not be decoded at all: position and reason, without values. An id where one could be read.
    pub defects: Vec<Defect>,
    /// How to read the next page; `None` at the end.
    pub next: Option<Cursor>,
    /// The `Date` header of the answer: server time.
    pub server_time: Option<Timestamp>,
}

/// What changed on the leads side, as far as the first page of each table shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct FirstPages {
    /// As [`Crm::leads_changed_since`] without a cursor.
    pub leads: Page<Lead>,
    /// As [`Crm::opportunities_changed_since`] without a cursor.
    pub opportunities: Page<Opportunity>,
}

/// A row that could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// The row's id text, if it had one.
    pub id: Option<String>,
    /// Why, without values.
    pub reason: String,
}

/// Opaque text that continues a scan; it survives a restart. Never a full URL of a foreign host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub String);

/// Where leads live.
#[async_trait]
pub trait Crm: Send + Sync {
    /// Who we are and where. Checked against the stamp in the ledger.
    async fn identity(&self) -> Result<CrmIdentity, RemoteError>;

    /// Reads what the live organization allows; also (re)configures the adapter's column selection and currencies.
    async fn schema(&self) -> Result<Arc<LeadSchema>, RemoteError>;

    /// True when something has contradicted the schema since [`Crm::schema`] told it: a column or an option is gone, for
    /// example. An adapter that cannot tell says no.
    fn is_schema_doubtful(&self) -> bool;

    /// Leads changed since (`modifiedon ge`), oldest first. Filtered to ours where a referral id column exists: those
    /// with a value there, and `also` these.
    async fn leads_changed_since(
        &self,
        since: Timestamp,
        also: &[LeadId],
        cursor: Option<&Cursor>,
    ) -> Result<Page<Lead>, RemoteError>;

    /// One page of the lead table's changes, by change tracking (dataverse §4.1). `link` is what the page before ended with;
    /// `None` begins anew, with the whole table.
    async fn lead_changes(&self, link: Option<&Cursor>) -> Result<Tracked, RemoteError>;

    /// Opportunities that came from leads, changed since, oldest first.
    async fn opportunities_changed_since(
        &self,
        since: Timestamp,
        cursor: Option<&Cursor>,
    ) -> Result<Page<Opportunity>, RemoteError>;

    /// The first pages of both in one request. `None` when each has to be asked for by itself: there is no such way, or
    /// the answer leaves something open.
    async fn both_changed_since(
        &self,
        leads: Timestamp,
        also: &[LeadId],
        opportunities: Timestamp,
    ) -> Option<Result<FirstPages, RemoteError>>;

    /// Reads leads by id, any number (chunked inside). A lead that is not in the answer was not found by this read.
    async fn leads(&self, ids: &[LeadId]) -> Result<Vec<Lead>, RemoteError>;

    /// Reads one lead. `Fault::Missing` only when the service says that this lead does not exist.
    async fn get(&self, id: LeadId) -> Result<Lead, RemoteError>;

    /// All opportunities of these leads, any number (chunked inside).
    async fn opportunities_of(&self, leads: &[LeadId]) -> Result<Vec<Opportunity>, RemoteError>;

    /// Leads whose referral id column (or subject) is one of these referral ids, batched.
    async fn find(&self, by: FindBy, referrals: &[ReferralId]) -> Result<Vec<Lead>, RemoteError>;

    /// Creates the lead of a referral, only if there is none (`If-None-Match: *`). `Fault::Conflict`: there is one.
    ///
    /// `computed` is the id to use in derived mode; in alternate-key mode the service chooses.
    async fn create(
        &self,
        referral: ReferralId,
        computed: LeadId,
        draft: &LeadDraft,
        request: uuid::Uuid,
    ) -> Result<Lead, RemoteError>;

    /// Updates a lead only if its version is still `etag`. `Fault::Conflict`: it changed; `Fault::Missing`: it is gone.
    async fn update(
        &self,
        id: LeadId,
        etag: &ETag,
        draft: &LeadDraft,
        request: uuid::Uuid,
    ) -> Result<Lead, RemoteError>;

    /// How many writes it is worth to begin at once: those that do not leave yet may gather.
    fn writes_at_once(&self) -> usize;

    /// Reads the lead that the referral's key names in alternate-key mode, else the lead with the computed id.
    /// `Fault::Missing` when there is none.
    async fn get_by_referral(&self, referral: ReferralId, computed: LeadId) -> Result<Lead, RemoteError>;

    /// The line to the service.
    fn line(&self) -> &dyn Line;
}

/// What change tracking answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Tracked {
    /// Some of what changed.
    Page(Changes),
    /// The link is not taken any more: it is too old, or of another selection of columns.
    Expired,
    /// The service keeps no changes for us: why and what to do, for people.
    Off(String),
}

/// One page of changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    /// Leads that are new or changed, of whomever: as they were at some moment since.
    pub changed: Vec<LeadVersion>,
    /// Leads that were deleted, or that we may not see any more: a notice, and no proof.
    pub gone: Vec<LeadId>,
    /// Rows whose id could not be read.
    pub defects: Vec<Defect>,
    /// How to go on.
    pub next: ChangeLink,
    /// The `Date` header of the answer: server time.
    pub server_time: Option<Timestamp>,
}

/// Which version of a lead there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeadVersion {
    /// The lead.
    pub id: LeadId,
    /// Its version.
    pub etag: Option<ETag>,
    /// `modifiedon`.
    pub modified: Option<Timestamp>,
}

/// Where a page of changes leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeLink {
    /// The next page.
    More(Cursor),
    /// This was the last page: what changes from now on.
    Later(Cursor),
}

/// How leads are searched for adoption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindBy {
    /// The configured referral id column.
    ReferralColumn,
    /// The subject equals the referral id, as the flow this product replaces wrote it.
    Subject,
}

/// Who we are in the CRM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrmIdentity {
    /// The organization; a change stops writing.
    pub organization: uuid::Uuid,
    /// Our application user.
    pub user: uuid::Uuid,
    /// Parallelism the service recommends, if it said.
    pub parallelism: Option<u16>,
}

/// What the live organization allows on a lead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeadSchema {
    /// Every column by logical name.
    pub columns: std::collections::BTreeMap<String, ColumnSchema>,
    /// Active currencies by ISO 4217 code: decimal places.
    pub currencies: std::collections::BTreeMap<String, u32>,
    /// The referral id column exists (when one is configured).
    pub has_referral_column: bool,
    /// In alternate-key mode: the key exists and its index is Active. True in derived mode.
    pub is_key_active: bool,
    /// Status codes and the state (0, 1, 2) each belongs to.
    pub status_codes: std::collections::BTreeMap<i32, i32>,
}

/// One lead column.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnSchema {
    /// What it holds.
    pub kind: ColumnKind,
    /// Longest text in UTF-16 code units.
    pub length_max: Option<u32>,
    /// Option numbers of a choice.
    pub options: Option<Vec<i32>>,
    /// The service refuses a lead without it (system required, and not filled in by the service).
    pub is_required: bool,
    /// May be set when creating.
    pub is_creatable: bool,
    /// May be set when updating.
    pub is_updatable: bool,
}

/// What a column holds; decides the canonical form of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Text, single or many lines.
    Text,
    /// Whole number.
    Integer,
    /// Exact decimal, money.
    Money,
    /// Decimal or floating number that is not money.
    Number,
    /// `YYYY-MM-DD`.
    Date,
    /// Instant.
    Instant,
    /// One option of a choice.
    Choice,
    /// True or false.
    Boolean,
    /// Reference to a currency, given as ISO 4217 code.
    Currency,
    /// Any other reference or type: not writable by a mapping.
    Other,
}

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
    async fn keep_export(&self, now: Timestamp, stop: Arc<std::sync::atomic::AtomicBool>) -> Result<(), StoreError>;

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
    pub by_standing: std::collections::BTreeMap<crate::model::Standing, u64>,
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
    pub file: std::path::PathBuf,
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
        to: std::path::PathBuf,
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

/// What is remembered besides entries; at most a few kilobytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memo {
    /// Greatest `updatedDateTime` accounted for.
    pub referrals_seen: Option<Watermark>,
    /// Greatest lead `modifiedon` accounted for.
    pub leads_seen: Option<Watermark>,
    /// Greatest opportunity `modifiedon` accounted for.
    pub opportunities_seen: Option<Watermark>,
    /// Cycles so far: every fifth reads the overlap.
    pub cycles: u64,
    /// A sweep under way.
    pub sweep: Option<SweepCursor>,
    /// When the last sweep was finished.
    pub swept: Option<Timestamp>,
    /// Entries there were when it was finished: what the next one should meet at least.
    pub entries_at_sweep: Option<u64>,
    /// When all linked leads were last read by id.
    pub leads_read: Option<Timestamp>,
    /// The sweep under way looks at unlinked referrals again although they did not change: the configuration did.
    pub is_rescan: bool,
    /// A sweep is due whatever the schedule says (first start, damage, unordered answer).
    pub is_sweep_due: bool,
    /// When an unordered listing last forced a sweep, or a page that cannot be read sent one back to its beginning.
    pub unordered_sweep: Option<Timestamp>,
    /// A reading of all linked leads by id under way: the last referral done.
    pub lead_reading: Option<Option<ReferralId>>,
    /// The CRM organization this ledger belongs to.
    pub crm_organization: Option<uuid::Uuid>,
    /// Our user in it.
    pub crm_user: Option<uuid::Uuid>,
    /// The partner organization this ledger belongs to.
    pub partner_organization: Option<String>,
    /// Windows in which nothing may be sent.
    pub portal_closed_until: Option<Timestamp>,
    /// Windows in which nothing may be sent.
    pub crm_closed_until: Option<Timestamp>,
    /// Requests spent today per side, and the day (days since 1970 in UTC) they belong to.
    pub requests_today: RequestsToday,
    /// When the last cycle that observed both sides ended.
    pub last_success: Option<Timestamp>,
    /// When the last cycle ended, and its report as JSON text without personal data.
    pub last_report: Option<(Timestamp, String)>,
    /// The last stop was orderly.
    pub is_stopped_cleanly: bool,
    /// Hash of mapping, status and write settings of the last cycle; a change has every entry looked at once.
    pub configuration: u64,
    // A memo of an earlier program ends before one of these; nothing is the default of each (`store::sled::codec`).
    /// How far change tracking of leads has come; `None` where leads are polled.
    pub tracking: Option<Tracking>,
    /// What the sweep under way has met: the sum of [`crate::plan::brakes::weight`] over known referrals, each once.
    pub sweep_met: u128,
    /// Referrals of its last page: one that moved onto the next page is not met twice.
    pub sweep_page: Vec<ReferralId>,
    /// Linked leads whose referral id column is empty, as of a master that another lead was merged into: a poll asks for
    /// them by id. The last ones, at most [`crate::cycle::UNNAMED_MAX`].
    pub unnamed: Vec<LeadId>,
}

/// How far change tracking of leads has come (`dataverse.observe = "delta"`). Leads are polled as well until it is
/// [`Tracking::Proven`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Tracking {
    /// The whole table is being read, page by page.
    Whole {
        /// The next page; `None` for the first.
        next: Option<Cursor>,
        /// Pages read so far.
        pages: u32,
    },
    /// The whole table was read: what changed since comes by this link.
    Fresh(Cursor),
    /// What changed since the last pass comes by this link.
    Proven(Cursor),
    /// The service keeps no changes for us.
    Off {
        /// Why, for people.
        why: String,
        /// When it is asked again.
        again: Timestamp,
    },
}

/// A sweep under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SweepCursor {
    /// Where the next page begins; `None` for the first.
    pub cursor: Option<Cursor>,
    /// When it began, in server time: what was updated later is the incremental scan's business.
    pub began: Timestamp,
    /// Pages read so far.
    pub pages: u32,
    /// Known referrals met so far.
    pub met: u64,
}

/// Requests spent on a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestsToday {
    /// Days since 1970-01-01 in UTC.
    pub day: i64,
    /// Sent to the portal.
    pub portal: u64,
    /// Sent to the CRM.
    pub crm: u64,
}

/// How many entries there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// All entries.
    pub entries: u64,
    /// By standing.
    pub by_standing: std::collections::BTreeMap<crate::model::Standing, u64>,
    /// Dead letters by cause.
    pub dead_letters: std::collections::BTreeMap<crate::model::Cause, u64>,
    /// Entries in trouble that are still tried.
    pub retrying: u64,
    /// Entries by bit of `Entry::holds`.
    pub holds: std::collections::BTreeMap<u8, u64>,
    /// New referrals that wait for an answer.
    pub unanswered: u64,
}

/// Operator decisions and latched brakes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decisions {
    /// Writing is suspended by an operator.
    pub is_suspended: bool,
    /// Referrals an operator put on hold.
    pub held: std::collections::BTreeSet<ReferralId>,
    /// Latched brakes by name, with what they hold back.
    pub brakes: std::collections::BTreeMap<String, LatchedBrake>,
    /// Digests of sets that were approved and are not sent yet.
    pub approved: std::collections::BTreeSet<String>,
    /// What is not done yet of approved sets, by brake, as [`crate::plan::brakes::line`] names it: a large set takes several
    /// passes, and what is new meanwhile is no part of it.
    pub let_go: std::collections::BTreeMap<String, std::collections::BTreeSet<String>>,
    /// Instants of the last hour's writes of braked kinds, for the hourly brakes.
    pub closings: Vec<Timestamp>,
    /// As `closings`.
    pub acceptances: Vec<Timestamp>,
    /// Instants at which, in the last hour, a lead was taken for deleted without an approval.
    pub vanished: Vec<Timestamp>,
    /// The last rewrite that was asked for.
    pub backfill: Option<Backfill>,
    /// Tombstones of referrals that were forgotten: keyed hashes of their ids. They are not imported again.
    pub forgotten: std::collections::BTreeSet<u64>,
}

impl Decisions {
    /// The tombstone of a referral under the fingerprint key.
    pub fn tombstone(key: &[u8; 16], id: ReferralId) -> u64 {
        use std::hash::Hasher;
        let mut hasher = siphasher::sip::SipHasher24::new_with_key(key);
        hasher.write(b"forgotten referral");
        hasher.write(id.uuid().as_bytes());
        hasher.finish()
    }

    /// An operator had this referral forgotten.
    pub fn has_forgotten(&self, key: &[u8; 16], id: ReferralId) -> bool {
        !self.forgotten.is_empty() && self.forgotten.contains(&Decisions::tombstone(key, id))
    }
}

/// A rewrite of leads after a change of mapping, asked for by an operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backfill {
    /// When it was asked for; tells it from others.
    pub asked: Timestamp,
    /// Which groups it rewrites.
    pub groups: Groups,
    /// The name of the one group; `None` for all.
    pub group: Option<String>,
    /// Its sweep has begun; a restart goes on with it.
    pub is_begun: bool,
    /// Sweeps begun so far.
    pub rounds: u32,
    /// Leads rewritten so far.
    pub written: u64,
    /// Leads that the sweep under way wanted to rewrite and could not, or not yet.
    pub left: u64,
    /// Somebody looked at the sample and let the rest go.
    pub is_approved: bool,
    /// When it was over; kept so that `status` can tell.
    pub finished: Option<Timestamp>,
}

/// Which mapping groups something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Groups {
    /// Every group.
    All,
    /// The group with this key.
    One(u32),
}

impl Groups {
    /// True for a group it is about.
    pub fn contains(self, key: u32) -> bool {
        match self {
            Groups::All => true,
            Groups::One(one) => one == key,
        }
    }
}

/// A change to the decisions; it sees them as they are at that moment.
pub type DecisionChange = Box<dyn FnOnce(&mut Decisions) + Send>;

/// A brake that holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatchedBrake {
    /// Since when.
    pub since: Timestamp,
    /// How many actions it holds back.
    pub count: u64,
    /// The limit that was exceeded.
    pub limit: u64,
    /// Digest of the exact set: `approve` names it.
    pub digest: String,
    /// One sentence for people.
    pub reason: String,
}

/// The ledger failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("another daemon holds the state in {directory}{}", .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Locked {
        /// The state directory.
        directory: std::path::PathBuf,
        /// Its process, when known.
        pid: Option<u32>,
    },
    /// Written by a newer program.
    #[error(
        "the ledger in {directory} was written by a newer referrald (format {found}, this one reads up to {known})"
    )]
    Newer {
        /// The state directory.
        directory: std::path::PathBuf,
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
