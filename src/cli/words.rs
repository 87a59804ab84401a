//! The styles of what is said to people; numbers, spans and instants are said by [`crate::telemetry::words`].

use anstyle::{AnsiColor, Style};

pub(super) use crate::telemetry::words::{count, instant, number_text, relative, span, span_ms};

/// Headings.
pub(super) const TITLE: Style = Style::new().bold();
/// What wants a person.
pub(super) const ALARM: Style = AnsiColor::Red.on_default().bold();
/// What wants patience.
pub(super) const CARE: Style = AnsiColor::Yellow.on_default();
/// What is well.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();

/// Without colours.
#[cfg(test)]
pub(super) fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}
