//! Faults: each does what it says, and the seed decides.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::clock::read_retry_after;
use super::super::exchange::Delivery;
use super::super::faults::{CLASSES, Class, FaultPlan};
use super::super::world::World;
use super::{crm, portal, world};

fn rows(body: &Value) -> Vec<Value> {
    body["value"].as_array().expect("rows").clone()
}

#[test]
fn a_reset_before_does_nothing_and_a_reset_after_loses_only_the_answer() {
    for (class, made) in [(Class::ResetBefore, 0), (Class::ResetAfter, 1)] {
        let mut world = world();
        world.faults.play_next(class);
        let answer = crm(&mut world, "POST", "leads", &[], Some(json!({"subject": "x"})));
        assert_eq!((answer.delivery, world.crm.lead_ids().len()), (Delivery::Reset, made), "{class:?}");
        assert_eq!(world.journal.writes().count(), made);
    }
}

#[test]
fn a_throttle_closes_the_service_for_as_long_as_it_says() {
    let mut world = world();
    world.faults.play_next(Class::Throttle);
    let refused = portal(&mut world, "GET", "", &[], None);
    let until = read_retry_after(refused.header("retry-after").expect("a wait"), world.clock().at());
    let wait = until.expect("seconds or a date").since(world.clock().at());
    world.clock().advance(wait);
    assert_eq!(portal(&mut world, "GET", "", &[], None).status, 200);
    world.faults.play_next(Class::ThrottleBare);
    assert!(portal(&mut world, "GET", "", &[], None).header("retry-after").is_none());
    assert_eq!(portal(&mut world, "GET", "", &[], None).status, 200);
}

#[test]
fn a_stale_list_shows_the_row_as_it_was_while_get_shows_it_as_it_is() {
    let mut world = world();
    let id = world.add_referral(json!({"name": "old"}));
    world.clock().advance(Duration::from_secs(3600));
    world.edit_referral(id, |row| row["name"] = "new".into());
    world.add_referral(json!({"name": "just made"}));
    world.faults.play_next(Class::StaleList);
    let list = portal(&mut world, "GET", "?$orderby=updatedDateTime%20desc", &[], None).value();
    assert_eq!(rows(&list).len(), 1);
    assert_eq!(list["value"][0]["name"], "old");
    assert_eq!(portal(&mut world, "GET", &format!("/{id}"), &[], None).value()["name"], "new");
}

#[test]
fn pages_are_repeated_and_loop_when_told_to() {
    let mut world = world();
    world.options.portal.page_size = 2;
    for _ in 0..6 {
        world.add_referral(json!({}));
    }
    let first = portal(&mut world, "GET", "?$orderby=createdDateTime", &[], None).value();
    let query =
        |body: &Value| body["@odata.nextLink"].as_str().expect("a link").split_once('?').expect("a query").1.to_owned();
    world.faults.play_next(Class::RepeatedPage);
    let again = portal(&mut world, "GET", &format!("?{}", query(&first)), &[], None).value();
    assert_eq!(rows(&first), rows(&again));
    assert_ne!(query(&first), query(&again));
    world.faults.play_next(Class::LoopingToken);
    let looping = portal(&mut world, "GET", &format!("?{}", query(&again)), &[], None).value();
    assert_eq!(query(&again), query(&looping));
}

#[test]
fn a_conflict_makes_a_conditional_write_fail_once() {
    let mut world = world();
    let lead = world.add_lead(json!({"subject": "x"})).expect("a lead");
    let place = format!("leads({lead})");
    let etag = crm(&mut world, "GET", &place, &[], None).header("etag").expect("a version").to_owned();
    world.faults.play_next(Class::Conflict);
    let answer = crm(&mut world, "PATCH", &place, &[("If-Match", &etag)], Some(json!({"subject": "y"})));
    assert_eq!(answer.status, 412);
    let etag = crm(&mut world, "GET", &place, &[], None).header("etag").expect("a version").to_owned();
    let answer = crm(&mut world, "PATCH", &place, &[("If-Match", &etag)], Some(json!({"subject": "y"})));
    assert_eq!(answer.status, 204);
}

#[test]
fn vanished_rows_are_missing_from_lists_only_and_come_back() {
    let mut world = world();
    let id = world.add_referral(json!({}));
    world.faults.play_next(Class::VanishingRows);
    assert!(rows(&portal(&mut world, "GET", "", &[], None).value()).is_empty());
    assert_eq!(portal(&mut world, "GET", &format!("/{id}"), &[], None).status, 200);
    world.clock().advance(Duration::from_secs(3600));
    assert_eq!(rows(&portal(&mut world, "GET", "", &[], None).value()).len(), 1);
}

/// A run of mixed requests; gives the statuses.
fn run(seed: u64) -> (World, Vec<u16>) {
    let mut world = world();
    world.populate(1, 30);
    world.options.portal.page_size = 10;
    world.faults = FaultPlan::storm(seed, 0.03);
    let statuses = (0..600).map(|number: u128| {
        world.clock().advance(Duration::from_secs(100));
        match number % 5 {
            0 => portal(&mut world, "GET", "?$orderby=updatedDateTime%20desc", &[], None).status,
            1 => {
                crm(
                    &mut world,
                    "PATCH",
                    &format!("leads({})", uuid::Uuid::from_u128(number % 40)),
                    &[("If-Match", "W/\"1\"")],
                    Some(json!({"subject": "x"})),
                )
                .status
            }
            2 => crm(&mut world, "POST", "leads", &[], Some(json!({"subject": "x"}))).status,
            3 => crm(&mut world, "GET", "leads?$deltatoken=1", &[], None).status,
            _ => crm(&mut world, "GET", "leads?$filter=subject%20ne%20null", &[], None).status,
        }
    });
    let statuses = statuses.collect();
    (world, statuses)
}

#[test]
fn the_seed_decides_every_fault_and_calm_ends_them() {
    let (world, one) = run(5);
    assert_eq!(one, run(5).1);
    assert_ne!(one, run(6).1);
    // The lasting ones are rare.
    let of = |seed| run(seed).0.faults.played().keys().copied().collect::<Vec<Class>>();
    let played: std::collections::BTreeSet<Class> = (5..15).flat_map(of).collect();
    for class in CLASSES {
        let needs_a_cursor = matches!(class, Class::RepeatedPage | Class::LoopingToken);
        assert!(needs_a_cursor || played.contains(&class), "{class:?} was never played: {played:?}");
    }
    let mut world = world;
    world.faults.calm();
    world.clock().advance(Duration::from_secs(7200));
    for _ in 0..100 {
        let answer = portal(&mut world, "GET", "", &[], None);
        assert_eq!((answer.status, answer.delivery), (200, Delivery::Whole));
    }
}
