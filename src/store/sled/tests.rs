//! What only a ledger on disk can suffer: restarts, crashes, damage, a second process, a full disk.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::bucket::{self, BUCKET_ENTRIES_MAX};
use super::codec::{self, Failure};
use super::entry::{self, ENTRY_BYTES, ENTRY_BYTES_MAX, Shapes};
use super::ledger::Name;
use super::verify::verify;
use super::{SHORTENED_FROM, SledStore};
use crate::model::{Entry, ReferralId, ReferralStatus};
use crate::ports::{Batch, HistoryLine, Memo, Opening, StateStore, StoreError};
use crate::store::contract::{
    action, assert_agrees, entry, full_entry, full_memo, linked, random_batch, referral, seconds, trouble,
};
use crate::store::lock;

const CACHE_BYTES: u64 = 1 << 20;

fn open(directory: &Path) -> SledStore {
    SledStore::open(directory, CACHE_BYTES, None).unwrap()
}

/// Stops as the daemon does.
async fn stop(store: SledStore) {
    let memo = Memo { is_stopped_cleanly: true, ..store.memo().unwrap() };
    store.record(Batch { memo: Some(memo), ..Batch::default() }).await.unwrap();
    store.shutdown().unwrap();
}

async fn fill(store: &SledStore, count: u128) {
    for first in (0..count).step_by(100) {
        let entries = (first..count.min(first + 100)).map(|number| (spread(number), Some(filled(number))));
        store.record(Batch { entries: entries.collect(), ..Batch::default() }).await.unwrap();
    }
}

fn filled(number: u128) -> Entry {
    let link = linked(number).link;
    let is_unanswered = number.is_multiple_of(20);
    let look_at = is_unanswered.then(|| seconds(number as i64));
    let referral_status = if is_unanswered { ReferralStatus::New } else { ReferralStatus::Active };
    let referral_updated = Some(seconds(number as i64));
    Entry { link, look_at, referral_status, referral_updated, ..full_entry(10) }
}

/// Ids that lie in the key space as random ones do.
fn spread(number: u128) -> ReferralId {
    referral(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

fn expected(count: u128) -> BTreeMap<ReferralId, Entry> {
    (0..count).map(|number| (spread(number), filled(number))).collect()
}

fn all(store: &SledStore) -> BTreeMap<ReferralId, Entry> {
    store.scan(None, usize::MAX).unwrap().into_iter().collect()
}

#[tokio::test]
async fn an_orderly_stop_keeps_everything_and_is_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    assert_eq!(store.opening(), Opening::Fresh);
    let key = store.fingerprint_key();
    fill(&store, 300).await;
    let commit = store.intend(vec![action(1), action(2)]).await.unwrap();
    let line = HistoryLine {
        referral: referral(1),
        at: seconds(1),
        kind: crate::ports::ActionKind::Close,
        outcome: "done".to_owned(),
    };
    let batch = Batch { memo: Some(full_memo()), history: vec![line.clone()], ..Batch::default() };
    store.record(batch).await.unwrap();
    let counters = store.counters().unwrap();
    stop(store).await;

    let store = open(directory.path());
    assert_eq!(store.opening(), Opening::Clean);
    assert_eq!(store.fingerprint_key(), key);
    assert_eq!(all(&store), expected(300));
    assert_eq!(store.counters().unwrap(), counters);
    assert_eq!(store.memo().unwrap(), full_memo(), "the mark of the stop is taken back");
    assert_eq!(store.history(referral(1)).unwrap(), [line]);
    let intents = store.intents().unwrap();
    assert_eq!((intents.len(), intents[0].commit, &intents[0].actions[..]), (1, commit, &[action(1), action(2)][..]));
    assert!(store.intend(vec![]).await.unwrap() > commit);
}

#[tokio::test]
async fn random_batches_and_restarts_leave_what_a_plain_map_leaves() {
    let seed = 411;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut model = BTreeMap::new();
    for session in 0..8 {
        let store = open(directory.path());
        assert_agrees(&store, &model, &format!("seed {seed}, session {session}"));
        for _ in 0..30 {
            let batch = random_batch(&mut random);
            for (id, entry) in &batch.entries {
                match entry {
                    Some(entry) => model.insert(*id, entry.clone()),
                    None => model.remove(id),
                };
            }
            store.record(batch).await.unwrap();
        }
        if random.random() {
            stop(store).await;
        }
    }
}

#[tokio::test]
async fn a_stop_without_the_mark_is_unclean_and_asks_for_a_sweep() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, 10).await;
    store.record(Batch { memo: Some(Memo::default()), ..Batch::default() }).await.unwrap();
    drop(store);
    let store = open(directory.path());
    assert_eq!(store.opening(), Opening::Unclean);
    assert_eq!(store.memo().unwrap(), Memo { is_sweep_due: true, ..Memo::default() });
    assert_eq!(all(&store), expected(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_from_many_tasks_are_all_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(open(directory.path()));
    let tasks = (0..40u128).map(|number| {
        let store = std::sync::Arc::clone(&store);
        tokio::spawn(async move {
            let commit = store.intend(vec![action(number)]).await.unwrap();
            let entries = vec![(spread(number), Some(filled(number)))];
            let settled = vec![(commit, referral(number))];
            store.record(Batch { entries, settled, ..Batch::default() }).await.unwrap();
            commit
        })
    });
    let mut commits = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        commits.push(task.await.unwrap());
    }
    commits.sort_unstable();
    commits.dedup();
    assert_eq!(commits.len(), 40, "every intent has a number of its own");
    drop(store);
    let store = open(directory.path());
    assert_eq!((all(&store), store.intents().unwrap()), (expected(40), vec![]));
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let refused = SledStore::open(directory.path(), CACHE_BYTES, None).err().unwrap();
    let pid = Some(std::process::id());
    assert_eq!(refused, StoreError::Locked { directory: directory.path().to_owned(), pid });
    drop(store);
    open(directory.path());
}

#[tokio::test]
async fn a_ledger_that_somebody_else_has_open_is_locked_too() {
    let directory = tempfile::tempdir().unwrap();
    stop(open(directory.path())).await;
    let other = ::sled::open(directory.path().join("ledger")).unwrap();
    let refused = SledStore::open(directory.path(), CACHE_BYTES, None).err().unwrap();
    assert_eq!(refused, StoreError::Locked { directory: directory.path().to_owned(), pid: None });
    drop(other);
    assert_eq!(open(directory.path()).opening(), Opening::Clean);
}

#[tokio::test]
async fn everything_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("new").join("state");
    let store = open(&state);
    fill(&store, 1).await;
    let mode = |name: &str| fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("ledger"), mode("keep")), (0o700, 0o700, 0o700));
    assert_eq!((mode("lock"), mode("ledger-commit")), (0o600, 0o600));
}

#[tokio::test]
async fn a_newer_ledger_is_refused_by_name_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    stop(open(directory.path())).await;
    let newer = |_| StoreError::Newer {
        directory: directory.path().to_owned(),
        found: codec::FORMAT + 1,
        known: codec::FORMAT,
    };
    let db = ::sled::open(directory.path().join("ledger")).unwrap();
    db.open_tree("meta").unwrap().insert("format", &(codec::FORMAT + 1).to_be_bytes()).unwrap();
    drop(db);
    let refused = SledStore::open(directory.path(), CACHE_BYTES, None).err();
    assert_eq!(refused, Some(newer("by the ledger")));
    fs::write(directory.path().join("ledger").join("conf"), "another sled").unwrap();
    let (side, _) = super::side::SideFile::open(directory.path()).unwrap();
    side.write(super::side::Note { format: codec::FORMAT + 1, commit: 9 }).unwrap();
    let refused = SledStore::open(directory.path(), CACHE_BYTES, None).err();
    assert_eq!(refused, Some(newer("by the note beside it, before sled looks")));
    assert_eq!(moved_aside(directory.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn records_missing_at_the_end_are_noticed_even_after_an_orderly_stop() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, 10).await;
    let commit = store.intend(vec![]).await.unwrap();
    stop(store).await;
    let (side, note) = super::side::SideFile::open(directory.path()).unwrap();
    let found = note.unwrap().commit;
    assert!(found > commit);
    side.write(super::side::Note { format: 1, commit: found + 5 }).unwrap();
    let store = open(directory.path());
    assert_eq!(store.opening(), Opening::TailLost { expected: found + 5, found });
    assert!(store.memo().unwrap().is_sweep_due);
    assert!(store.intend(vec![]).await.unwrap() > found + 5, "a number is never given twice");
    stop(store).await;
    assert_eq!(open(directory.path()).opening(), Opening::Clean, "told once");
}

#[tokio::test]
async fn a_deleted_ledger_is_a_lost_tail() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, 10).await;
    stop(store).await;
    fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let store = open(directory.path());
    assert!(matches!(store.opening(), Opening::TailLost { found: 0, .. }), "{:?}", store.opening());
    assert!(store.memo().unwrap().is_sweep_due);
    assert_eq!(all(&store), BTreeMap::new());
}

#[tokio::test]
async fn a_ledger_deleted_while_running_is_noticed_by_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, 10).await;
    fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    fill(&store, 20).await;
    drop(store);
    let store = open(directory.path());
    assert!(matches!(store.opening(), Opening::TailLost { found: 0, .. }), "{:?}", store.opening());
}

#[tokio::test]
async fn another_fingerprint_key_makes_the_ledger_start_anew() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, 10).await;
    stop(store).await;
    fs::remove_dir_all(directory.path().join("keep")).unwrap();
    let store = open(directory.path());
    assert!(matches!(store.opening(), Opening::MovedAside { .. }), "{:?}", store.opening());
    assert_eq!(all(&store), BTreeMap::new());
}

#[tokio::test]
async fn something_else_in_the_place_of_the_ledger_is_moved_aside() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("ledger"), "a shopping list").unwrap();
    let store = open(directory.path());
    let Opening::MovedAside { to, reason } = store.opening() else { panic!("{:?}", store.opening()) };
    assert_eq!(fs::read(&to).unwrap(), b"a shopping list", "{reason}");
    drop(store);

    fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    fs::create_dir_all(directory.path().join("ledger").join("db")).unwrap();
    let store = open(directory.path());
    assert!(matches!(store.opening(), Opening::MovedAside { .. }), "{:?}", store.opening());
    fill(&store, 10).await;
    assert_eq!(all(&store), expected(10));
    assert_eq!(moved_aside(directory.path()).len(), 2);
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for state in [file.clone(), file.join("state"), PathBuf::from("/proc/referrald")] {
        let StoreError::Failed { reason } = SledStore::open(&state, CACHE_BYTES, None).err().unwrap() else {
            panic!("another error for {}", state.display())
        };
        assert!(reason.contains(&state.display().to_string()), "{reason}");
        assert!(reason.contains("belongs to the user that runs referrald"), "{reason}");
    }
}

#[tokio::test]
async fn a_value_damaged_under_sled_is_an_error_and_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, 10).await;
    store
        .inner
        .with(|ledger| {
            let entries = ledger.tree(Name::Entries);
            let (key, bytes) = bucket::find(entries, spread(3))?.unwrap();
            let sealed = bucket::items(&bytes).map(Result::unwrap).find(|(id, _)| *id == spread(3)).unwrap().1;
            let at = sealed.as_ptr() as usize - bytes.as_ptr() as usize;
            let mut damaged = bytes.to_vec();
            damaged[at + sealed.len() - 1] ^= 1;
            entries.insert(key, damaged).unwrap();
            Ok(())
        })
        .unwrap();
    let error = store.get(spread(3)).unwrap_err().to_string();
    assert!(error.contains("wrong checksum") && error.contains("the next cycle moves it aside"), "{error}");
    assert_eq!(store.get(spread(4)), Ok(Some(filled(4))), "the others can still be read");
    assert!(store.record(Batch { entries: vec![(spread(3), None)], ..Batch::default() }).await.is_err());
    stop(store).await;
    let store = open(directory.path());
    let Opening::MovedAside { reason, .. } = store.opening() else { panic!("{:?}", store.opening()) };
    assert!(reason.contains("wrong checksum"), "{reason}");
    drop(store);
    assert_eq!(open(directory.path()).opening(), Opening::Unclean, "told once");
}

#[tokio::test]
async fn damage_found_while_running_is_mended_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, 10).await;
    assert_eq!(store.mend().await, Ok(false), "nothing is damaged");
    let damage = |ledger: &super::ledger::Ledger| {
        ledger.tree(Name::Entries).insert([0xff; 16], b"no bucket").unwrap();
        Ok(())
    };
    store.inner.with(damage).unwrap();
    assert!(store.scan(None, 100).is_err());
    assert!(store.check().await.unwrap().damage.is_some());
    let commit = store.intend(vec![]).await.unwrap_or_default();
    assert_eq!(store.mend().await, Ok(true));
    assert!(matches!(store.opening(), Opening::MovedAside { .. }), "{:?}", store.opening());
    assert_eq!((all(&store), moved_aside(directory.path()).len()), (BTreeMap::new(), 1));
    assert!(store.memo().unwrap().is_sweep_due && store.memo().unwrap().lead_reading == Some(None));
    assert!(store.intend(vec![]).await.unwrap() > commit, "a number is never given twice");
    fill(&store, 5).await;
    assert_eq!(store.mend().await, Ok(false), "mended once");
    stop(store).await;
    assert_eq!(open(directory.path()).opening(), Opening::Clean, "and the next start finds nothing");
}

#[tokio::test]
async fn a_cycle_after_damage_rebuilds_the_ledger_in_the_same_process() {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use crate::cycle::Budget;
    use crate::daemon::{Engine, Reconciler};
    use crate::sim::{DirectCrm, DirectCrmSettings, DirectPortal, SimClock, World};

    let directory = tempfile::tempdir().unwrap();
    let clock = SimClock::paused(seconds(1_795_000_000));
    let mut world = World::new(3, clock.clone(), Default::default());
    world.populate(3, 20);
    let world = Arc::new(Mutex::new(world));
    let store = Arc::new(open(directory.path()));
    let mut settings = crate::config::Settings::defaults();
    settings.writes = crate::plan::settings::Writes::Both;
    let ports = crate::ports::Ports {
        portal: Arc::new(DirectPortal::new(world.clone())),
        crm: Arc::new(DirectCrm::new(world.clone(), DirectCrmSettings::default())),
        store: store.clone(),
        clock: Arc::new(clock.clone()),
    };
    let engine = Reconciler::new(ports, settings, Vec::new(), None);
    let stop = tokio_util::sync::CancellationToken::new();
    let cycles = async |count: usize| {
        let mut failures = 0;
        for _ in 0..count {
            failures += usize::from(engine.cycle(Budget::Unlimited, &stop).await.is_err());
            clock.advance(Duration::from_secs(61));
        }
        failures
    };
    assert_eq!(cycles(3).await, 0);
    let entries = all(&store).len();
    let writes = || world.lock().unwrap().journal.writes().count();
    let before = writes();
    store
        .inner
        .with(|ledger| {
            ledger.tree(Name::Entries).insert([0xff; 16], b"no bucket").unwrap();
            Ok(())
        })
        .unwrap();
    assert!(store.scan(None, 1000).is_err());
    assert_eq!(cycles(3).await, 0);
    assert_eq!((all(&store).len(), writes()), (entries, before), "rebuilt, and nothing had to be written");
    assert!(matches!(store.opening(), Opening::MovedAside { .. }));
    assert!(engine.status().await.unwrap().opening.unwrap().contains("moved"));
}

#[tokio::test]
async fn a_ledger_that_breaks_again_and_again_counts_as_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for _ in 0..2 {
        let broken = store.inner.with(|_| -> Result<(), Failure> { panic!("a page that is no page") });
        assert!(broken.is_err());
        assert_eq!(store.inner.with(|_| Ok(())).is_ok(), lock(&store.inner.damage).is_none());
    }
    assert_eq!(store.mend().await, Ok(true));
    fill(&store, 3).await;
}

#[tokio::test]
async fn yesterdays_ledger_is_recognised_and_only_recalled() {
    for is_note_put_back in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        fill(&store, 40).await;
        store.intend(vec![action(1)]).await.unwrap();
        stop(store).await;
        let yesterday = copied(directory.path());
        let store = open(directory.path());
        fill(&store, 60).await;
        stop(store).await;
        fs::remove_dir_all(directory.path().join("ledger")).unwrap();
        fs::rename(yesterday.path().join("ledger"), directory.path().join("ledger")).unwrap();
        if is_note_put_back {
            fs::copy(yesterday.path().join("ledger-commit"), directory.path().join("ledger-commit")).unwrap();
        }
        let store = open(directory.path());
        assert!(matches!(store.opening(), Opening::TailLost { found, .. } if found > 0), "{:?}", store.opening());
        assert_eq!(recalled(all(&store)), recalled(expected(40)));
        assert!(all(&store).values().all(|entry| entry.outcome.is_none() && entry.trouble.is_none()));
        assert_eq!(store.intents().unwrap(), [], "what came of them is not known any more");
        let memo = store.memo().unwrap();
        assert!(memo.is_sweep_due && memo.lead_reading == Some(None));
        drop(store);
        // Whoever opened it first, the next one still reads everything.
        let memo = open(directory.path()).memo().unwrap();
        assert!(memo.is_sweep_due && memo.lead_reading == Some(None));
    }
}

#[tokio::test]
async fn the_mark_in_keep_follows_a_process_that_never_stops() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut commit = 0;
    for _ in 0..super::side::MARK_EVERY + 10 {
        commit = store.intend(vec![]).await.unwrap();
    }
    let mark = super::side::read_mark(directory.path());
    assert!(mark <= commit && mark + super::side::MARK_EVERY > commit, "{mark} of {commit}");
    stop(store).await;
    assert!(super::side::read_mark(directory.path()) > commit);
}

#[tokio::test]
async fn entries_and_index_lines_that_vanished_are_noticed() {
    let nobody = referral(0);
    for (tree, prefix) in [
        ("entries", spread(3)),
        ("leads", referral(3)),
        ("due", nobody),
        ("newest", nobody),
        ("deadlines", nobody),
        ("intents", nobody),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        fill(&store, 10).await;
        store.intend(vec![action(1)]).await.unwrap();
        stop(store).await;
        let db = ::sled::open(directory.path().join("ledger")).unwrap();
        let lines = db.open_tree(tree).unwrap();
        let key = lines.scan_prefix(prefix.uuid().as_bytes()).keys().chain(lines.iter().keys()).next();
        lines.remove(key.unwrap().unwrap()).unwrap();
        drop((lines, db));
        let store = open(directory.path());
        assert!(matches!(store.opening(), Opening::MovedAside { .. }), "{tree}: {:?}", store.opening());
    }
}

#[tokio::test]
async fn of_a_ledger_over_the_limit_only_so_many_entries_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let entries = (0..10).map(|number| (referral(number), Some(filled(number)))).collect();
    store.record(Batch { entries, ..Batch::default() }).await.unwrap();
    let checked = store.inner.with(|ledger| {
        let entries = ledger.tree(Name::Entries);
        let (key, bytes) = bucket::find(entries, referral(9))?.unwrap();
        let mut damaged = bytes.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        entries.insert(key, damaged).unwrap();
        Ok([5, 9, 10, 11].map(|entries_max| verify(ledger, entries_max).is_ok()))
    });
    assert_eq!(checked.unwrap(), [true, true, false, false]);
}

/// The heart of "disposable memory": whatever bit flips, what opens is whole, or says that it is not.
#[tokio::test]
async fn a_flipped_bit_is_survived_wherever_it_is() {
    let seed = 40;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for count in [200, 2000] {
        let whole = stopped(count).await;
        let used = used_bytes(&whole.path().join("ledger").join("db"));
        let mut tally = BTreeMap::new();
        for round in 0..20 {
            let (position, bit) = (random.random_range(0..used), random.random_range(0..8));
            let damage = |db: &fs::File| {
                let mut byte = [0];
                db.read_exact_at(&mut byte, position).unwrap();
                db.write_all_at(&[byte[0] ^ (1 << bit)], position).unwrap();
            };
            let when = format!("seed {seed}, {count} entries, round {round}, byte {position} of {used}");
            *tally.entry(survive(whole.path(), count, damage, &when).await).or_insert(0) += 1;
        }
        println!("{count} entries: {tally:?} of 20 flipped bits in {used} bytes");
    }
}

#[tokio::test]
async fn a_cut_file_is_survived_wherever_it_ends() {
    let seed = 41;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for count in [200, 2000] {
        let whole = stopped(count).await;
        let used = used_bytes(&whole.path().join("ledger").join("db"));
        let mut tally = BTreeMap::new();
        for round in 0..10 {
            let length = if round < 5 { used - random.random_range(1..4096) } else { random.random_range(0..used) };
            let when = format!("seed {seed}, {count} entries, round {round}, {length} of {used} bytes");
            let cut = |db: &fs::File| db.set_len(length).unwrap();
            *tally.entry(survive(whole.path(), count, cut, &when).await).or_insert(0) += 1;
        }
        println!("{count} entries: {tally:?} of 10 cuts in {used} bytes");
    }
}

/// Without this the two tests above would pass for a store that always starts anew.
#[tokio::test]
async fn after_a_session_that_wrote_much_the_next_start_has_little_to_read() {
    let state = tempfile::tempdir().unwrap();
    let noted = || {
        let names = fs::read_dir(state.path().join("ledger")).unwrap().map(|item| item.unwrap().file_name());
        let places = names.filter_map(|name| u64::from_str_radix(name.to_str()?.strip_prefix("snap.")?, 16).ok());
        places.max().unwrap_or(0)
    };
    for _ in 0..2 {
        let store = open(state.path());
        let before = noted();
        for _ in 0..20 {
            store.record(Batch { memo: Some(full_memo()), ..Batch::default() }).await.unwrap();
        }
        stop(store).await;
        assert_eq!(noted(), before, "a short session ends at once");
    }
    let store = open(state.path());
    let before = noted();
    let mut memo = full_memo();
    for cycle in 0..2 * SHORTENED_FROM / 60_000 {
        // What has not changed sled does not write again.
        memo = Memo { cycles: cycle, last_report: Some((seconds(1), format!("{cycle:060000}"))), ..memo };
        store.record(Batch { memo: Some(memo.clone()), ..Batch::default() }).await.unwrap();
    }
    memo.is_stopped_cleanly = true;
    store.record(Batch { memo: Some(memo.clone()), ..Batch::default() }).await.unwrap();
    drop(store);
    assert!(noted() >= before + SHORTENED_FROM, "sled noted where its pages are: {before} and {}", noted());
    let store = open(state.path());
    assert_eq!(store.opening(), Opening::Clean);
    assert_eq!(store.memo().unwrap(), Memo { is_stopped_cleanly: false, ..memo });
}

#[tokio::test]
async fn an_undamaged_copy_opens_clean() {
    let whole = stopped(2000).await;
    assert_eq!(survive(whole.path(), 2000, |_| (), "undamaged").await, "intact");
}

/// A ledger after some sessions and an orderly stop.
async fn stopped(count: u128) -> tempfile::TempDir {
    let whole = tempfile::tempdir().unwrap();
    for part in 1..=4 {
        let store = open(whole.path());
        fill(&store, count * part / 4).await;
        stop(store).await;
    }
    whole
}

#[tokio::test]
async fn a_damaged_conf_file_is_survived() {
    let whole = stopped(200).await;
    for content in ["", "nonsense that is long enough to be read"] {
        let copy = copied(whole.path());
        fs::write(copy.path().join("ledger").join("conf"), content).unwrap();
        check_survivor(&open(copy.path()), 200, content).await;
    }
}

/// Opens a damaged copy of a ledger; what opens is intact or says so, and works.
async fn survive(whole: &Path, count: u128, damage: impl FnOnce(&fs::File), when: &str) -> &'static str {
    let copy = copied(whole);
    let db = copy.path().join("ledger").join("db");
    damage(&OpenOptions::new().read(true).write(true).open(db).unwrap());
    let store = open(copy.path());
    check_survivor(&store, count, when).await
}

/// The entries of a ledger that is older than what was done since.
fn recalled(entries: BTreeMap<ReferralId, Entry>) -> BTreeMap<ReferralId, Entry> {
    entries.into_iter().map(|(id, entry)| (id, entry.recalled(seconds(1)))).collect()
}

async fn check_survivor(store: &SledStore, count: u128, when: &str) -> &'static str {
    let found = match store.opening() {
        Opening::Clean | Opening::Unclean => {
            assert_eq!(all(store), expected(count), "{when}: silently lost");
            "intact"
        }
        Opening::TailLost { .. } => {
            let whole = recalled(expected(count));
            let found = recalled(all(store));
            assert!(found.iter().all(|(id, entry)| whole.get(id) == Some(entry)), "{when}: not what was written");
            "tail lost"
        }
        Opening::MovedAside { .. } => {
            assert_eq!(all(store), BTreeMap::new(), "{when}");
            "moved aside"
        }
        Opening::Fresh => panic!("{when}: silently empty"),
    };
    fill(store, 20).await;
    assert_eq!(store.get(spread(7)), Ok(Some(filled(7))), "{when}");
    found
}

/// A process that is killed while it records: everything it was told to be recorded is there.
#[tokio::test]
async fn kill_9_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = 0;
    for round in 0..5 {
        let mut child = again("sled::tests::child_records_until_killed", directory.path(), &first.to_string());
        let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
        let mut acknowledged = None;
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("recorded ") {
                let number: u128 = number.parse().unwrap();
                acknowledged = Some(number);
                if number == first + 40 + round {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let acknowledged = acknowledged.expect("the child recorded something");
        let store = open(directory.path());
        assert_eq!(store.opening(), Opening::Unclean);
        for number in 0..=acknowledged {
            assert_eq!(
                store.get(spread(number)),
                Ok(Some(filled(number))),
                "round {round}: entry {number} of {acknowledged}"
            );
        }
        first = acknowledged + 1;
    }
}

#[tokio::test]
#[ignore = "runs only as the child of kill_9_loses_nothing_that_was_acknowledged"]
async fn child_records_until_killed() {
    let Some((directory, argument)) = given() else { return };
    let first: u128 = argument.parse().unwrap();
    let store = open(&directory);
    for number in first.. {
        let entries = vec![(spread(number), Some(filled(number)))];
        store.record(Batch { entries, ..Batch::default() }).await.unwrap();
        println!("recorded {number}");
    }
}

/// A file-size limit stands for a full disk: refused writes are errors, and with room again the same store goes on.
#[test]
fn a_full_disk_is_an_error_and_with_room_again_the_store_works() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        println!("skipped: prlimit is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut child = again("sled::tests::child_fills_its_disk", directory.path(), "");
    let output = child.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("went on after"), "{told}");
}

#[tokio::test]
#[ignore = "runs only as the child of a_full_disk_is_an_error_and_with_room_again_the_store_works"]
async fn child_fills_its_disk() {
    let Some((directory, _)) = given() else { return };
    let limit = |bytes: &str| {
        let pid = std::process::id().to_string();
        let set = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:")]).status();
        assert!(set.unwrap().success());
    };
    let store = open(&directory);
    fill(&store, 100).await;
    limit("3000000");
    let mut model = expected(100);
    let mut number = 100;
    let error = loop {
        let id = spread(number);
        match store.record(Batch { entries: vec![(id, Some(filled(number)))], ..Batch::default() }).await {
            Ok(()) => model.insert(id, filled(number)),
            Err(error) => break error,
        };
        number += 1;
    };
    assert!(matches!(&error, StoreError::Failed { reason } if reason.contains("make room")), "{error}");
    for _ in 0..3 {
        assert!(store.intend(vec![action(1)]).await.is_err(), "nothing may be sent while the disk is full");
    }
    limit("unlimited");
    let began = std::time::Instant::now();
    while store.memo().is_err() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "it never came back: {:?}", store.memo());
        std::thread::yield_now();
    }
    for (id, entry) in &model {
        assert_eq!(store.get(*id).unwrap().as_ref(), Some(entry), "an acknowledged entry is gone");
    }
    fill(&store, number + 100).await;
    assert_eq!(all(&store), expected(number + 100));
    assert_eq!(store.intents().unwrap().len(), 0, "a refused intent left something");
    stop(store).await;
    assert_eq!(open(&directory).opening(), Opening::Clean);
    println!("went on after {number} entries: {error}");
}

#[tokio::test]
async fn buckets_stay_small_whatever_the_order_of_ids() {
    let seed = 17;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut model = BTreeMap::new();
    let mut orders: Vec<Vec<u128>> = vec![(0..300).collect(), (300..600).rev().collect()];
    orders.push((0..300).map(|_| random.random()).collect());
    orders.push((0..300).map(|number| u128::MAX - number).collect());
    // Long runs of 255: going backward over such keys, sled panics.
    orders.push((0..100).map(|number| (number << 120) | (u128::MAX >> 8)).collect());
    orders.push((0..100).map(|number| (number << 120) | ((u128::MAX >> 8) - 77)).collect());
    for ids in orders {
        for part in ids.chunks(7) {
            let entries: Vec<_> = part.iter().map(|id| (referral(*id), Some(linked(*id)))).collect();
            model.extend(part.iter().map(|id| (referral(*id), linked(*id))));
            store.record(Batch { entries, ..Batch::default() }).await.unwrap();
        }
    }
    assert_eq!(all(&store), model);
    let sizes = |store: &SledStore| -> Vec<usize> {
        let sizes = store.inner.with(|ledger| {
            let buckets = ledger.tree(Name::Entries).iter().values();
            Ok(buckets.map(|bytes| bucket::items(&bytes.unwrap()).count()).collect())
        });
        sizes.unwrap()
    };
    let before = sizes(&store);
    assert!(before.iter().all(|size| (1..=BUCKET_ENTRIES_MAX).contains(size)), "{before:?}");
    assert!(before.len() * 10 < model.len() * 9, "{} buckets for {} entries", before.len(), model.len());
    let gone: Vec<_> = model.keys().copied().filter(|_| random.random_bool(0.9)).collect();
    for id in gone {
        model.remove(&id);
        store.record(Batch { entries: vec![(id, None)], ..Batch::default() }).await.unwrap();
    }
    assert_eq!(all(&store), model);
    assert!(sizes(&store).iter().all(|size| *size > 0));
    stop(store).await;
    let store = open(directory.path());
    assert_eq!((store.opening(), all(&store)), (Opening::Clean, model));
}

#[tokio::test]
async fn a_list_of_groups_is_kept_even_if_its_first_use_was_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let refused = vec![(referral(1), Some(full_entry(3))), (referral(2), Some(full_entry(2000)))];
    let error = store.record(Batch { entries: refused, ..Batch::default() }).await.unwrap_err().to_string();
    assert!(error.contains("map fewer groups") && !error.contains("disk"), "{error}");
    assert_eq!(store.get(referral(1)), Ok(None), "none of the batch is recorded");
    store.intend(vec![]).await.unwrap();
    store.record(Batch { entries: vec![(referral(1), Some(full_entry(3)))], ..Batch::default() }).await.unwrap();
    stop(store).await;
    let store = open(directory.path());
    assert_eq!((store.opening(), store.get(referral(1))), (Opening::Clean, Ok(Some(full_entry(3)))));
}

#[test]
fn a_full_entry_of_16_groups_stays_within_its_bytes() {
    let mut shapes = Shapes::default();
    let full = full_entry(16);
    let (kept, bytes) = entry::encode(referral(7), &full, &mut shapes).unwrap();
    println!("{} bytes for 16 groups and two eTags of 45 characters", bytes.len());
    assert!(bytes.len() <= ENTRY_BYTES, "{} bytes", bytes.len());
    assert_eq!(*kept, full);
    assert_eq!(entry::decode(&bytes, &shapes), Ok(full));
}

#[test]
fn over_its_bytes_an_entry_loses_the_words_of_its_trouble_first() {
    let mut shapes = Shapes::default();
    let words = "w".repeat(72);
    let full = Entry { trouble: Some(trouble(&words, true)), ..full_entry(15) };
    let (kept, bytes) = entry::encode(referral(7), &full, &mut shapes).unwrap();
    assert!(bytes.len() <= ENTRY_BYTES, "{} bytes", bytes.len());
    assert_eq!(*kept, Entry { trouble: Some(trouble("", true)), ..full.clone() });
    assert_eq!(entry::decode(&bytes, &shapes).unwrap(), *kept);

    let larger = Entry { trouble: full.trouble, ..full_entry(40) };
    let (kept, bytes) = entry::encode(referral(7), &larger, &mut shapes).unwrap();
    assert!(bytes.len() > ENTRY_BYTES);
    assert_eq!(*kept, larger, "words are not given away for nothing");

    let mut written = full_entry(15);
    for (number, group) in written.groups.iter_mut().enumerate() {
        let at = if number == 3 { vec![1_795_000_000, 1_795_000_060] } else { vec![1_795_000_000] };
        group.flips = Some(crate::model::Flips { values: [1, u32::MAX], at, is_held: false });
    }
    let (kept, bytes) = entry::encode(referral(7), &written, &mut shapes).unwrap();
    assert!(bytes.len() <= ENTRY_BYTES, "{} bytes", bytes.len());
    let remembered: Vec<usize> = (0..15).filter(|number| kept.groups[*number].flips.is_some()).collect();
    assert_eq!(remembered, [3], "single writes are forgotten first");
    assert_eq!(entry::decode(&bytes, &shapes).unwrap(), *kept);

    let enormous = full_entry(2000);
    let refused = entry::encode(referral(7), &enormous, &mut shapes);
    assert!(matches!(refused, Err(Failure::Refused(reason)) if reason.contains(&ENTRY_BYTES_MAX.to_string())));
}

#[test]
fn entries_beyond_the_known_shapes_carry_their_own() {
    let mut shapes = Shapes::default();
    let other = |number: u32| {
        let mut entry = full_entry(2);
        entry.groups[0].mapping = number;
        entry
    };
    for number in 0..entry::SHAPES_MAX as u32 + 10 {
        let entry = other(number);
        let (_, bytes) = entry::encode(referral(7), &entry, &mut shapes).unwrap();
        assert_eq!(entry::decode(&bytes, &shapes), Ok(entry));
    }
    assert_eq!(shapes.unsaved().len(), entry::SHAPES_MAX);
}

/// Bytes as they are, without a length before them.
struct Raw<'a>(&'a [u8]);

impl serde::Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        let mut bytes = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| bytes.serialize_element(byte))?;
        bytes.end()
    }
}

#[test]
fn a_memo_of_the_format_before_is_read() {
    let memo = Memo { cycles: 7, configuration: 300, ..Memo::default() };
    let sealed = codec::seal(&memo);
    let known = &sealed[codec::HEAD_BYTES..sealed.len() - super::read::MEMO_GROWN];
    let before = codec::seal_as(2, &Raw(known));
    assert_eq!(codec::unseal_grown::<Memo>("the memo", &before, super::read::MEMO_GROWN), Ok(memo));
}

/// The bytes of format 3. When this fails the format has changed: raise `FORMAT` and keep a decoder for the old one.
#[test]
fn format_3_is_these_bytes() {
    let mut shapes = Shapes::default();
    let (_, bytes) = entry::encode(referral(7), &full_entry(2), &mut shapes).unwrap();
    let mut troubled = Entry { trouble: Some(trouble("refused", true)), ..entry() };
    troubled.outcome = Some(crate::model::ObservedOutcome {
        closing: crate::model::Closing::Won,
        since: seconds(7),
        is_approved: true,
    });
    let (_, small) = entry::encode(referral(7), &troubled, &mut shapes).unwrap();
    let sums = [
        crc32fast::hash(&bytes),
        crc32fast::hash(&small),
        crc32fast::hash(&codec::seal(&full_memo())),
        crc32fast::hash(&codec::seal(&action(7))),
    ];
    assert_eq!(sums, [1_755_102_204, 1_703_197_419, 3_744_013_896, 2_362_980_114]);
}

/// Disk, open time and memory of 100,000 entries; run by hand: `cargo test --lib -- --ignored --nocapture measures`.
#[tokio::test]
#[ignore = "a measurement"]
async fn measures_100_000_entries() {
    const COUNT: u128 = 100_000;
    let directory = tempfile::tempdir().unwrap();
    let began = std::time::Instant::now();
    let store = SledStore::open(directory.path(), 16 << 20, None).unwrap();
    fill(&store, COUNT).await;
    println!("filled in {:?}, {}", began.elapsed(), resident());
    let began = std::time::Instant::now();
    for number in 0..10_000 {
        assert!(store.get(spread(number * 7 % COUNT)).unwrap().is_some());
    }
    println!("get: {:?}", began.elapsed() / 10_000);
    let began = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(store.newest(20).unwrap().len(), 20);
    }
    println!("newest 20: {:?}", began.elapsed() / 100);
    stop(store).await;
    let bytes: u64 = fs::metadata(directory.path().join("ledger").join("db")).unwrap().len();
    println!("{} bytes per entry on disk after the first import", u128::from(bytes) / COUNT);
    let store = SledStore::open(directory.path(), 16 << 20, None).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for round in 1..=2 {
        for _ in 0..COUNT / 50 {
            let ids = (0..50).map(|_| random.random_range(0..COUNT));
            let entries = ids.map(|number| (spread(number), Some(filled(number)))).collect();
            store.record(Batch { entries, ..Batch::default() }).await.unwrap();
        }
        let bytes: u64 = fs::metadata(directory.path().join("ledger").join("db")).unwrap().len();
        println!("{} bytes per entry after each was rewritten {round} times", u128::from(bytes) / COUNT);
    }
    stop(store).await;
    for _ in ["after an orderly stop", "after a crash", "after a crash"] {
        let output = again("sled::tests::child_opens", directory.path(), "").output().unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[tokio::test]
#[ignore = "runs only as the child of measures_100_000_entries"]
async fn child_opens() {
    let Some((directory, _)) = given() else { return };
    println!("before opening: {}", resident());
    let began = std::time::Instant::now();
    let store = SledStore::open(&directory, 16 << 20, None).unwrap();
    println!("opened in {:?}: {:?}, {}", began.elapsed(), store.opening(), resident());
    let began = std::time::Instant::now();
    for number in 0..10_000 {
        assert!(store.get(spread(number * 3)).unwrap().is_some());
    }
    println!("10,000 scattered reads: {:?} each, {}", began.elapsed() / 10_000, resident());
    let began = std::time::Instant::now();
    for _ in 0..10_000 {
        assert!(store.get(spread(7)).unwrap().is_some());
    }
    println!("the same one again: {:?} each", began.elapsed() / 10_000);
}

fn resident() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS unknown").to_owned()
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measures_the_state_commands_at_100_000_entries() {
    const COUNT: u128 = 100_000;
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path(), 16 << 20, None).unwrap();
    for first in (0..COUNT).step_by(1000) {
        // As most entries are after a year: seven groups that agree.
        let entries = (first..first + 1000).map(|number| {
            let mut entry = filled(number);
            entry.groups.truncate(7);
            for memory in &mut entry.groups {
                let (referral, lead) = (random_half(number, memory.group), random_half(number, memory.group + 100));
                memory.base = crate::model::Base::Common { referral, lead };
                memory.lead_moved = None;
            }
            (spread(number), Some(entry))
        });
        store.record(Batch { entries: entries.collect(), ..Batch::default() }).await.unwrap();
    }
    let timed = |what: &str, began: std::time::Instant| println!("{what}: {:?}, {}", began.elapsed(), resident());
    timed("filled", std::time::Instant::now());
    let began = std::time::Instant::now();
    store.keep_export(seconds(1_795_000_000), Default::default()).await.unwrap();
    timed("daily export", began);
    let kept = store.inner.place.exports.list().remove(0);
    println!("{} bytes, {} for each entry", kept.bytes, u128::from(kept.bytes) / COUNT);
    let began = std::time::Instant::now();
    assert!(store.recall(spread(1), None).await.unwrap().is_some());
    timed("first recall, which reads the whole export", began);
    let began = std::time::Instant::now();
    for number in 0..1000 {
        assert!(store.recall(spread(number * 97), None).await.unwrap().is_some());
    }
    timed("a thousand more", began);
    stop(store).await;
    let began = std::time::Instant::now();
    let check = super::examine(directory.path(), 16 << 20).unwrap();
    assert!(check.is_whole() && u128::from(check.entries) == COUNT, "{check:?}");
    timed("check, with one export", began);
    let began = std::time::Instant::now();
    super::export(directory.path(), 16 << 20, seconds(9), &mut std::io::sink()).unwrap();
    timed("export", began);
    let began = std::time::Instant::now();
    assert!(super::set_aside(directory.path(), 16 << 20).unwrap().is_some());
    timed("rebuild (the part before the next cycle)", began);
    let store = SledStore::open(directory.path(), 16 << 20, None).unwrap();
    let began = std::time::Instant::now();
    let imported = store.import(&kept.file, seconds(9)).await.unwrap();
    assert_eq!(u128::from(imported.taken), COUNT);
    timed("import", began);
    let began = std::time::Instant::now();
    store.forget(spread(7)).await.unwrap();
    timed("forget, with one export", began);
    let found = store.intend(vec![]).await.unwrap();
    stop(store).await;
    let (side, _) = super::side::SideFile::open(directory.path()).unwrap();
    side.write(super::side::Note { format: codec::FORMAT, commit: found + 1000 }).unwrap();
    let began = std::time::Instant::now();
    let store = SledStore::open(directory.path(), 16 << 20, None).unwrap();
    assert!(matches!(store.opening(), Opening::TailLost { .. }));
    timed("opening a ledger that is too old", began);
}

fn random_half(number: u128, group: u32) -> u64 {
    let mixed = spread(number).uuid().as_u128() ^ spread(u128::from(group)).uuid().as_u128();
    (mixed >> 64) as u64 ^ mixed as u64
}

/// Runs one test of this binary as a process of its own.
fn again(test: &str, directory: &Path, argument: &str) -> Command {
    let mut command = Command::new("sh");
    command
        // A refused write shall be an error, not a signal.
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", &format!("store::{test}")])
        .env("REFERRALD_CHILD_DIRECTORY", directory)
        .env("REFERRALD_CHILD_ARGUMENT", argument);
    command
}

fn given() -> Option<(PathBuf, String)> {
    let directory = std::env::var_os("REFERRALD_CHILD_DIRECTORY")?;
    Some((directory.into(), std::env::var("REFERRALD_CHILD_ARGUMENT").unwrap_or_default()))
}

fn moved_aside(directory: &Path) -> Vec<PathBuf> {
    let items = fs::read_dir(directory).unwrap().map(|item| item.unwrap().path());
    items.filter(|path| path.to_string_lossy().contains("ledger.damaged-")).collect()
}

/// A state directory with the same ledger, for damage.
fn copied(whole: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let status = Command::new("cp").arg("-a").arg(whole.join(".")).arg(copy.path()).status();
    assert!(status.unwrap().success());
    copy
}

/// Up to the last byte that is not zero: sled writes whole segments.
fn used_bytes(db: &Path) -> u64 {
    let bytes = fs::read(db).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}
