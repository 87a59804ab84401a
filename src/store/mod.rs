//! Where the ledger is kept: on disk with sled, or in memory for throw-away runs.
//!
//! The ledger holds ids, eTags, statuses, instants and keyed fingerprints, and no personal data. Neither store looks at
//! what it keeps, so it is the caller's duty that causes and outcomes are words of ours, never a service's text.

use std::path::Path;

use crate::ports::StoreError;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) use contract::entry as sample_entry;
pub mod exports;
mod index;
pub mod keep;
pub mod memory;
pub mod owner;
pub mod settings;
pub mod sled;

pub use memory::MemoryStore;
pub use sled::{Imported, SledStore, examine, recall, set_aside};

/// History lines older than this are pruned by the nightly work.
pub const HISTORY_DAYS: u32 = 400;

/// Longest `outcome` of a history line in bytes; longer ones are cut, so that a line stays within 64 bytes.
pub const OUTCOME_BYTES_MAX: usize = 40;

/// Most referrals that [`crate::ports::StateStore::newest`] gives.
pub const NEWEST_MAX: usize = 100;

/// Opens the ledger in a state directory and takes the directory for this process.
///
/// `cache_bytes` is a hint to sled (16 MiB is plenty for a million entries). The fingerprint key is read from
/// `keep/fingerprint.key`, or made there at the first start.
///
/// # Errors
///
/// [`StoreError::Locked`] at once when another process has the directory, [`StoreError::Newer`] when a newer program
/// wrote it, [`StoreError::Failed`] when it cannot be read or written. A damaged ledger is no error: it is moved aside
/// and [`crate::ports::StateStore::opening`] tells.
pub fn open(directory: &Path, cache_bytes: u64) -> Result<SledStore, StoreError> {
    SledStore::open(directory, cache_bytes, None)
}

/// As [`open`], for who only looks: a damaged ledger is an error that says so, and stays where it is.
///
/// # Errors
///
/// As [`open`], and [`StoreError::Failed`] when the ledger is damaged.
pub fn look(directory: &Path, cache_bytes: u64) -> Result<SledStore, StoreError> {
    SledStore::look(directory, cache_bytes, None)
}

/// The first `bytes_max` bytes of a text, cut at a character.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Locks, also after a panic elsewhere: every guarded value here is replaced whole, never left half done.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
