//! Exports of the ledger: what outlives it, in `keep/exports`.
//!
//! The daemon writes one a day. After the ledger is lost the newest one that fits supplies bases first: referrals whose
//! sides still show what they agreed on then need no person to decide. What may be believed of it, and why, is written
//! at `plan::fields` and [`Entry::recalled`]. An export is found to be whole before anything of it is used.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ring::digest;
use serde::Serialize;
use siphasher::sip::SipHasher24;

use super::keep::{private_directory, sync_directory};
use super::lock;
use crate::model::{Entry, ReferralId, Timestamp};

mod format;
#[cfg(test)]
mod tests;

pub use format::{Header, LINE_BYTES_MAX, Reader, Trailer, Unusable, VERSION, write};

/// Daily exports kept; older ones are deleted.
pub const EXPORTS_KEPT: usize = 7;

/// A further daily export is due when the newest is as old as this: less than a day, so that a sweep which ends a little
/// earlier than the night before still gives one.
pub const EXPORT_EVERY: Duration = Duration::from_secs(20 * 3600);

/// Entries read at once.
pub const PAGE_ENTRIES: usize = 500;

/// Bytes read at once when a line is looked for.
const WINDOW_BYTES: usize = 4096;

/// Tells one fingerprint key from another, and nothing about either.
pub fn key_stamp(key: &[u8; 16]) -> [u8; 8] {
    SipHasher24::new_with_key(key).hash(b"referrald ledger").to_le_bytes()
}

/// The same as 16 hexadecimal digits: the id of a fingerprint key.
pub fn key_id(key: &[u8; 16]) -> String {
    format::hex(&key_stamp(key))
}

/// One export that lies in the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Its file.
    pub file: PathBuf,
    /// Its first line.
    pub header: Header,
    /// Its length in bytes.
    pub bytes: u64,
}

/// The directory `keep/exports`.
#[derive(Debug)]
pub struct Exports {
    directory: PathBuf,
    key: String,
    source: Mutex<Source>,
    /// One export is written or changed at a time: what is forgotten meanwhile is not in the next one either.
    writing: Mutex<()>,
}

/// The export that bases are recalled from.
#[derive(Debug)]
enum Source {
    Unresolved,
    Nothing,
    Found(Found),
}

impl Exports {
    /// The exports of a state directory, for a fingerprint key.
    pub fn new(state_directory: &Path, key: &[u8; 16]) -> Self {
        let directory = state_directory.join("keep").join("exports");
        Exports { directory, key: key_id(key), source: Mutex::new(Source::Unresolved), writing: Mutex::default() }
    }

    /// The id of the fingerprint key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Every export with a readable first line, the one that knows most first. None is opened further.
    pub fn list(&self) -> Vec<Kept> {
        let Ok(items) = fs::read_dir(&self.directory) else { return Vec::new() };
        let files =
            items.flatten().map(|item| item.path()).filter(|path| path.extension().is_some_and(|of| of == "jsonl"));
        let mut kept: Vec<Kept> = files
            .filter_map(|file| {
                let opened = File::open(&file).ok()?;
                let bytes = opened.metadata().ok()?.len();
                let header = Reader::open(BufReader::new(opened)).ok()?.header().clone();
                Some(Kept { file, header, bytes })
            })
            .collect();
        kept.sort_by_key(|kept| std::cmp::Reverse((kept.header.commit, kept.header.exported)));
        kept
    }

    /// Writes the export of this day and deletes the ones that are too many. Blocks. Atomic: a crash leaves the old ones.
    ///
    /// # Errors
    ///
    /// What `page` or the disk refuse; the old ones stay.
    pub fn keep<E: From<Unusable>>(
        &self,
        header: &Header,
        page: impl FnMut(Option<ReferralId>) -> Result<Vec<(ReferralId, Entry)>, E>,
        stop: &AtomicBool,
    ) -> Result<Trailer, E> {
        let _writing = lock(&self.writing);
        private_directory(&self.directory).map_err(Unusable::from)?;
        self.remove_unfinished();
        let stamp = header.exported.to_jiff().strftime("%Y%m%dT%H%M%SZ");
        let file = self.directory.join(format!("ledger-{stamp}.jsonl"));
        let trailer = replace(&file, |out| write(out, header, page, stop))?;
        *lock(&self.source) = Source::Unresolved;
        for old in self.list().into_iter().skip(EXPORTS_KEPT) {
            fs::remove_file(&old.file).map_err(Unusable::from)?;
        }
        Ok(trailer)
    }

    /// Removes a referral from every export; returns how many had it. A damaged one is deleted. Blocks.
    ///
    /// # Errors
    ///
    /// What the disk refuses.
    pub fn forget(&self, id: ReferralId) -> Result<usize, Unusable> {
        let _writing = lock(&self.writing);
        let mut rewritten = 0;
        self.remove_unfinished();
        for kept in self.list() {
            // Nothing of it may remain, so the whole of a file that is damaged is read, too.
            if rewrite_without(&kept.file, id)? {
                rewritten += 1;
            }
        }
        *lock(&self.source) = Source::Unresolved;
        Ok(rewritten)
    }

    /// What the newest export that fits remembers of a referral, as far as it may be believed. Blocks: the first call
    /// reads that export to its end.
    pub fn recall(&self, id: ReferralId, organization: Option<uuid::Uuid>) -> Option<Entry> {
        let mut source = lock(&self.source);
        if let Source::Unresolved = *source {
            *source = self.find().map_or(Source::Nothing, Source::Found);
        }
        let Source::Found(found) = &*source else { return None };
        // Lead ids are computed: a copy of an organization has the same ones, and other people's values.
        if organization.is_some_and(|ours| found.header.crm_organization.is_some_and(|theirs| theirs != ours)) {
            return None;
        }
        let (_, entry) = found.entry(id)?;
        Some(entry.recalled(Timestamp::EPOCH))
    }

    /// The newest export that is whole and whose key fits.
    fn find(&self) -> Option<Found> {
        for kept in self.list() {
            match Found::open(&kept.file, &self.key) {
                Ok(found) => {
                    tracing::info!(
                        file = %kept.file.display(),
                        "what the ledger does not know is recalled from the export of {}",
                        kept.header.exported
                    );
                    return Some(found);
                }
                Err(error) => tracing::warn!(file = %kept.file.display(), "an export is not used: {error}"),
            }
        }
        None
    }

    /// The organizations that the newest export with our key belongs to.
    pub(super) fn organizations(&self) -> Option<(Option<uuid::Uuid>, Option<String>)> {
        let newest = self.list().into_iter().find(|kept| kept.header.key == self.key)?;
        Some((newest.header.crm_organization, newest.header.partner_organization))
    }

    /// What a crash left behind is of no use.
    fn remove_unfinished(&self) {
        let Ok(items) = fs::read_dir(&self.directory) else { return };
        for path in items.flatten().map(|item| item.path()) {
            if path.extension().is_some_and(|of| of == "new") {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Writes a file beside, syncs it and renames it into place; on any error nothing is left of it.
///
/// # Errors
///
/// What `content` or the disk refuse.
pub fn replace<T, E: From<Unusable>>(
    file: &Path,
    content: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<T, E> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = file.with_file_name(name);
    let written = write_beside(&new, content).and_then(|value| {
        fs::rename(&new, file).map_err(Unusable::from)?;
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_directory(parent.unwrap_or(Path::new("."))).map_err(Unusable::from)?;
        Ok(value)
    });
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn write_beside<T, E: From<Unusable>>(
    new: &Path,
    content: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<T, E> {
    let _ = fs::remove_file(new);
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new).map_err(Unusable::from)?;
    let mut out = BufWriter::with_capacity(256 * 1024, opened);
    let value = content(&mut out)?;
    out.flush().and_then(|()| out.get_ref().sync_all()).map_err(Unusable::from)?;
    Ok(value)
}

/// Reads an export to its end and gives its header and number of entries. Blocks.
///
/// # Errors
///
/// [`Unusable`] with the reason: damage, another version, another key.
pub fn examine(file: &Path, key: &str) -> Result<(Header, u64), Unusable> {
    let mut reader = Reader::open(BufReader::with_capacity(256 * 1024, File::open(file)?))?;
    fits(reader.header(), key)?;
    while reader.next_entry()?.is_some() {}
    Ok((reader.header().clone(), reader.count()))
}

fn fits(header: &Header, key: &str) -> Result<(), Unusable> {
    match header.key == key {
        true => Ok(()),
        false => Err(Unusable::Key { found: header.key.clone(), ours: key.to_owned() }),
    }
}

/// Rewrites one export without a referral; true when it had it.
fn rewrite_without(file: &Path, id: ReferralId) -> Result<bool, Unusable> {
    let has_it = {
        let mut reader = Reader::open(BufReader::with_capacity(256 * 1024, File::open(file)?))?;
        loop {
            match reader.next_line() {
                Ok(Some(text)) if format::id_of(&text) == Some(id) => break true,
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(Unusable::Damaged(reason)) => {
                    // It is of no use to anyone, and nobody can say what is in it.
                    tracing::warn!(file = %file.display(), "a damaged export was deleted ({reason})");
                    fs::remove_file(file)?;
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
    };
    if !has_it {
        return Ok(false);
    }
    replace(file, |out| {
        let mut reader = Reader::open(BufReader::with_capacity(256 * 1024, File::open(file)?))?;
        let header = serde_json::to_vec(reader.header()).map_err(std::io::Error::from)?;
        let mut lines = format::Lines { out, digest: digest::Context::new(&digest::SHA256) };
        lines.put_raw(&header)?;
        let mut count = 0;
        while let Some(text) = reader.next_line()? {
            if format::id_of(&text) != Some(id) {
                lines.put_raw(text.strip_suffix(b"\n").unwrap_or(&text))?;
                count += 1;
            }
        }
        lines.end(count)
    })?;
    Ok(true)
}

/// An export that was found whole. Lines are in the order of ids, so one is found in a few reads.
#[derive(Debug)]
struct Found {
    file: File,
    header: Header,
    /// First byte of the first entry, and first byte after the last one.
    body: (u64, u64),
}

impl Found {
    fn open(path: &Path, key: &str) -> Result<Found, Unusable> {
        let file = File::open(path)?;
        let mut reader = Reader::open(BufReader::with_capacity(256 * 1024, file.try_clone()?))?;
        fits(reader.header(), key)?;
        let mut last = None;
        while let Some(text) = reader.next_line()? {
            let id = format::id_of(&text);
            if id.is_none() || last >= id {
                return Err(Unusable::Damaged(format!("line {}: out of order", reader.count() + 1)));
            }
            last = id;
        }
        let (header, body) = (reader.header().clone(), (reader.header_bytes, reader.bytes));
        Ok(Found { file, header, body })
    }

    fn entry(&self, id: ReferralId) -> Option<(ReferralId, Entry)> {
        let (mut low, mut high) = self.body;
        while low < high {
            let middle = low + (high - low) / 2;
            let (start, text) = self.line_around(middle, low)?;
            let found = format::id_of(&text)?;
            match found.cmp(&id) {
                std::cmp::Ordering::Equal => return format::entry_of(&text),
                std::cmp::Ordering::Less => low = start + text.len() as u64,
                std::cmp::Ordering::Greater => high = start,
            }
        }
        None
    }

    /// The line that the byte at `position` belongs to, with its first byte; `low` is the beginning of some line.
    fn line_around(&self, position: u64, low: u64) -> Option<(u64, Vec<u8>)> {
        let start = self.beginning(position, low)?;
        let mut text = Vec::new();
        while text.len() <= LINE_BYTES_MAX {
            let from = start + text.len() as u64;
            let window = self.window(from, self.body.1.min(from + WINDOW_BYTES as u64))?;
            if window.is_empty() {
                return None;
            }
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    text.extend_from_slice(&window[..=end]);
                    return Some((start, text));
                }
                None => text.extend(window),
            }
        }
        None
    }

    fn beginning(&self, position: u64, low: u64) -> Option<u64> {
        let mut end = position;
        while end > low {
            let from = end.saturating_sub(WINDOW_BYTES as u64).max(low);
            let window = self.window(from, end)?;
            if let Some(at) = window.iter().rposition(|byte| *byte == b'\n') {
                return Some(from + at as u64 + 1);
            }
            end = from;
        }
        Some(low)
    }

    fn window(&self, from: u64, to: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).ok()?];
        self.file.read_exact_at(&mut bytes, from).ok()?;
        Some(bytes)
    }
}

impl From<Unusable> for crate::ports::StoreError {
    fn from(error: Unusable) -> Self {
        crate::ports::StoreError::Failed { reason: format!("an export failed: {error}") }
    }
}
