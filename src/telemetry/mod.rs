//! Where the log goes and what it looks like.

pub mod commands;
pub mod settings;
pub mod words;

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

pub use settings::{LogFormat, LogSettings};

/// Environment variable that overrides `log.level`.
pub const FILTER_VARIABLE: &str = "REFERRALD_LOG";

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the log filter \"{filter}\" cannot be read: {reason}")]
pub struct TelemetryError {
    filter: String,
    reason: String,
}

/// Sets up the log for the whole process, on standard error. Called again it changes nothing.
pub fn init(settings: &LogSettings) -> Result<(), TelemetryError> {
    let filter = filter(&settings.level, std::env::var(FILTER_VARIABLE).ok().as_deref())?;
    let registry = tracing_subscriber::registry();
    let is_set = match chosen(settings.format, is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref())) {
        Output::Journald => match tracing_journald::layer() {
            Ok(journald) => {
                registry.with(journald.with_syslog_identifier("referrald".to_owned()).with_filter(filter)).try_init()
            }
            // No journal after all: lines on standard error lose fields, but no story.
            Err(_) => registry.with(lines(false).with_filter(filter)).try_init(),
        },
        Output::Lines => registry.with(lines(wants_colour()).with_filter(filter)).try_init(),
        Output::Json => registry
            .with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).with_filter(filter))
            .try_init(),
    };
    if is_set.is_ok() {
        std::panic::set_hook(Box::new(tell_panic));
    }
    Ok(())
}

/// Colours are for terminals whose owner has not asked for none (`NO_COLOR`, `TERM=dumb`), as everywhere else.
fn wants_colour() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

fn lines<S>(with_colour: bool) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(with_colour).with_target(false)
}

/// Tells where a panic happened and not what it said: a formatted message may quote a value.
fn tell_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    tracing::error!(place, thread, "broken invariant at {place}");
}

fn filter(configured: &str, environment: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    let text = environment.filter(|text| !text.trim().is_empty()).unwrap_or(configured).trim();
    // A bare level is about our own story; of libraries only trouble is told.
    let directives = match text.to_ascii_lowercase().as_str() {
        level @ ("off" | "error") => level.to_owned(),
        level @ ("warn" | "info" | "debug" | "trace") => format!("warn,referrald={level}"),
        _ => text.to_owned(),
    };
    EnvFilter::try_new(directives)
        .map_err(|error| TelemetryError { filter: text.to_owned(), reason: error.to_string() })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Lines,
    Json,
    Journald,
}

fn chosen(format: LogFormat, is_journal: bool) -> Output {
    match (format, is_journal) {
        (LogFormat::Journald, _) | (LogFormat::Auto, true) => Output::Journald,
        (LogFormat::Json, _) => Output::Json,
        (LogFormat::Human, _) | (LogFormat::Auto, false) => Output::Lines,
    }
}

/// True when standard error is the journal: `$JOURNAL_STREAM` names its device and inode. The variable alone proves
/// nothing, since children inherit it and may have redirected their output.
fn is_journal(journal_stream: Option<&str>) -> bool {
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().and_then(|fd| std::fs::File::from(fd).metadata());
    stderr.is_ok_and(|stderr| names(journal_stream, stderr.dev(), stderr.ino()))
}

fn names(journal_stream: Option<&str>, device: u64, inode: u64) -> bool {
    journal_stream
        .and_then(|text| text.split_once(':'))
        .is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::{LogFormat, Output, chosen, filter, names};

    #[test]
    fn the_journal_is_used_only_when_standard_error_is_the_journal() {
        assert!(names(Some("9:1234"), 9, 1234));
        for stream in [None, Some(""), Some("9:1235"), Some("8:1234"), Some("9"), Some("x:y")] {
            assert!(!names(stream, 9, 1234), "{stream:?}");
        }
        assert_eq!(chosen(LogFormat::Auto, true), Output::Journald);
        assert_eq!(chosen(LogFormat::Auto, false), Output::Lines);
        assert_eq!(chosen(LogFormat::Json, true), Output::Json);
        assert_eq!(chosen(LogFormat::Human, true), Output::Lines);
    }

    #[test]
    fn the_environment_wins_over_the_configured_level_and_nonsense_is_refused() {
        let text = |configured, environment| filter(configured, environment).map(|filter| filter.to_string()).ok();
        assert_eq!(text("info", None).as_deref(), Some("referrald=info,warn"));
        assert_eq!(text("info", Some("Debug")).as_deref(), Some("referrald=debug,warn"));
        assert_eq!(text("error", Some(" ")).as_deref(), Some("error"));
        assert_eq!(text("info,hyper=debug", None).as_deref(), Some("hyper=debug,info"));
        assert_eq!(text("referrald=loud=very", None), None);
    }
}
