//! How text is laid out on a screen of 80 columns, its commands worded so that they can be pasted.

use std::fmt::Write as _;
use std::io::{self, Write};

use anstyle::Style;

use crate::telemetry::commands::worded;

/// Columns of the screen.
pub const WIDTH: u16 = 80;
/// A blank at which no line is broken.
const NO_BREAK: &str = "\u{a0}";
/// Columns that the second column of a table has at least, however wide the first is.
const TEXT_WIDTH_MIN: usize = 20;
/// Columns of the names before the text.
pub const NAME_WIDTH: usize = 16;

/// Columns before a table and a sentence below a heading.
const INDENT: usize = 3;
/// Columns between the two columns of a table.
const GAP: usize = 2;

/// A heading and a sentence below it.
pub(super) fn block(text: &mut String, title: &str, style: Style, sentence: &str) {
    let _ = writeln!(text, "{}", styled(title, style));
    text.push_str(&table(vec![[String::new(), sentence.to_owned()]]));
}

/// Two columns, wrapped to the width of the screen, with a margin of one.
pub(super) fn table(rows: Vec<[String; 2]>) -> String {
    let names = rows.iter().map(|[name, _]| textwrap::core::display_width(name)).max().unwrap_or(0);
    let indent = INDENT + names + if names == 0 { 0 } else { GAP };
    let mut text = String::new();
    for [name, words] in &rows {
        let width = (usize::from(WIDTH) - 1).saturating_sub(indent).max(TEXT_WIDTH_MIN);
        let first = format!("{:INDENT$}{name}", "");
        for (number, line) in lines(&worded(words), width).iter().enumerate() {
            let before = if number == 0 { first.as_str() } else { "" };
            let pad = indent.saturating_sub(textwrap::core::display_width(before));
            let _ = writeln!(text, "{}", format!("{before}{:pad$}{line}", "").trim_end());
        }
    }
    text
}

/// Words in a style.
pub(super) fn styled(words: &str, style: Style) -> String {
    format!("{}{words}{}", style.render(), style.render_reset())
}

/// A sentence, wrapped to the width of the screen behind an indent; further lines are indented by two more.
pub(super) fn wrapped(text: &mut String, indent: usize, sentence: &str) {
    let sentence = worded(sentence);
    for (number, line) in lines(&sentence, usize::from(WIDTH).saturating_sub(indent + 2).max(20)).iter().enumerate() {
        let by = if number == 0 { indent } else { indent + 2 };
        let _ = writeln!(text, "{:by$}{line}", "");
    }
}

/// Writes `name` and `text`, wrapped; lines after the first stand below the text.
pub(super) fn row(out: &mut dyn Write, name: &str, text: &str) -> io::Result<()> {
    paragraph(out, &format!("{name:NAME_WIDTH$}"), NAME_WIDTH, text)
}

/// Writes `first` and behind it `text`, wrapped; lines after the first are indented by `indent`. `first` may hold
/// escapes for colour: it counts as `indent` columns.
pub(super) fn paragraph(out: &mut dyn Write, first: &str, indent: usize, text: &str) -> io::Result<()> {
    let text = worded(text);
    let words: Vec<&str> = text.split_whitespace().collect();
    for (number, line) in lines(&words.join(" "), usize::from(WIDTH) - indent).iter().enumerate() {
        match number {
            0 => writeln!(out, "{}", format!("{first}{line}").trim_end())?,
            _ => writeln!(out, "{:indent$}{line}", "")?,
        }
    }
    Ok(())
}

/// The lines of a text; a word that is longer than a line stands alone and is not cut, and so does a command in backticks, so
/// that it can be copied. Escape codes take no columns.
fn lines(text: &str, width: usize) -> Vec<String> {
    let options = textwrap::Options::new(width)
        .break_words(false)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit);
    textwrap::wrap(&whole_commands(text), options).iter().map(|line| line.replace(NO_BREAK, " ")).collect()
}

/// With blanks at which no line is broken in everything between backticks.
fn whole_commands(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return text.to_owned(); // Not in pairs: nobody knows what is a command.
    }
    let part =
        |(number, part): (usize, &&str)| if number % 2 == 1 { part.replace(' ', NO_BREAK) } else { (*part).to_owned() };
    parts.iter().enumerate().map(part).collect::<Vec<_>>().join("`")
}

/// Lines that are wider than the screen wrapped behind their own indent; all others as they are.
pub(super) fn fitted(text: &str) -> String {
    let mut fit = String::with_capacity(text.len());
    for line in worded(text).lines() {
        if textwrap::core::display_width(line) <= usize::from(WIDTH) {
            fit.push_str(line);
            fit.push('\n');
        } else {
            let words = line.trim_start();
            wrapped(&mut fit, line.len() - words.len(), words);
        }
    }
    fit
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
    use super::{WIDTH, harmless, lines, row, table, wrapped};

    #[test]
    fn long_sentences_are_wrapped_and_words_stay_whole() {
        let mut text = String::new();
        wrapped(&mut text, 4, &"many words in a row ".repeat(12));
        assert!(text.lines().count() > 2 && text.lines().all(|line| line.len() <= usize::from(WIDTH)), "{text}");
        assert!(text.starts_with("    many") && text.lines().nth(1).is_some_and(|line| line.starts_with("      ")));
    }

    #[test]
    fn a_command_is_never_broken_so_that_it_can_be_pasted() {
        assert_eq!(lines("type `a b c` now", 9), ["type", "`a b c`", "now"]);
        assert_eq!(lines("`aaa bbb ccc ddd` goes on", 9), ["`aaa bbb ccc ddd`", "goes on"]);
        assert_eq!(lines("one ` alone is no command", 9), ["one `", "alone is", "no", "command"]);
    }

    #[test]
    fn a_table_has_two_columns_and_a_margin() {
        let text = table(vec![["A".into(), "short".into()], ["Longer".into(), "word ".repeat(20)]]);
        assert!(text.starts_with("   A       short\n   Longer  word word"), "{text}");
        assert!(text.lines().all(|line| line.len() < usize::from(WIDTH)), "{text}");
        assert!(text.lines().nth(2).is_some_and(|line| line.starts_with("           word")), "{text}");
    }

    #[test]
    fn what_strangers_wrote_cannot_command_a_terminal() {
        assert_eq!(harmless("a\u{1b}[31mb\u{9b}1m\u{202e}c\nd"), "a\\u{1b}[31mb\\u{9b}1m\\u{202e}c\nd");
    }

    #[test]
    fn names_stand_before_their_text_and_long_words_stay_whole() {
        assert_eq!(lines("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(lines("a toolongword b", 4), ["a", "toolongword", "b"]);
        assert_eq!(lines("", 4), [""]);
        let mut out = Vec::new();
        row(&mut out, "Name", &"word ".repeat(20)).expect("written");
        let text = String::from_utf8(out).expect("text");
        assert!(text.lines().all(|line| line.len() <= usize::from(WIDTH)), "{text}");
        assert!(text.starts_with("Name            word"), "{text}");
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("                word")), "{text}");
    }
}
