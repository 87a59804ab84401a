//! An engine without anything behind it, for tests of the daemon, the control socket and the commands.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::beside::Prepared;
use super::engine::{DecisionAnswer, DecisionRequest, Detail, Engine};
use super::status::Status;
use crate::cycle::{Budget, CycleError, Explanation, Forecast, Report};
use crate::model::{ReferralId, Timestamp};
use crate::ports::{ActionKind, Check, HistoryLine};

/// What the next cycle does.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// Gives this report.
    Report(Box<Report>),
    /// Fails.
    Fail(CycleError),
    /// Panics.
    Panic,
}

/// Counts, and plays a script.
pub(crate) struct FakeEngine {
    pub(crate) cycles: AtomicUsize,
    pub(crate) running: AtomicUsize,
    pub(crate) side_by_side: AtomicUsize,
    pub(crate) shutdowns: AtomicUsize,
    pub(crate) sweeps: AtomicUsize,
    pub(crate) hurries: AtomicUsize,
    pub(crate) duration: Duration,
    /// How long a cycle goes on after a request to stop.
    pub(crate) stubbornness: Duration,
    pub(crate) script: Mutex<Vec<Script>>,
    pub(crate) otherwise: Report,
    pub(crate) forecast: Forecast,
    pub(crate) status: Status,
    /// A status waits for this, as for a disk.
    pub(crate) status_gate: Option<std::sync::Arc<Mutex<()>>>,
    pub(crate) answer: DecisionAnswer,
    pub(crate) decisions: Mutex<Vec<DecisionRequest>>,
    /// What a reload comes to: keys that need a restart, or problems.
    pub(crate) reload: Mutex<Result<Vec<String>, Vec<String>>>,
    pub(crate) reloads: AtomicUsize,
}

impl Default for FakeEngine {
    fn default() -> Self {
        FakeEngine {
            cycles: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            side_by_side: AtomicUsize::new(0),
            shutdowns: AtomicUsize::new(0),
            sweeps: AtomicUsize::new(0),
            hurries: AtomicUsize::new(0),
            duration: Duration::ZERO,
            stubbornness: Duration::ZERO,
            script: Mutex::default(),
            otherwise: Report { is_complete: true, ..Report::default() },
            forecast: Forecast::default(),
            status: Status::default(),
            status_gate: None,
            answer: DecisionAnswer { is_done: true, text: "done".to_owned(), ..DecisionAnswer::default() },
            decisions: Mutex::default(),
            reload: Mutex::new(Ok(Vec::new())),
            reloads: AtomicUsize::new(0),
        }
    }
}

impl FakeEngine {
    /// Plays these cycles first.
    pub(crate) fn playing(script: impl IntoIterator<Item = Script>) -> Self {
        let mut script: Vec<Script> = script.into_iter().collect();
        script.reverse();
        FakeEngine { script: Mutex::new(script), ..FakeEngine::default() }
    }

    pub(crate) fn reload_comes_to(&self, outcome: Result<Vec<String>, Vec<String>>) {
        *self.reload.lock().expect("not poisoned") = outcome;
    }

    pub(crate) fn cycles(&self) -> usize {
        self.cycles.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn cycle(&self, _budget: Budget, stop: &CancellationToken) -> Result<Report, CycleError> {
        self.cycles.fetch_add(1, Ordering::SeqCst);
        if self.running.fetch_add(1, Ordering::SeqCst) > 0 {
            self.side_by_side.fetch_add(1, Ordering::SeqCst);
        }
        tokio::select! {
            () = tokio::time::sleep(self.duration) => {}
            () = stop.cancelled() => tokio::time::sleep(self.stubbornness).await,
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        let next = self.script.lock().expect("not poisoned").pop();
        match next {
            Some(Script::Report(report)) => Ok(*report),
            Some(Script::Fail(error)) => Err(error),
            Some(Script::Panic) => panic!("a value that must not be told"),
            None => Ok(self.otherwise.clone()),
        }
    }

    async fn forecast(&self, _detail: Detail, _stop: &CancellationToken) -> Result<Forecast, CycleError> {
        Ok(self.forecast.clone())
    }

    async fn explain(
        &self,
        id: uuid::Uuid,
        _detail: Detail,
        _stop: &CancellationToken,
    ) -> Result<Explanation, CycleError> {
        Ok(Explanation { asked: id.to_string(), ..Explanation::default() })
    }

    async fn status(&self) -> Result<Status, CycleError> {
        let _open = self.status_gate.as_ref().map(|gate| gate.lock());
        Ok(self.status.clone())
    }

    async fn decide(&self, request: DecisionRequest) -> Result<DecisionAnswer, CycleError> {
        self.decisions.lock().expect("not poisoned").push(request);
        Ok(self.answer.clone())
    }

    fn ask_for_sweep(&self) {
        self.sweeps.fetch_add(1, Ordering::SeqCst);
    }

    fn hurry(&self) {
        self.hurries.fetch_add(1, Ordering::SeqCst);
    }

    fn prepare(&self) -> Result<Prepared<'_>, Vec<String>> {
        let later = self.reload.lock().expect("not poisoned").clone()?;
        let take_over = || {
            self.reloads.fetch_add(1, Ordering::SeqCst);
        };
        Ok(Prepared::new(take_over, later))
    }

    async fn history(&self, id: ReferralId) -> Result<Vec<HistoryLine>, CycleError> {
        let kind = ActionKind::Update;
        let line =
            HistoryLine { referral: id, at: Timestamp::EPOCH, kind, outcome: "done company:referral".to_owned() };
        Ok(vec![line])
    }

    async fn check(&self) -> Result<Check, CycleError> {
        Ok(Check { entries: 7, ..Check::default() })
    }

    async fn export(&self, mut out: Box<dyn std::io::Write + Send>) -> Result<u64, CycleError> {
        let text = "a line\n".repeat(30_000);
        let written = tokio::task::spawn_blocking(move || out.write_all(text.as_bytes())).await;
        written.expect("it does not panic").expect("somebody listens");
        Ok(30_000)
    }

    async fn shutdown(&self) {
        self.shutdowns.fetch_add(1, Ordering::SeqCst);
    }
}
