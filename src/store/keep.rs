//! What no service can give back: operator decisions, latched brakes and the fingerprint key, in `keep/`.
//!
//! Losing it costs holds and a new sign-in, never a duplicate. Everything here is small, written whole and private.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use super::lock;
use crate::model::{Side, Timestamp};
use crate::ports::{Decisions, StoreError};

/// Operator decisions and latched brakes, as JSON.
pub const DECISIONS: &str = "decisions.json";

/// Decisions that take the place of damaged ones: written before those are moved aside, so that some are there at any moment.
const SUCCESSOR: &str = "decisions.json.successor";

/// The key of all fingerprints: 16 random bytes.
pub const FINGERPRINT_KEY: &str = "fingerprint.key";

/// The directory `keep/` of a state directory.
#[derive(Debug)]
pub struct Keep {
    directory: PathBuf,
    key: [u8; 16],
    decisions: RwLock<Decisions>,
    writing: Mutex<()>,
}

impl Keep {
    /// Opens `keep/`, making what is missing. A `key` from a credential takes the place of the kept one.
    ///
    /// Decisions that cannot be read are moved aside and start anew, and so does a key of the wrong length (which makes
    /// the ledger start anew, too: its fingerprints are worth nothing without their key).
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] when the directory cannot be read or written.
    pub fn open(state_directory: &Path, key: Option<[u8; 16]>) -> Result<Self, StoreError> {
        let directory = state_directory.join("keep");
        let opened = private_directory(&directory).and_then(|()| {
            let key = key.map_or_else(|| kept_key(&directory), Ok)?;
            Ok((key, kept_decisions(&directory)?))
        });
        let (key, decisions) = opened.map_err(|error| failed("open", &directory, &error))?;
        Ok(Keep { directory, key, decisions: RwLock::new(decisions), writing: Mutex::default() })
    }

    /// The decisions, from memory.
    pub fn decisions(&self) -> Decisions {
        self.decisions.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the decisions as they are now, one change at a time; returns them as they were before and after it, when
    /// they are on disk. Blocks.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] when they cannot be written; the old ones stay in force.
    pub fn change_decisions(&self, change: impl FnOnce(&mut Decisions)) -> Result<(Decisions, Decisions), StoreError> {
        let _writing = lock(&self.writing);
        let before = self.decisions();
        let mut decisions = before.clone();
        change(&mut decisions);
        if decisions == before {
            return Ok((before, decisions));
        }
        let path = self.directory.join(DECISIONS);
        let json = serde_json::to_vec_pretty(&decisions)
            .map_err(|error| StoreError::Failed { reason: format!("the decisions cannot be encoded: {error}") })?;
        write_private(&path, &json).map_err(|error| failed("write", &path, &error))?;
        self.decisions.write().unwrap_or_else(PoisonError::into_inner).clone_from(&decisions);
        Ok((before, decisions))
    }

    /// The 128-bit key of all fingerprints.
    pub fn key(&self) -> [u8; 16] {
        self.key
    }
}

/// Closed windows as they are kept in a state directory that may be in use; none where they cannot be read.
pub fn kept_windows(state_directory: &Path) -> BTreeMap<Side, Timestamp> {
    let json = fs::read(state_directory.join("keep").join(DECISIONS)).unwrap_or_default();
    serde_json::from_slice::<Decisions>(&json).unwrap_or_default().closed_until
}

/// Replaces a file whole and durably, readable by nobody else: a reader finds the old content or the new. Blocks.
///
/// # Errors
///
/// Whatever the system refuses; the old file is then still there.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // A former file may have been left by a crash, with whatever mode: it must not lend its mode to the new one.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Makes a directory that only its owner may enter, with its parents, or narrows one that others may enter.
pub(super) fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Makes renames and new names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Gives a file or directory a name that says when it was found damaged; never overwrites one. Returns the new name.
pub(super) fn move_aside(path: &Path) -> io::Result<PathBuf> {
    move_to_side(path, "damaged")
}

/// As [`move_aside`], with another word for why.
pub(super) fn move_to_side(path: &Path, why: &str) -> io::Result<PathBuf> {
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for number in 1u32.. {
        let aside = path.with_file_name(format!("{name}.{why}-{stamp}-{number}"));
        if fs::symlink_metadata(&aside).is_err() {
            fs::rename(path, &aside)?;
            sync_directory(path.parent().unwrap_or(Path::new(".")))?;
            return Ok(aside);
        }
    }
    Err(io::Error::other("there is no free name left"))
}

fn kept_decisions(directory: &Path) -> io::Result<Decisions> {
    let path = directory.join(DECISIONS);
    let reason = match fs::read(&path) {
        Ok(json) => match serde_json::from_slice(&json) {
            Ok(decisions) => return Ok(decisions),
            // The parser's own words may quote the file; its position is enough.
            Err(error) => format!("line {}, column {}", error.line(), error.column()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(directory.join(SUCCESSOR)).is_err() {
                return Ok(Decisions::default());
            }
            // The process that moved the damaged ones aside ended right after that.
            fs::rename(directory.join(SUCCESSOR), &path)?;
            return kept_decisions(directory);
        }
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        Err(error) => return Err(error),
    };
    let decisions = Decisions { is_suspended: true, ..Decisions::default() };
    let successor = directory.join(SUCCESSOR);
    write_private(&successor, &serde_json::to_vec(&decisions).map_err(io::Error::other)?)?;
    let aside = move_aside(&path)?;
    fs::rename(&successor, &path)?;
    sync_directory(directory)?;
    tracing::error!(
        moved_to = %aside.display(),
        "the operator decisions cannot be read ({reason}): nobody knows which referrals were held or forgotten, so writing is \
         suspended; decide again what shall hold, then `referrald resume`"
    );
    Ok(decisions)
}

fn kept_key(directory: &Path) -> io::Result<[u8; 16]> {
    let path = directory.join(FINGERPRINT_KEY);
    match fs::read(&path) {
        Ok(bytes) => {
            if let Ok(key) = <[u8; 16]>::try_from(&bytes[..]) {
                return Ok(key);
            }
            let aside = move_aside(&path)?;
            tracing::error!(
                moved_to = %aside.display(),
                "the fingerprint key has {} bytes instead of 16: a new one is made and the ledger starts anew",
                bytes.len()
            );
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let key: [u8; 16] = rand::random();
    write_private(&path, &key)?;
    Ok(key)
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Failed {
        reason: format!(
            "cannot {verb} {}: {error}; make room, and make sure that it belongs to the user that runs referrald",
            path.display()
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{DECISIONS, FINGERPRINT_KEY, Keep, SUCCESSOR, write_private};
    use crate::ports::Decisions;

    fn mode(path: &std::path::Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_key_is_made_once_and_kept_private() {
        let state = tempfile::tempdir().unwrap();
        let key = Keep::open(state.path(), None).unwrap().key();
        assert_ne!(key, [0; 16]);
        assert_eq!(Keep::open(state.path(), None).unwrap().key(), key);
        assert_eq!(mode(&state.path().join("keep")), 0o700);
        assert_eq!(mode(&state.path().join("keep").join(FINGERPRINT_KEY)), 0o600);
    }

    #[test]
    fn a_key_from_a_credential_is_used_and_not_written() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(Keep::open(state.path(), Some([7; 16])).unwrap().key(), [7; 16]);
        assert!(!state.path().join("keep").join(FINGERPRINT_KEY).exists());
    }

    #[test]
    fn decisions_survive_and_are_private() {
        let state = tempfile::tempdir().unwrap();
        let decisions = Decisions { is_suspended: true, ..Decisions::default() };
        Keep::open(state.path(), None).unwrap().change_decisions(|kept| kept.clone_from(&decisions)).unwrap();
        assert_eq!(Keep::open(state.path(), None).unwrap().decisions(), decisions);
        assert_eq!(mode(&state.path().join("keep").join(DECISIONS)), 0o600);
    }

    #[test]
    fn decisions_that_cannot_be_read_are_moved_aside_and_nothing_is_written_before_somebody_resumes() {
        let state = tempfile::tempdir().unwrap();
        let keep = state.path().join("keep");
        for damage in ["{\"is_suspended\":", "nothing", "\u{0}\u{0}"] {
            fs::create_dir_all(&keep).unwrap();
            fs::write(keep.join(DECISIONS), damage).unwrap();
            let suspended = Decisions { is_suspended: true, ..Decisions::default() };
            assert_eq!(Keep::open(state.path(), None).unwrap().decisions(), suspended);
            assert_eq!(Keep::open(state.path(), None).unwrap().decisions(), suspended, "the next start knows it, too");
        }
        let aside = fs::read_dir(&keep)
            .unwrap()
            .filter(|item| item.as_ref().unwrap().file_name().to_string_lossy().starts_with("decisions.json.damaged-"));
        assert_eq!(aside.count(), 3);
    }

    #[test]
    fn writing_is_suspended_by_damaged_decisions_although_the_disk_is_full_or_the_process_ends() {
        let state = tempfile::tempdir().unwrap();
        let keep = state.path().join("keep");
        fs::create_dir_all(keep.join("decisions.json.successor.new/in the way")).unwrap();
        fs::write(keep.join(DECISIONS), "{").unwrap();
        assert!(Keep::open(state.path(), None).is_err(), "there is no room");
        assert_eq!(
            fs::read(keep.join(DECISIONS)).unwrap(),
            b"{",
            "what is damaged stays until something is in its place"
        );
        fs::remove_dir_all(keep.join("decisions.json.successor.new")).unwrap();
        let suspended = Decisions { is_suspended: true, ..Decisions::default() };
        assert_eq!(Keep::open(state.path(), None).unwrap().decisions(), suspended);
        // As a kill between the two renames leaves it.
        fs::rename(keep.join(DECISIONS), keep.join(SUCCESSOR)).unwrap();
        assert_eq!(Keep::open(state.path(), None).unwrap().decisions(), suspended);
    }

    #[test]
    fn a_short_key_is_moved_aside_and_replaced() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("keep").join(FINGERPRINT_KEY);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, [1, 2, 3]).unwrap();
        let key = Keep::open(state.path(), None).unwrap().key();
        assert_eq!(fs::read(&path).unwrap(), key);
    }

    #[test]
    fn a_file_left_by_a_crash_lends_neither_mode_nor_content() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("token");
        let left = state.path().join("token.new");
        fs::write(&left, "an unfinished and much longer content").unwrap();
        fs::set_permissions(&left, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode(&path), 0o600);
        assert!(!left.exists());
    }
}
