//! The ledger: looking up, recording with the durable barrier, opening. Memory and disk: the bench `whole`.

use divan::Bencher;
use referrald::ports::{Batch, Memo, StateStore};
use referrald::store::SledStore;

use crate::town::entry::entry;
use crate::town::id;

const ENTRIES: u64 = 100_000;
const CACHE_BYTES: u64 = 16 << 20;

#[divan::bench]
fn get_one_of_100_000(bencher: Bencher) {
    let (_directory, store, _) = filled();
    let mut number = 0;
    bencher.bench_local(|| {
        number += 7919;
        store.get(id(number % ENTRIES)).expect("the ledger is readable")
    });
}

#[divan::bench]
fn scan_a_page_of_500(bencher: Bencher) {
    let (_directory, store, _) = filled();
    bencher.bench_local(|| store.scan(Some(id(1)), 500).expect("the ledger is readable"));
}

#[divan::bench(args = [1, 100])]
fn record_durably(bencher: Bencher, count: u64) {
    let (_directory, store, runtime) = filled();
    let mut number = 0;
    bencher.bench_local(|| {
        number += count;
        let entries = (number..number + count).map(|number| (id(number % ENTRIES), Some(entry(number, 0)))).collect();
        runtime.block_on(store.record(Batch { entries, ..Batch::default() })).expect("the disk has room");
    });
}

#[divan::bench]
fn open_100_000_after_an_orderly_stop(bencher: Bencher) {
    let (directory, store, runtime) = filled();
    let stop = |store: SledStore| {
        let memo = Memo { is_stopped_cleanly: true, ..Memo::default() };
        runtime.block_on(store.record(Batch { memo: Some(memo), ..Batch::default() })).expect("the disk has room");
    };
    stop(store);
    bencher.bench_local(|| {
        let store = SledStore::open(directory.path(), CACHE_BYTES, None).expect("the ledger opens");
        stop(store);
    });
}

fn filled() -> (tempfile::TempDir, SledStore, tokio::runtime::Runtime) {
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let store = SledStore::open(directory.path(), CACHE_BYTES, None).expect("an empty directory opens");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    for first in (0..ENTRIES).step_by(1000) {
        let entries = (first..first + 1000).map(|number| (id(number), Some(entry(number, 0)))).collect();
        runtime.block_on(store.record(Batch { entries, ..Batch::default() })).expect("the disk has room");
    }
    (directory, store, runtime)
}
