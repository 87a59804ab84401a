//! The ports over the world: what the model sees, and what becomes of lost answers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::super::dynamics::Table;
use super::super::faults::Class;
use super::super::options::Options;
use super::super::{DirectCrm, DirectCrmSettings, DirectPortal, World};
use super::world_with;
use crate::model::{
    ETag, Fault, LeadDraft, LeadId, LeadState, OpportunityState, Patch, ReferralId, ReferralStatus, Timestamp,
};
use crate::ports::{Crm, FindBy, Portal, Scan};

fn shared() -> Arc<Mutex<World>> {
    let mut options = Options::default();
    options.portal.page_size = 7;
    Arc::new(Mutex::new(world_with(options)))
}

fn with<T>(world: &Arc<Mutex<World>>, act: impl FnOnce(&mut World) -> T) -> T {
    act(&mut world.lock().expect("a world"))
}

fn draft(columns: serde_json::Value) -> LeadDraft {
    LeadDraft { columns: serde_json::from_value(columns).expect("columns"), ..LeadDraft::default() }
}

fn crm(world: &Arc<Mutex<World>>, is_keyed: bool) -> DirectCrm {
    let settings = DirectCrmSettings {
        is_keyed,
        referral_column: Some("new_referralid".to_owned()),
        page_size: 3,
        ..DirectCrmSettings::default()
    };
    DirectCrm::new(world.clone(), settings)
}

#[tokio::test]
async fn every_scan_reads_every_page_and_every_shape() {
    let world = shared();
    with(&world, |world| world.populate(2, 60));
    let count = with(&world, |world| world.portal.len());
    let portal = DirectPortal::new(world.clone());
    for scan in [Scan::Recent, Scan::Sweep] {
        let mut seen = BTreeSet::new();
        let mut cursor = None;
        loop {
            let page = portal.page(&scan, cursor.as_ref()).await.expect("a page");
            assert!(page.server_time.is_some() && page.defects.is_empty());
            seen.extend(page.items.iter().map(|referral| referral.id));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), count);
    }
    let refused = portal.page(&Scan::ChangedSince(Timestamp::EPOCH), None).await.expect_err("not switched on");
    assert_eq!(refused.fault, Fault::Refused);
    let new = portal.page(&Scan::New, None).await.expect("a page");
    assert!(new.items.iter().all(|referral| referral.status == ReferralStatus::New));
}

#[tokio::test]
async fn a_patch_needs_the_version_and_gives_the_new_one() {
    let world = shared();
    let id = ReferralId::new(with(&world, |world| world.add_referral(json!({}))));
    let portal = DirectPortal::new(world.clone());
    let seen = portal.get(id).await.expect("a referral");
    let mut patch = Patch::default();
    patch.replace("/status", "Active");
    patch.replace("/substatus", "Accepted");
    let stale = portal.patch(id, &ETag("\"0\"".into()), &patch, Uuid::nil()).await.expect_err("stale");
    assert_eq!(stale.fault, Fault::Conflict);
    let etag = seen.etag.expect("a version");
    let after = portal.patch(id, &etag, &patch, Uuid::nil()).await.expect("written").expect("the entity");
    assert_eq!(after.status, ReferralStatus::Active);
    let missing = portal.get(ReferralId::new(Uuid::nil())).await.expect_err("missing");
    assert_eq!(missing.fault, Fault::Missing);
}

#[tokio::test]
async fn leads_are_created_once_found_and_updated_in_both_identities() {
    for is_keyed in [false, true] {
        let world = shared();
        let crm = crm(&world, is_keyed);
        let referral = ReferralId::new(Uuid::from_u128(77));
        let computed = LeadId::new(Uuid::from_u128(78));
        let draft = draft(json!({"subject": "One", "estimatedamount": 12.5, "transactioncurrencyid": "EUR"}));
        let made = crm.create(referral, computed, &draft, Uuid::nil()).await.expect("made");
        assert_eq!(made.id == computed, !is_keyed);
        assert_eq!((made.referral, &made.columns["transactioncurrencyid"]), (Some(referral), &json!("EUR")));
        let again = crm.create(referral, computed, &draft, Uuid::nil()).await.expect_err("there is one");
        assert_eq!(again.fault, Fault::Conflict);
        let found = crm.get_by_referral(referral, computed).await.expect("found");
        assert_eq!(found, made);
        assert_eq!(crm.find(FindBy::ReferralColumn, &[referral]).await.expect("found"), std::slice::from_ref(&made));
        assert!(crm.find(FindBy::Subject, &[referral]).await.expect("none").is_empty());
        let change = LeadDraft { columns: [("companyname".to_owned(), json!("C"))].into(), ..LeadDraft::default() };
        let etag = made.etag.clone().expect("a version");
        let changed = crm.update(made.id, &etag, &change, Uuid::nil()).await.expect("changed");
        assert_eq!(changed.columns["companyname"], "C");
        let stale = crm.update(made.id, &etag, &change, Uuid::nil()).await.expect_err("stale");
        assert_eq!(stale.fault, Fault::Conflict);
        with(&world, |world| world.delete_lead(made.id.uuid()));
        assert_eq!(crm.get(made.id).await.expect_err("gone").fault, Fault::Missing);
    }
}

#[tokio::test]
async fn polls_page_through_leads_and_opportunities() {
    let world = shared();
    let crm = crm(&world, false);
    let start = with(&world, |world| world.clock().at());
    let leads: Vec<Uuid> = with(&world, |world| {
        (0..8)
            .map(|number| {
                world.add_lead(json!({"subject": "x", "new_referralid": format!("r{number}")})).expect("a lead")
            })
            .collect()
    });
    let opportunity =
        with(&world, |world| world.qualify_lead(leads[0], true).expect("qualified")).expect("an opportunity");
    with(&world, |world| world.close_opportunity(opportunity, true).expect("won"));
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let page = crm.leads_changed_since(start, &[], cursor.as_ref()).await.expect("a page");
        seen.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 8);
    let ids: Vec<LeadId> = leads.iter().copied().map(LeadId::new).collect();
    let read = crm.leads(&ids).await.expect("leads");
    assert_eq!(read.iter().filter(|lead| lead.status.state == LeadState::Qualified).count(), 1);
    let deals = crm.opportunities_of(&ids).await.expect("deals");
    assert_eq!((deals.len(), deals[0].state, deals[0].lead), (1, OpportunityState::Won, Some(ids[0])));
    assert_eq!(crm.opportunities_changed_since(start, None).await.expect("a page").items, deals);
    let schema = crm.schema().await.expect("a schema");
    assert!(schema.is_key_active && schema.has_referral_column && schema.currencies["KRW"] == 0);
    assert_eq!(schema.columns["mobilephone"].length_max, Some(20));
    assert_eq!(schema.status_codes[&7], 2);
}

#[tokio::test]
async fn a_lost_answer_to_a_write_is_an_unknown_outcome_and_a_read_is_tried_again() {
    let world = shared();
    let crm = crm(&world, false);
    with(&world, |world| world.faults.play_next(Class::ResetAfter));
    let (referral, computed) = (ReferralId::new(Uuid::from_u128(1)), LeadId::new(Uuid::from_u128(2)));
    let lost = crm.create(referral, computed, &draft(json!({"subject": "x"})), Uuid::nil()).await.expect_err("lost");
    assert!(lost.is_outcome_unknown && lost.fault == Fault::Unavailable);
    assert_eq!(with(&world, |world| world.crm.ids(Table::Lead).len()), 1, "it was done all the same");
    let before = crm.line().requests_sent();
    with(&world, |world| world.faults.play_next(Class::ResetBefore));
    assert_eq!(crm.get(computed).await.expect("read").id, computed);
    assert_eq!(crm.line().requests_sent(), before + 2);
}

#[tokio::test]
async fn a_closed_service_is_not_asked_again_before_its_time() {
    let world = shared();
    let portal = DirectPortal::new(world.clone());
    with(&world, |world| world.faults.play_next(Class::Throttle));
    let refused = portal.page(&Scan::Recent, None).await.expect_err("throttled");
    let until = portal.line().closed_until().expect("closed");
    assert_eq!(refused.fault, Fault::Throttled { until });
    let sent = portal.line().requests_sent();
    assert!(portal.page(&Scan::Recent, None).await.is_err());
    assert_eq!(portal.line().requests_sent(), sent);
    with(&world, |world| world.clock().advance(Duration::from_secs(91)));
    assert_eq!(portal.line().closed_until(), None);
    assert!(portal.page(&Scan::Recent, None).await.is_ok());
    assert!(with(&world, |world| world.journal.records().iter().all(|record| record.inside_window.is_none())));
}

#[tokio::test]
async fn a_404_of_a_bound_row_is_not_a_missing_lead() {
    let world = shared();
    let crm = crm(&world, false);
    let lead = LeadId::new(with(&world, |world| world.add_lead(json!({"subject": "x"})).expect("a lead")));
    let etag = crm.get(lead).await.expect("read").etag.expect("a version");
    let owner = Some(crate::model::Owner::User(Uuid::nil()));
    let draft = LeadDraft { owner, ..LeadDraft::default() };
    let failure = crm.update(lead, &etag, &draft, Uuid::nil()).await.expect_err("no such user");
    assert_eq!((failure.fault, failure.code.as_deref()), (Fault::Refused, Some("0x80040217")));
}
