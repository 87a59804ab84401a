//! `referrald demo`: the whole thing against built-in simulated services.
//!
//! The simulator is spoken to over HTTP by the real adapters, driven by the real engine over a real ledger. Nothing is
//! read from the configuration, nothing outside a temporary directory is written, and every number in the story was
//! counted in the simulated services or in the engine's own reports.

mod stage;
mod story;
mod table;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::arguments::Demo;
use super::exit::Exit;
use crate::telemetry::{self, LogFormat, LogSettings};

use stage::Stage;
use story::Teller;

/// Pause after a line of the story when a person reads along.
const READING_TIME: Duration = Duration::from_millis(1200);
/// How long the simulated services take to answer when a person reads along, and otherwise.
const ROUND_TRIPS: [Duration; 2] = [Duration::from_millis(12), Duration::from_millis(2)];

/// Plays the story; gives the exit code: 0 only if both sides agree in the end.
pub async fn demo(demo: Demo, is_json: bool, out: &mut (dyn Write + Send)) -> io::Result<u8> {
    // The story is what is told here; trouble is part of it. `REFERRALD_LOG=info` shows the log as well.
    let log = LogSettings { level: "error".to_owned(), format: LogFormat::Human };
    telemetry::init(&log).map_err(io::Error::other)?;
    let is_watched = !is_json && io::stdout().is_terminal();
    let round_trip = if is_watched { ROUND_TRIPS[0] } else { ROUND_TRIPS[1] };
    let mut stage = Stage::build(demo, round_trip).await?;
    let mut teller = Teller::new(out, is_json, is_watched.then_some(READING_TIME));
    let finding = tokio::select! {
        finding = story::play(&mut stage, &mut teller) => finding?,
        _ = tokio::signal::ctrl_c() => return Ok(Exit::Failed.code()),
    };
    if is_json {
        writeln!(out, "{}", serde_json::to_string(&finding).map_err(io::Error::from)?)?;
    } else {
        write!(out, "{}", table::render(&finding))?;
    }
    Ok(if finding.agree { Exit::Fine } else { Exit::Failed }.code())
}
