//! The engine behind the daemon and the commands: ports, settings and what has to outlive one pass.

mod decisions;
mod lookout;
mod schema;
mod standing;
mod windows;

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
use super::status::{DealClock, Status};
use super::{Beside, DecisionAnswer, DecisionRequest, Detail, Engine, Prepared};
use crate::config::{Restart, Settings};
use crate::crm::dataverse::settings::Observe;
use crate::cycle::{self, Budget, CycleError, Explanation, Forecast, Report, Setup};
use crate::model::{Fault, ReferralId, RemoteError, Side, Timestamp};
use crate::plan::Policy;
use crate::plan::mapping::{Mapping, MappingProblem};
use crate::plan::settings::Writes;
use crate::ports::{Batch, Check, ColumnSchema, CrmIdentity, HistoryLine, LeadSchema, Memo, Ports};

use lookout::Lookout;
pub use schema::SCHEMA_AGE_DOUBTFUL;
use schema::{LiveSchema, key_trouble};

/// How long the CRM's answer to "who are we" is believed.
const IDENTITY_AGE_MAX: Duration = Duration::from_secs(3600);

/// With `writes = "off"` everything is planned anew only this often: nothing is remembered between such passes.
const OFF_INTERVAL: Duration = Duration::from_secs(3600);

/// What tells how a side signs in, by the settings in force: sentence, and when the first of its credentials ends.
pub type Credential = Arc<dyn Fn(&Settings) -> (String, Option<Timestamp>) + Send + Sync>;

/// Reads the configuration again; the error is every problem as a sentence.
pub type Reload = Arc<dyn Fn() -> Result<Settings, Vec<String>> + Send + Sync>;

/// The reconcile core with its ports.
pub struct Reconciler {
    ports: Ports,
    settings: Mutex<Arc<Settings>>,
    /// What ports and process were opened with: some of it stays until a restart.
    opened_with: Arc<Settings>,
    reload: Option<Reload>,
    credentials: Vec<(Side, Credential)>,
    ground: tokio::sync::Mutex<Ground>,
    meter: Arc<cycle::Meter>,
    is_sweep_asked: AtomicBool,
    /// Somebody waits for the next cycle.
    is_hurried: Arc<AtomicBool>,
    is_running: AtomicBool,
    /// Closed windows of a former process were restored.
    has_windows: AtomicBool,
    /// How things stood when somebody asked last: shown while the ledger cannot be read.
    last_status: Mutex<Option<Status>>,
    /// What the ledger remembered when it could be read last.
    known: Mutex<Option<Memo>>,
    /// What was seen since it cannot be.
    lookout: Mutex<Option<Lookout>>,
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
    schema: LiveSchema,
    mapping: Option<Arc<Mapping>>,
    mapped_for: u64,
    /// Hash of the configuration and of what the mapping takes from the schema.
    fitted: u64,
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
        let opened_with = Arc::new(settings);
        Reconciler {
            ports,
            settings: Mutex::new(Arc::clone(&opened_with)),
            opened_with,
            reload,
            credentials,
            ground: tokio::sync::Mutex::default(),
            meter: Arc::default(),
            is_sweep_asked: AtomicBool::new(false),
            is_hurried: Arc::default(),
            is_running: AtomicBool::new(false),
            has_windows: AtomicBool::new(false),
            last_status: Mutex::default(),
            known: Mutex::default(),
            lookout: Mutex::default(),
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
                Err(error) if ground.identity.is_none() || ground.schema.known().is_none() => return Err(error),
                Err(error) => tracing::warn!("the organization could not be asked again: {error}"),
            }
        }
        self.renew_schema(ground, &settings, may_ask).await?;
        let schema = ground.schema.known().map(Arc::clone).unwrap_or_default();
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
                ground.fitted = fitted(configuration, &settings, &schema);
                mapping
            }
        };
        let is_first = !ground.has_run;
        ground.has_run |= is_cycle;
        Ok(Setup {
            policy: policy(&settings, mapping, &schema, ground.fitted),
            settings: settings.cycle.clone(),
            brakes: settings.brakes.clone(),
            poll_overlap: settings.dataverse.poll_overlap.get(),
            poll_pages_max: settings.dataverse.poll_pages_max,
            tracks_changes: settings.dataverse.observe == Observe::Delta,
            use_updated_filter: settings.partner_center.use_updated_filter,
            adopt: settings.link.adopt.clone(),
            sweep_after_pause: settings.schedule.sweep_on_start_after.get(),
            budgets: budgets(&settings),
            meter: Arc::clone(&self.meter),
            is_first,
            with_values: false,
            is_hurried: Arc::clone(&self.is_hurried),
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
        report.needs_human = error.needs_human();
        report.sides.insert(error.side, error.to_string());
        report
    }

    async fn run_cycle(&self, budget: Budget, stop: &CancellationToken) -> Result<Report, CycleError> {
        let mut ground = self.ground.lock().await;
        self.is_hurried.store(false, Ordering::Relaxed); // This is the cycle that was waited for.
        match self.ready_ledger().await {
            Ok(is_mended) => ground.has_run &= !is_mended, // As at the first start: everything is read.
            Err(error) => {
                stop.run_until_cancelled(self.look_out()).await;
                return Err(error);
            }
        }
        let setup = loop {
            match self.setup(&mut ground, true).await {
                Ok(setup) => break setup,
                Err(error) => {
                    let wait = match error.fault {
                        Fault::Throttled { until } => until.since(self.ports.clock.now()),
                        _ => Duration::MAX,
                    };
                    let is_patient = budget == Budget::Unlimited && wait <= cycle::THROTTLE_WAIT_MAX;
                    if is_patient && stop.run_until_cancelled(self.ports.clock.sleep(wait)).await.is_some() {
                        self.allow()?; // It may be another day.
                        continue;
                    }
                    return self.remember_trouble(self.could_not_begin(&error)).await;
                }
            }
        };
        if setup.policy.writes == Writes::Off {
            return self.plan_while_off(setup, &mut ground, budget, stop).await;
        }
        let is_sweep_asked = setup.is_sweep_asked;
        let result = cycle::run(&self.ports, setup, budget, stop).await;
        if result.is_err() {
            self.is_sweep_asked.fetch_or(is_sweep_asked, Ordering::Relaxed); // Nobody wrote down that it was asked for.
        }
        result
    }

    /// A ledger that can be used; true when it was damaged and is a new one.
    async fn ready_ledger(&self) -> Result<bool, CycleError> {
        let is_mended = self.ports.store.mend().await?;
        self.allow()?;
        Ok(is_mended)
    }

    /// Tells both lines what may still be sent today.
    fn allow(&self) -> Result<(), CycleError> {
        let memo = self.ports.store.memo()?;
        self.meter.allow(&self.ports, &memo, budgets(&self.settings()));
        self.ledger_answers(&memo);
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
        let writes_stopped = Some(reason);
        let mut report =
            Report { started: now, is_complete: true, writes_stopped, is_stop_wanted: true, ..Report::default() };
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
        let result = self.keeping_windows(self.patient_until(stop, self.run_cycle(budget, stop))).await;
        watch.end(Ended::from(&result));
        if result.is_ok() {
            self.nightly.work(&self.ports, budget == Budget::Unlimited).await;
        }
        result
    }

    async fn forecast(&self, detail: Detail, stop: &CancellationToken) -> Result<Forecast, CycleError> {
        let mut ground = self.ground.lock().await;
        self.allow()?;
        let forecast = async {
            match self.setup(&mut ground, false).await {
                Ok(mut setup) => {
                    setup.with_values = detail == Detail::Values;
                    cycle::forecast(&self.ports, setup, stop).await
                }
                Err(error) => {
                    let report = self.could_not_begin(&error);
                    Ok(Forecast { sides: report.sides, needs_human: report.needs_human, ..Forecast::default() })
                }
            }
        };
        let forecast = self.keeping_windows(forecast).await;
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
        self.allow()?;
        let explain = async {
            match self.setup(&mut ground, false).await {
                Ok(mut setup) => {
                    setup.with_values = detail == Detail::Values;
                    cycle::explain(&self.ports, setup, id, stop).await
                }
                Err(error) => {
                    let report = self.could_not_begin(&error);
                    let now = self.ports.clock.now();
                    Ok(Explanation { now, asked: id.to_string(), sides: report.sides, ..Explanation::default() })
                }
            }
        };
        let explained = self.keeping_windows(explain).await;
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
            Err(error) => {
                let mut status = self.status_without_ledger(last.clone(), &error);
                self.tell_lookout(&mut status);
                status
            }
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

    fn hurry(&self) {
        self.is_hurried.store(true, Ordering::Relaxed);
    }

    fn ask_for_sweep(&self) {
        self.is_sweep_asked.store(true, Ordering::Relaxed);
        self.nightly.begin();
    }

    fn prepare(&self) -> Result<Prepared<'_>, Vec<String>> {
        let Some(reload) = &self.reload else { return Ok(Prepared::default()) };
        let settings = reload()?;
        let Restart { refused, later } = Restart::between(&self.opened_with, &settings);
        if !refused.is_empty() {
            let them = if refused.len() == 1 { "it" } else { "them" };
            return Err(vec![format!("{} changed: restart the daemon to take {them} over", refused.join(", "))]);
        }
        let take_over = || *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        Ok(Prepared::new(take_over, later))
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

/// Hash of the configuration together with what decisions take from the schema: a dead letter wakes when either changes.
fn fitted(configuration: u64, settings: &Settings, schema: &LeadSchema) -> u64 {
    let mapped = settings.columns();
    let is_used = |name: &str, column: &ColumnSchema| column.is_required || mapped.contains(name);
    let columns: Vec<_> = schema.columns.iter().filter(|(name, column)| is_used(name, column)).collect();
    let taken = (columns, &schema.currencies, &schema.status_codes, schema.has_referral_column);
    let mut hasher = SipHasher24::new();
    hasher.write_u64(configuration);
    hasher.write(format!("{taken:?}").as_bytes());
    hasher.finish()
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
