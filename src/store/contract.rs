//! What every store must do: the same facts, checked against each of them.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::model::{
    Base, Cause, ETag, Entry, ExternalReference, Flips, GroupMemory, LeadId, LeadState, LeadStatus, Link, Moved,
    ReferralId, ReferralStatus, Side, Standing, Substatus, Take, Timestamp, Trouble, Watermark,
};
use crate::ports::{
    ActionKind, Backfill, Batch, Counters, Cursor, Decisions, Groups, HistoryLine, IntendedAction, LatchedBrake, Memo,
    Opening, Pruned, RequestsToday, StateStore, SweepCursor, Tracking,
};
use crate::store::{MemoryStore, NEWEST_MAX, OUTCOME_BYTES_MAX, SledStore};

/// Runs every fact against both stores.
macro_rules! contract {
    ($($fact:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $fact() {
                super::$fact(&super::MemoryStore::new([7; 16])).await;
            })*
        }
        mod sled {
            $(#[tokio::test]
            async fn $fact() {
                let directory = tempfile::tempdir().unwrap();
                let store = super::SledStore::open(directory.path(), 1 << 20, Some([7; 16])).unwrap();
                super::$fact(&store).await;
            })*
        }
    };
}

contract!(
    a_new_store_is_empty_and_asks_for_a_sweep,
    an_entry_comes_back_until_it_is_removed,
    a_lead_is_found_as_long_as_an_entry_claims_it,
    an_entry_that_lost_its_claim_is_not_found_by_the_lead,
    due_referrals_come_earliest_first,
    deadlines_of_the_unanswered_come_next_first,
    the_newest_come_first_and_are_limited,
    the_newest_are_right_however_many_come_and_go,
    a_scan_goes_on_where_the_page_before_ended,
    counters_follow_standing_and_trouble,
    holds_are_counted_by_their_bit,
    intents_last_until_each_of_their_referrals_is_settled,
    commit_numbers_grow,
    the_memo_comes_back_and_stays_without_a_new_one,
    decisions_come_back,
    decisions_made_at_the_same_time_are_all_kept,
    history_is_told_in_order_and_cut_to_size,
    old_history_is_pruned_piece_by_piece,
    a_forgotten_referral_leaves_nothing,
    what_the_ledger_lost_is_recalled_from_the_export,
    an_export_is_written_and_a_check_finds_everything_whole,
    the_last_word_of_a_batch_counts,
    a_batch_is_seen_whole_or_not_at_all,
    random_batches_leave_what_a_plain_map_leaves,
);

async fn a_new_store_is_empty_and_asks_for_a_sweep(store: &dyn StateStore) {
    assert_eq!(store.opening(), Opening::Fresh);
    assert_eq!(store.scan(None, 10), Ok(vec![]));
    assert_eq!(store.counters(), Ok(Counters::default()));
    assert_eq!(store.intents(), Ok(vec![]));
    assert_eq!(store.memo(), Ok(Memo { is_sweep_due: true, ..Memo::default() }));
    assert_eq!(store.decisions(), Ok(Decisions::default()));
    assert_eq!(store.fingerprint_key(), [7; 16]);
}

async fn an_entry_comes_back_until_it_is_removed(store: &dyn StateStore) {
    assert_eq!(store.get(referral(1)), Ok(None));
    let entry = full_entry(16);
    put(store, 1, Some(entry.clone())).await;
    assert_eq!(store.get(referral(1)), Ok(Some(entry)));
    assert_eq!(store.get(referral(2)), Ok(None));
    put(store, 1, None).await;
    assert_eq!(store.get(referral(1)), Ok(None));
    put(store, 1, None).await;
}

async fn a_lead_is_found_as_long_as_an_entry_claims_it(store: &dyn StateStore) {
    put(store, 1, Some(linked(8))).await;
    assert_eq!(store.by_lead(lead(8)), Ok(Some(referral(1))));
    put(store, 1, Some(linked(9))).await;
    assert_eq!((store.by_lead(lead(8)), store.by_lead(lead(9))), (Ok(None), Ok(Some(referral(1)))));
    put(store, 2, Some(linked(9))).await;
    put(store, 1, None).await;
    assert_eq!(store.by_lead(lead(9)), Ok(Some(referral(2))), "the other claim still stands");
    put(store, 2, Some(Entry { link: None, ..linked(9) })).await;
    assert_eq!(store.by_lead(lead(9)), Ok(None));
}

async fn an_entry_that_lost_its_claim_is_not_found_by_the_lead(store: &dyn StateStore) {
    put(store, 1, Some(Entry { standing: Standing::LeadTaken, ..linked(9) })).await;
    assert_eq!(store.by_lead(lead(9)), Ok(None));
    put(store, 2, Some(linked(9))).await;
    assert_eq!(store.by_lead(lead(9)), Ok(Some(referral(2))));
}

async fn due_referrals_come_earliest_first(store: &dyn StateStore) {
    for (number, at) in [(1, Some(30)), (2, Some(10)), (3, None), (4, Some(20)), (5, Some(-10))] {
        put(store, number, Some(Entry { look_at: at.map(seconds), ..entry() })).await;
    }
    let due = |at, limit| store.due(seconds(at), limit).unwrap();
    assert_eq!(due(20, 10), [referral(5), referral(2), referral(4)], "an instant that is now is due");
    assert_eq!(due(100, 2), [referral(5), referral(2)]);
    assert_eq!(due(-11, 10), []);
    put(store, 2, Some(entry())).await;
    put(store, 5, None).await;
    assert_eq!(due(100, 10), [referral(4), referral(1)]);
}

async fn deadlines_of_the_unanswered_come_next_first(store: &dyn StateStore) {
    let new = |at: i64| Entry { deadline: Some(seconds(at)), ..entry() };
    for (number, at) in [(1, 30), (2, 10), (3, 20), (4, -10)] {
        put(store, number, Some(new(at))).await;
    }
    put(store, 5, Some(entry())).await;
    put(store, 6, Some(Entry { standing: Standing::OutOfScope, ..new(5) })).await;
    put(store, 7, Some(Entry { referral_status: ReferralStatus::Active, ..new(5) })).await;
    let deadlines = |until, limit| store.deadlines(seconds(until), limit).unwrap();
    let line = |number, at| (referral(number), seconds(at));
    assert_eq!(deadlines(20, 10), [line(4, -10), line(2, 10), line(3, 20)], "a deadline that is now is among them");
    assert_eq!(deadlines(100, 2), [line(4, -10), line(2, 10)]);
    assert_eq!(deadlines(-11, 10), []);
    put(store, 2, Some(Entry { referral_status: ReferralStatus::Active, ..new(10) })).await;
    put(store, 3, Some(new(40))).await;
    put(store, 4, None).await;
    put(store, 6, Some(new(5))).await;
    assert_eq!(deadlines(100, 10), [line(6, 5), line(1, 30), line(3, 40)], "an answer, a move, a removal, a new scope");
    assert_eq!(store.counters().unwrap().unanswered, 4, "one of them has no deadline");
}

async fn the_newest_come_first_and_are_limited(store: &dyn StateStore) {
    let updated = |at| Some(Entry { referral_updated: Some(seconds(at)), ..entry() });
    let entries = (0..NEWEST_MAX as u128 + 20).map(|number| (referral(number), updated(number as i64)));
    store.record(Batch { entries: entries.collect(), ..Batch::default() }).await.unwrap();
    assert_eq!(store.newest(2), Ok(vec![referral(119), referral(118)]));
    assert_eq!(store.newest(usize::MAX).unwrap().len(), NEWEST_MAX);
    put(store, 3, updated(5000)).await;
    put(store, 119, Some(entry())).await;
    assert_eq!(store.newest(2), Ok(vec![referral(3), referral(118)]));
}

async fn the_newest_are_right_however_many_come_and_go(store: &dyn StateStore) {
    let seed = 99;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut model: BTreeMap<ReferralId, Timestamp> = BTreeMap::new();
    for round in 0..30 {
        let mut entries = Vec::new();
        for _ in 0..100 {
            let (id, updated) = (referral(random.random_range(0..2000)), seconds(random.random_range(0..5000)));
            model.insert(id, updated);
            entries.push((id, Some(Entry { referral_updated: Some(updated), ..entry() })));
        }
        if round % 7 == 6 {
            let mut newest: Vec<_> = model.iter().map(|(id, updated)| (*updated, *id)).collect();
            newest.sort_unstable();
            for (_, id) in newest.into_iter().rev().take(250) {
                model.remove(&id);
                entries.push((id, None));
            }
        }
        store.record(Batch { entries, ..Batch::default() }).await.unwrap();
        let mut newest: Vec<_> = model.iter().map(|(id, updated)| (*updated, *id)).collect();
        newest.sort_unstable();
        let expected: Vec<_> = newest.into_iter().rev().take(NEWEST_MAX).map(|(_, id)| id).collect();
        assert_eq!(store.newest(usize::MAX).unwrap(), expected, "seed {seed}, round {round}");
    }
}

async fn a_scan_goes_on_where_the_page_before_ended(store: &dyn StateStore) {
    for number in [5, 1, 9, 3, u128::MAX] {
        put(store, number, Some(linked(number))).await;
    }
    let mut met = Vec::new();
    let mut after = None;
    loop {
        let page = store.scan(after, 2).unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        met.extend(page);
    }
    let expected: Vec<_> = [1, 3, 5, 9, u128::MAX].map(|number| (referral(number), linked(number))).into();
    assert_eq!(met, expected);
}

async fn counters_follow_standing_and_trouble(store: &dyn StateStore) {
    put(store, 1, Some(linked(1))).await;
    put(store, 2, Some(Entry { trouble: Some(trouble("refused", false)), ..entry() })).await;
    put(store, 3, Some(Entry { trouble: Some(trouble("refused", true)), ..entry() })).await;
    put(store, 4, Some(Entry { trouble: Some(trouble("refused", true)), ..linked(4) })).await;
    let counters = store.counters().unwrap();
    assert_eq!((counters.entries, counters.retrying), (4, 1));
    assert_eq!(counters.by_standing, BTreeMap::from([(Standing::Linked, 2), (Standing::Pending, 2)]));
    assert_eq!(counters.dead_letters, BTreeMap::from([(trouble("refused", true).cause, 2)]));
    put(store, 2, Some(Entry { trouble: Some(trouble("other", true)), ..entry() })).await;
    put(store, 3, Some(linked(3))).await;
    put(store, 4, None).await;
    let counters = store.counters().unwrap();
    assert_eq!((counters.entries, counters.retrying), (3, 0));
    assert_eq!(counters.by_standing, BTreeMap::from([(Standing::Linked, 2), (Standing::Pending, 1)]));
    assert_eq!(counters.dead_letters, BTreeMap::from([(trouble("other", true).cause, 1)]));
}

async fn holds_are_counted_by_their_bit(store: &dyn StateStore) {
    put(store, 1, Some(Entry { holds: 0b101, ..entry() })).await;
    put(store, 2, Some(Entry { holds: 0b100, ..entry() })).await;
    put(store, 3, Some(Entry { holds: 1 << 31, ..entry() })).await;
    assert_eq!(store.counters().unwrap().holds, BTreeMap::from([(0, 1), (2, 2), (31, 1)]));
    put(store, 1, Some(Entry { holds: 0b1, ..entry() })).await;
    put(store, 2, Some(entry())).await;
    put(store, 3, None).await;
    assert_eq!(store.counters().unwrap().holds, BTreeMap::from([(0, 1)]), "a bit that nobody has is not told");
}

async fn intents_last_until_each_of_their_referrals_is_settled(store: &dyn StateStore) {
    let first = store.intend(vec![action(9), action(1), action(1)]).await.unwrap();
    let second = store.intend(vec![action(1)]).await.unwrap();
    let on_record = |store: &dyn StateStore| -> Vec<(u64, Vec<IntendedAction>)> {
        store.intents().unwrap().into_iter().map(|intent| (intent.commit, intent.actions)).collect()
    };
    assert_eq!(
        on_record(store),
        [(first, vec![action(9), action(1), action(1)]), (second, vec![action(1)])],
        "oldest first, actions as they were given"
    );
    settle(store, &[(first, 1), (first, 7), (99, 1)]).await;
    assert_eq!(on_record(store), [(first, vec![action(9)]), (second, vec![action(1)])]);
    settle(store, &[(first, 9), (second, 1)]).await;
    assert_eq!(on_record(store), []);
}

async fn commit_numbers_grow(store: &dyn StateStore) {
    let first = store.intend(vec![action(1)]).await.unwrap();
    put(store, 1, Some(entry())).await;
    let second = store.intend(vec![]).await.unwrap();
    assert!(second > first, "{second} after {first}");
    assert_eq!(store.intents().unwrap().len(), 1, "an intent of nothing is none");
}

async fn the_memo_comes_back_and_stays_without_a_new_one(store: &dyn StateStore) {
    let memo = full_memo();
    store.record(Batch { memo: Some(memo.clone()), ..Batch::default() }).await.unwrap();
    assert_eq!(store.memo(), Ok(memo.clone()));
    put(store, 1, Some(entry())).await;
    assert_eq!(store.memo(), Ok(memo));
    let none_read = Memo { lead_reading: Some(None), ..Memo::default() };
    store.record(Batch { memo: Some(none_read.clone()), ..Batch::default() }).await.unwrap();
    assert_eq!(store.memo(), Ok(none_read));
}

async fn decisions_come_back(store: &dyn StateStore) {
    let brake = LatchedBrake {
        since: seconds(5),
        count: 21,
        limit: 20,
        digest: "4f1d".to_owned(),
        reason: "21 closings would be sent".to_owned(),
        side: Some(Side::Crm),
    };
    let decisions = Decisions {
        is_suspended: true,
        held: BTreeSet::from([referral(1), referral(u128::MAX)]),
        brakes: BTreeMap::from([("closings per hour".to_owned(), brake)]),
        approved: BTreeSet::from(["77aa".to_owned()]),
        let_go: BTreeMap::from([("closings".to_owned(), BTreeSet::from(["close 7 Lost".to_owned()]))]),
        closings: vec![seconds(1), seconds(2)],
        acceptances: vec![],
        vanished: vec![seconds(3)],
        backfill: Some(Backfill {
            asked: Timestamp::from_millis(7),
            groups: Groups::One(9),
            group: Some("company".into()),
            is_begun: true,
            rounds: 1,
            written: 5,
            left: 2,
            is_approved: true,
            finished: None,
        }),
        forgotten: [7, u64::MAX].into(),
        closed_until: BTreeMap::from([(Side::Portal, seconds(14)), (Side::Crm, seconds(15))]),
    };
    let wanted = decisions.clone();
    let changed = store.decide(Box::new(|kept| *kept = wanted)).await.unwrap();
    assert_eq!(changed, (Decisions::default(), decisions.clone()));
    assert_eq!(store.decisions(), Ok(decisions));
    store.decide(Box::new(|kept| *kept = Decisions::default())).await.unwrap();
    assert_eq!(store.decisions(), Ok(Decisions::default()));
}

async fn decisions_made_at_the_same_time_are_all_kept(store: &dyn StateStore) {
    // A cycle writes its windows while operators hold, approve and suspend: each sees what the others have done.
    let cycle = async {
        for second in 0..40 {
            store.decide(Box::new(move |kept| kept.closings.push(seconds(second)))).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let holder = async {
        for number in 0..40 {
            let (before, after) =
                store.decide(Box::new(move |kept| kept.held.extend([referral(number)]))).await.unwrap();
            assert_eq!((before.held.len() as u128, after.held.len() as u128), (number, number + 1));
            assert!(after.closings.starts_with(&before.closings));
            tokio::task::yield_now().await;
        }
    };
    let approver = async {
        for number in 0..40 {
            store.decide(Box::new(move |kept| kept.approved.extend([number.to_string()]))).await.unwrap();
            store.decide(Box::new(move |kept| kept.is_suspended = number % 2 == 0)).await.unwrap();
        }
    };
    futures_util::join!(cycle, holder, approver);
    let kept = store.decisions().unwrap();
    assert_eq!((kept.closings.len(), kept.held.len(), kept.approved.len()), (40, 40, 40));
    assert!(!kept.is_suspended);
}

async fn history_is_told_in_order_and_cut_to_size(store: &dyn StateStore) {
    let long = "ü".repeat(OUTCOME_BYTES_MAX);
    tell(store, &[(1, 1, "done"), (2, 1, "conflict"), (1, 2, "refused")]).await;
    tell(store, &[(1, 3, &long)]).await;
    let told = |number| -> Vec<(Timestamp, String)> {
        store.history(referral(number)).unwrap().into_iter().map(|line| (line.at, line.outcome)).collect()
    };
    let cut = "ü".repeat(OUTCOME_BYTES_MAX / 2);
    assert_eq!(told(1), [(seconds(1), "done".to_owned()), (seconds(2), "refused".to_owned()), (seconds(3), cut)]);
    assert_eq!(told(2), [(seconds(1), "conflict".to_owned())]);
    assert_eq!(told(3), []);
}

async fn old_history_is_pruned_piece_by_piece(store: &dyn StateStore) {
    for number in 0..10 {
        tell(store, &[(number, 10, "old"), (number, 20, "young")]).await;
    }
    let mut removed = 0;
    let mut calls = 0;
    loop {
        let Pruned { removed: now, is_complete } = store.prune_history(seconds(20), 6).await.unwrap();
        assert!(now <= 6);
        removed += now;
        calls += 1;
        if is_complete {
            break;
        }
    }
    assert_eq!((removed, calls), (10, 4), "20 lines, 6 at a time");
    for number in 0..10 {
        let left: Vec<_> = store.history(referral(number)).unwrap().into_iter().map(|line| line.outcome).collect();
        assert_eq!(left, ["young"]);
    }
    let all = store.prune_history(seconds(21), 100).await.unwrap();
    assert_eq!(all, Pruned { removed: 10, is_complete: true }, "the next round begins anew");
}

async fn a_forgotten_referral_leaves_nothing(store: &dyn StateStore) {
    for number in [1, 2] {
        let doomed = Entry { look_at: Some(seconds(1)), trouble: Some(trouble("x", true)), ..linked(number) };
        put(store, number, Some(doomed)).await;
        tell(store, &[(number, 1, "done")]).await;
    }
    store.intend(vec![action(1), action(2)]).await.unwrap();
    store.intend(vec![action(1)]).await.unwrap();
    store.forget(referral(1)).await.unwrap();
    assert_eq!((store.get(referral(1)), store.by_lead(lead(1))), (Ok(None), Ok(None)));
    assert_eq!(store.due(seconds(9), 9), Ok(vec![referral(2)]));
    assert_eq!(store.history(referral(1)), Ok(vec![]));
    assert_eq!(store.history(referral(2)).unwrap().len(), 1);
    let actions: Vec<_> = store.intents().unwrap().into_iter().flat_map(|intent| intent.actions).collect();
    assert_eq!(actions, [action(2)]);
    assert_eq!(store.counters().unwrap().entries, 1);
    store.forget(referral(1)).await.unwrap();
}

async fn what_the_ledger_lost_is_recalled_from_the_export(store: &dyn StateStore) {
    let exported = Entry { groups: full_entry(3).groups, ..linked(1) };
    put(store, 1, Some(exported.clone())).await;
    put(store, 2, Some(linked(2))).await;
    assert_eq!((store.recall(referral(1), None).await, store.exports_kept().count), (Ok(None), 0));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    store.keep_export(seconds(50), stop).await.unwrap();
    assert_eq!(store.exports_kept(), crate::ports::ExportsKept { count: 1, newest: Some(seconds(50)) });
    put(store, 1, None).await;
    let recalled = store.recall(referral(1), None).await.unwrap();
    assert_eq!(recalled, Some(exported.recalled(Timestamp::EPOCH)));
    assert_eq!(store.recall(referral(3), None).await, Ok(None));
    store.forget(referral(2)).await.unwrap();
    assert_eq!(store.recall(referral(2), None).await, Ok(None));
}

async fn an_export_is_written_and_a_check_finds_everything_whole(store: &dyn StateStore) {
    for number in 1..=5 {
        put(store, number, Some(linked(number))).await;
    }
    tell(store, &[(1, 1, "done")]).await;
    let out = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    assert_eq!(store.export(seconds(9), Box::new(Shared(out.clone()))).await, Ok(5));
    let text = out.lock().unwrap().clone();
    let mut reader = super::exports::Reader::open(&text[..]).unwrap();
    while reader.next_entry().unwrap().is_some() {}
    assert_eq!(reader.count(), 5);
    let check = store.check().await.unwrap();
    assert!(check.is_whole(), "{check:?}");
    assert_eq!((check.entries, check.history, check.by_standing), (5, 1, [(Standing::Linked, 5)].into()));
    assert_eq!((store.mend().await, store.openings()), (Ok(false), 1));
}

async fn the_last_word_of_a_batch_counts(store: &dyn StateStore) {
    let entries = vec![
        (referral(1), Some(linked(1))),
        (referral(1), Some(linked(2))),
        (referral(2), Some(linked(3))),
        (referral(2), None),
    ];
    store.record(Batch { entries, ..Batch::default() }).await.unwrap();
    assert_eq!(store.get(referral(1)), Ok(Some(linked(2))));
    assert_eq!(store.get(referral(2)), Ok(None));
    assert_eq!(store.by_lead(lead(1)), Ok(None));
    assert_eq!(store.by_lead(lead(3)), Ok(None));
    assert_eq!(store.counters().unwrap().entries, 1);
}

/// Another thread watches while batches are recorded: two entries that always change together never differ for it.
async fn a_batch_is_seen_whole_or_not_at_all(store: &dyn StateStore) {
    let both = |mark: i64| {
        let entry = Some(Entry { first_seen: seconds(mark), look_at: Some(seconds(mark)), ..entry() });
        Batch { entries: vec![(referral(1), entry.clone()), (referral(2), entry)], ..Batch::default() }
    };
    store.record(both(0)).await.unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0u64;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) || looks == 0 {
                let early = store.get(referral(2)).unwrap().unwrap().first_seen;
                let late = store.get(referral(1)).unwrap().unwrap().first_seen;
                assert!(late >= early, "referral 1 is at {late} when referral 2 was at {early}");
                let counters = store.counters().unwrap();
                assert_eq!(counters.entries, 2);
                looks += 1;
            }
        });
        let writer = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let recorded = (1..200).try_for_each(|mark| runtime.block_on(store.record(both(mark))));
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            recorded
        });
        writer.join().unwrap().unwrap();
        watcher.join().unwrap();
    });
    assert_eq!(store.due(seconds(1000), 10).unwrap().len(), 2);
}

async fn random_batches_leave_what_a_plain_map_leaves(store: &dyn StateStore) {
    let seed = 20_261_122;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut model = BTreeMap::new();
    for round in 0..150 {
        let batch = random_batch(&mut random);
        for (id, entry) in &batch.entries {
            match entry {
                Some(entry) => model.insert(*id, entry.clone()),
                None => model.remove(id),
            };
        }
        store.record(batch).await.unwrap();
        if round % 10 == 0 {
            assert_agrees(store, &model, &format!("seed {seed}, round {round}"));
        }
    }
    assert_agrees(store, &model, &format!("seed {seed}, at the end"));
}

/// Compares a store with a plain map by looking at every entry of the map.
pub(super) fn assert_agrees(store: &dyn StateStore, model: &BTreeMap<ReferralId, Entry>, when: &str) {
    let all: Vec<_> = model.iter().map(|(id, entry)| (*id, entry.clone())).collect();
    assert_eq!(store.scan(None, usize::MAX).unwrap(), all, "{when}");
    for (id, entry) in model {
        assert_eq!(store.get(*id).unwrap().as_ref(), Some(entry), "{when}");
    }
    for number in 0..LEADS {
        let claims = |entry: &Entry| {
            entry.standing != Standing::LeadTaken && entry.link.as_ref().is_some_and(|link| link.lead == lead(number))
        };
        let expected = model.iter().find(|(_, entry)| claims(entry)).map(|(id, _)| *id);
        assert_eq!(store.by_lead(lead(number)).unwrap(), expected, "{when}: lead {number}");
    }
    let mut due: Vec<_> = model.iter().filter_map(|(id, entry)| Some((entry.look_at?, *id))).collect();
    due.sort_unstable();
    due.retain(|(at, _)| *at <= seconds(50));
    let expected: Vec<_> = due.into_iter().map(|(_, id)| id).collect();
    assert_eq!(store.due(seconds(50), usize::MAX).unwrap(), expected, "{when}");
    let is_unanswered =
        |entry: &Entry| entry.referral_status == ReferralStatus::New && entry.standing != Standing::OutOfScope;
    let waiting = model.iter().filter(|(_, entry)| is_unanswered(entry));
    let mut deadlines: Vec<_> = waiting.filter_map(|(id, entry)| Some((entry.deadline?, *id))).collect();
    deadlines.sort_unstable();
    deadlines.retain(|(at, _)| *at <= seconds(50));
    let expected: Vec<_> = deadlines.into_iter().map(|(at, id)| (id, at)).collect();
    assert_eq!(store.deadlines(seconds(50), usize::MAX).unwrap(), expected, "{when}");
    let mut newest: Vec<_> = model.iter().filter_map(|(id, entry)| Some((entry.referral_updated?, *id))).collect();
    newest.sort_unstable();
    let expected: Vec<_> = newest.into_iter().rev().take(20).map(|(_, id)| id).collect();
    assert_eq!(store.newest(20).unwrap(), expected, "{when}");
    let mut counters = Counters { entries: model.len() as u64, ..Counters::default() };
    for entry in model.values() {
        *counters.by_standing.entry(entry.standing).or_default() += 1;
        match &entry.trouble {
            Some(trouble) if trouble.is_dead_letter => {
                *counters.dead_letters.entry(trouble.cause.clone()).or_default() += 1;
            }
            Some(_) => counters.retrying += 1,
            None => {}
        }
        if is_unanswered(entry) {
            counters.unanswered += 1;
        }
        for bit in (0..32u8).filter(|bit| entry.holds & (1 << bit) != 0) {
            *counters.holds.entry(bit).or_default() += 1;
        }
    }
    assert_eq!(store.counters().unwrap(), counters, "{when}");
}

const LEADS: u128 = 12;

/// A batch of up to eight entries over few enough ids that they meet again.
pub(super) fn random_batch(random: &mut ChaCha8Rng) -> Batch {
    let count = random.random_range(1..8);
    let entries = (0..count).map(|_| {
        let entry = random.random_bool(0.8).then(|| random_entry(random));
        (referral(random.random_range(0..40)), entry)
    });
    Batch { entries: entries.collect(), ..Batch::default() }
}

fn random_entry(random: &mut ChaCha8Rng) -> Entry {
    let standings =
        [Standing::Pending, Standing::Linked, Standing::OutOfScope, Standing::LeadTaken, Standing::LeadGone];
    let statuses = [ReferralStatus::New, ReferralStatus::Active];
    let holds = [0, 1, 1 << 31, 0b1010, u32::MAX];
    let some_instant = |random: &mut ChaCha8Rng| {
        let at = random.random_range(-100..100);
        random.random_bool(0.6).then(|| seconds(at))
    };
    let link = linked(random.random_range(0..LEADS)).link;
    let words = ["refused", "missing column", ""];
    let trouble = trouble(words.choose(random).unwrap(), random.random());
    let groups = (0..random.random_range(0..5)).map(|group| GroupMemory {
        group,
        mapping: random.random_range(0..3),
        base: random_base(random),
        referral_moved: random.random_bool(0.3).then(|| Moved { to: random.random(), at: seconds(3) }),
        lead_moved: random.random_bool(0.3).then(|| Moved { to: random.random(), at: seconds(4) }),
        released: *[None, None, Some(Take::Referral), Some(Take::Lead)].choose(random).unwrap(),
        flips: random.random_bool(0.3).then(|| Flips {
            values: random.random(),
            at: (0..random.random_range(1..4)).map(|_| random.random()).collect(),
            is_held: random.random(),
        }),
    });
    let groups = groups.collect();
    Entry {
        standing: *standings.choose(random).unwrap(),
        link: random.random_bool(0.7).then_some(link).flatten(),
        look_at: some_instant(random),
        referral_updated: some_instant(random),
        referral_status: *statuses.choose(random).unwrap(),
        deadline: some_instant(random),
        holds: *holds.choose(random).unwrap(),
        primary_contact: random.random_bool(0.5).then(|| random.random()),
        trouble: random.random_bool(0.4).then_some(trouble),
        groups,
        ..entry()
    }
}

fn random_base(random: &mut ChaCha8Rng) -> Base {
    let (referral, lead) = (random.random(), random.random());
    match random.random_range(0..4) {
        0 => Base::Common { referral, lead },
        3 => Base::Recalled { referral, lead },
        1 => Base::Apart { referral, lead, is_disputed: false },
        _ => Base::Apart { referral, lead, is_disputed: true },
    }
}

pub(super) fn referral(number: u128) -> ReferralId {
    ReferralId::new(uuid::Uuid::from_u128(number))
}

pub(super) fn lead(number: u128) -> LeadId {
    LeadId::new(uuid::Uuid::from_u128(number))
}

pub(super) fn seconds(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

/// An entry with nothing optional in it.
pub(crate) fn entry() -> Entry {
    Entry {
        standing: Standing::Pending,
        first_seen: seconds(1),
        referral_etag: None,
        referral_status: ReferralStatus::New,
        referral_substatus: Substatus::Pending,
        referral_created: None,
        referral_updated: None,
        deadline: None,
        external_reference: ExternalReference::Empty,
        consent: None,
        is_consent_withdrawn: false,
        is_registered_co_sell: false,
        is_frozen: false,
        link: None,
        groups: vec![],
        outcome: None,
        closed_by_us: None,
        reported_after_closing: None,
        trouble: None,
        holds: 0,
        primary_contact: None,
        look_at: None,
    }
}

/// An entry that a lead speaks for.
pub(super) fn linked(number: u128) -> Entry {
    let link = Link {
        lead: lead(number),
        etag: None,
        status: LeadStatus { state: LeadState::Open, code: 1 },
        modified: None,
        deal: crate::model::entry::Deal::None,
        is_ours: true,
        has_changed_state: false,
    };
    Entry { standing: Standing::Linked, link: Some(link), ..entry() }
}

/// An entry as a busy year leaves it: every field set, eTags of 45 characters, random fingerprints.
pub(super) fn full_entry(group_count: u32) -> Entry {
    let now = Timestamp::from_millis(1_795_380_000_123);
    let random = |number: u32| u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63;
    let etag = || Some(ETag("e".repeat(45)));
    let groups = (1..=group_count).map(|group| GroupMemory {
        group: random(group) as u32,
        mapping: random(group + 99) as u32,
        base: Base::Apart { referral: random(group), lead: random(group + 1), is_disputed: true },
        referral_moved: None,
        lead_moved: (group == 1).then(|| Moved { to: random(7), at: now }),
        released: None,
        flips: None,
    });
    let link = Link {
        lead: lead(u128::MAX),
        etag: etag(),
        status: LeadStatus { state: LeadState::Disqualified, code: 100_000_007 },
        modified: Some(now),
        deal: crate::model::entry::Deal::Lost,
        is_ours: true,
        has_changed_state: true,
    };
    Entry {
        standing: Standing::Linked,
        first_seen: now,
        referral_etag: etag(),
        referral_status: ReferralStatus::Active,
        referral_substatus: Substatus::Accepted,
        referral_created: Some(now),
        referral_updated: Some(now),
        deadline: Some(now),
        external_reference: ExternalReference::Ours,
        consent: Some(true),
        is_consent_withdrawn: true,
        is_registered_co_sell: true,
        is_frozen: false,
        link: Some(link),
        groups: groups.collect(),
        outcome: None,
        closed_by_us: None,
        reported_after_closing: None,
        trouble: None,
        primary_contact: Some(u32::MAX),
        holds: u32::MAX,
        look_at: Some(now),
    }
}

pub(super) fn trouble(what: &str, is_dead_letter: bool) -> Trouble {
    let cause = Cause::new(Some(Side::Crm), what);
    Trouble { cause, attempts: 3, since: seconds(9), is_dead_letter, about: u64::MAX }
}

/// A memo with every field set.
pub(super) fn full_memo() -> Memo {
    Memo {
        referrals_seen: Some(Watermark(seconds(1))),
        leads_seen: Some(Watermark(seconds(2))),
        opportunities_seen: Some(Watermark(seconds(3))),
        cycles: 4,
        sweep: Some(SweepCursor { cursor: Some(Cursor("next".to_owned())), began: seconds(5), pages: 6, met: 7 }),
        swept: Some(seconds(8)),
        entries_at_sweep: Some(18),
        leads_read: Some(seconds(19)),
        is_rescan: true,
        is_sweep_due: true,
        unordered_sweep: Some(seconds(9)),
        lead_reading: Some(Some(referral(10))),
        crm_organization: Some(uuid::Uuid::from_u128(11)),
        crm_user: Some(uuid::Uuid::from_u128(12)),
        partner_organization: Some("13".to_owned()),
        former_windows: (Some(seconds(14)), Some(seconds(15))),
        last_success: Some(seconds(16)),
        last_report: Some((seconds(17), "{}".to_owned())),
        requests_today: RequestsToday { day: 20, portal: 21, crm: 22 },
        is_stopped_cleanly: false,
        configuration: u64::MAX,
        tracking: Some(Tracking::Whole { next: Some(Cursor("changes".to_owned())), pages: 23 }),
        sweep_met: u128::MAX,
        sweep_page: vec![referral(24)],
        unnamed: vec![crate::model::LeadId::new(uuid::Uuid::from_u128(25))],
    }
}

pub(super) fn action(number: u128) -> IntendedAction {
    let groups = vec![(1, u64::MAX, 2), (3, 4, u64::MAX)];
    IntendedAction { referral: referral(number), kind: ActionKind::Update, groups }
}

pub(super) async fn put(store: &dyn StateStore, number: u128, entry: Option<Entry>) {
    store.record(Batch { entries: vec![(referral(number), entry)], ..Batch::default() }).await.unwrap();
}

async fn settle(store: &dyn StateStore, settled: &[(u64, u128)]) {
    let settled = settled.iter().map(|(commit, number)| (*commit, referral(*number))).collect();
    store.record(Batch { settled, ..Batch::default() }).await.unwrap();
}

async fn tell(store: &dyn StateStore, lines: &[(u128, i64, &str)]) {
    let lines = lines.iter().map(|(number, at, outcome)| HistoryLine {
        referral: referral(*number),
        at: seconds(*at),
        kind: ActionKind::Create,
        outcome: (*outcome).to_owned(),
    });
    store.record(Batch { history: lines.collect(), ..Batch::default() }).await.unwrap();
}
