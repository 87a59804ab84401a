//! What came and what became of it: counts, and two instants. Nothing of any delivery is kept.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Timestamp;
use crate::telemetry::commands::command;

/// Refused deliveries are told in the log at most once in this time, together.
pub const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// What a delivery counts as when it was verified.
pub const VERIFIED: &str = "verified";

/// What came and what became of it.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<Counts>,
    told: Mutex<Told>,
}

/// Counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answers by verdict: `verified`, or why not.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Rings that came of them.
    pub rings: u64,
    /// The last ring.
    pub last_ring: Option<Timestamp>,
    /// The last verified delivery.
    pub last_verified: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    since: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// A delivery was verified.
    pub fn verified(&self, now: Timestamp) {
        let mut counts = lock(&self.counts);
        *counts.verdicts.entry(VERIFIED).or_default() += 1;
        counts.last_verified = Some(now);
    }

    /// A delivery was refused. Told in the log with the others of a minute, so that a flood does not become one there.
    pub fn refused(&self, code: &'static str) {
        *lock(&self.counts).verdicts.entry(code).or_default() += 1;
        let mut told = lock(&self.told);
        *told.since.entry(code).or_default() += 1;
        if told.at.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
            told.at = Some(Instant::now());
            let list: Vec<String> =
                std::mem::take(&mut told.since).iter().map(|(code, count)| format!("{code} {count}")).collect();
            let (list, command) = (list.join(", "), command("status"));
            tracing::warn!("webhook deliveries were not believed: {list}; `{command}` counts them");
        }
    }

    /// The bell was rung.
    pub fn rung(&self, now: Timestamp) {
        let mut counts = lock(&self.counts);
        counts.rings += 1;
        counts.last_ring = Some(now);
        drop(counts);
        tracing::info!("the webhook rang");
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
