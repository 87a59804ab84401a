//! The process dies, or an answer is lost, between a write and its record.

use referrald::daemon::{DecisionRequest, Which};
use referrald::model::{Closing, Standing};
use referrald::ports::StateStore;
use referrald::sim::faults::Class;
use referrald::sim::{Checker, Service};
use serde_json::json;
use uuid::Uuid;

use crate::town::{Host, Town, id};

async fn linked(town: &Town) -> (Host, Uuid) {
    let host = town.host(1, |_| {});
    let referral = town.referral(1000);
    town.edit_referral(referral, "/status", json!("Active"));
    town.edit_referral(referral, "/substatus", json!("Accepted"));
    for _ in 0..3 {
        town.pass(2);
        host.cycle().await;
    }
    (host, referral)
}

/// Kills the process right after a write and gives the next one.
async fn killed(town: &Town, host: &Host) -> Host {
    assert!(host.killed_after_a_write(town).await);
    assert_eq!(host.store.intents().unwrap().len(), 1);
    town.restarted(host)
}

#[tokio::test]
async fn what_was_about_to_be_written_is_known_until_the_row_could_be_decided_with_it() {
    let town = Town::new(61);
    let (host, referral) = linked(&town).await;
    town.edit_referral(referral, "/details/dealValue", json!(2000));
    town.pass(2);
    let host = killed(&town, &host).await;
    assert_eq!(host.store.intents().unwrap().len(), 1);
    // The lead is qualified meanwhile, and what speaks for it now cannot be read.
    let lead = town.lead_of(referral);
    town.world().qualify_lead(lead, true).unwrap();
    for _ in 0..3 {
        town.world().faults.play_next_at(Class::ResetBefore, "/opportunities");
    }
    town.pass(2);
    host.cycle().await;
    assert_eq!(host.store.intents().unwrap().len(), 1, "nobody knows yet what came of it");
    town.pass(2);
    host.cycle().await;
    assert_eq!(host.store.intents().unwrap(), vec![]);
    let entry = host.store.get(id(referral)).unwrap().unwrap();
    assert_eq!(entry.standing, Standing::Linked);
    assert_eq!(Checker::default().check(&town.world()), Vec::<String>::new());
}

#[tokio::test]
async fn a_row_with_an_unknown_outcome_is_decided_by_nothing_else() {
    for service in [Service::Crm, Service::Portal] {
        let town = Town::new(62);
        let (host, referral) = linked(&town).await;
        match service {
            Service::Crm => town.edit_referral(referral, "/details/dealValue", json!(2000)),
            _ => town.edit_lead(referral, json!({"estimatedamount": 2000})),
        }
        town.pass(2);
        let host = killed(&town, &host).await;
        // The referral itself cannot be read for a while; lists and leads can.
        let before = town.all_writes();
        for _ in 0..4 {
            for _ in 0..3 {
                town.world().faults.play_next_at(Class::ResetBefore, &referral.to_string());
            }
            town.edit_lead(referral, json!({"jobtitle": "CTO"}));
            town.pass(2);
            host.cycle().await;
            assert_eq!(town.all_writes(), before, "{service:?}");
            assert_eq!(host.store.intents().unwrap().len(), 1, "{service:?}");
        }
        town.world().faults.calm();
        town.pass(2);
        host.cycle().await;
        assert_eq!(host.store.intents().unwrap(), vec![], "{service:?}");
        assert_eq!((town.amount_of(referral), town.deal_value(referral)), (2000.0, 2000.0), "{service:?}");
        assert_eq!(town.all_writes(), before, "{service:?}: it was written already");
        assert!(host.status().await.holds.is_empty(), "{service:?}");
    }
}

#[tokio::test]
async fn a_closing_that_somebody_else_made_in_another_way_is_not_ours() {
    let town = Town::new(63);
    let (host, referral) = linked(&town).await;
    town.edit_lead(referral, json!({"statecode": 2, "statuscode": 4}));
    town.pass(2);
    // Our write is refused, the process dies before it knows, and somebody else declares the referral won.
    town.world().faults.play_next_at(Class::Conflict, &referral.to_string());
    assert!(host.killed_after_a_write(&town).await);
    assert_eq!(town.path_of(referral, "/status"), "Active");
    let before = town.writes(Service::Portal);
    let host = town.restarted(&host);
    town.edit_referral(referral, "/status", json!("Closed"));
    town.edit_referral(referral, "/substatus", json!("Won"));
    town.world().faults.calm();
    town.pass(2);
    host.cycle().await;
    let entry = host.store.get(id(referral)).unwrap().unwrap();
    assert_ne!(entry.closed_by_us, Some(Closing::Won));
    assert_eq!(host.store.intents().unwrap(), vec![]);
    assert_eq!(town.writes(Service::Portal), before, "a closed referral is never written");
}

#[tokio::test]
async fn a_lead_that_somebody_made_while_ours_was_unknown_is_adopted() {
    let town = Town::new(64);
    let host = town.host(1, |_| {});
    let referral = town.referral(1000);
    // Neither the lead nor what became of it arrives.
    let place = format!("/leads({})", town.lead_of(referral));
    for _ in 0..4 {
        town.world().faults.play_next_at(Class::ResetBefore, &place);
    }
    town.pass(2);
    host.cycle().await;
    assert_eq!(host.store.intents().unwrap().len(), 1);
    let theirs = town.world().add_lead(json!({"subject": referral.to_string(), "lastname": "Flow"})).unwrap();
    town.pass(2);
    host.cycle().await;
    assert_eq!(host.store.intents().unwrap(), vec![]);
    let entry = host.store.get(id(referral)).unwrap().unwrap();
    assert_eq!(entry.link.map(|link| link.lead.uuid()), Some(theirs));
    assert_eq!(Checker::default().check(&town.world()), Vec::<String>::new());
}

#[tokio::test]
async fn a_write_of_ours_is_no_sellers_edit_although_its_referral_was_held_before_it_was_known() {
    let town = Town::new(65);
    let (host, referral) = linked(&town).await;
    town.edit_referral(referral, "/details/dealValue", json!(2000));
    town.pass(2);
    let host = killed(&town, &host).await;
    host.decide(DecisionRequest::Hold { ids: vec![id(referral)] }).await;
    town.pass(2);
    host.cycle().await;
    assert_eq!(host.store.intents().unwrap(), vec![]);
    // Only the seller changes it from now on.
    town.edit_lead(referral, json!({"estimatedamount": 2500}));
    town.pass(2);
    host.cycle().await;
    host.decide(DecisionRequest::Release { which: Which::Ids(vec![id(referral)]), group: None, take: None }).await;
    for _ in 0..2 {
        town.pass(2);
        host.cycle().await;
    }
    assert_eq!((town.amount_of(referral), town.deal_value(referral)), (2500.0, 2500.0));
    assert!(host.status().await.holds.is_empty());
}

#[tokio::test]
async fn a_closing_of_a_referral_that_is_missing_is_on_record_until_it_is_back_and_costs_no_more_reads() {
    let town = Town::new(66);
    let (host, referral) = linked(&town).await;
    town.edit_lead(referral, json!({"statecode": 2, "statuscode": 4}));
    town.pass(2);
    let host = killed(&town, &host).await;
    let later = town.clock.at().plus(std::time::Duration::from_secs(45 * 60));
    town.world().portal.set_gone(referral, true);
    town.world().portal.hide(referral, later);
    let reads = || town.world().journal.count_of("get referral");
    let before = reads();
    for _ in 0..30 {
        town.pass(1);
        host.cycle().await;
        assert_eq!(host.store.intents().unwrap().len(), 1);
    }
    assert!((2..=4).contains(&(reads() - before)), "{} reads in half an hour", reads() - before);
    town.world().portal.set_gone(referral, false);
    for _ in 0..16 {
        town.pass(1);
        host.cycle().await;
    }
    assert_eq!(host.store.intents().unwrap(), vec![]);
    assert_eq!(host.store.get(id(referral)).unwrap().unwrap().closed_by_us, Some(Closing::Lost));
}
