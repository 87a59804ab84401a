//! One entry as bytes: small enough that a million of them fit a small machine.
//!
//! Most of an entry is its groups. Nearly all entries share the same list of group and mapping keys, so that list (a
//! *shape*) is kept once in the ledger and an entry names it by number. What is left of a group is 17 bytes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::codec::{self, Failure};
use crate::model::{
    Base, Closing, ETag, Entry, ExternalReference, Flips, GroupMemory, Link, Moved, ObservedOutcome, ReferralId,
    ReferralStatus, Standing, Substatus, Take, Timestamp, Trouble,
};

/// An entry is meant to stay within this, envelope included. Over it the words of its trouble are dropped, then the
/// memory of single writes.
pub(super) const ENTRY_BYTES: usize = 512;

/// An entry over this is refused. Far beyond any real mapping: it keeps sled away from its blob files, which are never
/// synced.
pub(super) const ENTRY_BYTES_MAX: usize = 16 * 1024;

/// Shapes kept in the ledger; entries of any further shape carry their own list.
pub(super) const SHAPES_MAX: usize = 4096;

/// Group key and mapping hash of each group, in the order of the entry.
pub(super) type Shape = Vec<(u32, u32)>;

/// The known shapes. Number 0 means that the entry carries its own list.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    lists: Vec<Arc<Shape>>,
    numbers: HashMap<Arc<Shape>, u32>,
    saved: usize,
}

impl Shapes {
    /// The shapes as the ledger holds them, numbered from 1.
    pub(super) fn saved(lists: Vec<Shape>) -> Self {
        let mut shapes = Shapes::default();
        for list in lists {
            shapes.add(list);
        }
        shapes.all_saved();
        shapes
    }

    /// Shapes that the ledger does not hold yet: number and list. They go into the next transaction.
    pub(super) fn unsaved(&self) -> Vec<(u32, Arc<Shape>)> {
        let numbered = (1u32..).zip(&self.lists).skip(self.saved);
        numbered.map(|(number, list)| (number, Arc::clone(list))).collect()
    }

    /// The ledger holds every shape now.
    pub(super) fn all_saved(&mut self) {
        self.saved = self.lists.len();
    }

    fn number(&mut self, shape: Shape) -> Result<u32, Shape> {
        if shape.is_empty() {
            return Err(shape);
        }
        match self.numbers.get(&shape) {
            Some(number) => Ok(*number),
            None if self.lists.len() < SHAPES_MAX => Ok(self.add(shape)),
            None => Err(shape),
        }
    }

    fn add(&mut self, shape: Shape) -> u32 {
        let shape = Arc::new(shape);
        self.lists.push(Arc::clone(&shape));
        let number = u32::try_from(self.lists.len()).expect("shapes are limited");
        self.numbers.insert(shape, number);
        number
    }

    fn list(&self, number: u32) -> Option<&Shape> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.lists.get(index).map(Arc::as_ref)
    }
}

/// Encodes an entry; returns it as it will be read again.
pub(super) fn encode<'a>(
    id: ReferralId,
    entry: &'a Entry,
    shapes: &mut Shapes,
) -> Result<(Cow<'a, Entry>, Vec<u8>), Failure> {
    let bytes = codec::seal(&EntryV2::of(id, entry, shapes));
    if bytes.len() <= ENTRY_BYTES {
        return Ok((Cow::Borrowed(entry), bytes));
    }
    for shorten in [without_words, without_single_writes] {
        let shorter = shorten(entry.clone());
        let bytes = codec::seal(&EntryV2::of(id, &shorter, shapes));
        if bytes.len() <= ENTRY_BYTES {
            return Ok((Cow::Owned(shorter), bytes));
        }
    }
    // Refusing it would stop every other referral of the batch, and dropping words would not help: keep it whole.
    if bytes.len() <= ENTRY_BYTES_MAX {
        return Ok((Cow::Borrowed(entry), bytes));
    }
    Err(Failure::Refused(format!(
        "an entry of {} bytes is over the limit of {ENTRY_BYTES_MAX}; map fewer groups",
        bytes.len()
    )))
}

fn without_words(mut entry: Entry) -> Entry {
    entry.trouble.iter_mut().for_each(|trouble| trouble.cause.what.clear());
    entry
}

/// One write alone is far from flapping: forgetting it costs one more write at worst.
fn without_single_writes(entry: Entry) -> Entry {
    let mut entry = without_words(entry);
    for group in &mut entry.groups {
        group.flips = group.flips.take().filter(|flips| flips.at.len() > 1 || flips.is_held);
    }
    entry
}

/// Decodes an entry of this format or the one before.
pub(super) fn decode(bytes: &[u8], shapes: &Shapes) -> Result<Entry, Failure> {
    let (format, body) = codec::unwrap(WHAT, bytes)?;
    match format {
        1 => EntryV2 { known: codec::decode(WHAT, body)?, flips: Vec::new() }.into_entry(shapes),
        2 | 3 => codec::decode::<EntryV2>(WHAT, body)?.into_entry(shapes),
        _ => Err(codec::unknown_format(WHAT, format)),
    }
}

/// The id in a sealed entry, found without decoding it; in every format it comes first, after its length.
pub(super) fn id_of(sealed: &[u8]) -> Result<ReferralId, Failure> {
    codec::referral_at(WHAT, sealed, codec::HEAD_BYTES + 1)
}

const WHAT: &str = "an entry";

/// Format 1. The order of the fields is the format.
#[derive(Serialize, Deserialize)]
struct EntryV1 {
    id: ReferralId,
    standing: Standing,
    first_seen: Timestamp,
    referral_etag: Option<ETag>,
    referral_status: ReferralStatus,
    referral_substatus: Substatus,
    referral_created: Option<Timestamp>,
    referral_updated: Option<Timestamp>,
    deadline: Option<Timestamp>,
    external_reference: ExternalReference,
    consent: Option<bool>,
    is_consent_withdrawn: bool,
    is_registered_co_sell: bool,
    is_frozen: bool,
    link: Option<Link>,
    outcome: Option<ObservedOutcome>,
    closed_by_us: Option<Closing>,
    reported_after_closing: Option<i32>,
    trouble: Option<Trouble>,
    holds: u32,
    primary_contact: Option<u32>,
    look_at: Option<Timestamp>,
    shape: u32,
    own_shape: Shape,
    groups: Vec<GroupV1>,
    moves: Vec<MovedV1>,
}

/// Format 2: format 1, and what was written lately.
#[derive(Serialize, Deserialize)]
struct EntryV2 {
    known: EntryV1,
    flips: Vec<FlipsV2>,
}

/// Writes of a group. Its instants are the first one and how much later each other one is.
#[derive(Serialize, Deserialize)]
struct FlipsV2 {
    #[serde(with = "postcard::fixint::le")]
    before: u32,
    #[serde(with = "postcard::fixint::le")]
    after: u32,
    steps: Vec<u32>,
}

/// A group without its keys. `marks` says what the halves mean and which moves follow in `EntryV1::moves`.
#[derive(Serialize, Deserialize)]
struct GroupV1 {
    marks: u8,
    #[serde(with = "postcard::fixint::le")]
    referral: u64,
    #[serde(with = "postcard::fixint::le")]
    lead: u64,
}

/// The base is apart, not common.
const APART: u8 = 1;
/// A move of the referral follows.
const REFERRAL_MOVED: u8 = 2;
/// A move of the lead follows.
const LEAD_MOVED: u8 = 4;

/// The base is apart and both sides had a value.
const DISPUTED: u8 = 8;
/// An operator decided for the referral's value.
const TAKE_REFERRAL: u8 = 16;
/// An operator decided for the lead's value.
const TAKE_LEAD: u8 = 32;

/// Writes of the last hour follow, in `EntryV2::flips`.
const FLIPS: u8 = 64;
/// It is held as flapping.
const FLIPS_HELD: u8 = 128;

/// The base is recalled, not proven: disputed without being apart.
const RECALLED: u8 = DISPUTED;

/// A move; random 64 bits are longer as a variable-length number.
#[derive(Serialize, Deserialize)]
struct MovedV1 {
    #[serde(with = "postcard::fixint::le")]
    to: u64,
    at: Timestamp,
}

impl EntryV2 {
    fn of(id: ReferralId, entry: &Entry, shapes: &mut Shapes) -> Self {
        let flips = entry.groups.iter().filter_map(|group| group.flips.as_ref()).map(FlipsV2::of).collect();
        EntryV2 { known: EntryV1::of(id, entry, shapes), flips }
    }

    fn into_entry(self, shapes: &Shapes) -> Result<Entry, Failure> {
        let marks: Vec<u8> = self.known.groups.iter().map(|group| group.marks).collect();
        let mut entry = self.known.into_entry(shapes)?;
        let mut flips = self.flips.into_iter();
        for (group, marks) in entry.groups.iter_mut().zip(marks) {
            if marks & FLIPS != 0 {
                let next = flips.next().ok_or_else(|| Failure::Damage(format!("{WHAT}: writes are missing")))?;
                group.flips = Some(next.into_flips(marks & FLIPS_HELD != 0));
            }
        }
        Ok(entry)
    }
}

impl FlipsV2 {
    fn of(flips: &Flips) -> Self {
        let [before, after] = flips.values;
        let mut last = 0;
        let steps = flips.at.iter().map(|at| at.wrapping_sub(std::mem::replace(&mut last, *at))).collect();
        FlipsV2 { before, after, steps }
    }

    fn into_flips(self, is_held: bool) -> Flips {
        let mut at = self.steps;
        for index in 1..at.len() {
            at[index] = at[index].wrapping_add(at[index - 1]);
        }
        Flips { values: [self.before, self.after], at, is_held }
    }
}

impl EntryV1 {
    fn of(id: ReferralId, entry: &Entry, shapes: &mut Shapes) -> Self {
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
        } = entry.clone();
        let keys = groups.iter().map(|group| (group.group, group.mapping)).collect();
        let (shape, own_shape) = match shapes.number(keys) {
            Ok(number) => (number, Shape::new()),
            Err(own) => (0, own),
        };
        let moves = groups.iter().flat_map(|group| [group.referral_moved, group.lead_moved]).flatten();
        EntryV1 {
            id,
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
            outcome,
            closed_by_us,
            reported_after_closing,
            trouble,
            holds,
            primary_contact,
            look_at,
            shape,
            own_shape,
            moves: moves.map(|Moved { to, at }| MovedV1 { to, at }).collect(),
            groups: groups.iter().map(GroupV1::of).collect(),
        }
    }

    fn into_entry(self, shapes: &Shapes) -> Result<Entry, Failure> {
        let damage = |how: &str| Failure::Damage(format!("{WHAT}: {how}"));
        let shape = match self.shape {
            0 => &self.own_shape,
            number => shapes.list(number).ok_or_else(|| damage("its list of groups is missing"))?,
        };
        if shape.len() != self.groups.len() {
            return Err(damage("its list of groups has another length"));
        }
        let mut moves = self.moves.into_iter().map(|MovedV1 { to, at }| Moved { to, at });
        let mut next_move = |is_there: bool| match is_there {
            true => moves.next().map(Some).ok_or_else(|| damage("a move is missing")),
            false => Ok(None),
        };
        let mut groups = Vec::with_capacity(shape.len());
        for ((group, mapping), GroupV1 { marks, referral, lead }) in shape.iter().zip(self.groups) {
            let base = match marks & (APART | DISPUTED) {
                0 => Base::Common { referral, lead },
                RECALLED => Base::Recalled { referral, lead },
                _ => Base::Apart { referral, lead, is_disputed: marks & DISPUTED != 0 },
            };
            groups.push(GroupMemory {
                group: *group,
                mapping: *mapping,
                base,
                referral_moved: next_move(marks & REFERRAL_MOVED != 0)?,
                lead_moved: next_move(marks & LEAD_MOVED != 0)?,
                released: match marks & (TAKE_REFERRAL | TAKE_LEAD) {
                    0 => None,
                    TAKE_REFERRAL => Some(Take::Referral),
                    _ => Some(Take::Lead),
                },
                flips: None,
            });
        }
        Ok(Entry {
            standing: self.standing,
            first_seen: self.first_seen,
            referral_etag: self.referral_etag,
            referral_status: self.referral_status,
            referral_substatus: self.referral_substatus,
            referral_created: self.referral_created,
            referral_updated: self.referral_updated,
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
        })
    }
}

impl GroupV1 {
    fn of(memory: &GroupMemory) -> Self {
        let (mut marks, referral, lead) = match memory.base {
            Base::Common { referral, lead } => (0, referral, lead),
            Base::Apart { referral, lead, is_disputed: false } => (APART, referral, lead),
            Base::Apart { referral, lead, is_disputed: true } => (APART | DISPUTED, referral, lead),
            Base::Recalled { referral, lead } => (RECALLED, referral, lead),
        };
        if memory.referral_moved.is_some() {
            marks |= REFERRAL_MOVED;
        }
        if memory.lead_moved.is_some() {
            marks |= LEAD_MOVED;
        }
        marks |= match memory.released {
            None => 0,
            Some(Take::Referral) => TAKE_REFERRAL,
            Some(Take::Lead) => TAKE_LEAD,
        };
        marks |= match &memory.flips {
            None => 0,
            Some(Flips { is_held: false, .. }) => FLIPS,
            Some(Flips { is_held: true, .. }) => FLIPS | FLIPS_HELD,
        };
        GroupV1 { marks, referral, lead }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{EntryV1, Shapes, codec, decode};
    use crate::store::contract::{full_entry, referral};

    #[test]
    fn an_entry_of_the_format_before_is_read() {
        let mut shapes = Shapes::default();
        let full = full_entry(3);
        let bytes = codec::seal_as(1, &EntryV1::of(referral(7), &full, &mut shapes));
        assert_eq!(decode(&bytes, &shapes).unwrap(), full);
        let bytes = codec::seal_as(1, &EntryV1::of(referral(7), &full_entry(2), &mut Shapes::default()));
        assert_eq!(crc32fast::hash(&bytes), 2_180_114_774, "as it was written");
    }
}
