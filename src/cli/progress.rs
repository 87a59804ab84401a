//! A sign of life for long work, on a terminal only.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, words};
use crate::daemon::Engine;

/// Pause between two looks at how far it has come.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// As [`watched`], for work that blocks.
pub(super) async fn watched_aside<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let done = watched(what, None, tokio::task::spawn_blocking(work)).await;
    done.map_err(|error| Failure::Other(format!("this broke off: {what}: {error}")))
}

/// Does the work. On a terminal a line tells meanwhile what is done, for how long, and how far the ledger of `engine` has
/// come; it is gone afterwards.
pub(super) async fn watched<T>(what: &str, engine: Option<&dyn Engine>, work: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}").expect("the template is sound");
    bar.set_style(style);
    bar.set_message(what.to_owned());
    tokio::pin!(work);
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = ticks.tick() => {}
        }
        if let Some(engine) = engine
            && let Ok(status) = engine.status().await
        {
            let (known, linked) = (words::count(status.referrals, "referral"), words::number_text(status.linked));
            bar.set_message(format!("{what}: {known} known, {linked} linked"));
        }
        bar.tick();
    };
    bar.finish_and_clear();
    done
}
