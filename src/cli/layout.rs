//! How text is laid out on a screen of 80 columns.

use std::fmt::Write as _;

use anstyle::Style;
use comfy_table::{ContentArrangement, Table, presets};

/// Columns of the screen.
pub const WIDTH: u16 = 80;

/// A heading and a sentence below it.
pub(super) fn block(text: &mut String, title: &str, style: Style, sentence: &str) {
    let _ = writeln!(text, "{}", styled(title, style));
    let mut table = bare();
    table.add_row([sentence]);
    let _ = write!(text, "{}", indented(&table));
}

/// Two columns, wrapped to the width of the screen.
pub(super) fn table(rows: Vec<[String; 2]>) -> String {
    let mut table = bare();
    table.add_rows(rows);
    if let Some(column) = table.column_mut(0) {
        column.set_constraint(comfy_table::ColumnConstraint::ContentWidth);
    }
    indented(&table)
}

fn bare() -> Table {
    let mut table = Table::new();
    // Two columns of indent are added afterwards. No escape codes inside: they would count as width.
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH - 2);
    table
}

fn indented(table: &Table) -> String {
    table.lines().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "  {}", line.trim_end());
        text
    })
}

/// Words in a style.
pub(super) fn styled(words: &str, style: Style) -> String {
    format!("{}{words}{}", style.render(), style.render_reset())
}

/// A sentence, wrapped to the width of the screen behind an indent; further lines are indented by two more.
pub(super) fn wrapped(text: &mut String, indent: usize, sentence: &str) {
    let width = usize::from(WIDTH).saturating_sub(indent + 2).max(20);
    let mut line = String::new();
    let mut is_first = true;
    let mut flush = |line: &mut String| {
        let by = if is_first { indent } else { indent + 2 };
        is_first = false;
        let _ = writeln!(text, "{:by$}{}", "", line.trim_end());
        line.clear();
    };
    for word in sentence.split(' ') {
        if !line.is_empty() && columns(&line) + columns(word) > width {
            flush(&mut line);
        }
        line.push_str(word);
        line.push(' ');
    }
    flush(&mut line);
}

/// Lines that are wider than the screen wrapped behind their own indent; all others as they are.
pub(super) fn fitted(text: &str) -> String {
    let mut fit = String::with_capacity(text.len());
    for line in text.lines() {
        if columns(line) <= usize::from(WIDTH) {
            fit.push_str(line);
            fit.push('\n');
        } else {
            let words = line.trim_start();
            wrapped(&mut fit, line.len() - words.len(), words);
        }
    }
    fit
}

/// Columns that text takes; escape codes take none.
fn columns(text: &str) -> usize {
    anstream::adapter::strip_str(text).map(|part| part.chars().count()).sum()
}

/// Text of a stranger, so that it cannot move the cursor, colour the screen or turn the direction of writing round.
pub(super) fn harmless(text: &str) -> String {
    let is_odd = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => shown.push(letter),
            letter if is_odd(letter) => shown.extend(letter.escape_unicode()),
            letter => shown.push(letter),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::{WIDTH, harmless, wrapped};

    #[test]
    fn long_sentences_are_wrapped_and_words_stay_whole() {
        let mut text = String::new();
        wrapped(&mut text, 4, &"many words in a row ".repeat(12));
        assert!(text.lines().count() > 2 && text.lines().all(|line| line.len() <= usize::from(WIDTH)), "{text}");
        assert!(text.starts_with("    many") && text.lines().nth(1).is_some_and(|line| line.starts_with("      ")));
    }

    #[test]
    fn what_strangers_wrote_cannot_command_a_terminal() {
        assert_eq!(harmless("a\u{1b}[31mb\u{9b}1m\u{202e}c\nd"), "a\\u{1b}[31mb\\u{9b}1m\\u{202e}c\nd");
    }
}
