//! The loop: wait for the bell or the stop, run a cycle, tell what came of it.

pub mod beside;
mod chronicle;
pub mod engine;
pub mod findings;
mod nightly;
mod process;
pub mod pulse;
pub mod reconciler;
pub mod settings;
pub mod status;
mod story;

#[cfg(test)]
pub(crate) mod fake;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cycle::{Budget, CycleError, Report};
use crate::trigger::Bell;

pub use beside::{Beside, Prepared};
pub use engine::{DecisionAnswer, DecisionRequest, Detail, Engine, Which};
pub use pulse::Pulse;
pub use reconciler::{Reconciler, SCHEMA_AGE_DOUBTFUL};
pub use settings::DaemonSettings;
pub use status::Status;

use story::Story;

/// Pause between two cycles when the first left work behind: long enough to let others run, short enough not to show.
pub const MORE_WORK_PAUSE: Duration = Duration::from_millis(200);
/// Pause after the ledger failed or a cycle broke, before the next try; doubles with every further failure, so that a
/// hiccup costs little and a full disk is left alone.
pub const FAILURE_PAUSE: Duration = Duration::from_secs(5);
/// The longest such pause.
pub const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// The first cycle after a start comes within this time, at random, so that a fleet does not start as one.
pub const START_JITTER_MAX: Duration = Duration::from_secs(2);
/// A cycle that takes longer than this counts as stuck: the watchdog is no longer fed and systemd restarts us. Well over
/// the work budget plus the longest single call.
pub const STUCK_AFTER: Duration = Duration::from_secs(900);

/// What the loop needs.
pub struct Daemon {
    /// The reconcile core.
    pub engine: Arc<dyn Engine>,
    /// Rung by the schedule, the control socket and the loop itself.
    pub bell: Bell,
    /// Shows the watchdog that the loop is alive.
    pub pulse: Pulse,
    /// Limits; a reload may change them.
    pub settings: watch::Receiver<DaemonSettings>,
    /// How long the bell may be silent before the loop runs all the same: a dead scheduler must not be a dead daemon.
    pub silence_max: Box<dyn Fn() -> Duration + Send + Sync>,
    /// Told one line after each cycle, for `systemctl status`.
    pub tell: Box<dyn Fn(&str) + Send + Sync>,
}

/// How the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The last cycle finished its writes.
    Orderly,
    /// The grace period ran out with writes in flight. Their intents are on record; the next start reads them first.
    Abandoned,
}

impl Daemon {
    /// Runs cycles until `stop` is cancelled. One at a time, and only when the bell has rung.
    pub async fn run(&self, stop: &CancellationToken) -> Ending {
        let mut story = Story::default();
        let mut failures = 0;
        self.first_ring(stop).await;
        while !stop.is_cancelled() {
            let failure_pause = failure_pause(failures);
            failures += 1;
            let pause = match self.one_cycle(stop).await {
                Turn::Done(report) => {
                    failures = 0;
                    story.tell(&report);
                    (self.tell)(&story::line(&report));
                    has_more_work(&report, self.work_budget()).then_some(MORE_WORK_PAUSE)
                }
                Turn::Failed(error) => {
                    tracing::error!(%error, "the cycle ended early; the next try is in {} s", failure_pause.as_secs());
                    (self.tell)(&format!("the cycle ended early: {error}"));
                    Some(failure_pause)
                }
                Turn::Broken => {
                    tracing::error!(
                        "a cycle broke; this is a defect of referrald, please report the place named above; the next \
                         try is in {} s",
                        failure_pause.as_secs()
                    );
                    (self.tell)("the last cycle broke; see the log");
                    Some(failure_pause)
                }
                Turn::Abandoned => return Ending::Abandoned,
            };
            if let Some(pause) = pause {
                // Rings that come meanwhile are kept by the bell and answered by the same next cycle.
                self.bell.ring();
                unless(stop, tokio::time::sleep(pause)).await;
            }
            self.wait_for_ring(stop).await;
        }
        Ending::Orderly
    }

    fn work_budget(&self) -> Duration {
        self.settings.borrow().work_budget.get()
    }

    /// Waits a random part of [`START_JITTER_MAX`], then rings.
    async fn first_ring(&self, stop: &CancellationToken) {
        let jitter = START_JITTER_MAX.mul_f64(rand::random::<f64>());
        unless(stop, tokio::time::sleep(jitter)).await;
        // Takes a ring that came while waiting: one cycle answers both.
        self.bell.ring();
        unless(stop, self.bell.rung()).await;
    }

    async fn wait_for_ring(&self, stop: &CancellationToken) {
        let silence_max = (self.silence_max)();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.bell.rung() => {}
            () = tokio::time::sleep(silence_max) => {
                tracing::warn!(seconds = silence_max.as_secs(), "the schedule has been silent for two ticks; running all the same");
            }
        }
    }

    async fn one_cycle(&self, stop: &CancellationToken) -> Turn {
        let _beat = self.pulse.cycle();
        let budget = Budget::Work(self.work_budget());
        // The engine keeps its truth in the ledger, so a cycle that broke in the middle leaves nothing half-changed
        // that the next one would trust.
        let cycle = AssertUnwindSafe(self.engine.cycle(budget, stop)).catch_unwind();
        let out_of_grace = async {
            stop.cancelled().await;
            let grace_period = self.settings.borrow().grace_period.get();
            tokio::time::sleep(grace_period).await;
        };
        let ring = async {
            self.bell.rung().await;
            self.bell.ring(); // It still asks for the next cycle.
            self.engine.hurry();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = ring => unreachable!("it never ends"),
            result = cycle => match result {
                Ok(Ok(report)) => Turn::Done(Box::new(report)),
                Ok(Err(error)) => Turn::Failed(error),
                Err(_panic) => Turn::Broken,
            },
            () = out_of_grace => {
                tracing::warn!("writes were still in flight after the grace period; the next start reads them first");
                Turn::Abandoned
            }
        }
    }
}

/// What one turn of the loop gave.
enum Turn {
    Done(Box<Report>),
    Failed(CycleError),
    Broken,
    Abandoned,
}

/// Work was left because the budget ran out, and nothing but time stands in its way: go on at once, so that a first
/// import does not wait for the next tick. A cycle that left work for another reason ends early, and waits.
fn has_more_work(report: &Report, budget: Duration) -> bool {
    let ran_out = u128::from(report.duration_ms) >= budget.as_millis() / 2;
    !report.is_complete && ran_out && report.sides.is_empty() && report.writes_stopped.is_none()
}

/// How long to wait after a failure that came after so many others.
pub(crate) fn failure_pause(failures: u32) -> Duration {
    FAILURE_PAUSE.saturating_mul(1 << failures.min(10)).min(FAILURE_PAUSE_MAX)
}

async fn unless(stop: &CancellationToken, wait: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = wait => {}
    }
}

#[cfg(test)]
mod tests;
