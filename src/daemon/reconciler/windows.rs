//! Closed windows: what a service said in `Retry-After` is on record as soon as it is known, so that whoever comes after a
//! kill waits for the rest of it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use super::Reconciler;
use crate::cycle::CycleError;
use crate::model::{Side, Timestamp};

/// Ends of closed windows, by side.
type Windows = BTreeMap<Side, Timestamp>;

impl Reconciler {
    /// Closes the lines for what is left of windows that a former process was told of. Once in a process: from then on the
    /// lines know better, whatever becomes of the local clock.
    fn restore_windows(&self) -> Result<(), CycleError> {
        if !self.has_windows.load(Ordering::Relaxed) {
            for (side, until) in self.ports.store.decisions()?.closed_until {
                self.ports.line(side).close_until(until);
            }
            self.has_windows.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Does something that asks the services, inside the windows that are on record, and puts every window they close
    /// meanwhile on record at once.
    pub(super) async fn keeping_windows<T>(
        &self,
        work: impl Future<Output = Result<T, CycleError>>,
    ) -> Result<T, CycleError> {
        self.restore_windows()?;
        let done = tokio::select! {
            biased;
            done = work => done,
            () = self.keep_windows() => unreachable!("it never ends"),
        };
        self.record_windows().await;
        done
    }

    /// Nobody waits for the end of a window after `stop`: the grace period is for writes that are in flight.
    pub(super) async fn patient_until<T>(&self, stop: &CancellationToken, work: impl Future<Output = T>) -> T {
        let stopped = async {
            stop.cancelled().await;
            [Side::Portal, Side::Crm].into_iter().for_each(|side| self.ports.line(side).lose_patience());
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            done = work => done,
            () = stopped => unreachable!("it never ends"),
        }
    }

    async fn keep_windows(&self) {
        self.record_windows().await;
        let mut known = self.windows();
        let (portal, crm) = (self.ports.portal.line(), self.ports.crm.line());
        loop {
            tokio::select! {
                until = portal.closed_beyond(known.get(&Side::Portal).copied()) => known.insert(Side::Portal, until),
                until = crm.closed_beyond(known.get(&Side::Crm).copied()) => known.insert(Side::Crm, until),
            };
            self.record_windows().await;
        }
    }

    async fn record_windows(&self) {
        let (windows, now) = (self.windows(), self.ports.clock.now());
        // What is over by the local clock may stand there; what the clock has stepped back before may not.
        let kept = self.ports.store.decisions().unwrap_or_default().closed_until;
        if windows == kept.into_iter().filter(|(_, until)| *until > now).collect() {
            return;
        }
        let recorded = self.ports.store.decide(Box::new(|decisions| decisions.closed_until = windows)).await;
        if let Err(error) = recorded {
            tracing::warn!("a service asked us to wait, and the next start would not know: {error}");
        }
    }

    /// Windows that are closed now.
    fn windows(&self) -> Windows {
        let closed = |side| Some((side, self.ports.line(side).closed_until()?));
        [Side::Portal, Side::Crm].into_iter().filter_map(closed).collect()
    }
}
