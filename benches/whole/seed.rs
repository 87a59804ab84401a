//! Large ledgers, filled through the store.

use std::path::Path;

use referrald::ports::{Batch, Memo, StateStore};
use referrald::store::SledStore;

use crate::town::entry::entry;
use crate::town::id;

/// Entries of one transaction.
const STEP: u64 = 2000;

/// The cache of the product's default.
pub const CACHE_BYTES: u64 = 16 << 20;

/// Adds so many linked entries to the ledger in a state directory, and leaves it as an orderly stop would.
pub fn fill(runtime: &tokio::runtime::Runtime, state: &Path, entries: u64, edit: impl FnOnce(&mut Memo)) {
    let store = SledStore::open(state, CACHE_BYTES, None).expect("the ledger opens");
    for first in (0..entries).step_by(STEP as usize) {
        let batch = (first..(first + STEP).min(entries)).map(|number| (id(number), Some(entry(number, 0)))).collect();
        runtime.block_on(store.record(Batch { entries: batch, ..Batch::default() })).expect("the disk has room");
    }
    let mut memo = Memo { is_stopped_cleanly: true, ..store.memo().expect("the ledger is readable") };
    edit(&mut memo);
    runtime.block_on(store.record(Batch { memo: Some(memo), ..Batch::default() })).expect("the disk has room");
    store.shutdown().expect("the disk has room");
}
