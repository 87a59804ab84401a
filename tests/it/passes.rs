//! Passes over the world behind the ports: what stops writing, and what may follow when it is released.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use referrald::config::Settings;
use referrald::cycle::{Budget, Report, SWEEP_BRAKE, VISIBILITY_BRAKE};
use referrald::daemon::{Engine, Reconciler};
use referrald::model::{ReferralId, Timestamp};
use referrald::plan::settings::Writes;
use referrald::ports::{Decisions, LatchedBrake, Ports, StateStore};
use referrald::sim::dynamics::Table;
use referrald::sim::{DirectCrm, DirectCrmSettings, DirectPortal, SimClock, World};
use referrald::store::MemoryStore;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

struct Bench {
    world: Arc<Mutex<World>>,
    clock: SimClock,
    store: Arc<MemoryStore>,
    engine: Reconciler,
}

impl Bench {
    /// Some plain referrals, and a program over them.
    fn new(referrals: usize) -> (Bench, Vec<Uuid>) {
        let clock = SimClock::paused(Timestamp::from_seconds(1_795_000_000));
        let mut world = World::new(1, clock.clone(), Default::default());
        let ids = (0..referrals).map(|number| world.add_referral(json!({"name": format!("Deal {number}")}))).collect();
        let store = Arc::new(MemoryStore::new([7; 16]));
        let world = Arc::new(Mutex::new(world));
        let engine = engine(&world, &clock, &store);
        (Bench { world, clock, store, engine }, ids)
    }

    async fn pass(&self) -> Report {
        self.clock.advance(Duration::from_secs(61));
        self.engine.cycle(Budget::Work(Duration::from_secs(30)), &CancellationToken::new()).await.unwrap()
    }

    async fn latch(&self, name: &str) {
        let brake = LatchedBrake {
            since: self.clock.at(),
            count: 5,
            limit: 5,
            digest: "d".to_owned(),
            reason: "not listed".to_owned(),
        };
        let brakes = [(name.to_owned(), brake)].into();
        self.store.decide(Box::new(|kept| *kept = Decisions { brakes, ..Decisions::default() })).await.unwrap();
    }

    fn lead_of(&self, referral: Uuid) -> Uuid {
        let entry = self.store.get(ReferralId::new(referral)).unwrap().expect("an entry");
        entry.link.expect("a lead").lead.uuid()
    }

    fn status_of(&self, referral: Uuid) -> String {
        self.world.lock().unwrap().portal.get(referral).unwrap()["status"].as_str().unwrap().to_owned()
    }
}

fn engine(world: &Arc<Mutex<World>>, clock: &SimClock, store: &Arc<MemoryStore>) -> Reconciler {
    let mut settings = Settings::defaults();
    settings.writes = Writes::Both;
    let ports = Ports {
        portal: Arc::new(DirectPortal::new(Arc::clone(world))),
        crm: Arc::new(DirectCrm::new(Arc::clone(world), DirectCrmSettings::default())),
        store: store.clone(),
        clock: Arc::new(clock.clone()),
    };
    Reconciler::new(ports, settings, Vec::new(), None)
}

#[tokio::test]
async fn a_brake_on_visibility_does_not_outlive_the_ledger_it_judged_by() {
    let (mut bench, referrals) = Bench::new(8);
    bench.pass().await;
    bench.latch(VISIBILITY_BRAKE).await;
    // The decisions are kept, the ledger is lost: nobody is known who could be missing.
    bench.store = Arc::new(bench.store.restarted(true));
    bench.engine = engine(&bench.world, &bench.clock, &bench.store);
    for _ in 0..3 {
        bench.pass().await;
    }
    let decisions = bench.store.decisions().unwrap();
    assert!(decisions.brakes.is_empty(), "{:?}", decisions.brakes);
    assert_eq!(bench.store.counters().unwrap().entries, referrals.len() as u64);
}

#[tokio::test]
async fn a_lead_seen_reopened_while_writing_was_stopped_closes_nothing() {
    let (bench, referrals) = Bench::new(8);
    for _ in 0..2 {
        bench.pass().await;
    }
    let (referral, lead) = (referrals[0], bench.lead_of(referrals[0]));
    let disqualify = json!({"statecode": 2, "statuscode": 4});
    bench.world.lock().unwrap().edit_row(Table::Lead, lead, disqualify).unwrap();
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "New", "the outcome has not settled");
    // The outcome settles, and in the same minute the seller thinks again; writing is stopped until a sweep has looked.
    bench.clock.advance(Duration::from_secs(3_600));
    {
        let mut world = bench.world.lock().unwrap();
        world.edit_row(Table::Lead, lead, json!({"statecode": 0, "statuscode": 1})).unwrap();
        world.edit_referral(referral, |document| document["favorite"] = true.into());
    }
    bench.latch(SWEEP_BRAKE).await;
    for _ in 0..3 {
        bench.pass().await;
        assert_eq!(bench.status_of(referral), "New");
    }
    assert!(bench.store.decisions().unwrap().brakes.is_empty());
}
