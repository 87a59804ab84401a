//! One id that a service always answers with a fault of the server: it waits alone, and in the end it is a dead letter.

use referrald::daemon::{DecisionRequest, Engine, Which};
use referrald::model::{ReferralId, Side, Trouble};
use referrald::ports::{ActionKind, IntendedAction, StateStore};
use referrald::sim::Service;
use referrald::sim::dynamics::Table;
use referrald::sim::faults::{Class, Lasting};
use serde_json::json;
use uuid::Uuid;

use crate::passes::Bench;

async fn settled(referrals: usize) -> (Bench, Vec<Uuid>) {
    let (bench, ids) = Bench::new(referrals);
    for _ in 0..2 {
        bench.pass().await;
    }
    (bench, ids)
}

fn trouble_of(bench: &Bench, referral: Uuid) -> Option<Trouble> {
    bench.store.get(ReferralId::new(referral)).unwrap()?.trouble
}

fn always(bench: &Bench, method: &str, path_end: &str, status: u16) {
    bench.world().faults.always(method, path_end, Lasting::Refusal(status));
}

fn asked(bench: &Bench, referral: Uuid) -> usize {
    let world = bench.world();
    let records = world.journal.records().iter();
    records.filter(|record| record.service == Service::Portal && record.path.ends_with(&referral.to_string())).count()
}

/// More than a day, in which whatever waits with patience comes to its end.
async fn long_after(bench: &Bench) {
    for _ in 0..40 {
        bench.wait(6 * 3600);
        bench.pass().await;
    }
}

async fn retried(bench: &Bench, referral: Uuid) {
    bench.world().faults.calm();
    let which = Which::Ids(vec![ReferralId::new(referral)]);
    bench.engine.decide(DecisionRequest::Retry { which }).await.unwrap();
    for _ in 0..2 {
        bench.pass().await;
    }
}

#[tokio::test]
async fn a_referral_whose_own_read_always_fails_holds_back_no_other_acceptance() {
    let (bench, referrals) = settled(8).await;
    always(&bench, "GET", &referrals[0].to_string(), 500);
    for referral in &referrals[..4] {
        bench.edit(Table::Lead, bench.lead_of(*referral), json!({"statuscode": 2}));
    }
    let mut asked_before = 0;
    for _ in 0..8 {
        let report = bench.pass().await;
        assert!(report.sides.is_empty(), "{report:?}");
        asked_before = asked(&bench, referrals[0]);
    }
    let statuses: Vec<String> = referrals[..4].iter().map(|id| bench.status_of(*id)).collect();
    assert_eq!(statuses, ["New", "Active", "Active", "Active"]);
    assert!(asked_before < 8 * 3, "it is asked with patience: {asked_before}");
    assert_eq!(bench.store.decisions().unwrap().acceptances.len(), 3, "what was not sent does not count");
    let trouble = trouble_of(&bench, referrals[0]).expect("it has trouble of its own");
    assert_eq!((trouble.cause.side, trouble.is_dead_letter), (Some(Side::Portal), false));
    long_after(&bench).await;
    assert!(trouble_of(&bench, referrals[0]).unwrap().is_dead_letter);
    retried(&bench, referrals[0]).await;
    assert_eq!((trouble_of(&bench, referrals[0]), bench.status_of(referrals[0])), (None, "Active".to_owned()));
}

#[tokio::test]
async fn writes_of_unknown_outcome_whose_referrals_cannot_be_read_stop_no_pass() {
    let (bench, referrals) = settled(8).await;
    let intended = |referral: &Uuid| IntendedAction {
        kind: ActionKind::Update,
        referral: ReferralId::new(*referral),
        groups: Vec::new(),
    };
    bench.store.intend(referrals[..6].iter().map(intended).collect()).await.unwrap();
    for referral in &referrals[..5] {
        always(&bench, "GET", &referral.to_string(), 500);
    }
    let fresh = bench.world().add_referral(json!({"name": "A new deal"}));
    bench.edit(Table::Lead, bench.lead_of(referrals[7]), json!({"statuscode": 2}));
    for _ in 0..8 {
        let report = bench.pass().await;
        assert!(report.sides.is_empty(), "{report:?}");
    }
    bench.lead_of(fresh);
    assert_eq!(bench.status_of(referrals[7]), "Active");
    let left: Vec<_> = bench.store.intents().unwrap().into_iter().flat_map(|intent| intent.actions).collect();
    assert_eq!(left.len(), 5, "the one that can be read is resolved: {left:?}");
    let asked_before = asked(&bench, referrals[0]);
    bench.wait(3600);
    for _ in 0..10 {
        bench.pass().await;
    }
    assert!(asked(&bench, referrals[0]) - asked_before <= 6, "and they are asked with patience");
    bench.world().faults.calm();
    bench.wait(12 * 3600);
    for _ in 0..2 {
        bench.pass().await;
    }
    assert_eq!(bench.store.intents().unwrap(), vec![]);
}

#[tokio::test]
async fn a_lead_whose_own_read_always_fails_waits_alone() {
    let (bench, referrals) = settled(8).await;
    let loser = bench.lead_of(referrals[0]);
    let master = bench.world().add_lead(json!({"subject": "the seller's own", "lastname": "One"})).unwrap();
    bench.world().merge_leads(master, loser).unwrap();
    bench.world().crm.set_out_of_reach(master, true);
    always(&bench, "GET", &format!("leads({master})"), 500);
    bench.edit(Table::Lead, bench.lead_of(referrals[1]), json!({"statuscode": 2}));
    for _ in 0..2 {
        let report = bench.pass().await;
        assert!(report.sides.is_empty(), "{report:?}");
    }
    assert_eq!(bench.status_of(referrals[1]), "Active");
    assert_eq!(trouble_of(&bench, referrals[0]).unwrap().cause.side, Some(Side::Crm));
}

#[tokio::test]
async fn many_ids_that_cannot_be_read_are_the_trouble_of_their_side() {
    let (bench, referrals) = settled(8).await;
    for referral in &referrals {
        always(&bench, "GET", &referral.to_string(), 500);
        bench.edit(Table::Lead, bench.lead_of(*referral), json!({"statuscode": 2}));
    }
    let report = bench.pass().await;
    assert!(report.sides.contains_key(&Side::Portal), "{report:?}");
    let troubled = referrals.iter().filter(|id| trouble_of(&bench, **id).is_some()).count();
    assert_eq!(troubled, 3);
}

/// The outcome of these referrals' leads has settled.
async fn disqualified(bench: &Bench, referrals: &[Uuid]) {
    for referral in referrals {
        bench.edit(Table::Lead, bench.lead_of(*referral), json!({"statecode": 2, "statuscode": 4}));
    }
    bench.pass().await;
    bench.wait(900);
}

fn writes_to(bench: &Bench, path_end: &str) -> usize {
    let world = bench.world();
    world.journal.records().iter().filter(|record| record.method == "PATCH" && record.path.ends_with(path_end)).count()
}

#[tokio::test]
async fn a_closing_that_is_always_answered_with_a_fault_becomes_a_dead_letter_and_fills_no_brake() {
    let (bench, referrals) = settled(8).await;
    let place = referrals[0].to_string();
    always(&bench, "PATCH", &place, 500);
    disqualified(&bench, &referrals[..2]).await;
    for _ in 0..30 {
        let report = bench.pass().await;
        assert!(report.sides.is_empty() && report.brakes.is_empty(), "{report:?}");
    }
    assert_eq!((bench.status_of(referrals[0]), bench.status_of(referrals[1])), ("New".to_owned(), "Closed".to_owned()));
    assert_eq!(bench.store.intents().unwrap(), vec![], "it was read: nothing is unknown");
    assert_eq!(bench.store.decisions().unwrap().closings.len(), 1, "what was not done does not count");
    let tried = writes_to(&bench, &place);
    assert!(tried <= 4 * 7, "it is tried with patience: {tried}");
    long_after(&bench).await;
    assert!(trouble_of(&bench, referrals[0]).unwrap().is_dead_letter);
    let tried = writes_to(&bench, &place);
    bench.pass().await;
    assert_eq!(writes_to(&bench, &place), tried, "a dead letter is left alone");
    retried(&bench, referrals[0]).await;
    assert_eq!((trouble_of(&bench, referrals[0]), bench.status_of(referrals[0])), (None, "Closed".to_owned()));
}

#[tokio::test]
async fn an_update_that_is_always_answered_with_a_fault_becomes_a_dead_letter() {
    let (bench, referrals) = settled(8).await;
    let lead = bench.lead_of(referrals[0]);
    let place = format!("leads({lead})");
    always(&bench, "PATCH", &place, 500);
    let rename = |referral: Uuid| {
        bench.world().edit_referral(referral, |it| it["customerProfile"]["name"] = "Renamed".into());
    };
    referrals[..2].iter().for_each(|referral| rename(*referral));
    for _ in 0..30 {
        let report = bench.pass().await;
        assert!(report.sides.is_empty(), "{report:?}");
    }
    assert_eq!(bench.store.intents().unwrap(), vec![]);
    let tried = writes_to(&bench, &place);
    assert!(tried <= 4 * 7, "it is tried with patience: {tried}");
    long_after(&bench).await;
    assert!(trouble_of(&bench, referrals[0]).unwrap().is_dead_letter);
    retried(&bench, referrals[0]).await;
    assert_eq!(bench.world().crm.value(Table::Lead, lead, "companyname"), "Renamed");
}

#[tokio::test]
async fn a_closing_whose_answers_are_lost_again_and_again_is_counted_once() {
    let (bench, referrals) = settled(8).await;
    let place = referrals[0].to_string();
    disqualified(&bench, &referrals[..1]).await;
    for _ in 0..25 {
        // Each write is preceded by a read, which the fault does not fit.
        for _ in 0..4 {
            bench.world().faults.play_next_write_at(Class::ResetBefore, &place);
        }
        let report = bench.pass().await;
        assert!(report.brakes.is_empty(), "{report:?}");
    }
    assert_eq!(bench.status_of(referrals[0]), "New");
    assert!(bench.store.decisions().unwrap().closings.len() <= 1);
    bench.world().faults.calm();
    bench.pass().await;
    assert_eq!(bench.status_of(referrals[0]), "Closed");
}

#[tokio::test]
async fn a_text_that_a_firewall_refuses_stops_one_lead_and_not_its_side() {
    let (bench, referrals) = settled(8).await;
    let lead = bench.lead_of(referrals[0]);
    bench.world().faults.always("PATCH", &format!("leads({lead})"), Lasting::Page(403));
    for referral in &referrals[..3] {
        bench.world().edit_referral(*referral, |it| it["customerProfile"]["name"] = "<script>".into());
    }
    for _ in 0..3 {
        let report = bench.pass().await;
        assert!(report.sides.is_empty() && !report.needs_human, "{report:?}");
    }
    let written: Vec<bool> = referrals[..3]
        .iter()
        .map(|id| bench.world().crm.value(Table::Lead, bench.lead_of(*id), "companyname") == "<script>")
        .collect();
    assert_eq!(written, [false, true, true]);
    assert_eq!(trouble_of(&bench, referrals[0]).unwrap().cause.side, Some(Side::Crm));
}

/// From here on a row cannot be printed. No poll lists it any more, since another one of its table changed long after it.
async fn unprintable(bench: &Bench, table: Table, row: Uuid, other: Uuid) {
    bench.wait(3600);
    bench.edit(table, other, json!({"description": "called again"}));
    bench.pass().await;
    bench.world().crm.set_unprintable(row, true);
}

#[tokio::test]
async fn one_lead_that_cannot_be_printed_fails_no_list_of_others() {
    let (bench, referrals) = settled(8).await;
    let broken = bench.lead_of(referrals[0]);
    unprintable(&bench, Table::Lead, broken, bench.lead_of(referrals[7])).await;
    for referral in &referrals[1..4] {
        bench.world().edit_referral(*referral, |it| it["customerProfile"]["name"] = "Renamed".into());
    }
    bench.engine.ask_for_sweep();
    for _ in 0..4 {
        let report = bench.pass().await;
        assert!(report.sides.is_empty(), "{report:?}");
    }
    let named = |referral: Uuid| bench.world().crm.value(Table::Lead, bench.lead_of(referral), "companyname").clone();
    assert_eq!(referrals[1..4].iter().map(|id| named(*id)).collect::<Vec<_>>(), ["Renamed"; 3]);
    assert_eq!(trouble_of(&bench, referrals[0]).unwrap().cause.side, Some(Side::Crm));
    bench.world().crm.set_unprintable(broken, false);
    retried(&bench, referrals[0]).await;
    assert_eq!(trouble_of(&bench, referrals[0]), None);
}

#[tokio::test]
async fn one_opportunity_that_cannot_be_printed_holds_back_no_other_outcome() {
    let (bench, referrals) = settled(8).await;
    let mut opportunities = Vec::new();
    for referral in &referrals[..3] {
        let lead = bench.lead_of(*referral);
        opportunities.push(bench.world().qualify_lead(lead, true).unwrap().expect("an opportunity"));
    }
    bench.pass().await;
    unprintable(&bench, Table::Opportunity, opportunities[0], opportunities[2]).await;
    bench.engine.ask_for_sweep();
    let before = bench.store.memo().unwrap().leads_read;
    let report = bench.pass().await;
    assert!(report.sides.is_empty(), "{report:?}");
    assert!(bench.store.memo().unwrap().leads_read > before, "all leads and opportunities were read: {report:?}");
    assert_eq!(trouble_of(&bench, referrals[0]).unwrap().cause.side, Some(Side::Crm));
    bench.world().crm.set_unprintable(opportunities[0], false);
    retried(&bench, referrals[0]).await;
    assert_eq!(trouble_of(&bench, referrals[0]), None);
}

#[tokio::test]
async fn a_lead_that_cannot_be_printed_fails_no_search_of_others() {
    let (bench, referrals) = settled(3).await;
    let fresh = [Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3)];
    // The lead of a former flow, whose subject is the referral's id; no poll lists it when the referral comes.
    let former = json!({"subject": fresh[0].to_string(), "lastname": "One"});
    let broken = bench.world().add_lead(former).unwrap();
    unprintable(&bench, Table::Lead, broken, bench.lead_of(referrals[0])).await;
    for id in fresh {
        bench.world().add_referral(json!({"id": id.to_string(), "name": "A new deal"}));
    }
    for _ in 0..3 {
        let report = bench.pass().await;
        assert!(report.sides.is_empty(), "{report:?}");
    }
    bench.lead_of(fresh[1]);
    bench.lead_of(fresh[2]);
    let linked = || bench.store.get(ReferralId::new(fresh[0])).unwrap().and_then(|entry| entry.link);
    assert_eq!(linked(), None, "nobody knows whether it has a lead");
    bench.world().crm.set_unprintable(broken, false);
    retried(&bench, fresh[0]).await;
    assert_eq!(linked().map(|link| link.lead.uuid()), Some(broken));
}

#[tokio::test]
async fn searches_that_time_out_are_the_trouble_of_their_side_however_few_referrals_wait() {
    let (bench, referrals) = settled(3).await;
    bench.world().crm.time_out_searches(true);
    let fresh = bench.world().add_referral(json!({"name": "A new deal"}));
    for _ in 0..12 {
        let report = bench.pass().await;
        assert!(report.sides.contains_key(&Side::Crm), "{report:?}");
        bench.wait(3600);
    }
    assert_eq!(trouble_of_any(&bench, &[fresh, referrals[0]]), vec![]);
    bench.world().crm.time_out_searches(false);
    for _ in 0..2 {
        bench.pass().await;
    }
    bench.lead_of(fresh);
}

#[tokio::test]
async fn many_leads_that_cannot_be_printed_end_no_nightly_reading() {
    let (bench, referrals) = settled(30).await;
    let newest = bench.lead_of(referrals[29]);
    for referral in &referrals[..5] {
        unprintable(&bench, Table::Lead, bench.lead_of(*referral), newest).await;
    }
    bench.world().crm.set_out_of_reach(bench.lead_of(referrals[7]), true);
    bench.engine.ask_for_sweep();
    let before = bench.store.memo().unwrap().leads_read;
    let asked = |bench: &Bench| bench.world().journal.count(Service::Crm);
    let asked_before = asked(&bench);
    let mut passes = 0;
    while passes < 12 && bench.store.memo().unwrap().leads_read == before {
        bench.pass().await;
        passes += 1;
    }
    println!("{passes} passes, {} requests", asked(&bench) - asked_before);
    assert!(bench.store.memo().unwrap().leads_read > before, "every lead was read, or has trouble of its own");
    assert_eq!(trouble_of_any(&bench, &referrals).len(), 6);
    assert!(asked(&bench) - asked_before < 100 * passes, "{}", asked(&bench) - asked_before);
}

fn trouble_of_any(bench: &Bench, referrals: &[Uuid]) -> Vec<Trouble> {
    referrals.iter().filter_map(|id| bench.store.get(ReferralId::new(*id)).unwrap()?.trouble).collect()
}

fn closing_date(bench: &Bench, referral: Uuid) -> String {
    let world = bench.world();
    world.portal.get(referral).unwrap()["details"]["closingDateTime"]
        .as_str()
        .unwrap_or_default()
        .chars()
        .take(10)
        .collect()
}

/// Passes of an hour, a minute after each other; none of them says that a side is in trouble.
async fn an_hour_without_trouble(bench: &Bench) {
    for _ in 0..60 {
        bench.wait(60);
        let report = bench.pass().await;
        assert!(report.sides.is_empty(), "{report:?}");
    }
}

#[tokio::test]
async fn a_lead_that_cannot_be_printed_does_not_hide_what_changed_besides() {
    let (bench, referrals) = settled(8).await;
    let broken = bench.lead_of(referrals[0]);
    // The next poll lists it.
    bench.edit(Table::Lead, broken, json!({"estimatedclosedate": "2027-08-08"}));
    bench.world().crm.set_unprintable(broken, true);
    bench.edit(Table::Lead, bench.lead_of(referrals[1]), json!({"estimatedclosedate": "2027-08-09"}));
    bench.world().edit_referral(referrals[2], |it| it["customerProfile"]["name"] = "Renamed".into());
    bench.edit(Table::Lead, bench.lead_of(referrals[3]), json!({"statuscode": 2}));
    let asked = |bench: &Bench| bench.world().journal.count(Service::Crm);
    let before = asked(&bench);
    an_hour_without_trouble(&bench).await;
    println!("{} requests in an hour", asked(&bench) - before);
    assert_eq!(closing_date(&bench, referrals[1]), "2027-08-09");
    assert_eq!(bench.world().crm.value(Table::Lead, bench.lead_of(referrals[2]), "companyname"), "Renamed");
    assert_eq!(bench.world().portal.get(referrals[3]).unwrap()["status"], "Active");
    assert_eq!(trouble_of(&bench, referrals[0]).unwrap().cause.side, Some(Side::Crm));
    // It is older than the watermark by now: a change is listed again.
    bench.edit(Table::Lead, bench.lead_of(referrals[4]), json!({"estimatedclosedate": "2027-08-10"}));
    let read_before = bench.store.memo().unwrap().leads_read;
    bench.pass().await;
    assert_eq!(closing_date(&bench, referrals[4]), "2027-08-10");
    assert_eq!(bench.store.memo().unwrap().leads_read, read_before);
    bench.world().crm.set_unprintable(broken, false);
    retried(&bench, referrals[0]).await;
    assert_eq!(trouble_of(&bench, referrals[0]), None);
    assert_eq!(closing_date(&bench, referrals[0]), "2027-08-08");
}

#[tokio::test]
async fn an_opportunity_that_cannot_be_printed_does_not_hide_other_outcomes() {
    let (bench, referrals) = settled(8).await;
    let mut opportunities = Vec::new();
    for referral in &referrals[..2] {
        let lead = bench.lead_of(*referral);
        opportunities.push(bench.world().qualify_lead(lead, true).unwrap().expect("an opportunity"));
    }
    bench.pass().await;
    for opportunity in &opportunities {
        bench.world().close_opportunity(*opportunity, true).unwrap();
    }
    bench.world().crm.set_unprintable(opportunities[0], true);
    an_hour_without_trouble(&bench).await;
    let status = |referral: Uuid| bench.world().portal.get(referral).unwrap()["status"].clone();
    assert_eq!((status(referrals[0]), status(referrals[1])), (json!("Active"), json!("Closed")));
    bench.world().crm.set_unprintable(opportunities[0], false);
    retried(&bench, referrals[0]).await;
    an_hour_without_trouble(&bench).await;
    assert_eq!(status(referrals[0]), "Closed");
}
