//! A listing as long as the ledger, made up: pages of a hundred referrals as the simulator makes them, with ids and stamps of
//! the ledger's. The simulator itself would need gigabytes for a million of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use referrald::model::Timestamp;

use crate::town::{Town, id};

/// Rows of a page.
const PAGE: u64 = 100;
const PLACE_OF_ID: &str = "00000000-0000-0000-0000-00000000feed";
const PLACE_OF_STAMP: &str = "1999-09-09T09:09:09Z";

/// A listing of as many referrals as there are entries.
pub struct Listing {
    size: u64,
    /// Base URL of the service, which its links begin with.
    url: String,
    template: Vec<u8>,
    ids: Vec<usize>,
    stamps: Vec<usize>,
    sent: AtomicU64,
    was_swept: AtomicBool,
}

impl Listing {
    /// A listing of so many.
    pub fn new(town: &Town, size: u64, url: &str) -> Listing {
        let rows = town.citizens.iter().cycle().take(PAGE as usize).map(|citizen| {
            let mut row = citizen.document.clone();
            row["id"] = PLACE_OF_ID.into();
            row["eTag"] = crate::town::entry::ETAG.into();
            row["status"] = "Active".into();
            row["substatus"] = "Accepted".into();
            row["createdDateTime"] = PLACE_OF_STAMP.into();
            row["updatedDateTime"] = PLACE_OF_STAMP.into();
            row
        });
        let template = serde_json::json!({ "value": rows.collect::<Vec<_>>() }).to_string();
        let places = |what: &str| template.match_indices(what).map(|(at, _)| at).collect();
        let (ids, stamps) = (places(PLACE_OF_ID), places(PLACE_OF_STAMP));
        println!("  a page of {PAGE} referrals has {} bytes", template.len());
        Listing {
            size,
            url: url.to_owned(),
            template: template.into_bytes(),
            ids,
            stamps,
            sent: AtomicU64::new(0),
            was_swept: AtomicBool::new(false),
        }
    }

    /// The page with these referrals, and a link to the page after it.
    fn page(&self, numbers: impl Iterator<Item = u64>, next: Option<u64>) -> Bytes {
        let mut text = self.template.clone();
        let numbers: Vec<u64> = numbers.collect();
        let last = numbers.last().copied().unwrap_or(0);
        for (row, at) in self.ids.iter().enumerate() {
            let number = numbers.get(row).copied().unwrap_or(last);
            let stamp = Timestamp::from_seconds(crate::town::entry::BEGAN + number as i64).to_string();
            text[*at..at + PLACE_OF_ID.len()].copy_from_slice(id(number).to_string().as_bytes());
            for at in &self.stamps[2 * row..2 * row + 2] {
                text[*at..at + stamp.len().min(PLACE_OF_STAMP.len())].copy_from_slice(stamp.as_bytes());
            }
        }
        if let Some(next) = next {
            text.pop();
            let link = format!(",\"@odata.nextLink\":\"{}/v1.0/engagements/referrals?$skiptoken={next}\"}}", self.url);
            text.extend_from_slice(link.as_bytes());
        }
        Bytes::from(text)
    }

    /// What the service answers to this query.
    pub fn answer(&self, query: &str) -> Bytes {
        self.sent.fetch_add(1, Ordering::Relaxed);
        match query {
            _ if query.contains("filter") => Bytes::from_static(b"{\"value\":[]}"),
            _ if query.contains("updatedDateTime") => self.page((0..self.size).rev().take(PAGE as usize), None),
            _ => {
                let first = query.split('&').find_map(|one| one.strip_prefix("$skiptoken=")?.parse().ok()).unwrap_or(0);
                let next = first + PAGE;
                self.was_swept.fetch_or(next >= self.size, Ordering::Relaxed);
                self.page(first..next.min(self.size), (next < self.size).then_some(next))
            }
        }
    }

    /// Requests so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Somebody has read the last page of all.
    pub fn was_swept(&self) -> bool {
        self.was_swept.load(Ordering::Relaxed)
    }
}
