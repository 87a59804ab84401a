//! Opening the ledger: whatever lies there, a working ledger comes of it, or a sentence that says why not.
//!
//! | found                                       | then                                            |
//! |---------------------------------------------|-------------------------------------------------|
//! | nothing, and no note beside it              | fresh                                           |
//! | less than the notes beside it say           | tail lost: its entries are only recalled        |
//! | all of it, after an orderly stop            | clean                                           |
//! | all of it otherwise                         | unclean: read more of it before it is trusted   |
//! | damage, another key, or something else      | moved aside, never repaired; a new one is begun;|
//! |                                             | who only looks is told, and it stays            |
//! | a newer format                              | refused by name, untouched                      |
//! | a disk that says no                         | an error; the next attempt may succeed          |
//!
//! sled panics on much damage, so all of this happens in a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::codec::{FORMAT, Failure};
use super::failure::{disk, from_panic, from_sled};
use super::ledger::Ledger;
use super::side::{Note, SideFile, read_mark};
use super::verify::verify;
use crate::ports::{Opening, StoreError};
use crate::store::exports::{Exports, key_stamp};
use crate::store::keep::{move_aside, private_directory, sync_directory};

/// A ledger with no more entries than this is read whole at every opening. After an orderly stop a larger one is checked
/// as it is used: what sled has read it keeps in memory for good (some 45 MB for 100,000 entries).
pub const VERIFIED_CLEAN_MAX: u64 = 10_000;

/// Entries read at an opening after any other stop: all of them, or so many of a larger ledger. The rest is checked as it
/// is used, for the same price in memory. No promise hangs on reading more: the commit number tells whether the newest
/// records are missing, intended actions are always read in full, and after such a stop a sweep is due, which meets every
/// referral again. What a person may have entered is held back for an entry that is gone, as after the loss of them all.
pub const VERIFIED_UNCLEAN_MAX: u64 = 10_000;

/// An opening that takes longer hangs: the ledger is moved aside.
const OPENING_TIME_MAX: Duration = Duration::from_secs(600);

/// How long to wait for sled to let go of a ledger that this process has just closed.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(5);

/// Ledgers moved aside are never deleted; from this many on, every opening reminds of them.
const ASIDE_REMINDER: usize = 5;

/// In the state directory: damage that was noticed while running. The next cycle or start moves the ledger aside.
const DAMAGE_NOTICE: &str = "ledger-damaged";

/// Where the ledger lives, and what it must fit.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The state directory.
    pub(super) directory: PathBuf,
    /// A hint for sled's cache.
    pub(super) cache_bytes: u64,
    /// Tells one fingerprint key from another, and nothing about either.
    pub(super) key_stamp: [u8; 8],
    /// What outlives it.
    pub(super) exports: Arc<Exports>,
}

impl Place {
    /// The ledger of a state directory.
    pub(super) fn new(directory: &Path, cache_bytes: u64, key: [u8; 16]) -> Self {
        let exports = Arc::new(Exports::new(directory, &key));
        Place { directory: directory.to_owned(), cache_bytes, key_stamp: key_stamp(&key), exports }
    }

    /// Opens the ledger at the start of a process.
    pub(super) fn open(&self) -> Result<(Ledger, Opening), StoreError> {
        let opened = match self.found() {
            Err(Failure::Damage(reason)) => self.replace(reason),
            Ok(opened) => self.dismiss_notice().map(|()| opened),
            Err(failure) => Err(failure),
        };
        let (ledger, opening) = opened.map_err(|failure| self.told(&failure))?;
        self.remind();
        Ok((ledger, opening))
    }

    /// As [`Place::open`], for who only looks: damage is an error, and everything stays where it is for who rebuilds it.
    pub(super) fn look(&self) -> Result<(Ledger, Opening), StoreError> {
        self.found().map_err(|failure| self.told(&failure))
    }

    /// What lies there, or the damage that was noticed before.
    fn found(&self) -> Result<(Ledger, Opening), Failure> {
        let noticed = fs::read_to_string(self.directory.join(DAMAGE_NOTICE)).ok();
        match noticed.filter(|_| fs::symlink_metadata(self.path()).is_ok()) {
            Some(reason) => Err(Failure::Damage(reason)),
            None => self.attempt(),
        }
    }

    /// Opens the ledger again within a process, after the disk refused something. Damage is left for the next cycle,
    /// because what was read in the one under way is not to be mixed with an empty ledger.
    pub(super) fn reopen(&self) -> Result<Ledger, Failure> {
        let (ledger, opening) = self.attempt()?;
        if let Opening::TailLost { expected, found } = opening {
            tracing::error!(expected, found, "the newest records of the ledger are missing: a sweep is due");
        }
        Ok(ledger)
    }

    /// Remembers damage for the next cycle, or the next start.
    pub(super) fn remember_damage(&self, reason: &str) {
        tracing::error!(directory = %self.directory.display(), "{}", self.told(&Failure::Damage(reason.to_owned())));
        // Without the notice the next start may find the damage by itself.
        let _ = crate::store::keep::write_private(&self.directory.join(DAMAGE_NOTICE), reason.as_bytes());
    }

    /// A failure as a sentence for people.
    pub(super) fn told(&self, failure: &Failure) -> StoreError {
        let directory = self.directory.display();
        match failure {
            Failure::Newer(found) => {
                StoreError::Newer { directory: self.directory.clone(), found: *found, known: FORMAT }
            }
            Failure::Refused(reason) => StoreError::Failed { reason: reason.clone() },
            Failure::Locked => StoreError::Locked { directory: self.directory.clone(), pid: None },
            Failure::Damage(reason) => StoreError::Failed {
                reason: format!(
                    "{reason} in {directory}/ledger: it is damaged; the next cycle moves it aside and rebuilds it from \
                     both services"
                ),
            },
            Failure::Panic(reason) => StoreError::Failed {
                reason: format!("{reason} in {directory}/ledger; it is opened again by the next call"),
            },
            Failure::Disk(reason) => StoreError::Failed {
                reason: format!(
                    "{reason} in {directory}; make room on the disk, and make sure that the directory can be written \
                     by the user that runs referrald"
                ),
            },
        }
    }

    /// Moves what is there aside and begins a new ledger.
    pub(super) fn replace(&self, reason: String) -> Result<(Ledger, Opening), Failure> {
        // An attempt that was interrupted by a full disk may have moved it already.
        let is_there = fs::symlink_metadata(self.path()).is_ok();
        let to = if is_there { move_aside(&self.path()).map_err(|error| disk(&error))? } else { self.path() };
        self.dismiss_notice()?;
        tracing::error!(moved_to = %to.display(), "the ledger cannot be used ({reason}): rebuilding it from both services");
        let (ledger, _) = self.attempt()?;
        Ok((ledger, Opening::MovedAside { to, reason }))
    }

    fn dismiss_notice(&self) -> Result<(), Failure> {
        match fs::remove_file(self.directory.join(DAMAGE_NOTICE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(disk(&error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn attempt(&self) -> Result<(Ledger, Opening), Failure> {
        self.apart(Place::begin)
    }

    /// Does something with what is there, in a thread of its own.
    pub(super) fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Place) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (tell, told) = mpsc::sync_channel(1);
        let place = self.clone();
        let opening = move || {
            let result = catch_unwind(AssertUnwindSafe(|| work(&place)));
            // Nobody listens any more when it took too long.
            let _ = tell.send(result.unwrap_or_else(|panic| Err(from_panic(&*panic))));
        };
        // The default hook prints a panic with the thread's name: it says that this one is expected.
        let named = thread::Builder::new().name("ledger-opening (a panic here is handled)".to_owned());
        named.spawn(opening).map_err(|error| disk(&error))?;
        told.recv_timeout(OPENING_TIME_MAX)
            .unwrap_or_else(|_| Err(Failure::Damage(format!("it did not open within {OPENING_TIME_MAX:?}"))))
    }

    /// Opens, checks and begins a session.
    fn begin(&self) -> Result<(Ledger, Opening), Failure> {
        let ledger = self.read()?;
        let note = self.note()?;
        let mut memo = ledger.memo()?;
        let opening = judge(&ledger, note, memo.is_stopped_cleanly);
        if ledger.key_stamp()?.is_some_and(|stamp| stamp != self.key_stamp) {
            return Err(Failure::Damage("its fingerprints were made with another key".to_owned()));
        }
        if opening != Opening::Clean || ledger.tally()?.entries <= VERIFIED_CLEAN_MAX {
            verify(&ledger, VERIFIED_UNCLEAN_MAX)?;
        }
        memo.is_stopped_cleanly = false;
        memo.is_sweep_due |= opening != Opening::Clean;
        if ledger.is_new() {
            // What was stamped before the ledger was lost still says whether this is the organization it was.
            let newest = self.exports.organizations();
            (memo.crm_organization, memo.partner_organization) = newest.unwrap_or_default();
        }
        if let Opening::TailLost { found, .. } = opening {
            // In the memo, so that it is done whoever opens the ledger first.
            memo.lead_reading = Some(None);
            memo.sweep = None;
            if found > 0 {
                tracing::warn!(
                    "the ledger is older than what was done since: its entries are compared with both services"
                );
                ledger.age(jiff::Timestamp::now().into())?;
            }
        }
        ledger.begin(note.unwrap_or_default().commit, self.key_stamp, &memo)?;
        sync_directory(&self.path()).and_then(|()| sync_directory(&self.directory)).map_err(|error| disk(&error))?;
        Ok((ledger, opening))
    }

    /// How far the ledger had come, by the note beside it and by the mark in `keep/`.
    pub(super) fn note(&self) -> Result<Option<Note>, Failure> {
        let (_, note) = SideFile::open(&self.directory).map_err(|error| disk(&error))?;
        let mark = read_mark(&self.directory);
        Ok(match note {
            Some(note) => Some(Note { commit: note.commit.max(mark), ..note }),
            None if mark > 0 => Some(Note { format: FORMAT, commit: mark }),
            None => None,
        })
    }

    /// Opens the trees; begins nothing.
    pub(super) fn read(&self) -> Result<Ledger, Failure> {
        if let Some(newer) = self.note()?.filter(|note| note.format > FORMAT) {
            return Err(Failure::Newer(newer.format));
        }
        let (side, _) = SideFile::open(&self.directory).map_err(|error| disk(&error))?;
        let path = self.path();
        if fs::metadata(&path).is_ok_and(|found| !found.is_dir()) {
            return Err(Failure::Damage("something that is no directory is in its place".to_owned()));
        }
        private_directory(&path).map_err(|error| disk(&error))?;
        Ledger::new(self.open_files()?, &self.directory, &path, side)
    }

    /// Opens the files of the ledger and lets go of them, after a session that has written much: sled notes where its pages
    /// are when it opens, and only then, and the next start would have to read everything that was written in between.
    ///
    /// That it fails is no trouble of the session that ends here; the next start meets the same, and deals with it.
    pub(super) fn shorten(&self) {
        if let Err(failure) = self.apart(|place| place.open_files().map(drop)) {
            tracing::warn!("the ledger could not be opened once more, so the next start takes longer: {failure}");
        }
    }

    fn open_files(&self) -> Result<::sled::Db, Failure> {
        let config = ::sled::Config::new().path(self.path()).cache_capacity(self.cache_bytes);
        // No thread of sled's own. Every commit passes our barrier, so there is nothing for it to flush, and it moves pages
        // together that need not be moved: half of what a quiet cycle cost, and tens of megabytes of pages in memory. Pages
        // are moved by the writes instead, one with each page that is written anew; a small churned ledger grows a little more.
        let config = config.flush_every_ms(None);
        let began = Instant::now();
        loop {
            match config.open().map_err(|error| from_sled(&error)) {
                // The state directory is ours, so it is this process that has not let go yet.
                Err(Failure::Locked) if began.elapsed() < RELEASE_TIME_MAX => thread::sleep(Duration::from_millis(10)),
                opened => return opened,
            }
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.join("ledger")
    }

    fn remind(&self) {
        let Ok(items) = fs::read_dir(&self.directory) else { return };
        let aside = items.flatten().filter(|item| item.file_name().to_string_lossy().starts_with("ledger.damaged-"));
        let count = aside.count();
        if count >= ASIDE_REMINDER {
            tracing::warn!(
                "{count} damaged ledgers lie in {}: keep what you want to examine and delete the rest; check the disk",
                self.directory.display()
            );
        }
    }
}

/// What an undamaged ledger tells.
fn judge(ledger: &Ledger, note: Option<Note>, was_stopped_cleanly: bool) -> Opening {
    let (found, expected) = (ledger.committed(), note.unwrap_or_default().commit);
    if found < expected {
        Opening::TailLost { expected, found }
    } else if ledger.is_new() {
        Opening::Fresh
    } else if was_stopped_cleanly && note.is_some() {
        Opening::Clean
    } else {
        Opening::Unclean
    }
}
