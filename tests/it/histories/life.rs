//! One history: people and the daemon take turns, then all is calm and the judge comes.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use referrald::cycle::{Budget, Report};
use referrald::daemon::{DecisionRequest, Detail, Engine, Reconciler, Which};
use referrald::model::{ReferralId, Side, Timestamp};
use referrald::plan::HOLD_NAMES;
use referrald::ports::{ActionKind, LatchedBrake, Ports, StateStore};
use referrald::sim::dynamics::Table;
use referrald::sim::faults::FaultPlan;
use referrald::sim::journal::Event;
use referrald::sim::{Checker, DirectCrm, DirectCrmSettings, DirectPortal, SimClock, World};
use referrald::store::{MemoryStore, SledStore};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::detour::Detour;

use super::frail::Frail;
use super::planted::{Plant, PlantedCrm, PlantedPortal, Yard};
use super::script::{Ending, SchemaChange, Script};
use super::{discretion, judge, promises, script};

/// What one history gave.
#[derive(Debug, Default)]
pub struct History {
    /// Broken promises.
    pub found: Vec<String>,
    /// What happened, in order.
    pub log: Vec<String>,
    pub referrals: usize,
    pub edits: u64,
    pub fault_classes: usize,
    pub restarts: u64,
    /// What was done in cycles among people.
    pub kinds: BTreeSet<ActionKind>,
    /// Cycles that the end of their process cut short.
    pub cut_short: usize,
    pub has_lost_ledger: bool,
    /// Faults that were really played, how often.
    pub played: BTreeMap<&'static str, u64>,
}

/// The work budget of a cycle, as by default.
const BUDGET: Budget = Budget::Work(Duration::from_secs(30));
/// How often the tasks of a process that ended are polled until they are gone.
const YIELDS_MAX: usize = 100_000;
/// Every so many rounds an export is kept, as in every night.
const NIGHT_EVERY: usize = 9;
/// Edits between two cycles.
const EDITS_PER_ROUND: usize = 8;
/// Edits of one history at most.
pub const EDITS: u64 = (script::ROUNDS * EDITS_PER_ROUND) as u64;
/// Cycles at rest that must write nothing.
const CYCLES_AT_REST: usize = 5;

/// Where the ledger of this history is.
enum Ledger {
    Memory(Arc<MemoryStore>),
    Sled(tempfile::TempDir, Option<Arc<SledStore>>),
}

struct Life {
    script: Script,
    world: Arc<Mutex<World>>,
    clock: SimClock,
    ledger: Ledger,
    engine: Arc<Reconciler>,
    ports: Ports,
    frail: Arc<Frail>,
    yard: Arc<Yard>,
    /// The ledger as it was some rounds ago.
    earlier: Option<Arc<MemoryStore>>,
    round: usize,
    leads_only_until: Option<Timestamp>,
    /// Passes that could not remember everything: the disk was full, or the process ended.
    unrecorded: Vec<(Timestamp, Timestamp)>,
    /// What was last shown of the watched referral.
    watched: String,
    rng: ChaCha8Rng,
    edited_companies: BTreeSet<Uuid>,
    /// The company that a seller entered last, by lead.
    sellers_companies: BTreeMap<Uuid, Value>,
    /// Every name that a customer ever had over there: a seller who enters one of them agrees with it.
    customers_names: BTreeSet<String>,
    history: History,
}

/// Lives one history to its end.
pub async fn live(mut script: Script) -> History {
    // What the program says is listened to in some histories: it costs time.
    let listens = script.seed % 16 == 3 || script.plant == Some(Plant::TellsNames);
    script.is_told |= listens;
    let clock = SimClock::paused(Timestamp::from_seconds(1_795_000_000));
    let mut world = World::new(script.seed, clock.clone(), script.options());
    world.populate(script.seed, script.referrals);
    world.faults = FaultPlan::only(script.seed, &script.faults, script.odds);
    let customers_names = world.portal.all().filter_map(|(_, document)| customers_name(document)).collect();
    let world = Arc::new(Mutex::new(world));
    let ledger = match script.is_sled {
        true => Ledger::Sled(tempfile::tempdir().unwrap(), None),
        false => Ledger::Memory(Arc::new(MemoryStore::new([script.seed as u8; 16]))),
    };
    let rng = ChaCha8Rng::seed_from_u64(script.seed);
    let mut ledger = ledger;
    let yard = Yard::new(script.plant, Arc::clone(&world));
    let (engine, ports, frail) = engine(&script, 0, &yard, &clock, &mut ledger);
    let mut life = Life {
        leads_only_until: (script.writes_both_from() > 0).then(|| Timestamp::from_millis(i64::MAX)),
        script,
        world,
        clock,
        ledger,
        engine,
        ports,
        frail,
        yard,
        earlier: None,
        round: 0,
        unrecorded: Vec::new(),
        watched: String::new(),
        rng,
        edited_companies: BTreeSet::new(),
        sellers_companies: BTreeMap::new(),
        customers_names,
        history: History::default(),
    };
    let heard = discretion::Heard::default();
    let ear = listens.then(|| tracing::subscriber::set_default(heard.subscriber()));
    life.trouble().await;
    life.calm().await;
    life.rest().await;
    drop(ear);
    life.judge(listens.then_some(&heard));
    life.history
}

fn engine(
    script: &Script,
    round: usize,
    yard: &Arc<Yard>,
    clock: &SimClock,
    ledger: &mut Ledger,
) -> (Arc<Reconciler>, Ports, Arc<Frail>) {
    let world = &yard.world;
    let store: Arc<dyn StateStore> = match ledger {
        Ledger::Memory(store) => store.clone(),
        Ledger::Sled(directory, open) => {
            *open = None;
            let store = Arc::new(referrald::store::open(directory.path(), 1 << 20).unwrap());
            *open = Some(store.clone());
            store
        }
    };
    let settings = script.settings(round);
    let frail = Arc::new(Frail::new(store, yard.plant));
    let crm = DirectCrmSettings {
        is_keyed: script.is_keyed,
        referral_column: settings.referral_id_column.clone(),
        ..DirectCrmSettings::default()
    };
    let ports = Ports {
        portal: Arc::new(Detour(PlantedPortal { inner: DirectPortal::new(world.clone()), yard: Arc::clone(yard) })),
        crm: Arc::new(Detour(PlantedCrm { inner: DirectCrm::new(world.clone(), crm), yard: Arc::clone(yard) })),
        store: frail.clone(),
        clock: Arc::new(clock.clone()),
    };
    (Arc::new(Reconciler::new(ports.clone(), settings, Vec::new(), None)), ports, frail)
}

impl Life {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn store(&self) -> Arc<dyn StateStore> {
        match &self.ledger {
            Ledger::Memory(store) => store.clone(),
            Ledger::Sled(_, store) => store.clone().expect("the ledger is open"),
        }
    }

    fn say(&mut self, line: impl std::fmt::Display) {
        if !self.script.is_told {
            return;
        }
        self.history.log.push(format!("{} {line}", self.clock.at()));
    }

    async fn trouble(&mut self) {
        for round in 0..self.script.rounds {
            self.round = round;
            self.overnight();
            self.people();
            if let Ledger::Memory(store) = &self.ledger
                && round % 5 == 2
            {
                self.earlier = Some(Arc::new(store.restarted(false)));
            }
            let endings: Vec<Ending> =
                self.script.restarts.iter().filter(|(at, _)| *at == round).map(|(_, ending)| *ending).collect();
            for ending in &endings {
                self.end(*ending).await;
            }
            if round % NIGHT_EVERY == NIGHT_EVERY / 2 {
                // A disk without room keeps the export of the night before.
                let _ = self.store().keep_export(self.clock.at(), Arc::default()).await;
            }
            for (_, change) in self.script.changes.clone().into_iter().filter(|(at, _)| *at == round) {
                self.say(format!("the configuration changes: {change:?}"));
                self.end(Ending::Kill).await;
            }
            if let Some((_, healthy, failing)) = self.script.full_disks.iter().find(|(at, ..)| *at == round) {
                self.frail.fill_up(*healthy, *failing);
            }
            let began = self.clock.at();
            let report = self.cycle().await;
            self.history.kinds.extend(report.done.into_keys());
            if self.frail.fill_up(0, 0) {
                self.unrecorded.push((began, self.clock.at()));
            }
            self.operator().await;
        }
        let referrals = self.world().portal.len();
        self.history.referrals = referrals;
        self.history.fault_classes = self.script.faults.len();
        let played = self.world().faults.played().iter().map(|(class, count)| (class.name(), *count)).collect();
        self.history.played = played;
    }

    /// A few edits on both sides, some minutes or hours apart.
    fn people(&mut self) {
        for _ in 0..EDITS_PER_ROUND {
            let pause = match self.rng.random_range(0..40) {
                0 => self.rng.random_range(3_600..14_400),
                1..=20 => self.rng.random_range(1..60),
                _ => self.rng.random_range(60..400),
            };
            self.clock.advance(Duration::from_secs(pause));
            let number = self.history.edits;
            self.history.edits += 1;
            // Each edit has a chance of its own, so that one can be left out without changing the others.
            let mut rng = ChaCha8Rng::seed_from_u64(self.script.seed.wrapping_mul(0x9e37_79b9) ^ number);
            if self.script.muted.iter().any(|muted| muted.contains(&number)) {
                continue;
            }
            let is_old_flow = self.script.has_old_flow && rng.random_bool(0.03);
            let (what, subject) = {
                let mut world = self.world.lock().unwrap();
                let edit = world.random_edit(&mut rng);
                if is_old_flow && edit.what == "a customer sent" {
                    world.add_lead(json!({"subject": edit.subject.to_string(), "lastname": "Flow"})).unwrap();
                }
                (edit.what, edit.subject)
            };
            if what == "a seller renamed the company of" {
                self.edited_companies.insert(subject);
                let company = self.world().crm.value(Table::Lead, subject, "companyname").clone();
                self.sellers_companies.insert(subject, company);
            }
            let name = self.world().portal.get(subject).map(customers_name);
            self.customers_names.extend(name.flatten());
            self.say(format!("{what} {subject}"));
        }
        self.clock.advance(Duration::from_secs(61));
    }

    async fn cycle(&mut self) -> Report {
        let stop = CancellationToken::new();
        let before = self.world().journal.records().len();
        let report = match self.engine.cycle(BUDGET, &stop).await {
            Ok(report) => report,
            Err(error) => {
                self.say(format!("the cycle ended early: {error}"));
                Report::default()
            }
        };
        self.note(&report, before);
        report
    }

    fn note(&mut self, report: &Report, before: usize) {
        if !self.script.is_told {
            return;
        }
        let is_all = std::env::var_os("REFERRALD_HISTORY_ALL").is_some();
        let lines: Vec<String> = {
            let world = self.world();
            let records = world.journal.records()[before..].iter();
            records
                .filter(|record| is_all || matches!(record.method.as_str(), "PATCH" | "POST") || record.fault.is_some())
                .map(|record| {
                    format!(
                        "  {} {} {} -> {} {:?}{}{}",
                        record.operation,
                        record.subject.unwrap_or_default(),
                        record.path.split('?').next().unwrap_or_default(),
                        record.status,
                        record.written,
                        if record.is_delivered { "" } else { " (answer lost)" },
                        record.fault.map(|fault| format!(" [{fault}]")).unwrap_or_default(),
                    )
                })
                .collect()
        };
        lines.into_iter().for_each(|line| self.say(line));
        self.show_watched();
        self.say(format!(
            "cycle: seen {}/{} done {:?} failed {:?} pending {} holds {:?} brakes {:?} sides {:?} stopped {:?}",
            report.referrals_seen,
            report.leads_seen,
            report.done,
            report.failed,
            report.pending,
            report.holds,
            report.brakes.keys().collect::<Vec<_>>(),
            report.sides,
            report.writes_stopped,
        ));
    }

    /// What is remembered of the one referral that somebody who replays a seed wants to watch.
    fn show_watched(&mut self) {
        let watched = std::env::var("REFERRALD_HISTORY_REFERRAL").ok();
        if let Some(id) = watched.as_deref().and_then(ReferralId::parse) {
            let remembered = format!("  remembered: {:?}", self.store().get(id).unwrap());
            if remembered != self.watched {
                self.say(&remembered);
                self.watched = remembered;
            }
        }
    }

    /// An operator looks now and then.
    async fn operator(&mut self) {
        if self.rng.random_bool(0.2) {
            self.approve().await;
        }
        if self.script.is_unattended {
            return;
        }
        if self.rng.random_bool(0.1) {
            self.decide(DecisionRequest::Retry { which: Which::All }).await;
        }
        if self.rng.random_bool(0.05) {
            let ids: Vec<Uuid> = self.world().portal.ids();
            let id = ReferralId::new(ids[self.rng.random_range(0..ids.len())]);
            self.decide(DecisionRequest::Hold { ids: vec![id] }).await;
        }
        if self.rng.random_bool(0.1) {
            self.decide(DecisionRequest::Release { which: Which::All, group: None, take: None }).await;
        }
    }

    async fn decide(&mut self, request: DecisionRequest) {
        let text = match self.engine.decide(request.clone()).await {
            Ok(answer) => answer.text,
            Err(error) => format!("failed: {error}"),
        };
        self.say(format!("operator {request:?}: {text}"));
    }

    /// Latched sets that a person lets go: all of them, or only irreversible writes where nobody looks after the rest.
    fn approvable(&self) -> BTreeMap<String, LatchedBrake> {
        let mut brakes = self.store().decisions().unwrap().brakes;
        let is_unattended = self.script.is_unattended;
        brakes.retain(|name, brake| !brake.digest.is_empty() && (!is_unattended || is_irreversible(name)));
        brakes
    }

    /// Approves latched sets; `false` when there is none.
    async fn approve(&mut self) -> bool {
        let brakes = self.approvable();
        let has_some = !brakes.is_empty();
        for (name, brake) in brakes {
            self.say(format!("the brake {name} holds {}: {}", brake.count, brake.reason));
            self.decide(DecisionRequest::Approve { digest: brake.digest }).await;
        }
        has_some
    }

    /// The process ends and another one begins.
    async fn end(&mut self, ending: Ending) {
        self.say(format!("the process ends: {ending:?}"));
        self.history.restarts += 1;
        match ending {
            Ending::Stop => self.engine.shutdown().await,
            Ending::Kill | Ending::Flip => {}
            Ending::Crash(steps) | Ending::Loss(steps) | Ending::Torn(steps) => {
                let (before, began) = (self.world().journal.records().len(), self.clock.at());
                let engine = self.engine.clone();
                let stop = CancellationToken::new();
                let report = for_steps(steps, engine.cycle(BUDGET, &stop)).await;
                self.history.cut_short += usize::from(report.is_none());
                if report.is_none() {
                    self.unrecorded.push((began, self.clock.at()));
                }
                self.say(format!("it got through its cycle: {}", report.is_some()));
                self.note(&report.and_then(Result::ok).unwrap_or_default(), before);
                // What was not recorded cannot be honoured: it ended in the moment in which it was told.
                let kept = self.store().decisions().unwrap().closed_until;
                for side in [Side::Portal, Side::Crm] {
                    let told = self.ports.line(side).closed_until();
                    if let Some(until) = told.filter(|until| kept.get(&side).is_none_or(|kept| kept < until)) {
                        self.say(format!("{side} asked to be left alone in the last moment"));
                        self.clock.advance(until.since(self.clock.at()));
                    }
                }
            }
        }
        let earlier = self.earlier.take().filter(|_| matches!(ending, Ending::Torn(_)));
        let is_lost = matches!(ending, Ending::Loss(_) | Ending::Flip);
        self.history.has_lost_ledger |= is_lost || matches!(ending, Ending::Torn(_));
        let nothing = Arc::new(MemoryStore::new([0; 16]));
        match &mut self.ledger {
            Ledger::Memory(store) => {
                *store = Arc::new(match earlier {
                    Some(earlier) => store.rolled_back(&earlier),
                    None => store.restarted(is_lost),
                });
            }
            Ledger::Sled(directory, store) => {
                // Sled lets its files go when the last handle does.
                (self.engine, self.ports, self.frail) =
                    engine(&self.script, self.round, &self.yard, &self.clock, &mut Ledger::Memory(nothing));
                // A process that ends takes its tasks along; here they let the files go when they are polled once more.
                let left = store.take().map(|store| Arc::downgrade(&store)).unwrap_or_default();
                for _ in 0..YIELDS_MAX {
                    if left.strong_count() == 0 {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                if is_lost {
                    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
                }
            }
        }
        // Whoever starts first on that day has the new configuration.
        if self.script.writes_both_from() <= self.round {
            let now = self.clock.at();
            self.leads_only_until = self.leads_only_until.map(|until| until.min(now));
        }
        (self.engine, self.ports, self.frail) =
            engine(&self.script, self.round, &self.yard, &self.clock, &mut self.ledger);
    }

    /// Trouble ends; time passes until everything that waits has had its time.
    async fn calm(&mut self) {
        self.world().faults.calm();
        self.frail.fill_up(0, 0);
        self.say("calm");
        if !self.script.is_unattended {
            self.decide(DecisionRequest::Release { which: Which::All, group: None, take: None }).await;
        }
        for (number, pause) in [3_700, 3_700, 4 * 3_600, 4 * 3_600].into_iter().enumerate() {
            self.clock.advance(Duration::from_secs(pause));
            if number % 3 == 0 {
                self.engine.ask_for_sweep(); // When trouble is over, and when everything has settled.
            }
            for _ in 0..4 {
                let report = self.cycle().await;
                let has_approved = self.approve().await;
                self.clock.advance(Duration::from_secs(61));
                if report.writes() == 0 && report.is_complete && !has_approved {
                    break;
                }
            }
        }
        for _ in 0..40 {
            let report = self.cycle().await;
            if report.writes() == 0 && self.approvable().is_empty() && !self.is_settling() {
                break;
            }
            self.approve().await;
            self.clock.advance(Duration::from_secs(3_601));
        }
    }

    /// An outcome was seen and waits for its time, as after a sweep that was under way when trouble ended: the next one
    /// is the first that reads everything.
    fn is_settling(&self) -> bool {
        let bit = HOLD_NAMES.iter().position(|name| *name == "not settled").expect("a hold of this name");
        self.store().counters().unwrap().holds.get(&(bit as u8)).is_some_and(|count| *count > 0)
    }

    /// At rest nothing is written and nothing is planned.
    async fn rest(&mut self) {
        let before = self.world().journal.records().len();
        self.say("rest");
        for number in 0..CYCLES_AT_REST {
            if number == 2 {
                self.engine.ask_for_sweep();
            }
            self.clock.advance(Duration::from_secs(61));
            self.cycle().await;
        }
        let writes: Vec<String> = self.world().journal.records()[before..]
            .iter()
            .filter(|record| matches!(record.method.as_str(), "PATCH" | "POST"))
            .map(|record| format!("{} {} {:?}", record.operation, record.subject.unwrap_or_default(), record.written))
            .collect();
        if !writes.is_empty() {
            self.history.found.push(format!("at rest it still writes: {}", writes.join("; ")));
        }
        self.engine.ask_for_sweep();
        let forecast = self.engine.forecast(Detail::Names, &CancellationToken::new()).await.unwrap();
        for action in &forecast.actions {
            self.history.found.push(format!("at rest it still plans: {}", action.text));
        }
        if !forecast.sides.is_empty() {
            self.history.found.push(format!("at rest a side is down: {:?}", forecast.sides));
        }
    }

    /// An administrator changes the lead table, and a day goes by.
    fn overnight(&mut self) {
        let Some((_, change)) = self.script.schema_change.filter(|(at, _)| *at == self.round) else { return };
        self.say(format!("overnight: {change:?}"));
        let crm = &mut self.world.lock().unwrap().crm;
        match change {
            SchemaChange::OptionRemoved => crm.remove_option(Table::Lead, "leadsourcecode", 4),
            SchemaChange::ColumnRemoved => crm.remove_column(Table::Lead, "numberofemployees"),
            SchemaChange::TextShortened => crm.shorten(Table::Lead, "companyname", 50),
        }
        self.clock.advance(Duration::from_secs(25 * 3_600));
    }

    fn judge(&mut self, heard: Option<&discretion::Heard>) {
        let checker = Checker {
            may_recreate: self.script.may_recreate,
            may_forget_foreign: self.history.has_lost_ledger && !self.script.is_keyed,
            ..Checker::default()
        };
        let found = {
            let world = self.world();
            let mut found = checker.check(&world);
            let has_memory = !self.history.has_lost_ledger && !self.script.has_old_flow;
            let edited = has_memory.then_some(&self.edited_companies);
            found.extend(judge::agreement(&world, self.store().as_ref(), edited));
            if self.script.is_unattended {
                found.extend(judge::recovery(&world, self.store().as_ref()));
            }
            // Owner crm: what a seller entered stays, with and without memory.
            // A lead that was created again after a loss of the ledger, because no referral named it, begins anew.
            let reborn: BTreeSet<Uuid> = world
                .journal
                .events()
                .iter()
                .filter_map(|event| match event {
                    Event::LeadCreated { lead, is_revival: true, .. } => Some(*lead),
                    _ => None,
                })
                .collect();
            let is_judged = |lead: &Uuid| !self.script.may_recreate && !reborn.contains(lead);
            for (lead, entered) in self.sellers_companies.iter().filter(|(lead, _)| is_judged(lead)) {
                let shown = world.crm.value(Table::Lead, *lead, "companyname");
                let is_agreed = entered.as_str().is_some_and(|entered| self.customers_names.contains(entered));
                if !shown.is_null() && shown != entered && !is_agreed {
                    found.push(format!("a seller entered the company {entered} in lead {lead}, and it shows {shown}"));
                }
            }
            let writes = world.journal.writes().count() as u64;
            let upheavals = self.script.upheavals();
            let allowed = self.history.edits + 3 * world.portal.len() as u64;
            if writes > allowed {
                found.push(format!("{writes} writes for {} edits", self.history.edits));
            }
            let terms = promises::Terms {
                settle: Duration::from_secs(600),
                settle_lost: Duration::from_secs(7_200),
                referral_column: self.script.has_column.then_some(script::COLUMN),
                is_derived: !self.script.is_keyed,
                leads_only_until: self.leads_only_until,
                unrecorded: self.unrecorded.clone(),
                upheavals,
            };
            found.extend(promises::broken(&world, &terms));
            found.extend(self.yard.found());
            if let Some(heard) = heard {
                found.extend(discretion::told(&world, self.store().as_ref(), heard, &self.history.log));
            }
            found
        };
        for line in &found {
            self.say(line);
        }
        self.history.found.extend(found);
    }
}

fn customers_name(document: &Value) -> Option<String> {
    document["customerProfile"]["name"].as_str().map(str::to_owned)
}

/// A brake on writes that nobody can take back: the only ones that may wait for a person (P7).
pub fn is_irreversible(brake: &str) -> bool {
    matches!(brake, "closings" | "acceptances")
}

/// Polls a future so many times and drops it if that was not enough: what a crash does.
async fn for_steps<T>(steps: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = steps;
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}
