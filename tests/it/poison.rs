//! Referrals that a service refuses: they delay nobody, are listed by cause, and there are four ways out.

use referrald::sim::options::{CrmOptions, PlugIn};
use referrald::sim::{Options, Service, SimClock, World};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::stage::{Daemon, Stage};

fn poison(word: &str) -> PlugIn {
    PlugIn::Refuses { column: "companyname".to_owned(), word: word.to_owned() }
}

fn named(number: usize, company: &str) -> Value {
    json!({"name": format!("Request {number}"), "customerProfile": {"name": company}})
}

#[tokio::test(flavor = "multi_thread")]
async fn one_poisoned_referral_among_a_thousand_delays_none_of_the_others() {
    let crm = CrmOptions { plug_ins: vec![poison("Poison")], ..CrmOptions::default() };
    let mut world = World::new(121, SimClock::running(), Options { crm, ..Options::default() });
    let ids: Vec<Uuid> = (0..1000)
        .map(|number| world.add_referral(named(number, if number == 3 { "Poison Ltd" } else { "Sound Ltd" })))
        .collect();
    let stage = Stage::with(world).await;
    let report = stage.json(&["once"], 3).await;
    assert_eq!((&report["done"]["create"], &report["done"]["write_back"]), (&json!(999), &json!(999)), "{report:#}");
    assert_eq!(report["failed"], json!({"create": 1}), "{report:#}");
    let status = stage.json(&["status"], 0).await;
    assert_eq!(status["dead_letters"].as_object().unwrap().values().collect::<Vec<_>>(), [&json!(1)], "{status:#}");
    // An update of every other one passes it by, and it is not tried again.
    stage.clear_journal();
    stage.simulator.with(|world| {
        for id in ids.iter().filter(|id| **id != ids[3]).take(100) {
            world.edit_referral(*id, |it| it["customerProfile"]["name"] = "Renamed Ltd".into());
        }
    });
    let report = stage.json(&["once"], 0).await;
    assert_eq!(report["done"]["update"], json!(100), "{report:#}");
    let tries = stage.requests(Service::Crm).iter().filter(|record| record.status >= 400).count();
    assert_eq!(tries, 0, "a dead letter is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_leaves_by_a_change_on_either_side_by_configuration_and_by_retry() {
    let mut world = World::new(122, SimClock::running(), Options::default());
    let ids: Vec<Uuid> = (0..9).map(|number| world.add_referral(named(number, "Sound Ltd"))).collect();
    let stage = Stage::with(world).await;
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    daemon.cycle().await;
    let company = |number: usize| stage.column(stage.lead_of(ids[number]).unwrap(), "companyname");
    let causes = |status: &referrald::daemon::Status| status.dead_letters.values().copied().collect::<Vec<u64>>();

    poisoned(&stage, &daemon, &ids[..5]).await;
    // By the referral.
    stage
        .simulator
        .with(|world| world.edit_referral(ids[0], |it| it["customerProfile"]["name"] = "Sound again".into()));
    // By the lead.
    let lead = stage.lead_of(ids[1]).unwrap();
    let columns = json!({"telephone1": "+15555550100"});
    stage.simulator.with(|world| world.edit_row(referrald::sim::dynamics::Table::Lead, lead, columns)).unwrap();
    let status = daemon.cycle().await;
    assert_eq!((company(0), company(1)), (json!("Sound again"), json!("Poison 1")));
    assert_eq!((causes(&status), company(2)), (vec![3], json!("Sound Ltd")), "nobody else was tried: {status:#?}");
    // By its id.
    let retried = stage.run(&["retry", &ids[2].to_string()]).await;
    assert_eq!(retried.code, 0, "{retried:?}");
    let status = daemon.cycle().await;
    assert_eq!((causes(&status), company(2), company(3)), (vec![2], json!("Poison 2"), json!("Sound Ltd")));
    // By the cause: another one is nobody's.
    assert_eq!(stage.run(&["retry", "--cause", "no such cause"]).await.code, 1);
    let cause = status.dead_letters.keys().next().unwrap().clone();
    let retried = stage.run(&["retry", "--cause", cause.split(' ').next_back().unwrap()]).await;
    assert_eq!(retried.code, 0, "{cause}: {retried:?}");
    let status = daemon.cycle().await;
    assert_eq!((causes(&status), company(3), company(4)), (vec![], json!("Poison 3"), json!("Poison 4")));

    // All of them, without a daemon.
    poisoned(&stage, &daemon, &ids[5..7]).await;
    assert_eq!(daemon.stop().await, 0);
    let retried = stage.run(&["retry", "--all"]).await;
    assert_eq!(retried.code, 0, "{retried:?}");
    let report = stage.json(&["once"], 0).await;
    assert_eq!((&report["done"]["update"], company(5)), (&json!(2), json!("Poison 0")), "{report:#}");

    // By the configuration, taken over by a running daemon.
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    poisoned(&stage, &daemon, &ids[7..]).await;
    let overlay = std::fs::read_to_string(stage.path("referrald.toml.d/10.toml")).unwrap();
    stage.overlay(&format!("{overlay}\n[status]\ndeadline_warning = \"71h\"\n"));
    daemon.signal("HUP");
    daemon.until_logged("the configuration was read again and is in force").await;
    daemon.until_cycles("the updates", || company(7) == "Poison 0" && company(8) == "Poison 1").await;
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

/// Every referral is renamed to something that a customer's plug-in refuses; then the plug-in is mended, which by itself
/// wakes nobody.
async fn poisoned(stage: &Stage, daemon: &Daemon, ids: &[Uuid]) {
    stage.simulator.with(|world| {
        world.options.crm.plug_ins = vec![poison("Poison")];
        for (number, id) in ids.iter().enumerate() {
            world.edit_referral(*id, |it| it["customerProfile"]["name"] = format!("Poison {number}").into());
        }
    });
    let status = daemon.cycle().await;
    let counts: Vec<u64> = status.dead_letters.values().copied().collect();
    assert_eq!(counts, [ids.len() as u64], "grouped by one cause: {status:#?}");
    let screen = stage.run(&["status"]).await.out;
    assert!(screen.contains("Dead letters"), "{screen}");
    stage.simulator.with(|world| world.options.crm.plug_ins.clear());
    stage.clear_journal();
    daemon.cycle().await;
    assert_eq!(stage.writes(Service::Crm), vec![], "a dead letter is not tried by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_and_releases_are_the_same_without_a_daemon() {
    let mut world = World::new(123, SimClock::running(), Options::default());
    let ids: Vec<Uuid> = (0..3).map(|number| world.add_referral(named(number, "Before Ltd"))).collect();
    let stage = Stage::with(world).await;
    stage.json(&["once"], 0).await;
    let company = |number: usize| stage.column(stage.lead_of(ids[number]).unwrap(), "companyname");
    assert_eq!(stage.run(&["hold", &ids[0].to_string()]).await.code, 0);
    stage.simulator.with(|world| {
        ids.iter().take(2).for_each(|id| {
            world.edit_referral(*id, |it| it["customerProfile"]["name"] = "After Ltd".into());
        });
    });
    stage.json(&["once"], 0).await;
    assert_eq!((company(0), company(1)), (json!("Before Ltd"), json!("After Ltd")));
    let status = stage.json(&["status"], 0).await;
    assert_eq!(status["holds"]["by operator"], json!(1), "{status:#}");
    assert_eq!(stage.run(&["release", &ids[0].to_string()]).await.code, 0);
    stage.json(&["once"], 0).await;
    assert_eq!(company(0), json!("After Ltd"));

    // Both have a value and nobody remembers which is older: a person says whose wins.
    let leads: Vec<Uuid> = ids.iter().map(|id| stage.lead_of(*id).unwrap()).collect();
    for take in ["referral", "lead"] {
        let number = usize::from(take == "lead");
        let edit = json!({"companyname": "By a seller"});
        stage.simulator.with(|world| {
            world.edit_row(referrald::sim::dynamics::Table::Lead, leads[number], edit).unwrap();
        });
        std::fs::remove_dir_all(stage.state().join("ledger")).unwrap();
        let _ = std::fs::remove_dir_all(stage.state().join("keep/exports"));
        stage.json(&["once"], 0).await;
        let released = stage.run(&["release", &ids[number].to_string(), "--take", take]).await;
        assert_eq!(released.code, 0, "{take}: {released:?}");
        stage.json(&["once"], 0).await;
        assert_eq!(company(number), json!(if take == "lead" { "By a seller" } else { "After Ltd" }), "{take}");
    }
    stage.judge();
}
