//! The ledger on disk: sled 0.34 with a barrier, checksums and an opening of its own.
//!
//! sled is fast and transactional, but it never calls fsync, opens a short file as if nothing were missing, panics on
//! damage, and stays broken after one refused write. What surrounds it here makes up for each of these.

mod bucket;
mod codec;
mod draft;
mod entry;
mod failure;
mod ledger;
mod offline;
mod opening;
mod read;
mod side;
#[cfg(test)]
mod tests;
mod verify;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::fs::FlockOperation;

use self::codec::Failure;
use self::ledger::{Change, Ledger};
pub use self::offline::{Imported, examine, export, recall, set_aside};
use self::opening::Place;
pub use self::opening::{VERIFIED_CLEAN_MAX, VERIFIED_UNCLEAN_MAX};
use super::exports::{self, Exports, PAGE_ENTRIES};
use super::keep::{Keep, private_directory};
use super::lock;
use super::owner::Seat;
use crate::model::{Entry, LeadId, ReferralId, Timestamp};
use crate::ports::{
    Batch, Check, Counters, DecisionChange, Decisions, ExportsKept, HistoryLine, IntendedAction, Intent, Memo, Opening,
    Pruned, StateStore, StoreError,
};

/// After a refused attempt to open the ledger again, the next one waits this long.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// A ledger that broke so often in one process is damaged, though opening it shows nothing.
const PANICS_MAX: u32 = 2;

/// How long a directory must be found taken before that is believed: a process that was just forked, to become another
/// program, holds our locks for a moment.
const LOCK_TIME_MAX: Duration = Duration::from_millis(200);

/// After a session that has written more than this the ledger is opened once more when it is closed, so that the next start
/// need not read it all. Reading so much takes some 20 ms.
const SHORTENED_FROM: u64 = 8 << 20;

/// The ledger on disk. It holds the state directory until it is dropped.
///
/// A failed call leaves nothing half done in sight: the ledger is closed, and opened again by the next call.
pub struct SledStore {
    inner: Arc<Inner>,
}

struct Inner {
    // Fields are dropped in this order: the directory is given free last.
    access: RwLock<Access>,
    place: Place,
    keep: Keep,
    opening: Mutex<Opening>,
    openings: AtomicU64,
    panics: AtomicU32,
    damage: Mutex<Option<String>>,
    _seat: Seat,
}

enum Access {
    Open(Arc<Ledger>),
    Closed { reason: StoreError, since: Option<Instant> },
}

impl SledStore {
    /// As [`super::open`]; `key` is a fingerprint key from a credential, in place of the kept one.
    ///
    /// # Errors
    ///
    /// As [`super::open`].
    pub fn open(directory: &Path, cache_bytes: u64, key: Option<[u8; 16]>) -> Result<Self, StoreError> {
        Self::over(directory, cache_bytes, key, Place::open)
    }

    /// As [`super::look`]; `key` as in [`SledStore::open`].
    ///
    /// # Errors
    ///
    /// As [`super::look`].
    pub fn look(directory: &Path, cache_bytes: u64, key: Option<[u8; 16]>) -> Result<Self, StoreError> {
        Self::over(directory, cache_bytes, key, Place::look)
    }

    fn over(
        directory: &Path,
        cache_bytes: u64,
        key: Option<[u8; 16]>,
        open: impl FnOnce(&Place) -> Result<(Ledger, Opening), StoreError>,
    ) -> Result<Self, StoreError> {
        let seat = take(directory)?;
        let keep = Keep::open(directory, key)?;
        let place = Place::new(directory, cache_bytes, keep.key());
        let (ledger, opening) = open(&place)?;
        let access = RwLock::new(Access::Open(Arc::new(ledger)));
        let (openings, panics, damage) = (AtomicU64::new(1), AtomicU32::new(0), Mutex::default());
        let opening = Mutex::new(opening);
        // Now already, so that a command that is killed leaves nothing of root's behind.
        seat.hand_over();
        let inner = Inner { access, place, keep, opening, openings, panics, damage, _seat: seat };
        Ok(SledStore { inner: Arc::new(inner) })
    }

    fn exports(&self) -> Arc<Exports> {
        Arc::clone(&self.inner.place.exports)
    }

    /// Brings everything to disk. Blocks. The last step of an orderly stop, after a memo with `is_stopped_cleanly`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] when the disk refuses.
    pub fn shutdown(&self) -> Result<(), StoreError> {
        self.inner.with(|ledger| {
            ledger.make_durable(ledger.committed())?;
            ledger.mark();
            Ok(())
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|_| Err(StoreError::Failed { reason: "the ledger's thread was stopped".to_owned() }))
    }
}

impl Inner {
    /// Does something with the ledger; closes it when that fails, so that nothing half done is read.
    fn with<T>(&self, work: impl FnOnce(&Ledger) -> Result<T, Failure>) -> Result<T, StoreError> {
        let ledger = self.ledger()?;
        let result = catch_unwind(AssertUnwindSafe(|| work(&ledger)));
        let failure = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(failure)) => failure,
            Err(panic) => failure::panicked(&*panic),
        };
        let reason = self.place.told(&failure);
        match failure {
            Failure::Damage(reason) => self.remember_damage(&reason),
            Failure::Refused(_) => {}
            Failure::Panic(what) => {
                // Opening it again has shown nothing, and yet it breaks: the damage lies deeper.
                if self.panics.fetch_add(1, Ordering::Relaxed) + 1 >= PANICS_MAX {
                    self.remember_damage(&what);
                }
                self.close(ledger, reason.clone());
            }
            Failure::Disk(_) | Failure::Newer(_) | Failure::Locked => self.close(ledger, reason.clone()),
        }
        Err(reason)
    }

    /// The ledger, opened again if it was closed.
    fn ledger(&self) -> Result<Arc<Ledger>, StoreError> {
        if let Access::Open(ledger) = &*self.access.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Arc::clone(ledger));
        }
        let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
        match &*access {
            Access::Open(ledger) => return Ok(Arc::clone(ledger)),
            Access::Closed { reason, since } => {
                if lock(&self.damage).is_some() || since.is_some_and(|since| since.elapsed() < REOPEN_PAUSE) {
                    return Err(reason.clone());
                }
            }
        }
        match self.place.reopen() {
            Ok(ledger) => {
                let ledger = Arc::new(ledger);
                *access = Access::Open(Arc::clone(&ledger));
                self.openings.fetch_add(1, Ordering::Relaxed);
                Ok(ledger)
            }
            Err(failure) => {
                if let Failure::Damage(reason) = &failure {
                    self.remember_damage(reason);
                }
                let reason = self.place.told(&failure);
                *access = Access::Closed { reason: reason.clone(), since: Some(Instant::now()) };
                Err(reason)
            }
        }
    }

    fn close(&self, ledger: Arc<Ledger>, reason: StoreError) {
        let failed = Arc::downgrade(&ledger);
        // Given up before the lock is taken: whoever opens the ledger again waits until nobody has it open.
        drop(ledger);
        let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
        let is_current = matches!(&*access, Access::Open(current) if Arc::as_ptr(current) == failed.as_ptr());
        let former = is_current.then(|| std::mem::replace(&mut *access, Access::Closed { reason, since: None }));
        drop(access);
        // sled flushes when it is dropped and may take its time: not under the lock.
        drop(former);
    }

    fn remember_damage(&self, reason: &str) {
        let mut damage = lock(&self.damage);
        if damage.is_none() {
            *damage = Some(reason.to_owned());
            self.place.remember_damage(reason);
        }
    }

    /// Moves a ledger that was found damaged aside and begins a new one.
    fn mend(&self) -> Result<bool, StoreError> {
        let Some(reason) = lock(&self.damage).clone() else { return Ok(false) };
        let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
        let closed = StoreError::Failed { reason: reason.clone() };
        // Let go before it is moved; whoever still has it writes into what was moved.
        drop(std::mem::replace(&mut *access, Access::Closed { reason: closed, since: None }));
        let (ledger, opening) = self.place.replace(reason).map_err(|failure| self.place.told(&failure))?;
        *access = Access::Open(Arc::new(ledger));
        *lock(&self.opening) = opening;
        *lock(&self.damage) = None;
        self.panics.store(0, Ordering::Relaxed);
        self.openings.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    fn commit(&self, change: Change<'_>) -> Result<u64, StoreError> {
        self.with(|ledger| {
            let commit = ledger.commit(change)?;
            ledger.make_durable(commit)?;
            Ok(commit)
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let access = self.access.get_mut().unwrap_or_else(PoisonError::into_inner);
        let reason = StoreError::Failed { reason: "the ledger is closed".to_owned() };
        let Access::Open(ledger) = std::mem::replace(access, Access::Closed { reason, since: None }) else { return };
        let is_long = ledger.written() >= SHORTENED_FROM;
        ledger.mark();
        drop(ledger);
        if is_long {
            self.place.shorten();
        }
    }
}

#[async_trait]
impl StateStore for SledStore {
    fn get(&self, id: ReferralId) -> Result<Option<Entry>, StoreError> {
        self.inner.with(|ledger| ledger.get(id))
    }

    fn by_lead(&self, lead: LeadId) -> Result<Option<ReferralId>, StoreError> {
        self.inner.with(|ledger| ledger.by_lead(lead))
    }

    fn scan(&self, after: Option<ReferralId>, limit: usize) -> Result<Vec<(ReferralId, Entry)>, StoreError> {
        self.inner.with(|ledger| ledger.scan(after, limit))
    }

    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<ReferralId>, StoreError> {
        self.inner.with(|ledger| ledger.due(now, limit))
    }

    fn newest(&self, limit: usize) -> Result<Vec<ReferralId>, StoreError> {
        self.inner.with(|ledger| ledger.newest(limit))
    }

    fn deadlines(&self, until: Timestamp, limit: usize) -> Result<Vec<(ReferralId, Timestamp)>, StoreError> {
        self.inner.with(|ledger| ledger.deadlines(until, limit))
    }

    fn memo(&self) -> Result<Memo, StoreError> {
        self.inner.with(Ledger::memo)
    }

    fn counters(&self) -> Result<Counters, StoreError> {
        self.inner.with(Ledger::counters)
    }

    fn intents(&self) -> Result<Vec<Intent>, StoreError> {
        self.inner.with(Ledger::intents)
    }

    async fn intend(&self, actions: Vec<IntendedAction>) -> Result<u64, StoreError> {
        self.blocking(move |inner| inner.commit(Change::Intend(&actions))).await
    }

    async fn record(&self, batch: Batch) -> Result<(), StoreError> {
        if batch == Batch::default() {
            return Ok(());
        }
        self.blocking(move |inner| inner.commit(Change::Record(&batch)).map(drop)).await
    }

    fn history(&self, id: ReferralId) -> Result<Vec<HistoryLine>, StoreError> {
        self.inner.with(|ledger| ledger.history(id))
    }

    async fn prune_history(&self, before: Timestamp, limit: usize) -> Result<Pruned, StoreError> {
        self.blocking(move |inner| inner.with(|ledger| ledger.prune_history(before, limit))).await
    }

    async fn forget(&self, id: ReferralId) -> Result<(), StoreError> {
        self.blocking(move |inner| {
            inner.commit(Change::Forget(id))?;
            inner.place.exports.forget(id)?;
            Ok(())
        })
        .await
    }

    async fn recall(&self, id: ReferralId, organization: Option<uuid::Uuid>) -> Result<Option<Entry>, StoreError> {
        self.blocking(move |inner| Ok(inner.place.exports.recall(id, organization))).await
    }

    async fn keep_export(&self, now: Timestamp, stop: Arc<AtomicBool>) -> Result<(), StoreError> {
        self.blocking(move |inner| {
            let (memo, commit) = inner.with(|ledger| Ok((ledger.memo()?, ledger.committed())))?;
            let header = offline::header(&inner.place.exports, &memo, commit, now);
            let page = |after| inner.with(|ledger| ledger.scan(after, PAGE_ENTRIES));
            inner.place.exports.keep(&header, page, &stop)?;
            inner.with(|ledger| {
                ledger.mark();
                Ok(())
            })
        })
        .await
    }

    fn exports_kept(&self) -> ExportsKept {
        let kept = self.inner.place.exports.list();
        ExportsKept { count: kept.len() as u64, newest: kept.first().map(|kept| kept.header.exported) }
    }

    async fn export(&self, now: Timestamp, mut out: Box<dyn std::io::Write + Send>) -> Result<u64, StoreError> {
        self.blocking(move |inner| {
            let (memo, commit) = inner.with(|ledger| Ok((ledger.memo()?, ledger.committed())))?;
            let header = offline::header(&inner.place.exports, &memo, commit, now);
            let page = |after| inner.with(|ledger| ledger.scan(after, PAGE_ENTRIES));
            let trailer = exports::write(&mut out, &header, page, &AtomicBool::new(false))?;
            out.flush().map_err(exports::Unusable::from)?;
            Ok::<u64, StoreError>(trailer.count)
        })
        .await
    }

    async fn check(&self) -> Result<Check, StoreError> {
        self.blocking(move |inner| {
            let looked = inner.with(|ledger| {
                // Nothing may change while it is compared.
                let _writing = lock(&ledger.writing);
                match offline::check(ledger) {
                    Err(Failure::Damage(reason)) => Ok(Err(reason)),
                    other => other.map(Ok),
                }
            })?;
            let found = looked.unwrap_or_else(|reason| {
                inner.remember_damage(&reason);
                Check { damage: Some(reason), ..Check::default() }
            });
            let exports = offline::check_exports(&inner.place.exports);
            Ok(Check { commit_expected: found.commit, exports, ..found })
        })
        .await
    }

    async fn mend(&self) -> Result<bool, StoreError> {
        self.blocking(Inner::mend).await
    }

    fn openings(&self) -> u64 {
        self.inner.openings.load(Ordering::Relaxed)
    }

    fn decisions(&self) -> Result<Decisions, StoreError> {
        Ok(self.inner.keep.decisions())
    }

    async fn decide(&self, change: DecisionChange) -> Result<(Decisions, Decisions), StoreError> {
        self.blocking(move |inner| inner.keep.change_decisions(change)).await
    }

    fn fingerprint_key(&self) -> [u8; 16] {
        self.inner.keep.key()
    }

    fn opening(&self) -> Opening {
        lock(&self.inner.opening).clone()
    }
}

/// Takes a state directory for this process, at once or not at all. The lock ends with the returned seat, also by kill.
fn take(directory: &Path) -> Result<Seat, StoreError> {
    let failed = |error: std::io::Error| StoreError::Failed {
        reason: format!(
            "cannot write to {}: {error}; make it a directory that belongs to the user that runs referrald, or set \
             state.directory",
            directory.display()
        ),
    };
    if !directory.is_dir() {
        private_directory(directory).map_err(failed)?;
    }
    let path = directory.join("lock");
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    let began = Instant::now();
    let taken = loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < LOCK_TIME_MAX => {
                std::thread::sleep(Duration::from_millis(5));
            }
            taken => break taken,
        }
    };
    match taken {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // Without its number the message is still true.
            let _ = file.take(32).read_to_string(&mut text);
            return Err(StoreError::Locked { directory: directory.to_owned(), pid: text.trim().parse().ok() });
        }
        Err(error) => return Err(failed(error.into())),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(Seat::new(directory, file))
}
