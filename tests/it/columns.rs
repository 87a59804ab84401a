//! Columns that cannot be written are left out, named and counted; the lead goes on without them.

use std::time::Duration;

use referrald::config::Settings;
use referrald::daemon::SCHEMA_AGE_DOUBTFUL;
use referrald::sim::dynamics::Table;
use referrald::sim::options::KeyState;
use serde_json::json;

use crate::town::{Host, Town};

fn with_a_column_too_many(settings: &mut Settings) {
    let group = settings.mapping.groups.get_mut("source").unwrap();
    let source = group.columns["leadsourcecode"].clone();
    group.columns.insert("new_missing".to_owned(), source);
}

async fn cycles(town: &Town, host: &Host, count: usize) {
    for _ in 0..count {
        host.cycle().await;
        town.pass(2);
    }
}

#[tokio::test]
async fn a_column_that_the_organization_lacks_is_told_by_every_report_and_by_the_status() {
    let town = Town::new(41);
    let referral = town.referral(1000);
    town.referral(2000);
    let host = town.host(1, with_a_column_too_many);
    cycles(&town, &host, 3).await;
    assert_eq!(town.amount_of(referral), 1000.0, "one bad optional column blocks no lead");
    for left_out in [host.status().await.left_out, host.cycle().await.left_out] {
        let (what, count) = left_out.first_key_value().expect("it is told");
        assert!(what.starts_with("mapping.groups.source.columns.new_missing: "), "{what}");
        assert_eq!((left_out.len(), *count), (1, 2));
    }
    let mended = town.again(&host, |settings| {
        settings.mapping.groups.get_mut("source").unwrap().columns.remove("new_missing");
    });
    cycles(&town, &mended, 2).await;
    assert!(mended.status().await.left_out.is_empty());
}

#[tokio::test]
async fn a_schema_that_changes_during_the_day_blocks_new_leads_for_minutes_only() {
    let town = Town::new(43);
    let host = town.host(1, |_| {});
    town.referral(1000);
    cycles(&town, &host, 4).await;
    town.world().crm.remove_column(Table::Lead, "leadsourcecode");
    let referral = town.referral(2000);
    cycles(&town, &host, 2).await;
    assert_eq!(town.amount_of(referral), 2000.0, "the lead goes on without the column: {:?}", host.status().await);

    town.world().crm.shorten(Table::Lead, "companyname", 4);
    let referrals = [town.referral(3000), town.referral(4000)];
    let dead_letters = async || host.status().await.dead_letters.values().sum::<u64>();
    host.cycle().await;
    assert_eq!(dead_letters().await, 2, "{:?}", host.status().await);
    town.clock.advance(SCHEMA_AGE_DOUBTFUL - Duration::from_secs(180));
    host.cycle().await;
    assert_eq!(dead_letters().await, 2, "one bad row is no reason to read the schema all the time");
    town.pass(3);
    cycles(&town, &host, 2).await;
    assert_eq!(dead_letters().await, 0, "they wake by themselves: {:?}", host.status().await);
    assert_eq!(referrals.map(|referral| town.amount_of(referral)), [3000.0, 4000.0]);
}

#[tokio::test]
async fn an_alternate_key_that_becomes_active_is_noticed_within_minutes() {
    let town = Town::new(44);
    town.world().crm.set_key_state(KeyState::Pending);
    let referral = town.referral(1000);
    let host = town.keyed(1);
    cycles(&town, &host, 2).await;
    let stopped = host.status().await.writing.stopped.unwrap_or_default();
    assert!(stopped.contains("referrald schema install"), "{stopped}");
    town.world().crm.set_key_state(KeyState::Active);
    town.pass(1);
    cycles(&town, &host, 2).await;
    assert_eq!(host.status().await.writing.stopped, None);
    assert_eq!(town.world().crm.lead_ids().len(), 1, "referral {referral}");
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_counted_by_column_and_reason_as_long_as_a_referral_has_it() {
    let town = Town::new(42);
    let referrals = [town.referral(1000), town.referral(2000), town.referral(3000)];
    for referral in &referrals[..2] {
        town.edit_referral(*referral, "/details/currency", json!("XXX"));
    }
    let host = town.host(1, |_| {});
    cycles(&town, &host, 4).await;
    let left_out = host.status().await.left_out;
    assert!(!left_out.is_empty() && left_out.values().all(|count| *count == 2), "{left_out:?}");
    assert!(left_out.keys().any(|what| what.contains("the organization has no such currency")), "{left_out:?}");
    for referral in &referrals[..2] {
        town.edit_referral(*referral, "/details/currency", json!("USD"));
    }
    cycles(&town, &host, 3).await;
    assert_eq!(town.amount_of(referrals[0]), 1000.0);
    assert!(host.status().await.left_out.is_empty(), "{:?}", host.status().await.left_out);
}
