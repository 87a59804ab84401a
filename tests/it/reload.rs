//! A configuration that changes, organizations that move, and the words a service manager hears.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use referrald::sim::{SimClock, World};
use serde_json::json;
use uuid::Uuid;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_good_configuration_is_taken_over_and_a_bad_one_is_refused_with_its_reason() {
    let stage = Stage::new(131, 10).await;
    let never = "[schedule]\nreconcile = \"0 0 0 1 1 *\"\nsweep = \"0 0 0 1 1 *\"\n";
    stage.overlay(&format!("writes = \"off\"\n{never}"));
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    assert_eq!(stage.simulator.with(|world| world.crm.lead_ids().len()), 0);

    stage.overlay(&format!("writes = \"perhaps\"\n{never}"));
    daemon.signal("HUP");
    daemon.until_logged("the old one stays in force").await;
    assert!(daemon.logged().contains("writes"), "the key is named");
    assert_eq!(daemon.status().await.writing.mode, "off");

    stage.overlay(&format!("writes = \"both\"\n{never}"));
    daemon.signal("HUP");
    daemon.until_logged("the configuration was read again and is in force").await;
    assert_eq!(daemon.status().await.writing.mode, "both");
    daemon.until_cycles("leads", || stage.simulator.with(|world| !world.crm.lead_ids().is_empty())).await;

    // What the adapters were opened with does not change under way, and is named.
    stage.overlay(&format!("writes = \"both\"\n{never}[dataverse]\nurl = \"http://127.0.0.1:1\"\n"));
    daemon.signal("HUP");
    daemon.until_logged("dataverse.url changed: restart the daemon").await;
    let fresh = stage.simulator.with(|world| world.add_referral(json!({"name": "Still the old address"})));
    daemon.until_cycles("the lead", || stage.lead_of(fresh).is_some()).await;
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_dynamics_organization_stops_writing_until_the_move_is_approved_and_keeps_every_id() {
    let (stage, ids, leads) = linked(132).await;
    let (before, after) = (stage.simulator.with(|world| world.crm.organization()), Uuid::from_u128(0x0123_4567));
    stage.simulator.with(|world| world.crm.move_to(after));
    moved(&stage, &ids, &leads, &[before.to_string(), after.to_string()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_partner_organization_stops_writing_until_the_move_is_approved_and_keeps_every_id() {
    let (stage, ids, leads) = linked(133).await;
    let (before, after) = (stage.simulator.with(|world| world.portal.organization()), Uuid::from_u128(0x0123_4567));
    stage.simulator.with(|world| {
        world.portal.move_to(after);
        for id in &ids {
            world.edit_referral(*id, |it| it["organizationId"] = after.to_string().into());
        }
    });
    moved(&stage, &ids, &leads, &[before.to_string(), after.to_string()]).await;
}

async fn linked(seed: u64) -> (Stage, Vec<Uuid>, BTreeSet<Uuid>) {
    let mut world = World::new(seed, SimClock::running(), Default::default());
    let ids: Vec<Uuid> = (0..8)
        .map(|number| {
            world.add_referral(json!({"name": format!("Moved {number}"), "customerProfile": {"name": "Before Ltd"}}))
        })
        .collect();
    let stage = Stage::with(world).await;
    stage.json(&["once"], 0).await;
    let leads = stage.simulator.with(|world| world.crm.lead_ids().into_iter().collect());
    (stage, ids, leads)
}

async fn moved(stage: &Stage, ids: &[Uuid], leads: &BTreeSet<Uuid>, names: &[String]) {
    stage.simulator.with(|world| world.edit_referral(ids[0], |it| it["customerProfile"]["name"] = "After Ltd".into()));
    stage.clear_journal();
    for _ in 0..2 {
        let report = stage.json(&["once"], 4).await;
        let reason = report["brakes"]["organization"].as_str().unwrap_or_default().to_owned();
        assert!(names.iter().all(|name| reason.contains(name)), "both are named: {report:#}");
        assert!(reason.contains(&stage.told("approve organization")), "{reason}");
    }
    let shown = stage.run(&["status"]).await.out;
    assert!(shown.contains(&stage.told("approve organization")), "{shown}");
    let plan = stage.run(&["plan"]).await;
    assert!(plan.out.contains("brake organization"), "{plan:?}");
    assert_eq!(stage.written(), vec![]);
    let approved = stage.run(&["approve", "organization"]).await;
    assert_eq!(approved.code, 0, "{approved:?}");
    let report = stage.json(&["once"], 0).await;
    assert_eq!(report["brakes"], json!({}), "{report:#}");
    let lead = stage.lead_of(ids[0]).unwrap();
    assert_eq!(stage.column(lead, "companyname"), json!("After Ltd"), "{report:#}");
    let now: BTreeSet<Uuid> = stage.simulator.with(|world| world.crm.lead_ids().into_iter().collect());
    assert_eq!(&now, leads, "every id is kept");
    stage.clear_journal_but_judge();
    stage.json(&["once"], 0).await;
    assert_eq!(stage.written(), vec![]);
    assert_eq!(stage.run(&["approve", "organization"]).await.code, 1, "nothing waits any more");
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_hears_ready_reloading_watchdog_and_stopping_in_order() {
    let stage = Stage::new(134, 3).await;
    let socket = stage.path("notify");
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let receiver = UnixDatagram::bind(&socket).unwrap();
    let into = Arc::clone(&heard);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = receiver.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            into.lock().unwrap().extend(text.lines().map(str::to_owned));
        }
    });
    let is_heard = |word: &str| heard.lock().unwrap().iter().filter(|line| *line == word).count();
    let line = format!("export NOTIFY_SOCKET='{}' WATCHDOG_USEC=200000; exec \"$0\" \"$@\"", socket.display());
    let daemon = stage.daemon_in(&line, &[]).await;
    daemon.first_cycle().await;
    daemon.until("ready", |_| is_heard("READY=1") == 1).await;
    daemon.until("signs of life", |_| is_heard("WATCHDOG=1") >= 3).await;
    daemon.signal("HUP");
    daemon.until("the reload's end", |_| is_heard("READY=1") == 2).await;
    assert_eq!(is_heard("RELOADING=1"), 1);
    assert_eq!(daemon.stop().await, 0);
    let heard = heard.lock().unwrap().clone();
    let place = |word: &str| heard.iter().position(|line| line == word).unwrap_or_else(|| panic!("{word}: {heard:?}"));
    assert!(place("READY=1") < place("RELOADING=1") && place("RELOADING=1") < place("STOPPING=1"), "{heard:?}");
    assert!(heard.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{heard:?}");
    assert!(heard.iter().any(|line| line.starts_with("STATUS=") && line.contains("create")), "{heard:?}");
}
