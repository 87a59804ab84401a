//! Changed leads heard of by change tracking (`dataverse.observe = "delta"`).

use std::time::Duration;

use referrald::config::{HumanDuration, Settings};
use referrald::crm::dataverse::settings::Observe;
use referrald::cycle::TRACKING_AGAIN;
use referrald::model::{ReferralId, Standing};
use referrald::ports::{Cursor, StateStore, Tracking};
use referrald::sim::Service;
use referrald::sim::faults::Class;
use serde_json::json;
use uuid::Uuid;

use crate::stage::{Stage, says};
use crate::town::{Host, Town};

fn tracked(settings: &mut Settings) {
    settings.dataverse.observe = Observe::Delta;
}

async fn cycles(town: &Town, host: &Host, count: usize) {
    for _ in 0..count {
        town.pass(1);
        host.cycle().await;
    }
}

/// A town with a host that has linked some referrals and follows its link.
async fn following(seed: u64, referrals: usize) -> (Town, Host, Vec<Uuid>) {
    let town = Town::new(seed);
    let ids = (0..referrals).map(|number| town.referral(1_000 + number as i64)).collect();
    let host = town.host(1, tracked);
    cycles(&town, &host, 4).await;
    assert!(matches!(tracking(&host), Some(Tracking::Proven(_))), "{:?}", tracking(&host));
    (town, host, ids)
}

fn tracking(host: &Host) -> Option<Tracking> {
    host.store.memo().unwrap().tracking
}

fn standing(host: &Host, referral: Uuid) -> Standing {
    host.store.get(ReferralId::new(referral)).unwrap().expect("an entry").standing
}

/// How often the leads side was asked this since the last look.
fn asked(town: &Town, since: usize, operation: &str) -> usize {
    let world = town.world();
    let records = world.journal.records()[since..].iter();
    records.filter(|record| record.service == Service::Crm && record.operation == operation).count()
}

fn requests(town: &Town) -> usize {
    town.world().journal.records().len()
}

#[tokio::test]
async fn a_quiet_pass_asks_for_changes_once_and_does_not_poll() {
    let (town, host, _) = following(1, 8).await;
    let before = requests(&town);
    cycles(&town, &host, 3).await;
    assert_eq!((asked(&town, before, "track changes"), asked(&town, before, "list leads")), (3, 0));
    let of_crm = town.world().journal.records()[before..].iter().filter(|one| one.service == Service::Crm).count();
    assert_eq!(of_crm, 6, "changes and opportunities");
}

#[tokio::test]
async fn edits_and_deletions_are_heard_of_in_the_next_pass() {
    let (town, host, referrals) = following(2, 8).await;
    let deleted = town.lead_of(referrals[0]);
    town.world().delete_lead(deleted);
    town.edit_lead(referrals[1], json!({"estimatedamount": 77}));
    // Nobody's lead, and one that came and went between two passes.
    let stranger = town.world().add_lead(json!({"subject": "somebody else"})).unwrap();
    let guest = town.world().add_lead(json!({"subject": "a guest"})).unwrap();
    town.world().delete_lead(guest);
    cycles(&town, &host, 1).await;
    assert_eq!(standing(&host, referrals[0]), Standing::LeadGone);
    assert_eq!(town.deal_value(referrals[1]), 77.0);
    assert!(host.store.by_lead(referrald::model::LeadId::new(stranger)).unwrap().is_none());
    // And back again, out of the recycle bin.
    assert!(town.world().restore_lead(deleted));
    cycles(&town, &host, 1).await;
    assert_eq!(standing(&host, referrals[0]), Standing::Linked);
}

#[tokio::test]
async fn a_notice_of_a_deletion_is_no_proof_of_one() {
    let (town, host, referrals) = following(9, 8).await;
    let lead = town.lead_of(referrals[0]);
    town.world().crm.announce_deletion(lead);
    let (before, writes) = (requests(&town), town.all_writes());
    cycles(&town, &host, 1).await;
    assert!(asked(&town, before, "list leads") > 0, "it is read by id");
    assert_eq!(standing(&host, referrals[0]), Standing::Linked);
    assert_eq!(town.all_writes(), writes);
}

#[tokio::test]
async fn a_link_that_is_too_old_is_answered_by_a_poll_and_a_reading_by_id() {
    let (town, host, referrals) = following(3, 8).await;
    town.world().delete_lead(town.lead_of(referrals[0]));
    town.edit_lead(referrals[1], json!({"estimatedamount": 77}));
    town.clock.advance(Duration::from_secs(8 * 86_400));
    let before = requests(&town);
    cycles(&town, &host, 1).await;
    assert_eq!(asked(&town, before, "list leads"), 1 + 1, "polled and read by id");
    assert_eq!((standing(&host, referrals[0]), town.deal_value(referrals[1])), (Standing::LeadGone, 77.0));
    assert!(matches!(tracking(&host), Some(Tracking::Fresh(_))), "the whole table was read again");
    cycles(&town, &host, 2).await;
    assert!(matches!(tracking(&host), Some(Tracking::Proven(_))));
}

#[tokio::test]
async fn a_table_without_change_tracking_is_polled_and_asked_again_in_an_hour() {
    let town = Town::new(4);
    town.world().options.crm.tracks_changes = false;
    let referral = town.referral(1_000);
    let host = town.host(1, tracked);
    cycles(&town, &host, 3).await;
    town.edit_lead(referral, json!({"estimatedamount": 77}));
    cycles(&town, &host, 1).await;
    assert_eq!(town.deal_value(referral), 77.0);
    assert_eq!(asked(&town, 0, "track changes"), 1, "asked once, not in every pass");
    let Some(Tracking::Off { why, .. }) = tracking(&host) else { panic!("{:?}", tracking(&host)) };
    let status = host.status().await;
    assert!(format!("{status:?}").contains(&why), "the status says why");
    town.world().options.crm.tracks_changes = true;
    town.clock.advance(TRACKING_AGAIN);
    cycles(&town, &host, 3).await;
    assert!(matches!(tracking(&host), Some(Tracking::Proven(_))));
}

#[tokio::test]
async fn a_link_of_other_columns_or_of_no_use_begins_anew() {
    let (town, host, referrals) = following(5, 4).await;
    let mut memo = host.store.memo().unwrap();
    memo.tracking = Some(Tracking::Proven(Cursor("$select=leadid&$deltatoken=nonsense".to_owned())));
    host.store.record(referrald::ports::Batch { memo: Some(memo), ..Default::default() }).await.unwrap();
    town.edit_lead(referrals[1], json!({"estimatedamount": 77}));
    cycles(&town, &host, 3).await;
    assert!(matches!(tracking(&host), Some(Tracking::Proven(_))), "{:?}", tracking(&host));
    assert_eq!(town.deal_value(referrals[1]), 77.0);
}

#[tokio::test]
async fn what_a_pass_did_not_account_for_is_told_again() {
    let (town, host, referrals) = following(6, 8).await;
    town.edit_lead(referrals[1], json!({"estimatedamount": 77}));
    town.world().delete_lead(town.lead_of(referrals[2]));
    let link = tracking(&host);
    // The changes are told, and no opportunity can be listed, whichever is asked for.
    for _ in 0..6 {
        town.world().faults.play_next_at(Class::HtmlError, "/opportunities");
    }
    cycles(&town, &host, 1).await;
    assert_eq!(tracking(&host), link, "the link stays until all of it is accounted for");
    cycles(&town, &host, 2).await;
    assert_eq!((town.deal_value(referrals[1]), standing(&host, referrals[2])), (77.0, Standing::LeadGone));
}

#[tokio::test]
async fn an_outcome_settles_anew_when_its_lead_changed_and_could_not_be_read() {
    let (town, host, referrals) = following(9, 3).await;
    let ten_minutes = HumanDuration::parse("10m").unwrap();
    let host = town.again(&host, |settings| settings.status.settle_time = ten_minutes);
    let disqualify = || town.edit_lead(referrals[0], json!({"statecode": 2, "statuscode": 4}));
    disqualify();
    cycles(&town, &host, 2).await;
    town.edit_lead(referrals[0], json!({"statecode": 0, "statuscode": 1}));
    town.world().faults.play_next_at(Class::Throttle, "/opportunities");
    cycles(&town, &host, 1).await;
    disqualify();
    town.pass(8);
    cycles(&town, &host, 1).await;
    assert_eq!(town.path_of(referrals[0], "/status"), json!("New"), "it was open meanwhile");
    town.pass(10);
    cycles(&town, &host, 2).await;
    assert_eq!(town.path_of(referrals[0], "/status"), json!("Closed"));
}

#[tokio::test]
async fn more_changes_than_one_pass_may_read_are_read_by_the_next_ones() {
    let town = Town::new(7);
    let referral = town.referral(1_000);
    let host = town.host(1, |settings| {
        tracked(settings);
        settings.dataverse.poll_pages_max = 1;
    });
    cycles(&town, &host, 4).await;
    for _ in 0..1_100 {
        town.world().add_lead(json!({"subject": "an import"})).unwrap();
    }
    town.edit_lead(referral, json!({"statecode": 2, "statuscode": 4}));
    let state = |town: &Town| town.path_of(referral, "/status");
    cycles(&town, &host, 2).await;
    assert_eq!(state(&town), "New", "the rest has not been read");
    cycles(&town, &host, 3).await;
    assert_eq!(state(&town), "Closed");
}

#[tokio::test]
async fn a_role_that_is_lost_stops_the_side_and_says_why() {
    let (town, host, referrals) = following(8, 8).await;
    town.world().options.crm.privileges_missing.insert("prvReadLead".to_owned());
    let before = town.all_writes();
    town.edit_referral(referrals[0], "/details/dealValue", json!(5));
    cycles(&town, &host, 3).await;
    assert_eq!(town.all_writes(), before);
    assert!(matches!(tracking(&host), Some(Tracking::Proven(_))), "the link is kept");
    town.world().options.crm.privileges_missing.clear();
    cycles(&town, &host, 2).await;
    assert_eq!(town.amount_of(referrals[0]), 5.0);
}

#[tokio::test]
async fn without_the_setting_the_link_is_dropped_and_leads_are_polled() {
    let (town, host, _) = following(9, 4).await;
    let host = town.again(&host, |settings| settings.dataverse.observe = Observe::Poll);
    let before = requests(&town);
    cycles(&town, &host, 2).await;
    assert_eq!((asked(&town, before, "track changes"), tracking(&host)), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_program_follows_its_link_over_http() {
    let stage = Stage::new(86, 6).await;
    stage.overlay("[dataverse]\nobserve = \"delta\"\n");
    for _ in 0..3 {
        stage.run(&["once"]).await;
    }
    let tracked = |stage: &Stage| {
        let requests = stage.requests(Service::Crm);
        let tracked: Vec<String> =
            requests.iter().filter(|one| one.operation == "track changes").map(|one| one.path.clone()).collect();
        tracked
    };
    let paths = tracked(&stage);
    assert!(paths.len() >= 3 && paths.last().is_some_and(|path| path.contains("$deltatoken=")), "{paths:?}");
    let lead = stage.simulator.with(|world| world.crm.lead_ids()[0]);
    stage.simulator.with(|world| world.delete_lead(lead));
    stage.clear_journal_but_judge();
    let report = stage.run(&["once", "--json"]).await;
    assert!(report.out.contains("lead deleted"), "{}", report.out);
    assert!(
        stage
            .requests(Service::Crm)
            .iter()
            .all(|one| one.operation != "list leads" || !one.path.contains("modifiedon ge"))
    );
    let check = stage.run(&["schema", "check"]).await;
    assert_eq!(check.code, 0, "{}", check.out);
    assert!(says(&check.out, "on, changes are kept for 7 days"), "{}", check.out);
    stage.simulator.with(|world| world.options.crm.tracks_changes = false);
    let check = stage.run(&["schema", "check"]).await;
    assert_eq!(check.code, 1, "{}", check.out);
    assert!(says(&check.out, "\"Track changes\""), "{}", check.out);
    let report = stage.run(&["once"]).await;
    println!("{}\n{}", report.out, report.trouble);
    assert!(says(&report.out, "changed leads are polled instead of tracked"), "{}", report.out);
    stage.judge_discretion();
}
