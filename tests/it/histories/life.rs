//! One history: people and the daemon take turns, then all is calm and the judge comes.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use referrald::cycle::{Budget, Report};
use referrald::daemon::{DecisionRequest, Detail, Engine, Reconciler, Which};
use referrald::model::{ReferralId, Timestamp};
use referrald::ports::{Ports, StateStore};
use referrald::sim::faults::FaultPlan;
use referrald::sim::{Checker, DirectCrm, DirectCrmSettings, DirectPortal, SimClock, World};
use referrald::store::{MemoryStore, SledStore};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::judge;
use super::script::{Ending, Script};

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
    pub has_lost_ledger: bool,
}

/// The work budget of a cycle, as by default.
const BUDGET: Budget = Budget::Work(Duration::from_secs(30));
/// Every so many rounds it is night: everything is swept, and an export may follow.
const NIGHT_EVERY: usize = 9;
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
    rng: ChaCha8Rng,
    edited_companies: BTreeSet<Uuid>,
    history: History,
}

/// Lives one history to its end.
pub async fn live(script: Script) -> History {
    let clock = SimClock::paused(Timestamp::from_seconds(1_795_000_000));
    let mut world = World::new(script.seed, clock.clone(), script.options());
    world.populate(script.seed, script.referrals);
    world.faults = FaultPlan::only(script.seed, &script.faults, script.odds);
    let world = Arc::new(Mutex::new(world));
    let ledger = match script.is_sled {
        true => Ledger::Sled(tempfile::tempdir().unwrap(), None),
        false => Ledger::Memory(Arc::new(MemoryStore::new([script.seed as u8; 16]))),
    };
    let rng = ChaCha8Rng::seed_from_u64(script.seed);
    let mut ledger = ledger;
    let (engine, ports) = engine(&script, &world, &clock, &mut ledger);
    let history = History::default();
    let mut life =
        Life { script, world, clock, ledger, engine, ports, rng, edited_companies: BTreeSet::new(), history };
    life.trouble().await;
    life.calm().await;
    life.rest().await;
    life.judge();
    life.history
}

fn engine(
    script: &Script,
    world: &Arc<Mutex<World>>,
    clock: &SimClock,
    ledger: &mut Ledger,
) -> (Arc<Reconciler>, Ports) {
    let store: Arc<dyn StateStore> = match ledger {
        Ledger::Memory(store) => store.clone(),
        Ledger::Sled(directory, open) => {
            *open = None;
            let store = Arc::new(referrald::store::open(directory.path(), 1 << 20).unwrap());
            *open = Some(store.clone());
            store
        }
    };
    let settings = script.settings();
    let crm = DirectCrmSettings {
        is_keyed: script.is_keyed,
        referral_column: settings.referral_id_column.clone(),
        ..DirectCrmSettings::default()
    };
    let ports = Ports {
        portal: Arc::new(DirectPortal::new(world.clone())),
        crm: Arc::new(DirectCrm::new(world.clone(), crm)),
        store,
        clock: Arc::new(clock.clone()),
    };
    (Arc::new(Reconciler::new(ports.clone(), settings, Vec::new(), None)), ports)
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
        self.history.log.push(format!("{} {line}", self.clock.at()));
    }

    async fn trouble(&mut self) {
        for round in 0..self.script.rounds {
            self.people();
            let endings: Vec<Ending> =
                self.script.restarts.iter().filter(|(at, _)| *at == round).map(|(_, ending)| *ending).collect();
            for ending in &endings {
                self.end(*ending).await;
            }
            if round % NIGHT_EVERY == NIGHT_EVERY / 2 {
                self.engine.ask_for_sweep();
            }
            self.cycle().await;
            self.operator().await;
        }
        let referrals = self.world().portal.len();
        self.history.referrals = referrals;
        self.history.fault_classes = self.script.faults.len();
    }

    /// A few edits on both sides, some minutes or hours apart.
    fn people(&mut self) {
        for _ in 0..6 {
            let pause = match self.rng.random_range(0..40) {
                0 => self.rng.random_range(3_600..14_400),
                1..=20 => self.rng.random_range(1..60),
                _ => self.rng.random_range(60..400),
            };
            self.clock.advance(Duration::from_secs(pause));
            let mut rng = self.rng.clone();
            let is_old_flow = self.script.has_old_flow && rng.random_bool(0.03);
            let (what, subject) = {
                let mut world = self.world.lock().unwrap();
                let edit = world.random_edit(&mut rng);
                if is_old_flow && edit.what == "a customer sent" {
                    world.add_lead(json!({"subject": edit.subject.to_string(), "lastname": "Flow"})).unwrap();
                }
                (edit.what, edit.subject)
            };
            self.rng = rng;
            if what == "a seller renamed the company of" {
                self.edited_companies.insert(subject);
            }
            self.history.edits += 1;
            self.say(format!("{what} {subject}"));
        }
        self.clock.advance(Duration::from_secs(61));
    }

    async fn cycle(&mut self) -> Report {
        let stop = CancellationToken::new();
        let before = self.world().journal.records().len();
        let report = self.engine.cycle(BUDGET, &stop).await.unwrap();
        self.note(&report, before);
        report
    }

    fn note(&mut self, report: &Report, before: usize) {
        let lines: Vec<String> = {
            let world = self.world();
            let records = world.journal.records()[before..].iter();
            records
                .filter(|record| matches!(record.method.as_str(), "PATCH" | "POST") || record.fault.is_some())
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

    /// An operator looks now and then.
    async fn operator(&mut self) {
        if self.rng.random_bool(0.2) {
            self.approve().await;
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
        let answer = self.engine.decide(request.clone()).await.unwrap();
        self.say(format!("operator {request:?}: {}", answer.text));
    }

    /// Approves every latched set; `false` when there is none.
    async fn approve(&mut self) -> bool {
        let brakes = self.store().decisions().unwrap().brakes;
        let has_some = brakes.values().any(|brake| !brake.digest.is_empty());
        for (name, brake) in brakes.into_iter().filter(|(_, brake)| !brake.digest.is_empty()) {
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
            Ending::Kill => {}
            Ending::Crash(steps) | Ending::Loss(steps) => {
                let before = self.world().journal.records().len();
                let engine = self.engine.clone();
                let stop = CancellationToken::new();
                let report = for_steps(steps, engine.cycle(BUDGET, &stop)).await;
                self.say(format!("it got through its cycle: {}", report.is_some()));
                self.note(&report.and_then(Result::ok).unwrap_or_default(), before);
                // What was never recorded cannot be honoured: the next process begins when the windows are over.
                let windows = [self.ports.portal.closed_until(), self.ports.crm.closed_until()];
                for until in windows.into_iter().flatten() {
                    self.clock.advance(until.since(self.clock.at()));
                }
            }
        }
        let is_lost = matches!(ending, Ending::Loss(_));
        self.history.has_lost_ledger |= is_lost;
        let nothing = Arc::new(MemoryStore::new([0; 16]));
        match &mut self.ledger {
            Ledger::Memory(store) => *store = Arc::new(store.restarted(is_lost)),
            Ledger::Sled(directory, store) => {
                // Sled lets its files go when the last handle does.
                (self.engine, self.ports) =
                    engine(&self.script, &self.world, &self.clock, &mut Ledger::Memory(nothing));
                *store = None;
                if is_lost {
                    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
                }
            }
        }
        (self.engine, self.ports) = engine(&self.script, &self.world, &self.clock, &mut self.ledger);
    }

    /// Trouble ends; time passes until everything that waits has had its time.
    async fn calm(&mut self) {
        self.world().faults.calm();
        self.say("calm");
        self.decide(DecisionRequest::Release { which: Which::All, group: None, take: None }).await;
        for pause in [3_700, 3_700, 4 * 3_600, 4 * 3_600] {
            self.clock.advance(Duration::from_secs(pause));
            self.engine.ask_for_sweep();
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
            let is_held = self.store().decisions().unwrap().brakes.values().any(|brake| !brake.digest.is_empty());
            if report.writes() == 0 && !is_held {
                break;
            }
            self.approve().await;
            self.clock.advance(Duration::from_secs(3_601));
        }
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

    fn judge(&mut self) {
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
            let writes = world.journal.writes().count() as u64;
            let allowed = self.history.edits + 3 * world.portal.len() as u64;
            if writes > allowed {
                found.push(format!("{writes} writes for {} edits", self.history.edits));
            }
            found
        };
        for line in &found {
            self.say(line);
        }
        self.history.found.extend(found);
    }
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
