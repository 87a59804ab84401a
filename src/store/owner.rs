//! Whose the state is: what root writes into the state directory of a service belongs to the service's user afterwards.
//!
//! Somebody types `sudo referrald status` while the daemon is down. The daemon's user is another one than root (with
//! `DynamicUser=` it does not even have a name then), and could not open a ledger in which files belong to root. systemd
//! mends owners at a start only where the directory itself has a wrong one.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags};

/// Folders within folders that are looked into; the state directory has two.
const DEPTH_MAX: usize = 8;

/// The user and group that a directory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    user: u32,
    group: u32,
}

/// A state directory that this process has taken; it ends with the process, also by kill.
#[derive(Debug)]
pub(super) struct Seat {
    directory: PathBuf,
    _lock: File,
}

impl Seat {
    /// `lock` is the locked file.
    pub(super) fn new(directory: &Path, lock: File) -> Self {
        Seat { directory: directory.to_owned(), _lock: lock }
    }

    /// Gives what root has made so far to the owner of the directory; for anybody else there is nothing to do.
    pub(super) fn hand_over(&self) {
        hand_over(&self.directory);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hand_over();
    }
}

/// Gives every file and folder of root below a state directory to the directory's owner, those that an earlier command
/// left behind included. Only root can, and nobody else needs to. Best effort: what could not be given is told by `doctor`.
pub fn hand_over(directory: &Path) {
    let Some(owner) = host(directory) else { return };
    let opened = rustix::fs::open(directory, folder(), Mode::empty()).map_err(io::Error::from);
    if let Err(error) = opened.and_then(|opened| give(opened, owner, DEPTH_MAX)) {
        tracing::warn!(
            directory = %directory.display(), %error,
            "a file cannot be given to the owner of the state directory; the daemon may not be able to use it"
        );
    }
}

/// The owner of a directory, where this process is root and the owner is not.
fn host(directory: &Path) -> Option<Owner> {
    // The owner of our own process directory is the user we act as.
    let (own, above) = (fs::metadata("/proc/self").ok()?, fs::metadata(directory).ok()?);
    (own.uid() == 0 && above.uid() != 0).then(|| Owner { user: above.uid(), group: above.gid() })
}

/// No symbolic link is followed, and what is changed is what was looked at: the owner may do as they like in there, and
/// nothing outside must come into their hands.
fn give(directory: OwnedFd, owner: Owner, depth: usize) -> io::Result<()> {
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." || !matches!(entry.file_type(), FileType::RegularFile | FileType::Directory) {
            continue;
        }
        match open(directory.as_fd(), name) {
            Ok(opened) => give_one(opened, owner, depth)?,
            // Gone meanwhile, or no longer what it was.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn give_one(opened: OwnedFd, owner: Owner, depth: usize) -> io::Result<()> {
    let found = rustix::fs::fstat(&opened)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    // Another name of the same file may stand anywhere.
    let is_single = kind == FileType::Directory || (kind == FileType::RegularFile && found.st_nlink == 1);
    if found.st_uid == 0 && is_single {
        let (user, group) = (rustix::fs::Uid::from_raw(owner.user), rustix::fs::Gid::from_raw(owner.group));
        rustix::fs::fchown(&opened, Some(user), Some(group))?;
    }
    match depth.checked_sub(1) {
        Some(depth) if kind == FileType::Directory => give(opened, owner, depth),
        _ => Ok(()),
    }
}

fn open(directory: std::os::fd::BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn folder() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    /// A user of nobody's, who owns the state of a service.
    const SERVICE: u32 = 61_234;

    fn owner(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("there").uid()
    }

    #[test]
    fn what_root_makes_in_the_state_of_a_service_belongs_to_the_service() {
        let place = tempfile::tempdir().expect("a directory");
        let state = place.path().join("state");
        fs::create_dir(&state).expect("made");
        if owner(Path::new("/proc/self")) != 0 {
            println!("not looked at: only root can give files away");
            return;
        }
        chown(&state, Some(SERVICE), Some(SERVICE)).expect("given");
        let outside = place.path().join("outside");
        fs::write(&outside, "root's").expect("written");
        symlink(&outside, state.join("link")).expect("linked");
        fs::hard_link(&outside, state.join("twin")).expect("linked");

        let ledger = crate::store::open(&state, 1 << 20).expect("opened");
        for path in ["ledger", "ledger/db", "keep", "keep/fingerprint.key", "lock"] {
            assert_eq!(owner(&state.join(path)), SERVICE, "{path}, while it is open");
        }
        fs::write(state.join("keep/later"), "x").expect("written");
        drop(ledger);
        assert_eq!(owner(&state.join("keep/later")), SERVICE, "when it is closed");
        assert_eq!((owner(&outside), owner(&state.join("link")), owner(&state.join("twin"))), (0, 0, 0));
        // Root's own state stays root's.
        let own = place.path().join("own");
        drop(crate::store::open(&own, 1 << 20).expect("opened"));
        assert_eq!((owner(&own), owner(&own.join("keep/fingerprint.key"))), (0, 0));
    }
}
