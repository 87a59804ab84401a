//! What callgrind counts: planner and decoding, a fixed number of records each. `benches/instructions/run` calls it.

#[path = "../town/mod.rs"]
mod town;

use std::hint::black_box;

use referrald::model::Timestamp;
use referrald::plan::{Row, plan_row};
use referrald::ports::{Crm, Portal, Scan};

use town::Town;

/// Referrals in the town. Small: the simulated town itself is built under callgrind, too.
const SIZE: usize = 40;

fn main() {
    let town = Town::build(SIZE);
    let mut counted = Vec::new();
    let mut count = |what: &'static str, records: usize| counted.push((what, records));

    let rows = town.leads_again();
    plan_unchanged_leads(&town, &rows);
    count("plan_unchanged_leads", rows.len());
    let rows = town.both_again();
    plan_unchanged_pairs(&town, &rows);
    count("plan_unchanged_pairs", rows.len());
    let rows = town.changed();
    plan_changed_referrals(&town, &rows);
    count("plan_changed_referrals", rows.len());
    let rows = town.first_seen();
    plan_new_referrals(&town, &rows);
    count("plan_new_referrals", rows.len());
    let portal = town.portal_saying(town.page_of_referrals(SIZE));
    count("decode_referrals", decode_referrals(&town, portal.as_ref()));
    let crm = town.crm_saying_leads();
    let first = town.block_on(crm.leads_changed_since(Timestamp::from_seconds(0), &[], None)).expect("a page");
    drop(first); // From here on the answer is kept.
    count("decode_leads", decode_leads(&town, &crm));

    for (what, records) in counted {
        println!("{what} {records}");
    }
}

/// `what` keeps functions of the same body apart: an optimizer would make one of them.
#[inline(always)]
fn plan(what: u32, town: &Town, rows: &[Row]) {
    black_box(what);
    for row in rows {
        black_box(plan_row(black_box(row), &town.policy, town.now));
    }
}

#[inline(never)]
fn plan_unchanged_leads(town: &Town, rows: &[Row]) {
    plan(1, town, black_box(rows));
}

#[inline(never)]
fn plan_unchanged_pairs(town: &Town, rows: &[Row]) {
    plan(2, town, black_box(rows));
}

#[inline(never)]
fn plan_changed_referrals(town: &Town, rows: &[Row]) {
    plan(3, town, black_box(rows));
}

#[inline(never)]
fn plan_new_referrals(town: &Town, rows: &[Row]) {
    plan(4, town, black_box(rows));
}

#[inline(never)]
fn decode_referrals(town: &Town, portal: &dyn Portal) -> usize {
    black_box(town.block_on(portal.page(&Scan::Sweep, None)).expect("the page is whole")).items.len()
}

#[inline(never)]
fn decode_leads(town: &Town, crm: &dyn Crm) -> usize {
    let since = Timestamp::from_seconds(0);
    black_box(town.block_on(crm.leads_changed_since(since, &[], None)).expect("the page is whole")).items.len()
}
