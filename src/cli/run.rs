//! `referrald run`: the daemon.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::build::{Ground, Purpose, StartError};
use super::exit::Exit;
use super::{Call, Failure, place};
use crate::alarm::Alarm;
use crate::control::{PlaceError, Server};
use crate::daemon::{Daemon, Ending, Engine, Prepared, Pulse, STUCK_AFTER, failure_pause};
use crate::lifecycle::{self, Notifier, Wish};
use crate::model::Timestamp;
use crate::observability::Observability;
use crate::ports::StoreError;
use crate::trigger::Bell;
use crate::trigger::schedule::{Alarms, Schedules, Ticker};

/// What a start takes at most beside waiting for the disk: told to the service manager, which would give up otherwise.
const START_TIME_MAX: Duration = Duration::from_secs(90);

/// Bytes that are written to see whether a disk has room: as many as the ledger asks for at once, and more.
const PROBE_BYTES: usize = 1 << 20;

/// Runs until a signal asks to stop.
pub(super) async fn run(call: &Call<'_>) -> Result<Exit, Failure> {
    let ground = call.ground()?;
    call.build.start_log(&ground.log)?;
    // Listened to from the first moment: a stop while the ledger is being opened is a stop.
    let wishes = lifecycle::wishes().map_err(|error| Failure::Other(format!("signals cannot be heard: {error}")))?;
    match serve(call, ground, wishes, Notifier::systemd()).await? {
        End::InOrder => Ok(Exit::Fine),
        End::Locked => Ok(Exit::Locked),
        // Nothing is dropped or waited for: that is what the second signal asked.
        End::AtOnce => std::process::exit(i32::from(Exit::Failed.code())),
    }
}

/// How the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As asked.
    InOrder,
    /// Another daemon answers on the control socket.
    Locked,
    /// A second request to stop came before the first was done.
    AtOnce,
}

/// Runs the daemon until a wish asks to stop.
pub(super) async fn serve(
    call: &Call<'_>,
    ground: Ground,
    mut wishes: mpsc::Receiver<Wish>,
    notifier: Notifier,
) -> Result<End, Failure> {
    let schedules =
        ground.schedule.parse().map_err(|problems| Failure::Start(StartError::Configuration(problems.join("\n"))))?;
    let Some(engine) = opened(call, &ground, &mut wishes, &notifier).await? else {
        tracing::info!("stopped before the ledger was open");
        return Ok(End::InOrder);
    };

    let (bell, stop, pulse) = (Bell::new(), CancellationToken::new(), Pulse::new());
    let server = match Server::start(&place(&ground), engine.clone(), bell.clone()).await {
        Ok(server) => server,
        Err(error) => {
            engine.shutdown().await;
            return match error {
                PlaceError::Taken(_) => {
                    tracing::error!("{error}");
                    Ok(End::Locked)
                }
                PlaceError::InTheWay(_) | PlaceError::Failed { .. } => Err(Failure::Other(error.to_string())),
            };
        }
    };
    // Not needed for being ready: without it cycles come by the clock.
    let beside = match call.build.webhook(call.flags, &bell).await {
        Ok(beside) => beside,
        Err(error) => {
            tracing::error!("the webhook did not start, polling goes on: {error}");
            None
        }
    };
    if let Some(beside) = &beside {
        engine.set_beside(beside.clone());
    }
    // It shows and never decides, so nothing waits for it either.
    let (shown, shown_seen) = watch::channel(ground.observability.clone());
    let observability = Observability::start(shown_seen, engine.clone(), pulse.clone());
    engine.set_beside(observability.beside());
    let (watched, watched_seen) = watch::channel(ground.alarm.clone());
    let alarm = Alarm::start(watched_seen, engine.clone(), &ground.state_directory);
    engine.set_beside(alarm.beside());
    let alarms = Alarms::new(schedules, now());
    let (rung_by_clock, swept_by_clock) = (bell.clone(), engine.clone());
    let ticker = Ticker::start(alarms.clone(), move |due| {
        if due.sweep {
            swept_by_clock.ask_for_sweep();
            rung_by_clock.ring();
        }
        if due.reconcile {
            rung_by_clock.ring();
        }
    });
    let ticker = match ticker.await {
        Ok(ticker) => Some(ticker),
        Err(error) => {
            // The loop runs by itself when the bell is silent for two ticks, so this is a degraded day, not the end.
            tracing::error!("{error}; cycles come at every second tick only, and no sweeps; restart the daemon");
            None
        }
    };

    let (settings, settings_seen) = watch::channel(ground.daemon.clone());
    let (tell, clock) = (notifier.clone(), alarms.clone());
    let daemon = Daemon {
        engine: engine.clone(),
        bell,
        pulse: pulse.clone(),
        settings: settings_seen,
        silence_max: Box::new(move || clock.silence_max(now())),
        tell: Box::new(move |text| tell.status(text)),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "ready; the control socket is {}, the state is in {}",
        server.path().display(),
        ground.state_directory.display()
    );
    notifier.ready();

    let watchdog = lifecycle::feed_watchdog(notifier.clone(), sd_notify::watchdog_enabled(), pulse, STUCK_AFTER);
    let reload = async || {
        let (schedules, changed) = reread(call)?;
        // Everybody is asked before anybody takes anything over: half a configuration is one that nobody wrote.
        let mut problems = Vec::new();
        let mut checked = Vec::new();
        for prepared in [engine.prepare()].into_iter().chain(beside.iter().map(|beside| beside.prepare())) {
            match prepared {
                Ok(prepared) => checked.push(prepared),
                Err(more) => problems.extend(more),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let later = checked.into_iter().flat_map(Prepared::take_over).collect();
        alarms.set(schedules, now());
        settings.send_replace(changed.daemon);
        shown.send_replace(changed.observability);
        watched.send_replace(changed.alarm);
        Ok(later)
    };
    let obeying = lifecycle::obey(wishes, reload, notifier.clone(), stop.clone());
    let working = async {
        let ending = daemon.run(&stop).await;
        // Commands that come now open the ledger themselves, once it is free.
        drop(server);
        if let Some(ticker) = ticker {
            ticker.shutdown().await;
        }
        if ending == Ending::Orderly {
            engine.shutdown().await;
        }
        ending
    };
    tokio::select! {
        ending = working => {
            match ending {
                Ending::Orderly => tracing::info!("stopped in order"),
                Ending::Abandoned => tracing::warn!("stopped with writes in flight"),
            }
            Ok(End::InOrder)
        }
        () = obeying => {
            tracing::warn!("stopped at once, as asked; writes may be in flight, the next start reads them first");
            Ok(End::AtOnce)
        }
        never = watchdog => match never {},
    }
}

/// Opens the ledger. A disk that takes no byte now is waited for, since without memory nothing may be sent; anything else ends
/// the start. None: asked to stop meanwhile.
async fn opened(
    call: &Call<'_>,
    ground: &Ground,
    wishes: &mut mpsc::Receiver<Wish>,
    notifier: &Notifier,
) -> Result<Option<Arc<dyn Engine>>, Failure> {
    let mut failures = 0;
    loop {
        notifier.status("opening the ledger");
        let error = match call.build.engine(call.flags, Purpose::Cycles).await {
            Ok(engine) => return Ok(Some(engine)),
            Err(StartError::Store(error @ StoreError::Failed { .. }))
                if is_full_or_read_only(&ground.state_directory) =>
            {
                error
            }
            Err(error) => return Err(error.into()),
        };
        let pause = failure_pause(failures);
        failures += 1;
        tracing::error!("{error}; nothing is read or sent until then, the next try is in {} s", pause.as_secs());
        notifier.status(&format!("waiting for the disk: {error}"));
        notifier.starts_within(pause + START_TIME_MAX);
        tokio::select! {
            wish = wishes.recv() => match wish {
                Some(Wish::Stop) | None => return Ok(None),
                Some(Wish::Reload) => {} // Looked at again at once.
            },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// True when the disk under a folder is full or read-only: room or a remount brings it back, and no setting is wrong.
fn is_full_or_read_only(folder: &Path) -> bool {
    let probe = folder.join(format!("probe-{}", std::process::id()));
    let written = std::fs::write(&probe, vec![0; PROBE_BYTES]);
    let _ = std::fs::remove_file(&probe); // Where it was made, it can be removed as well.
    written.is_err_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::FileTooLarge
        )
    })
}

/// Reads the part of a changed configuration that concerns what runs here; the error is every problem as a sentence.
fn reread(call: &Call<'_>) -> Result<(Schedules, Ground), Vec<String>> {
    let ground = call.build.ground(call.flags).map_err(|error| vec![error.to_string()])?;
    Ok((ground.schedule.parse()?, ground))
}

fn now() -> Timestamp {
    Timestamp::from(jiff::Timestamp::now())
}
