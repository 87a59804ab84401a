//! A month without one of the services, or without this host, and what had changed meanwhile: it converges by itself, the
//! urgent first.
//!
//! `REFERRALD_MONTH=n` changes how many referrals changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use referrald::config::Settings;
use referrald::cycle::Budget;
use referrald::daemon::{Engine, Reconciler};
use referrald::model::Timestamp;
use referrald::plan::settings::Writes;
use referrald::ports::Ports;
use referrald::sim::dynamics::Table;
use referrald::sim::options::{CrmOptions, Paging, PortalOptions};
use referrald::sim::{Checker, DirectCrm, DirectPortal, Options, Service, SimClock, World};
use referrald::store::MemoryStore;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::stage::number;

/// Referrals that changed meanwhile, by default.
const CHANGED: u64 = 500;
const DAY: Duration = Duration::from_secs(86_400);

/// Writes that are under way at once overtake each other.
const IN_FLIGHT: usize = 32;

/// What of the writes after an outage is looked at.
const FIRST: usize = 100;

/// What was away.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Away {
    Service(Service),
    ThisHost,
}

#[tokio::test]
async fn after_a_month_without_partner_center_everything_converges_by_itself_the_urgent_first() {
    after_a_month_without(Away::Service(Service::Portal)).await;
}

#[tokio::test]
async fn after_a_month_without_dynamics_everything_converges_by_itself_the_urgent_first() {
    after_a_month_without(Away::Service(Service::Crm)).await;
}

#[tokio::test]
async fn after_a_month_without_this_host_everything_converges_by_itself_the_urgent_first() {
    after_a_month_without(Away::ThisHost).await;
}

async fn after_a_month_without(away: Away) {
    let changed = usize::try_from(number("REFERRALD_MONTH").unwrap_or(CHANGED)).unwrap();
    let clock = SimClock::paused(Timestamp::from_seconds(1_795_000_000));
    let portal = PortalOptions { paging: Paging::Key, ..PortalOptions::default() };
    let crm = CrmOptions { referral_column: None, ..CrmOptions::default() };
    let mut world = World::new(141, clock.clone(), Options { portal, crm, ..Options::default() });
    let ids: Vec<Uuid> = (0..changed).map(|number| world.add_referral(plain(number, "Active", None))).collect();
    let world = Arc::new(Mutex::new(world));
    let store = Arc::new(MemoryStore::new([7; 16]));
    let mut engine = engine(&world, &clock, &store);
    for _ in 0..120 {
        if minute(&engine, &clock).await.writes() == 0 && world.lock().unwrap().crm.lead_ids().len() == changed {
            break; // The service's own limits make it take a while.
        }
    }
    assert_eq!(world.lock().unwrap().crm.lead_ids().len(), changed);

    // It is away for a month. Everything changes, and what is urgent changed first, so that it is listed last.
    let mut kinds: BTreeMap<Uuid, &str> = BTreeMap::new();
    {
        let mut world = world.lock().unwrap();
        if let Away::Service(service) = away {
            world.faults.outage(Some(service));
        }
    }
    let tries = if away == Away::ThisHost { 0 } else { 3 };
    for _ in 0..tries {
        minute(&engine, &clock).await;
    }
    clock.advance(2 * DAY);
    {
        let mut world = world.lock().unwrap();
        for number in 0..changed / 50 {
            let days = |days: u32| Some(clock.at().plus(DAY * days).to_string());
            kinds.insert(world.add_referral(plain(10_000 + number, "New", days(31))), "expiring");
            kinds.insert(world.add_referral(plain(20_000 + number, "New", days(60))), "new");
        }
        clock.advance(DAY);
        for (number, id) in ids.iter().enumerate() {
            kinds.insert(*id, if is_valuable(number) { "high value" } else { "rest" });
            world.edit_referral(*id, |it| it["details"]["dealValue"] = json!(2000 + number));
            clock.advance(DAY / 2 / changed as u32);
        }
        for id in ids.iter().skip(1).step_by(10) {
            let lead = Uuid::new_v5(&Checker::default().namespace, id.to_string().as_bytes());
            world.edit_row(Table::Lead, lead, json!({"estimatedclosedate": "2027-11-12"})).unwrap();
        }
    }
    let left = clock.at();
    for _ in 0..tries {
        minute(&engine, &clock).await;
    }
    clock.advance((28 * DAY).saturating_sub(clock.at().since(left)));

    // And back.
    let before = {
        let mut world = world.lock().unwrap();
        world.faults.outage(None);
        world.journal.clear();
        counts(&world)
    };
    if away == Away::ThisHost {
        engine = self::engine(&world, &clock, &Arc::new(store.restarted(false)));
    }
    let began = Instant::now();
    let mut cycles = 0;
    while cycles < 60 {
        cycles += 1;
        let report = minute(&engine, &clock).await;
        if report.writes() == 0 && report.pending == 0 && report.is_complete {
            break;
        }
    }
    let (requests, first) = {
        let world = world.lock().unwrap();
        let after = counts(&world);
        (after.0 + after.1 - before.0 - before.1, first_kinds(&world, &kinds))
    };
    let changes = kinds.len() + changed.div_ceil(10);
    let per_change = requests as f64 / changes as f64;
    println!(
        "{away:?}: {changes} changes, {requests} requests, {per_change:.3} per change, {cycles} cycles, {:?}; the first {FIRST} writes: {}",
        began.elapsed(),
        runs(&first)
    );
    let urgent = kinds.values().filter(|kind| ["expiring", "new"].contains(kind)).count();
    let is_urgent = |kind: &&&str| ["expiring", "new"].contains(*kind);
    let met = first.iter().take(urgent + IN_FLIGHT).filter(is_urgent).count();
    assert!(met >= urgent.min(first.len()), "the urgent come first: {}", runs(&first));
    assert!(per_change <= 2.2, "{per_change}");
    let world = world.lock().unwrap();
    assert_eq!(Checker::default().check(&world), Vec::<String>::new());
    for (number, id) in ids.iter().enumerate() {
        let lead = Uuid::new_v5(&Checker::default().namespace, id.to_string().as_bytes());
        let document = world.portal.get(*id).unwrap();
        let amount = world.crm.value(Table::Lead, lead, "estimatedamount");
        assert_eq!(amount.as_f64(), document["details"]["dealValue"].as_f64(), "referral {number}");
        let date = document["details"]["closingDateTime"].as_str().unwrap_or_default();
        assert_eq!(date.starts_with("2027-11-12"), number % 10 == 1, "referral {number}: {date}");
    }
    assert_eq!(world.crm.lead_ids().len(), changed + 2 * (changed / 50));
}

/// A person at Microsoft qualified it.
fn is_valuable(number: usize) -> bool {
    number < 10_000 && number.is_multiple_of(50)
}

fn plain(number: usize, status: &str, expires: Option<String>) -> Value {
    let substatus = if status == "New" { "Pending" } else { "Accepted" };
    json!({
        "name": format!("Request {number}"), "status": status, "substatus": substatus, "expirationDateTime": expires,
        "qualification": if is_valuable(number) { "SalesQualified" } else { "Direct" },
        "customerProfile": {"name": format!("Company {number}")},
        "details": {"dealValue": 1000 + number, "currency": "USD", "closingDateTime": "2027-03-01T00:00:00Z"},
    })
}

fn engine(world: &Arc<Mutex<World>>, clock: &SimClock, store: &Arc<MemoryStore>) -> Reconciler {
    let mut settings = Settings::defaults();
    settings.writes = Writes::Both;
    let ports = Ports {
        portal: Arc::new(DirectPortal::new(world.clone())),
        crm: Arc::new(DirectCrm::new(world.clone(), Default::default())),
        store: store.clone(),
        clock: Arc::new(clock.clone()),
    };
    Reconciler::new(ports, settings, Vec::new(), None)
}

/// A cycle, and the rest of its minute.
async fn minute(engine: &Reconciler, clock: &SimClock) -> referrald::cycle::Report {
    let report = engine.cycle(Budget::Work(Duration::from_secs(30)), &CancellationToken::new()).await.unwrap();
    clock.advance(Duration::from_secs(60));
    report
}

fn counts(world: &World) -> (u64, u64) {
    (world.journal.count(Service::Portal), world.journal.count(Service::Crm))
}

/// Whom the first writes were for.
fn first_kinds<'a>(world: &World, kinds: &BTreeMap<Uuid, &'a str>) -> Vec<&'a str> {
    let namespace = Checker::default().namespace;
    let by_lead: BTreeMap<Uuid, &str> =
        kinds.iter().map(|(id, kind)| (Uuid::new_v5(&namespace, id.to_string().as_bytes()), *kind)).collect();
    let kind = |id: Uuid| kinds.get(&id).or(by_lead.get(&id)).copied();
    world.journal.writes().filter_map(|record| kind(record.subject?)).take(FIRST).collect()
}

/// "12 new, 3 rest, …"
fn runs(kinds: &[&str]) -> String {
    let parts: Vec<String> =
        kinds.chunk_by(|one, other| one == other).map(|part| format!("{} {}", part.len(), part[0])).collect();
    parts.join(", ")
}
