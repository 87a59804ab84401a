//! Paragraphs of 80 columns, with a name before them.

use std::io::{self, Write};

/// Columns of the page.
pub const WIDTH: usize = 80;
/// Columns of the names before the text.
pub const NAME_WIDTH: usize = 16;

/// Writes `name` and `text`, wrapped; lines after the first stand below the text.
pub(super) fn row(out: &mut dyn Write, name: &str, text: &str) -> io::Result<()> {
    paragraph(out, &format!("{name:NAME_WIDTH$}"), NAME_WIDTH, text)
}

/// Writes `first` and behind it `text`, wrapped; lines after the first are indented by `indent`. `first` may hold
/// escapes for colour: it counts as `indent` columns.
pub(super) fn paragraph(out: &mut dyn Write, first: &str, indent: usize, text: &str) -> io::Result<()> {
    for (number, line) in wrapped(text, WIDTH - indent).iter().enumerate() {
        match number {
            0 => writeln!(out, "{}", format!("{first}{line}").trim_end())?,
            _ => writeln!(out, "{:indent$}{line}", "")?,
        }
    }
    Ok(())
}

/// The lines of a text; a word that is longer than a line stands alone and is not cut, so that it can be copied.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        let length = line.chars().count();
        if length > 0 && length + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if length > 0 {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_at_words_and_long_words_stay_whole() {
        assert_eq!(wrapped("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrapped("a toolongword b", 4), ["a", "toolongword", "b"]);
        assert_eq!(wrapped("", 4), [""]);
        let mut out = Vec::new();
        row(&mut out, "Name", &"word ".repeat(20)).expect("written");
        let text = String::from_utf8(out).expect("text");
        assert!(
            text.lines().all(|line| line.chars().count() <= WIDTH) && text.starts_with("Name            word"),
            "{text}"
        );
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("                word")), "{text}");
    }
}
