//! A disk that is full or cannot be written: what is known may still be asked, nothing is sent that could not be
//! remembered, and it goes on by itself once there is room.

use std::process::Command;

use referrald::daemon::Status;
use referrald::sim::dynamics::Table;
use referrald::sim::{Service, SimClock, World};
use serde_json::json;
use uuid::Uuid;

use crate::stage::{Daemon, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_writing_with_a_clear_word_and_room_brings_everything_back() {
    let stage = Stage::new(91, 15).await;
    let daemon = stage.daemon_with_limits().await;
    daemon.first_cycle().await;
    daemon.cycle().await;
    stage.clear_journal_but_judge();
    daemon.fill_disk(true);
    let fresh = stage.simulator.with(|world| world.add_referral(json!({"name": "While the disk is full"})));
    stopped_by_the_disk(&stage, &daemon).await;
    assert_eq!(stage.written(), vec![]);
    assert!(!stage.requests(Service::Crm).is_empty(), "reading goes on");
    stage.clear_journal_but_judge();
    assert_eq!(stage.run(&["reconcile"]).await.code, 0);
    let is_told = |status: &Status| {
        status.ledger_trouble.as_deref().is_some_and(|trouble| trouble.contains("Partner Center was read at"))
    };
    daemon.until("a look at both services", is_told).await;
    for side in [Service::Portal, Service::Crm] {
        assert!(!stage.requests(side).is_empty(), "{side:?} is read on, cycle after cycle");
    }
    assert_eq!(stage.written(), vec![]);
    daemon.fill_disk(false);
    goes_on(&stage, daemon, fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_in_the_middle_of_an_import_costs_no_second_lead() {
    let stage = Stage::new(92, 80).await;
    stage.overlay("[cycle]\nbatch_max = 5\n");
    let daemon = stage.daemon_with_limits().await;
    let is_full = |world: &World| world.journal.writes().count() >= 12 && daemon.fill_disk(true);
    stage.until(is_full).await;
    let fresh = stage.simulator.with(|world| world.add_referral(json!({"name": "While the disk is full"})));
    stopped_by_the_disk(&stage, &daemon).await;
    let writes = stage.simulator.with(|world| world.journal.writes().count());
    assert!(writes <= 12 + 5, "only what was put on record before: {writes}");
    daemon.fill_disk(false);
    goes_on(&stage, daemon, fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_that_cannot_be_kept_stop_the_writes_they_count_and_nothing_else() {
    let mut world = World::new(93, SimClock::running(), Default::default());
    let ids: Vec<Uuid> =
        (0..2).map(|number| world.add_referral(json!({"name": format!("Request {number}")}))).collect();
    let stage = Stage::with(world).await;
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    daemon.cycle().await;
    // Something is in the way of the file: an error for every user, root included.
    let in_the_way = stage.state().join("keep/decisions.json.new/occupied");
    std::fs::create_dir_all(&in_the_way).unwrap();
    let (contacted, renamed) = (stage.lead_of(ids[0]).unwrap(), ids[1]);
    stage.simulator.with(|world| {
        world.edit_row(Table::Lead, contacted, json!({"statuscode": 2})).unwrap();
        world.edit_referral(renamed, |it| it["customerProfile"]["name"] = "Renamed meanwhile".into());
    });
    assert_eq!(stage.run(&["reconcile"]).await.code, 0);
    daemon.until_logged("keep/decisions.json").await;
    let lead = stage.lead_of(renamed).unwrap();
    assert_eq!(stage.column(lead, "companyname"), json!("Renamed meanwhile"), "what needs no counter goes on");
    assert_eq!(stage.path_of(ids[0], "/status"), json!("New"), "an acceptance is counted before it is sent");
    let held = stage.run(&["hold", &ids[1].to_string()]).await;
    assert_eq!(held.code, 1, "a decision that cannot be kept is none: {held:?}");
    assert!(held.trouble.contains("keep/decisions.json"), "{held:?}");
    std::fs::remove_dir_all(in_the_way.parent().unwrap()).unwrap();
    daemon.cycle().await;
    daemon.until("the acceptance", |_| stage.path_of(ids[0], "/status") == json!("Active")).await;
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_could_not_be_kept_is_not_asked_for() {
    let stage = Stage::new(94, 5).await;
    stage.simulator.with(|world| world.options.rotates_strictly = true);
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    daemon.cycle().await;
    let keep = stage.state().join("keep");
    let token = std::fs::read_dir(&keep).unwrap().flatten().map(|file| file.path());
    let token = token.into_iter().find(|path| path.to_string_lossy().contains("refresh-token-")).unwrap();
    let in_the_way = token.with_extension("new").join("occupied");
    std::fs::create_dir_all(&in_the_way).unwrap();
    let newest = stage.simulator.with(|world| {
        world.entra.expire_all();
        world.entra.newest_refresh_token().to_owned()
    });
    let status = daemon.cycle().await;
    let trouble = status.sides.values().find_map(|side| side.trouble.clone()).unwrap_or_default();
    assert!(trouble.contains("cannot keep the rotated refresh token"), "{status:#?}");
    let after = stage.simulator.with(|world| world.entra.newest_refresh_token().to_owned());
    assert_eq!(after, newest, "a token nobody can keep would end the session");
    std::fs::remove_dir_all(in_the_way.parent().unwrap()).unwrap();
    let fresh = stage.simulator.with(|world| world.add_referral(json!({"name": "After the disk"})));
    daemon.until_cycles("the lead", || stage.lead_of(fresh).is_some()).await;
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_file_system_without_room_is_survived() {
    let stage = Stage::new(95, 15).await;
    std::fs::create_dir(stage.path("run")).unwrap();
    std::fs::create_dir(stage.state()).unwrap();
    let socket = stage.path("run").display().to_string();
    stage.overlay(&format!("[daemon]\nruntime_directory = \"{socket}\"\n"));
    let mount = format!("mount -t tmpfs -o size=8m none '{}'", stage.state().display());
    if !may_mount(&mount) {
        println!("skipped: this user may not mount in a namespace of its own");
        return;
    }
    let daemon = stage.daemon_in(&format!("{mount} && exec \"$0\" \"$@\""), &["unshare", "-rm"]).await;
    daemon.first_cycle().await;
    daemon.cycle().await;
    stage.clear_journal_but_judge();
    // The daemon alone sees the file system; everybody else looks through it.
    let ballast = format!("/proc/{}/root{}/ballast", daemon.pid(), stage.state().display());
    let filled = std::fs::File::create(&ballast).and_then(|mut file| std::io::copy(&mut std::io::repeat(1), &mut file));
    assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let fresh = stage.simulator.with(|world| world.add_referral(json!({"name": "While there is no room"})));
    stopped_by_the_disk(&stage, &daemon).await;
    // The ledger's own file may have had room for one more intent; then its write is on record and may be sent.
    let writes = stage.writes(Service::Portal).len() + stage.writes(Service::Crm).len();
    assert!(writes <= 2, "{writes}");
    std::fs::remove_file(&ballast).unwrap();
    daemon.until_cycles("the lead", || stage.lead_of(fresh).is_some()).await;

    daemon.cycle().await;
    stage.clear_journal_but_judge();
    daemon.cycle().await;
    assert_eq!(stage.written(), vec![]);
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_is_read_only_at_the_start_is_named_and_nothing_is_sent() {
    let stage = Stage::new(96, 5).await;
    stage.json(&["once"], 0).await;
    stage.clear_journal();
    let state = stage.state().display().to_string();
    let mount = format!("mount --bind '{state}' '{state}' && mount -o remount,bind,ro '{state}'");
    if !may_mount(&mount) {
        println!("skipped: this user may not mount in a namespace of its own");
        return;
    }
    let line = format!("{mount} && exec \"$0\" \"$@\"");
    let finished = stage.run_behind(&line, &["unshare", "-rm"], &["once"]).await;
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.trouble.contains(&state) && finished.trouble.contains("Read-only"), "{finished:?}");
    let daemon = stage.start_in(&line, &["unshare", "-rm"]);
    daemon.until_logged("the next try is in").await;
    assert!(daemon.logged().contains(&state) && daemon.logged().contains("Read-only"), "{}", daemon.logged());
    assert_eq!((stage.requests(Service::Portal), stage.requests(Service::Crm)), (vec![], vec![]));
    assert_eq!(daemon.stop().await, 0, "a stop while it waits is a stop");

    let mut daemon = stage.start_in(&line, &["unshare", "-rm"]);
    daemon.until_logged("the next try is in").await;
    let fresh = stage.simulator.with(|world| world.add_referral(json!({"name": "While it is read-only"})));
    // Where only the daemon sees it.
    let pid = daemon.pid().to_string();
    let words = ["-t", &pid, "-U", "--preserve-credentials", "-m", "mount", "-o", "remount,bind,rw", &state];
    assert!(Command::new("nsenter").args(words).status().unwrap().success());
    daemon.until_up().await;
    goes_on(&stage, daemon, fresh).await;
}

/// Whether this user may mount in a namespace of its own; tried out.
fn may_mount(line: &str) -> bool {
    let tried = Command::new("unshare").args(["-rm", "sh", "-c", line]).output();
    tried.is_ok_and(|tried| tried.status.success())
}

/// A cycle ends at the disk, and log and status say so.
async fn stopped_by_the_disk(stage: &Stage, daemon: &Daemon) {
    assert_eq!(stage.run(&["reconcile"]).await.code, 0);
    let status = daemon.until("the disk's word", |status| status.ledger_trouble.is_some()).await;
    let trouble = status.ledger_trouble.unwrap();
    assert!(trouble.contains("make room on the disk") && trouble.contains("state"), "{trouble}");
    let shown = stage.run(&["status"]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.out.contains("make room on the disk") && shown.out.contains("linked"), "{}", shown.out);
    daemon.until_logged("the cycle ended early").await;
}

/// Without a restart: what came meanwhile is done, and then there is nothing left to do.
async fn goes_on(stage: &Stage, daemon: Daemon, fresh: Uuid) {
    daemon.until_cycles("the lead", || stage.lead_of(fresh).is_some()).await;
    daemon.cycle().await;
    assert_eq!(daemon.status().await.ledger_trouble, None);
    assert_eq!(daemon.stop().await, 0);
    stage.json(&["once"], 0).await;
    stage.clear_journal_but_judge();
    stage.json(&["once"], 0).await;
    assert_eq!(stage.written(), vec![]);
    stage.judge();
}
