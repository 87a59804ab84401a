//! Alarms: one message for each change for the worse or the better, to the log and to an optional webhook.
//!
//! They look at the status and at nothing else, so whatever is in trouble is told in the words of the status page. What was
//! told, and what is not delivered yet, is kept in `keep/alarm.json`: a restart repeats nothing and loses nothing.

pub mod judge;
pub mod post;
pub mod settings;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::daemon::status::{AlarmStatus, Status};
use crate::daemon::{Beside, Engine};
use crate::http::settings::HttpSettings;
use crate::store::keep::write_private;
use crate::telemetry::commands;

use judge::{Memory, Message, News, Patience, judge};
use post::{Posted, post};

pub use settings::AlarmSettings;

/// How often the status is looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Sentences of one message; more are summed up.
pub const SENTENCES_MAX: usize = 20;
/// Messages that wait for their delivery at most; beyond, the oldest is lost.
pub const WAITING_MAX: usize = 50;

/// The file's name in `keep/`.
const FILE: &str = "alarm.json";
/// The file's format; a newer one is not understood and begun anew.
const FORMAT: u32 = 1;

/// Everything alarms are configured by.
#[derive(Clone, Debug, PartialEq)]
pub struct Configured {
    /// `[alarm]`.
    pub alarm: AlarmSettings,
    /// `[http]`: proxy and root certificates.
    pub http: HttpSettings,
    /// `observability.lag_max`.
    pub lag_max: Duration,
}

/// Alarms that are watched for until they are dropped.
pub struct Alarm {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    file: PathBuf,
    configured: watch::Receiver<Configured>,
    state: Mutex<State>,
    /// A message waits.
    news: Notify,
}

#[derive(Default)]
struct State {
    kept: Kept,
    delivered: u64,
    lost: u64,
    trouble: Option<String>,
}

/// What outlives a restart. No personal data, and not the URL.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    format: u32,
    memory: Memory,
    waiting: VecDeque<String>,
}

impl Alarm {
    /// Begins to watch. What is sent through `configured` later is taken over at once.
    pub fn start(configured: watch::Receiver<Configured>, engine: Arc<dyn Engine>, state_directory: &Path) -> Alarm {
        let file = state_directory.join("keep").join(FILE);
        let state = State { kept: load(&file), ..State::default() };
        let shared = Arc::new(Shared { file, configured, state: Mutex::new(state), news: Notify::new() });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(watch(Arc::clone(&shared), engine)));
        tokio::spawn(stop.clone().run_until_cancelled_owned(deliver(Arc::clone(&shared))));
        Alarm { shared, _stop: stop.drop_guard() }
    }

    /// What it has to tell in the status.
    pub fn beside(&self) -> Arc<dyn Beside> {
        Arc::new(Teller(Arc::downgrade(&self.shared)))
    }
}

struct Teller(std::sync::Weak<Shared>);

impl Beside for Teller {
    fn tell(&self, status: &mut Status) {
        let Some(shared) = self.0.upgrade() else { return };
        let state = shared.lock();
        let open = state.kept.memory.open.iter().map(|(topic, open)| (topic.clone(), open.since)).collect();
        status.alarm = Some(AlarmStatus {
            is_sent: shared.configured.borrow().alarm.source().is_some(),
            trouble: state.trouble.clone(),
            open,
            delivered: state.delivered,
            lost: state.lost,
            waiting: state.kept.waiting.len() as u64,
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what outlives a restart, if it changed. A disk that takes nothing must not silence an alarm.
    async fn keep(&self, before: Kept) {
        let kept = Kept { format: FORMAT, ..self.lock().kept.clone() };
        if kept == (Kept { format: FORMAT, ..before }) {
            return;
        }
        let file = self.file.clone();
        let json = serde_json::to_vec_pretty(&kept).expect("plain data");
        let written = tokio::task::spawn_blocking(move || write_private(&file, &json)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!("what was told could not be kept, a restart tells it again: {error}");
        }
    }
}

/// Looks at the status again and again.
async fn watch(shared: Arc<Shared>, engine: Arc<dyn Engine>) {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // On a thread of its own: a disk that hangs must not hang the daemon.
        let (asked, runtime) = (Arc::clone(&engine), tokio::runtime::Handle::current());
        let asked = tokio::task::spawn_blocking(move || runtime.block_on(asked.status()));
        let Ok(Ok(status)) = asked.await else { continue };
        let configured = shared.configured.borrow().clone();
        let patience = Patience {
            lag_max: configured.lag_max,
            trouble_after: configured.alarm.trouble_after.get(),
            clear_after: configured.alarm.clear_after.get(),
        };
        let before = shared.lock().kept.clone();
        let (memory, messages) = judge(&before.memory, &status, patience);
        messages.iter().for_each(log);
        {
            let mut state = shared.lock();
            state.kept.memory = memory;
            if configured.alarm.source().is_some() && !messages.is_empty() {
                state.kept.waiting.push_back(text(&configured.alarm.name, &messages));
                while state.kept.waiting.len() > WAITING_MAX {
                    state.kept.waiting.pop_front();
                    state.lost += 1;
                }
            }
        }
        shared.keep(before).await;
        if !messages.is_empty() {
            shared.news.notify_one();
        }
    }
}

/// Delivers what waits, one after the other.
async fn deliver(shared: Arc<Shared>) {
    let mut failures = 0;
    loop {
        let first = shared.lock().kept.waiting.front().cloned();
        let configured = shared.configured.borrow().clone();
        let (Some(text), Some(source)) = (first, configured.alarm.source()) else {
            let _ = tokio::time::timeout(LOOK_INTERVAL, shared.news.notified()).await;
            continue;
        };
        let posted = post(&source, &configured.http, &text, failures).await;
        let before = shared.lock().kept.clone();
        match &posted {
            Posted::Taken => {
                failures = 0;
                let mut state = shared.lock();
                done(&mut state, &text);
                state.delivered += 1;
                state.trouble = None;
            }
            Posted::Refused(why) => {
                failures = 0;
                let mut state = shared.lock();
                done(&mut state, &text);
                state.lost += 1;
                tell(&mut state, why);
            }
            Posted::Later(_, why) => {
                failures = failures.saturating_add(1);
                tell(&mut shared.lock(), why);
            }
        }
        shared.keep(before).await;
        if let Posted::Later(wait, _) = posted {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Takes a message off the line; it may have made place for newer ones meanwhile.
fn done(state: &mut State, text: &str) {
    if state.kept.waiting.front().is_some_and(|first| first == text) {
        state.kept.waiting.pop_front();
    }
}

/// Takes note of trouble with the delivery; news are told in the log, once.
fn tell(state: &mut State, why: &str) {
    if state.trouble.as_deref() != Some(why) {
        tracing::warn!("{why}; alarms are in the log and on the status page");
        state.trouble = Some(why.to_owned());
    }
}

fn log(message: &Message) {
    match message.news {
        News::Alarm => tracing::error!("alarm: {}", message.text),
        News::Care => tracing::warn!("alarm: {}", message.text),
        News::Well => tracing::info!("alarm: {}", message.text),
    }
}

/// One text of all that was found in one look.
fn text(name: &str, messages: &[Message]) -> String {
    let mut lines: Vec<String> =
        messages.iter().take(SENTENCES_MAX).map(|message| format!("{name}: {}", message.text)).collect();
    let rest = messages.len().saturating_sub(SENTENCES_MAX);
    if rest > 0 {
        lines.push(format!("{name}: and {rest} more; `{}` shows them", commands::command("status")));
    }
    lines.join("\n\n")
}

/// What was kept; nothing when it cannot be read: then everything that is open is told once more.
fn load(file: &Path) -> Kept {
    let Ok(bytes) = std::fs::read(file) else { return Kept::default() };
    match serde_json::from_slice::<Kept>(&bytes) {
        Ok(kept) if kept.format <= FORMAT => kept,
        Ok(_) | Err(_) => {
            tracing::warn!("{} cannot be read; what is open is told once more", file.display());
            Kept::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kept, SENTENCES_MAX, load, text};
    use crate::alarm::judge::{Message, News};

    fn message(number: usize) -> Message {
        Message { news: News::Care, text: format!("to look at: {number}") }
    }

    #[test]
    fn many_sentences_are_one_message_of_bounded_length() {
        let few: Vec<Message> = (0..2).map(message).collect();
        assert_eq!(text("contoso", &few), "contoso: to look at: 0\n\ncontoso: to look at: 1");
        let many: Vec<Message> = (0..100).map(message).collect();
        let text = text("contoso", &many);
        assert_eq!(text.matches("contoso:").count(), SENTENCES_MAX + 1);
        assert!(text.ends_with("and 80 more; `referrald status` shows them"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_begun_anew() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("alarm.json");
        for content in ["", "{", "{\"format\":9}"] {
            std::fs::write(&file, content).expect("written");
            assert_eq!(load(&file), Kept::default(), "{content}");
        }
    }
}
