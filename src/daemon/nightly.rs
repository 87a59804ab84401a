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
pub(super) struct Nightly {
    /// Entries exported between two cycles at most.
    inline_max: u64,
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

impl Default for Nightly {
    fn default() -> Self {
        Nightly {
            inline_max: EXPORT_INLINE_MAX,
            is_stopped: Arc::default(),
            is_night: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }
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
            Ok(Some(entries)) => entries <= self.inline_max,
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{EXPORT_LATEST, EXPORT_RETRY, Nightly};
    use crate::model::Timestamp;
    use crate::ports::{ActionKind, Batch, HistoryLine, Memo, Ports};
    use crate::sim::{DirectCrm, DirectCrmSettings, DirectPortal, SimClock, World};
    use crate::store::exports::EXPORT_EVERY;

    struct Stage {
        state: tempfile::TempDir,
        ports: Ports,
        clock: SimClock,
        nightly: Arc<Nightly>,
    }

    impl Stage {
        fn new() -> Stage {
            let state = tempfile::tempdir().unwrap();
            let clock = SimClock::paused(Timestamp::from_seconds(1_795_000_000));
            let world = Arc::new(std::sync::Mutex::new(World::new(1, clock.clone(), Default::default())));
            let ports = Ports {
                portal: Arc::new(DirectPortal::new(world.clone())),
                crm: Arc::new(DirectCrm::new(world, DirectCrmSettings::default())),
                store: Arc::new(crate::store::open(state.path(), 1 << 20).unwrap()),
                clock: Arc::new(clock.clone()),
            };
            Stage { state, ports, clock, nightly: Arc::default() }
        }

        /// A sweep has come to its end now, or is under way.
        async fn swept(&self, is_over: bool) {
            let memo = Memo { swept: Some(self.clock.at()), is_sweep_due: !is_over, ..Memo::default() };
            self.ports.store.record(Batch { memo: Some(memo), ..Batch::default() }).await.unwrap();
        }

        /// The number of exports after so long and one more look.
        async fn exports_after(&self, pause: Duration) -> u64 {
            self.clock.advance(pause);
            self.nightly.work(&self.ports, false).await;
            self.nightly.status(self.ports.store.as_ref()).count
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn an_export_follows_the_nightly_sweep_once() {
        let stage = Stage::new();
        stage.swept(true).await;
        assert_eq!(stage.exports_after(MINUTE).await, 0, "it is not night");
        stage.nightly.begin();
        stage.swept(false).await;
        assert_eq!(stage.exports_after(MINUTE).await, 0, "the sweep is under way");
        stage.swept(true).await;
        assert_eq!(stage.exports_after(MINUTE).await, 1);
        assert_eq!(stage.exports_after(MINUTE).await, 1);
        stage.nightly.begin();
        stage.swept(true).await;
        assert_eq!(stage.exports_after(MINUTE).await, 1, "one a day, however often it is swept");
        stage.swept(true).await;
        assert_eq!(stage.exports_after(EXPORT_EVERY).await, 2);
        assert_eq!(stage.exports_after(EXPORT_EVERY).await, 2);
        assert_eq!(stage.exports_after(EXPORT_LATEST).await, 3, "late, whatever the schedule says");
    }

    #[tokio::test]
    async fn a_failed_export_is_a_warning_and_tried_again() {
        let stage = Stage::new();
        let exports = stage.state.path().join("keep/exports");
        std::fs::write(&exports, "in the way").unwrap();
        stage.nightly.begin();
        stage.swept(true).await;
        assert_eq!(stage.exports_after(MINUTE).await, 0);
        let trouble = || stage.nightly.status(stage.ports.store.as_ref()).trouble;
        assert!(trouble().unwrap().contains("the next attempt is in an hour"));
        std::fs::remove_file(&exports).unwrap();
        assert_eq!(stage.exports_after(MINUTE).await, 0, "not at once");
        assert_eq!(stage.exports_after(EXPORT_RETRY).await, 1);
        assert_eq!(trouble(), None);
    }

    #[tokio::test]
    async fn a_large_ledger_is_exported_beside_the_cycles_and_a_stop_waits_for_its_end() {
        let stage = Stage::new();
        let nightly = Arc::new(Nightly { inline_max: 0, ..Nightly::default() });
        let entries = vec![(crate::model::ReferralId::new(uuid::Uuid::nil()), Some(crate::store::sample_entry()))];
        stage.ports.store.record(Batch { entries, ..Batch::default() }).await.unwrap();
        nightly.begin();
        stage.swept(true).await;
        nightly.work(&stage.ports, false).await;
        assert_eq!(nightly.status(stage.ports.store.as_ref()).count, 0, "it has hardly begun");
        while nightly.status(stage.ports.store.as_ref()).count == 0 {
            tokio::task::yield_now().await;
        }
        nightly.stop().await;
    }

    #[tokio::test]
    async fn old_history_goes_with_the_night() {
        let stage = Stage::new();
        let line = |at| HistoryLine {
            referral: crate::model::ReferralId::new(uuid::Uuid::nil()),
            at,
            kind: ActionKind::Update,
            outcome: "done".to_owned(),
        };
        let old = line(stage.clock.at().minus(Duration::from_secs(401 * 86_400)));
        let young = line(stage.clock.at().minus(Duration::from_secs(399 * 86_400)));
        for history in [vec![old], vec![young.clone()]] {
            stage.ports.store.record(Batch { history, ..Batch::default() }).await.unwrap();
        }
        stage.nightly.begin();
        stage.swept(true).await;
        assert_eq!(stage.exports_after(MINUTE).await, 1);
        assert_eq!(stage.ports.store.history(young.referral).unwrap(), [young]);
    }
}
