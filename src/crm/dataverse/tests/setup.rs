//! The referral id column and its key: created, and waited for as long as the service's caches need.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fake::*;
use crate::crm::dataverse::setup::install::{BUSY_PAUSE, LOOK_PAUSE, SETTLE_TIME_MAX};
use crate::crm::dataverse::setup::{FoundOwner, Setup};
use crate::model::{Fault, Owner, Timestamp};
use crate::ports::{Clock, Crm};
use crate::sim::clock::SimClock;

const START: Timestamp = Timestamp::from_seconds(1_795_168_800);

fn desk() -> (Arc<Fake>, Setup, SimClock) {
    let fake = Fake::new();
    let setup =
        Setup::open(&settings(), Arc::clone(&fake) as Arc<dyn crate::http::Exchange>).expect("settings are fine");
    let languages = ok(json!({"value": [{"languagecode": 1033}]}));
    fake.on(Method::GET, "organizations?", languages);
    (fake, setup, SimClock::paused(START))
}

fn key(index: &str) -> Value {
    json!({"value": [{"LogicalName": "new_referralidkey", "KeyAttributes": [COLUMN], "EntityKeyIndexStatus": index}]})
}

fn waited(clock: &SimClock) -> Duration {
    clock.now().since(START)
}

#[tokio::test]
async fn set_up_reads_past_the_caches() {
    let (fake, setup, _) = desk();
    setup.column(COLUMN).await.expect("an answer");
    setup.key(COLUMN).await.expect("an answer");
    let calls = fake.all_calls();
    assert!(!calls.is_empty() && calls.iter().all(|call| header(call, "consistency") == "Strong"));
    derived(&fake).schema().await.expect("a schema");
    assert!(fake.all_calls()[calls.len()..].iter().all(|call| header(call, "consistency").is_empty()));
}

#[tokio::test]
async fn a_key_over_a_column_that_is_not_known_everywhere_yet_is_tried_again_for_a_minute() {
    for refusal in [error(404, "0x80041103", "no such column"), error(400, "0x80060890", "no key column"), raw(404, "")]
    {
        let (fake, setup, clock) = desk();
        for _ in 0..3 {
            fake.on(Method::POST, "/Keys", refusal.clone());
        }
        fake.on(Method::POST, "/Keys", raw(204, ""));
        setup.create_key(COLUMN, None, &clock).await.expect("a key");
        assert_eq!(waited(&clock), LOOK_PAUSE * 3);
    }
    let (fake, setup, clock) = desk();
    for _ in 0..100 {
        fake.on(Method::POST, "/Keys", error(404, "0x80041103", "no such column"));
    }
    let error = setup.create_key(COLUMN, None, &clock).await.expect_err("no such column");
    assert_eq!((error.status, waited(&clock)), (Some(404), SETTLE_TIME_MAX));
}

#[tokio::test]
async fn a_customization_under_way_is_waited_for_between_single_requests() {
    for code in ["0x80071151", "0x8004ED47"] {
        let (fake, setup, clock) = desk();
        fake.on(Method::POST, "/Attributes", error(500, code, "busy"));
        fake.on(Method::POST, "/Attributes", raw(204, ""));
        setup.create_column(COLUMN, None, &clock).await.expect("a column");
        let calls = fake.all_calls();
        let posts: Vec<&str> =
            calls.iter().filter(|call| call.method == Method::POST).map(|call| header(call, "content-type")).collect();
        assert_eq!(posts, ["application/json; charset=utf-8"; 2], "as every body (dataverse §1.4)");
        assert_eq!(waited(&clock), BUSY_PAUSE);
    }
}

#[tokio::test]
async fn an_index_that_is_built_again_may_show_its_former_failure_for_a_moment() {
    for (is_built_again, failures, is_built) in [(true, 3, true), (true, 20, false), (false, 1, false)] {
        let (fake, setup, clock) = desk();
        for _ in 0..failures {
            fake.on(Method::GET, "/Keys", ok(key("Failed")));
        }
        let built = setup.wait_for_key(COLUMN, is_built_again, &clock, |_| {}).await;
        assert_eq!(built.is_ok(), is_built, "{is_built_again} {failures}");
        assert!(waited(&clock) <= SETTLE_TIME_MAX);
    }
    let (fake, setup, clock) = desk();
    fake.on(Method::GET, "/Keys", ok(key("Failed")));
    let error = setup.wait_for_key(COLUMN, false, &clock, |_| {}).await.expect_err("duplicates");
    assert_eq!(error.fault, Fault::Refused);
}

#[tokio::test]
async fn an_owner_is_found_where_users_have_no_column_that_says_whether_they_are_disabled() {
    let (fake, setup, _) = desk();
    let user = Owner::User(Uuid::from_u128(7));
    fake.on(Method::GET, "systemusers(", error(400, "0x80060888", "Could not find a property named 'isdisabled'"));
    fake.on(Method::GET, "systemusers(", ok(json!({"systemuserid": Uuid::from_u128(7).to_string()})));
    assert_eq!(setup.owner(user).await, Ok(FoundOwner::Fine));
    assert_eq!(fake.all_calls()[1].url.query(), Some("$select=systemuserid"));
    // Any other refusal is told.
    fake.on(Method::GET, "systemusers(", error(403, "0x80040220", "no"));
    assert!(setup.owner(user).await.is_err());
}
