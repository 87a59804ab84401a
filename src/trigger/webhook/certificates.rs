//! Certificates we have seen: fetched once for everybody, kept for a day, and not asked for again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::Instant;

use super::fetch::{CERTIFICATE_BYTES_MAX, Fetch, INTERMEDIATE_BYTES_MAX};
use super::reason::Reason;
use super::signer::{Fetched, Signer, issuer_urls};
use super::source::{Place, Sources};
use super::verify::Rules;
use crate::model::Timestamp;

/// How long a certificate is used without asking again; never past its end.
pub const CERTIFICATE_TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a place that did not answer is left alone.
pub const UNAVAILABLE_TIME: Duration = Duration::from_secs(10);
/// How long a place that gave no good certificate is left alone.
pub const REFUSED_TIME: Duration = Duration::from_secs(60);
/// A signature that does not fit may mean a new key at the old place: it is asked again once in this time.
pub const REFETCH_INTERVAL: Duration = Duration::from_secs(60);
/// Places remembered at once.
pub const PLACES_MAX: usize = 32;
/// Fetches of certificates that are not known yet, within a minute.
pub const FETCHES_PER_MINUTE: usize = 60;
/// Issuers that are asked for, one above the other.
pub const ISSUER_STEPS_MAX: usize = 3;
/// Intermediates remembered from the network.
pub const ISSUERS_MAX: usize = 16;
/// Files read from the folder of intermediates.
pub const FOLDER_FILES_MAX: usize = 64;
/// At one place the new certificate and the one before are believed, as long as both are in their time.
const SIGNERS_PER_PLACE: usize = 2;
const MINUTE: Duration = Duration::from_secs(60);

/// The time of day.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What is known of certificates.
#[derive(Clone)]
pub struct Certificates {
    inner: Arc<Inner>,
}

struct Inner {
    rules: Arc<Rules>,
    intermediate_sources: Sources,
    folder: Vec<CertificateDer<'static>>,
    fetch: Arc<dyn Fetch>,
    now: Now,
    /// Where the place of the last good certificate is written down.
    note: Option<PathBuf>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    slots: BTreeMap<Place, Slot>,
    issuers: BTreeMap<Place, (Vec<CertificateDer<'static>>, Instant)>,
    fetches: Vec<Instant>,
    noted: Option<Place>,
}

/// One place.
struct Slot {
    /// Newest first.
    signers: Vec<(Arc<Signer>, Instant)>,
    failure: Option<(Reason, Instant)>,
    refetched: Option<Instant>,
    /// Closed when the fetch under way has ended.
    running: Option<watch::Receiver<()>>,
    used: Instant,
}

/// What is to be done for a caller.
enum Step {
    Known(Result<Vec<Arc<Signer>>, Reason>),
    Wait(watch::Receiver<()>),
}

impl Certificates {
    /// Nothing known yet but the folder's intermediates.
    pub fn new(
        rules: Arc<Rules>,
        intermediate_sources: Sources,
        folder: Vec<CertificateDer<'static>>,
        fetch: Arc<dyn Fetch>,
        now: Now,
        note: Option<PathBuf>,
    ) -> Self {
        let memory = Mutex::default();
        Certificates { inner: Arc::new(Inner { rules, intermediate_sources, folder, fetch, now, note, memory }) }
    }

    /// The certificates at a place, from memory or fetched within `wait`. The fetch goes on when nobody waits any more.
    ///
    /// # Errors
    /// Why there is none; [`Reason::CertificateUnavailable`] also when the time was too short.
    pub async fn signers(&self, place: &Place, wait: Duration) -> Result<Vec<Arc<Signer>>, Reason> {
        let deadline = Instant::now() + wait;
        loop {
            match self.step(place, false) {
                Step::Known(result) => return result,
                Step::Wait(running) => ended(running, deadline).await?,
            }
        }
    }

    /// Asks a place again because a signature did not fit: there may be a new key. `None` when it was asked not long
    /// ago.
    ///
    /// # Errors
    /// As [`Certificates::signers`].
    pub async fn signers_anew(&self, place: &Place, wait: Duration) -> Option<Result<Vec<Arc<Signer>>, Reason>> {
        let deadline = Instant::now() + wait;
        match self.step(place, true) {
            Step::Known(_) => None,
            Step::Wait(running) => {
                if let Err(reason) = ended(running, deadline).await {
                    return Some(Err(reason));
                }
                Some(self.signers(place, deadline.saturating_duration_since(Instant::now())).await)
            }
        }
    }

    /// Fetches the certificate that was good last time, so that the first delivery does not have to wait.
    pub fn prefetch(&self) {
        let Some(text) = self.inner.note.as_deref().and_then(read_note) else { return };
        if let Some(place) = self.inner.rules.certificate_sources.admit(&text) {
            self.memory().noted = Some(place.clone());
            let _ = self.step(&place, false);
        }
    }

    /// When the certificates that are believed now end: the last of them.
    pub fn valid_until(&self) -> Option<Timestamp> {
        let memory = self.memory();
        memory.slots.values().flat_map(|slot| &slot.signers).map(|(signer, _)| signer.valid_until).max()
    }

    /// Places remembered, for the bound of it.
    pub fn place_count(&self) -> usize {
        self.memory().slots.len()
    }

    /// Looks into memory, and begins a fetch if that is due.
    fn step(&self, place: &Place, is_anew: bool) -> Step {
        let now = Instant::now();
        let mut memory = self.memory();
        let is_known = memory.slots.contains_key(place);
        if !is_known && !memory.make_room() {
            return Step::Known(Err(Reason::CertificateUnavailable));
        }
        let slot = memory.slots.entry(place.clone()).or_insert_with(|| Slot::new(now));
        slot.used = now;
        slot.signers.retain(|(_, until)| *until > now);
        slot.failure = slot.failure.filter(|(_, until)| *until > now);
        if let Some(running) = &slot.running {
            // Who has a certificate does not wait for a second one, unless it is the second one that is wanted.
            if is_anew || slot.signers.is_empty() {
                return Step::Wait(running.clone());
            }
        }
        if is_anew {
            let is_early = slot.refetched.is_some_and(|at| now.duration_since(at) < REFETCH_INTERVAL);
            if is_early {
                return Step::Known(Err(Reason::SignatureWrong));
            }
        } else if !slot.signers.is_empty() {
            return Step::Known(Ok(slot.signers.iter().map(|(signer, _)| Arc::clone(signer)).collect()));
        } else if let Some((reason, _)) = slot.failure {
            return Step::Known(Err(reason));
        }
        // The place of the last good certificate cannot be crowded out by names that a stranger makes up.
        let is_noted = memory.noted.as_ref() == Some(place);
        if !is_anew && !is_noted && !memory.may_fetch(now) {
            // Nothing came of it: the place need not be remembered.
            if !is_known {
                memory.slots.remove(place);
            }
            return Step::Known(Err(Reason::CertificateUnavailable));
        }
        let (done, running) = watch::channel(());
        if let Some(slot) = memory.slots.get_mut(place) {
            if is_anew {
                slot.refetched = Some(now);
            }
            slot.running = Some(running.clone());
        }
        drop(memory);
        let (this, place) = (self.clone(), place.clone());
        tokio::spawn(async move {
            let brought = this.bring(&place).await;
            this.put(&place, brought).await;
            drop(done);
        });
        Step::Wait(running)
    }

    /// Fetches and judges, asking for issuers on the way.
    async fn bring(&self, place: &Place) -> Result<Signer, Reason> {
        let inner = &self.inner;
        let bytes = inner.fetch.fetch(place, CERTIFICATE_BYTES_MAX).await.map_err(|why| {
            tracing::warn!("the webhook's signing certificate could not be fetched: {why}");
            Reason::CertificateUnavailable
        })?;
        let Fetched { leaf, others } = Fetched::read(&bytes)?;
        let mut chain: Vec<CertificateDer<'static>> = inner.folder.iter().cloned().chain(others).collect();
        let mut newest = vec![leaf.clone()];
        for _ in 0..ISSUER_STEPS_MAX {
            let judged = Signer::judge(&leaf, &chain, &inner.rules.trust, (inner.now)());
            // A chain that is refused may have met an old intermediate of the same name.
            if !matches!(judged, Err(Reason::IssuerUnknown | Reason::ChainRefused)) {
                return judged;
            }
            let mut brought = Vec::new();
            for certificate in &newest {
                brought.extend(self.issuers(certificate).await);
            }
            if brought.is_empty() {
                return judged;
            }
            chain.extend(brought.iter().cloned());
            newest = brought;
        }
        Signer::judge(&leaf, &chain, &inner.rules.trust, (inner.now)())
    }

    /// The issuer's certificates, from the first of the addresses that gives one and may be asked.
    async fn issuers(&self, certificate: &CertificateDer<'_>) -> Vec<CertificateDer<'static>> {
        for url in issuer_urls(certificate) {
            let Some(place) = self.inner.intermediate_sources.admit(&url) else { continue };
            let now = Instant::now();
            let known = self.memory().issuers.get(&place).filter(|(_, until)| *until > now).cloned();
            if let Some((known, _)) = known {
                return known;
            }
            match self.inner.fetch.fetch(&place, INTERMEDIATE_BYTES_MAX).await.map(|bytes| Fetched::read(&bytes)) {
                Ok(Ok(Fetched { leaf, others })) => {
                    let brought: Vec<_> = std::iter::once(leaf).chain(others).collect();
                    let mut memory = self.memory();
                    memory.issuers.retain(|_, (_, until)| *until > now);
                    if memory.issuers.len() < ISSUERS_MAX {
                        memory.issuers.insert(place, (brought.clone(), now + CERTIFICATE_TIME_MAX));
                    }
                    return brought;
                }
                Ok(Err(_)) => tracing::warn!("an intermediate certificate of the webhook could not be read"),
                Err(why) => tracing::warn!("an intermediate certificate of the webhook could not be fetched: {why}"),
            }
        }
        Vec::new()
    }

    async fn put(&self, place: &Place, brought: Result<Signer, Reason>) {
        let now = Instant::now();
        let mut is_news = false;
        {
            let mut memory = self.memory();
            let is_good = brought.is_ok();
            if let Some(slot) = memory.slots.get_mut(place) {
                slot.running = None;
                match brought {
                    Ok(signer) => {
                        let left = signer.valid_until.since((self.inner.now)());
                        slot.failure = None;
                        slot.signers.retain(|(old, _)| **old != signer);
                        slot.signers.insert(0, (Arc::new(signer), now + left.min(CERTIFICATE_TIME_MAX)));
                        slot.signers.truncate(SIGNERS_PER_PLACE);
                    }
                    Err(reason) => {
                        tracing::warn!(
                            reason = reason.code(),
                            "the webhook's signing certificate is of no use: {}",
                            reason.sentence()
                        );
                        let time = match reason {
                            Reason::CertificateUnavailable => UNAVAILABLE_TIME,
                            _ => REFUSED_TIME,
                        };
                        slot.failure = Some((reason, now + time));
                    }
                }
            }
            if is_good && memory.noted.as_ref() != Some(place) {
                memory.noted = Some(place.clone());
                is_news = true;
            }
        }
        if let (true, Some(note)) = (is_news, &self.inner.note) {
            write_note(note, place).await;
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.inner.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the end of a fetch; its sender is dropped then.
async fn ended(mut running: watch::Receiver<()>, deadline: Instant) -> Result<(), Reason> {
    let over = async { while running.changed().await.is_ok() {} };
    tokio::time::timeout_at(deadline, over).await.map_err(|_| Reason::CertificateUnavailable)
}

impl Slot {
    fn new(now: Instant) -> Self {
        Slot { signers: Vec::new(), failure: None, refetched: None, running: None, used: now }
    }
}

impl Memory {
    /// Forgets the place that was not used for the longest time, those without a good certificate first. False when all
    /// are being fetched.
    fn make_room(&mut self) -> bool {
        while self.slots.len() >= PLACES_MAX {
            let idle = self.slots.iter().filter(|(_, slot)| slot.running.is_none());
            let least =
                idle.min_by_key(|(_, slot)| (!slot.signers.is_empty(), slot.used)).map(|(place, _)| place.clone());
            match least {
                Some(place) => self.slots.remove(&place),
                None => return false,
            };
        }
        true
    }

    fn may_fetch(&mut self, now: Instant) -> bool {
        self.fetches.retain(|at| now.duration_since(*at) < MINUTE);
        let may = self.fetches.len() < FETCHES_PER_MINUTE;
        if may {
            self.fetches.push(now);
        }
        may
    }
}

/// The URL in a note.
fn read_note(note: &Path) -> Option<String> {
    let bytes = crate::config::secret::read_limited(note).ok()?;
    Some(String::from_utf8(bytes).ok()?.trim().to_owned())
}

/// Writes the note; without it the next start only begins cold.
async fn write_note(note: &Path, place: &Place) {
    let fresh = note.with_extension("new");
    let text = format!("{}\n", place.url());
    let written = async {
        if let Some(directory) = note.parent() {
            tokio::fs::create_dir_all(directory).await?;
        }
        tokio::fs::write(&fresh, text).await?;
        tokio::fs::rename(&fresh, note).await
    };
    if let Err(error) = written.await {
        tracing::debug!(%error, "the place of the webhook's certificate could not be written down");
    }
}

/// Reads every certificate of a folder.
///
/// # Errors
/// A sentence, when the folder cannot be read or a file in it holds no certificate.
pub fn read_folder(folder: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let refuse = |why: String| format!("{} {why}", folder.display());
    let entries = std::fs::read_dir(folder).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| refuse(format!("cannot be read: {error}")))?.path();
        let extension = path.extension().and_then(|text| text.to_str()).unwrap_or_default().to_ascii_lowercase();
        if path.is_file() && ["cer", "crt", "der", "pem"].contains(&extension.as_str()) {
            files.push(path);
        }
    }
    if files.len() > FOLDER_FILES_MAX {
        return Err(refuse(format!("holds more than {FOLDER_FILES_MAX} certificates")));
    }
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let refuse = |why: &str| format!("{} {why}", file.display());
        let bytes =
            crate::config::secret::read_limited(&file).map_err(|why| refuse(&format!("cannot be read: {why}")))?;
        let Fetched { leaf, others } =
            Fetched::read(&bytes).map_err(|_| refuse("is no certificate in DER, PEM or base64"))?;
        found.push(leaf);
        found.extend(others);
    }
    Ok(found)
}
