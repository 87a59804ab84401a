//! Every brake: what trips it, what it holds, that it outlives crashes, and what lets it go.

use std::time::Duration;

use referrald::config::HumanDuration;
use referrald::cycle::{CLOCK_BRAKE, OLD_OUTCOMES, ORGANIZATION_BRAKE, SWEEP_BRAKE};
use referrald::daemon::{DecisionRequest, Detail, Engine};
use referrald::plan::settings::OnReferralClosed;
use referrald::ports::{ActionKind, Batch, Decisions, Memo, StateStore, SweepCursor};
use referrald::sim::Service;
use referrald::sim::dynamics::Table;
use referrald::sim::faults::{Class, Lasting};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::town::{Host, Town, id};

/// Referrals that are Active and have leads, at rest.
async fn linked(town: &Town, host: &Host, count: i64) -> Vec<Uuid> {
    let referrals: Vec<Uuid> = (0..count).map(|number| town.referral(1000 + number)).collect();
    for referral in &referrals {
        town.edit_referral(*referral, "/status", json!("Active"));
        town.edit_referral(*referral, "/substatus", json!("Accepted"));
    }
    cycles(town, host, 3).await;
    referrals
}

async fn cycles(town: &Town, host: &Host, count: usize) {
    for _ in 0..count {
        town.pass(2);
        host.cycle().await;
    }
}

fn disqualify(town: &Town, referrals: &[Uuid]) {
    referrals.iter().for_each(|referral| town.edit_lead(*referral, json!({"statecode": 2, "statuscode": 4})));
}

fn closed(town: &Town) -> usize {
    town.world().portal.all().filter(|(_, row)| row["status"] == "Closed").count()
}

fn digest(host: &Host, brake: &str) -> String {
    host.decisions().brakes.get(brake).map(|latch| latch.digest.clone()).unwrap_or_default()
}

async fn approve(host: &Host, digest: String) {
    let answer = host.decide(DecisionRequest::Approve { digest }).await;
    assert!(answer.is_done, "{answer:?}");
}

#[tokio::test]
async fn a_crash_loop_does_not_reset_the_window_of_closings() {
    let town = Town::new(51);
    let mut host = town.host(1, |settings| settings.brakes.closings_per_hour = 3);
    let referrals = linked(&town, &host, 8).await;
    let mut kills = 0;
    for referral in &referrals {
        disqualify(&town, &[*referral]);
        host = town.restarted(&host);
        kills += usize::from(host.killed_after_a_write(&town).await);
        town.pass(2);
    }
    assert_eq!((closed(&town), kills), (3, 3), "in one hour");
    let host = town.restarted(&host);
    cycles(&town, &host, 2).await;
    assert_eq!(closed(&town), 3);
    let status = host.status().await;
    assert_eq!(status.brakes[0].name, "closings");
    assert!(status.brakes[0].reason.contains("in the last hour"), "{}", status.brakes[0].reason);
    approve(&host, digest(&host, "closings")).await;
    cycles(&town, &host, 1).await;
    assert_eq!(closed(&town), 8);
}

#[tokio::test]
async fn an_approval_releases_that_set_and_no_other() {
    let town = Town::new(52);
    let host = town.host(1, |settings| settings.brakes.closings_per_hour = 2);
    let referrals = linked(&town, &host, 6).await;
    disqualify(&town, &referrals[..4]);
    cycles(&town, &host, 2).await;
    let first = digest(&host, "closings");
    // One more, between the listing and the approval.
    disqualify(&town, &referrals[4..5]);
    approve(&host, first.clone()).await;
    cycles(&town, &host, 2).await;
    assert_eq!(closed(&town), 0, "the set has changed");
    let second = digest(&host, "closings");
    assert_ne!(first, second);
    let host = town.restarted(&host);
    approve(&host, second).await;
    cycles(&town, &host, 1).await;
    assert_eq!(closed(&town), 5);
    // The approval is used up: one more has to be asked for, for the window is full.
    disqualify(&town, &referrals[5..]);
    cycles(&town, &host, 2).await;
    assert_eq!(closed(&town), 5);
    town.pass(61);
    cycles(&town, &host, 1).await;
    assert_eq!((closed(&town), host.decisions().brakes.len()), (6, 0), "it fell below the limit by itself");
}

#[tokio::test]
async fn a_brake_names_the_same_set_in_every_pass_however_many_rows_are_due() {
    let town = Town::new(61);
    let host = town.host(1, |settings| {
        settings.cycle.window = 3;
        settings.brakes.closings_per_hour = 2;
        settings.status.settle_time_lost = HumanDuration::parse("10m").unwrap();
    });
    let referrals = linked(&town, &host, 8).await;
    disqualify(&town, &referrals);
    cycles(&town, &host, 1).await;
    town.pass(10);
    cycles(&town, &host, 1).await;
    let first = host.decisions().brakes["closings"].clone();
    cycles(&town, &host, 2).await;
    assert_eq!((first.count, first.digest.clone()), (8, digest(&host, "closings")));
    approve(&host, first.digest).await;
    cycles(&town, &host, 1).await;
    assert_eq!(closed(&town), 8);
}

#[tokio::test]
async fn outcomes_older_than_their_link_are_one_set_however_many() {
    let town = Town::new(67);
    for number in 0..5 {
        let referral = town.referral(1000 + number);
        let lead = town.world().add_lead(json!({"subject": referral.to_string(), "lastname": "Doe"})).unwrap();
        town.world().edit_row(Table::Lead, lead, json!({"statecode": 2, "statuscode": 4})).unwrap();
    }
    let host = town.host(1, |settings| settings.cycle.window = 3);
    cycles(&town, &host, 3).await;
    let (name, latch) = host.decisions().brakes.pop_first().expect("they are listed");
    assert_eq!((name.as_str(), latch.count, closed(&town)), (OLD_OUTCOMES, 5, 0));
    approve(&host, latch.digest).await;
    cycles(&town, &host, 1).await;
    assert_eq!((closed(&town), host.decisions().brakes.len()), (5, 0));
}

#[tokio::test]
async fn what_was_approved_goes_on_after_an_interruption_and_takes_nothing_else_along() {
    let town = Town::new(62);
    let host = town.host(1, |settings| settings.brakes.closings_per_hour = 2);
    let referrals = linked(&town, &host, 7).await;
    disqualify(&town, &referrals[..6]);
    cycles(&town, &host, 2).await;
    approve(&host, digest(&host, "closings")).await;
    let first = referrals[..6].iter().min().expect("there are six");
    town.world().faults.play_next_at(Class::Throttle, &first.to_string());
    cycles(&town, &host, 1).await;
    assert_eq!(closed(&town), 0, "the service asked to wait");
    disqualify(&town, &referrals[6..]);
    let host = town.restarted(&host);
    cycles(&town, &host, 4).await;
    assert_eq!(closed(&town), 6, "all of the set, and not the one that came later");
    assert_eq!(host.decisions().brakes["closings"].count, 1);
    town.pass(61);
    cycles(&town, &host, 1).await;
    assert_eq!((closed(&town), host.decisions().let_go.len()), (7, 0));
}

#[tokio::test]
async fn without_a_limit_a_closing_still_waits_until_its_lead_can_be_seen() {
    let town = Town::new(63);
    let host = town.host(1, |settings| {
        settings.brakes.closings_per_hour = 0;
        settings.status.settle_time_lost = HumanDuration::parse("10m").unwrap();
    });
    let referrals = linked(&town, &host, 3).await;
    disqualify(&town, &referrals[..1]);
    cycles(&town, &host, 1).await;
    town.pass(10);
    town.world().faults.play_next_at(Class::RoleLost, "/leads");
    cycles(&town, &host, 1).await;
    assert_eq!(closed(&town), 0, "it may have been reopened");
    town.world().faults.calm();
    cycles(&town, &host, 1).await;
    assert_eq!(closed(&town), 1);
}

#[tokio::test]
async fn leads_that_vanish_a_few_at_a_time_brake_like_those_that_vanish_at_once() {
    let town = Town::new(64);
    let host = town.host(1, |_| {});
    let referrals = linked(&town, &host, 20).await;
    let vanish = async |some: &[Uuid]| {
        some.iter().for_each(|referral| town.world().delete_lead(town.lead_of(*referral)));
        host.engine.ask_for_sweep();
        cycles(&town, &host, 2).await;
    };
    vanish(&referrals[..4]).await;
    assert!(!host.decisions().brakes.contains_key("leads vanished"), "four are not many");
    vanish(&referrals[4..8]).await;
    assert_eq!(host.decisions().brakes["leads vanished"].count, 4, "eight within an hour are");
    assert!(host.decisions().brakes["leads vanished"].reason.contains("after 4 in the last hour"));
}

#[tokio::test]
async fn acceptances_creates_updates_and_disqualifications_are_held_as_a_whole() {
    type Provoke = fn(&Town, &[Uuid]);
    let kinds: [(&str, ActionKind, Provoke); 4] = [
        ("acceptances", ActionKind::Accept, |town, referrals| {
            referrals.iter().for_each(|referral| town.edit_lead(*referral, json!({"statuscode": 2})));
        }),
        ("creates", ActionKind::Create, |town, referrals| {
            (0..referrals.len() as i64).for_each(|number| drop(town.referral(number).to_string()));
        }),
        ("updates", ActionKind::Update, |town, referrals| {
            referrals.iter().for_each(|referral| town.edit_referral(*referral, "/details/dealValue", json!(77)));
        }),
        ("disqualifications", ActionKind::Disqualify, |town, referrals| {
            for referral in referrals {
                town.edit_referral(*referral, "/status", json!("Closed"));
                town.edit_referral(*referral, "/substatus", json!("Lost"));
            }
        }),
    ];
    for (name, kind, provoke) in kinds {
        let town = Town::new(53);
        let host = town.host(1, |settings| settings.status.on_referral_closed = OnReferralClosed::Disqualify);
        let referrals: Vec<Uuid> = (0..6).map(|number| town.referral(1000 + number)).collect();
        cycles(&town, &host, 3).await;
        let host = town.again(&host, |settings| {
            settings.brakes.acceptances_per_hour = 4;
            settings.brakes.creates_per_cycle = 4;
            settings.brakes.updates_per_cycle = 4;
            settings.brakes.disqualifications_per_cycle = 4;
        });
        cycles(&town, &host, 1).await;
        provoke(&town, &referrals[..5]);
        town.pass(2);
        let report = host.cycle().await;
        assert_eq!(report.done.get(&kind), None, "{name}: {report:?}");
        assert!(report.brakes.contains_key(name), "{name}: {report:?}");
        let host = town.restarted(&host);
        cycles(&town, &host, 1).await;
        let command = host.status().await.brakes.iter().find(|brake| brake.name == name).map(|it| it.command.clone());
        assert_eq!(command, Some(format!("referrald approve {}", digest(&host, name))));
        approve(&host, digest(&host, name)).await;
        town.pass(2);
        let report = host.cycle().await;
        assert_eq!(report.done.get(&kind), Some(&5), "{name}: {report:?}");
        assert!(!host.decisions().brakes.contains_key(name), "{name}");
        assert!(host.decisions().approved.is_empty(), "{name}: the approval is used up");
    }
}

#[tokio::test]
async fn vanished_leads_wait_for_an_approval_of_exactly_these() {
    let town = Town::new(54);
    let host = town.host(1, |_| {});
    let referrals = linked(&town, &host, 20).await;
    for referral in &referrals[..8] {
        let lead = town.lead_of(*referral);
        town.world().delete_lead(lead);
    }
    host.engine.ask_for_sweep();
    cycles(&town, &host, 2).await;
    let name = "leads vanished";
    assert_eq!(host.status().await.holds.get("lead vanished"), Some(&8));
    let host = town.restarted(&host);
    cycles(&town, &host, 1).await;
    approve(&host, digest(&host, name)).await;
    cycles(&town, &host, 2).await;
    let status = host.status().await;
    assert_eq!((status.holds.get("lead deleted"), status.holds.get("lead vanished")), (Some(&8), None), "{status:?}");
    assert!(host.decisions().brakes.is_empty() && host.decisions().approved.is_empty());
}

#[tokio::test]
async fn another_organization_on_either_side_stops_writing_until_the_move_is_approved() {
    let moves: [fn(&mut Memo); 2] = [
        |memo| memo.crm_organization = Some(Uuid::from_u128(9)),
        |memo| memo.partner_organization = Some("another".to_owned()),
    ];
    for change in moves {
        let town = Town::new(55);
        let host = town.host(1, |_| {});
        let referrals = linked(&town, &host, 4).await;
        let mut memo = host.store.memo().unwrap();
        change(&mut memo);
        host.store.record(Batch { memo: Some(memo), ..Batch::default() }).await.unwrap();
        town.edit_referral(referrals[0], "/details/dealValue", json!(77));
        let before = town.all_writes();
        let host = town.restarted(&host);
        cycles(&town, &host, 3).await;
        let host = town.restarted(&host);
        cycles(&town, &host, 1).await;
        assert_eq!(town.all_writes(), before);
        let status = host.status().await;
        let brake = status.brakes.iter().find(|brake| brake.name == ORGANIZATION_BRAKE).expect("a brake");
        assert_eq!(brake.command, "referrald approve organization");
        assert!(status.writing.stopped.is_some());
        approve(&host, "organization".to_owned()).await;
        cycles(&town, &host, 3).await;
        assert_eq!(town.amount_of(referrals[0]), 77.0);
        assert_eq!(town.world().crm.lead_ids().len(), 4, "every id is kept");
        assert!(host.decisions().brakes.is_empty());
    }
}

#[tokio::test]
async fn a_clock_that_is_off_stops_writing_until_it_agrees_again() {
    let town = Town::new(56);
    let host = town.host(1, |_| {});
    let referrals = linked(&town, &host, 3).await;
    town.edit_referral(referrals[0], "/details/dealValue", json!(77));
    let before = town.all_writes();
    let fast = town.on_a_fast_clock(&host, Duration::from_secs(20 * 60));
    cycles(&town, &fast, 3).await;
    assert_eq!(town.all_writes(), before);
    let status = fast.status().await;
    assert!(status.brakes.iter().any(|brake| brake.name == CLOCK_BRAKE && brake.reason.contains("seconds apart")));
    let answer = fast.decide(DecisionRequest::Approve { digest: String::new() }).await;
    assert!(!answer.is_done, "a wrong clock cannot be approved");
    let host = town.again(&host, |_| {});
    cycles(&town, &host, 2).await;
    assert_eq!(town.amount_of(referrals[0]), 77.0);
    assert!(host.decisions().brakes.is_empty());
}

#[tokio::test]
async fn a_brake_is_not_let_go_by_a_cycle_that_saw_nothing() {
    let town = Town::new(57);
    let host = town.host(1, |settings| settings.brakes.updates_per_cycle = 2);
    let referrals = linked(&town, &host, 6).await;
    referrals.iter().for_each(|referral| town.edit_referral(*referral, "/details/dealValue", json!(77)));
    cycles(&town, &host, 2).await;
    let before = host.decisions().brakes["updates"].clone();
    town.world().faults.outage(Some(Service::Crm));
    cycles(&town, &host, 2).await;
    assert_eq!(host.decisions().brakes.get("updates"), Some(&before));
    town.world().faults.outage(None);
    cycles(&town, &host, 1).await;
    assert_eq!(host.decisions().brakes.get("updates"), Some(&before));
}

#[tokio::test]
async fn a_plan_whose_every_action_is_held_says_so() {
    let town = Town::new(60);
    let host = town.host(1, |settings| settings.brakes.closings_per_hour = 2);
    let referrals = linked(&town, &host, 6).await;
    disqualify(&town, &referrals[..4]);
    cycles(&town, &host, 1).await;
    let forecast = async || host.engine.forecast(Detail::Names, &CancellationToken::new()).await.unwrap();
    let held = forecast().await;
    assert_eq!((held.actions.len(), held.is_held), (4, true), "{held:#?}");
    town.edit_referral(referrals[5], "/details/dealValue", json!(77));
    let mixed = forecast().await;
    assert!(mixed.actions.len() == 5 && !mixed.is_held, "{mixed:#?}");
}

/// Hides referrals from every listing for a day.
fn hide(town: &Town, referrals: &[Uuid]) {
    let until = town.clock.at().plus(Duration::from_secs(86_400));
    referrals.iter().for_each(|referral| town.world().portal.hide(*referral, until));
}

#[tokio::test]
async fn the_brake_of_a_sweep_is_released_by_the_name_of_exactly_the_missing_ones() {
    let town = Town::new(57);
    let host = town.host(1, |_| {});
    let referrals = linked(&town, &host, 20).await;
    let sweep = async |count| {
        host.engine.ask_for_sweep();
        cycles(&town, &host, count).await;
        digest(&host, SWEEP_BRAKE)
    };
    hide(&town, &referrals[..8]);
    let first = sweep(1).await;
    assert!(!first.is_empty());
    assert_eq!(sweep(1).await, first, "the same set has the same name");
    // As many as before, and others: what was approved were not these.
    approve(&host, first.clone()).await;
    town.world().portal.hide(referrals[0], town.clock.at());
    hide(&town, &referrals[8..9]);
    let second = sweep(1).await;
    assert!(!second.is_empty() && second != first, "{second} {first}");
    approve(&host, second).await;
    assert_eq!(sweep(1).await, "", "released");
}

#[tokio::test]
async fn nothing_is_read_for_what_a_latched_brake_holds() {
    let town = Town::new(62);
    let host = town.keyed(1);
    linked(&town, &host, 25).await;
    let cost = async || {
        let asked = |town: &Town| town.world().journal.records().iter().filter(|it| it.service == Service::Crm).count();
        let before = asked(&town);
        cycles(&town, &host, 1).await;
        asked(&town) - before
    };
    cycles(&town, &host, 2).await;
    let quiet = cost().await;
    let leads = town.world().crm.ids(Table::Lead);
    for lead in leads {
        town.world().edit_row(Table::Lead, lead, json!({"statecode": 2, "statuscode": 4})).unwrap();
    }
    cycles(&town, &host, 1).await;
    town.pass(26 * 60);
    cycles(&town, &host, 4).await;
    let held = digest(&host, "closings");
    assert!(!held.is_empty(), "{:?}", host.decisions());
    assert_eq!((cost().await, digest(&host, "closings")), (quiet, held.clone()));
    assert_eq!(closed(&town), 0);
    approve(&host, held).await;
    cycles(&town, &host, 2).await;
    assert_eq!(closed(&town), 25);
}

#[tokio::test]
async fn what_is_about_to_expire_goes_first_of_all_that_is_due() {
    let town = Town::new(63);
    let host = town.host(1, |settings| settings.status.deadline_warning = HumanDuration::parse("26h").unwrap());
    let referrals: Vec<Uuid> = (0..45).map(|number| town.referral(1000 + number)).collect();
    let urgent = referrals[44];
    let ends = town.clock.at().plus(Duration::from_secs(25 * 3600));
    town.edit_referral(urgent, "/expirationDateTime", json!(ends.to_string()));
    town.world().faults.always("PATCH", "", Lasting::Refusal(400));
    cycles(&town, &host, 1).await;
    town.world().faults.calm();
    // All are due, the one that is about to expire for the shortest time.
    town.pass(11);
    let mut entries = Vec::new();
    for (place, referral) in referrals.iter().enumerate() {
        let mut entry = host.store.get(id(*referral)).unwrap().unwrap();
        entry.trouble.as_mut().expect("it was refused").is_dead_letter = false;
        entry.look_at = Some(town.clock.at().minus(Duration::from_secs(600 - place as u64)));
        assert_eq!(entry.deadline == Some(ends), *referral == urgent);
        entries.push((id(*referral), Some(entry)));
    }
    host.store.record(Batch { entries, ..Batch::default() }).await.unwrap();
    let before = town.world().journal.writes().count();
    cycles(&town, &host, 1).await;
    let written: Vec<_> = town.world().journal.writes().skip(before).filter_map(|record| record.subject).collect();
    let place = written.iter().position(|lead| *lead == town.lead_of(urgent));
    // Those that are sent together arrive in any order.
    assert!(place.is_some_and(|place| place < 20) && written.len() >= 45, "{place:?} of {}", written.len());
}

#[tokio::test]
async fn what_was_buried_and_not_yet_removed_is_removed_by_the_next_pass_and_not_written() {
    let town = Town::new(64);
    let host = town.host(1, |_| {});
    let referrals = linked(&town, &host, 2).await;
    let tombstone = Decisions::tombstone(&host.store.fingerprint_key(), id(referrals[0]));
    host.store.decide(Box::new(move |decisions| decisions.forgotten.extend([tombstone]))).await.unwrap();
    let host = town.restarted(&host);
    disqualify(&town, &referrals);
    cycles(&town, &host, 2).await;
    assert_eq!(host.store.get(id(referrals[0])).unwrap(), None);
    assert_eq!(referrals.iter().map(|it| town.path_of(*it, "/status")).collect::<Vec<_>>(), ["Active", "Closed"]);
}

#[tokio::test]
async fn a_sweep_asked_for_while_one_is_under_way_is_one_more_after_it() {
    let town = Town::new(58);
    let host = town.host(1, |_| {});
    linked(&town, &host, 4).await;
    cycles(&town, &host, 2).await;
    let sweeps = |town: &Town| {
        let world = town.world();
        let records = world.journal.records().iter();
        let is_sweep =
            |path: &str| path.contains("createdDateTime") && path.contains("asc") && !path.contains("filter");
        records.filter(|record| is_sweep(&record.path)).count()
    };
    let mut memo = host.store.memo().unwrap();
    memo.sweep = Some(SweepCursor { began: town.clock.at(), ..SweepCursor::default() });
    host.store.record(Batch { memo: Some(memo), ..Batch::default() }).await.unwrap();
    host.engine.ask_for_sweep();
    let before = sweeps(&town);
    cycles(&town, &host, 3).await;
    assert_eq!(sweeps(&town), before + 2, "the one under way, and one more");
    host.engine.ask_for_sweep();
    cycles(&town, &host, 3).await;
    assert_eq!(sweeps(&town), before + 3);
}
