//! What an operator types, over the control socket and without a daemon.

use referrald::sim::dynamics::Table;
use referrald::sim::{Service, SimClock, World};
use serde_json::json;
use uuid::Uuid;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn plan_says_three_before_zero_after_and_four_when_only_holds_are_left() {
    let stage = Stage::with(World::new(51, SimClock::running(), Default::default())).await;
    let id = stage
        .simulator
        .with(|world| world.add_referral(json!({"name": "One", "customerProfile": {"name": "Company one"}})));
    let plan = stage.json(&["plan"], 3).await;
    assert!(plan["actions"][0]["text"].as_str().unwrap().contains("create lead"), "{plan:#}");
    assert_eq!(stage.written(), vec![]);
    stage.json(&["once"], 0).await;
    let plan = stage.json(&["plan"], 0).await;
    println!("{plan:#}");
    let lead = stage.lead_of(id).unwrap();
    stage.simulator.with(|world| world.edit_row(Table::Lead, lead, json!({"companyname": "By a seller"}))).unwrap();
    std::fs::remove_dir_all(stage.state().join("ledger")).unwrap();
    let plan = stage.json(&["plan"], 4).await;
    println!("{plan:#}");
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_writes_off_nothing_at_all_is_written() {
    let stage = Stage::new(52, 40).await;
    stage.overlay("writes = \"off\"\n");
    let report = stage.json(&["once"], 0).await;
    println!("{report:#}");
    stage.json(&["plan"], 3).await;
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    assert_eq!(stage.written(), vec![]);
    assert_eq!(stage.simulator.with(|world| world.crm.lead_ids().len()), 0);
    assert_eq!(daemon.stop().await, 0);
    // Switched on later, it begins where nothing was done.
    stage.overlay("");
    let report = stage.json(&["once"], 0).await;
    assert!(report["done"]["create"].as_u64() > Some(10), "{report:#}");
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_leads_only_no_referral_is_written() {
    let stage = Stage::new(53, 20).await;
    stage.overlay("writes = \"leads-only\"\n");
    stage.json(&["once"], 0).await;
    assert_eq!(stage.writes(Service::Portal), vec![]);
    assert!(!stage.writes(Service::Crm).is_empty());
    stage.clear_journal();
    stage.json(&["once"], 0).await;
    assert_eq!(stage.written(), vec![]);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_away_from_loopback_and_other_mistakes_end_with_seventy_eight() {
    let stage = Stage::new(54, 1).await;
    for (overlay, word) in [
        ("[partner_center]\nbase_url = \"http://api.partner.example\"\n", "base_url"),
        ("[dataverse]\nurl = \"http://contoso.crm4.dynamics.example\"\n", "dataverse.url"),
        ("[dataverse.auth]\nauthority = \"http://login.example\"\n", "authority"),
        ("[brakes]\nclosings_per_huor = 3\n", "closings_per_hour"),
        ("[schedule]\nreconcile = \"every minute\"\n", "reconcile"),
        ("writes = \"perhaps\"\n", "writes"),
    ] {
        stage.overlay(overlay);
        for command in [&["config", "check"][..], &["once"], &["run"], &["plan"]] {
            let finished = stage.run(command).await;
            assert_eq!(finished.code, 78, "{overlay} {command:?}: {finished:#?}");
            let words = format!("{}{}", finished.out, finished.trouble);
            assert!(words.contains(word), "{overlay} {command:?}: {words}");
        }
    }
    stage.overlay("");
    assert_eq!(stage.run(&["config", "check"]).await.code, 0);
    assert!(stage.requests(Service::Portal).is_empty() && stage.requests(Service::Crm).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_names_no_environment_makes_nothing() {
    let stage = Stage::new(56, 1).await;
    let text = std::fs::read_to_string(stage.path("referrald.toml")).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("url = ")).collect();
    std::fs::write(stage.path("referrald.toml"), lines.join("\n").replace("\"both\"", "\"off\"")).unwrap();
    for command in ["plan", "once", "run", "status", "suspend", "resume"] {
        let finished = stage.run(&[command]).await;
        assert!(finished.code == 78 && finished.complains("dataverse.url is missing"), "{command}: {finished:?}");
        assert!(finished.complains(&stage.told("init")), "{command}: {finished:?}");
        assert!(!stage.state().exists(), "{command} made the state directory");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn suspend_stops_writing_and_resume_catches_up() {
    let stage = Stage::new(55, 5).await;
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    daemon.cycle().await;
    assert_eq!(stage.run(&["suspend"]).await.code, 0);
    let fresh = stage.simulator.with(|world| world.add_referral(json!({"name": "While suspended"})));
    stage.clear_journal();
    let status = daemon.cycle().await;
    assert!(status.writing.is_suspended);
    assert_eq!(stage.written(), vec![]);
    assert_eq!(stage.lead_of(fresh), None);
    assert_eq!(stage.run(&["resume"]).await.code, 0);
    daemon.cycle().await;
    assert!(stage.lead_of(fresh).is_some());
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brake_on_closings_latches_and_an_approval_sends_exactly_that_set() {
    let (stage, ids) = plain_stage(30).await;
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    daemon.cycle().await;
    stage.simulator.with(|world| {
        for id in &ids[..25] {
            let lead = computed(*id);
            world.edit_row(Table::Lead, lead, json!({"statecode": 2, "statuscode": 4})).unwrap();
        }
        world.edit_referral(ids[29], |it| it["customerProfile"]["name"] = "Goes on".into());
    });
    let status = daemon.cycle().await;
    let closed = || ids.iter().filter(|id| stage.path_of(**id, "/status") == "Closed").count();
    assert_eq!(closed(), 0, "none of that kind is sent");
    assert_eq!(stage.column(computed(ids[29]), "companyname"), json!("Goes on"), "other kinds go on");
    assert_eq!(status.brakes.len(), 1, "{status:#?}");
    let digest = status.brakes[0].digest.clone();
    assert!(!digest.is_empty() && status.brakes[0].command.contains(&digest));
    assert_eq!(daemon.cycle().await.brakes.len(), 1, "it stays latched");
    let wrong = stage.run(&["approve", "000000000000"]).await;
    assert_ne!(wrong.code, 0, "{wrong:#?}");
    let approved = stage.run(&["approve", &digest]).await;
    assert_eq!(approved.code, 0, "{approved:#?}");
    let status = daemon.cycle().await;
    assert_eq!(closed(), 25);
    assert!(status.brakes.is_empty(), "{status:#?}");
    assert_eq!(daemon.stop().await, 0);
    stage.clear_journal();
    stage.json(&["once"], 0).await;
    assert_eq!(stage.written(), vec![]);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tripped_brake_ends_once_with_four_and_survives_the_process() {
    let (stage, ids) = plain_stage(30).await;
    stage.json(&["once"], 0).await;
    stage.simulator.with(|world| {
        for id in &ids[..25] {
            world.edit_row(Table::Lead, computed(*id), json!({"statecode": 2, "statuscode": 5})).unwrap();
        }
    });
    let report = stage.json(&["once"], 4).await;
    assert!(report["brakes"].to_string().contains("approve"), "{report:#}");
    let status = stage.json(&["status"], 0).await;
    let digest = status["brakes"][0]["digest"].as_str().unwrap().to_owned();
    assert_eq!(stage.run(&["approve", &digest]).await.code, 0);
    let report = stage.json(&["once"], 0).await;
    assert_eq!(report["done"]["close"], json!(25), "{report:#}");
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_referral_is_left_alone_until_released() {
    let (stage, ids) = plain_stage(3).await;
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    daemon.cycle().await;
    let id = ids[1].to_string();
    assert_eq!(stage.run(&["hold", &id]).await.code, 0);
    stage.simulator.with(|world| {
        for id in &ids {
            world.edit_referral(*id, |it| it["customerProfile"]["name"] = "Moved".into());
        }
        world.edit_row(Table::Lead, computed(ids[1]), json!({"statuscode": 2})).unwrap();
    });
    let status = daemon.cycle().await;
    assert_eq!(stage.column(computed(ids[0]), "companyname"), json!("Moved"));
    assert_eq!(stage.column(computed(ids[1]), "companyname"), json!("Company 1"));
    assert_eq!(stage.path_of(ids[1], "/status"), json!("New"));
    assert_eq!(status.holds.get("by operator"), Some(&1), "{status:#?}");
    assert_eq!(stage.run(&["release", &id]).await.code, 0);
    daemon.cycle().await;
    assert_eq!(stage.column(computed(ids[1]), "companyname"), json!("Moved"));
    assert_eq!(stage.path_of(ids[1], "/status"), json!("Active"));
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn release_decides_what_has_no_common_base_for_either_side() {
    for (take, expected) in [("referral", "Company 0"), ("lead", "By a seller")] {
        let (stage, ids) = plain_stage(2).await;
        stage.json(&["once"], 0).await;
        let lead = computed(ids[0]);
        stage.simulator.with(|world| world.edit_row(Table::Lead, lead, json!({"companyname": "By a seller"}))).unwrap();
        std::fs::remove_dir_all(stage.state().join("ledger")).unwrap();
        let daemon = stage.daemon().await;
        let status = daemon.first_cycle().await;
        assert_eq!(status.holds.get("no common base"), Some(&1), "{take}: {status:#?}");
        let released = stage.run(&["release", &ids[0].to_string(), "--take", take]).await;
        assert_eq!(released.code, 0, "{released:#?}");
        let status = daemon.cycle().await;
        assert_eq!(stage.column(lead, "companyname"), json!(expected), "{take}");
        assert_eq!(status.holds.get("no common base"), None, "{take}: {status:#?}");
        stage.clear_journal();
        daemon.cycle().await;
        assert_eq!(stage.written(), vec![], "{take}");
        assert_eq!(daemon.stop().await, 0);
        stage.judge();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_without_a_daemon_says_so_and_with_one_rings() {
    let stage = Stage::new(57, 2).await;
    let nobody = stage.run(&["reconcile"]).await;
    assert_eq!(nobody.code, 1, "{nobody:#?}");
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    let fresh = stage.simulator.with(|world| world.add_referral(json!({"name": "Rung for"})));
    assert_eq!(stage.run(&["reconcile"]).await.code, 0);
    daemon.until("the lead", |_| stage.lead_of(fresh).is_some()).await;
    let status = stage.json(&["status"], 0).await;
    assert!(status["last_cycle"].is_object());
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_search_for_personal_data_finds_what_is_there() {
    let stage = Stage::new(58, 5).await;
    stage.json(&["once"], 0).await;
    stage.judge_discretion();
    let is_clean = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.judge_discretion())).is_ok();
    let someone = stage.simulator.with(|world| {
        let emails = world.portal.all().filter_map(|(_, it)| it.pointer("/customerProfile/team/0/email")?.as_str());
        emails.map(str::to_owned).next().unwrap()
    });
    for leak in
        [someone, "simulated~secret".to_owned(), "sim-1-00ff".to_owned(), "1.simulated-refresh-token-0".to_owned()]
    {
        std::fs::write(stage.state().join("ledger/leak"), format!("x{leak}x")).unwrap();
        assert!(!is_clean(), "{leak}");
        std::fs::remove_file(stage.state().join("ledger/leak")).unwrap();
    }
    assert!(is_clean());
}

/// A stage with plain referrals.
async fn plain_stage(count: usize) -> (Stage, Vec<Uuid>) {
    let mut world = World::new(56, SimClock::running(), Default::default());
    let document = |number: usize| json!({"name": format!("Request {number}"), "customerProfile": {"name": format!("Company {number}")}});
    let ids = (0..count).map(|number| world.add_referral(document(number))).collect();
    (Stage::with(world).await, ids)
}

fn computed(referral: Uuid) -> Uuid {
    Uuid::new_v5(&referrald::sim::Checker::default().namespace, referral.to_string().as_bytes())
}
