//! `referrald doctor`: ordered checks from the ground up, each with what was found, what was expected and what to do.
//!
//! Observing and judging are apart: `observe` fills plain facts and stops asking where the ground is missing, `judge` is pure.
//! Nothing is written but a refresh token that was rotated on the way.

mod facts;
mod judge;
mod lengths;
mod observe;
mod report;
mod way;

#[cfg(test)]
mod tests;

use std::io::Write;

use super::exit::Exit;
use super::progress::watched;
use super::{Call, Failure, print_json};
use crate::telemetry::{LogFormat, LogSettings};

/// Runs the command.
pub(super) async fn doctor(call: &Call<'_>, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    // The report tells what is wrong; a log would tell it again.
    call.build.start_log(&LogSettings { level: "off".to_owned(), format: LogFormat::Human })?;
    let facts = watched("everything is looked at", None, observe::observe(call.flags)).await;
    let report = judge::diagnose(&facts).located(&facts.places);
    match call.is_json {
        true => print_json(out, &report.to_json())?,
        false => report.print(out)?,
    }
    Ok(if report.count("failed") == 0 { Exit::Fine } else { Exit::Failed })
}
