//! Life under a service manager: signals in; ready, watchdog, status and stopping notes out.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::daemon::Pulse;
use crate::trigger::Bell;

/// Longest text of a `STATUS=` note, in characters.
pub const STATUS_CHARS_MAX: usize = 200;

/// Where notes go.
type Sink = dyn Fn(&[NotifyState<'_>]) + Send + Sync;

/// Sends notes to the service manager. Without one they go nowhere.
#[derive(Clone)]
pub struct Notifier {
    send: Arc<Sink>,
}

impl Notifier {
    /// To systemd, by `$NOTIFY_SOCKET`.
    pub fn systemd() -> Self {
        Notifier::new(|notes| {
            if let Err(error) = sd_notify::notify(notes) {
                tracing::debug!(%error, "the service manager could not be told");
            }
        })
    }

    /// To a function.
    pub fn new(send: impl Fn(&[NotifyState<'_>]) + Send + Sync + 'static) -> Self {
        Notifier { send: Arc::new(send) }
    }

    /// The ledger is open and the control socket is up.
    pub fn ready(&self) {
        (self.send)(&[NotifyState::Ready]);
    }

    /// The start takes longer, but not longer than this.
    pub fn starts_within(&self, time: Duration) {
        let microseconds = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        (self.send)(&[NotifyState::ExtendTimeoutUsec(microseconds)]);
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        // A line break would end the note and begin another one.
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(STATUS_CHARS_MAX).collect();
        (self.send)(&[NotifyState::Status(&line)]);
    }

    /// The configuration is being read again. `Type=notify-reload` wants the time with it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(time) => (self.send)(&[NotifyState::Reloading, time]),
            Err(_) => (self.send)(&[NotifyState::Reloading]),
        }
    }

    /// Stopping has begun.
    pub fn stopping(&self) {
        (self.send)(&[NotifyState::Stopping]);
    }

    fn alive(&self) {
        (self.send)(&[NotifyState::Watchdog]);
    }
}

/// Feeds the watchdog at half its interval, but only while the loop makes progress: a daemon that is stuck is restarted.
/// Without an interval it waits for ever.
pub async fn feed_watchdog(
    notifier: Notifier,
    interval: Option<Duration>,
    pulse: Pulse,
    stuck_after: Duration,
) -> Infallible {
    let Some(interval) = interval.filter(|interval| !interval.is_zero()) else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval(interval / 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut was_alive = true;
    loop {
        ticks.tick().await;
        let is_alive = pulse.is_alive(stuck_after);
        if is_alive {
            notifier.alive();
        } else if was_alive {
            tracing::error!(seconds = stuck_after.as_secs(), "a cycle is stuck; the watchdog is no longer fed");
        }
        was_alive = is_alive;
    }
}

/// What somebody outside wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// SIGTERM, SIGINT: stop in order; the second time at once.
    Stop,
    /// SIGHUP: take over a changed configuration.
    Reload,
}

/// Turns signals into wishes.
pub fn wishes() -> std::io::Result<mpsc::Receiver<Wish>> {
    let (sender, receiver) = mpsc::channel(16);
    for (kind, wish) in [
        (SignalKind::terminate(), Wish::Stop),
        (SignalKind::interrupt(), Wish::Stop),
        (SignalKind::hangup(), Wish::Reload),
    ] {
        let mut signals = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if sender.send(wish).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

/// Carries out wishes: the first stop cancels `stop`; returns at the second one, when the process has to end at once.
/// `reload` takes over a changed configuration and gives the keys that wait for a restart, or every problem as a sentence.
/// Requests that come while it runs are one request: systemd sends two, by `notify-reload` and by `ExecReload`.
pub async fn obey(
    mut wishes: mpsc::Receiver<Wish>,
    reload: impl AsyncFn() -> Result<Vec<String>, Vec<String>>,
    notifier: Notifier,
    stop: CancellationToken,
) {
    let asked = Bell::new();
    let reloading = async {
        loop {
            asked.rung().await;
            if !stop.is_cancelled() {
                notifier.reloading();
                tell_reload(&notifier, reload().await);
                notifier.ready();
            }
        }
    };
    let hearing = async {
        while let Some(wish) = wishes.recv().await {
            match wish {
                Wish::Stop if stop.is_cancelled() => return,
                Wish::Stop => {
                    tracing::info!("stopping: writes in flight are finished first");
                    notifier.stopping();
                    stop.cancel();
                }
                Wish::Reload => asked.ring(),
            }
        }
        // Nobody can wish any more, so there will be no second stop.
        std::future::pending().await
    };
    tokio::select! {
        () = hearing => {}
        () = reloading => {}
    }
}

fn tell_reload(notifier: &Notifier, result: Result<Vec<String>, Vec<String>>) {
    match result {
        Ok(later) if later.is_empty() => {
            tracing::info!("the configuration was read again and is in force");
            notifier.status("the new configuration is in force");
        }
        Ok(later) => {
            let later = later.join(", ");
            tracing::warn!(
                "the configuration was read again and is in force, all but {later}: restart the daemon to take that over"
            );
            notifier.status(&format!("the new configuration is in force, all but {later}: restart the daemon"));
        }
        Err(problems) => {
            tracing::error!(
                count = problems.len(),
                "the new configuration has problems; the old one stays in force: {}",
                problems.join("; ")
            );
            notifier.status("the new configuration has problems; the old one stays in force");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::{Notifier, Wish, feed_watchdog, obey, wishes};
    use crate::daemon::Pulse;

    fn recorder() -> (Notifier, Arc<Mutex<Vec<String>>>) {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let kept = notes.clone();
        let notifier = Notifier::new(move |states| {
            let lines = states.iter().map(|state| state.to_string().split("USEC=").next().unwrap_or("").to_owned());
            kept.lock().expect("not poisoned").extend(lines);
        });
        (notifier, notes)
    }

    fn taken(notes: &Mutex<Vec<String>>) -> Vec<String> {
        std::mem::take(&mut *notes.lock().expect("not poisoned"))
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_at_half_its_interval_and_only_while_the_loop_lives() {
        let (notifier, notes) = recorder();
        let pulse = Pulse::new();
        let limit = Duration::from_secs(30);
        let feeding = tokio::spawn(feed_watchdog(notifier, Some(Duration::from_secs(20)), pulse.clone(), limit));
        tokio::time::sleep(Duration::from_secs(95)).await;
        assert_eq!(taken(&notes).len(), 10, "at 0, 10, … 90 s");
        let _stuck = pulse.cycle();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(taken(&notes).len(), 3, "only within the limit");
        feeding.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watchdog_nothing_is_sent() {
        let (notifier, notes) = recorder();
        let feeding = tokio::spawn(feed_watchdog(notifier, None, Pulse::new(), Duration::from_secs(1)));
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(taken(&notes).is_empty());
        feeding.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_stop_cancels_and_the_second_ends_at_once() {
        let (notifier, notes) = recorder();
        let (sender, receiver) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let obeying = tokio::spawn(obey(receiver, async || Ok(vec![]), notifier, stop.clone()));
        sender.send(Wish::Stop).await.expect("heard");
        stop.cancelled().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!obeying.is_finished(), "one stop is an orderly stop");
        assert_eq!(taken(&notes), ["STOPPING=1"]);
        sender.send(Wish::Stop).await.expect("heard");
        obeying.await.expect("ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_tells_when_it_begins_and_when_it_is_over() {
        let (notifier, notes) = recorder();
        let (sender, receiver) = mpsc::channel(4);
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let reload = async move || {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(vec![])
        };
        let obeying = tokio::spawn(obey(receiver, reload, notifier, CancellationToken::new()));
        for _ in 0..3 {
            sender.send(Wish::Reload).await.expect("heard");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let told = taken(&notes);
        assert!(count.load(Ordering::SeqCst) <= 2, "requests that come together are one, or one more");
        assert_eq!(told.first().map(String::as_str), Some("RELOADING=1"), "{told:?}");
        assert!(told.iter().any(|note| note.starts_with("MONOTONIC_")), "{told:?}");
        assert_eq!(told.last().map(String::as_str), Some("READY=1"), "{told:?}");
        obeying.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_configuration_leaves_the_daemon_ready_with_the_old_one() {
        let (notifier, notes) = recorder();
        let (sender, receiver) = mpsc::channel(4);
        let reload = async || Err(vec!["writes: unknown word".to_owned()]);
        let obeying = tokio::spawn(obey(receiver, reload, notifier, CancellationToken::new()));
        sender.send(Wish::Reload).await.expect("heard");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let told = taken(&notes);
        assert!(told.iter().any(|note| note.contains("old one stays in force")), "{told:?}");
        assert_eq!(told.last().map(String::as_str), Some("READY=1"), "{told:?}");
        obeying.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_waits_for_a_restart_is_named() {
        let (notifier, notes) = recorder();
        let (sender, receiver) = mpsc::channel(4);
        let reload = async || Ok(vec!["log.level".to_owned()]);
        let obeying = tokio::spawn(obey(receiver, reload, notifier, CancellationToken::new()));
        sender.send(Wish::Reload).await.expect("heard");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let told = taken(&notes);
        assert!(told.iter().any(|note| note.contains("all but log.level: restart the daemon")), "{told:?}");
        assert_eq!(told.last().map(String::as_str), Some("READY=1"), "{told:?}");
        obeying.abort();
    }

    #[tokio::test]
    async fn a_hangup_from_outside_is_a_wish_to_reload() {
        // Only this signal: the others would also be heard by tests that run at the same time.
        let mut wishes = wishes().expect("signals can be heard");
        let kill = format!("kill -HUP {}", std::process::id());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
        assert_eq!(wishes.recv().await, Some(Wish::Reload));
    }

    #[test]
    fn a_status_note_is_one_line() {
        let (notifier, notes) = recorder();
        notifier.status("one\nREADY=1\ntwo");
        assert_eq!(taken(&notes), ["STATUS=one READY=1 two"]);
    }
}
