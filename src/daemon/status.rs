//! How things stand, on one page. No personal data: ids, counts, instants and our own sentences.
//!
//! This is also the shape of `status --json` and of `GET /status`. Instants are milliseconds since 1970 in UTC, spans are
//! seconds. Fields may be added; none is renamed or removed within a major version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cycle::Tried;
use crate::model::{ReferralId, Side, Timestamp};
use crate::ports::{ActionKind, Traffic};

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the program that answers.
    pub version: String,
    /// When this was put together.
    pub now: Timestamp,
    /// The last cycle that ended; `None` before the first.
    pub last_cycle: Option<LastCycle>,
    /// A cycle is running now.
    pub is_cycle_running: bool,
    /// When the last cycle that observed both sides ended; the lag is `now` minus this.
    pub last_success: Option<Timestamp>,
    /// How far writing goes.
    pub writing: Writing,
    /// Referrals known to the ledger.
    pub referrals: u64,
    /// Referrals with a lead.
    pub linked: u64,
    /// Referrals that wait for a later cycle.
    pub backlog: u64,
    /// Differences left alone, by the name of the hold.
    pub holds: BTreeMap<String, u64>,
    /// Columns that are left out, by column and reason: how many referrals that has concerned.
    pub left_out: BTreeMap<String, u64>,
    /// Referrals we stopped trying, by cause.
    pub dead_letters: BTreeMap<String, u64>,
    /// Referrals that failed and are still tried.
    pub retrying: u64,
    /// Brakes that hold.
    pub brakes: Vec<BrakeStatus>,
    /// Both services.
    pub sides: BTreeMap<Side, SideStatus>,
    /// Background scans under way, a sentence each.
    pub progress: Vec<String>,
    /// When the last sweep was finished.
    pub swept: Option<Timestamp>,
    /// Referrals that wait for our answer.
    pub deals: DealClock,
    /// What was noticed when the ledger was opened, if it needs telling.
    pub opening: Option<String>,
    /// The ledger cannot be used now, in a sentence: nothing is written, and the rest of this page is from before.
    pub ledger_trouble: Option<String>,
    /// Exports of the ledger.
    pub exports: ExportsStatus,
    /// Referrals that an operator had forgotten: they are not imported again.
    pub forgotten: u64,
    /// The webhook; `None` when it does not run.
    pub webhook: Option<WebhookStatus>,
    /// Dead letters by class of their cause ([`crate::model::Cause::CLASSES`]): the same referrals as `dead_letters`.
    pub dead_letter_classes: BTreeMap<String, u64>,
    /// The ledger on disk.
    pub ledger: LedgerStatus,
    /// This process.
    pub process: ProcessStatus,
    /// What happened since this process started.
    pub totals: Totals,
    /// The last cycles, the oldest first, at most [`CYCLES_MAX`]; none from before this process started.
    pub recent_cycles: Vec<CyclePoint>,
    /// The last writes that were tried, the newest first, at most [`ACTIONS_MAX`]; none from before this process started.
    pub recent_actions: Vec<Tried>,
    /// The observability listener; `None` when it does not run.
    pub observability: Option<ListenerStatus>,
    /// Alarms; `None` when this is not the running daemon.
    pub alarm: Option<AlarmStatus>,
}

/// Cycles that are remembered for the charts: two hours at one a minute.
pub const CYCLES_MAX: usize = 120;
/// Writes that are remembered.
pub const ACTIONS_MAX: usize = 20;
/// Deadlines of the deal clock that are listed.
pub const DEADLINES_LISTED_MAX: usize = 20;

impl Status {
    /// Seconds since both sides were last observed; `None` when they never were.
    pub fn lag_seconds(&self) -> Option<u64> {
        self.last_success.map(|at| self.now.since(at).as_secs())
    }
}

/// Exports of the ledger: what supplies bases after it is lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExportsStatus {
    /// How many are kept.
    pub count: u64,
    /// When the newest was made.
    pub newest: Option<Timestamp>,
    /// Why the last one could not be made: a sentence.
    pub trouble: Option<String>,
}

/// The last cycle that ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastCycle {
    /// When it began.
    pub started: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Writes done, by kind.
    pub done: BTreeMap<ActionKind, u64>,
    /// Writes that failed for the referral's own reason.
    pub failed: u64,
    /// Rows left for a later cycle.
    pub pending: u64,
    /// Closings among them that only wait for their settle time.
    pub settling: u64,
}

/// How far writing goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Writing {
    /// The key `writes` of the configuration: `off`, `leads-only` or `both`.
    pub mode: String,
    /// An operator suspended it.
    pub is_suspended: bool,
    /// Why nothing is written although it is switched on: a sentence.
    pub stopped: Option<String>,
}

/// A brake that holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BrakeStatus {
    /// Its name.
    pub name: String,
    /// Since when.
    pub since: Timestamp,
    /// Why: one sentence.
    pub reason: String,
    /// Writes of its kind that it holds back; 0 where it stops all writing.
    pub held: u64,
    /// The limit that was exceeded; 0 where it is no number that decides.
    pub limit: u64,
    /// Names the exact set it holds back.
    pub digest: String,
    /// What to type to let that set go.
    pub command: String,
}

impl BrakeStatus {
    /// The reason without what to type, where that is said beside it.
    pub fn why(&self) -> &str {
        self.reason.split_once("; `referrald approve").map_or(self.reason.as_str(), |(why, _)| why)
    }
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SideStatus {
    /// What is wrong, in a sentence; `None` when nothing is.
    pub trouble: Option<String>,
    /// Only a person can mend it.
    pub needs_human: bool,
    /// It asked us not to send anything before this instant.
    pub closed_until: Option<Timestamp>,
    /// Requests spent since 00:00 UTC.
    pub requests_today: u64,
    /// How many may be spent in a day; 0 is no limit.
    pub requests_per_day: u64,
    /// The day's requests are nearly or wholly used up: what still goes on, and until when.
    pub budget: Option<String>,
    /// How we sign in, in a sentence.
    pub credential: Option<String>,
    /// Days until that ends; `None` when it does not or is not known.
    pub credential_days_left: Option<i64>,
    /// When that ends.
    pub credential_until: Option<Timestamp>,
    /// Requests since this process started, by outcome; retries count each, tokens do not.
    pub traffic: Traffic,
}

/// The webhook since the start of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookStatus {
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Why it does not, in a sentence.
    pub trouble: Option<String>,
    /// What is wrong with the registration at Partner Center, in a sentence.
    pub registration: Option<String>,
    /// Deliveries by verdict: `verified`, or why not.
    pub verdicts: BTreeMap<String, u64>,
    /// Rings that came of them.
    pub rings: u64,
    /// The last ring.
    pub last_ring: Option<Timestamp>,
    /// The last verified delivery.
    pub last_verified: Option<Timestamp>,
    /// The end of the signing certificate in use.
    pub certificate_until: Option<Timestamp>,
}

/// Referrals that wait for our answer (spec: the deal clock).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DealClock {
    /// New referrals in scope.
    pub new: u64,
    /// Those about to expire unanswered.
    pub expiring: u64,
    /// Those that have expired unanswered.
    pub expired: u64,
    /// The next deadline.
    pub next_deadline: Option<Timestamp>,
    /// Whose deadline that is.
    pub next_referral: Option<ReferralId>,
    /// The next deadlines, the nearest first, at most [`DEADLINES_LISTED_MAX`].
    pub next: Vec<Deadline>,
}

/// One deadline of the deal clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deadline {
    /// The referral that expires.
    pub referral: ReferralId,
    /// When.
    pub at: Timestamp,
}

/// The ledger on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LedgerStatus {
    /// Bytes of its files, looked up now and then; `None` when they could not be.
    pub bytes_on_disk: Option<u64>,
}

/// This process, as the system counts it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessStatus {
    /// Its id.
    pub pid: u32,
    /// When the engine was made, which is moments after the process started.
    pub started: Timestamp,
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
    /// Processor time used so far, in milliseconds.
    pub cpu_ms: Option<u64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
}

/// What happened since this process started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Cycles by outcome ([`CYCLE_OUTCOMES`]).
    pub cycles: BTreeMap<String, u64>,
    /// How long they took.
    pub durations: Durations,
    /// Writes done, by kind.
    pub done: BTreeMap<ActionKind, u64>,
    /// Writes that failed for the referral's own reason, by kind.
    pub failed: BTreeMap<ActionKind, u64>,
    /// Rows read by cycles, by side: referrals, and leads.
    pub rows: BTreeMap<Side, u64>,
}

/// How a cycle may end: everything due was read; work was left for the next one; a side was down; the ledger failed;
/// the cycle broke.
pub const CYCLE_OUTCOMES: [&str; 5] = ["complete", "unfinished", "side_down", "ledger", "broken"];

/// How long cycles took: a histogram.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durations {
    /// Cycles that took no longer than the bound with the same index in [`DURATION_BOUNDS_MS`], and longer than the bound
    /// before it; the last number is of all that took longer.
    pub counts: [u64; DURATION_BOUNDS_MS.len() + 1],
    /// All durations added up, in milliseconds.
    pub sum_ms: u64,
}

/// Bounds of the histogram of durations, in milliseconds.
pub const DURATION_BOUNDS_MS: [u64; 11] = [50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000];

/// One cycle, for the charts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CyclePoint {
    /// When it began.
    pub started: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How it ended ([`CYCLE_OUTCOMES`]).
    pub outcome: String,
    /// How old the last look at both sides was when it ended, in seconds; `None` when there had been none.
    pub lag_seconds: Option<u64>,
    /// Writes done.
    pub written: u64,
    /// Writes that failed.
    pub failed: u64,
    /// Requests sent to both services.
    pub requests: u64,
}

/// A listener of ours.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListenerStatus {
    /// Where it listens.
    pub address: Option<String>,
    /// Why it does not, in a sentence; it tries again.
    pub trouble: Option<String>,
    /// Requests answered, by page ([`crate::observability::PAGES`]).
    pub answered: BTreeMap<String, u64>,
    /// Connections turned away because all places were taken.
    pub turned_away: u64,
}

/// Alarms: what is open, and how the messages go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AlarmStatus {
    /// Messages are sent to a webhook, not only to the log.
    pub is_sent: bool,
    /// Why they cannot be sent, in a sentence.
    pub trouble: Option<String>,
    /// What is open, by its name: since when.
    pub open: BTreeMap<String, Timestamp>,
    /// Messages delivered since this process started.
    pub delivered: u64,
    /// Messages given up since this process started: refused, or too many waited.
    pub lost: u64,
    /// Messages that wait for their delivery.
    pub waiting: u64,
}
