//! What is wrong with a configuration: where, what, and what to do. Drawn for people, and as JSON.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use serde::Serialize;

use super::document::Document;
use super::key::{KeyPath, is_secret_name};

/// Everything that was found, in the order of layers and lines. `Display` draws it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, thiserror::Error)]
pub struct Problems {
    /// The findings.
    pub problems: Vec<Problem>,
    /// There may be more: reading stopped after [`Problems::COUNT_MAX`].
    pub is_cut: bool,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The key, dotted; empty for a whole file.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// Where the value comes from.
    pub origin: Origin,
    /// The line, where there is one. Secrets are masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snippet: Option<Snippet>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The daemon does not start with it.
    Error,
    /// It works, and is worth a look.
    Warning,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Origin {
    /// The compiled-in `config/default.toml`.
    BuiltIn,
    /// A file; line and column count from 1.
    File {
        /// Which.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A flag on the command line.
    Flag {
        /// The flag as written, without its value.
        flag: String,
    },
}

/// One line of a file, ready to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snippet {
    /// The line, secrets masked, tabs and control characters replaced.
    pub text: String,
    /// Characters before the part in question.
    pub start: usize,
    /// Length of the part in question, in characters; at least 1.
    pub length: usize,
}

impl Problems {
    /// Findings of one run at most.
    pub const COUNT_MAX: usize = 100;

    /// Columns of the drawing.
    pub const WIDTH: usize = 80;

    /// How many errors.
    pub fn error_count(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    /// How many warnings.
    pub fn warning_count(&self) -> usize {
        self.problems.len() - self.error_count()
    }

    /// The findings as a JSON object: `errors`, `warnings`, `problems`, `is_cut`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "errors": self.error_count(),
            "warnings": self.warning_count(),
            "problems": self.problems,
            "is_cut": self.is_cut,
        })
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        let count = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let more = if self.is_cut { "; there may be more" } else { "" };
        write!(f, "{}, {}{more}", count(self.error_count(), "error"), count(self.warning_count(), "warning"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = self.severity.to_string();
        let what = match self.key.as_str() {
            "" => self.message.clone(),
            key => format!("`{key}`: {}", self.message),
        };
        wrap(f, &format!("{severity}: "), &what)?;
        let gutter = match &self.origin {
            Origin::File { line, .. } => line.to_string().len(),
            Origin::BuiltIn | Origin::Environment { .. } | Origin::Flag { .. } => 1,
        };
        writeln!(f, "{:gutter$}--> {}", "", self.origin)?;
        if let (Some(snippet), Origin::File { line, .. }) = (&self.snippet, &self.origin) {
            let (text, start, length) = snippet.window(Problems::WIDTH - gutter - 3);
            writeln!(f, "{:gutter$} |", "")?;
            writeln!(f, "{line} | {}", text.trim_end())?;
            writeln!(f, "{:gutter$} | {:start$}{}", "", "", "^".repeat(length))?;
        }
        wrap(f, &format!("{:gutter$} = help: ", ""), &self.remedy)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn => f.write_str("built-in default"),
            Origin::File { path, line, column } => {
                write!(f, "{}:{line}:{column}", path.display().to_string().escape_debug())
            }
            Origin::Environment { variable } => write!(f, "environment variable {}", variable.escape_debug()),
            Origin::Flag { flag } => write!(f, "flag {}", flag.escape_debug()),
        }
    }
}

impl Snippet {
    /// The line around `range`, up to a comment behind it. What is masked shows as `***`.
    pub(super) fn of(document: &Document, range: &Range<usize>) -> Option<Snippet> {
        let text = &document.text;
        let start = floor(text, range.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = floor(text, range.end).clamp(start, line_end);
        // A comment may say anything; it ends the line for us.
        let shown_end = text[end..line_end].find('#').map_or(line_end, |at| end + at);
        let mut shown = Snippet { text: String::new(), start: 0, length: 0 };
        let mut is_hidden = false;
        for (offset, letter) in text[line_start..shown_end].char_indices() {
            let at = line_start + offset;
            let is_masked = document.masks.iter().any(|mask| mask.contains(&at));
            match is_masked {
                true if is_hidden => {}
                true => shown.text.push_str("***"),
                false if letter.is_control() => shown.text.push(' '),
                false => shown.text.push(letter),
            }
            is_hidden = is_masked;
            let width = shown.text.chars().count();
            if at < start {
                shown.start = width;
            }
            if at < end {
                shown.length = width.saturating_sub(shown.start);
            }
        }
        shown.length = shown.length.max(1);
        Some(shown).filter(|shown| !shown.text.trim().is_empty())
    }

    /// The line of a file that could not be read as TOML: only as much as cannot be a secret.
    pub(super) fn of_broken(document: &Document, range: &Range<usize>) -> Option<Snippet> {
        let text = &document.text;
        let start = floor(text, range.start);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        // Without a parse nobody knows where a value ends: one secret name up to here and no line is shown.
        let is_suspect = text[..line_end].lines().any(|line| {
            let names = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'));
            names.into_iter().any(is_secret_name) || super::key::has_url_password(line)
        });
        if is_suspect {
            return None;
        }
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = &text[line_start..line_end];
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.[] ".contains(c);
        let mut document = document.clone();
        match line.split_once('=') {
            Some((head, _)) => {
                let name = head.trim().rsplit('.').next().unwrap_or_default();
                let is_known = super::extract::known_keys().iter().any(|key| key.last() == name);
                if !is_known {
                    document.masks.push(line_start + head.len() + 1..line_end);
                }
            }
            // A header; anything else may be the middle of a text.
            None if line.starts_with('[') && line.trim_end().chars().all(is_plain) => {}
            None => return None,
        }
        Snippet::of(&document, range)
    }

    /// As much of the line as fits, with the part in question in it.
    fn window(&self, width: usize) -> (String, usize, usize) {
        let letters: Vec<char> = self.text.chars().collect();
        let length = self.length.min(width.saturating_sub(10).max(1));
        if letters.len() <= width {
            return (self.text.clone(), self.start, length.min(width.saturating_sub(self.start)).max(1));
        }
        let first = (self.start + length + 4).saturating_sub(width).min(self.start);
        let text: String = letters.iter().skip(first).take(width).collect();
        (text, self.start - first, length)
    }
}

fn floor(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// A word in pieces that fit.
fn pieces(word: &str, length: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = word;
    while let Some((end, _)) = rest.char_indices().nth(length.max(1)) {
        let (piece, more) = rest.split_at(end);
        pieces.push(piece);
        rest = more;
    }
    pieces.push(rest);
    pieces
}

/// Writes words under `WIDTH` columns; further lines are indented like the first.
fn wrap(f: &mut fmt::Formatter<'_>, lead: &str, words: &str) -> fmt::Result {
    let indent = lead.chars().count();
    let mut column = indent;
    let mut is_first = true;
    f.write_str(lead)?;
    for word in words.split_whitespace().flat_map(|word| pieces(word, Problems::WIDTH - indent)) {
        let length = word.chars().count();
        if !is_first && column + 1 + length > Problems::WIDTH {
            write!(f, "\n{:indent$}", "")?;
            column = indent;
        } else if !is_first {
            f.write_str(" ")?;
            column += 1;
        }
        f.write_str(word)?;
        column += length;
        is_first = false;
    }
    writeln!(f)
}

/// What a rule or the type check found, before its place has been drawn.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) severity: Severity,
    pub(super) key: KeyPath,
    pub(super) message: String,
    pub(super) remedy: String,
    pub(super) place: super::layer::Place,
}
