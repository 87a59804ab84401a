//! The planner and the mapping under it: rows per second on one core.

use std::sync::LazyLock;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use referrald::plan::{Row, plan_row};

use crate::town::Town;

/// Referrals in the town: enough to leave the processor's caches, as real ones do.
const SIZE: usize = 2000;

/// The town is built once and only looked at.
static TOWN: LazyLock<std::sync::Mutex<Town>> = LazyLock::new(|| std::sync::Mutex::new(Town::build(SIZE)));

fn plan(bencher: Bencher, rows: impl Fn(&Town) -> Vec<Row>) {
    let town = TOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let rows = rows(&town);
    bencher.counter(ItemsCount::new(rows.len())).bench_local(|| {
        for row in &rows {
            black_box(plan_row(black_box(row), &town.policy, town.now));
        }
    });
}

/// Rows that were due and not seen.
#[divan::bench]
fn due_rows(bencher: Bencher) {
    plan(bencher, Town::remembered);
}

/// Leads that were read by id and say what they said.
#[divan::bench]
fn unchanged_leads(bencher: Bencher) {
    plan(bencher, Town::leads_again);
}

/// Both sides were read and say what they said.
#[divan::bench]
fn unchanged_pairs(bencher: Bencher) {
    plan(bencher, Town::both_again);
}

/// Referrals whose name and amount changed; each becomes an update of its lead.
#[divan::bench]
fn changed_referrals(bencher: Bencher) {
    plan(bencher, Town::changed);
}

/// Referrals that are seen for the first time; each becomes a lead.
#[divan::bench]
fn new_referrals(bencher: Bencher) {
    plan(bencher, Town::first_seen);
}

/// A referral becomes the values of every group, with their fingerprints.
#[divan::bench]
fn derive_and_fingerprint(bencher: Bencher) {
    let town = TOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    bencher.counter(ItemsCount::new(town.citizens.len())).bench_local(|| {
        for citizen in &town.citizens {
            let contact = citizen.entry.primary_contact;
            black_box(town.policy.mapping.derive_linked(black_box(&citizen.referral), contact, true));
        }
    });
}

/// A lead becomes the values of every group, with their fingerprints.
#[divan::bench]
fn observe_and_fingerprint(bencher: Bencher) {
    let town = TOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    bencher.counter(ItemsCount::new(town.citizens.len())).bench_local(|| {
        for citizen in &town.citizens {
            black_box(town.policy.mapping.observe(black_box(&citizen.lead), None));
        }
    });
}
