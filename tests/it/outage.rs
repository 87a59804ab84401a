//! The network goes away: refused, silent, one side, both, or the sign-in; and a service that asks for silence. What
//! happened meanwhile is caught up with, without a restart.

use std::time::Duration;

use referrald::sim::dynamics::Table;
use referrald::sim::faults::Class;
use referrald::sim::serve::Line;
use referrald::sim::{Service, SimClock, World};
use serde_json::json;
use uuid::Uuid;

use crate::stage::{Daemon, Stage};

/// Short patience, so that silence is noticed soon.
const IMPATIENT: &str = r#"
[http]
retry_delay = "1ms"
retry_delay_max = "5ms"
attempts_max = 2
connect_timeout = "1s"
read_timeout = "1s"
write_timeout = "1s"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn connections_refused_on_any_side_are_caught_up_with_without_a_restart() {
    use Service::{Authority, Crm, Portal};
    for away in [&[Portal][..], &[Crm], &[Portal, Crm], &[Authority], &[Portal, Crm, Authority]] {
        caught_up_after(Line::Cut, away).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_take_connections_and_never_answer_are_caught_up_with_without_a_restart() {
    use Service::{Authority, Crm, Portal};
    for away in [&[Portal][..], &[Crm], &[Portal, Crm, Authority]] {
        caught_up_after(Line::Silent, away).await;
    }
}

async fn caught_up_after(line: Line, away: &[Service]) {
    println!("{line:?} {away:?}");
    let mut world = World::new(101, SimClock::running(), Default::default());
    let ids: Vec<Uuid> = (0..6).map(|number| world.add_referral(plain(number))).collect();
    let stage = Stage::with(world).await;
    stage.overlay(IMPATIENT);
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    daemon.cycle().await;
    let leads: Vec<Uuid> = ids.iter().map(|id| stage.lead_of(*id).unwrap()).collect();

    away.iter().for_each(|service| stage.simulator.set_line(*service, line));
    if away.contains(&Service::Authority) {
        stage.simulator.with(|world| world.entra.expire_all());
    }
    let fresh = stage.simulator.with(|world| {
        world.edit_referral(ids[0], |it| it["customerProfile"]["name"] = "Moved meanwhile".into());
        world.edit_row(Table::Lead, leads[1], json!({"statuscode": 2})).unwrap();
        world.edit_row(Table::Lead, leads[2], json!({"estimatedclosedate": "2027-08-09"})).unwrap();
        world.edit_row(Table::Lead, leads[3], json!({"statecode": 2, "statuscode": 4})).unwrap();
        world.add_referral(plain(99))
    });
    stage.clear_journal_but_judge();
    for _ in 0..2 {
        let status = daemon.cycle().await;
        let troubles: Vec<&String> = status.sides.values().filter_map(|side| side.trouble.as_ref()).collect();
        assert!(!troubles.is_empty(), "{line:?} {away:?}: {status:#?}");
        assert!(status.sides.values().all(|side| !side.needs_human), "{line:?} {away:?}: {status:#?}");
    }
    assert_eq!(stage.lead_of(fresh), None);

    away.iter().for_each(|service| stage.simulator.set_line(*service, Line::Open));
    let is_done = || {
        stage.lead_of(fresh).is_some_and(|lead| stage.path_of(fresh, "/externalReferenceId") == lead.to_string())
            && stage.column(leads[0], "companyname") == "Moved meanwhile"
            && stage.path_of(ids[1], "/status") == "Active"
            && stage.path_of(ids[2], "/details/closingDateTime").as_str().unwrap_or_default().starts_with("2027-08-09")
            && stage.path_of(ids[3], "/status") == "Closed"
    };
    daemon.until_cycles("what happened meanwhile", is_done).await;
    let status = daemon.cycle().await;
    assert!(status.sides.values().all(|side| side.trouble.is_none()), "{status:#?}");
    at_rest(&stage, &daemon).await;
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_cut_in_the_middle_of_an_import_costs_no_second_lead() {
    for line in [Line::Cut, Line::Silent] {
        let stage = Stage::new(102, 60).await;
        stage.overlay(&format!("{IMPATIENT}\n[cycle]\nbatch_max = 10\n"));
        let daemon = stage.daemon().await;
        for (service, more) in [(Service::Crm, 8), (Service::Portal, 6), (Service::Crm, 9)] {
            // However fast the import is, there is more to do.
            stage.simulator.with(|world| {
                for number in 0..40 {
                    world.add_referral(plain(number));
                }
            });
            let writes = stage.simulator.with(|world| world.journal.writes().count());
            let is_done = || stage.simulator.with(|world| world.journal.writes().count()) >= writes + more;
            daemon.until_cycles("some more writes", is_done).await;
            stage.simulator.set_line(service, line);
            let status = daemon.cycle().await;
            assert!(status.sides.values().any(|side| side.trouble.is_some()), "{line:?} {service:?}: {status:#?}");
            stage.simulator.set_line(service, Line::Open);
        }
        let missing = || {
            let ids = stage.simulator.with(|world| world.portal.ids());
            let plan = ids.iter().filter(|id| stage.lead_of(**id).is_some());
            plan.filter(|id| stage.path_of(**id, "/externalReferenceId").is_null()).count()
        };
        daemon.cycle().await;
        daemon.until_cycles("every lead's id", || missing() == 0).await;
        assert_eq!(daemon.stop().await, 0);
        stage.json(&["once"], 0).await;
        stage.clear_journal_but_judge();
        stage.json(&["once"], 0).await;
        assert_eq!(stage.written(), vec![], "{line:?}");
        stage.judge();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_falls_silent_in_the_middle_of_a_batch_is_asked_a_few_times_and_not_for_each_row() {
    let stage = Stage::new(105, 60).await;
    stage.overlay(&format!("{IMPATIENT}\n[dataverse]\nbatch_size = 1\n"));
    let daemon = stage.daemon().await;
    let falls_silent = |world: &World| {
        let is_time = world.journal.writes().count() >= 8;
        is_time.then(|| stage.simulator.set_line(Service::Crm, Line::Silent)).is_some()
    };
    stage.until(falls_silent).await;
    let answered = stage.requests(Service::Crm).len() as u64;
    let asked = |status: &referrald::daemon::Status| status.sides[&referrald::model::Side::Crm].requests_today;
    let first = daemon.first_cycle().await;
    // At most as many writes as may be under way (32), a few more, and the tries of one read; each row would be over 120.
    assert!(asked(&first) <= answered + 48, "{} of {answered}: {first:#?}", asked(&first));
    // What is not known yet is read first; one read that finds nobody is enough.
    let second = daemon.cycle().await;
    assert!(asked(&second) <= asked(&first) + 4, "{first:#?} {second:#?}");
    stage.simulator.set_line(Service::Crm, Line::Open);
    daemon.until_cycles("the leads", || stage.simulator.with(|world| world.crm.lead_ids().len()) > 50).await;
    at_rest(&stage, &daemon).await;
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_a_window_not_one_request_is_sent_however_often_the_bell_rings() {
    for service in [Service::Portal, Service::Crm] {
        let mut world = World::new(103, SimClock::running(), Default::default());
        let id = world.add_referral(plain(1));
        let stage = Stage::with(world).await;
        let daemon = stage.daemon().await;
        daemon.first_cycle().await;
        daemon.cycle().await;
        let path_end = if service == Service::Portal { "/referrals" } else { "/$batch" };
        stage.simulator.with(|world| {
            (world.faults.wait_seconds_min, world.faults.wait_seconds_max) = (7200, 7200);
            world.faults.play_next_at(Class::Throttle, path_end);
            world.edit_referral(id, |it| it["customerProfile"]["name"] = "In the window".into());
        });
        let status = daemon.cycle().await;
        assert!(status.sides.values().any(|side| side.closed_until.is_some()), "{service:?}: {status:#?}");
        stage.clear_journal();
        for _ in 0..8 {
            daemon.cycle().await;
        }
        assert_eq!(stage.requests(service).len(), 0, "{service:?}: {:#?}", stage.requests(service));
        assert_eq!(stage.column(stage.lead_of(id).unwrap(), "companyname"), json!("Plain 1"));
        // Neither does another process, whatever it is asked for.
        assert_eq!(daemon.stop().await, 0);
        assert_eq!(stage.run(&["once"]).await.code, 1, "{service:?}");
        stage.run(&["plan"]).await;
        assert_eq!(stage.requests(service).len(), 0, "{service:?}: {:#?}", stage.requests(service));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_window_is_over_the_daemon_goes_on_by_itself() {
    let mut world = World::new(104, SimClock::running(), Default::default());
    let id = world.add_referral(plain(1));
    let stage = Stage::with(world).await;
    stage.overlay("[http]\nretry_after_wait_max = \"1ms\"\n");
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    daemon.cycle().await;
    stage.simulator.with(|world| {
        (world.faults.wait_seconds_min, world.faults.wait_seconds_max) = (6, 6);
        world.faults.play_next_at(Class::Throttle, "/$batch");
        world.edit_referral(id, |it| it["customerProfile"]["name"] = "After the window".into());
    });
    let lead = stage.lead_of(id).unwrap();
    daemon.until_cycles("the update", || stage.column(lead, "companyname") == "After the window").await;
    at_rest(&stage, &daemon).await;
    assert_eq!(daemon.stop().await, 0);
}

fn plain(number: usize) -> serde_json::Value {
    json!({
        "name": format!("Request {number}"), "customerProfile": {"name": format!("Plain {number}")},
        "details": {"dealValue": 1000 + number, "currency": "USD", "closingDateTime": "2027-03-01T00:00:00Z"},
    })
}

/// Two more cycles write nothing, and no promise was broken.
async fn at_rest(stage: &Stage, daemon: &Daemon) {
    daemon.cycle().await;
    stage.clear_journal_but_judge();
    stage.simulator.with(|world| world.clock().advance(Duration::from_secs(2)));
    daemon.cycle().await;
    daemon.cycle().await;
    assert_eq!(stage.written(), vec![]);
    stage.judge();
}
