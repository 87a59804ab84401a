//! The ledger: looking up, recording with the durable barrier, opening. Memory and disk: the bench `whole`.

use divan::Bencher;
use referrald::model::{
    Base, ETag, Entry, ExternalReference, GroupMemory, LeadId, LeadState, LeadStatus, Link, ReferralId, ReferralStatus,
    Standing, Substatus, Timestamp,
};
use referrald::ports::{Batch, Memo, StateStore};
use referrald::store::SledStore;

const ENTRIES: u128 = 100_000;
const CACHE_BYTES: u64 = 16 << 20;

#[divan::bench]
fn get_one_of_100_000(bencher: Bencher) {
    let (_directory, store, _) = filled();
    let mut number = 0;
    bencher.bench_local(|| {
        number += 7919;
        store.get(id(number % ENTRIES)).expect("the ledger is readable")
    });
}

#[divan::bench]
fn scan_a_page_of_500(bencher: Bencher) {
    let (_directory, store, _) = filled();
    bencher.bench_local(|| store.scan(Some(id(1)), 500).expect("the ledger is readable"));
}

#[divan::bench(args = [1, 100])]
fn record_durably(bencher: Bencher, count: u128) {
    let (_directory, store, runtime) = filled();
    let mut number = 0;
    bencher.bench_local(|| {
        number += count;
        let entries = (number..number + count).map(|number| (id(number % ENTRIES), Some(entry(number)))).collect();
        runtime.block_on(store.record(Batch { entries, ..Batch::default() })).expect("the disk has room");
    });
}

#[divan::bench]
fn open_100_000_after_an_orderly_stop(bencher: Bencher) {
    let (directory, store, runtime) = filled();
    let stop = |store: SledStore| {
        let memo = Memo { is_stopped_cleanly: true, ..Memo::default() };
        runtime.block_on(store.record(Batch { memo: Some(memo), ..Batch::default() })).expect("the disk has room");
    };
    stop(store);
    bencher.bench_local(|| {
        let store = SledStore::open(directory.path(), CACHE_BYTES, None).expect("the ledger opens");
        stop(store);
    });
}

fn filled() -> (tempfile::TempDir, SledStore, tokio::runtime::Runtime) {
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let store = SledStore::open(directory.path(), CACHE_BYTES, None).expect("an empty directory opens");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    for first in (0..ENTRIES).step_by(1000) {
        let entries = (first..first + 1000).map(|number| (id(number), Some(entry(number)))).collect();
        runtime.block_on(store.record(Batch { entries, ..Batch::default() })).expect("the disk has room");
    }
    (directory, store, runtime)
}

fn id(number: u128) -> ReferralId {
    ReferralId::new(uuid::Uuid::from_u128(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)))
}

/// A linked entry with ten groups, as most are.
fn entry(number: u128) -> Entry {
    let now = Timestamp::from_seconds(1_795_380_000 + number as i64);
    let groups = (0..10).map(|group| GroupMemory {
        group: group * 0x0101_0101,
        mapping: 7,
        base: Base::Common { referral: u64::MAX / (number as u64 + 1), lead: u64::MAX - number as u64 },
        referral_moved: None,
        lead_moved: None,
        released: None,
        flips: None,
    });
    let link = Link {
        lead: LeadId::new(id(number).uuid()),
        etag: Some(ETag(format!("W/\"{number:08}\""))),
        status: LeadStatus { state: LeadState::Open, code: 1 },
        modified: Some(now),
        deal: Default::default(),
        is_ours: true,
        has_changed_state: false,
    };
    Entry {
        standing: Standing::Linked,
        first_seen: now,
        referral_etag: Some(ETag(format!("\"{}\"", id(number)))),
        referral_status: ReferralStatus::Active,
        referral_substatus: Substatus::Accepted,
        referral_created: Some(now),
        referral_updated: Some(now),
        deadline: None,
        external_reference: ExternalReference::Ours,
        consent: Some(true),
        is_consent_withdrawn: false,
        is_registered_co_sell: false,
        is_frozen: false,
        link: Some(link),
        groups: groups.collect(),
        outcome: None,
        closed_by_us: None,
        reported_after_closing: None,
        trouble: None,
        holds: 0,
        primary_contact: None,
        look_at: None,
    }
}
