//! Versioned bytes: every value in the ledger carries its format, its length and a checksum.
//!
//! A flipped bit on disk must never become a status or an eTag, so a value that fails its checksum is damage, not data.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{ReferralId, Timestamp};

/// The format this program writes. It reads this one and the one before.
pub(super) const FORMAT: u32 = 3;

/// Bytes before the body: format (1), length (4), CRC-32 (4).
pub(super) const HEAD_BYTES: usize = 9;

/// Why the ledger could not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// What is on disk is not what was written.
    Damage(String),
    /// Written by a newer program in this format.
    Newer(u32),
    /// The disk said no: full, read-only, gone. Nothing is wrong with what was written before.
    Disk(String),
    /// sled panicked in the middle of something. Opening again shows whether there is damage.
    Panic(String),
    /// What was to be written does not fit. Nothing was touched.
    Refused(String),
    /// Another program holds sled's own lock.
    Locked,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Damage(reason) => write!(f, "damaged: {reason}"),
            Failure::Newer(found) => write!(f, "written in the newer format {found}"),
            Failure::Disk(reason) | Failure::Refused(reason) => f.write_str(reason),
            Failure::Panic(reason) => write!(f, "stopped by an internal error: {reason}"),
            Failure::Locked => f.write_str("held by another process"),
        }
    }
}

/// Puts a value into its envelope.
pub(super) fn seal<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    seal_as(FORMAT, value)
}

/// A value as a key: the same bytes whatever format the ledger is in.
pub(super) fn seal_key<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    seal_as(1, value)
}

pub(super) fn seal_as<T: Serialize + ?Sized>(format: u32, value: &T) -> Vec<u8> {
    let mut bytes = vec![0; HEAD_BYTES];
    bytes = postcard::to_extend(value, bytes).expect("plain values always encode into memory");
    let length = u32::try_from(bytes.len() - HEAD_BYTES).expect("values are far below 4 GiB");
    bytes[0] = format as u8;
    bytes[1..5].copy_from_slice(&length.to_le_bytes());
    let checksum = checksum(&bytes);
    bytes[5..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Takes a value out of its envelope. `what` names it in the message.
pub(super) fn unseal<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Failure> {
    let (format, body) = unwrap(what, bytes)?;
    match format {
        1..=3 => decode(what, body), // Only entries and the memo differ.
        _ => Err(unknown_format(what, format)),
    }
}

/// As [`unseal`], for a value that has grown by fields at its end in format 3: what an earlier program did not write is
/// nothing, which encodes as `grown` zeros.
pub(super) fn unseal_grown<T: DeserializeOwned>(what: &str, bytes: &[u8], grown: usize) -> Result<T, Failure> {
    let (format, body) = unwrap(what, bytes)?;
    match format {
        1 | 2 => decode(what, &[body, &vec![0; grown]].concat()),
        3 => decode(what, body),
        _ => Err(unknown_format(what, format)),
    }
}

/// Checks an envelope; returns the format and the body.
pub(super) fn unwrap<'a>(what: &str, bytes: &'a [u8]) -> Result<(u32, &'a [u8]), Failure> {
    let damage = |how: &str| Failure::Damage(format!("{what}: {how}"));
    if bytes.len() < HEAD_BYTES {
        return Err(damage("too short"));
    }
    let length = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    if length as usize != bytes.len() - HEAD_BYTES {
        return Err(damage("wrong length"));
    }
    let expected = u32::from_le_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
    if checksum(bytes) != expected {
        return Err(damage("wrong checksum"));
    }
    Ok((u32::from(bytes[0]), &bytes[HEAD_BYTES..]))
}

/// The first of several envelopes in a row, and the rest.
pub(super) fn first_sealed<'a>(what: &str, bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Failure> {
    let length: [u8; 4] = array_at(what, bytes, 1)?;
    let end = HEAD_BYTES.saturating_add(u32::from_le_bytes(length) as usize);
    bytes.split_at_checked(end).ok_or_else(|| Failure::Damage(format!("{what}: too short")))
}

/// Decodes a whole body.
pub(super) fn decode<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, Failure> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(Failure::Damage(format!("{what}: {} bytes too many", rest.len()))),
        Err(error) => Err(Failure::Damage(format!("{what}: {error}"))),
    }
}

/// A format that no arm reads.
pub(super) fn unknown_format(what: &str, format: u32) -> Failure {
    if format > FORMAT { Failure::Newer(format) } else { Failure::Damage(format!("{what}: unknown format {format}")) }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..5]);
    hasher.update(&bytes[HEAD_BYTES..]);
    hasher.finalize()
}

/// An instant as eight bytes that sort like it.
pub(super) fn sortable(instant: Timestamp) -> [u8; 8] {
    (instant.millis() ^ i64::MIN).to_be_bytes()
}

/// The instant that [`sortable`] wrote.
pub(super) fn unsortable(bytes: [u8; 8]) -> Timestamp {
    Timestamp::from_millis(i64::from_be_bytes(bytes) ^ i64::MIN)
}

/// An instant followed by a referral: a key that sorts by the instant.
pub(super) fn instant_key(instant: Timestamp, id: ReferralId) -> Vec<u8> {
    join(&[&sortable(instant), id.uuid().as_bytes()])
}

/// Parts of a key, one after the other.
pub(super) fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// The referral at `at` in a key.
pub(super) fn referral_at(what: &str, key: &[u8], at: usize) -> Result<ReferralId, Failure> {
    let bytes: [u8; 16] = array_at(what, key, at)?;
    Ok(ReferralId::new(uuid::Uuid::from_bytes(bytes)))
}

/// Fixed bytes at `at` in a key.
pub(super) fn array_at<const N: usize>(what: &str, key: &[u8], at: usize) -> Result<[u8; N], Failure> {
    key.get(at..at + N)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Failure::Damage(format!("{what}: only {} bytes", key.len())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{FORMAT, Failure, HEAD_BYTES, instant_key, seal, seal_as, sortable, unseal, unseal_grown};
    use crate::model::{ReferralId, Timestamp};

    #[test]
    fn a_value_comes_back_as_it_was() {
        let value = (7u64, "words".to_owned(), Some(3i32));
        assert_eq!(unseal("value", &seal(&value)), Ok(value));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let whole = seal(&(7u64, "words".to_owned()));
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let read = unseal::<(u64, String)>("value", &bytes);
            assert!(matches!(read, Err(Failure::Damage(_))), "bit {bit}: {read:?}");
        }
        for length in 0..whole.len() {
            assert!(unseal::<(u64, String)>("value", &whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_value_that_has_grown_is_read_as_it_was_before() {
        type Grown = (u64, String, Option<u32>, Vec<u8>, u64);
        let read = |bytes: &[u8]| unseal_grown::<Grown>("value", bytes, 3);
        let before = seal_as(2, &(7u64, "words".to_owned()));
        assert_eq!(read(&before), Ok((7, "words".to_owned(), None, Vec::new(), 0)));
        let after = seal(&(7u64, "words".to_owned(), Some(3u32), vec![1u8], 300u64));
        assert_eq!(read(&after), Ok((7, "words".to_owned(), Some(3), vec![1], 300)));
        let cut = seal(&(7u64, "words".to_owned()));
        assert!(matches!(read(&cut), Err(Failure::Damage(_))), "nothing is made up in the present format");
        let mut damaged = before;
        damaged[HEAD_BYTES] ^= 1;
        assert!(matches!(read(&damaged), Err(Failure::Damage(_))));
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let mut bytes = seal(&7u64);
        bytes[0] = (FORMAT + 1) as u8;
        let checksum = super::checksum(&bytes);
        bytes[5..9].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(unseal::<u64>("value", &bytes), Err(Failure::Newer(FORMAT + 1)));
    }

    #[test]
    fn instants_sort_as_bytes_before_and_after_the_epoch() {
        let millis = [i64::MIN, -5, -1, 0, 1, 1_700_000_000_000, i64::MAX];
        let keys: Vec<_> = millis.iter().map(|millis| sortable(Timestamp::from_millis(*millis))).collect();
        assert!(keys.is_sorted());
        let id = ReferralId::new(uuid::Uuid::nil());
        assert_eq!(instant_key(Timestamp::EPOCH, id).len(), 24);
    }
}
