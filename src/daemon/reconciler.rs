//! The engine behind the daemon and the commands: ports, settings and what has to outlive one pass.

use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use siphasher::sip::SipHasher24;
use tokio_util::sync::CancellationToken;

use super::chronicle::{Chronicle, Ended};
use super::nightly::Nightly;
use super::process;
use super::status::{
    BrakeStatus, DEADLINES_LISTED_MAX, Deadline, DealClock, LastCycle, LedgerStatus, SideStatus, Status, Writing,
};
use super::{Beside, DecisionAnswer, DecisionRequest, Detail, Engine, Which};
use crate::config::Settings;
use crate::cycle::{self, Budget, CycleError, Explanation, Forecast, Report, Setup};
use crate::model::{Entry, Fault, ReferralId, RemoteError, Side, Standing, Timestamp};
use crate::plan::mapping::{Mapping, MappingProblem};
use crate::plan::settings::{WriteWhen, Writes};
use crate::plan::{HOLD_NAMES, Policy};
use crate::ports::{Backfill, Batch, Check, CrmIdentity, Decisions, Groups, HistoryLine, LeadSchema, Opening, Ports};

/// How long the CRM's answer to "who are we" is believed.
const IDENTITY_AGE_MAX: Duration = Duration::from_secs(3600);

/// How long the live schema is believed.
const SCHEMA_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// With `writes = "off"` everything is planned anew only this often: nothing is remembered between such passes.
const OFF_INTERVAL: Duration = Duration::from_secs(3600);

/// Entries read at once when a set is looked for.
const SCAN_STEP: usize = 500;

/// Deadlines looked at for the deal clock, so that a status stays quick; there are rarely hundreds.
const DEADLINES_MAX: usize = 10_000;

/// A deal clock over more deadlines than this is counted anew only every [`DEALS_AGE_MAX`].
const DEADLINES_QUICK: usize = 200;

/// See [`DEADLINES_QUICK`].
const DEALS_AGE_MAX: Duration = Duration::from_secs(10);

/// What tells how a side signs in: sentence, and when it ends.
pub type Credential = Arc<dyn Fn() -> (String, Option<Timestamp>) + Send + Sync>;

/// Reads the configuration again; the error is every problem as a sentence.
pub type Reload = Arc<dyn Fn() -> Result<Settings, Vec<String>> + Send + Sync>;

/// The reconcile core with its ports.
pub struct Reconciler {
    ports: Ports,
    settings: Mutex<Arc<Settings>>,
    reload: Option<Reload>,
    credentials: Vec<(Side, Credential)>,
    ground: tokio::sync::Mutex<Ground>,
    meter: Arc<cycle::Meter>,
    is_sweep_asked: AtomicBool,
    is_running: AtomicBool,
    /// How things stood when somebody asked last: shown while the ledger cannot be read.
    last_status: Mutex<Option<Status>>,
    nightly: Arc<Nightly>,
    chronicle: Chronicle,
    size: process::Size,
    /// The deal clock when it took long to count, and when that was.
    deals: Mutex<Option<(Timestamp, DealClock)>>,
    started: Timestamp,
    beside: Mutex<Vec<Arc<dyn Beside>>>,
}

/// What has to outlive one pass and is used by one pass at a time.
#[derive(Default)]
struct Ground {
    schema: Option<(Arc<LeadSchema>, Timestamp)>,
    mapping: Option<Arc<Mapping>>,
    mapped_for: u64,
    configured: Option<(Arc<Settings>, u64)>,
    misfits: Vec<MappingProblem>,
    identity: Option<CrmIdentity>,
    identity_at: Option<Timestamp>,
    has_run: bool,
    planned_off_at: Option<Timestamp>,
}

impl Reconciler {
    /// An engine over these ports. `reload` is what SIGHUP reads again; without it the settings stay.
    pub fn new(
        ports: Ports,
        settings: Settings,
        credentials: Vec<(Side, Credential)>,
        reload: Option<Reload>,
    ) -> Reconciler {
        let started = ports.clock.now();
        Reconciler {
            ports,
            settings: Mutex::new(Arc::new(settings)),
            reload,
            credentials,
            ground: tokio::sync::Mutex::default(),
            meter: Arc::default(),
            is_sweep_asked: AtomicBool::new(false),
            is_running: AtomicBool::new(false),
            last_status: Mutex::default(),
            nightly: Arc::default(),
            chronicle: Chronicle::default(),
            size: process::Size::default(),
            deals: Mutex::default(),
            started,
            beside: Mutex::default(),
        }
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything one pass decides by. Asks the CRM who we are and what it allows, when that is old.
    async fn setup(&self, ground: &mut Ground, is_cycle: bool) -> Result<Setup, RemoteError> {
        let settings = self.settings();
        let now = self.ports.clock.now();
        let is_old = |at: Option<Timestamp>, age: Duration| at.is_none_or(|at| now.since(at) >= age);
        let memo = self.ports.store.memo().unwrap_or_default(); // A ledger that cannot be read ends the pass soon.
        let today = self.meter.today(&self.ports, &memo);
        let may_ask = budgets(&settings).left(Side::Crm, today) != cycle::Left::Nothing;
        let is_old = |at: Option<Timestamp>, age: Duration| at.is_none() || (may_ask && is_old(at, age));
        if is_old(ground.identity_at, IDENTITY_AGE_MAX) {
            match self.ports.crm.identity().await {
                Ok(identity) => {
                    ground.identity = Some(identity);
                    ground.identity_at = Some(now);
                }
                Err(error) if ground.identity.is_none() || ground.schema.is_none() => return Err(error),
                Err(error) => tracing::warn!("the organization could not be asked again: {error}"),
            }
        }
        if is_old(ground.schema.as_ref().map(|(_, at)| *at), SCHEMA_AGE_MAX) {
            match self.ports.crm.schema().await {
                Ok(schema) => {
                    ground.schema = Some((schema, now));
                    ground.mapping = None;
                }
                Err(error) if ground.schema.is_none() => {
                    ground.identity_at = None;
                    return Err(error);
                }
                Err(error) => tracing::warn!("the schema could not be read again, the one read before stays: {error}"),
            }
        }
        let schema = ground.schema.as_ref().map(|(schema, _)| Arc::clone(schema)).unwrap_or_default();
        let configuration = match &ground.configured {
            Some((known, hash)) if Arc::ptr_eq(known, &settings) => *hash,
            Some(_) | None => configuration(&settings),
        };
        ground.configured = Some((Arc::clone(&settings), configuration));
        let mapping = match &ground.mapping {
            Some(mapping) if ground.mapped_for == configuration => Arc::clone(mapping),
            Some(_) | None => {
                let key = self.ports.store.fingerprint_key();
                let (mapping, problems) = Mapping::compile(&settings.mapping, &schema, key);
                for problem in &problems {
                    tracing::warn!("{problem}");
                }
                ground.misfits = problems;
                let mapping = Arc::new(mapping);
                ground.mapping = Some(Arc::clone(&mapping));
                ground.mapped_for = configuration;
                mapping
            }
        };
        let is_first = !ground.has_run;
        ground.has_run |= is_cycle;
        Ok(Setup {
            policy: policy(&settings, mapping, &schema, configuration),
            settings: settings.cycle.clone(),
            brakes: settings.brakes.clone(),
            poll_overlap: settings.dataverse.poll_overlap.get(),
            poll_pages_max: settings.dataverse.poll_pages_max,
            use_updated_filter: settings.partner_center.use_updated_filter,
            adopt: settings.link.adopt.clone(),
            sweep_after_pause: settings.schedule.sweep_on_start_after.get(),
            budgets: budgets(&settings),
            meter: Arc::clone(&self.meter),
            is_first,
            with_values: false,
            is_sweep_asked: is_cycle && self.is_sweep_asked.swap(false, Ordering::Relaxed),
            identity: ground.identity.clone(),
            misfits: ground.misfits.clone(),
            stopped: key_trouble(&settings, &schema),
        })
    }

    /// The report of a pass that could not begin because the CRM does not answer.
    fn could_not_begin(&self, error: &RemoteError) -> Report {
        tracing::warn!(operation = error.operation, request_id = error.request_id.as_deref(), "{error}");
        let mut report = Report { started: self.ports.clock.now(), ..Report::default() };
        report.needs_human = matches!(error.fault, Fault::NeedsHuman | Fault::Unauthorized);
        report.sides.insert(error.side, error.to_string());
        report
    }

    async fn run_cycle(&self, budget: Budget, stop: &CancellationToken) -> Result<Report, CycleError> {
        let mut ground = self.ground.lock().await;
        if self.ports.store.mend().await? {
            ground.has_run = false; // As at the first start: everything is read.
        }
        self.restore_windows()?;
        let setup = loop {
            match self.setup(&mut ground, true).await {
                Ok(setup) => break setup,
                Err(error) => {
                    let wait = match error.fault {
                        Fault::Throttled { until } => until.since(self.ports.clock.now()),
                        _ => Duration::MAX,
                    };
                    if budget == Budget::Unlimited && wait <= cycle::THROTTLE_WAIT_MAX && !stop.is_cancelled() {
                        self.ports.clock.sleep(wait).await;
                        self.restore_windows()?; // It may be another day.
                        continue;
                    }
                    return self.remember_trouble(self.could_not_begin(&error)).await;
                }
            }
        };
        if setup.policy.writes == Writes::Off {
            return self.plan_while_off(setup, &mut ground, budget, stop).await;
        }
        cycle::run(&self.ports, setup, budget, stop).await
    }

    /// Closed windows that a former process was told of hold for the first request of this one, too.
    fn restore_windows(&self) -> Result<(), CycleError> {
        let memo = self.ports.store.memo()?;
        if let Some(until) = memo.portal_closed_until {
            self.ports.portal.close_until(until);
        }
        if let Some(until) = memo.crm_closed_until {
            self.ports.crm.close_until(until);
        }
        self.meter.allow(&self.ports, &memo, budgets(&self.settings()));
        Ok(())
    }

    /// Counts what a look at both services has cost.
    async fn remember_spending(&self) -> Result<(), CycleError> {
        let mut memo = self.ports.store.memo()?;
        self.meter.count(&self.ports, &mut memo);
        Ok(self.ports.store.record(Batch { memo: Some(memo), ..Batch::default() }).await?)
    }

    /// The report of a failed beginning is the last report, too.
    async fn remember_trouble(&self, mut report: Report) -> Result<Report, CycleError> {
        let mut memo = self.ports.store.memo()?;
        memo.portal_closed_until = self.ports.portal.closed_until().or(memo.portal_closed_until);
        memo.crm_closed_until = self.ports.crm.closed_until().or(memo.crm_closed_until);
        self.meter.count(&self.ports, &mut memo);
        report.budgets = budgets(&self.settings()).notes(memo.requests_today);
        if report.left_out.is_empty() {
            let last = memo.last_report.as_ref().and_then(|(_, text)| serde_json::from_str::<Report>(text).ok());
            report.left_out = last.unwrap_or_default().left_out;
        }
        let text = serde_json::to_string(&report).unwrap_or_default();
        memo.last_report = Some((self.ports.clock.now(), text));
        self.ports.store.record(Batch { memo: Some(memo), ..Batch::default() }).await?;
        Ok(report)
    }

    /// With writing off a pass is a forecast: nothing is written and nothing is remembered.
    async fn plan_while_off(
        &self,
        setup: Setup,
        ground: &mut Ground,
        budget: Budget,
        stop: &CancellationToken,
    ) -> Result<Report, CycleError> {
        let now = self.ports.clock.now();
        let reason = "writing is off (writes = \"off\"); `referrald plan` shows what would be done".to_owned();
        let mut report = Report { started: now, is_complete: true, writes_stopped: Some(reason), ..Report::default() };
        let is_recent = ground.planned_off_at.is_some_and(|at| now.since(at) < OFF_INTERVAL);
        if is_recent && budget != Budget::Unlimited {
            return Ok(report);
        }
        ground.planned_off_at = Some(now);
        let forecast = cycle::forecast(&self.ports, setup, stop).await?;
        for sentence in &forecast.actions {
            tracing::info!(referral.id = %sentence.referral, "would {}", sentence.text);
        }
        for sentence in &forecast.holds {
            *report.holds.entry(sentence.kind.clone()).or_default() += 1;
        }
        report.pending = forecast.actions.len() as u64;
        report.left_out = forecast.left_out;
        report.brakes = forecast.brakes;
        report.sides = forecast.sides;
        report.needs_human = forecast.needs_human;
        report.requests = forecast.requests;
        self.remember_trouble(report).await
    }

    /// Changes entries that fit; returns how many, and the named ones that are not known.
    async fn change(
        &self,
        which: &Which,
        mut change: impl FnMut(ReferralId, &mut Entry) -> bool + Send,
    ) -> Result<(u64, Vec<ReferralId>), CycleError> {
        let _ground = self.ground.lock().await; // Not while a pass holds rows.
        let mut entries = Vec::new();
        let mut unknown = Vec::new();
        match which {
            Which::Ids(ids) => {
                for id in ids {
                    match self.ports.store.get(*id)? {
                        Some(mut entry) => {
                            if change(*id, &mut entry) {
                                entries.push((*id, Some(entry)));
                            }
                        }
                        None => unknown.push(*id),
                    }
                }
            }
            Which::Cause(_) | Which::All => {
                let mut after = None;
                loop {
                    let page = self.ports.store.scan(after, SCAN_STEP)?;
                    let Some((last, _)) = page.last() else { break };
                    after = Some(*last);
                    for (id, mut entry) in page {
                        if change(id, &mut entry) {
                            entries.push((id, Some(entry)));
                        }
                    }
                }
            }
        }
        let changed = entries.len() as u64;
        for part in entries.chunks(SCAN_STEP) {
            self.ports.store.record(Batch { entries: part.to_vec(), ..Batch::default() }).await?;
        }
        Ok((changed, unknown))
    }

    async fn retry(&self, which: Which) -> Result<DecisionAnswer, CycleError> {
        let now = self.ports.clock.now();
        let cause = match &which {
            Which::Cause(text) => Some(text.to_lowercase()),
            Which::Ids(_) | Which::All => None,
        };
        let (changed, unknown) = self
            .change(&which, |_, entry| {
                let Some(trouble) = &entry.trouble else { return false };
                let fits = cause.as_ref().is_none_or(|text| trouble.cause.to_string().to_lowercase().contains(text));
                if fits {
                    entry.trouble = None;
                    entry.look_at = Some(now);
                }
                fits
            })
            .await?;
        let text = match changed {
            0 => "no referral that failed fits; `referrald status` lists dead letters by cause".to_owned(),
            _ => format!("{} tried again by the next cycle", referrals(changed)),
        };
        Ok(DecisionAnswer { is_done: changed > 0, changed, text, unknown })
    }

    async fn release(
        &self,
        which: Which,
        group: Option<String>,
        take: Option<crate::model::Take>,
    ) -> Result<DecisionAnswer, CycleError> {
        let now = self.ports.clock.now();
        let wanted = match &group {
            None => None,
            Some(name) => {
                let key = self.ports.store.fingerprint_key();
                let (mapping, _) = Mapping::compile(&self.settings().mapping, &LeadSchema::default(), key);
                let Some(known) = mapping.groups().iter().find(|known| known.name == *name) else {
                    let names: Vec<&str> = mapping.groups().iter().map(|known| known.name.as_str()).collect();
                    let text = format!("there is no mapping group {name:?}; there are {}", names.join(", "));
                    return Ok(DecisionAnswer { text, ..DecisionAnswer::default() });
                };
                Some(known.key)
            }
        };
        let both_changed = crate::plan::Hold::BothMoved { group: String::new(), owner: "" }.bit();
        let freeing = which.clone();
        let is_whole = group.is_none() && take.is_none();
        let lift = move |decisions: &mut Decisions| {
            decisions.held.retain(|id| match &freeing {
                Which::Ids(ids) => !ids.contains(id),
                Which::Cause(_) | Which::All => !is_whole,
            });
        };
        let (before, after) = self.ports.store.decide(Box::new(lift)).await?;
        let freed: std::collections::BTreeSet<ReferralId> = before.held.difference(&after.held).copied().collect();
        let lifted = freed.len() as u64;
        let (changed, unknown) = self
            .change(&which, |id, entry| {
                let mut is_changed = entry.standing == Standing::LeadTaken;
                if is_changed {
                    entry.standing = Standing::Pending; // It searches its lead again.
                }
                // A seller's edit that the owner rule keeps is no hold, and nobody's release touches it.
                let is_held = entry.holds & both_changed != 0 || matches!(which, Which::Ids(_));
                if freed.contains(&id) {
                    // What was seen while it was held was not weighed: both sides are read again.
                    entry.referral_etag = None;
                    entry.link.iter_mut().for_each(|link| link.etag = None);
                    is_changed = true;
                }
                for memory in entry.groups.iter_mut().filter(|memory| wanted.is_none_or(|key| key == memory.group)) {
                    let is_disputed = matches!(memory.base, crate::model::Base::Apart { is_disputed: true, .. });
                    let both_moved = memory.lead_moved.is_some() && memory.referral_moved.is_some();
                    let is_flapping = memory.flips.as_ref().is_some_and(|flips| flips.is_held);
                    let waits = is_disputed || (both_moved && is_held) || is_flapping;
                    if take.is_some() && waits {
                        memory.released = take;
                        is_changed = true;
                    }
                    if is_flapping {
                        memory.flips = None; // Counted anew.
                        is_changed = true;
                    }
                }
                let is_named = matches!(which, Which::Ids(_));
                if is_changed || is_named {
                    entry.look_at = Some(now);
                }
                is_changed || is_named
            })
            .await?;
        let text = match (changed + lifted, take) {
            (0, _) => "nothing is held that this could release; `referrald status` lists holds".to_owned(),
            (_, Some(_)) => format!("{} decided by the next cycle", referrals(changed)),
            (_, None) => format!("{} looked at again by the next cycle", referrals(changed.max(lifted))),
        };
        Ok(DecisionAnswer { is_done: changed + lifted > 0, changed: changed.max(lifted), text, unknown })
    }

    /// Has leads rewritten after a change of mapping, from the next cycle on.
    async fn backfill(&self, group: Option<String>) -> Result<DecisionAnswer, CycleError> {
        let refuse = |text: String| Ok(DecisionAnswer { text, ..DecisionAnswer::default() });
        let settings = self.settings();
        let (mapping, _) =
            Mapping::compile(&settings.mapping, &LeadSchema::default(), self.ports.store.fingerprint_key());
        let groups = match &group {
            None => Groups::All,
            Some(name) => match mapping.groups().iter().find(|known| known.name == *name) {
                Some(known) if known.write == WriteWhen::Create => {
                    return refuse(format!(
                        "the group {name} is written on create only (mapping.groups.{name}.write); with \"always\" it could be rewritten"
                    ));
                }
                Some(known) => Groups::One(known.key),
                None => {
                    let names: Vec<&str> = mapping.groups().iter().map(|known| known.name.as_str()).collect();
                    return refuse(format!("there is no mapping group {name:?}; there are {}", names.join(", ")));
                }
            },
        };
        let job = Backfill {
            asked: self.ports.clock.now(),
            groups,
            group,
            is_begun: false,
            rounds: 0,
            written: 0,
            left: 0,
            is_approved: false,
            finished: None,
        };
        let ours = job.asked;
        let ask = move |decisions: &mut Decisions| {
            if decisions.backfill.as_ref().is_none_or(|before| before.finished.is_some()) {
                decisions.backfill = Some(job);
            }
        };
        let (_, after) = self.ports.store.decide(Box::new(ask)).await?;
        if after.backfill.is_none_or(|job| job.asked != ours) {
            return refuse("a backfill is under way; `referrald backfill --stop` ends it".to_owned());
        }
        let text = match settings.brakes.backfill_sample {
            0 => "the next cycle begins to rewrite what only the mapping made different".to_owned(),
            sample => format!(
                "the next cycle begins to rewrite what only the mapping made different; after {sample} leads it waits for a look (brakes.backfill_sample)"
            ),
        };
        Ok(DecisionAnswer { is_done: true, changed: 0, text, unknown: Vec::new() })
    }

    async fn stop_backfill(&self) -> Result<DecisionAnswer, CycleError> {
        let now = self.ports.clock.now();
        let stop = move |decisions: &mut Decisions| {
            if let Some(job) = decisions.backfill.as_mut().filter(|job| job.finished.is_none()) {
                job.finished = Some(now);
            }
        };
        let (before, after) = self.ports.store.decide(Box::new(stop)).await?;
        let is_done = before.backfill != after.backfill;
        let written = after.backfill.map_or(0, |job| job.written);
        let text = match is_done {
            true => format!("the backfill is over; {written} leads were rewritten"),
            false => "no backfill is under way".to_owned(),
        };
        Ok(DecisionAnswer { is_done, changed: if is_done { written } else { 0 }, text, unknown: Vec::new() })
    }

    async fn approve(&self, digest: String) -> Result<DecisionAnswer, CycleError> {
        if digest == "organization" {
            return self.approve_organization().await;
        }
        let named = digest.clone();
        let approve = move |decisions: &mut Decisions| {
            if !named.is_empty() && decisions.brakes.values().any(|brake| brake.digest == named) {
                decisions.approved.insert(named);
            }
        };
        let (_, after) = self.ports.store.decide(Box::new(approve)).await?;
        let held = after.brakes.iter().find(|(_, brake)| brake.digest == digest && !digest.is_empty());
        let Some((name, brake)) = held else {
            let text = format!("no brake holds a set named {digest}; `referrald status` prints the names of today");
            return Ok(DecisionAnswer { text, ..DecisionAnswer::default() });
        };
        let (name, count) = (name.clone(), brake.count);
        let text = format!("approved: the next cycle sends exactly the {count} that the brake {name} holds back");
        Ok(DecisionAnswer { is_done: true, changed: count, text, unknown: Vec::new() })
    }

    /// Accepts a move to another organization; every id is kept.
    async fn approve_organization(&self) -> Result<DecisionAnswer, CycleError> {
        let mut ground = self.ground.lock().await;
        if !self.ports.store.decisions()?.brakes.contains_key(cycle::ORGANIZATION_BRAKE) {
            let text = "no change of organization is waiting for an approval".to_owned();
            return Ok(DecisionAnswer { text, ..DecisionAnswer::default() });
        }
        let mut memo = self.ports.store.memo()?;
        memo.crm_organization = None;
        memo.partner_organization = None;
        memo.is_sweep_due = true;
        memo.lead_reading = Some(None);
        self.ports.store.record(Batch { memo: Some(memo), ..Batch::default() }).await?;
        self.ports.store.decide(Box::new(|decisions| drop(decisions.brakes.remove(cycle::ORGANIZATION_BRAKE)))).await?;
        ground.identity_at = None;
        let text = "approved: the organizations found next become the ledger's, and everything is read once".to_owned();
        Ok(DecisionAnswer { is_done: true, changed: 1, text, unknown: Vec::new() })
    }

    async fn suspend(&self, is_suspended: bool) -> Result<DecisionAnswer, CycleError> {
        let suspend = move |decisions: &mut Decisions| decisions.is_suspended = is_suspended;
        let (before, after) = self.ports.store.decide(Box::new(suspend)).await?;
        let is_changed = before.is_suspended != after.is_suspended;
        let text = match (is_suspended, is_changed) {
            (true, true) => "writing is suspended; reading goes on, `referrald resume` goes on writing",
            (true, false) => "writing was suspended already",
            (false, true) => "writing goes on with the next cycle",
            (false, false) => "writing was not suspended",
        };
        Ok(DecisionAnswer { is_done: true, changed: u64::from(is_changed), text: text.to_owned(), unknown: Vec::new() })
    }

    async fn hold(&self, ids: Vec<ReferralId>) -> Result<DecisionAnswer, CycleError> {
        let added = ids.clone();
        let (before, after) = self.ports.store.decide(Box::new(move |decisions| decisions.held.extend(added))).await?;
        let changed = (after.held.len() - before.held.len()) as u64;
        let mut unknown = Vec::new();
        for id in ids {
            if self.ports.store.get(id)?.is_none() {
                unknown.push(id);
            }
        }
        let text = format!("{} left alone until `referrald release`", referrals(changed));
        Ok(DecisionAnswer { is_done: true, changed, text, unknown })
    }

    /// Removes everything about referrals; a tombstone keeps each from being imported again.
    async fn forget(&self, ids: Vec<ReferralId>) -> Result<DecisionAnswer, CycleError> {
        let _ground = self.ground.lock().await; // Not while a pass holds rows.
        let store = &self.ports.store;
        let key = store.fingerprint_key();
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for id in ids {
            let is_known =
                store.get(id)?.is_some() || store.recall(id, None).await?.is_some() || !store.history(id)?.is_empty();
            if is_known { known.push(id) } else { unknown.push(id) }
        }
        // The tombstones first: whatever happens next, none of them comes back.
        let named = known.clone();
        let bury = move |decisions: &mut Decisions| {
            decisions.forgotten.extend(named.iter().map(|id| Decisions::tombstone(&key, *id)));
            decisions.held.retain(|id| !named.contains(id));
        };
        store.decide(Box::new(bury)).await?;
        for id in &known {
            store.forget(*id).await?;
        }
        let changed = known.len() as u64;
        let mut text = match changed {
            0 => "none of them is known, so there is nothing to forget".to_owned(),
            _ => format!(
                "{changed} forgotten: entry, history and exports are gone, it is not imported again; leads and referrals \
                 stay as they are"
            ),
        };
        let aside = aside(&self.settings().state.directory);
        if changed > 0 && aside > 0 {
            text.push_str(&format!("; {aside} ledgers that were moved aside may still name it: delete them"));
        }
        Ok(DecisionAnswer { is_done: changed > 0, changed, text, unknown })
    }

    fn sides(
        &self,
        report: &Report,
        now: Timestamp,
    ) -> Result<std::collections::BTreeMap<Side, SideStatus>, CycleError> {
        let settings = self.settings();
        let memo = self.ports.store.memo()?;
        let today = self.meter.today(&self.ports, &memo);
        let budgets = budgets(&settings);
        let mut sides = std::collections::BTreeMap::new();
        for (side, requests, budget, closed) in [
            (Side::Portal, today.portal, settings.partner_center.requests_per_day, memo.portal_closed_until),
            (Side::Crm, today.crm, settings.dataverse.requests_per_day, memo.crm_closed_until),
        ] {
            let credential = self.credentials.iter().find(|(of, _)| *of == side).map(|(_, credential)| credential());
            let ends = credential.as_ref().and_then(|(_, ends)| *ends);
            let days = |end: Timestamp| (end.millis() - now.millis()).div_euclid(86_400_000);
            let trouble = report.sides.get(&side).cloned();
            let status = SideStatus {
                needs_human: report.needs_human && trouble.is_some(),
                trouble,
                closed_until: closed.filter(|until| *until > now),
                requests_today: requests,
                requests_per_day: budget,
                budget: budgets.note(side, today),
                credential: credential.map(|(text, _)| text),
                credential_days_left: ends.map(days),
                credential_until: ends,
                traffic: match side {
                    Side::Portal => self.ports.portal.traffic(),
                    Side::Crm => self.ports.crm.traffic(),
                },
            };
            sides.insert(side, status);
        }
        Ok(sides)
    }

    /// How things stand, by the ledger.
    fn read_status(&self) -> Result<Status, CycleError> {
        let now = self.ports.clock.now();
        let store = &self.ports.store;
        let (memo, counters, decisions) = (store.memo()?, store.counters()?, store.decisions()?);
        let report: Option<Report> = memo.last_report.as_ref().and_then(|(_, text)| serde_json::from_str(text).ok());
        let last_cycle = report.as_ref().map(|report| LastCycle {
            started: report.started,
            duration_ms: report.duration_ms,
            done: report.done.clone(),
            failed: report.failures(),
            pending: report.pending,
            settling: report.settling,
        });
        let report = report.unwrap_or_default();
        let holds = counters
            .holds
            .iter()
            .filter_map(|(bit, count)| HOLD_NAMES.get(usize::from(*bit)).map(|name| ((*name).to_owned(), *count)));
        let pending = counters.by_standing.get(&Standing::Pending).copied().unwrap_or(0);
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now,
            last_cycle,
            is_cycle_running: self.is_running.load(Ordering::Relaxed),
            last_success: memo.last_success,
            writing: Writing {
                mode: self.mode(),
                is_suspended: decisions.is_suspended,
                stopped: report.writes_stopped.clone().filter(|_| !decisions.is_suspended),
            },
            referrals: counters.entries,
            linked: counters.by_standing.get(&Standing::Linked).copied().unwrap_or(0),
            backlog: pending.max(report.pending),
            holds: holds.collect(),
            left_out: report.left_out.clone(),
            dead_letters: counters.dead_letters.iter().map(|(cause, count)| (cause.to_string(), *count)).collect(),
            retrying: counters.retrying,
            brakes: decisions.brakes.iter().map(|(name, brake)| brake_status(name, brake)).collect(),
            sides: self.sides(&report, now)?,
            progress: report.progress.clone(),
            swept: memo.swept,
            deals: self.deals(now)?,
            opening: opening_note(&store.opening()),
            ledger_trouble: None,
            exports: self.nightly.status(store.as_ref()),
            forgotten: decisions.forgotten.len() as u64,
            webhook: None,
            dead_letter_classes: counters.dead_letters.iter().fold(
                Default::default(),
                |mut classes, (cause, count)| {
                    *classes.entry(cause.class().to_owned()).or_default() += count;
                    classes
                },
            ),
            ledger: LedgerStatus { bytes_on_disk: self.size.of(&self.settings().state.directory.join("ledger")) },
            ..Status::default()
        })
    }

    /// How things stand while the ledger cannot be read: as it was known last, and why that is all.
    fn status_without_ledger(&self, last: Option<Status>, error: &CycleError) -> Status {
        let known = match &last {
            Some(last) => format!("what is shown is from {}", last.now),
            None => "nothing is known yet".to_owned(),
        };
        let last = last.unwrap_or_else(|| Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            writing: Writing { mode: self.mode(), ..Writing::default() },
            ..Status::default()
        });
        Status {
            now: self.ports.clock.now(),
            is_cycle_running: self.is_running.load(Ordering::Relaxed),
            writing: Writing { stopped: Some("the ledger cannot be used".to_owned()), ..last.writing },
            ledger_trouble: Some(format!("{error}; nothing is written meanwhile, and {known}")),
            ..last
        }
    }

    /// The key `writes` of the configuration.
    fn mode(&self) -> String {
        let mode = serde_json::to_value(self.settings().writes).ok();
        mode.and_then(|mode| mode.as_str().map(str::to_owned)).unwrap_or_default()
    }

    fn deals(&self, now: Timestamp) -> Result<DealClock, CycleError> {
        let counters = self.ports.store.counters()?;
        let mut clock = DealClock { new: counters.unanswered, ..DealClock::default() };
        if counters.unanswered == 0 {
            return Ok(clock);
        }
        let mut known = self.deals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, clock)) = known
            .as_ref()
            .filter(|(at, clock)| now.since(*at) < DEALS_AGE_MAX && *at <= now && clock.new == counters.unanswered)
        {
            return Ok(clock.clone());
        }
        let soon = now.plus(self.settings().status.deadline_warning.get());
        let deadlines = self.ports.store.deadlines(soon, DEADLINES_MAX)?;
        let is_quick = deadlines.len() <= DEADLINES_QUICK;
        for (id, deadline) in deadlines {
            if deadline <= now {
                clock.expired += 1;
            } else {
                clock.expiring += 1;
            }
            if deadline > now && clock.next.len() < DEADLINES_LISTED_MAX {
                clock.next.push(Deadline { referral: id, at: deadline });
            }
            if clock.next_deadline.is_none() && deadline > now {
                clock.next_deadline = Some(deadline);
                clock.next_referral = Some(id);
            }
        }
        *known = (!is_quick).then(|| (now, clock.clone()));
        Ok(clock)
    }
}

/// A cycle under way: noted when it ends, also when it breaks.
struct Watch<'a> {
    engine: &'a Reconciler,
    began: Timestamp,
    seen: Option<Timestamp>,
    has_ended: bool,
}

impl<'a> Watch<'a> {
    fn begin(engine: &'a Reconciler) -> Watch<'a> {
        engine.is_running.store(true, Ordering::Relaxed);
        let seen = engine.ports.store.memo().ok().and_then(|memo| memo.last_success);
        Watch { engine, began: engine.ports.clock.now(), seen, has_ended: false }
    }

    fn end(mut self, ended: Ended<'_>) {
        self.has_ended = true;
        self.engine.chronicle.note(self.began, self.engine.ports.clock.now(), self.seen, ended);
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.engine.is_running.store(false, Ordering::Relaxed);
        if !self.has_ended && std::thread::panicking() {
            self.engine.chronicle.note(self.began, self.engine.ports.clock.now(), self.seen, Ended::Broken);
        }
    }
}

#[async_trait]
impl Engine for Reconciler {
    async fn cycle(&self, budget: Budget, stop: &CancellationToken) -> Result<Report, CycleError> {
        let watch = Watch::begin(self);
        let result = self.run_cycle(budget, stop).await;
        watch.end(Ended::from(&result));
        if result.is_ok() {
            self.nightly.work(&self.ports, budget == Budget::Unlimited).await;
        }
        result
    }

    async fn forecast(&self, detail: Detail, stop: &CancellationToken) -> Result<Forecast, CycleError> {
        let mut ground = self.ground.lock().await;
        self.restore_windows()?;
        let forecast = match self.setup(&mut ground, false).await {
            Ok(mut setup) => {
                setup.with_values = detail == Detail::Values;
                cycle::forecast(&self.ports, setup, stop).await
            }
            Err(error) => {
                let report = self.could_not_begin(&error);
                Ok(Forecast { sides: report.sides, needs_human: report.needs_human, ..Forecast::default() })
            }
        };
        self.remember_spending().await?; // A forecast remembers nothing else.
        forecast
    }

    async fn explain(
        &self,
        id: uuid::Uuid,
        detail: Detail,
        stop: &CancellationToken,
    ) -> Result<Explanation, CycleError> {
        let mut ground = self.ground.lock().await;
        self.restore_windows()?;
        let explained = match self.setup(&mut ground, false).await {
            Ok(mut setup) => {
                setup.with_values = detail == Detail::Values;
                cycle::explain(&self.ports, setup, id, stop).await
            }
            Err(error) => {
                let report = self.could_not_begin(&error);
                let now = self.ports.clock.now();
                Ok(Explanation { now, asked: id.to_string(), sides: report.sides, ..Explanation::default() })
            }
        };
        self.remember_spending().await?;
        explained
    }

    async fn status(&self) -> Result<Status, CycleError> {
        let read = self.read_status();
        let mut last = self.last_status.lock().unwrap_or_else(PoisonError::into_inner);
        let mut status = match read {
            Ok(status) => {
                *last = Some(status.clone());
                status
            }
            Err(error) => self.status_without_ledger(last.clone(), &error),
        };
        drop(last);
        status.process = process::process(self.started);
        self.chronicle.tell(&mut status);
        for beside in self.beside.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            beside.tell(&mut status);
        }
        Ok(status)
    }

    async fn decide(&self, request: DecisionRequest) -> Result<DecisionAnswer, CycleError> {
        match request {
            DecisionRequest::Suspend => self.suspend(true).await,
            DecisionRequest::Resume => self.suspend(false).await,
            DecisionRequest::Approve { digest } => self.approve(digest).await,
            DecisionRequest::Hold { ids } => self.hold(ids).await,
            DecisionRequest::Release { which, group, take } => self.release(which, group, take).await,
            DecisionRequest::Retry { which } => self.retry(which).await,
            DecisionRequest::Backfill { group: _, is_stop: true } => self.stop_backfill().await,
            DecisionRequest::Backfill { group, is_stop: false } => self.backfill(group).await,
            DecisionRequest::Forget { ids } => self.forget(ids).await,
        }
    }

    fn set_beside(&self, beside: Arc<dyn Beside>) {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner).push(beside);
    }

    fn ask_for_sweep(&self) {
        self.is_sweep_asked.store(true, Ordering::Relaxed);
        self.nightly.begin();
    }

    async fn reload(&self) -> Result<(), Vec<String>> {
        let Some(reload) = &self.reload else { return Ok(()) };
        let settings = reload()?;
        let before = self.settings();
        let is_fixed =
            |name: &str, changed: bool| changed.then(|| format!("{name} changed: restart the daemon to take it over"));
        let fixed: Vec<String> = [
            is_fixed("state.directory", before.state.directory != settings.state.directory),
            is_fixed("identity", before.identity != settings.identity),
            is_fixed("referral_id_column", before.referral_id_column != settings.referral_id_column),
            is_fixed("partner_center", before.partner_center != settings.partner_center),
            is_fixed("dataverse", before.dataverse != settings.dataverse),
            is_fixed("http", before.http != settings.http),
            is_fixed("the columns of the mapping", columns_of(&before) != columns_of(&settings)),
            is_fixed("link.namespace", before.link.namespace != settings.link.namespace),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !fixed.is_empty() {
            return Err(fixed);
        }
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        Ok(())
    }

    async fn history(&self, id: ReferralId) -> Result<Vec<HistoryLine>, CycleError> {
        Ok(self.ports.store.history(id)?)
    }

    async fn check(&self) -> Result<Check, CycleError> {
        Ok(self.ports.store.check().await?)
    }

    async fn export(&self, out: Box<dyn std::io::Write + Send>) -> Result<u64, CycleError> {
        Ok(self.ports.store.export(self.ports.clock.now(), out).await?)
    }

    async fn shutdown(&self) {
        self.nightly.stop().await;
        let _ground = self.ground.lock().await;
        let marked = async {
            let memo = crate::ports::Memo { is_stopped_cleanly: true, ..self.ports.store.memo()? };
            self.ports.store.record(Batch { memo: Some(memo), ..Batch::default() }).await
        };
        if let Err(error) = marked.await {
            tracing::error!("the stop could not be recorded as orderly; the next start reads everything: {error}");
        }
    }
}

fn budgets(settings: &Settings) -> cycle::Budgets {
    cycle::Budgets {
        portal: settings.partner_center.requests_per_day,
        crm: settings.dataverse.requests_per_day,
        urgent_percent: u64::from(settings.cycle.urgent_requests_percent),
    }
}

/// What a plan decides by, from the settings and the live schema.
fn policy(settings: &Settings, mapping: Arc<Mapping>, schema: &LeadSchema, configuration: u64) -> Policy {
    let column = settings.referral_id_column.clone().filter(|_| schema.has_referral_column);
    Policy {
        writes: settings.writes,
        link: settings.link.clone(),
        scope: settings.scope.clone(),
        status: settings.status.clone(),
        retry: settings.retry.clone(),
        mapping,
        on_consent_withdrawn: settings.mapping.on_consent_withdrawn,
        consent_mark_column: settings.mapping.consent_mark_column.clone(),
        referral_column: column,
        is_derived: settings.identity.is_derived(),
        crm_user: None,
        organization: None,
        configuration,
        decisions: Default::default(),
        ignores_delays: false,
    }
}

/// Lead columns that the adapter was opened with.
fn columns_of(settings: &Settings) -> std::collections::BTreeSet<&str> {
    let groups = settings.mapping.groups.values().filter(|group| group.enabled);
    let marked = settings.mapping.consent_mark_column.as_deref();
    groups.flat_map(|group| group.columns.keys().map(String::as_str)).chain(marked).collect()
}

/// In alternate-key mode nothing is written while the key is not active.
fn key_trouble(settings: &Settings, schema: &LeadSchema) -> Option<String> {
    let is_ready = settings.identity.is_derived() || schema.is_key_active;
    (!is_ready).then(|| {
        "the alternate key on the referral id column is missing or not Active: nothing is written; create the key in the maker portal and wait until it is Active (identity, referral_id_column)".to_owned()
    })
}

/// Hash of everything configured that can change a decision.
fn configuration(settings: &Settings) -> u64 {
    // Tests of the mapping decide nothing.
    let mapping = crate::plan::settings::MappingSettings { test: Vec::new(), ..settings.mapping.clone() };
    let text = serde_json::to_string(&(
        &settings.writes,
        &settings.link,
        &settings.scope,
        &mapping,
        &settings.status,
        &settings.referral_id_column,
    ))
    .expect("settings are plain data");
    let mut hasher = SipHasher24::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

fn brake_status(name: &str, brake: &crate::ports::LatchedBrake) -> BrakeStatus {
    let command = match (name, brake.digest.as_str()) {
        (cycle::ORGANIZATION_BRAKE, _) => "referrald approve organization".to_owned(),
        (_, "") => String::new(),
        (_, digest) => format!("referrald approve {digest}"),
    };
    BrakeStatus {
        name: name.to_owned(),
        since: brake.since,
        reason: brake.reason.clone(),
        digest: brake.digest.clone(),
        command,
    }
}

/// `1 referral is`, `3 referrals are`.
fn referrals(count: u64) -> String {
    match count {
        1 => "1 referral is".to_owned(),
        _ => format!("{count} referrals are"),
    }
}

/// How many ledgers that were moved aside lie in a state directory.
fn aside(directory: &std::path::Path) -> usize {
    let Ok(items) = std::fs::read_dir(directory) else { return 0 };
    let is_aside = |name: &str| ["ledger.damaged-", "ledger.aside-"].iter().any(|start| name.starts_with(start));
    items.flatten().filter(|item| is_aside(&item.file_name().to_string_lossy())).count()
}

fn opening_note(opening: &Opening) -> Option<String> {
    match opening {
        Opening::Fresh | Opening::Clean => None,
        Opening::Unclean => Some("the last stop was not in order; everything is read once".to_owned()),
        Opening::TailLost { found: 0, .. } => {
            Some("the ledger was gone; it is rebuilt from both services and the newest export".to_owned())
        }
        Opening::TailLost { expected, found } => Some(format!(
            "the newest records of the ledger are missing (commit {found}, {expected} expected); everything is read once"
        )),
        Opening::MovedAside { to, reason } => Some(format!(
            "the ledger could not be read ({reason}) and was moved to {}; it is rebuilt from both services",
            to.display()
        )),
    }
}
