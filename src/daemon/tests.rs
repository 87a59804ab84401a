//! What the loop promises, with an engine that has nothing behind it, on a paused clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fake::{FakeEngine, Script};
use super::{Daemon, DaemonSettings, Ending, Pulse};
use crate::config::HumanDuration;
use crate::cycle::{CycleError, Report};
use crate::model::Side;
use crate::ports::StoreError;
use crate::trigger::Bell;

fn settings() -> watch::Receiver<DaemonSettings> {
    let thirty_seconds = HumanDuration::from_seconds(30);
    let settings =
        DaemonSettings { work_budget: thirty_seconds, grace_period: thirty_seconds, runtime_directory: None };
    watch::channel(settings).1
}

struct Running {
    engine: Arc<FakeEngine>,
    bell: Bell,
    stop: CancellationToken,
    daemon: JoinHandle<Ending>,
}

impl Running {
    fn start(engine: FakeEngine) -> Self {
        let (engine, bell, stop) = (Arc::new(engine), Bell::new(), CancellationToken::new());
        let daemon = Daemon {
            engine: engine.clone(),
            bell: bell.clone(),
            pulse: Pulse::new(),
            settings: settings(),
            silence_max: Box::new(|| Duration::from_secs(7200)),
            tell: Box::new(|_| {}),
        };
        let token = stop.clone();
        let daemon = tokio::spawn(async move { daemon.run(&token).await });
        Running { engine, bell, stop, daemon }
    }

    async fn end(self) -> (Ending, usize) {
        self.stop.cancel();
        let ending = self.daemon.await.expect("the loop does not panic");
        assert_eq!(self.engine.side_by_side.load(Ordering::SeqCst), 0, "cycles ran side by side");
        (ending, self.engine.cycles())
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn any_number_of_rings_during_a_cycle_cause_exactly_one_more() {
    let running = Running::start(FakeEngine { duration: Duration::from_secs(10), ..FakeEngine::default() });
    seconds(2).await;
    assert_eq!(running.engine.cycles(), 1, "the first cycle comes by itself");
    for _ in 0..50 {
        running.bell.ring();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    seconds(100).await;
    assert_eq!(running.end().await, (Ending::Orderly, 2));
}

#[tokio::test(start_paused = true)]
async fn a_ring_during_a_cycle_hurries_that_one_and_is_answered_by_the_next() {
    let running = Running::start(FakeEngine { duration: Duration::from_secs(10), ..FakeEngine::default() });
    seconds(3).await;
    assert_eq!(running.engine.hurries.load(std::sync::atomic::Ordering::SeqCst), 0, "its own ring is no hurry");
    running.bell.ring();
    seconds(1).await;
    assert_eq!(running.engine.hurries.load(std::sync::atomic::Ordering::SeqCst), 1);
    seconds(100).await;
    assert_eq!(running.engine.hurries.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(running.end().await, (Ending::Orderly, 2));
}

#[tokio::test(start_paused = true)]
async fn without_a_ring_nothing_runs() {
    let running = Running::start(FakeEngine::default());
    seconds(3600).await;
    assert_eq!(running.end().await, (Ending::Orderly, 1));
}

#[tokio::test(start_paused = true)]
async fn a_silent_schedule_does_not_stop_the_daemon() {
    let running = Running::start(FakeEngine::default());
    seconds(7203).await;
    assert_eq!(running.end().await, (Ending::Orderly, 2));
}

#[tokio::test(start_paused = true)]
async fn a_cycle_that_panics_does_not_end_the_daemon_and_is_tried_again_after_a_pause() {
    let running = Running::start(FakeEngine::playing([Script::Panic]));
    seconds(3).await;
    running.bell.ring();
    seconds(1).await;
    assert_eq!(running.engine.cycles(), 1, "not before the pause is over");
    seconds(4).await;
    assert_eq!(running.engine.cycles(), 2);
    seconds(300).await;
    assert_eq!(running.end().await, (Ending::Orderly, 2));
}

#[tokio::test(start_paused = true)]
async fn a_failing_ledger_is_tried_ever_more_seldom_however_often_the_bell_rings() {
    let error = CycleError::Store(StoreError::Failed { reason: "disk full".to_owned() });
    let running = Running::start(FakeEngine::playing(vec![Script::Fail(error); 9]));
    let mut tries = Vec::new();
    for _ in 0..262 {
        running.bell.ring();
        seconds(1).await;
        tries.push(running.engine.cycles());
    }
    let at = |second: usize| tries[second];
    // At 0, 5, 15, 35, 75, 135, 195 and 255 s, and up to two seconds of jitter at the start.
    assert_eq!([at(4), at(14), at(34), at(74), at(134), at(194), at(254)], [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!([at(8), at(18), at(38), at(78), at(138), at(198), at(258)], [2, 3, 4, 5, 6, 7, 8]);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn work_that_is_left_goes_on_at_once() {
    let unfinished = Report { is_complete: false, duration_ms: 30_100, ..Report::default() };
    let running = Running::start(FakeEngine::playing(vec![Script::Report(Box::new(unfinished)); 3]));
    seconds(5).await;
    assert_eq!(running.end().await, (Ending::Orderly, 4));
}

#[tokio::test(start_paused = true)]
async fn work_that_something_else_holds_up_waits_for_the_next_tick() {
    let held_up = Report {
        is_complete: false,
        duration_ms: 30_100,
        sides: [(Side::Portal, "Partner Center does not answer".to_owned())].into(),
        ..Report::default()
    };
    let ended_early = Report { is_complete: false, leads_seen: 5000, duration_ms: 900, ..Report::default() };
    for report in [held_up, ended_early] {
        let running = Running::start(FakeEngine::playing([Script::Report(Box::new(report))]));
        seconds(600).await;
        assert_eq!(running.end().await, (Ending::Orderly, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_the_cycle_finish_its_writes() {
    let engine = FakeEngine {
        duration: Duration::from_secs(3600),
        stubbornness: Duration::from_secs(29),
        ..FakeEngine::default()
    };
    let running = Running::start(engine);
    seconds(3).await;
    let before = tokio::time::Instant::now();
    let engine = running.engine.clone();
    assert_eq!(running.end().await, (Ending::Orderly, 1));
    assert_eq!(before.elapsed().as_secs(), 29);
    assert_eq!(engine.running.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cycle_that_does_not_stop_is_abandoned_after_the_grace_period() {
    let engine = FakeEngine {
        duration: Duration::from_secs(3600),
        stubbornness: Duration::from_secs(3600),
        ..FakeEngine::default()
    };
    let running = Running::start(engine);
    seconds(3).await;
    let before = tokio::time::Instant::now();
    assert_eq!(running.end().await, (Ending::Abandoned, 1));
    assert_eq!(before.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_stop_before_the_first_cycle_runs_none() {
    let engine = Arc::new(FakeEngine::default());
    let stop = CancellationToken::new();
    stop.cancel();
    let daemon = Daemon {
        engine: engine.clone(),
        bell: Bell::new(),
        pulse: Pulse::new(),
        settings: settings(),
        silence_max: Box::new(|| Duration::from_secs(60)),
        tell: Box::new(|_| {}),
    };
    assert_eq!(daemon.run(&stop).await, Ending::Orderly);
    assert_eq!(engine.cycles(), 0);
}
