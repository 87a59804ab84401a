//! The ledger as JSON lines: a header, one line for each entry in the order of ids, and a last line that proves the rest.
//!
//! ```text
//! {"referrald_export":1,"exported":…,"key":"…","commit":…,"crm_organization":"…","partner_organization":"…"}
//! {"id":"…","standing":"linked",…,"groups":[[group,mapping,"common","referral's half","lead's half"],…]}
//! {"count":1,"sha256":"of every byte before this line"}
//! ```
//!
//! Ids, eTags, statuses, instants (milliseconds since 1970) and keyed fingerprints; no personal data, and of the
//! fingerprint key only an id that tells one from another.

use std::io::{self, BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use ring::digest;
use serde::{Deserialize, Serialize};

use crate::model::{
    Base, Closing, ETag, Entry, ExternalReference, Flips, GroupMemory, Link, Moved, ObservedOutcome, ReferralId,
    ReferralStatus, Standing, Substatus, Take, Timestamp, Trouble,
};

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// A longer line is damage. An entry of 16 groups takes some 2 KiB.
pub const LINE_BYTES_MAX: usize = 256 * 1024;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format.
    pub referrald_export: u32,
    /// When it was begun.
    pub exported: Timestamp,
    /// Tells one fingerprint key from another, and nothing about either: 16 hexadecimal digits.
    pub key: String,
    /// The ledger's last commit when it was begun: of two exports the one with the greater number knows more.
    pub commit: u64,
    /// The CRM organization the ledger belongs to.
    pub crm_organization: Option<uuid::Uuid>,
    /// The partner organization the ledger belongs to.
    pub partner_organization: Option<String>,
}

/// What an export holds, once it is written or read to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trailer {
    /// Number of entries.
    pub count: u64,
    /// SHA-256 of every byte before the last line, in hexadecimal digits.
    pub sha256: String,
}

/// An export cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not what was written; the words name no values.
    #[error("{0}")]
    Damaged(String),
    /// Another version of the program wrote it.
    #[error("it is of version {0}, and this program reads version {VERSION}")]
    Version(u32),
    /// Its fingerprints say nothing here.
    #[error(
        "it was made with the fingerprint key {found}, and this ledger uses {ours}: its fingerprints say nothing here; \
         put the key it was made with in place first (keep/fingerprint.key)"
    )]
    Key {
        /// The id of its key.
        found: String,
        /// The id of ours.
        ours: String,
    },
    /// It was given up.
    #[error("it was given up because the daemon stops")]
    Stopped,
}

/// Writes an export: header, entries page by page, last line. `page` gives the entries after an id; an empty one ends it.
///
/// # Errors
///
/// What `page` or `out` refuse, and [`Unusable::Stopped`] as soon as `stop` is set.
pub fn write<E: From<Unusable>>(
    out: &mut dyn Write,
    header: &Header,
    mut page: impl FnMut(Option<ReferralId>) -> Result<Vec<(ReferralId, Entry)>, E>,
    stop: &AtomicBool,
) -> Result<Trailer, E> {
    let mut lines = Lines { out, digest: digest::Context::new(&digest::SHA256) };
    lines.put(header)?;
    let (mut after, mut count) = (None, 0);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Unusable::Stopped.into());
        }
        let entries = page(after)?;
        let Some((last, _)) = entries.last() else { break };
        after = Some(*last);
        for (id, entry) in entries {
            lines.put(&Line::of(id, entry))?;
            count += 1;
        }
    }
    Ok(lines.end(count)?)
}

/// Lines on their way out, and their digest.
pub(super) struct Lines<'a> {
    pub(super) out: &'a mut dyn Write,
    pub(super) digest: digest::Context,
}

impl Lines<'_> {
    fn put(&mut self, line: &impl Serialize) -> Result<(), Unusable> {
        let text = serde_json::to_vec(line).map_err(io::Error::from)?;
        self.put_raw(&text)
    }

    /// A line as it is.
    pub(super) fn put_raw(&mut self, text: &[u8]) -> Result<(), Unusable> {
        self.digest.update(text);
        self.digest.update(b"\n");
        self.out.write_all(text)?;
        Ok(self.out.write_all(b"\n")?)
    }

    /// The last line.
    pub(super) fn end(self, count: u64) -> Result<Trailer, Unusable> {
        let trailer = Trailer { count, sha256: hex(self.digest.finish().as_ref()) };
        serde_json::to_writer(&mut *self.out, &trailer).map_err(io::Error::from)?;
        self.out.write_all(b"\n")?;
        Ok(trailer)
    }
}

/// Reads an export line by line.
pub struct Reader<R> {
    from: R,
    digest: digest::Context,
    header: Header,
    /// Bytes of the header line.
    pub(super) header_bytes: u64,
    /// Bytes read so far.
    pub(super) bytes: u64,
    count: u64,
    last: Option<ReferralId>,
    is_over: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`Unusable`] when this is no export of a version that is known.
    pub fn open(mut from: R) -> Result<Self, Unusable> {
        let text = line(&mut from)?;
        let no_export = || Unusable::Damaged("it does not begin like an export of referrald".to_owned());
        #[derive(Deserialize)]
        struct Version {
            referrald_export: u32,
        }
        let version: Version = serde_json::from_slice(&text).map_err(|_| no_export())?;
        if version.referrald_export != VERSION {
            return Err(Unusable::Version(version.referrald_export));
        }
        let header: Header = serde_json::from_slice(&text).map_err(|_| no_export())?;
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(&text);
        let bytes = text.len() as u64;
        Ok(Reader { from, digest, header, header_bytes: bytes, bytes, count: 0, last: None, is_over: false })
    }

    /// The first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next entry; `None` after the last one, once count and digest are found right.
    ///
    /// # Errors
    ///
    /// [`Unusable::Damaged`] with the number of the line. What was given before may not be used then.
    pub fn next_entry(&mut self) -> Result<Option<(ReferralId, Entry)>, Unusable> {
        let Some(text) = self.next_line()? else { return Ok(None) };
        let read: Result<Line, _> = serde_json::from_slice(&text);
        let (id, entry) = read.ok().and_then(Line::into_entry).ok_or_else(|| self.damaged("it is no entry"))?;
        if self.last.is_some_and(|last| last >= id) {
            return Err(self.damaged("it is out of order"));
        }
        self.last = Some(id);
        Ok(Some((id, entry)))
    }

    /// The next entry's line as it is, with its newline; `None` once count and digest are found right.
    pub(super) fn next_line(&mut self) -> Result<Option<Vec<u8>>, Unusable> {
        if self.is_over {
            return Ok(None);
        }
        let text = line(&mut self.from).map_err(|error| match error {
            Unusable::Damaged(reason) => self.damaged(&reason),
            other => other,
        })?;
        if text.starts_with(b"{\"count\":") {
            return self.end(&text).map(|()| None);
        }
        self.digest.update(&text);
        self.bytes += text.len() as u64;
        self.count += 1;
        Ok(Some(text))
    }

    /// Entries read so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    fn end(&mut self, text: &[u8]) -> Result<(), Unusable> {
        let trailer: Trailer = serde_json::from_slice(text).map_err(|_| self.damaged("its last line is damaged"))?;
        let digest = std::mem::replace(&mut self.digest, digest::Context::new(&digest::SHA256));
        if trailer.count != self.count {
            let reason = format!("its last line counts {} entries, and {} are there", trailer.count, self.count);
            return Err(Unusable::Damaged(reason));
        }
        if trailer.sha256 != hex(digest.finish().as_ref()) {
            return Err(Unusable::Damaged("its digest is wrong: something in it was changed".to_owned()));
        }
        let mut byte = [0];
        if self.from.read(&mut byte)? != 0 {
            return Err(Unusable::Damaged("something follows its last line".to_owned()));
        }
        self.is_over = true;
        Ok(())
    }

    fn damaged(&self, reason: &str) -> Unusable {
        Unusable::Damaged(format!("line {}: {reason}", self.count + 2))
    }
}

/// One line with its newline.
fn line(from: &mut impl BufRead) -> Result<Vec<u8>, Unusable> {
    let mut text = Vec::new();
    io::Read::take(&mut *from, LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut text)?;
    match text.last() {
        Some(b'\n') => Ok(text),
        Some(_) if text.len() > LINE_BYTES_MAX => Err(Unusable::Damaged("it is too long".to_owned())),
        Some(_) | None => Err(Unusable::Damaged("it ends before its last line: something is missing".to_owned())),
    }
}

/// Reads one entry's line.
pub(super) fn entry_of(text: &[u8]) -> Option<(ReferralId, Entry)> {
    serde_json::from_slice::<Line>(text).ok().and_then(Line::into_entry)
}

/// The id at the beginning of an entry's line.
pub(super) fn id_of(text: &[u8]) -> Option<ReferralId> {
    let id = text.strip_prefix(b"{\"id\":\"")?.get(..36)?;
    ReferralId::parse(std::str::from_utf8(id).ok()?)
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One entry. The id comes first: it is found without reading the rest.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: ReferralId,
    standing: Standing,
    first_seen: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<ETag>,
    status: ReferralStatus,
    substatus: Substatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    updated: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<Timestamp>,
    external_reference: ExternalReference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consent: Option<bool>,
    #[serde(default, skip_serializing_if = "is_false")]
    is_consent_withdrawn: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    is_registered_co_sell: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    is_frozen: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<Link>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<(u32, u32, Word, Half, Half)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    moves: Vec<(u32, Mover, Half, Timestamp)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    released: Vec<(u32, Take)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    flips: Vec<(u32, Flips)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<ObservedOutcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closed_by_us: Option<Closing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reported_after_closing: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trouble: Option<Trouble>,
    #[serde(default, skip_serializing_if = "is_zero")]
    holds: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    primary_contact: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    look_at: Option<Timestamp>,
}

/// What the halves of a group mean.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Common,
    Apart,
    Disputed,
    Recalled,
}

/// Which side moved.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mover {
    Referral,
    Lead,
}

/// A fingerprint: hexadecimal digits, because readers of JSON lose the last digits of large numbers.
#[derive(Clone, Copy)]
struct Half(u64);

impl Serialize for Half {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Half {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Half).map_err(|_| serde::de::Error::custom("no fingerprint"))
    }
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

fn is_zero(bits: &u32) -> bool {
    *bits == 0
}

impl Line {
    fn of(id: ReferralId, entry: Entry) -> Self {
        // Taken apart by name, so that a new field cannot be forgotten here.
        let Entry {
            standing,
            first_seen,
            referral_etag,
            referral_status,
            referral_substatus,
            referral_created,
            referral_updated,
            deadline,
            external_reference,
            consent,
            is_consent_withdrawn,
            is_registered_co_sell,
            is_frozen,
            link,
            groups,
            outcome,
            closed_by_us,
            reported_after_closing,
            trouble,
            holds,
            primary_contact,
            look_at,
        } = entry;
        let moves = groups.iter().flat_map(|memory| {
            let moved = |mover, moved: Option<Moved>| moved.map(|to| (memory.group, mover, Half(to.to), to.at));
            [moved(Mover::Referral, memory.referral_moved), moved(Mover::Lead, memory.lead_moved)]
        });
        Line {
            id,
            standing,
            first_seen,
            etag: referral_etag,
            status: referral_status,
            substatus: referral_substatus,
            created: referral_created,
            updated: referral_updated,
            deadline,
            external_reference,
            consent,
            is_consent_withdrawn,
            is_registered_co_sell,
            is_frozen,
            link,
            moves: moves.flatten().collect(),
            flips: groups.iter().filter_map(|memory| Some((memory.group, memory.flips.clone()?))).collect(),
            released: groups.iter().filter_map(|memory| Some((memory.group, memory.released?))).collect(),
            groups: groups.iter().map(group_line).collect(),
            outcome,
            closed_by_us,
            reported_after_closing,
            trouble,
            holds,
            primary_contact,
            look_at,
        }
    }

    fn into_entry(self) -> Option<(ReferralId, Entry)> {
        let find_move = |group: u32, mover: Mover| {
            let found = self.moves.iter().find(|(of, by, _, _)| *of == group && *by == mover);
            found.map(|(_, _, to, at)| Moved { to: to.0, at: *at })
        };
        let groups = self.groups.iter().map(|(group, mapping, word, Half(referral), Half(lead))| {
            let (referral, lead) = (*referral, *lead);
            let base = match word {
                Word::Common => Base::Common { referral, lead },
                Word::Apart => Base::Apart { referral, lead, is_disputed: false },
                Word::Disputed => Base::Apart { referral, lead, is_disputed: true },
                Word::Recalled => Base::Recalled { referral, lead },
            };
            GroupMemory {
                group: *group,
                mapping: *mapping,
                base,
                referral_moved: find_move(*group, Mover::Referral),
                lead_moved: find_move(*group, Mover::Lead),
                released: self.released.iter().find(|(of, _)| of == group).map(|(_, take)| *take),
                flips: self.flips.iter().find(|(of, _)| of == group).map(|(_, flips)| flips.clone()),
            }
        });
        let groups: Vec<GroupMemory> = groups.collect();
        let entry = Entry {
            standing: self.standing,
            first_seen: self.first_seen,
            referral_etag: self.etag,
            referral_status: self.status,
            referral_substatus: self.substatus,
            referral_created: self.created,
            referral_updated: self.updated,
            deadline: self.deadline,
            external_reference: self.external_reference,
            consent: self.consent,
            is_consent_withdrawn: self.is_consent_withdrawn,
            is_registered_co_sell: self.is_registered_co_sell,
            is_frozen: self.is_frozen,
            link: self.link,
            groups,
            outcome: self.outcome,
            closed_by_us: self.closed_by_us,
            reported_after_closing: self.reported_after_closing,
            trouble: self.trouble,
            holds: self.holds,
            primary_contact: self.primary_contact,
            look_at: self.look_at,
        };
        Some((self.id, entry))
    }
}

fn group_line(memory: &GroupMemory) -> (u32, u32, Word, Half, Half) {
    let (word, referral, lead) = match memory.base {
        Base::Common { referral, lead } => (Word::Common, referral, lead),
        Base::Apart { referral, lead, is_disputed: false } => (Word::Apart, referral, lead),
        Base::Apart { referral, lead, is_disputed: true } => (Word::Disputed, referral, lead),
        Base::Recalled { referral, lead } => (Word::Recalled, referral, lead),
    };
    (memory.group, memory.mapping, word, Half(referral), Half(lead))
}
