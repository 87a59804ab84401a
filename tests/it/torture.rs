//! The daemon killed at random moments, again and again, while both sides are edited, disks fill up and lines are cut.
//!
//! `REFERRALD_KILLS=n` changes how often it is killed, `REFERRALD_TORTURE_SEED=n` what happens meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use referrald::sim::faults::{Class, FaultPlan};
use referrald::sim::journal::{Actor, Event};
use referrald::sim::serve::Line;
use referrald::sim::{Service, World};
use uuid::Uuid;

use crate::histories::judge::agreement;
use crate::stage::{Stage, number};

/// Kills of one test run, both tests together.
const KILLS: u64 = 40;

/// The longest a daemon lives before it is killed.
const LIFE_MAX: Duration = Duration::from_secs(3);

/// Lives in which the disk fills up before the kill, and lives in which the line to a service is cut.
const FULL_DISK_ODDS: f64 = 0.1;
const CUT_LINE_ODDS: f64 = 0.1;

/// Logs of this many last lives are kept, and of every twentieth.
const LOGS_KEPT: usize = 3;

/// A cycle each second, and nothing that would wait for a person.
const RESTLESS: &str = r#"
[http]
retry_delay = "1ms"
retry_delay_max = "5ms"
[schedule]
reconcile = "* * * * * *"
sweep = "0 0 0 1 1 *"
[status]
settle_time = "0s"
settle_time_lost = "0s"
won_hold = "0s"
[brakes]
closings_per_hour = 0
acceptances_per_hour = 0
leads_vanished = 0
[retry]
delay = "1s"
delay_max = "2s"
"#;

/// Trouble besides: lost answers, refusals, versions that move.
const TROUBLE: [Class; 5] =
    [Class::ResetAfter, Class::ResetBefore, Class::ServerError, Class::Conflict, Class::TokenExpiry];

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_at_random_moments_loses_no_change_and_makes_one_lead_per_referral() {
    torture(number("REFERRALD_TORTURE_SEED").unwrap_or(81), kills() * 3 / 5, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_whose_ledger_is_damaged_as_well_makes_no_second_lead() {
    torture(number("REFERRALD_TORTURE_SEED").unwrap_or(82), kills() * 2 / 5, 0.3).await;
}

fn kills() -> u64 {
    number("REFERRALD_KILLS").unwrap_or(KILLS)
}

/// What people did and what became of the daemon.
#[derive(Default)]
struct Tale {
    edits: u64,
    renamed: BTreeSet<Uuid>,
    reopened: Vec<Duration>,
    at_work: u64,
    damages: u64,
    full_disks: u64,
    cut_lines: u64,
    logs: Vec<std::path::PathBuf>,
}

async fn torture(seed: u64, kills: u64, damage_odds: f64) {
    println!("seed {seed}, {kills} kills");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let stage = Stage::new(seed, 40).await;
    stage.overlay(RESTLESS);
    stage.simulator.with(|world| world.faults = FaultPlan::only(seed, &TROUBLE, 0.003));
    let mut tale = Tale::default();
    for round in 0..kills {
        people(&stage, &mut rng, &mut tale);
        live_and_die(&stage, &mut rng, &mut tale).await;
        if rng.random_bool(damage_odds) {
            let what = damage(&stage, &mut rng);
            tale.damages += 1;
            println!("kill {round}: {what}");
        }
        forget_old_logs(&mut tale, round);
    }
    tale.tell(&stage);
    calm(&stage).await;
    stage.judge();
    stage.clear_journal();
    let report = stage.json(&["once"], 0).await;
    assert_eq!(
        (stage.writes(Service::Portal), stage.writes(Service::Crm)),
        (vec![], vec![]),
        "seed {seed}: {report:#}"
    );
    let store = referrald::store::open(&stage.state(), 1 << 20).unwrap();
    let renamed = (tale.damages == 0).then_some(&tale.renamed);
    let differences = stage.simulator.with(|world| agreement(world, &store, renamed));
    assert_eq!(differences, Vec::<String>::new(), "seed {seed}: changes without a name were lost");
}

/// A few edits on both sides.
fn people(stage: &Stage, rng: &mut ChaCha8Rng, tale: &mut Tale) {
    for _ in 0..rng.random_range(2..6) {
        let edit = stage.simulator.with(|world| world.random_edit(rng));
        if edit.what == "a seller renamed the company of" {
            tale.renamed.insert(edit.subject);
        }
        tale.edits += 1;
    }
}

/// One life: killed while it opens the ledger, or after some more requests, or when its time is over.
async fn live_and_die(stage: &Stage, rng: &mut ChaCha8Rng, tale: &mut Tale) {
    let hardship = match rng.random::<f64>() {
        share if share < FULL_DISK_ODDS => Some(Hardship::FullDisk),
        share if share < FULL_DISK_ODDS + CUT_LINE_ODDS => {
            let services = [Service::Portal, Service::Crm, Service::Authority];
            Some(Hardship::CutLine(services[rng.random_range(0..services.len())]))
        }
        _ => None,
    };
    let began = Instant::now();
    let mut daemon = stage.start_with_limits();
    tale.logs.push(daemon.log.clone());
    if rng.random_bool(0.15) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
        daemon.kill();
        return;
    }
    daemon.until_up().await;
    tale.reopened.push(began.elapsed());
    // A start that finds intents reads first; a short life ends there, a longer one among writes or at rest.
    let counts = |world: &World| (world.journal.records().len(), world.journal.writes().count());
    let (requests, writes) = stage.simulator.with(|world| counts(world));
    let (requests_max, writes_max) = match rng.random_range(0..4) {
        0 => (requests + rng.random_range(1..25), usize::MAX),
        1 => (requests + rng.random_range(10..200), usize::MAX),
        _ => (usize::MAX, writes + rng.random_range(1..10)),
    };
    let meddles_at = requests + rng.random_range(1..30);
    let mut has_meddled = false;
    let mut daemon = Some(daemon);
    while began.elapsed() < LIFE_MAX {
        if !has_meddled && stage.simulator.with(|world| counts(world)).0 >= meddles_at {
            people(stage, rng, tale);
            has_meddled = true;
            match (hardship, &daemon) {
                (Some(Hardship::FullDisk), Some(daemon)) => {
                    daemon.fill_disk(true);
                    tale.full_disks += 1;
                }
                (Some(Hardship::CutLine(service)), _) => {
                    stage.simulator.set_line(service, Line::Cut);
                    tale.cut_lines += 1;
                }
                (_, _) => {}
            }
        }
        let is_over = stage.simulator.with(|world| {
            let (requests, writes) = counts(world);
            let is_over = requests >= requests_max || writes >= writes_max;
            if is_over && let Some(daemon) = daemon.take() {
                daemon.kill(); // While the world stands still, so in the middle of a request.
            }
            is_over
        });
        if is_over {
            tale.at_work += 1;
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if let Some(daemon) = daemon {
        daemon.kill();
    }
    if let Some(Hardship::CutLine(service)) = hardship {
        stage.simulator.set_line(service, Line::Open);
    }
}

/// What makes the end of a life harder.
#[derive(Clone, Copy)]
enum Hardship {
    /// No file takes a byte any more.
    FullDisk,
    /// A service is out of reach.
    CutLine(Service),
}

/// Does something to the state directory; says what.
fn damage(stage: &Stage, rng: &mut ChaCha8Rng) -> String {
    let ledger = stage.state().join("ledger");
    let change = |name: &str, change: &mut dyn FnMut(&mut Vec<u8>)| {
        let path = ledger.join(name);
        if let Ok(mut bytes) = std::fs::read(&path) {
            change(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
        }
    };
    match rng.random_range(0..7) {
        0 => {
            let _ = std::fs::remove_dir_all(&ledger);
            "the ledger was deleted".to_owned()
        }
        1 => {
            let share = rng.random_range(0.0..1.0);
            change("db", &mut |bytes| bytes.truncate((bytes.len() as f64 * share) as usize));
            format!("the ledger was cut to {:.0} %", share * 100.0)
        }
        2 => {
            let cut = rng.random_range(1..20_000);
            change("db", &mut |bytes| bytes.truncate(bytes.len().saturating_sub(cut)));
            format!("the last {cut} bytes of the ledger were cut off")
        }
        3 => {
            let count = rng.random_range(1..200);
            change("db", &mut |bytes| {
                for _ in 0..count {
                    let at = rng.random_range(0..bytes.len().max(1));
                    bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x5a);
                }
            });
            format!("{count} bytes of the ledger were changed")
        }
        4 => {
            change("conf", &mut Vec::clear);
            "the configuration of the ledger was emptied".to_owned()
        }
        5 => {
            let _ = std::fs::remove_file(stage.state().join("ledger-commit"));
            "the note beside the ledger was deleted".to_owned()
        }
        _ => {
            let _ = std::fs::remove_file(stage.state().join("keep/fingerprint.key"));
            "the fingerprint key was deleted".to_owned()
        }
    }
}

/// Trouble ends, and everything that waits gets its turn.
async fn calm(stage: &Stage) {
    stage.simulator.with(|world| world.faults.calm());
    // Another configuration, whatever it says, has everything read again: deleted leads are found by that alone.
    stage.overlay(&RESTLESS.replace("[status]", "[status]\ndeadline_warning = \"71h\""));
    for _ in 0..3 {
        stage.run(&["retry", "--all"]).await;
        stage.run(&["once"]).await;
        let status = stage.json(&["status"], 0).await;
        for brake in status["brakes"].as_array().unwrap() {
            if let Some(digest) = brake["digest"].as_str().filter(|digest| !digest.is_empty()) {
                println!("approved: {}", brake["reason"]);
                assert_eq!(stage.run(&["approve", digest]).await.code, 0);
            }
        }
    }
    for _ in 0..3 {
        stage.run(&["once"]).await;
    }
}

fn forget_old_logs(tale: &mut Tale, round: u64) {
    if tale.logs.len() > LOGS_KEPT {
        let old = tale.logs.remove(0);
        if !round.is_multiple_of(20) {
            let _ = std::fs::remove_file(old);
        }
    }
}

impl Tale {
    fn tell(&self, stage: &Stage) {
        let mut times = self.reopened.clone();
        times.sort();
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).or(times.last()).copied();
        let (writes, referrals, leads, created) = stage.simulator.with(|world| {
            let is_ours = |event: &&Event| matches!(event, Event::LeadCreated { by: Actor::Client, .. });
            let created = world.journal.events().iter().filter(is_ours).count();
            (world.journal.writes().count(), world.portal.len(), world.crm.lead_ids().len(), created)
        });
        println!(
            "{} edits, {} of the kills in the middle of a request, {} damages, {} full disks, {} cut lines; {referrals} referrals, {leads} leads, {created} made by \
             the daemon, {writes} writes; start to socket: median {:?}, 95 % {:?}, longest {:?}; faults {:?}",
            self.edits,
            self.at_work,
            self.damages,
            self.full_disks,
            self.cut_lines,
            at(0.5).unwrap_or_default(),
            at(0.95).unwrap_or_default(),
            times.last().copied().unwrap_or_default(),
            stage.simulator.with(|world| world.faults.played().clone()),
        );
    }
}
