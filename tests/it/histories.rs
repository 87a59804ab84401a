//! Seeded histories: the real cycle among people who edit both sides, through faults, restarts and lost ledgers.
//!
//! Every day lives others: 2,000 of 100,000. What can be set:
//!
//! - `REFERRALD_HISTORIES=n` runs so many seeds, from 0 or from `REFERRALD_HISTORY_FROM=n` on.
//! - `REFERRALD_HISTORY_SEED=n` replays one with its full log.
//! - With `REFERRALD_HISTORY_ALL=1` every request is in the log, with `REFERRALD_HISTORY_REFERRAL=id` what is remembered of that
//!   referral, and with `REFERRALD_HISTORY_SHRINK=1` the history is first made as small as it can be and still fail.

mod discretion;
mod frail;
pub mod judge;
mod life;
mod planted;
mod promises;
mod script;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use life::History;
use planted::Plant;
use referrald::ports::ActionKind;
use referrald::sim::faults::CLASSES;
use script::{Ending, Script};

/// Seeds of one test run; about three minutes on two cores.
const SEEDS: u64 = 2_000;

/// Days after which the same seeds come again: 100,000 of them in all.
const DAYS: u64 = 50;

/// Seeds from one word of progress to the next, so that a run that is stopped has told something.
const PROGRESS_STEP: u64 = 1_000;

/// Failures printed in full; more of them say little that is new.
const FAILURES_MAX: usize = 12;

/// Lines printed of one failure.
const LINES_MAX: usize = 8;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Lives one history on a runtime of its own.
fn live(script: Script) -> History {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(life::live(script))
}

/// As [`live`], but a panic is a failure of that seed and not the end of all others.
fn outlive(script: Script) -> History {
    std::panic::catch_unwind(|| live(script)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        History { found: vec![format!("panicked: {text}")], ..History::default() }
    })
}

/// The first seed of the day, so that a run each day lives through all of them.
fn first_of_today() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_secs() / 86_400 % DAYS * SEEDS
}

fn replay(seed: u64) -> String {
    format!("REFERRALD_HISTORY_SEED={seed} cargo test --test it histories::every_promise -- --nocapture")
}

#[test]
fn every_promise_is_kept_in_every_history() {
    if let Some(seed) = number("REFERRALD_HISTORY_SEED") {
        let script = match number("REFERRALD_HISTORY_SHRINK") {
            Some(_) => shrunk(Script::new(seed)),
            None => Script::new(seed),
        };
        println!("{script:#?}");
        let history = live(Script { is_told: true, ..script });
        history.log.iter().for_each(|line| println!("{line}"));
        assert!(history.found.is_empty(), "seed {seed}:\n{}\n{}", history.found.join("\n"), replay(seed));
        return;
    }
    let seeds = number("REFERRALD_HISTORIES");
    let from = number("REFERRALD_HISTORY_FROM").unwrap_or_else(|| seeds.map_or_else(first_of_today, |_| 0));
    let seeds = seeds.unwrap_or(SEEDS);
    println!("{seeds} histories from {from}");
    let (next, failures) = (AtomicU64::new(from), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    let history = outlive(Script::new(seed));
                    let mut failures = failures.lock().unwrap();
                    if !history.found.is_empty() {
                        println!("seed {seed} fails: {}", history.found[0]);
                        failures.push((seed, history.found));
                    }
                    let count = seed + 1 - from;
                    if count.is_multiple_of(PROGRESS_STEP) {
                        println!("{count} histories begun, {} failed", failures.len());
                    }
                }
            });
        }
    });
    let took = began.elapsed().as_secs_f64();
    println!("{seeds} histories from {from} in {took:.1} s, {:.1} s per 1,000", took * 1000.0 / seeds as f64);
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    let shown: Vec<String> = failures
        .iter()
        .take(FAILURES_MAX)
        .map(|(seed, found)| {
            format!(
                "seed {seed}: {}\n  {}",
                replay(*seed),
                found.iter().take(LINES_MAX).cloned().collect::<Vec<_>>().join("\n  ")
            )
        })
        .collect();
    assert!(failures.is_empty(), "{} of {seeds} histories failed:\n{}", failures.len(), shown.join("\n"));
}

#[test]
fn the_same_seed_writes_the_same_log() {
    let live = |seed| live(Script { is_told: true, ..Script::new(seed) });
    for seed in [3, 4, 7, 8, 9] {
        let (one, two) = (live(seed), live(seed));
        assert!(one.log.len() > 200, "seed {seed} has a log");
        assert_eq!(one.log, two.log, "seed {seed}");
    }
    assert_ne!(live(3).log, live(4).log);
}

/// Lives of a failing history that are tried to make it smaller.
const SHRINKS_MAX: usize = 200;

/// The same failing history with less trouble, fewer upheavals and fewer edits, as long as something is still found.
fn shrunk(mut script: Script) -> Script {
    let mut lives = 0;
    let mut part = 2;
    while part <= 64 {
        let smaller = smaller(&script, part).into_iter().find(|candidate| {
            lives += 1;
            lives <= SHRINKS_MAX && !outlive(candidate.clone()).found.is_empty()
        });
        match smaller {
            Some(smaller) => script = smaller,
            None => part *= 2,
        }
    }
    script
}

/// Histories with one thing less; edits go in so many parts.
fn smaller(script: &Script, parts: u64) -> Vec<Script> {
    let mut found = Vec::new();
    let mut without = |change: &dyn Fn(&mut Script)| {
        let mut candidate = script.clone();
        change(&mut candidate);
        found.push(candidate);
    };
    (0..script.faults.len()).for_each(|at| {
        without(&|script| {
            script.faults.remove(at);
        })
    });
    (0..script.restarts.len()).for_each(|at| {
        without(&|script| {
            script.restarts.remove(at);
        })
    });
    (0..script.full_disks.len()).for_each(|at| {
        without(&|script| {
            script.full_disks.remove(at);
        })
    });
    if script.schema_change.is_some() {
        without(&|script| script.schema_change = None);
    }
    let length = life::EDITS.div_ceil(parts);
    for from in (0..parts).map(|part| part * length) {
        if !script.muted.iter().any(|muted| muted.contains(&from) && muted.contains(&(from + length - 1))) {
            without(&|script| script.muted.push(from..from + length));
        }
    }
    found
}

/// Every promise, a defect that breaks it, and what the judge says then.
const PLANTED: [(Plant, &str); 18] = [
    (Plant::RandomLeadIds, "P1:"),
    (Plant::FindsNothing, "P1:"),
    (Plant::OverlooksReferral, "is not known"),
    (Plant::SwallowsPatches, "does not know its lead"),
    (Plant::DoublesUpdates, "P3:"),
    (Plant::DoublesPatches, "P3:"),
    (Plant::ClosesWhatVanished, "P4:"),
    (Plant::ClosesEarly, "P4:"),
    (Plant::NeverReadsFresh, "P5:"),
    (Plant::MatchesAnything, "without a condition"),
    (Plant::DropsConditions, "without a condition"),
    (Plant::WritesUnmapped, "revenue"),
    (Plant::OverwritesSellers, "P6:"),
    (Plant::NeverComesBack, "a side is down"),
    (Plant::TrustsReferrals, "P6:"),
    (Plant::TellsNames, "P9:"),
    (Plant::IgnoresRetryAfter, "Retry-After"),
    (Plant::RacesItself, "P10:"),
];

/// Seeds in which a planted defect must be found.
const PLANTED_SEEDS: u64 = 1_000;

#[test]
fn every_planted_defect_is_found() {
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((plant, words)) = PLANTED.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let is_found = |seed: &u64| {
                        let history = outlive(Script { plant: Some(*plant), ..Script::new(*seed) });
                        history.found.iter().any(|line| line.contains(words))
                    };
                    match (0..PLANTED_SEEDS).find(is_found) {
                        Some(seed) => println!("{plant:?} is found by seed {seed}"),
                        None => missed.lock().unwrap().push(*plant),
                    }
                }
            });
        }
    });
    assert!(missed.lock().unwrap().is_empty(), "never found: {missed:?}");
}

/// Rounds of a history of which each cycle is cut short at each of its steps.
const ENUMERATED_ROUNDS: usize = 6;

/// Referrals at the beginning of such a history.
const ENUMERATED_REFERRALS: usize = 5;

/// Steps of the cycle after it within which that one is cut short as well, one of them for each step of the first.
const ENUMERATED_SECOND: u32 = 29;

/// What must have been among the cycles that are cut short.
const ENUMERATED_KINDS: [ActionKind; 5] =
    [ActionKind::Create, ActionKind::Update, ActionKind::WriteBack, ActionKind::Accept, ActionKind::Close];

/// Where seeds hit some steps of large cycles, this hits every step of each cycle of a small history, the first import among
/// them: before and after each write to the ledger and to a service, and before each read. And once more with a second end in
/// the cycle that makes up for the first.
///
/// The history is the first of today's, or from `REFERRALD_HISTORY_FROM=n` on, that does all of [`ENUMERATED_KINDS`].
#[test]
fn a_process_that_ends_at_any_step_of_a_cycle_keeps_every_promise() {
    let script = |seed, restarts| Script {
        referrals: ENUMERATED_REFERRALS,
        rounds: ENUMERATED_ROUNDS,
        restarts,
        is_sled: false,
        ..Script::new(seed).undisturbed()
    };
    let does_all = |seed: &u64| {
        let history = outlive(script(*seed, Vec::new()));
        assert!(history.found.is_empty(), "seed {seed}, nothing cut short:\n{}", history.found.join("\n"));
        ENUMERATED_KINDS.iter().all(|kind| history.kinds.contains(kind))
    };
    let from = number("REFERRALD_HISTORY_FROM").unwrap_or_else(first_of_today);
    let seed = (from..from + SEEDS).find(does_all).expect("one of a day's histories does everything");
    println!("seed {seed}");
    let endings: [fn(u32) -> Ending; 2] = [Ending::Crash, Ending::Loss];
    let rounds = (0..ENUMERATED_ROUNDS).flat_map(|round| endings.map(|ending| (round, ending)));
    let (next, cut, kinds) = (Mutex::new(rounds), AtomicUsize::new(0), Mutex::new(std::collections::BTreeSet::new()));
    let outlive = |restarts: Vec<(usize, Ending)>| {
        let history = outlive(script(seed, restarts.clone()));
        assert!(history.found.is_empty(), "seed {seed}, {restarts:?}:\n{}", history.found.join("\n"));
        cut.fetch_add(history.cut_short, Ordering::Relaxed);
        history
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some((round, ending)) = next.lock().unwrap().next() else { return };
                    let mut step = 0;
                    loop {
                        let history = outlive(vec![(round, ending(step))]);
                        if history.cut_short == 0 {
                            kinds.lock().unwrap().extend(history.kinds);
                            break;
                        }
                        let second = Ending::Crash(step * 11 % ENUMERATED_SECOND);
                        outlive(vec![(round, ending(step)), (round, second)]);
                        step += 1;
                    }
                    assert!(step > 0, "round {round}: the cycle has no step");
                }
            });
        }
    });
    let (cut, kinds) = (cut.into_inner(), kinds.into_inner().unwrap());
    println!("{cut} cycles were cut short; they did {kinds:?}");
    let missing: Vec<_> = ENUMERATED_KINDS.iter().filter(|kind| !kinds.contains(kind)).collect();
    assert!(missing.is_empty(), "never cut short: {missing:?}");
}

#[test]
fn every_kind_of_trouble_comes_about() {
    let mut played = std::collections::BTreeSet::new();
    for seed in 0..SEEDS {
        played.extend(live(Script::new(seed)).played.into_keys());
        if played.len() == CLASSES.len() {
            return;
        }
    }
    panic!("only {played:?}");
}

#[test]
fn a_history_has_what_a_history_must_have() {
    for seed in 0..8 {
        let history = live(Script::new(seed));
        assert!(history.referrals >= 20, "seed {seed}: {} referrals", history.referrals);
        assert!(history.edits >= 200, "seed {seed}: {} edits", history.edits);
        assert!(history.fault_classes >= 4, "seed {seed}: {} fault classes", history.fault_classes);
        assert!(history.restarts >= 1, "seed {seed}: no restart");
        assert_eq!(history.has_lost_ledger, seed % 2 == 0, "seed {seed}");
    }
}
