//! A year of updates in a ledger: does the directory grow without end?
//!
//! sled keeps some tens of megabytes more than it needs, whatever the size, so a small ledger looks worse than a large one:
//! `whole -- churn 100000`.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use referrald::ports::{Batch, StateStore};
use referrald::store::SledStore;

use crate::process::size_of;
use crate::seed;
use crate::town::id;

/// Unless others are asked for.
pub const ENTRIES: u64 = 20_000;
/// How often each entry is written in the year, on average.
const ROUNDS: u64 = 48;
/// Entries of one transaction.
const STEP: u64 = 50;

/// Measures at one size and prints.
pub fn measure(entries: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    seed::fill(&runtime, directory.path(), entries, |_| {});
    // Values in their envelopes with their keys; the indices are left out, so the ratio is on the dear side.
    let live: usize = (0..entries).map(|number| 25 + encoded(number)).sum();
    println!(
        "\n{entries} entries ({} bytes each encoded) written {ROUNDS} times in random order",
        live as u64 / entries
    );
    println!("  rounds   directory   times the live data");
    let show = |round: u64| {
        let size = size_of(directory.path());
        println!("  {round:>6}   {:>5} MiB   {:.1}", size >> 20, size as f64 / live as f64);
    };
    show(0);
    let store = SledStore::open(directory.path(), seed::CACHE_BYTES, None).expect("the ledger opens");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for round in 1..=ROUNDS {
        for _ in 0..entries / STEP {
            let numbers = (0..STEP).map(|_| random.random_range(0..entries));
            let entries = numbers.map(|number| (id(number), Some(crate::town::entry::entry(number, round)))).collect();
            runtime.block_on(store.record(Batch { entries, ..Batch::default() })).expect("the disk has room");
        }
        if round % 8 == 0 {
            show(round);
        }
    }
}

fn encoded(number: u64) -> usize {
    postcard::to_stdvec(&crate::town::entry::entry(number, 1)).map(|bytes| bytes.len()).unwrap_or(0)
}
