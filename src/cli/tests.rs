//! The commands with an engine that has nothing behind it.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser;
use tokio::sync::mpsc;

use super::arguments::{Arguments, Demo, Flags};
use super::build::{Build, Ground, Purpose, StartError};
use super::run::{End, serve};
use super::{Call, words};
use crate::config::HumanDuration;
use crate::control::{Client, Place};
use crate::cycle::report::Sentence;
use crate::cycle::{Forecast, Report};
use crate::daemon::fake::FakeEngine;
use crate::daemon::{Beside, DaemonSettings, DecisionAnswer, DecisionRequest, Engine, Prepared, Status};
use crate::lifecycle::{Notifier, Wish};
use crate::ports::StoreError;
use crate::telemetry::{LogFormat, LogSettings, TelemetryError};
use crate::trigger::Bell;
use crate::trigger::settings::ScheduleSettings;

struct Workshop {
    state: tempfile::TempDir,
    engine: Arc<FakeEngine>,
    refusal: Option<StoreError>,
    beside: Arc<FakeBeside>,
    purposes: Mutex<Vec<Purpose>>,
}

impl Workshop {
    fn with(engine: FakeEngine) -> Self {
        Workshop {
            state: tempfile::tempdir().expect("a directory"),
            engine: Arc::new(engine),
            refusal: None,
            beside: Arc::default(),
            purposes: Mutex::default(),
        }
    }

    async fn type_in(&self, line: &str) -> (u8, String, String) {
        let arguments = Arguments::try_parse_from(std::iter::once("referrald").chain(line.split_whitespace()));
        let (mut out, mut trouble) = (Vec::new(), Vec::new());
        let code = super::run(&arguments.expect(line), self, &mut out, &mut trouble).await;
        (code, words::plain(&String::from_utf8_lossy(&out)), words::plain(&String::from_utf8_lossy(&trouble)))
    }

    fn place(&self) -> Place {
        Place::new(None, None, self.state.path())
    }
}

/// Something beside the loop whose new configuration is in order.
#[derive(Default)]
struct FakeBeside {
    checked: AtomicUsize,
    taken_over: AtomicUsize,
}

impl Beside for FakeBeside {
    fn tell(&self, _: &mut Status) {}

    fn prepare(&self) -> Result<Prepared<'_>, Vec<String>> {
        self.checked.fetch_add(1, Ordering::SeqCst);
        let take_over = || {
            self.taken_over.fetch_add(1, Ordering::SeqCst);
        };
        Ok(Prepared::new(take_over, Vec::new()))
    }
}

#[async_trait]
impl Build for Workshop {
    fn ground(&self, flags: &Flags) -> Result<Ground, StartError> {
        if flags.config.as_deref() == Some(Path::new("bad.toml")) {
            return Err(StartError::Configuration("writes: unknown word".into()));
        }
        let thirty_seconds = HumanDuration::from_seconds(30);
        Ok(Ground {
            state_directory: self.state.path().to_owned(),
            daemon: DaemonSettings {
                work_budget: thirty_seconds,
                grace_period: thirty_seconds,
                runtime_directory: None,
            },
            schedule: ScheduleSettings {
                reconcile: "* * * * * *".into(),
                sweep: "0 30 3 * * *".into(),
                time_zone: "UTC".into(),
                sweep_on_start_after: HumanDuration::from_seconds(3600),
            },
            log: LogSettings { level: "info".into(), format: LogFormat::Auto },
            alarm: crate::alarm::Configured {
                alarm: crate::config::Settings::defaults().alarm,
                http: crate::config::Settings::defaults().http,
                lag_max: Duration::from_secs(900),
            },
            observability: crate::config::Settings::defaults().observability,
        })
    }

    fn start_log(&self, _log: &LogSettings) -> Result<(), TelemetryError> {
        Ok(())
    }

    async fn engine(&self, _flags: &Flags, purpose: Purpose) -> Result<Arc<dyn Engine>, StartError> {
        self.purposes.lock().expect("not poisoned").push(purpose);
        match &self.refusal {
            Some(error) => Err(error.clone().into()),
            None => Ok(self.engine.clone()),
        }
    }

    async fn webhook(&self, _: &Flags, _: &Bell) -> Result<Option<Arc<dyn Beside>>, StartError> {
        Ok(Some(self.beside.clone()))
    }

    fn config_check(&self, flags: &Flags, _: bool, out: &mut dyn Write) -> std::io::Result<u8> {
        writeln!(out, "checked {}", flags.config.clone().unwrap_or_default().display())?;
        Ok(78)
    }

    fn config_show(
        &self,
        _: &Flags,
        _: bool,
        with_origin: bool,
        out: &mut dyn Write,
        _: &mut dyn Write,
    ) -> std::io::Result<u8> {
        writeln!(out, "shown, origin {with_origin}")?;
        Ok(0)
    }

    async fn demo(&self, demo: Demo, _: bool, out: &mut (dyn Write + Send)) -> std::io::Result<u8> {
        writeln!(out, "{demo:?}")?;
        Ok(0)
    }
}

fn sentence(text: &str) -> Sentence {
    Sentence { referral: "r".into(), kind: "create".into(), text: text.into() }
}

#[tokio::test]
async fn once_runs_one_cycle_and_stops_in_order() {
    let workshop = Workshop::with(FakeEngine::default());
    let (code, out, _) = workshop.type_in("once").await;
    assert_eq!((code, workshop.engine.cycles()), (0, 1));
    assert_eq!(workshop.engine.shutdowns.load(Ordering::SeqCst), 1);
    assert!(out.contains("nothing was written"), "{out}");
}

#[tokio::test]
async fn once_prints_its_report_as_json() {
    let report = Report { pending: 3, is_complete: true, ..Report::default() };
    let workshop = Workshop::with(FakeEngine { otherwise: report.clone(), ..FakeEngine::default() });
    let (code, out, _) = workshop.type_in("--json once").await;
    assert_eq!((code, serde_json::from_str::<Report>(&out).expect("a report")), (0, report));
}

#[tokio::test]
async fn a_plan_is_looked_at_and_never_closes_the_ledger_as_if_it_had_run() {
    let forecast = Forecast { actions: vec![sentence("create a lead")], ..Forecast::default() };
    let workshop = Workshop::with(FakeEngine { forecast, ..FakeEngine::default() });
    let (code, out, _) = workshop.type_in("plan").await;
    assert_eq!(code, 3);
    assert!(out.contains("would write, create (1)\n  create a lead"), "{out}");
    assert_eq!(*workshop.purposes.lock().expect("not poisoned"), [Purpose::Forecast]);
    assert_eq!(workshop.engine.cycles() + workshop.engine.shutdowns.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_held_state_is_75_and_a_bad_configuration_78() {
    let mut workshop = Workshop::with(FakeEngine::default());
    workshop.refusal = Some(StoreError::Locked { directory: "/state".into(), pid: Some(7) });
    for command in ["once", "run", "status", "plan", "suspend"] {
        let (code, out, trouble) = workshop.type_in(command).await;
        assert_eq!((code, out.as_str()), (75, ""), "{command}");
        assert!(trouble.contains("another daemon holds the state in /state (process 7)"), "{command}: {trouble}");
        let (code, _, trouble) = workshop.type_in(&format!("{command} --config bad.toml")).await;
        assert_eq!(code, 78, "{command}");
        assert!(trouble.contains("writes: unknown word"), "{command}: {trouble}");
    }
}

#[tokio::test]
async fn without_a_daemon_a_decision_goes_to_the_ledger() {
    let workshop = Workshop::with(FakeEngine::default());
    assert_eq!(workshop.type_in("suspend").await.0, 0);
    assert_eq!(*workshop.engine.decisions.lock().expect("not poisoned"), [DecisionRequest::Suspend]);
    assert_eq!(*workshop.purposes.lock().expect("not poisoned"), [Purpose::Decision]);
}

#[tokio::test]
async fn a_decision_about_nothing_fails_with_its_sentence() {
    let answer = DecisionAnswer { text: "no brake has this digest".into(), ..DecisionAnswer::default() };
    let workshop = Workshop::with(FakeEngine { answer, ..FakeEngine::default() });
    let (code, out, _) = workshop.type_in("approve 1234").await;
    assert_eq!((code, out.as_str()), (1, "no brake has this digest\n"));
}

#[tokio::test]
async fn reconcile_without_a_daemon_says_what_to_do() {
    let (code, _, trouble) = Workshop::with(FakeEngine::default()).type_in("reconcile").await;
    assert_eq!(code, 1);
    assert!(trouble.contains("referrald once"), "{trouble}");
}

#[tokio::test]
async fn config_and_demo_get_what_was_typed() {
    let workshop = Workshop::with(FakeEngine::default());
    let (code, out, _) = workshop.type_in("config check --config a.toml").await;
    assert_eq!((code, out.as_str()), (78, "checked a.toml\n"));
    assert_eq!(workshop.type_in("config show --origin").await.1, "shown, origin true\n");
    assert_eq!(workshop.type_in("demo --seed 9").await.1, "Demo { referrals: 20, seed: 9 }\n");
}

/// Starts the daemon, runs `visit`, asks it to stop.
async fn with_daemon<T>(
    workshop: &Workshop,
    visit: impl AsyncFnOnce(&mpsc::Sender<Wish>) -> T,
) -> (T, End, Vec<String>) {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let kept = notes.clone();
    let notifier = Notifier::new(move |states| {
        kept.lock().expect("not poisoned").extend(states.iter().map(ToString::to_string));
    });
    let (sender, wishes) = mpsc::channel(4);
    let call = Call { build: workshop, flags: &Flags::default(), is_json: false };
    let ground = workshop.ground(&Flags::default()).expect("sound");
    let serving = serve(&call, ground, wishes, notifier);
    let visiting = async {
        while Client::find(&workshop.place()).await.expect("no trouble").is_none() {
            tokio::task::yield_now().await;
        }
        let seen = visit(&sender).await;
        sender.send(Wish::Stop).await.expect("heard");
        seen
    };
    let (end, seen) = tokio::join!(serving, visiting);
    let notes = notes.lock().expect("not poisoned").clone();
    (seen, end.expect("no failure"), notes)
}

#[tokio::test]
async fn a_running_daemon_answers_commands_while_a_cycle_runs_and_then_stops_in_order() {
    let status = Status { version: "9.9.9".into(), ..Status::default() };
    let workshop = Workshop::with(FakeEngine { status, duration: Duration::from_secs(3600), ..FakeEngine::default() });
    let (screens, end, notes) = with_daemon(&workshop, async |_| {
        while workshop.engine.running.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        (workshop.type_in("status").await, workshop.type_in("suspend").await, workshop.type_in("reconcile").await)
    })
    .await;
    let (status, suspend, reconcile) = screens;
    assert_eq!((status.0, suspend.0, reconcile.0), (0, 0, 0));
    assert!(status.1.contains("referrald 9.9.9: running"), "{}", status.1);
    assert_eq!(*workshop.purposes.lock().expect("not poisoned"), [Purpose::Cycles], "the ledger was opened once");
    assert_eq!(end, End::InOrder);
    assert_eq!(workshop.engine.shutdowns.load(Ordering::SeqCst), 1);
    let told: Vec<&str> = notes.iter().map(String::as_str).filter(|note| !note.starts_with("STATUS=")).collect();
    assert_eq!(told.first(), Some(&"READY=1"), "{notes:?}");
    assert_eq!(told.last(), Some(&"STOPPING=1"), "{notes:?}");
    assert!(Client::find(&workshop.place()).await.expect("no trouble").is_none(), "the socket is gone");
}

#[tokio::test]
async fn a_second_daemon_on_the_same_socket_is_refused() {
    let workshop = Workshop::with(FakeEngine::default());
    let (code, end, _) = with_daemon(&workshop, async |_| workshop.type_in("run").await.0).await;
    assert_eq!((code, end), (75, End::InOrder));
}

#[tokio::test]
async fn a_reload_is_taken_over_by_all_or_by_nobody_and_what_needs_a_restart_is_named() {
    for (outcome, words, times) in [
        (Ok(vec![]), "is in force", 1),
        (Ok(vec!["log.level".to_owned()]), "all but log.level: restart the daemon", 1),
        (Err(vec!["writes: unknown word".to_owned()]), "old one stays", 0),
    ] {
        let workshop = Workshop::with(FakeEngine::default());
        workshop.engine.reload_comes_to(outcome);
        let (_, end, notes) = with_daemon(&workshop, async |wishes| {
            wishes.send(Wish::Reload).await.expect("heard");
            while wishes.capacity() < wishes.max_capacity() {
                tokio::task::yield_now().await;
            }
            // Heard; a round trip gives it time to be answered.
            workshop.type_in("status").await
        })
        .await;
        assert_eq!(end, End::InOrder);
        let reloading = notes.iter().position(|note| note == "RELOADING=1").expect("told");
        assert!(notes[reloading..].iter().any(|note| note.contains(words)), "{notes:?}");
        assert!(notes[reloading..].iter().any(|note| note == "READY=1"), "{notes:?}");
        let beside = &workshop.beside;
        assert_eq!(beside.checked.load(Ordering::SeqCst), 1, "everybody is asked");
        let taken_over = [beside.taken_over.load(Ordering::SeqCst), workshop.engine.reloads.load(Ordering::SeqCst)];
        assert_eq!(taken_over, [times, times], "{words}");
    }
}

#[tokio::test]
async fn a_second_stop_ends_the_daemon_at_once() {
    let stubborn = FakeEngine {
        duration: Duration::from_secs(3600),
        stubbornness: Duration::from_secs(3600),
        ..FakeEngine::default()
    };
    let workshop = Workshop::with(stubborn);
    let (_, end, _) = with_daemon(&workshop, async |wishes| {
        while workshop.engine.running.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        wishes.send(Wish::Stop).await.expect("heard");
    })
    .await;
    assert_eq!(end, End::AtOnce);
    assert_eq!(workshop.engine.shutdowns.load(Ordering::SeqCst), 0, "nothing claims a clean stop");
}
