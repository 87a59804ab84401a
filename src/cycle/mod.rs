//! One pass: observe, plan, apply, record. The only place where the plan meets the ports.
//!
//! ```text
//! stamp → intents → leads and opportunities → referrals → due rows → braked kinds → scans → braked kinds → close
//! ```

mod adoption;
mod apply;
mod backfill;
mod background;
mod braked;
pub mod explain;
mod halves;
mod lane;
mod lone;
mod observe;
mod poll;
mod polls;
mod recent;
pub mod report;
mod rows;
mod sending;
pub mod settings;
pub mod spending;
mod stamps;
mod tracking;
mod write_backs;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::model::{LeadId, ReferralId, RemoteError, Side, Standing, Timestamp};
use crate::plan::{self, Hold, Policy, Row, RowPlan};
use crate::ports::{Batch, Decisions, LatchedBrake, Memo, Ports, StoreError};
use crate::telemetry::commands::{self, worded};

pub use explain::{Explanation, explain};
pub use polls::UNNAMED_MAX;
pub use report::{Forecast, Report, Sentence, Tried};
pub use settings::CycleSettings;
pub use spending::{Budgets, Left, Meter};
pub use tracking::TRACKING_AGAIN;

/// How long a pass may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// What is left after this long is pending; the next pass goes on.
    Work(Duration),
    /// To the end: every scan that is due, and pending rows whether due or not.
    Unlimited,
}

/// What ended a pass before its end.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CycleError {
    /// The ledger could not be read or written: nothing more is sent.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What one pass needs besides the ports.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What the plan decides by; `decisions` and what the CRM says about itself are filled in by the pass.
    pub policy: Policy,
    /// `[cycle]`.
    pub settings: CycleSettings,
    /// `[brakes]`.
    pub brakes: crate::plan::settings::BrakeSettings,
    /// How far behind the watermark a poll of leads begins.
    pub poll_overlap: Duration,
    /// Pages of one poll of leads; beyond, linked leads are read by id.
    pub poll_pages_max: u32,
    /// Changed leads are heard of by change tracking.
    pub tracks_changes: bool,
    /// Ask for `updatedDateTime ge`.
    pub use_updated_filter: bool,
    /// Ways to find an existing lead, in this order.
    pub adopt: Vec<crate::plan::settings::Adopt>,
    /// A pause longer than this before a start asks for a sweep.
    pub sweep_after_pause: Duration,
    /// Daily request budgets.
    pub budgets: Budgets,
    /// Counts the requests of this process.
    pub meter: std::sync::Arc<Meter>,
    /// This is the first pass of this process.
    pub is_first: bool,
    /// A forecast carries the values that would be written, for a person at a terminal.
    pub with_values: bool,
    /// Somebody waits for the next pass; may become true at any time.
    pub is_hurried: std::sync::Arc<std::sync::atomic::AtomicBool>,
    /// The schedule (or a person) asked for a sweep.
    pub is_sweep_asked: bool,
    /// Why nothing may be written, for a reason outside this pass.
    pub stopped: Option<String>,
    /// What of the mapping does not fit the organization.
    pub misfits: Vec<plan::mapping::MappingProblem>,
    /// Who we are in the CRM, when that was read just now: checked against the stamp in the ledger.
    pub identity: Option<crate::ports::CrmIdentity>,
}

/// Runs one pass and reports what came of it.
pub async fn run(ports: &Ports, setup: Setup, budget: Budget, stop: &CancellationToken) -> Result<Report, CycleError> {
    let mut pass = Pass::begin(ports, setup, Mode::Write(budget), stop)?;
    pass.go().await?;
    pass.close().await
}

/// The same path, stopped after the plan: says what the next pass would do, and writes nothing.
pub async fn forecast(ports: &Ports, setup: Setup, stop: &CancellationToken) -> Result<Forecast, CycleError> {
    let mut pass = Pass::begin(ports, setup, Mode::Forecast, stop)?;
    pass.go().await?;
    Ok(pass.into_forecast())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Write(Budget),
    Forecast,
}

/// One pass under way.
struct Pass<'a> {
    ports: &'a Ports,
    stop: &'a CancellationToken,
    setup: Setup,
    mode: Mode,
    memo: Memo,
    decisions: Decisions,
    began: Timestamp,
    requests_before: (u64, u64),
    report: Report,
    forecast: Forecast,
    /// Sides that are down for the rest of the pass.
    down: BTreeMap<Side, RemoteError>,
    /// Rows of braked kinds: they wait until the last page is planned.
    deferred: Vec<(Row, RowPlan)>,
    /// Rows whose lead vanished: they wait for the brake.
    vanished: Vec<(Row, RowPlan)>,
    /// Rows from the leads side that the referrals side has not met yet.
    leads: BTreeMap<ReferralId, Row>,
    /// Writing is stopped as a whole, and why.
    stopped: Option<String>,
    /// Kinds that a brake lets pass in this pass, decided once over the whole plan.
    released: BTreeSet<crate::ports::ActionKind>,
    /// Something read in this pass could not be decided: the watermarks stand still.
    is_incomplete: bool,
    /// The watermarks have been judged in this pass.
    has_advanced: bool,
    /// The leads side was read to its end in this pass: what a lead says is what it says now.
    is_crm_observed: bool,
    /// As far as the leads side was read in this pass, everything is known that a decision needs.
    is_crm_decided: bool,
    /// More leads changed than a pass has room for: the rest comes with the next pass.
    is_poll_full: bool,
    /// What changed on the leads side could not be listed in this pass.
    is_poll_blind: bool,
    /// New referrals were listed before everything else.
    has_peeked: bool,
    /// This pass was shown at least one lead: our rights are not lost.
    is_sighted: bool,
    /// Where the watermarks of the leads side go at the end.
    leads_high: Option<crate::model::Watermark>,
    opportunities_high: Option<crate::model::Watermark>,
    /// Where change tracking goes on, once what it told has been accounted for.
    tracking_next: Option<crate::ports::Tracking>,
    /// Not all that changed was read: the rest comes with the next pass.
    is_cut: bool,
    /// Writes tried in this pass, by kind.
    attempted: BTreeMap<crate::ports::ActionKind, usize>,
    /// Writing was stopped when the background scans began.
    was_stopped: bool,
    /// Our clock and a service's were too far apart in this pass.
    is_skewed: bool,
    /// Approvals used up in this pass.
    consumed: BTreeSet<String>,
    /// The brake has let the vanished leads of this pass go.
    is_vanish_judged: bool,
    /// The brake on vanished leads held some in this pass.
    has_held_vanished: bool,
    /// The rewrite that is under way in this pass.
    backfill: Option<crate::ports::Backfill>,
    /// Rows decided in this pass already: a later page does not decide them again.
    decided: BTreeSet<ReferralId>,
    /// Rows decided in this pass with a look at their lead: a reading of leads by id does not read it again.
    heard: BTreeSet<ReferralId>,
    /// Rows with a write of ours whose outcome could not be found out: decided by nothing until both sides are read for it.
    unresolved: BTreeSet<ReferralId>,
    /// Rows of which a part could not be read for its own reason, until they are put off.
    unreadable: BTreeMap<ReferralId, RemoteError>,
    /// What each side answered about single ids with a fault of the server (see `lone`).
    troubled: BTreeMap<Side, BTreeSet<uuid::Uuid>>,
    /// A page of the referrals that could not be read, while the service answers otherwise.
    scan_trouble: Option<RemoteError>,
    /// How often the ledger had been opened when the pass began.
    openings: u64,
    /// Writes that go beside everything else.
    write_backs: write_backs::WriteBacks,
    /// What was read for the rows at hand shall not have been read for nothing: their writes are begun although the time is
    /// over.
    finishes: bool,
    /// The page of a sweep after the one that is worked on.
    ahead: Option<background::Ahead>,
    /// How long the last page of a sweep was worked on.
    page_time: Duration,
    /// What was searched for with the page that is worked on.
    found: adoption::Found,
}

impl<'a> Pass<'a> {
    fn begin(ports: &'a Ports, mut setup: Setup, mode: Mode, stop: &'a CancellationToken) -> Result<Self, CycleError> {
        let memo = ports.store.memo()?;
        let decisions = ports.store.decisions()?;
        let began = ports.clock.now();
        setup.policy.decisions = decisions.clone();
        setup.policy.crm_user = memo.crm_user;
        setup.policy.organization.clone_from(&memo.partner_organization);
        setup.policy.ignores_delays = mode == Mode::Write(Budget::Unlimited);
        let mut stopped = setup.stopped.clone();
        let is_stop_wanted = decisions.is_suspended || setup.policy.writes == plan::settings::Writes::Off;
        if decisions.is_suspended {
            stopped = Some(SUSPENDED.to_owned());
        }
        if setup.policy.writes == plan::settings::Writes::Off {
            stopped = Some("writing is off (writes = \"off\"); `referrald plan` shows what would be done".to_owned());
        }
        Ok(Pass {
            requests_before: (ports.portal.line().requests_sent(), ports.crm.line().requests_sent()),
            ports,
            stop,
            setup,
            mode,
            memo,
            decisions,
            began,
            report: Report { started: began, is_stop_wanted, ..Report::default() },
            forecast: Forecast::default(),
            down: BTreeMap::new(),
            deferred: Vec::new(),
            vanished: Vec::new(),
            leads: BTreeMap::new(),
            stopped,
            released: BTreeSet::new(),
            is_incomplete: false,
            has_advanced: false,
            consumed: BTreeSet::new(),
            is_skewed: false,
            was_stopped: false,
            is_crm_observed: false,
            is_crm_decided: false,
            is_poll_full: false,
            is_poll_blind: false,
            has_peeked: false,
            is_sighted: false,
            leads_high: None,
            opportunities_high: None,
            tracking_next: None,
            is_cut: false,
            attempted: BTreeMap::new(),
            is_vanish_judged: false,
            has_held_vanished: false,
            backfill: None,
            decided: BTreeSet::new(),
            heard: BTreeSet::new(),
            unresolved: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            troubled: BTreeMap::new(),
            scan_trouble: None,
            openings: ports.store.openings(),
            write_backs: write_backs::WriteBacks::default(),
            finishes: false,
            ahead: None,
            page_time: Duration::ZERO,
            found: adoption::Found::default(),
        })
    }

    async fn go(&mut self) -> Result<(), CycleError> {
        self.allow();
        self.stamp_crm();
        if self.may_write() {
            self.resolve_intents().await?;
        }
        self.observe_crm().await?;
        self.observe_portal().await?;
        let due = self.due().await?;
        self.leftovers().await?;
        if self.memo.sweep.is_none() && !self.memo.is_sweep_due {
            self.finish_write_backs().await?; // Beside a sweep they go on while it makes leads.
        }
        self.advance();
        self.braked(false).await?;
        self.memo.is_sweep_due |= Self::is_sweep_cheaper(&due) && self.memo.sweep.is_none();
        self.background().await?;
        if !Self::is_sweep_cheaper(&due) && !self.postpones_write_backs() {
            self.due_write_backs(due).await?;
        }
        self.finish_write_backs().await?;
        while self.is_unlimited() && self.write_backs.take_overfull() && self.may_write() {
            self.memo.is_sweep_due |= self.memo.sweep.is_none();
            self.background().await?;
            self.finish_write_backs().await?;
        }
        self.braked(true).await?;
        self.close_write_backs().await?;
        self.note_braked();
        Ok(())
    }

    /// True when this pass may send writes and move its memory.
    fn may_write(&self) -> bool {
        matches!(self.mode, Mode::Write(_)) && self.stopped.is_none() && self.stopping_brake().is_none()
    }

    /// A latched brake that stops all writing, not one kind.
    fn stopping_brake(&self) -> Option<&LatchedBrake> {
        STOPPING_BRAKES.iter().find_map(|name| self.decisions.brakes.get(*name))
    }

    /// True while there is time left and nobody asked to stop.
    fn has_time(&self) -> bool {
        if self.stop.is_cancelled() {
            return false;
        }
        match self.mode {
            Mode::Write(Budget::Work(limit)) => self.ports.clock.now().since(self.began) < limit,
            Mode::Write(Budget::Unlimited) | Mode::Forecast => true,
        }
    }

    fn is_up(&self, side: Side) -> bool {
        !self.down.contains_key(&side)
    }

    /// What is left of a side's budget for today.
    fn left(&self, side: Side) -> Left {
        self.setup.budgets.left(side, self.setup.meter.today(self.ports, &self.memo))
    }

    /// There is enough for work that can wait until tomorrow.
    fn has_enough(&self, side: Side) -> bool {
        self.left(side) == Left::Enough
    }

    /// Renews what the ports may send, and does not even try a side whose budget is used up.
    fn allow(&mut self) {
        self.setup.meter.allow(self.ports, &self.memo, self.setup.budgets);
        for side in [Side::Portal, Side::Crm] {
            if self.left(side) == Left::Nothing {
                let today = self.setup.meter.today(self.ports, &self.memo);
                let until = spending::midnight_after(today.day);
                let fault = crate::model::Fault::Throttled { until };
                let error = RemoteError::new(side, "budget", fault).with_message(crate::ports::Allowance::USED_UP);
                self.down.entry(side).or_insert(error);
            }
        }
    }

    /// The memo on record with the requests so far, to go with what is recorded in the middle of a pass.
    fn counted(&mut self) -> Result<Memo, StoreError> {
        self.setup.meter.count(self.ports, &mut self.memo);
        Ok(Memo { requests_today: self.memo.requests_today, ..self.ports.store.memo()? })
    }

    /// Notes that a side is down for the rest of the pass; trouble with one item does not count.
    fn note_down(&mut self, error: &RemoteError) {
        self.report.needs_human |= error.needs_human();
        self.down.entry(error.side).or_insert_with(|| error.clone());
    }

    /// Waits out a closed window when this pass has no work budget; true when the call is worth repeating.
    async fn waits_out(&mut self, error: &RemoteError) -> bool {
        let crate::model::Fault::Throttled { until } = error.fault else { return false };
        let wait = until.since(self.ports.clock.now());
        let is_patient = self.mode == Mode::Write(Budget::Unlimited) && wait <= THROTTLE_WAIT_MAX;
        if !is_patient || self.stop.run_until_cancelled(self.ports.clock.sleep(wait)).await.is_none() {
            return false;
        }
        self.setup.meter.allow(self.ports, &self.memo, self.setup.budgets); // It may be another day.
        true
    }

    /// Plans rows, reads what is missing, records what was seen and sends what may be sent now.
    async fn process(&mut self, mut rows: Vec<Row>) -> Result<(), CycleError> {
        let waiting: Vec<Row> = rows.extract_if(.., |row| self.unresolved.contains(&row.id)).collect();
        self.restart_outcomes(waiting).await?;
        self.settle_busy(&mut rows).await?;
        self.forget_again(&mut rows).await?;
        if rows.is_empty() {
            return Ok(());
        }
        // A row whose referral was not read may be decided again by the page that lists it.
        self.decided.extend(rows.iter().filter(|row| row.referral.present().is_some()).map(|row| row.id));
        let planned = self.plan_rows(rows).await?;
        self.note_unnamed(&planned);
        self.act(planned).await
    }

    /// The same for a few rows, to their end: without that, a pass whose time goes by while it reads would never write.
    async fn finish(&mut self, rows: Vec<Row>) -> Result<(), CycleError> {
        self.finishes = true;
        let finished = self.process(rows).await;
        self.finishes = false;
        finished
    }

    /// True while more writes may be begun.
    fn may_begin(&self) -> bool {
        self.has_time() || (self.finishes && !self.stop.is_cancelled())
    }

    /// Writes the watermark, the counters and the report. The last act of a pass.
    async fn close(mut self) -> Result<Report, CycleError> {
        if !self.is_skewed && self.down.is_empty() {
            self.unlatch(CLOCK_BRAKE);
        }
        self.keep_decisions().await?;
        let now = self.ports.clock.now();
        self.finish_report(now);
        let counters = self.ports.store.counters()?;
        self.report.pending =
            self.report.pending.max(counters.by_standing.get(&Standing::Pending).copied().unwrap_or(0));
        if self.ports.store.openings() != self.openings {
            // The memo of this pass is older than what the ledger was opened with: what was due then is due still.
            self.memo.is_sweep_due = true;
            self.memo.lead_reading.get_or_insert(None);
        }
        self.memo.cycles += 1;
        self.setup.meter.count(self.ports, &mut self.memo);
        if self.down.is_empty() && self.scan_trouble.is_none() {
            self.memo.last_success = Some(now);
        }
        let text = serde_json::to_string(&self.report).unwrap_or_default();
        self.memo.last_report = Some((now, text));
        let batch = Batch { memo: Some(self.memo), ..Batch::default() };
        self.ports.store.record(batch).await?;
        Ok(self.report)
    }

    /// Writes what this pass decided; what operators decided meanwhile stays.
    pub(super) async fn keep_decisions(&self) -> Result<(), StoreError> {
        let Decisions { brakes, let_go, closings, acceptances, vanished, .. } = self.decisions.clone();
        let consumed = self.consumed.clone();
        let change = move |kept: &mut Decisions| {
            (kept.brakes, kept.closings, kept.acceptances) = (brakes, closings, acceptances);
            (kept.let_go, kept.vanished) = (let_go, vanished);
            kept.approved.retain(|digest| !consumed.contains(digest));
        };
        self.ports.store.decide(Box::new(change)).await?;
        Ok(())
    }

    fn finish_report(&mut self, now: Timestamp) {
        self.report.duration_ms = u64::try_from(now.since(self.began).as_millis()).unwrap_or(u64::MAX);
        self.report.requests.insert(Side::Portal, self.ports.portal.line().requests_sent() - self.requests_before.0);
        self.report.requests.insert(Side::Crm, self.ports.crm.line().requests_sent() - self.requests_before.1);
        for error in self.down.values().chain(&self.scan_trouble) {
            self.report.sides.entry(error.side).or_insert_with(|| error.to_string());
        }
        self.finish_left_out();
        self.report.budgets = self.setup.budgets.notes(self.setup.meter.today(self.ports, &self.memo));
        // A list that waits for an approval stops nothing.
        for (name, brake) in self.decisions.brakes.iter().filter(|(name, _)| *name != OLD_OUTCOMES) {
            self.report.brakes.insert(name.clone(), brake.reason.clone());
        }
        let brake = self.stopping_brake().map(|brake| brake.reason.clone());
        self.report.writes_stopped = self.stopped.clone().or(brake);
        self.report.is_complete = self.down.is_empty() && self.memo.sweep.is_none() && !self.memo.is_sweep_due;
        if let Some(job) = self.decisions.backfill.as_ref().filter(|job| job.finished.is_none()) {
            self.report.progress.push(format!("backfill of {}: {} leads rewritten", backfill::words(job), job.written));
        }
        self.report.progress.extend(self.tracking_words());
        if let Some(sweep) = &self.memo.sweep {
            self.report.progress.push(format!("sweep: {} pages read, {} known referrals met", sweep.pages, sweep.met));
        }
    }

    /// Columns that no referral fills besides those that some do not.
    fn finish_left_out(&mut self) {
        let bit =
            plan::Hold::ColumnSkipped { group: String::new(), column: String::new(), reason: String::new() }.bit();
        let counters = self.ports.store.counters().unwrap_or_default();
        if counters.holds.get(&(bit.trailing_zeros() as u8)).copied().unwrap_or(0) > 0 {
            let last = self.memo.last_report.as_ref().and_then(|(_, text)| serde_json::from_str::<Report>(text).ok());
            for (what, count) in last.unwrap_or_default().left_out {
                let is_of_all = what.starts_with(plan::mapping::KEY_PREFIX);
                if !is_of_all {
                    *self.report.left_out.entry(what).or_default() += count;
                }
            }
        }
        let linked = counters.by_standing.get(&Standing::Linked).copied().unwrap_or(0);
        for misfit in &self.setup.misfits {
            self.report.left_out.insert(misfit.to_string(), linked);
        }
    }

    fn into_forecast(mut self) -> Forecast {
        let now = self.ports.clock.now();
        self.finish_report(now);
        let latched = plan::brakes::brakes(&self.setup.brakes);
        let latched = latched.iter().filter(|brake| self.decisions.brakes.contains_key(brake.name));
        let held: BTreeSet<String> = latched.map(|brake| brake.kind.to_string()).collect();
        let actions = &self.forecast.actions;
        let is_held = self.stopping_brake().is_some() || actions.iter().all(|action| held.contains(&action.kind));
        Forecast {
            is_held: is_held && !actions.is_empty(),
            left_out: self.report.left_out,
            brakes: self.report.brakes,
            sides: self.report.sides,
            needs_human: self.report.needs_human,
            requests: self.report.requests,
            ..self.forecast
        }
    }

    /// Latches a brake (or keeps it latched since before) and says so once.
    fn latch(&mut self, name: &str, latch: LatchedBrake) {
        let since = self.decisions.brakes.get(name).map_or(latch.since, |before| before.since);
        if !self.decisions.brakes.contains_key(name) {
            tracing::warn!(brake = name, "{}", worded(&latch.reason));
        }
        self.decisions.brakes.insert(name.to_owned(), LatchedBrake { since, ..latch });
    }

    fn unlatch(&mut self, name: &str) {
        if self.decisions.brakes.remove(name).is_some() {
            tracing::info!(brake = name, "the brake {name} is released");
        }
    }

    /// Notes holds of a planned row in the report or the forecast. `before` are the bits it had when it was last planned.
    fn note_holds(&mut self, before: u32, plan: &RowPlan) {
        for hold in &plan.holds {
            if let Hold::ColumnSkipped { column, reason, .. } = hold
                && before & hold.bit() == 0
            {
                *self.report.left_out.entry(format!("column {column}: {reason}")).or_default() += 1;
            }
            if let Hold::NotSettled { .. } = hold {
                self.report.settling += 1;
                self.report.pending += 1;
            }
            *self.report.holds.entry(hold.name().to_owned()).or_default() += 1;
            if self.mode == Mode::Forecast {
                self.forecast.holds.push(Sentence {
                    referral: plan.id.to_string(),
                    kind: hold.name().to_owned(),
                    text: commands::about(&format!("hold: referral {}: {hold}", plan.id), plan.id),
                });
            }
        }
    }
}

/// Why nothing is written after `suspend`.
const SUSPENDED: &str = "writing is suspended by an operator; `referrald resume` goes on";

/// The longest closed window that a pass without a work budget waits out.
pub const THROTTLE_WAIT_MAX: Duration = Duration::from_secs(15 * 60);

/// Hops followed from a merged lead to its master.
const MERGE_HOPS_MAX: usize = 10;

/// Brakes that stop all writing.
const STOPPING_BRAKES: [&str; 4] = [ORGANIZATION_BRAKE, VISIBILITY_BRAKE, SWEEP_BRAKE, CLOCK_BRAKE];

/// The CRM or partner organization is another one than the ledger's.
pub const ORGANIZATION_BRAKE: &str = "organization";

/// Known referrals are not listed any more.
pub const VISIBILITY_BRAKE: &str = "visibility";

/// Too many known referrals were missing from a complete listing.
pub const SWEEP_BRAKE: &str = "visibility of a sweep";

/// Our clock and a service's are too far apart.
pub const CLOCK_BRAKE: &str = "clock skew";

/// Many linked leads are gone at once.
pub const VANISHED_BRAKE: &str = "leads vanished";

/// A backfill has rewritten its sample and waits for a look.
pub const BACKFILL_BRAKE: &str = "backfill";

/// Outcomes that are older than their link, listed together for one approval.
pub const OLD_OUTCOMES: &str = "outcomes older than the link";

/// Sorted ids without repeats.
fn distinct(ids: impl IntoIterator<Item = LeadId>) -> Vec<LeadId> {
    ids.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}
