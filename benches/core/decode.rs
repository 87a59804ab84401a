//! From bytes to values: a page of referrals and a page of leads, through the adapters.

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use referrald::model::Timestamp;
use referrald::ports::{Crm, Scan};

use crate::town::Town;

#[divan::bench]
fn a_page_of_1000_referrals(bencher: Bencher) {
    let town = Town::build(500);
    let body = town.page_of_referrals(1000);
    let bytes = body.len();
    let portal = town.portal_saying(body);
    bencher.counter(ItemsCount::new(1000u32)).counter(BytesCount::new(bytes)).bench_local(|| {
        let page = town.block_on(portal.page(&Scan::Sweep, None)).expect("the page is whole");
        assert_eq!(page.items.len(), 1000);
        page
    });
}

#[divan::bench]
fn a_page_of_leads(bencher: Bencher) {
    let town = Town::build(500);
    let crm = town.crm_saying_leads();
    let since = Timestamp::from_seconds(0);
    let read = || town.block_on(crm.leads_changed_since(since, &[], None)).expect("the page is whole");
    let count = read().items.len();
    assert!(count > 100, "only {count} leads");
    bencher.counter(ItemsCount::new(count)).bench_local(read);
}
