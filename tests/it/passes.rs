//! Passes over the world behind the ports: what stops writing, and what may follow when it is released.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use referrald::config::{HumanDuration, Settings};
use referrald::cycle::{Budget, Report, SWEEP_BRAKE, VISIBILITY_BRAKE};
use referrald::daemon::{DecisionRequest, Engine, Reconciler, Which};
use referrald::model::{LeadId, ReferralId, Side, Standing, Timestamp, Watermark};
use referrald::plan::settings::{OnLeadDeleted, Writes};
use referrald::ports::{ActionKind, Batch, Decisions, LatchedBrake, Memo, Portal, Ports, StateStore};
use referrald::sim::dynamics::Table;
use referrald::sim::faults::{Class, Lasting};
use referrald::sim::options::PlugIn;
use referrald::sim::{DirectCrm, DirectCrmSettings, DirectPortal, Service, SimClock, World};
use referrald::store::{MemoryStore, SledStore};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A program over a world behind the ports, on a clock that stands still between passes.
pub struct Bench {
    pub world: Arc<Mutex<World>>,
    pub clock: SimClock,
    pub store: Arc<MemoryStore>,
    pub engine: Arc<Reconciler>,
    settings: Settings,
}

impl Bench {
    /// Some plain referrals, and a program over them.
    pub fn new(referrals: usize) -> (Bench, Vec<Uuid>) {
        Bench::with(referrals, |_| {})
    }

    /// The same, configured otherwise.
    pub fn with(referrals: usize, change: impl FnOnce(&mut Settings)) -> (Bench, Vec<Uuid>) {
        let mut settings = Settings::defaults();
        settings.writes = Writes::Both;
        change(&mut settings);
        let clock = SimClock::paused(Timestamp::from_seconds(1_795_000_000));
        let mut world = World::new(1, clock.clone(), Default::default());
        let ids = (0..referrals).map(|number| world.add_referral(json!({"name": format!("Deal {number}")}))).collect();
        let store = Arc::new(MemoryStore::new([7; 16]));
        let world = Arc::new(Mutex::new(world));
        let portal = Arc::new(DirectPortal::new(Arc::clone(&world)));
        let engine = engine(&world, &clock, &store, settings.clone(), portal);
        (Bench { world, clock, store, engine, settings }, ids)
    }

    pub async fn pass(&self) -> Report {
        self.clock.advance(Duration::from_secs(61));
        self.engine.cycle(Budget::Work(Duration::from_secs(30)), &CancellationToken::new()).await.unwrap()
    }

    /// So many passes that nobody reads the reports of.
    pub async fn passes(&self, count: usize) {
        for _ in 0..count {
            self.pass().await;
        }
    }

    /// The next process, with the ledger or without.
    fn restart(&mut self, is_lost: bool) {
        self.store = Arc::new(self.store.restarted(is_lost));
        self.engine = self.engine_over(Arc::new(DirectPortal::new(Arc::clone(&self.world))));
    }

    /// The same program over another port to the referrals.
    pub fn engine_over(&self, portal: Arc<dyn Portal>) -> Arc<Reconciler> {
        engine(&self.world, &self.clock, &self.store, self.settings.clone(), portal)
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn edit(&self, table: Table, row: Uuid, columns: Value) {
        self.world().edit_row(table, row, columns).expect("a row that may be edited");
    }

    pub fn wait(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    async fn latch(&self, name: &str) {
        let brake = LatchedBrake {
            since: self.clock.at(),
            count: 5,
            limit: 5,
            digest: "d".to_owned(),
            reason: "not listed".to_owned(),
            side: None,
        };
        let brakes = [(name.to_owned(), brake)].into();
        self.store.decide(Box::new(|kept| *kept = Decisions { brakes, ..Decisions::default() })).await.unwrap();
    }

    pub fn lead_of(&self, referral: Uuid) -> Uuid {
        let entry = self.store.get(ReferralId::new(referral)).unwrap().expect("an entry");
        entry.link.expect("a lead").lead.uuid()
    }

    pub fn status_of(&self, referral: Uuid) -> String {
        self.world.lock().unwrap().portal.get(referral).unwrap()["status"].as_str().unwrap().to_owned()
    }
}

fn engine(
    world: &Arc<Mutex<World>>,
    clock: &SimClock,
    store: &Arc<MemoryStore>,
    settings: Settings,
    portal: Arc<dyn Portal>,
) -> Arc<Reconciler> {
    let crm =
        DirectCrmSettings { referral_column: settings.referral_id_column.clone(), ..DirectCrmSettings::default() };
    let ports = Ports {
        portal,
        crm: Arc::new(DirectCrm::new(Arc::clone(world), crm)),
        store: store.clone(),
        clock: Arc::new(clock.clone()),
    };
    Arc::new(Reconciler::new(ports, settings, Vec::new(), None))
}

#[tokio::test]
async fn a_referral_that_two_lists_show_is_read_once_by_the_report() {
    let (bench, referrals) = Bench::new(8);
    // All are New: the peek shows them, and after it the sweep.
    assert_eq!(bench.pass().await.referrals_seen, referrals.len() as u64);
}

#[tokio::test]
async fn a_brake_on_visibility_does_not_outlive_the_ledger_it_judged_by() {
    let (mut bench, referrals) = Bench::new(8);
    bench.pass().await;
    bench.latch(VISIBILITY_BRAKE).await;
    // The decisions are kept, the ledger is lost: nobody is known who could be missing.
    bench.restart(true);
    bench.passes(3).await;
    let decisions = bench.store.decisions().unwrap();
    assert!(decisions.brakes.is_empty(), "{:?}", decisions.brakes);
    assert_eq!(bench.store.counters().unwrap().entries, referrals.len() as u64);
}

#[tokio::test]
async fn a_lead_seen_reopened_while_writing_was_stopped_closes_nothing() {
    let (bench, referrals) = Bench::new(8);
    bench.passes(2).await;
    let (referral, lead) = (referrals[0], bench.lead_of(referrals[0]));
    let disqualify = json!({"statecode": 2, "statuscode": 4});
    bench.world.lock().unwrap().edit_row(Table::Lead, lead, disqualify).unwrap();
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "New", "the outcome has not settled");
    // The outcome settles, and in the same minute the seller thinks again; writing is stopped until a sweep has looked.
    bench.clock.advance(Duration::from_secs(3_600));
    {
        let mut world = bench.world.lock().unwrap();
        world.edit_row(Table::Lead, lead, json!({"statecode": 0, "statuscode": 1})).unwrap();
        world.edit_referral(referral, |document| document["favorite"] = true.into());
    }
    bench.latch(SWEEP_BRAKE).await;
    for _ in 0..3 {
        bench.pass().await;
        assert_eq!(bench.status_of(referral), "New");
    }
    assert!(bench.store.decisions().unwrap().brakes.is_empty());
}

#[tokio::test]
async fn a_deal_that_was_open_again_while_writing_was_stopped_settles_anew() {
    let (bench, referrals) = Bench::new(8);
    bench.passes(2).await;
    let (referral, lead) = (referrals[0], bench.lead_of(referrals[0]));
    bench.edit(Table::Lead, lead, json!({"statecode": 2, "statuscode": 4}));
    bench.pass().await;
    bench.engine.decide(DecisionRequest::Suspend).await.unwrap();
    bench.edit(Table::Lead, lead, json!({"statecode": 0, "statuscode": 1}));
    bench.pass().await;
    bench.edit(Table::Lead, lead, json!({"statecode": 2, "statuscode": 4}));
    bench.wait(900);
    bench.engine.decide(DecisionRequest::Resume).await.unwrap();
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "New", "it was open meanwhile");
    bench.wait(600);
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "Closed");
}

#[tokio::test]
async fn what_happened_while_a_role_was_lost_is_read_when_it_is_back() {
    let (bench, referrals) = Bench::with(8, |settings| {
        settings.status.settle_time = HumanDuration::parse("2h").unwrap();
    });
    bench.passes(2).await;
    let (referral, lead) = (referrals[0], bench.lead_of(referrals[0]));
    bench.edit(Table::Lead, lead, json!({"statecode": 2, "statuscode": 4}));
    bench.pass().await;
    bench.wait(300);
    bench.edit(Table::Lead, lead, json!({"statecode": 0, "statuscode": 1}));
    // Lists are empty and nothing is refused: such a pass looks like a quiet one.
    for _ in 0..2 {
        bench.world().faults.play_next_at(Class::RoleLost, "/leads");
        let blind = bench.pass().await;
        assert_eq!((blind.leads_seen, blind.sides.len()), (0, 0), "{blind:?}");
        bench.wait(1_200);
    }
    bench.world().faults.calm();
    bench.pass().await;
    bench.wait(7_200);
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "New", "the lead was reopened while nobody could see it");
}

#[tokio::test]
async fn a_first_pass_that_dies_leaves_the_place_from_which_the_next_one_reads() {
    let (mut bench, referrals) = Bench::new(8);
    bench.passes(2).await;
    let (referral, lead) = (referrals[0], bench.lead_of(referrals[0]));
    bench.edit(Table::Lead, lead, json!({"statecode": 2, "statuscode": 4}));
    bench.restart(true);
    {
        let stop = CancellationToken::new();
        let is_on_record = async {
            while bench.store.counters().unwrap().entries < 8 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = is_on_record => {}
            _ = bench.engine.cycle(Budget::Work(Duration::from_secs(30)), &stop) => panic!("it was to die before its end"),
        }
    }
    bench.restart(false);
    bench.wait(300);
    bench.edit(Table::Lead, lead, json!({"statecode": 0, "statuscode": 1}));
    bench.wait(7_200);
    bench.passes(2).await;
    assert_eq!(bench.status_of(referral), "New", "the lead was reopened between the two passes");
}

#[tokio::test]
async fn a_deal_that_was_heard_of_and_could_not_be_read_settles_anew() {
    let (bench, referrals) = Bench::new(8);
    bench.passes(2).await;
    let (referral, lead) = (referrals[0], bench.lead_of(referrals[0]));
    let opportunity = bench.world().qualify_lead(lead, true).unwrap().expect("an opportunity");
    bench.world().close_opportunity(opportunity, false).unwrap();
    bench.passes(2).await;
    bench.wait(20 * 3_600);
    bench.pass().await;
    bench.edit(Table::Opportunity, opportunity, json!({"statecode": 0, "statuscode": 1}));
    // The polls are answered; the lead of the deal is not.
    bench.world().faults.play_next_at(Class::Slow, "/leads");
    bench.world().faults.play_next_at(Class::Throttle, "/leads");
    let report = bench.pass().await;
    assert_eq!(report.sides.len(), 1, "{report:?}");
    // What is on record of it is not weighed as if it had been seen now.
    bench.world().faults.play_next_at(Class::Throttle, "/opportunities");
    bench.wait(90);
    let report = bench.pass().await;
    assert_eq!(report.sides.len(), 1, "{report:?}");
    bench.wait(10 * 3_600);
    bench.world().close_opportunity(opportunity, false).unwrap();
    bench.passes(3).await;
    bench.wait(20 * 3_600);
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "Active", "it was open again meanwhile");
    bench.wait(4 * 3_600);
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "Closed");
}

#[tokio::test]
async fn a_place_taken_by_a_lead_that_was_merged_away_is_not_tried_again() {
    let (bench, referrals) = Bench::with(8, |settings| settings.link.on_lead_deleted = OnLeadDeleted::Recreate);
    bench.passes(2).await;
    let lead = bench.lead_of(referrals[0]);
    let master = bench.world().add_lead(json!({"subject": "Walk-in", "lastname": "Visitor"})).unwrap();
    bench.world().merge_leads(master, lead).unwrap();
    bench.passes(2).await;
    bench.world().edit_referral(referrals[0], |document| document["externalReferenceId"] = master.to_string().into());
    bench.world().delete_lead(master);
    for _ in 0..2 {
        bench.engine.ask_for_sweep();
        bench.pass().await;
    }
    let before = bench.world().journal.count_of("patch lead");
    for _ in 0..3 {
        bench.engine.ask_for_sweep();
        bench.pass().await;
    }
    assert_eq!(bench.world().journal.count_of("patch lead"), before);
}

/// After a merge and a lost ledger, say: the lead of one referral is the other's, and then it is deleted.
#[tokio::test]
async fn a_lead_that_another_referral_has_is_not_created_again_for_this_one() {
    let (bench, referrals) = Bench::with(2, |settings| settings.link.on_lead_deleted = OnLeadDeleted::Recreate);
    bench.passes(2).await;
    let [holder, other] = [referrals[0], referrals[1]].map(ReferralId::new);
    let lead = bench.lead_of(referrals[1]);
    let mut of_holder = bench.store.get(holder).unwrap().expect("an entry");
    let mut of_other = bench.store.get(other).unwrap().expect("an entry");
    of_holder.link = of_other.link.take();
    (of_other.standing, of_other.look_at) = (Standing::Pending, Some(bench.clock.at()));
    let entries = vec![(holder, Some(of_holder)), (other, Some(of_other))];
    bench.store.record(Batch { entries, ..Batch::default() }).await.unwrap();
    bench.world().delete_lead(lead);
    for _ in 0..2 {
        bench.pass().await;
        assert_eq!(bench.store.get(other).unwrap().map(|entry| entry.standing), Some(Standing::LeadTaken));
        assert_eq!(bench.store.by_lead(LeadId::new(lead)), Ok(Some(holder)));
    }
}

#[tokio::test]
async fn nothing_irreversible_is_sent_while_no_lead_can_be_seen() {
    let (bench, referrals) = Bench::new(8);
    bench.passes(2).await;
    let (referral, lead) = (referrals[0], bench.lead_of(referrals[0]));
    bench.edit(Table::Lead, lead, json!({"statecode": 2, "statuscode": 4}));
    bench.pass().await;
    bench.wait(900);
    bench.world().faults.play_next_at(Class::RoleLost, "/leads");
    let blind = bench.pass().await;
    assert_eq!((blind.leads_seen, bench.status_of(referral).as_str()), (0, "New"), "{blind:?}");
    bench.world().faults.calm();
    // On a quiet day the latest lead is in every poll, so that nothing more has to be asked.
    let report = bench.pass().await;
    assert_eq!((bench.status_of(referral).as_str(), report.requests[&Side::Crm]), ("Closed", 2), "{report:?}");
}

#[tokio::test]
async fn a_poll_without_a_row_has_the_leads_of_a_closing_read_by_id() {
    let (bench, referrals) = Bench::new(8);
    bench.passes(2).await;
    let (referral, lead) = (referrals[0], bench.lead_of(referrals[0]));
    bench.edit(Table::Lead, lead, json!({"statecode": 2, "statuscode": 4}));
    bench.pass().await;
    bench.wait(900);
    bench.pass().await;
    let other = bench.world().add_lead(json!({"subject": "Walk-in", "lastname": "Visitor"})).unwrap();
    let next = referrals[1];
    bench.edit(Table::Lead, bench.lead_of(next), json!({"statecode": 2, "statuscode": 4}));
    bench.pass().await;
    bench.world().delete_lead(other);
    bench.world().delete_lead(lead);
    bench.wait(900);
    bench.pass().await;
    assert_eq!((bench.status_of(referral).as_str(), bench.status_of(next).as_str()), ("Closed", "Closed"));
}

#[tokio::test]
async fn what_a_lead_says_while_its_referral_cannot_be_read_is_read_again() {
    let (bench, referrals) = Bench::new(8);
    bench.passes(2).await;
    let (referral, lead) = (referrals[0], bench.lead_of(referrals[0]));
    bench.edit(Table::Lead, lead, json!({"statuscode": 2}));
    bench.world().faults.play_next_at(Class::RoleLost, &referral.to_string());
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "New", "it could not be read");
    bench.world().faults.calm();
    bench.wait(3_000);
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "Active");
}

#[tokio::test]
async fn a_reading_of_leads_hears_a_lead_whose_referral_has_changed_in_the_same_pass() {
    let (bench, referrals) = Bench::new(8);
    bench.passes(2).await;
    let (referral, lead) = (referrals[0], bench.lead_of(referrals[0]));
    bench.edit(Table::Lead, lead, json!({"statuscode": 2}));
    // No poll shows it: the watermark is past it already.
    bench.wait(3_600);
    let ahead = bench.clock.at();
    let memo = Memo { leads_seen: Some(Watermark(ahead)), ..bench.store.memo().unwrap() };
    bench.store.record(Batch { memo: Some(memo), ..Batch::default() }).await.unwrap();
    bench.world().edit_referral(referral, |document| document["customerProfile"]["name"] = "Fabrikam".into());
    bench.engine.ask_for_sweep();
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "Active");
}

#[tokio::test]
async fn a_closing_for_a_master_that_no_poll_shows_is_proven_by_a_look_at_it() {
    let (bench, referrals) = Bench::with(8, |settings| settings.referral_id_column = Some("new_referralid".to_owned()));
    bench.passes(2).await;
    let (referral, lead) = (referrals[0], bench.lead_of(referrals[0]));
    let master = bench.world().add_lead(json!({"subject": "Walk-in", "lastname": "Visitor"})).unwrap();
    bench.world().merge_leads(master, lead).unwrap();
    bench.passes(2).await;
    assert_eq!(bench.lead_of(referral), master);
    bench.edit(Table::Lead, master, json!({"statecode": 2, "statuscode": 4}));
    bench.engine.ask_for_sweep();
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "New", "the outcome has not settled");
    bench.edit(Table::Lead, master, json!({"statecode": 0, "statuscode": 1}));
    // Another lead is listed: the poll is not blind.
    bench.edit(Table::Lead, bench.lead_of(referrals[1]), json!({"telephone1": "+1 425 555 0100"}));
    bench.wait(3_600);
    bench.passes(2).await;
    assert_eq!(bench.status_of(referral), "New", "it was opened again");
}

/// A referral whose lead was merged into a seller's own, which has no referral id.
async fn merged(settings: impl FnOnce(&mut Settings)) -> (Bench, Uuid, Uuid) {
    let (bench, referrals) = Bench::with(3, |all| {
        all.referral_id_column = Some("new_referralid".to_owned());
        settings(all);
    });
    bench.passes(3).await;
    let loser = bench.lead_of(referrals[0]);
    let master = bench.world().add_lead(json!({"subject": "the seller's own", "lastname": "One"})).unwrap();
    bench.world().merge_leads(master, loser).unwrap();
    bench.pass().await;
    assert_eq!(bench.lead_of(referrals[0]), master);
    (bench, referrals[0], master)
}

#[tokio::test]
async fn a_master_without_the_referral_id_is_polled_all_the_same() {
    let (bench, referral, master) = merged(|_| {}).await;
    // Long after whatever a poll overlaps.
    bench.wait(3_600);
    bench.pass().await;
    bench.edit(Table::Lead, master, json!({"statuscode": 2}));
    bench.pass().await;
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "Active");
    assert_eq!(bench.store.memo().unwrap().unnamed, [LeadId::new(master)]);
}

#[tokio::test]
async fn a_referral_id_that_a_merged_lead_holds_is_refused_once_and_said() {
    let (bench, referral, master) = merged(|_| {}).await;
    // Somebody makes the referral name the master, which is how it would get the id.
    bench.world().edit_referral(referral, |document| document["externalReferenceId"] = master.to_string().into());
    let refused = || {
        let world = bench.world();
        let records = world.journal.records().iter();
        records.filter(|record| record.method == "PATCH" && record.status == 412).count()
    };
    for number in 0..4 {
        bench.edit(Table::Lead, master, json!({"jobtitle": format!("title {number}")}));
        bench.world().edit_referral(referral, |document| document["favorite"] = (number % 2 == 0).into());
        bench.pass().await;
    }
    assert_eq!(refused(), 1);
    let status = bench.engine.status().await.unwrap();
    assert_eq!(status.holds.get("referral id taken"), Some(&1), "{:?}", status.holds);
    // Whoever does something about the other lead says so.
    let loser = {
        let world = bench.world();
        let leads = world.crm.lead_ids();
        let is_loser = |lead: &Uuid| *world.crm.value(Table::Lead, *lead, "new_referralid") == referral.to_string();
        leads.into_iter().find(is_loser).unwrap()
    };
    bench.world().delete_lead(loser);
    let which = Which::Ids(vec![ReferralId::new(referral)]);
    bench.engine.decide(DecisionRequest::Release { which, group: None, take: None }).await.unwrap();
    bench.pass().await;
    bench.pass().await;
    let shown = bench.world().crm.value(Table::Lead, master, "new_referralid").clone();
    assert_eq!((shown, refused()), (referral.to_string().into(), 1));
    assert_eq!(bench.engine.status().await.unwrap().holds.get("referral id taken"), None);
}

#[tokio::test]
async fn opportunities_that_may_not_be_read_are_not_an_empty_list() {
    let (bench, referrals) =
        Bench::with(6, |settings| settings.status.settle_time = HumanDuration::parse("0s").unwrap());
    bench.passes(3).await;
    let qualify = |referral: Uuid, with_opportunity| {
        let lead = bench.lead_of(referral);
        bench.world().qualify_lead(lead, with_opportunity).unwrap()
    };
    let (won, bare) = (referrals[0], referrals[1]);
    let opportunity = qualify(won, true).unwrap();
    qualify(bare, false);
    bench.world().close_opportunity(opportunity, true).unwrap();
    bench.world().options.crm.privileges_missing.insert("prvReadOpportunity".to_owned());
    let before = bench.world().journal.writes().count();
    let report = bench.pass().await;
    assert!(report.sides.get(&Side::Crm).is_some_and(|why| why.contains("0x80040220")), "{:?}", report.sides);
    assert_eq!(bench.world().journal.writes().count(), before, "nothing is known of any of them");
    bench.world().options.crm.privileges_missing.clear();
    bench.passes(4).await;
    // Qualified without any opportunity is an acceptance, and never a closing.
    assert_eq!((bench.status_of(won), bench.status_of(bare)), ("Closed".to_owned(), "Active".to_owned()));
}

#[tokio::test]
async fn an_opportunity_that_is_not_shown_any_more_takes_no_value_back() {
    let (bench, referrals) = Bench::new(6);
    bench.passes(3).await;
    let lead = bench.lead_of(referrals[0]);
    let opportunity = bench.world().qualify_lead(lead, true).unwrap().unwrap();
    bench.edit(Table::Opportunity, opportunity, json!({"estimatedvalue": 4321.0}));
    bench.passes(3).await;
    let shown = || bench.world().portal.get(referrals[0]).unwrap()["details"]["dealValue"].as_f64();
    assert_eq!(shown(), Some(4321.0), "the opportunity speaks");
    bench.edit(Table::Opportunity, opportunity, json!({"originatingleadid@odata.bind": null}));
    bench.engine.ask_for_sweep();
    bench.wait(40 * 3_600);
    bench.pass().await;
    assert_eq!(shown(), Some(4321.0), "its absence says nothing");
}

#[tokio::test]
async fn an_opportunity_that_is_not_shown_any_more_closes_nothing() {
    let (bench, referrals) = Bench::new(6);
    bench.passes(3).await;
    let lead = bench.lead_of(referrals[0]);
    let opportunity = bench.world().qualify_lead(lead, true).unwrap().unwrap();
    bench.world().close_opportunity(opportunity, false).unwrap();
    bench.passes(2).await;
    assert_eq!(bench.status_of(referrals[0]), "Active", "accepted, and the loss settles");
    // Gone, or out of sight: the list is empty, with 200.
    let key = bench.world().edit_row(Table::Opportunity, opportunity, json!({"originatingleadid@odata.bind": null}));
    assert!(key.is_ok(), "{key:?}");
    bench.engine.ask_for_sweep();
    for _ in 0..3 {
        bench.wait(40 * 3_600);
        bench.pass().await;
    }
    assert_eq!(bench.status_of(referrals[0]), "Active");
}

#[tokio::test]
async fn rows_that_take_longer_to_read_than_a_pass_may_last_are_done_all_the_same() {
    let (bench, referrals) = Bench::new(40);
    let crash = PlugIn::Crashes { column: "subject".to_owned(), word: "Deal".to_owned() };
    bench.world().options.crm.plug_ins = vec![crash];
    bench.pass().await;
    bench.world().options.crm.plug_ins.clear();
    assert_eq!(bench.world().crm.len(Table::Lead), 0);
    bench.wait(6 * 3_600);
    // Every referral is due and read by itself, and each of these reads takes some seconds.
    for _ in 0..10 {
        for id in &referrals {
            bench.world().faults.play_next_at(Class::Slow, &id.to_string());
        }
        bench.pass().await;
    }
    assert_eq!(bench.world().crm.len(Table::Lead), referrals.len());
}

#[tokio::test]
async fn every_irreversible_step_follows_its_own_fresh_read() {
    let (bench, referrals) = Bench::new(6);
    bench.passes(2).await;
    for referral in &referrals {
        bench.edit(Table::Lead, bench.lead_of(*referral), json!({"statuscode": 2}));
    }
    bench.wait(3_600);
    let before = bench.world().journal.records().len();
    bench.pass().await;
    let world = bench.world();
    let asked: Vec<_> = world.journal.records()[before..]
        .iter()
        .filter(|record| record.service == Service::Portal && record.subject.is_some())
        .map(|record| (record.method.as_str(), record.subject))
        .collect();
    assert_eq!(asked.len(), 2 * referrals.len());
    assert!(
        asked.chunks(2).all(|step| matches!(step, [("GET", read), ("PATCH", written)] if read == written)),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_lead_seen_reopened_by_a_poll_that_broke_off_closes_nothing() {
    let (bench, referrals) = Bench::new(8);
    bench.passes(2).await;
    let (referral, lead) = (referrals[0], bench.lead_of(referrals[0]));
    let disqualify = || bench.edit(Table::Lead, lead, json!({"statecode": 2, "statuscode": 4}));
    disqualify();
    bench.pass().await;
    bench.wait(3_600);
    // The outcome has settled. The poll shows that the seller thought again, and the one of opportunities fails.
    bench.edit(Table::Lead, lead, json!({"statecode": 0, "statuscode": 1}));
    bench.world().faults.play_next_at(Class::Throttle, "/opportunities");
    let report = bench.pass().await;
    assert!(report.sides.contains_key(&Side::Crm), "{report:?}");
    disqualify();
    bench.wait(3_600);
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "New", "it settles anew");
    bench.wait(3_600);
    bench.pass().await;
    assert_eq!(bench.status_of(referral), "Closed");
}

#[tokio::test]
async fn many_referrals_that_are_due_for_a_lead_are_listed_and_not_read_one_by_one() {
    let (bench, _) = Bench::new(3);
    bench.passes(2).await;
    let accepted = json!({"name": "A deal", "status": "Active", "substatus": "Accepted"});
    let fresh: Vec<Uuid> = (0..300).map(|_| bench.world().add_referral(accepted.clone())).collect();
    // Three of them get trouble of their own, which takes them out of the list of what is simply due.
    bench.world().faults.always("PATCH", "", Lasting::Refusal(503));
    bench.pass().await;
    bench.world().faults.calm();
    assert!(fresh.iter().all(|id| bench.store.get(ReferralId::new(*id)).unwrap().unwrap().link.is_none()));
    bench.wait(3600);
    bench.world().journal.clear();
    let report = bench.pass().await;
    let leads: BTreeSet<Uuid> = fresh.iter().map(|id| bench.lead_of(*id)).collect();
    assert_eq!(leads.len(), fresh.len());
    assert!(report.holds.is_empty(), "{report:?}");
    let read_singly = bench.world().journal.count_of("get referral");
    assert!((1..=103).contains(&read_singly), "{read_singly}");
    let world = bench.world();
    let written = world.journal.writes().filter(|record| record.service == Service::Crm).count();
    assert_eq!(written, fresh.len(), "{:?}", world.journal.counts());
}

#[tokio::test]
async fn a_window_on_record_holds_for_the_first_request_and_stays_on_record() {
    let (bench, _) = Bench::new(2);
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(SledStore::open(directory.path(), 1 << 20, None).unwrap());
    let until = bench.clock.at().plus(Duration::from_secs(3600));
    let windows = BTreeMap::from([(Side::Portal, until), (Side::Crm, until)]);
    let wanted = windows.clone();
    store.decide(Box::new(|decisions| decisions.closed_until = wanted)).await.unwrap();
    let ports = Ports {
        portal: Arc::new(DirectPortal::new(Arc::clone(&bench.world))),
        crm: Arc::new(DirectCrm::new(Arc::clone(&bench.world), DirectCrmSettings::default())),
        store: store.clone(),
        clock: Arc::new(bench.clock.clone()),
    };
    let engine = Reconciler::new(ports, bench.settings.clone(), Vec::new(), None);
    let pass = || async { engine.cycle(Budget::Work(Duration::from_secs(30)), &CancellationToken::new()).await };
    pass().await.unwrap();
    assert_eq!(bench.world().journal.counts().len(), 0);
    assert_eq!(store.decisions().unwrap().closed_until, windows);
    bench.wait(3600);
    let report = pass().await.unwrap();
    assert_eq!(report.done.get(&ActionKind::Create), Some(&2), "{report:?}");
}
