//! What things cost, counted from the journal of both services with a daemon that lives on. Tokens, look-ups of a start
//! and adoption look-ups are counted apart.

use std::collections::BTreeMap;
use std::time::Duration;

use referrald::sim::dynamics::Table;
use referrald::sim::options::{CrmOptions, Paging, PortalOptions};
use referrald::sim::{Options, Service, SimClock, World};
use serde_json::json;
use uuid::Uuid;

use crate::stage::{Daemon, Stage};

/// Changes that one measurement is made of.
const CHANGES: usize = 1000;
/// Changes between two cycles: as many as a busy minute brings.
const CHANGES_PER_CYCLE: usize = 50;
/// Cycles after the last change: what comes late belongs to the price.
const CYCLES_AFTER: usize = 20;

const SETTINGS: &str = "[brakes]\nclosings_per_hour = 0\nacceptances_per_hour = 0\n[cycle]\nclock_skew_max = \"1d\"\n";

/// Minutes until no overlap reaches back to what was before.
const OVERLAP_MINUTES: usize = 21;

/// Lets minutes pass over there, each with its cycle.
async fn minutes(stage: &Stage, daemon: &Daemon, count: usize) {
    for _ in 0..count {
        stage.simulator.with(|world| world.clock().advance(Duration::from_secs(60)));
        daemon.cycle().await;
    }
}

/// A stage with `count` plain referrals, imported.
async fn imported(count: usize) -> (Stage, Vec<Uuid>) {
    let portal = PortalOptions { paging: Paging::Key, ..PortalOptions::default() };
    let crm = CrmOptions { referral_column: None, ..CrmOptions::default() };
    let mut world = World::new(9, SimClock::running(), Options { portal, crm, ..Options::default() });
    let ids = (0..count).map(|number| world.add_referral(plain(number))).collect();
    let stage = Stage::with(world).await;
    stage.overlay(SETTINGS);
    (stage, ids)
}

fn plain(number: usize) -> serde_json::Value {
    json!({
        "name": format!("Measured request {number}"),
        "customerProfile": {"name": format!("Measured company {number}"),
            "team": [{"firstName": "Measured", "lastName": format!("Person{number}"), "email": format!("m{number}@customer.example")}]},
        "details": {"dealValue": 1000 + number, "currency": "USD", "closingDateTime": "2027-03-01T00:00:00Z"},
    })
}

/// Requests by operation since the journal was cleared, and their sum without tokens and adoption look-ups.
fn bill(stage: &Stage) -> (BTreeMap<(Service, &'static str, String), u64>, u64) {
    let mut bill: BTreeMap<(Service, &'static str, String), u64> = BTreeMap::new();
    let mut sum = 0;
    for service in [Service::Portal, Service::Crm] {
        for record in stage.requests(service) {
            let is_adoption = record.operation == "list leads" && decoded(&record.path).contains("subject eq");
            let kind = if is_adoption { "adoption" } else { "" };
            *bill.entry((service, record.operation, format!("{} {kind}", record.status))).or_default() += 1;
            sum += u64::from(!is_adoption);
        }
    }
    (bill, sum)
}

fn decoded(path: &str) -> String {
    url::form_urlencoded::parse(path.as_bytes()).map(|(name, value)| format!("{name}={value}&")).collect()
}

/// Makes the changes, cycle by cycle, and gives requests per change; polls of the cycles themselves are taken off.
async fn price(stage: &Stage, daemon: &Daemon, mut change: impl FnMut(&mut World, usize)) -> f64 {
    // The import's own overlaps are not the changes' price.
    minutes(stage, daemon, OVERLAP_MINUTES).await;
    stage.clear_journal();
    minutes(stage, daemon, 1).await;
    let (_, quiet_cycle) = bill(stage);
    stage.clear_journal();
    let mut cycles = 0u64;
    for start in (0..CHANGES).step_by(CHANGES_PER_CYCLE) {
        stage.simulator.with(|world| (start..start + CHANGES_PER_CYCLE).for_each(|number| change(world, number)));
        minutes(stage, daemon, 1).await;
        cycles += 1;
    }
    minutes(stage, daemon, CYCLES_AFTER).await;
    cycles += CYCLES_AFTER as u64;
    let (bill, sum) = bill(stage);
    println!("{bill:#?}\n{sum} requests in {cycles} cycles for {CHANGES} changes");
    // What a quiet cycle asks is the price of looking, not of a change.
    let quiet = cycles * quiet_cycle;
    let all = sum as f64 / CHANGES as f64;
    let per_change = (sum - quiet.min(sum)) as f64 / CHANGES as f64;
    println!("{all:.3} requests for each change with the quiet cycles' polls, {per_change:.3} without");
    per_change
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_cycle_asks_each_side_once() {
    let (stage, _) = imported(250).await;
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    daemon.cycle().await;
    minutes(&stage, &daemon, OVERLAP_MINUTES).await;
    for cycle in 0..12 {
        stage.clear_journal();
        minutes(&stage, &daemon, 1).await;
        let (portal, crm) = (stage.requests(Service::Portal), stage.requests(Service::Crm));
        assert_eq!(portal.len(), 1, "cycle {cycle}: {portal:#?}");
        assert_eq!(crm.len(), 1, "cycle {cycle}: {crm:#?}");
    }
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_costs_one_request_and_its_share_of_the_list_and_in_a_batch_a_fraction_of_it() {
    for (batch_size, price_max) in [(1, 1.05), (20, 0.15)] {
        let (stage, ids) = imported(CHANGES).await;
        stage.overlay(&format!("{SETTINGS}[dataverse]\nbatch_size = {batch_size}\n"));
        let daemon = stage.daemon().await;
        daemon.first_cycle().await;
        let price = price(&stage, &daemon, |world, number| {
            world.edit_referral(ids[number], |it| it["customerProfile"]["name"] = format!("Renamed {number}").into());
        })
        .await;
        assert!(price <= price_max, "{price} with batches of {batch_size}");
        let lead = stage.lead_of(ids[7]).unwrap();
        assert_eq!(stage.column(lead, "companyname"), json!("Renamed 7"));
        assert_eq!(daemon.stop().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_costs_the_lead_and_the_write_back_and_in_batches_little_more_than_the_write_back() {
    for (batch_size, price_max) in [(1, 2.10), (20, 1.15)] {
        let (stage, _) = imported(20).await;
        stage.overlay(&format!("{SETTINGS}[dataverse]\nbatch_size = {batch_size}\n"));
        let daemon = stage.daemon().await;
        daemon.first_cycle().await;
        let price = price(&stage, &daemon, |world, number| {
            world.add_referral(plain(1000 + number));
        })
        .await;
        assert!(price <= price_max, "{price} with batches of {batch_size}");
        assert_eq!(stage.simulator.with(|world| world.crm.lead_ids().len()), 20 + CHANGES);
        assert_eq!(daemon.stop().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closing_costs_a_fresh_read_and_the_write() {
    let (stage, ids) = imported(CHANGES).await;
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    stage.simulator.with(|world| {
        for id in &ids {
            world.edit_referral(*id, |it| {
                it["status"] = "Active".into();
                it["substatus"] = "Accepted".into();
            });
        }
    });
    daemon.cycle().await;
    daemon.cycle().await;
    let leads: Vec<Uuid> = ids.iter().map(|id| stage.lead_of(*id).unwrap()).collect();
    let price = price(&stage, &daemon, |world, number| {
        world.edit_row(Table::Lead, leads[number], json!({"statecode": 2, "statuscode": 4})).unwrap();
    })
    .await;
    assert!(price <= 2.05, "{price}");
    assert_eq!(stage.path_of(ids[7], "/status"), json!("Closed"));
    assert_eq!(daemon.stop().await, 0);
}
