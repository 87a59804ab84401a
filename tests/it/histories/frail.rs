//! A ledger whose disk is full now and then: writes fail on command, before or after they took effect.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use referrald::model::{Base, Entry, LeadId, ReferralId, Timestamp};
use referrald::ports::{
    Batch, Check, Counters, DecisionChange, Decisions, ExportsKept, HistoryLine, IntendedAction, Intent, Memo, Opening,
    Pruned, StateStore, StoreError,
};

use super::planted::Plant;

/// Any store, and the trouble with it.
pub struct Frail {
    inner: Arc<dyn StateStore>,
    /// Writes that still succeed before the trouble begins.
    healthy: AtomicU32,
    /// Writes that fail then.
    failing: AtomicU32,
    /// A write has failed.
    has_failed: AtomicBool,
    /// A defect: after the ledger was lost, what the referral says counts.
    trusts_referrals: bool,
}

impl Frail {
    pub fn new(inner: Arc<dyn StateStore>, plant: Option<Plant>) -> Self {
        let trusts_referrals = plant == Some(Plant::TrustsReferrals);
        let (healthy, failing) = (AtomicU32::new(0), AtomicU32::new(0));
        Frail { inner, healthy, failing, has_failed: AtomicBool::new(false), trusts_referrals }
    }

    /// After `healthy` more writes, `failing` of them fail. Whether a write has failed since the last time.
    pub fn fill_up(&self, healthy: u32, failing: u32) -> bool {
        self.healthy.store(healthy, Ordering::Relaxed);
        self.failing.store(failing, Ordering::Relaxed);
        self.has_failed.swap(false, Ordering::Relaxed)
    }

    /// Every other failure comes after the work was done: the write is there, and only the barrier failed.
    fn trouble(&self) -> Option<bool> {
        let left = self.failing.load(Ordering::Relaxed);
        if left == 0 {
            return None;
        }
        let healthy = self.healthy.load(Ordering::Relaxed);
        if healthy > 0 {
            self.healthy.store(healthy - 1, Ordering::Relaxed);
            return None;
        }
        self.failing.store(left - 1, Ordering::Relaxed);
        self.has_failed.store(true, Ordering::Relaxed);
        Some(left.is_multiple_of(2))
    }
}

fn full<T>() -> Result<T, StoreError> {
    Err(StoreError::Failed { reason: "no space left on device".to_owned() })
}

/// A process can die right before a write to its ledger, and right after.
async fn step<T>(write: impl Future<Output = T>) -> T {
    tokio::task::yield_now().await;
    let written = whole(write).await;
    tokio::task::yield_now().await;
    written
}

/// Waits on the spot for what a ledger does in threads of its own: how long it takes must not change what comes after what.
async fn whole<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(tokio::task::unconstrained(work));
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match work.as_mut().poll(&mut context) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

/// Values that differ and never agreed, remembered as if only the referral's had changed.
fn trusting(mut entry: Entry) -> Entry {
    for memory in &mut entry.groups {
        if let Base::Apart { referral, lead, .. } = memory.base {
            memory.base = Base::Common { referral: !referral, lead };
        }
    }
    entry
}

#[async_trait]
impl StateStore for Frail {
    fn get(&self, id: ReferralId) -> Result<Option<Entry>, StoreError> {
        self.inner.get(id)
    }

    fn by_lead(&self, lead: LeadId) -> Result<Option<ReferralId>, StoreError> {
        self.inner.by_lead(lead)
    }

    fn scan(&self, after: Option<ReferralId>, limit: usize) -> Result<Vec<(ReferralId, Entry)>, StoreError> {
        self.inner.scan(after, limit)
    }

    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<ReferralId>, StoreError> {
        self.inner.due(now, limit)
    }

    fn newest(&self, limit: usize) -> Result<Vec<ReferralId>, StoreError> {
        self.inner.newest(limit)
    }

    fn deadlines(&self, until: Timestamp, limit: usize) -> Result<Vec<(ReferralId, Timestamp)>, StoreError> {
        self.inner.deadlines(until, limit)
    }

    fn memo(&self) -> Result<Memo, StoreError> {
        self.inner.memo()
    }

    fn counters(&self) -> Result<Counters, StoreError> {
        self.inner.counters()
    }

    fn intents(&self) -> Result<Vec<Intent>, StoreError> {
        self.inner.intents()
    }

    async fn intend(&self, actions: Vec<IntendedAction>) -> Result<u64, StoreError> {
        match self.trouble() {
            None => step(self.inner.intend(actions)).await,
            Some(false) => full(),
            Some(true) => step(self.inner.intend(actions)).await.and(full()),
        }
    }

    async fn record(&self, mut batch: Batch) -> Result<(), StoreError> {
        if self.trusts_referrals && matches!(self.opening(), Opening::TailLost { found: 0, .. }) {
            batch.entries = batch.entries.into_iter().map(|(id, entry)| (id, entry.map(trusting))).collect();
        }
        match self.trouble() {
            None => step(self.inner.record(batch)).await,
            Some(false) => full(),
            Some(true) => step(self.inner.record(batch)).await.and(full()),
        }
    }

    fn history(&self, id: ReferralId) -> Result<Vec<HistoryLine>, StoreError> {
        self.inner.history(id)
    }

    async fn prune_history(&self, before: Timestamp, limit: usize) -> Result<Pruned, StoreError> {
        step(self.inner.prune_history(before, limit)).await
    }

    async fn recall(&self, id: ReferralId, organization: Option<uuid::Uuid>) -> Result<Option<Entry>, StoreError> {
        whole(self.inner.recall(id, organization)).await
    }

    async fn keep_export(&self, now: Timestamp, stop: Arc<AtomicBool>) -> Result<(), StoreError> {
        step(self.inner.keep_export(now, stop)).await
    }

    fn exports_kept(&self) -> ExportsKept {
        self.inner.exports_kept()
    }

    async fn export(&self, now: Timestamp, out: Box<dyn std::io::Write + Send>) -> Result<u64, StoreError> {
        whole(self.inner.export(now, out)).await
    }

    async fn check(&self) -> Result<Check, StoreError> {
        whole(self.inner.check()).await
    }

    async fn mend(&self) -> Result<bool, StoreError> {
        step(self.inner.mend()).await
    }

    fn openings(&self) -> u64 {
        self.inner.openings()
    }

    async fn forget(&self, id: ReferralId) -> Result<(), StoreError> {
        step(self.inner.forget(id)).await
    }

    fn decisions(&self) -> Result<Decisions, StoreError> {
        self.inner.decisions()
    }

    async fn decide(&self, change: DecisionChange) -> Result<(Decisions, Decisions), StoreError> {
        match self.trouble() {
            None => step(self.inner.decide(change)).await,
            Some(false) => full(),
            Some(true) => step(self.inner.decide(change)).await.and(full()),
        }
    }

    fn fingerprint_key(&self) -> [u8; 16] {
        self.inner.fingerprint_key()
    }

    fn opening(&self) -> Opening {
        self.inner.opening()
    }
}
