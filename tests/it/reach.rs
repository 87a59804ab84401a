//! One lead, one referral, one page that cannot be read: that one waits, and everything else goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use referrald::daemon::{DecisionRequest, Engine, Reconciler, Which};
use referrald::model::{Entry, Fault, Referral, ReferralId, RemoteError, Side, Trouble};
use referrald::ports::{Batch, Cursor, Memo, Page, Portal, Scan, StateStore};
use referrald::sim::dynamics::Table;
use referrald::sim::{DirectPortal, Service, World};
use serde_json::json;
use uuid::Uuid;

use crate::detour::{Detour, PortalDetour};
use crate::passes::Bench;

async fn settled(referrals: usize) -> (Bench, Vec<Uuid>) {
    let (bench, ids) = Bench::new(referrals);
    bench.passes(2).await;
    (bench, ids)
}

fn entry_of(bench: &Bench, referral: Uuid) -> Option<Entry> {
    bench.store.get(ReferralId::new(referral)).unwrap()
}

fn trouble_of(bench: &Bench, referral: Uuid) -> Option<Trouble> {
    entry_of(bench, referral)?.trouble
}

/// The nightly reading of linked leads is due.
async fn reading_is_due(bench: &Bench) {
    let memo = Memo { lead_reading: Some(None), ..bench.store.memo().unwrap() };
    bench.store.record(Batch { memo: Some(memo), ..Batch::default() }).await.unwrap();
}

#[tokio::test]
async fn a_lead_that_is_out_of_reach_by_itself_stops_neither_its_side_nor_the_reading_of_leads() {
    let (bench, referrals) = settled(8).await;
    let (lost, other) = (bench.lead_of(referrals[0]), bench.lead_of(referrals[7]));
    bench.world().crm.set_out_of_reach(lost, true);
    bench.edit(Table::Lead, other, json!({"statuscode": 2}));
    reading_is_due(&bench).await;
    let report = bench.pass().await;
    assert!(report.sides.is_empty() && !report.needs_human, "{report:?}");
    assert_eq!(bench.store.memo().unwrap().lead_reading, None, "the reading came to its end");
    bench.pass().await;
    assert_eq!(bench.status_of(referrals[7]), "Active");
    let troubles: Vec<bool> = referrals.iter().map(|id| trouble_of(&bench, *id).is_some()).collect();
    assert_eq!(troubles, [true, false, false, false, false, false, false, false]);
    assert_eq!(trouble_of(&bench, referrals[0]).unwrap().cause.side, Some(Side::Crm));
    assert_eq!(bench.lead_of(referrals[0]), lost, "it is not gone");

    // It is asked for less and less often, and in the end no more.
    for _ in 0..40 {
        bench.wait(6 * 3600);
        bench.pass().await;
    }
    assert!(trouble_of(&bench, referrals[0]).unwrap().is_dead_letter);
    // The reading finds it when it is back, and what happened meanwhile.
    bench.world().crm.set_out_of_reach(lost, false);
    bench.edit(Table::Lead, lost, json!({"statuscode": 2}));
    reading_is_due(&bench).await;
    bench.passes(2).await;
    assert_eq!((trouble_of(&bench, referrals[0]), bench.status_of(referrals[0])), (None, "Active".to_owned()));
}

#[tokio::test]
async fn a_lead_that_was_merged_into_one_out_of_reach_waits_alone() {
    let (bench, referrals) = settled(8).await;
    let loser = bench.lead_of(referrals[0]);
    let master = bench.world().add_lead(json!({"subject": "the seller's own", "lastname": "One"})).unwrap();
    bench.world().merge_leads(master, loser).unwrap();
    bench.world().crm.set_out_of_reach(master, true);
    bench.edit(Table::Lead, bench.lead_of(referrals[1]), json!({"statuscode": 2}));
    for _ in 0..2 {
        let report = bench.pass().await;
        assert!(report.sides.is_empty(), "{report:?}");
    }
    assert_eq!(bench.status_of(referrals[1]), "Active");
    assert!(trouble_of(&bench, referrals[0]).is_some());
    bench.world().crm.set_out_of_reach(master, false);
    bench.wait(24 * 3600);
    bench.passes(2).await;
    assert_eq!((trouble_of(&bench, referrals[0]), bench.lead_of(referrals[0])), (None, master));
}

#[tokio::test]
async fn a_referral_that_names_a_lead_out_of_reach_gets_no_second_lead() {
    let (bench, _) = settled(4).await;
    let named = bench.world().add_lead(json!({"subject": "the seller's own", "lastname": "One"})).unwrap();
    bench.world().crm.set_out_of_reach(named, true);
    let leads = bench.world().crm.len(Table::Lead);
    let referral = bench.world().add_referral(json!({"name": "Deal", "externalReferenceId": named.to_string()}));
    let other = bench.world().add_referral(json!({"name": "Another deal"}));
    for _ in 0..2 {
        let report = bench.pass().await;
        assert!(report.sides.is_empty(), "{report:?}");
    }
    bench.lead_of(other);
    assert_eq!(bench.world().crm.len(Table::Lead), leads + 1);
    assert!(trouble_of(&bench, referral).is_some());
    bench.world().crm.set_out_of_reach(named, false);
    bench.wait(24 * 3600);
    bench.pass().await;
    assert_eq!((trouble_of(&bench, referral), bench.lead_of(referral)), (None, named));
}

#[tokio::test]
async fn an_outcome_that_nobody_could_see_for_a_while_settles_anew() {
    let (bench, referrals) = settled(8).await;
    let (referral, lead) = (referrals[0], bench.lead_of(referrals[0]));
    bench.edit(Table::Lead, lead, json!({"statecode": 2, "statuscode": 4}));
    bench.pass().await;
    bench.wait(200);
    bench.world().crm.set_out_of_reach(lead, true);
    reading_is_due(&bench).await;
    bench.pass().await;
    assert!(trouble_of(&bench, referral).is_some());
    bench.world().crm.set_out_of_reach(lead, false);
    bench.edit(Table::Lead, lead, json!({"statecode": 0, "statuscode": 1}));
    bench.edit(Table::Lead, lead, json!({"statecode": 2, "statuscode": 4}));
    bench.wait(400);
    bench.pass().await;
    assert_eq!((trouble_of(&bench, referral), bench.status_of(referral)), (None, "New".to_owned()));
    bench.wait(600);
    bench.passes(2).await;
    assert_eq!(bench.status_of(referral), "Closed");
}

/// To whom no lead is shown at all, the role may be gone: that stops the side, and no lead has trouble of its own.
#[tokio::test]
async fn a_role_that_is_lost_is_no_trouble_of_single_leads() {
    let (bench, referrals) = settled(8).await;
    for referral in &referrals {
        let lead = bench.lead_of(*referral);
        bench.world().crm.set_out_of_reach(lead, true);
    }
    reading_is_due(&bench).await;
    let report = bench.pass().await;
    assert!(report.needs_human && !report.sides.is_empty(), "{report:?}");
    assert!(referrals.iter().all(|id| trouble_of(&bench, *id).is_none()));
}

#[tokio::test]
async fn a_referral_that_is_refused_by_itself_becomes_a_dead_letter_and_delays_no_other() {
    let (bench, referrals) = settled(8).await;
    // Both sides of it are read again after a hold.
    let id = ReferralId::new(referrals[0]);
    bench.engine.decide(DecisionRequest::Hold { ids: vec![id] }).await.unwrap();
    bench.pass().await;
    bench.world().portal.set_out_of_reach(referrals[0], true);
    let release = DecisionRequest::Release { which: Which::Ids(vec![id]), group: None, take: None };
    bench.engine.decide(release).await.unwrap();
    for referral in &referrals[..2] {
        bench.edit(Table::Lead, bench.lead_of(*referral), json!({"statuscode": 2}));
    }
    for _ in 0..2 {
        let report = bench.pass().await;
        assert!(report.sides.is_empty(), "{report:?}");
    }
    assert_eq!((bench.status_of(referrals[0]), bench.status_of(referrals[1])), ("New".to_owned(), "Active".to_owned()));
    let first = trouble_of(&bench, referrals[0]).expect("it has trouble of its own");
    assert_eq!((first.cause.side, first.is_dead_letter), (Some(Side::Portal), false));
    let asked = |world: &World| world.journal.count(Service::Portal);
    for _ in 0..40 {
        bench.wait(6 * 3600);
        bench.pass().await;
    }
    assert!(trouble_of(&bench, referrals[0]).unwrap().is_dead_letter);
    // A dead letter costs nothing.
    let before = asked(&bench.world());
    bench.pass().await;
    assert_eq!(asked(&bench.world()) - before, 1);
    bench.world().portal.set_out_of_reach(referrals[0], false);
    let which = Which::Ids(vec![id]);
    bench.engine.decide(DecisionRequest::Retry { which }).await.unwrap();
    bench.passes(2).await;
    assert_eq!((trouble_of(&bench, referrals[0]), bench.status_of(referrals[0])), (None, "Active".to_owned()));
}

/// A listing that somebody watches, and of which pages may be out of reach.
struct Watched<F> {
    inner: DirectPortal,
    on_page: F,
}

#[async_trait]
impl<F: Fn(Option<&Cursor>) -> Option<Fault> + Send + Sync> PortalDetour for Watched<F> {
    fn port(&self) -> &dyn Portal {
        &self.inner
    }

    async fn page(&self, scan: &Scan, cursor: Option<&Cursor>) -> Result<Page<Referral>, RemoteError> {
        match (self.on_page)(cursor) {
            Some(fault) => Err(RemoteError::new(Side::Portal, "list referrals", fault)),
            None => self.inner.page(scan, cursor).await,
        }
    }
}

fn watched<F>(bench: &mut Bench, on_page: F)
where
    F: Fn(Option<&Cursor>) -> Option<Fault> + Send + Sync + 'static,
{
    let inner = DirectPortal::new(Arc::clone(&bench.world));
    bench.engine = bench.engine_over(Arc::new(Detour(Watched { inner, on_page })));
}

/// A sweep of four pages, and a daemon that is rung while it reads the first.
#[tokio::test]
async fn a_sweep_gives_way_between_pages_to_who_rings() {
    let (mut bench, _) = Bench::new(40);
    bench.world().options.portal.page_size = 10;
    bench.passes(2).await;
    let rings = Arc::new(AtomicBool::new(true));
    let (rung, is_ringing) = (Arc::new(std::sync::OnceLock::<Weak<Reconciler>>::new()), Arc::clone(&rings));
    let bell = Arc::clone(&rung);
    watched(&mut bench, move |_| {
        let engine = bell.get().and_then(Weak::upgrade);
        engine.iter().filter(|_| is_ringing.load(Ordering::Relaxed)).for_each(|engine| engine.hurry());
        None
    });
    rung.set(Arc::downgrade(&bench.engine)).unwrap();
    bench.engine.ask_for_sweep();
    for pages in 1..4 {
        bench.pass().await;
        assert_eq!(bench.store.memo().unwrap().sweep.expect("it goes on").pages, pages, "one in each pass");
    }
    rings.store(false, Ordering::Relaxed);
    bench.pass().await;
    assert_eq!(bench.store.memo().unwrap().sweep, None);
}

#[tokio::test]
async fn links_that_lead_nowhere_stop_no_side_and_begin_no_sweep_all_the_time() {
    let (mut bench, referrals) = Bench::new(40);
    bench.world().options.portal.page_size = 10;
    let is_broken = Arc::new(AtomicBool::new(false));
    let breaks = Arc::clone(&is_broken);
    watched(&mut bench, move |cursor| (cursor.is_some() && breaks.load(Ordering::Relaxed)).then_some(Fault::Malformed));
    for _ in 0..3 {
        bench.wait(3600);
        bench.pass().await;
    }
    let changed = |number: usize| format!("Changed {number}");
    for (number, referral) in referrals.iter().enumerate() {
        bench.world().edit_referral(*referral, |it| it["customerProfile"]["name"] = changed(number).into());
    }
    is_broken.store(true, Ordering::Relaxed);
    bench.edit(Table::Lead, bench.lead_of(referrals[0]), json!({"statuscode": 2}));
    let before = bench.world().journal.count_of("list referrals");
    let observed = bench.store.memo().unwrap().last_success;
    for _ in 0..20 {
        let report = bench.pass().await;
        assert!(report.sides.contains_key(&Side::Portal) && !report.needs_human, "it is told: {report:?}");
    }
    assert_eq!(bench.status_of(referrals[0]), "Active", "and stops nothing");
    assert_eq!(bench.store.memo().unwrap().last_success, observed, "nobody says that all was seen");
    // One for each pass, and two for each of the sweeps that began.
    let listed = bench.world().journal.count_of("list referrals") - before;
    assert!(listed < 30, "{listed} lists in 20 passes");
    is_broken.store(false, Ordering::Relaxed);
    for _ in 0..3 {
        bench.wait(3600);
        bench.pass().await;
    }
    for (number, referral) in referrals.iter().enumerate() {
        let lead = bench.lead_of(*referral);
        assert_eq!(bench.world().crm.value(Table::Lead, lead, "companyname"), &changed(number));
    }
}

#[tokio::test]
async fn an_empty_page_that_names_the_next_one_is_no_sign_of_lost_visibility() {
    let (bench, referrals) = settled(8).await;
    bench.world().options.portal.begins_empty = true;
    bench.world().edit_referral(referrals[3], |it| it["customerProfile"]["name"] = "Changed".into());
    bench.passes(2).await;
    assert!(bench.store.decisions().unwrap().brakes.is_empty());
    let lead = bench.lead_of(referrals[3]);
    assert_eq!(bench.world().crm.value(Table::Lead, lead, "companyname"), "Changed");
}
