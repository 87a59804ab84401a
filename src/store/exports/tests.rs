//! Exports under every kind of damage, and what is recalled from them.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::atomic::AtomicBool;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{EXPORTS_KEPT, Exports, Header, Reader, Unusable, examine, key_id, write};
use crate::model::{Base, Entry, ReferralId, Timestamp};
use crate::store::contract::{full_entry, linked, random_batch, referral, seconds};

const KEY: [u8; 16] = [7; 16];

fn header(commit: u64) -> Header {
    Header {
        referrald_export: super::VERSION,
        exported: seconds(1_795_000_000 + i64::try_from(commit).unwrap()),
        key: key_id(&KEY),
        commit,
        crm_organization: Some(uuid::Uuid::from_u128(1)),
        partner_organization: Some("2".to_owned()),
    }
}

/// Pages of a list of entries.
fn pages(
    entries: &[(ReferralId, Entry)],
) -> impl FnMut(Option<ReferralId>) -> Result<Vec<(ReferralId, Entry)>, Unusable> {
    move |after| {
        let from = entries.iter().skip_while(|(id, _)| after.is_some_and(|after| *id <= after));
        Ok(from.take(3).cloned().collect())
    }
}

fn text(entries: &[(ReferralId, Entry)]) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, &header(5), pages(entries), &AtomicBool::new(false)).unwrap();
    out
}

fn read(text: &[u8]) -> Result<Vec<(ReferralId, Entry)>, Unusable> {
    let mut reader = Reader::open(text)?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        entries.push(entry);
    }
    Ok(entries)
}

fn some_entries(count: u128) -> Vec<(ReferralId, Entry)> {
    (1..=count)
        .map(|number| (referral(number * 0x1_0000_0001), Entry { groups: full_entry(2).groups, ..linked(number) }))
        .collect()
}

#[test]
fn every_field_comes_back() {
    let seed = 12;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut entries = vec![(referral(1_000_000), full_entry(16))];
    for _ in 0..40 {
        entries.extend(random_batch(&mut random).entries.into_iter().filter_map(|(id, entry)| Some((id, entry?))));
    }
    entries.sort_by_key(|(id, _)| *id);
    entries.dedup_by_key(|(id, _)| *id);
    assert_eq!(read(&text(&entries)).unwrap(), entries);
    assert_eq!(read(&text(&[])).unwrap(), []);
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let whole = text(&some_entries(2));
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bytes).is_err(), "bit {bit}");
    }
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "{length} bytes");
    }
    let mut longer = whole.clone();
    longer.push(b'\n');
    assert!(read(&longer).is_err());
}

#[test]
fn a_line_over_the_limit_is_no_line() {
    let mut long = text(&[]);
    let end = long.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    long.truncate(end);
    long.extend(std::iter::repeat_n(b'x', 2 * super::LINE_BYTES_MAX));
    let error = read(&long).unwrap_err().to_string();
    assert_eq!(error, "line 2: it is too long");
}

#[test]
fn another_version_is_refused_by_name() {
    let whole = String::from_utf8(text(&[])).unwrap().replace("{\"referrald_export\":1", "{\"referrald_export\":2");
    assert!(matches!(read(whole.as_bytes()), Err(Unusable::Version(2))));
}

#[test]
fn seven_are_kept_and_nothing_unfinished() {
    let state = tempfile::tempdir().unwrap();
    let exports = Exports::new(state.path(), &KEY);
    for commit in 1..=10 {
        exports.keep(&header(commit), pages(&some_entries(3)), &AtomicBool::new(false)).unwrap();
        fs::write(state.path().join("keep/exports/ledger-x.jsonl.new"), "left by a crash").unwrap();
    }
    let stopped = exports.keep(&header(11), pages(&some_entries(3)), &AtomicBool::new(true));
    assert!(matches!(stopped, Err(Unusable::Stopped)));
    let commits: Vec<u64> = exports.list().iter().map(|kept| kept.header.commit).collect();
    assert_eq!(commits, [10, 9, 8, 7, 6, 5, 4]);
    assert_eq!(commits.len(), EXPORTS_KEPT);
    assert_eq!(fs::read_dir(state.path().join("keep/exports")).unwrap().count(), EXPORTS_KEPT);
}

#[test]
fn each_referral_is_recalled_and_no_other() {
    let state = tempfile::tempdir().unwrap();
    let exports = Exports::new(state.path(), &KEY);
    assert_eq!(exports.recall(referral(1), None), None);
    for count in [0, 1, 2, 3, 400] {
        let entries = some_entries(count);
        let header = header(u64::try_from(count).unwrap());
        exports.keep(&header, pages(&entries), &AtomicBool::new(false)).unwrap();
        for (id, entry) in &entries {
            assert_eq!(exports.recall(*id, None), Some(entry.clone().recalled(Timestamp::EPOCH)), "{count}");
        }
        for number in [0, 5, u128::MAX] {
            assert_eq!(exports.recall(referral(number), None), None, "{count}");
        }
    }
}

#[test]
fn what_is_recalled_is_believed_only_as_far_as_it_can_be_proven() {
    let common = Base::Common { referral: 1, lead: 2 };
    let mut entry = full_entry(2);
    entry.groups[0].base = common;
    let recalled = entry.clone().recalled(seconds(9));
    assert_eq!(recalled.groups.len(), 1, "what was apart is seen anew");
    assert_eq!(recalled.groups[0].base, Base::Recalled { referral: 1, lead: 2 });
    assert_eq!(recalled.groups[0].lead_moved, None);
    assert_eq!((recalled.consent, recalled.is_consent_withdrawn), (None, false));
    assert_eq!(recalled.referral_etag, entry.referral_etag);
    assert_eq!(recalled.clone().recalled(seconds(9)), recalled);
}

#[test]
fn an_export_of_another_key_or_organization_or_a_damaged_one_is_not_used() {
    let state = tempfile::tempdir().unwrap();
    let entries = some_entries(3);
    let exports = Exports::new(state.path(), &KEY);
    exports.keep(&header(1), pages(&entries), &AtomicBool::new(false)).unwrap();
    assert!(exports.recall(entries[0].0, Some(uuid::Uuid::from_u128(1))).is_some());
    assert_eq!(exports.recall(entries[0].0, Some(uuid::Uuid::from_u128(9))), None);
    assert_eq!(Exports::new(state.path(), &[8; 16]).recall(entries[0].0, None), None);
    let file = exports.list()[0].file.clone();
    let whole = String::from_utf8(fs::read(&file).unwrap()).unwrap();
    fs::write(&file, whole.replacen("\"standing\":\"Linked\"", "\"standing\":\"linked\"", 1)).unwrap();
    let exports = Exports::new(state.path(), &KEY);
    assert_eq!(exports.recall(entries[2].0, None), None, "a damaged line makes all of it worthless");
    fs::write(&file, whole).unwrap();
    assert!(Exports::new(state.path(), &KEY).recall(entries[2].0, None).is_some());
}

#[test]
fn of_a_damaged_newest_one_the_one_before_is_used() {
    let state = tempfile::tempdir().unwrap();
    let entries = some_entries(3);
    let exports = Exports::new(state.path(), &KEY);
    for commit in [1, 2] {
        exports.keep(&header(commit), pages(&entries), &AtomicBool::new(false)).unwrap();
    }
    let newest = exports.list()[0].file.clone();
    let length = fs::metadata(&newest).unwrap().len();
    fs::File::options().write(true).open(&newest).unwrap().set_len(length - 9).unwrap();
    assert!(exports.recall(entries[1].0, None).is_some());
    assert!(examine(&newest, exports.key()).is_err());
}

#[test]
fn a_forgotten_referral_is_in_no_export() {
    let state = tempfile::tempdir().unwrap();
    let entries = some_entries(4);
    let exports = Exports::new(state.path(), &KEY);
    for commit in 1..=3 {
        exports.keep(&header(commit), pages(&entries[usize::from(commit == 3)..]), &AtomicBool::new(false)).unwrap();
    }
    let id = entries[0].0;
    assert_eq!(exports.forget(id).unwrap(), 2);
    assert_eq!(exports.forget(id).unwrap(), 0);
    for kept in exports.list() {
        assert!(!fs::read_to_string(&kept.file).unwrap().contains(&id.to_string()));
        assert_eq!(examine(&kept.file, exports.key()).unwrap().1, 3);
    }
    assert_eq!(exports.recall(id, None), None);
    assert!(exports.recall(entries[1].0, None).is_some());
}
