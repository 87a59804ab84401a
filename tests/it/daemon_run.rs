//! `run`: the daemon by its control socket and its signals, and processes that die in the middle.

use referrald::sim::dynamics::Table;
use referrald::sim::journal::{Actor, Event};
use referrald::sim::{Service, SimClock, World};
use serde_json::json;
use uuid::Uuid;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_imports_follows_changes_and_stops_in_order() {
    let stage = Stage::new(21, 30).await;
    let daemon = stage.daemon().await;
    let status = daemon.first_cycle().await;
    assert!(status.linked > 15, "{status:#?}");
    let fresh = stage.simulator.with(|world| world.add_referral(json!({"name": "Fresh from the portal"})));
    daemon.cycle().await;
    let lead = stage.lead_of(fresh).expect("the new referral has a lead");
    assert_eq!(stage.path_of(fresh, "/externalReferenceId"), json!(lead.to_string()));
    stage.simulator.with(|world| world.edit_row(Table::Lead, lead, json!({"statuscode": 2}))).unwrap();
    daemon.cycle().await;
    assert_eq!(stage.path_of(fresh, "/status"), json!("Active"));
    stage.clear_journal();
    let quiet = daemon.cycle().await;
    assert_eq!(stage.written(), vec![], "{quiet:#?}");
    assert_eq!(daemon.stop().await, 0);
    assert!(!stage.state().join("control.sock").exists());
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_an_import_is_in_order_and_the_next_start_goes_on() {
    let stage = Stage::new(22, 300).await;
    let daemon = stage.daemon().await;
    daemon.until("leads", |_| stage.simulator.with(|world| world.crm.lead_ids().len() > 20)).await;
    assert_eq!(daemon.stop().await, 0);
    let report = stage.json(&["once"], 0).await;
    println!("{report:#}");
    each_referral_has_at_most_one_lead(&stage);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_state_is_refused_and_names_the_first() {
    let stage = Stage::new(23, 3).await;
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    for command in ["run", "once"] {
        let second = stage.run(&[command]).await;
        assert_eq!(second.code, 75, "{command}: {second:#?}");
        let words = format!("{}{}", second.out, second.trouble);
        assert!(words.contains(&daemon.pid().to_string()), "{command} does not name {}: {words}", daemon.pid());
    }
    assert_eq!(daemon.stop().await, 0);
    assert_eq!(stage.run(&["once"]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_killed_again_and_again_makes_one_lead_per_referral() {
    let stage = Stage::new(24, 200).await;
    for more in [1, 3, 40, 25, 60, 7, 30] {
        let before = stage.simulator.with(|world| world.journal.count(Service::Crm));
        let killed = stage
            .once_killed_when(move |world| {
                let writes = world.journal.writes().count();
                let target = usize::try_from(before).unwrap_or(0) + more;
                world.journal.records().len() > target && writes > 0
            })
            .await;
        println!("killed: {killed}, leads: {}", stage.simulator.with(|world| world.crm.lead_ids().len()));
    }
    let report = stage.json(&["once"], 0).await;
    println!("{report:#}");
    each_referral_has_at_most_one_lead(&stage);
    let created = stage.simulator.with(|world| {
        let events = world.journal.events().iter();
        events.filter(|event| matches!(event, Event::LeadCreated { by: Actor::Client, .. })).count()
    });
    assert_eq!(created, stage.simulator.with(|world| world.crm.lead_ids().len()), "no lead was created and lost again");
    stage.clear_journal();
    let second = stage.json(&["once"], 0).await;
    assert_eq!(stage.written(), vec![], "{second:#}");
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_leaves_the_state_free_and_loses_nothing() {
    let stage = Stage::new(25, 80).await;
    let daemon = stage.daemon().await;
    daemon.until("leads", |_| stage.simulator.with(|world| world.crm.lead_ids().len() > 10)).await;
    daemon.kill();
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    daemon.cycle().await;
    each_referral_has_at_most_one_lead(&stage);
    assert_eq!(daemon.stop().await, 0);
    stage.clear_journal();
    stage.json(&["once"], 0).await;
    assert_eq!(stage.written(), vec![]);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_deleted_between_runs_is_rebuilt_without_a_write() {
    let stage = Stage::new(26, 60).await;
    stage.json(&["once"], 0).await;
    let leads = stage.simulator.with(|world| world.crm.lead_ids());
    let edited = leads[leads.len() / 2];
    stage.simulator.with(|world| world.edit_row(Table::Lead, edited, json!({"companyname": "By a seller"}))).unwrap();
    std::fs::remove_dir_all(stage.state().join("ledger")).unwrap();
    stage.clear_journal();
    let report = stage.json(&["once"], 0).await;
    println!("{report:#}");
    assert_eq!(stage.simulator.with(|world| world.crm.lead_ids()), leads, "no duplicate");
    assert_eq!(stage.column(edited, "companyname"), json!("By a seller"));
    assert_eq!(stage.written(), vec![]);
    assert!(report["holds"]["no common base"].as_u64() >= Some(1), "{report:#}");
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_referrals_whose_leads_were_merged_into_one_do_not_both_get_it_from_a_lost_ledger() {
    let stage = Stage::with(World::new(31, SimClock::running(), Default::default())).await;
    let ids: Vec<Uuid> = (0..2)
        .map(|number| {
            let document = json!({"name": format!("Merged {number}"), "customerProfile": {"name": "One company"}});
            stage.simulator.with(|world| world.add_referral(document))
        })
        .collect();
    stage.json(&["once"], 0).await;
    stage.simulator.with(|world| {
        let walk_in = world.add_lead(json!({"subject": "Walk-in", "lastname": "Visitor"})).unwrap();
        for id in &ids {
            let lead = Uuid::new_v5(&referrald::sim::Checker::default().namespace, id.to_string().as_bytes());
            world.merge_leads(walk_in, lead).unwrap();
            // As if the process had died before the lead's id was written back: only a create finds the lead again.
            world.edit_referral(*id, |it| it["externalReferenceId"] = serde_json::Value::Null);
        }
    });
    std::fs::remove_dir_all(stage.state().join("ledger")).unwrap();
    let report = stage.json(&["once"], 0).await;
    let status = stage.json(&["status"], 0).await;
    assert_eq!(status["linked"], json!(1), "{report:#} {status:#}");
    assert_eq!(status["holds"]["lead already linked"], json!(1), "{report:#} {status:#}");
    stage.clear_journal();
    stage.json(&["once"], 0).await;
    assert_eq!(stage.written(), vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_or_scribbled_ledger_is_moved_aside_and_rebuilt() {
    for damage in ["truncated", "scribbled", "emptied"] {
        let stage = Stage::new(27, 60).await;
        stage.json(&["once"], 0).await;
        let leads = stage.simulator.with(|world| world.crm.lead_ids());
        for file in ["db", "conf"] {
            let path = stage.state().join("ledger").join(file);
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let damaged = match damage {
                "truncated" => bytes[..bytes.len() / 3].to_vec(),
                "emptied" => Vec::new(),
                _ => bytes.iter().enumerate().map(|(at, byte)| if at % 97 == 0 { !byte } else { *byte }).collect(),
            };
            std::fs::write(&path, damaged).unwrap();
        }
        stage.clear_journal();
        let report = stage.json(&["once"], 0).await;
        assert_eq!(stage.simulator.with(|world| world.crm.lead_ids()), leads, "{damage}: no duplicate");
        assert_eq!(stage.written(), vec![], "{damage}: {report:#}");
        let status = stage.json(&["status"], 0).await;
        assert_eq!(status["linked"].as_u64(), Some(leads.len() as u64), "{damage}: {status:#}");
        stage.judge();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_world_over_many_cycles_and_restarts_ends_in_agreement() {
    use rand::SeedableRng;
    let seed = 28;
    println!("seed {seed}");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let world = World::new(seed, SimClock::running(), Default::default());
    let stage = Stage::with(world).await;
    stage.simulator.with(|world| world.populate(seed, 40));
    stage.overlay("[brakes]\nclosings_per_hour = 0\nacceptances_per_hour = 0\nleads_vanished = 0\n");
    for round in 0..4 {
        let daemon = stage.daemon().await;
        daemon.first_cycle().await;
        for _ in 0..5 {
            stage.simulator.with(|world| {
                for _ in 0..8 {
                    world.random_edit(&mut rng);
                }
            });
            daemon.cycle().await;
        }
        if round % 2 == 0 { daemon.kill() } else { assert_eq!(daemon.stop().await, 0) }
    }
    stage.json(&["once"], 0).await;
    stage.clear_journal();
    let report = stage.json(&["once"], 0).await;
    println!("{report:#}");
    assert_eq!(stage.written(), vec![], "{report:#}");
    each_referral_has_at_most_one_lead(&stage);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn once_that_is_asked_to_stop_ends_in_order_with_one() {
    let stage = Stage::new(29, 200).await;
    assert_eq!(stage.once_stopped_when(|world| world.crm.lead_ids().len() > 30).await, 1);
    let status = stage.json(&["status"], 0).await;
    assert!(status["opening"].is_null(), "a stop that was asked for is no unclean one: {status:#}");
    stage.json(&["once"], 0).await;
    each_referral_has_at_most_one_lead(&stage);
    stage.clear_journal();
    stage.json(&["once"], 0).await;
    assert_eq!(stage.written(), vec![]);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_over_the_same_services_make_one_lead_per_referral_and_come_to_rest() {
    let stage = Stage::new(30, 80).await;
    let both = || async { tokio::join!(stage.run_elsewhere("one", &["once"]), stage.run_elsewhere("two", &["once"])) };
    let (one, two) = both().await;
    println!("{}\n{}", one.out, two.out);
    assert_eq!((one.code, two.code), (0, 0));
    each_referral_has_at_most_one_lead(&stage);
    stage.simulator.with(|world| {
        for id in world.portal.ids().into_iter().take(30) {
            world.edit_referral(id, |it| it["details"]["dealValue"] = json!(4711));
        }
        for lead in world.crm.lead_ids().into_iter().take(20) {
            let _ = world.edit_row(Table::Lead, lead, json!({"statuscode": 2, "estimatedclosedate": "2027-10-10"}));
        }
    });
    for _ in 0..3 {
        let (one, two) = both().await;
        assert_eq!((one.code, two.code), (0, 0), "{}\n{}", one.out, two.out);
    }
    stage.clear_journal();
    both().await;
    assert_eq!(stage.written(), vec![]);
    each_referral_has_at_most_one_lead(&stage);
    stage.judge();
}

/// The subjects and the ids agree: nobody has two leads.
fn each_referral_has_at_most_one_lead(stage: &Stage) {
    let (leads, referrals) = stage.simulator.with(|world| (world.crm.lead_ids(), world.portal.ids()));
    let computed: std::collections::BTreeSet<Uuid> =
        referrals.iter().filter_map(|referral| stage.lead_of(*referral)).collect();
    let walk_ins = stage.simulator.with(|world| {
        let is_walk_in = |id: &&Uuid| world.crm.value(Table::Lead, **id, "subject") == "Walk-in";
        leads.iter().filter(is_walk_in).count()
    });
    assert_eq!(computed.len() + walk_ins, leads.len(), "every lead is the one computed lead of a referral");
}
