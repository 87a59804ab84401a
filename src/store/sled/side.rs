//! The note beside the ledger: how far it had come, so that silently missing records are noticed.
//!
//! sled opens a file whose end is missing as if nothing had been there. The last commit number is therefore kept in a
//! file of its own, written after each durable barrier.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Name of the note in the state directory. It stays when the ledger is moved aside.
pub(super) const NAME: &str = "ledger-commit";

/// What the note says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// Format of the ledger.
    pub(super) format: u32,
    /// Last commit that passed the durable barrier.
    pub(super) commit: u64,
}

/// The note, open for writing.
#[derive(Debug)]
pub(super) struct SideFile {
    file: File,
}

impl SideFile {
    /// Opens the note and reads it. `None` when it was never written or cannot be understood.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Option<Note>)> {
        let path = directory.join(NAME);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut text = String::new();
        // A text that is no UTF-8 is as good as none.
        let note = match file.by_ref().take(256).read_to_string(&mut text) {
            Ok(_) => parse(&text),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            Err(error) => return Err(error),
        };
        Ok((SideFile { file }, note))
    }

    /// Writes the note durably. Always the same few bytes at the same place, so that no rename is needed.
    pub(super) fn write(&self, note: Note) -> io::Result<()> {
        self.file.write_all_at(print(note).as_bytes(), 0)?;
        self.file.sync_data()
    }
}

fn print(Note { format, commit }: Note) -> String {
    let words = format!("format {format:010} commit {commit:020}");
    format!("{words} check {:08x}\n", crc32fast::hash(words.as_bytes()))
}

fn parse(text: &str) -> Option<Note> {
    let line = text.lines().next()?;
    let mut words = line.split(' ').skip(1).step_by(2);
    let note = Note { format: words.next()?.parse().ok()?, commit: words.next()?.parse().ok()? };
    (print(note).trim_end() == line).then_some(note)
}

/// Name of the mark in `keep/`: how far the ledger had come at some time not long ago. The note beside the ledger may be
/// put back together with an old ledger; the mark is not, when `keep/` stays.
const MARK: &str = "ledger-mark";

/// Commits between two marks: cheap enough, and often enough to recognise the copy of a ledger that is hours old.
pub(super) const MARK_EVERY: u64 = 256;

/// Reads the mark; 0 when there is none or it cannot be understood.
pub(super) fn read_mark(state_directory: &Path) -> u64 {
    let text = std::fs::read_to_string(state_directory.join("keep").join(MARK)).unwrap_or_default();
    parse(&text).map_or(0, |note| note.commit)
}

/// Writes the mark. That it cannot be written is no reason to stop: it only ever guards against people.
pub(super) fn write_mark(state_directory: &Path, note: Note) {
    let path = state_directory.join("keep").join(MARK);
    if let Err(error) = crate::store::keep::write_private(&path, print(note).as_bytes()) {
        tracing::warn!("the mark of the ledger could not be written: {error}");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Note, SideFile, parse, print};

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let (side, nothing) = SideFile::open(directory.path()).unwrap();
        assert_eq!(nothing, None);
        for commit in [1, 10, 99_999, u64::MAX, 3] {
            let note = Note { format: 1, commit };
            side.write(note).unwrap();
            assert_eq!(SideFile::open(directory.path()).unwrap().1, Some(note));
        }
    }

    #[test]
    fn a_garbled_note_says_nothing() {
        let whole = print(Note { format: 1, commit: 7 });
        for position in 0..whole.len() - 1 {
            let mut bytes = whole.clone().into_bytes();
            bytes[position] ^= 1;
            assert_eq!(String::from_utf8(bytes).ok().and_then(|text| parse(&text)), None, "{position}");
        }
        assert_eq!(parse(""), None);
    }
}
