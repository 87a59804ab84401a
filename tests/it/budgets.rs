//! Daily request budgets: every request counts, nothing is sent beyond them, and the urgent comes first.

use referrald::config::Settings;
use referrald::daemon::{Detail, Engine};
use referrald::model::{Side, Timestamp};
use referrald::ports::StateStore;
use referrald::sim::Service;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::town::{Host, Town};

fn of_the_day(portal: u64, crm: u64) -> impl FnOnce(&mut Settings) {
    move |settings| {
        settings.partner_center.requests_per_day = portal;
        settings.dataverse.requests_per_day = crm;
    }
}

fn sent(town: &Town) -> (u64, u64) {
    let world = town.world();
    (world.journal.count(Service::Portal), world.journal.count(Service::Crm))
}

async fn counted(host: &Host) -> (u64, u64) {
    let status = host.status().await;
    let of = |side| status.sides.get(&side).map_or(0, |side| side.requests_today);
    (of(Side::Portal), of(Side::Crm))
}

#[tokio::test]
async fn every_request_of_every_process_counts_until_midnight() {
    let town = Town::at(31, Timestamp::parse("2026-11-18T22:00:00Z").unwrap());
    town.world().populate(31, 15);
    let mut host = town.host(1, |_| {});
    for _ in 0..4 {
        host.cycle().await;
        town.pass(3);
        host.engine.forecast(Detail::Names, &CancellationToken::new()).await.unwrap();
        assert_eq!(counted(&host).await, sent(&town));
        host = town.restarted(&host);
        assert_eq!(counted(&host).await, sent(&town), "the ledger knows");
    }
    // A side that does not answer costs requests, too.
    town.world().faults.outage(Some(Service::Crm));
    let host = town.restarted(&host);
    host.cycle().await;
    assert_eq!(counted(&town.restarted(&host)).await, sent(&town));
    town.pass(120);
    assert_eq!(counted(&host).await, (0, 0), "another day");
}

#[tokio::test]
async fn a_budget_is_never_exceeded_and_goes_on_at_midnight() {
    for (portal, crm) in [(12, 100_000), (100_000, 25), (14, 31)] {
        let town = Town::new(32);
        town.world().populate(32, 40);
        let host = town.host(1, of_the_day(portal, crm));
        let mut host = host;
        for round in 0..30 {
            host.cycle().await;
            town.pass(5);
            if round % 7 == 3 {
                host = town.restarted(&host);
            }
            host.engine.forecast(Detail::Names, &CancellationToken::new()).await.unwrap();
            let sent = sent(&town);
            assert!(sent.0 <= portal && sent.1 <= crm, "{sent:?} of {portal}, {crm}");
        }
        let status = host.status().await;
        let used_up = if portal < 100_000 { Side::Portal } else { Side::Crm };
        let note = status.sides[&used_up].budget.clone().expect("a note");
        assert!(note.contains("2026-11-19T00:00:00Z"), "{note}");
        let report = host.cycle().await;
        assert!(!report.budgets.is_empty(), "{report:?}");
        // The days after: what was left waits for nobody.
        for _ in 0..40 {
            town.pass(12 * 60);
            host.cycle().await;
        }
        assert!(town.world().crm.lead_ids().len() > 20, "{} leads", town.world().crm.lead_ids().len());
    }
}

#[tokio::test]
async fn one_side_goes_on_while_the_budget_of_the_other_is_used_up() {
    let town = Town::new(33);
    let referral = town.referral(1000);
    let host = town.host(1, |_| {});
    for _ in 0..3 {
        host.cycle().await;
        town.pass(2);
    }
    let spent = sent(&town);
    let host = town.again(&host, of_the_day(spent.0, 100_000));
    town.edit_lead(referral, json!({"estimatedamount": 3000}));
    for _ in 0..3 {
        host.cycle().await;
        town.pass(2);
    }
    let now = sent(&town);
    assert_eq!(now.0, spent.0, "nothing more over there");
    assert!(now.1 > spent.1 + 3, "the leads are still watched");
    let status = host.status().await;
    assert!(status.sides[&Side::Portal].budget.as_deref().is_some_and(|note| note.contains("used up")), "{status:?}");
    assert_eq!(status.sides[&Side::Crm].budget, None);
    town.pass(24 * 60);
    host.cycle().await;
    assert_eq!(town.deal_value(referral), 3000.0, "it was not lost");
}

#[tokio::test]
async fn the_last_share_of_a_day_is_for_new_referrals() {
    let town = Town::new(34);
    let old = town.referral(1000);
    town.edit_referral(old, "/status", json!("Active"));
    town.edit_referral(old, "/substatus", json!("Accepted"));
    let host = town.host(1, |_| {});
    for _ in 0..3 {
        host.cycle().await;
        town.pass(2);
    }
    // So many requests are spent that only the share for urgent work is left.
    let host = town.again(&host, |settings| {
        settings.dataverse.requests_per_day = 1000;
        settings.cycle.urgent_requests_percent = 50;
    });
    let mut memo = host.store.memo().unwrap();
    memo.requests_today.crm = 600;
    host.store.record(referrald::ports::Batch { memo: Some(memo), ..Default::default() }).await.unwrap();
    let new = town.referral(2000);
    town.edit_referral(old, "/details/dealValue", json!(1500));
    host.engine.ask_for_sweep();
    for _ in 0..3 {
        host.cycle().await;
        town.pass(2);
    }
    assert_eq!(town.amount_of(new), 2000.0, "a new referral gets its lead");
    assert_eq!(town.amount_of(old), 1000.0, "an update can wait");
    let status = host.status().await;
    assert!(status.sides[&Side::Crm].budget.as_deref().is_some_and(|note| note.contains("urgent")), "{status:?}");
    town.pass(24 * 60);
    host.cycle().await;
    host.cycle().await;
    assert_eq!(town.amount_of(old), 1500.0, "another day");
}
