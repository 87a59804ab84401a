//! A small town: both services as one world, and daemons behind the ports, on a clock that only the test moves.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use referrald::config::Settings;
use referrald::crm::dataverse::settings::Identity;
use referrald::cycle::{Budget, Report};
use referrald::daemon::{DecisionAnswer, DecisionRequest, Engine, Reconciler, Status};
use referrald::model::{ReferralId, Timestamp};
use referrald::plan::settings::Writes;
use referrald::ports::{Clock, Decisions, Ports, StateStore};
use referrald::sim::dynamics::Table;
use referrald::sim::{Checker, DirectCrm, DirectCrmSettings, DirectPortal, Options, Service, SimClock, World};
use referrald::store::MemoryStore;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::deaf::{Deaf, IsDeaf};
use crate::detour::Detour;

/// Both services and the time.
pub struct Town {
    pub world: Arc<Mutex<World>>,
    pub clock: SimClock,
}

/// One daemon with its ledger.
pub struct Host {
    pub engine: Arc<Reconciler>,
    pub store: Arc<MemoryStore>,
    is_deaf: IsDeaf,
    settings: Settings,
}

impl Town {
    pub fn new(seed: u64) -> Town {
        Town::at(seed, Timestamp::parse("2026-11-18T09:00:00Z").unwrap())
    }

    pub fn at(seed: u64, now: Timestamp) -> Town {
        let clock = SimClock::paused(now);
        let world = Arc::new(Mutex::new(World::new(seed, clock.clone(), Options::default())));
        Town { world, clock }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn pass(&self, minutes: u64) {
        self.clock.advance(Duration::from_secs(60 * minutes));
    }

    /// A customer sends a referral with a deal value.
    pub fn referral(&self, value: i64) -> Uuid {
        self.world().add_referral(json!({
            "name": "One",
            "customerProfile": {"name": "Contoso", "address": {"country": "US"}, "team": []},
            "details": {"dealValue": value, "currency": "USD", "notes": "none"},
        }))
    }

    pub fn lead_of(&self, referral: Uuid) -> Uuid {
        Uuid::new_v5(&Checker::default().namespace, referral.to_string().as_bytes())
    }

    pub fn edit_referral(&self, referral: Uuid, pointer: &str, value: Value) {
        let set = |document: &mut Value| *document.pointer_mut(pointer).expect("a path") = value;
        assert!(self.world().edit_referral(referral, set));
    }

    pub fn edit_lead(&self, referral: Uuid, columns: Value) {
        let lead = self.lead_of(referral);
        self.world().edit_row(Table::Lead, lead, columns).expect("a lead that may be edited");
    }

    pub fn amount_of(&self, referral: Uuid) -> f64 {
        let lead = self.lead_of(referral);
        self.world().crm.value(Table::Lead, lead, "estimatedamount").as_f64().unwrap_or_default()
    }

    pub fn deal_value(&self, referral: Uuid) -> f64 {
        self.world().portal.get(referral).and_then(|row| row["details"]["dealValue"].as_f64()).unwrap_or_default()
    }

    /// One path of a referral.
    pub fn path_of(&self, referral: Uuid, pointer: &str) -> Value {
        self.world().portal.get(referral).and_then(|row| row.pointer(pointer)).cloned().unwrap_or_default()
    }

    /// Writes sent so far, by service.
    pub fn writes(&self, service: Service) -> usize {
        self.world().journal.writes().filter(|record| record.service == service).count()
    }

    pub fn all_writes(&self) -> usize {
        self.writes(Service::Portal) + self.writes(Service::Crm)
    }

    /// A daemon that writes both ways, with an empty ledger; closings are sent at once.
    pub fn host(&self, key: u8, change: impl FnOnce(&mut Settings)) -> Host {
        let mut settings = Settings::defaults();
        settings.writes = Writes::Both;
        settings.status.settle_time = referrald::config::HumanDuration::parse("0s").unwrap();
        settings.status.settle_time_lost = referrald::config::HumanDuration::parse("0s").unwrap();
        change(&mut settings);
        self.start(Arc::new(MemoryStore::new([key; 16])), settings)
    }

    /// A daemon that knows leads by an alternate key.
    pub fn keyed(&self, key: u8) -> Host {
        let column = Some("new_referralid".to_owned());
        let mut settings = Settings::defaults();
        settings.writes = Writes::Both;
        settings.identity = Identity::AlternateKey;
        settings.referral_id_column = column.clone();
        let crm = DirectCrmSettings { is_keyed: true, referral_column: column, ..DirectCrmSettings::default() };
        self.start_with(crm, Arc::new(self.clock.clone()), Arc::new(MemoryStore::new([key; 16])), settings)
    }

    /// The same daemon on a machine whose clock is fast.
    pub fn on_a_fast_clock(&self, host: &Host, by: Duration) -> Host {
        self.start_at(Arc::new(Fast(self.clock.clone(), by)), host.store.clone(), host.settings.clone())
    }

    fn start(&self, store: Arc<MemoryStore>, settings: Settings) -> Host {
        self.start_at(Arc::new(self.clock.clone()), store, settings)
    }

    fn start_at(&self, clock: Arc<dyn Clock>, store: Arc<MemoryStore>, settings: Settings) -> Host {
        let crm = DirectCrmSettings { referral_column: None, ..DirectCrmSettings::default() };
        self.start_with(crm, clock, store, settings)
    }

    fn start_with(
        &self,
        crm: DirectCrmSettings,
        clock: Arc<dyn Clock>,
        store: Arc<MemoryStore>,
        settings: Settings,
    ) -> Host {
        let is_deaf = IsDeaf::default();
        let ports = Ports {
            portal: Arc::new(Detour(Deaf(DirectPortal::new(self.world.clone()), is_deaf.clone()))),
            crm: Arc::new(Detour(Deaf(DirectCrm::new(self.world.clone(), crm), is_deaf.clone()))),
            store: store.clone(),
            clock,
        };
        let engine = Arc::new(Reconciler::new(ports, settings.clone(), Vec::new(), None));
        Host { engine, store, settings, is_deaf }
    }

    /// The next process after an orderly stop, configured anew.
    pub fn again(&self, host: &Host, change: impl FnOnce(&mut Settings)) -> Host {
        let mut settings = host.settings.clone();
        change(&mut settings);
        self.start(host.store.clone(), settings)
    }

    /// The next process after a crash: the ledger as it was, everything else gone.
    pub fn restarted(&self, host: &Host) -> Host {
        self.start(Arc::new(host.store.restarted(false)), host.settings.clone())
    }

    /// The next process after the ledger was lost: what the newest export says, and what operators decided, is left.
    pub fn after_a_loss(&self, host: &Host) -> Host {
        self.start(Arc::new(host.store.restarted(true)), host.settings.clone())
    }
}

impl Host {
    pub async fn cycle(&self) -> Report {
        let stop = CancellationToken::new();
        self.engine.cycle(Budget::Work(Duration::from_secs(30)), &stop).await.unwrap()
    }

    /// Runs a cycle that is killed right after it has sent a write (or several at once); false when it had none to send.
    pub async fn killed_after_a_write(&self, town: &Town) -> bool {
        self.is_deaf.store(true, Ordering::Relaxed);
        let sent = || {
            let world = town.world();
            let is_write = |method: &str| matches!(method, "PATCH" | "POST");
            world.journal.records().iter().filter(|record| is_write(&record.method)).count()
        };
        let before = sent();
        let stop = CancellationToken::new();
        let written = async {
            while sent() == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = written => true,
            _ = self.engine.cycle(Budget::Work(Duration::from_secs(30)), &stop) => false,
        }
    }

    pub async fn status(&self) -> Status {
        self.engine.status().await.unwrap()
    }

    pub async fn decide(&self, request: DecisionRequest) -> DecisionAnswer {
        self.engine.decide(request).await.unwrap()
    }

    pub fn decisions(&self) -> Decisions {
        self.store.decisions().unwrap()
    }
}

/// A clock that is fast by so much.
struct Fast(SimClock, Duration);

#[async_trait::async_trait]
impl Clock for Fast {
    fn now(&self) -> Timestamp {
        self.0.at().plus(self.1)
    }

    async fn sleep(&self, duration: Duration) {
        self.0.advance(duration);
    }
}

pub fn id(referral: Uuid) -> ReferralId {
    ReferralId::new(referral)
}
