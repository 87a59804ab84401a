//! A few entries under one key.
//!
//! sled pays some 50 bytes of memory for every key, for good, so two entries may share one. More would save more memory
//! and cost more disk, as a bucket is written whole: with 1, 2, 3, 4, 6 entries a ledger of 50,000 took 830, 1,070,
//! 1,680, 1,800, 2,400 bytes on disk for each. A bucket's key is the upper bound of its ids, and the last one's is the
//! greatest of all: so a bucket is found by going forward. Going backward must not be done anywhere, as sled 0.34 panics
//! there when keys hold five bytes of 255 in a row.

use std::collections::BTreeMap;
use std::ops::Bound;

use ::sled::{IVec, Tree};

use super::codec::{self, Failure, referral_at};
use super::entry;
use super::failure::from_sled;
use crate::model::ReferralId;

/// A bucket that grows beyond this is split in two.
pub(super) const BUCKET_ENTRIES_MAX: usize = 2;

/// Sealed entries by id.
pub(super) type Bucket = BTreeMap<ReferralId, Vec<u8>>;

/// How often more than once a page is read when it is read.
///
/// sled puts each access in one of 256 queues, and compares what it keeps in memory with the size of its cache only when a
/// queue holds 64 accesses. So up to 16,384 pages stay in memory, a hundred megabytes of a large ledger, however small the
/// cache. Accesses of pages that are there already fill the queues sooner and cost nearly nothing.
const READ_AGAIN: usize = 3;

/// The bucket in which an id is, or would be.
pub(super) fn find(tree: &Tree, id: ReferralId) -> Result<Option<(IVec, IVec)>, Failure> {
    let id = id.uuid();
    let found = tree.range::<&[u8], _>(&id.as_bytes()[..]..).next().transpose().map_err(|error| from_sled(&error))?;
    if let Some((key, _)) = &found {
        read_again(tree, key, READ_AGAIN)?;
    }
    Ok(found)
}

fn read_again(tree: &Tree, key: &[u8], times: usize) -> Result<(), Failure> {
    for _ in 0..times {
        tree.get(key).map_err(|error| from_sled(&error))?;
    }
    Ok(())
}

/// The sealed entries of a bucket, in order.
pub(super) fn items(mut bytes: &[u8]) -> impl Iterator<Item = Result<(ReferralId, &[u8]), Failure>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let item = codec::first_sealed("a bucket", bytes).and_then(|(first, rest)| {
            bytes = rest;
            Ok((entry::id_of(first)?, first))
        });
        if item.is_err() {
            bytes = &[];
        }
        Some(item)
    })
}

/// All sealed entries after an id, in order.
pub(super) fn items_after(
    tree: &Tree,
    after: Option<ReferralId>,
) -> impl Iterator<Item = Result<(ReferralId, IVec), Failure>> + use<> {
    let after_bytes = after.map(|after| *after.uuid().as_bytes());
    let from = after_bytes.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(&after[..]));
    let again = tree.clone();
    let buckets = tree.range::<&[u8], _>((from, Bound::Unbounded)).map(move |item| {
        let (key, bytes) = item.map_err(|error| from_sled(&error))?;
        // A page holds a dozen keys: once for each is often enough.
        read_again(&again, &key, 1)?;
        Ok(bytes)
    });
    buckets
        .flat_map(|bytes| match bytes {
            Ok(bytes) => {
                let mut at = 0;
                let found = items(&bytes).map(|item| {
                    item.map(|(id, sealed)| {
                        let item = (id, bytes.subslice(at, sealed.len()));
                        at += sealed.len();
                        item
                    })
                });
                found.collect::<Vec<_>>()
            }
            Err(failure) => vec![Err(failure)],
        })
        .filter(move |item| match (item, after) {
            (Ok((id, _)), Some(after)) => *id > after,
            (Ok(_), None) | (Err(_), _) => true,
        })
}

/// Buckets taken out of the tree to be changed.
#[derive(Default)]
pub(super) struct Buckets {
    taken: BTreeMap<Vec<u8>, Bucket>,
}

impl Buckets {
    /// Replaces or removes a sealed entry; returns the former one.
    pub(super) fn put(
        &mut self,
        tree: &Tree,
        id: ReferralId,
        new: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let found = find(tree, id)?;
        let key = found.as_ref().map_or_else(|| vec![0xff; 16], |(key, _)| key.to_vec());
        if !self.taken.contains_key(&key) {
            let bytes = found.map(|(_, bytes)| bytes).unwrap_or_default();
            let bucket: Result<Bucket, _> =
                items(&bytes).map(|item| item.map(|(id, one)| (id, one.to_vec()))).collect();
            self.taken.insert(key.clone(), bucket?);
        }
        let bucket = self.taken.get_mut(&key).expect("it was put there a line before");
        Ok(match new {
            Some(new) => bucket.insert(id, new),
            None => bucket.remove(&id),
        })
    }

    /// What to write: large buckets are split, empty ones go.
    pub(super) fn into_writes(self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        let mut writes = BTreeMap::new();
        for (key, bucket) in self.taken {
            if bucket.is_empty() {
                writes.insert(key, None);
                continue;
            }
            let parts = bucket.len().div_ceil(BUCKET_ENTRIES_MAX);
            let size = bucket.len().div_ceil(parts);
            let all: Vec<_> = bucket.into_iter().collect();
            let parts: Vec<_> = all.chunks(size).collect();
            for (number, part) in (1..).zip(&parts) {
                let bytes: Vec<u8> = part.iter().flat_map(|(_, sealed)| sealed.iter().copied()).collect();
                let last = part[part.len() - 1].0.uuid();
                let bound = if number == parts.len() { key.clone() } else { last.as_bytes().to_vec() };
                writes.insert(bound, Some(bytes));
            }
        }
        writes
    }
}

/// The id in a bucket's key.
pub(super) fn key_id(key: &[u8]) -> Result<ReferralId, Failure> {
    referral_at("a bucket", key, 0)
}
