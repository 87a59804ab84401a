//! Every metric in one place: its name, its kind, its labels, what it means, and where in the status it is read.
//!
//! Names are `referrald_noun_unit_total`, in base units; those of the process are the usual ones of every exporter. A label
//! takes values of a short list that does not grow with the data: no ids, no texts of services.

use crate::cycle;
use crate::daemon::findings::{Severity, findings, unready};
use crate::daemon::status::{CYCLE_OUTCOMES, DURATION_BOUNDS_MS, SideStatus, Status, WebhookStatus};
use crate::model::{Cause, Side, Timestamp};
use crate::plan::HOLD_NAMES;
use crate::ports::ActionKind;

use Kind::{Counter, Gauge, Histogram};
use Value::{Buckets, Count, Real};

/// One metric.
pub struct Metric {
    /// Its name, as it is queried.
    pub name: &'static str,
    /// What kind of figure it is.
    pub kind: Kind,
    /// Its labels, in the order of their values.
    pub labels: &'static [&'static str],
    /// What it means, in a sentence.
    pub help: &'static str,
    /// Its samples in a status.
    pub read: fn(&View<'_>) -> Vec<Sample>,
}

/// The kinds of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows, until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size; queried with `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// What figures are read from.
pub struct View<'a> {
    /// How things stand.
    pub status: &'a Status,
    /// `observability.lag_max`.
    pub lag_max: std::time::Duration,
}

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The values of the labels.
    pub labels: Vec<String>,
    /// The figure.
    pub value: Value,
}

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Count(u64),
    /// Any other.
    Real(f64),
    /// Sum, and counts by upper bound.
    Buckets(f64, Vec<(f64, u64)>),
}

/// Every brake there is.
pub const BRAKES: [&str; 12] = [
    "acceptances",
    "closings",
    "disqualifications",
    "creates",
    "updates",
    cycle::ORGANIZATION_BRAKE,
    cycle::VISIBILITY_BRAKE,
    cycle::SWEEP_BRAKE,
    cycle::CLOCK_BRAKE,
    cycle::VANISHED_BRAKE,
    cycle::BACKFILL_BRAKE,
    cycle::OLD_OUTCOMES,
];

const KINDS: [ActionKind; 6] = [
    ActionKind::Create,
    ActionKind::Update,
    ActionKind::Disqualify,
    ActionKind::WriteBack,
    ActionKind::Accept,
    ActionKind::Close,
];

/// Every metric.
pub const CATALOGUE: &[Metric] = &[
    Metric {
        name: "referrald_build_info",
        kind: Gauge,
        labels: &["version"],
        help: "Always 1; the label is the version of the program.",
        read: |view| vec![sample(&[&view.status.version], Count(1))],
    },
    Metric {
        name: "referrald_ready",
        kind: Gauge,
        labels: &[],
        help: "1 when /readyz answers 200: the ledger is usable and both services were observed recently.",
        read: |view| flag(unready(view.status, view.lag_max).is_empty()),
    },
    Metric {
        name: "referrald_findings",
        kind: Gauge,
        labels: &["severity"],
        help: "Things on the status page that want a look (care) or a person now (alarm).",
        read: |view| {
            let found = findings(view.status, view.lag_max);
            let count = |severity| found.iter().filter(|finding| finding.severity == severity).count() as u64;
            vec![sample(&["care"], Count(count(Severity::Care))), sample(&["alarm"], Count(count(Severity::Alarm)))]
        },
    },
    Metric {
        name: "referrald_lag_seconds",
        kind: Gauge,
        labels: &[],
        help: "Age of the last cycle that observed both services; absent before the first and while writing is off.",
        read: |view| view.status.lag_seconds().map(|lag| sample(&[], Count(lag))).into_iter().collect(),
    },
    Metric {
        name: "referrald_cycles_total",
        kind: Counter,
        labels: &["outcome"],
        help: "Cycles that ended: complete, unfinished (work was left), side_down, ledger (it failed) or broken.",
        read: |view| {
            let count = |word: &str| view.status.totals.cycles.get(word).copied().unwrap_or(0);
            CYCLE_OUTCOMES.iter().map(|word| sample(&[word], Count(count(word)))).collect()
        },
    },
    Metric {
        name: "referrald_cycle_duration_seconds",
        kind: Histogram,
        labels: &[],
        help: "How long cycles took.",
        read: |view| {
            let durations = &view.status.totals.durations;
            let bounds = DURATION_BOUNDS_MS.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
            let buckets = bounds.zip(durations.counts).collect();
            vec![sample(&[], Buckets(seconds(durations.sum_ms), buckets))]
        },
    },
    Metric {
        name: "referrald_cycle_running",
        kind: Gauge,
        labels: &[],
        help: "1 while a cycle runs.",
        read: |view| flag(view.status.is_cycle_running),
    },
    Metric {
        name: "referrald_last_sweep_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "When everything was last read to its end.",
        read: |view| instant(view.status.swept),
    },
    Metric {
        name: "referrald_rows_read_total",
        kind: Counter,
        labels: &["side"],
        help: "Rows that cycles read: referrals (partner_center; each once a cycle), leads (dynamics).",
        read: |view| {
            let count = |side| view.status.totals.rows.get(&side).copied().unwrap_or(0);
            SIDES.iter().map(|side| sample(&[word(*side)], Count(count(*side)))).collect()
        },
    },
    Metric {
        name: "referrald_actions_total",
        kind: Counter,
        labels: &["action", "outcome"],
        help: "Writes by kind: done, or failed for the referral's own reason.",
        read: |view| {
            let totals = &view.status.totals;
            let both = [("done", &totals.done), ("failed", &totals.failed)];
            let one = |kind: &ActionKind, outcome: &str, counts: &std::collections::BTreeMap<ActionKind, u64>| {
                sample(&[&kind.to_string().replace('-', "_"), outcome], Count(counts.get(kind).copied().unwrap_or(0)))
            };
            KINDS.iter().flat_map(|kind| both.map(|(outcome, counts)| one(kind, outcome, counts))).collect()
        },
    },
    Metric {
        name: "referrald_writing_enabled",
        kind: Gauge,
        labels: &["mode"],
        help: "1 when writing goes on; 0 when it is off, suspended or stopped. The label is the key `writes`.",
        read: |view| {
            let writing = &view.status.writing;
            let goes_on = writing.mode != "off" && !writing.is_suspended && writing.stopped.is_none();
            vec![sample(&[&writing.mode], Count(goes_on.into()))]
        },
    },
    Metric {
        name: "referrald_referrals",
        kind: Gauge,
        labels: &[],
        help: "Referrals in the ledger: its entries.",
        read: |view| count(view.status.referrals),
    },
    Metric {
        name: "referrald_linked_referrals",
        kind: Gauge,
        labels: &[],
        help: "Referrals with a lead.",
        read: |view| count(view.status.linked),
    },
    Metric {
        name: "referrald_backlog_referrals",
        kind: Gauge,
        labels: &[],
        help: "Referrals that wait for a later cycle.",
        read: |view| count(view.status.backlog),
    },
    Metric {
        name: "referrald_retrying_referrals",
        kind: Gauge,
        labels: &[],
        help: "Referrals that failed and are still tried.",
        read: |view| count(view.status.retrying),
    },
    Metric {
        name: "referrald_dead_letters",
        kind: Gauge,
        labels: &["cause"],
        help: "Referrals we stopped trying, by who said no: partner_center, dynamics, or our own rules.",
        read: |view| {
            let classes = &view.status.dead_letter_classes;
            let count = |class: &str| classes.get(class).copied().unwrap_or(0);
            Cause::CLASSES.iter().map(|class| sample(&[class], Count(count(class)))).collect()
        },
    },
    Metric {
        name: "referrald_held_referrals",
        kind: Gauge,
        labels: &["hold"],
        help: "Referrals with a difference that is left alone, by the name of the hold.",
        read: |view| {
            let count = |name: &str| view.status.holds.get(name).copied().unwrap_or(0);
            HOLD_NAMES.iter().map(|name| sample(&[&snake(name)], Count(count(name)))).collect()
        },
    },
    Metric {
        name: "referrald_left_out_columns",
        kind: Gauge,
        labels: &[],
        help: "Columns of the mapping that are left out for one reason or another.",
        read: |view| count(view.status.left_out.len() as u64),
    },
    Metric {
        name: "referrald_brake_latched",
        kind: Gauge,
        labels: &["brake"],
        help: "1 while the brake holds its kind of writes and waits for `referrald approve`.",
        read: |view| {
            let holds = |name: &str| view.status.brakes.iter().any(|brake| brake.name == name);
            BRAKES.iter().map(|name| sample(&[&snake(name)], Count(holds(name).into()))).collect()
        },
    },
    Metric {
        name: "referrald_unanswered_referrals",
        kind: Gauge,
        labels: &[],
        help: "New referrals that wait for our answer.",
        read: |view| count(view.status.deals.new),
    },
    Metric {
        name: "referrald_expiring_referrals",
        kind: Gauge,
        labels: &[],
        help: "New referrals that expire unanswered within status.deadline_warning.",
        read: |view| count(view.status.deals.expiring),
    },
    Metric {
        name: "referrald_expired_referrals",
        kind: Gauge,
        labels: &[],
        help: "New referrals whose deadline has passed.",
        read: |view| count(view.status.deals.expired),
    },
    Metric {
        name: "referrald_next_deadline_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "The next deadline of a New referral; absent when none is near.",
        read: |view| instant(view.status.deals.next_deadline),
    },
    Metric {
        name: "referrald_side_up",
        kind: Gauge,
        labels: &["side"],
        help: "1 when the last cycle had no trouble with the service as a whole.",
        read: |view| sides(view, |side| Some(Count(side.trouble.is_none().into()))),
    },
    Metric {
        name: "referrald_side_needs_human",
        kind: Gauge,
        labels: &["side"],
        help: "1 when only a person can mend the sign-in.",
        read: |view| sides(view, |side| Some(Count(side.needs_human.into()))),
    },
    Metric {
        name: "referrald_side_closed_until_timestamp_seconds",
        kind: Gauge,
        labels: &["side"],
        help: "The end of the time in which the service asked us to send nothing; absent when it is open.",
        read: |view| sides(view, |side| side.closed_until.map(unix)),
    },
    Metric {
        name: "referrald_requests_total",
        kind: Counter,
        labels: &["side", "outcome"],
        help: "Requests by what came of them: done, or the kind of failure; retries count each, a batch is one, tokens none.",
        read: |view| {
            let sides = view.status.sides.iter();
            sides.flat_map(|(side, status)| requests(*side, status)).collect()
        },
    },
    Metric {
        name: "referrald_retry_after_seconds_total",
        kind: Counter,
        labels: &["side"],
        help: "Time the service asked us to leave it alone, all its answers added up.",
        read: |view| sides(view, |side| Some(Real(seconds(side.traffic.asked_to_wait_ms)))),
    },
    Metric {
        name: "referrald_requests_today",
        kind: Gauge,
        labels: &["side"],
        help: "Requests since 00:00 UTC, over all processes.",
        read: |view| sides(view, |side| Some(Count(side.requests_today))),
    },
    Metric {
        name: "referrald_requests_per_day_limit",
        kind: Gauge,
        labels: &["side"],
        help: "The budget of a day (requests_per_day); 0 is no limit.",
        read: |view| sides(view, |side| Some(Count(side.requests_per_day))),
    },
    Metric {
        name: "referrald_credential_expiry_timestamp_seconds",
        kind: Gauge,
        labels: &["side"],
        help: "When the sign-in ends; absent when that is not known.",
        read: |view| sides(view, |side| side.credential_until.map(unix)),
    },
    Metric {
        name: "referrald_webhook_listening",
        kind: Gauge,
        labels: &[],
        help: "1 when the webhook listens; absent when none is configured.",
        read: |view| webhook(view, |webhook| Some(Count(webhook.trouble.is_none().into()))),
    },
    Metric {
        name: "referrald_webhook_registration_drifted",
        kind: Gauge,
        labels: &[],
        help: "1 when the registration at Partner Center is not what the configuration says.",
        read: |view| webhook(view, |webhook| Some(Count(webhook.registration.is_some().into()))),
    },
    Metric {
        name: "referrald_webhook_deliveries_total",
        kind: Counter,
        labels: &["verdict"],
        help: "Deliveries to the webhook: verified, or the rule that failed.",
        read: |view| {
            let Some(webhook) = &view.status.webhook else { return Vec::new() };
            let verified = crate::trigger::webhook::tally::VERIFIED;
            let none = (!webhook.verdicts.contains_key(verified)).then(|| sample(&[verified], Count(0)));
            let seen = webhook.verdicts.iter().map(|(verdict, count)| sample(&[&snake(verdict)], Count(*count)));
            none.into_iter().chain(seen).collect()
        },
    },
    Metric {
        name: "referrald_webhook_rings_total",
        kind: Counter,
        labels: &[],
        help: "Cycles that the webhook asked for.",
        read: |view| webhook(view, |webhook| Some(Count(webhook.rings))),
    },
    Metric {
        name: "referrald_webhook_last_ring_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "The last ring; absent before the first.",
        read: |view| webhook(view, |webhook| webhook.last_ring.map(unix)),
    },
    Metric {
        name: "referrald_webhook_certificate_expiry_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "The end of the signing certificate in use; absent before the first verified delivery.",
        read: |view| webhook(view, |webhook| webhook.certificate_until.map(unix)),
    },
    Metric {
        name: "referrald_ledger_usable",
        kind: Gauge,
        labels: &[],
        help: "0 while the ledger cannot be read or written: nothing is sent then.",
        read: |view| flag(view.status.ledger_trouble.is_none()),
    },
    Metric {
        name: "referrald_ledger_size_bytes",
        kind: Gauge,
        labels: &[],
        help: "The ledger's files on disk, looked up once a minute.",
        read: |view| view.status.ledger.bytes_on_disk.map(|bytes| sample(&[], Count(bytes))).into_iter().collect(),
    },
    Metric {
        name: "referrald_exports",
        kind: Gauge,
        labels: &[],
        help: "Exports of the ledger that are kept.",
        read: |view| count(view.status.exports.count),
    },
    Metric {
        name: "referrald_last_export_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "When the newest export was made; absent when there is none.",
        read: |view| instant(view.status.exports.newest),
    },
    Metric {
        name: "referrald_alarms_open",
        kind: Gauge,
        labels: &[],
        help: "Things that were told and are not well again.",
        read: |view| view.status.alarm.iter().map(|alarm| sample(&[], Count(alarm.open.len() as u64))).collect(),
    },
    Metric {
        name: "referrald_alarm_messages_total",
        kind: Counter,
        labels: &["outcome"],
        help: "Messages to the alarm's webhook: delivered, or lost (refused, or too many waited).",
        read: |view| {
            let both = |alarm: &crate::daemon::status::AlarmStatus| {
                [("delivered", alarm.delivered), ("lost", alarm.lost)]
                    .map(|(word, count)| sample(&[word], Count(count)))
            };
            view.status.alarm.iter().flat_map(both).collect()
        },
    },
    Metric {
        name: "process_start_time_seconds",
        kind: Gauge,
        labels: &[],
        help: "When the process started.",
        read: |view| instant(Some(view.status.process.started)),
    },
    Metric {
        name: "process_resident_memory_bytes",
        kind: Gauge,
        labels: &[],
        help: "Resident memory.",
        read: |view| view.status.process.resident_bytes.map(|bytes| sample(&[], Count(bytes))).into_iter().collect(),
    },
    Metric {
        name: "process_cpu_seconds_total",
        kind: Counter,
        labels: &[],
        help: "Processor time, user and system.",
        read: |view| view.status.process.cpu_ms.map(|millis| sample(&[], Real(seconds(millis)))).into_iter().collect(),
    },
    Metric {
        name: "process_open_fds",
        kind: Gauge,
        labels: &[],
        help: "Open file descriptors.",
        read: |view| view.status.process.open_files.map(|files| sample(&[], Count(files))).into_iter().collect(),
    },
];

const SIDES: [Side; 2] = [Side::Portal, Side::Crm];

/// The side as a label.
fn word(side: Side) -> &'static str {
    match side {
        Side::Portal => "partner_center",
        Side::Crm => "dynamics",
    }
}

/// What came of requests, each word from the start: a rate needs a first zero.
const OUTCOMES: [&str; 4] = ["done", "throttled", "unavailable", "unauthorized"];

fn requests(side: Side, status: &SideStatus) -> Vec<Sample> {
    let outcomes = &status.traffic.outcomes;
    let absent = OUTCOMES.iter().filter(|outcome| !outcomes.contains_key(**outcome)).map(|outcome| (*outcome, 0));
    let seen = outcomes.iter().map(|(outcome, count)| (outcome.as_str(), *count));
    seen.chain(absent).map(|(outcome, count)| sample(&[word(side), &snake(outcome)], Count(count))).collect()
}

fn sides(view: &View<'_>, value: impl Fn(&SideStatus) -> Option<Value>) -> Vec<Sample> {
    let sides = view.status.sides.iter();
    sides.filter_map(|(side, status)| Some(sample(&[word(*side)], value(status)?))).collect()
}

fn webhook(view: &View<'_>, value: impl Fn(&WebhookStatus) -> Option<Value>) -> Vec<Sample> {
    view.status.webhook.iter().filter_map(|webhook| Some(sample(&[], value(webhook)?))).collect()
}

fn sample(labels: &[&str], value: Value) -> Sample {
    Sample { labels: labels.iter().map(|label| (*label).to_owned()).collect(), value }
}

fn count(number: u64) -> Vec<Sample> {
    vec![sample(&[], Count(number))]
}

fn flag(is_so: bool) -> Vec<Sample> {
    count(is_so.into())
}

fn instant(at: Option<Timestamp>) -> Vec<Sample> {
    at.map(|at| sample(&[], unix(at))).into_iter().collect()
}

fn unix(at: Timestamp) -> Value {
    Real(at.millis() as f64 / 1000.0)
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// A name as a label: `lead already linked` is `lead_already_linked`.
fn snake(name: &str) -> String {
    name.replace([' ', '-'], "_")
}
