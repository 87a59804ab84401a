//! Work of the night: the daily export of the ledger, and history that has become too old.
//!
//! It follows the nightly sweep, because a ledger has just been compared with both services then. It never stops a cycle
//! and never fails one: what goes wrong is a warning in `status`, and is tried again later.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::status::ExportsStatus;
use crate::model::Timestamp;
use crate::ports::{Ports, StateStore, StoreError};
use crate::store::HISTORY_DAYS;
use crate::store::exports::EXPORT_EVERY;

/// An export that is older than this is followed by another one although no nightly sweep has come to its end since; a
/// process that found none begins to count when it starts.
pub const EXPORT_LATEST: Duration = Duration::from_secs(36 * 3600);

/// After an export that failed, the next attempt waits this long.
pub const EXPORT_RETRY: Duration = Duration::from_secs(3600);

/// The export of a ledger with no more entries is made at once, between two cycles; of a larger one beside them.
pub const EXPORT_INLINE_MAX: u64 = 10_000;

/// History lines looked at in one step of pruning.
const PRUNE_STEP: usize = 1000;

/// What remembers the work of the night.
#[derive(Default)]
pub(super) struct Nightly {
    is_stopped: Arc<AtomicBool>,
    /// The schedule asked for a sweep: it is night.
    is_night: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the newest export was made, once that was looked up.
    newest: Option<Timestamp>,
    /// When this process first looked.
    began: Option<Timestamp>,
    tried: Option<Timestamp>,
    trouble: Option<String>,
    under_way: Option<JoinHandle<()>>,
}

impl Nightly {
    /// The schedule asked for the nightly sweep: an export follows it.
    pub(super) fn begin(&self) {
        self.is_night.store(true, Ordering::Relaxed);
    }

    /// Does what is due: at once when asked or when there is little, else beside the cycles that follow.
    pub(super) async fn work(self: &Arc<Self>, ports: &Ports, is_at_once: bool) {
        let now = ports.clock.now();
        let is_small = match self.is_due(ports.store.as_ref(), now) {
            Ok(Some(entries)) => entries <= EXPORT_INLINE_MAX,
            Ok(None) => return,
            Err(error) => return tracing::warn!("it cannot be told whether an export is due: {error}"),
        };
        self.state().tried = Some(now);
        let (nightly, store) = (Arc::clone(self), Arc::clone(&ports.store));
        let work = async move { nightly.export_and_prune(store.as_ref(), now).await };
        if is_small || is_at_once {
            return work.await;
        }
        self.state().under_way = Some(tokio::spawn(work));
    }

    /// Gives up what is under way.
    pub(super) async fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        let under_way = self.state().under_way.take();
        if let Some(under_way) = under_way {
            let _ = under_way.await;
        }
    }

    /// Exports for `status`.
    pub(super) fn status(&self, store: &dyn StateStore) -> ExportsStatus {
        let kept = store.exports_kept();
        ExportsStatus { count: kept.count, newest: kept.newest, trouble: self.state().trouble.clone() }
    }

    /// The number of entries, if an export is due.
    fn is_due(&self, store: &dyn StateStore, now: Timestamp) -> Result<Option<u64>, StoreError> {
        let mut state = self.state();
        let is_recent = |at: Option<Timestamp>, span| at.is_some_and(|at| now.since(at) < span);
        let is_under_way = state.under_way.as_ref().is_some_and(|work| !work.is_finished());
        if is_under_way || is_recent(state.newest, EXPORT_EVERY) || is_recent(state.tried, EXPORT_RETRY) {
            return Ok(None);
        }
        state.newest = store.exports_kept().newest;
        let began = *state.began.get_or_insert(now);
        let is_night = self.is_night.load(Ordering::Relaxed);
        let is_late = now.since(state.newest.unwrap_or(began)) >= EXPORT_LATEST;
        if !is_night && !is_late {
            return Ok(None);
        }
        let memo = store.memo()?;
        // Before its first sweep has come to its end a ledger knows less than an export that may be needed still.
        let Some(swept) = memo.swept.filter(|_| memo.sweep.is_none() && !memo.is_sweep_due) else { return Ok(None) };
        let is_swept_since = state.newest.is_none_or(|newest| swept > newest && now.since(newest) >= EXPORT_EVERY);
        Ok(if is_late || is_swept_since { Some(store.counters()?.entries) } else { None })
    }

    async fn export_and_prune(&self, store: &dyn StateStore, now: Timestamp) {
        let kept = store.keep_export(now, Arc::clone(&self.is_stopped)).await;
        if self.is_stopped.load(Ordering::Relaxed) {
            return;
        }
        let trouble = kept.err().map(|error| {
            tracing::warn!("the daily export could not be made: {error}");
            format!("{error}; the next attempt is in an hour")
        });
        {
            let mut state = self.state();
            if trouble.is_none() {
                state.newest = Some(now);
                self.is_night.store(false, Ordering::Relaxed);
            }
            state.trouble = trouble;
        }
        let before = now.minus(Duration::from_secs(u64::from(HISTORY_DAYS) * 86_400));
        loop {
            match store.prune_history(before, PRUNE_STEP).await {
                Ok(pruned) if pruned.is_complete => return,
                Ok(_) if self.is_stopped.load(Ordering::Relaxed) => return,
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return tracing::warn!("old history could not be pruned: {error}"),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
