//! A full sweep that changes nothing and a cycle with nothing new: adapter, cycle and ledger, everything but sockets.
//!
//! The listing is made up: pages of a hundred referrals as the simulator makes them, with ids and stamps of the ledger's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use referrald::cycle::Budget;
use referrald::daemon::{Engine, Reconciler};
use referrald::http::{Answer, Call, Exchange};
use referrald::model::{RemoteError, Timestamp, Watermark};
use referrald::portal::PortalSettings;
use referrald::ports::{Allowance, Batch, Memo, Ports, StateStore, Traffic};
use referrald::sim::{DirectCrm, DirectCrmSettings, SimClock, World};
use referrald::store::SledStore;
use tokio_util::sync::CancellationToken;

use crate::town::{self, Town, id};
use crate::{process, seed};

/// Rows of a page.
const PAGE: u64 = 100;
/// Cycles with nothing new that are timed together.
const CYCLES: u32 = 200;
const PLACE_OF_ID: &str = "00000000-0000-0000-0000-00000000feed";
const PLACE_OF_STAMP: &str = "1999-09-09T09:09:09Z";

/// Measures at each size and prints a table.
pub fn measure(sizes: &[u64]) {
    let town = Town::build(300);
    println!("\nsweep and quiet cycle, in process, without sockets");
    println!("  entries   sweep/s per core   us/referral   quiet cycle CPU   RSS after");
    for size in sizes {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        let directory = tempfile::tempdir().expect("there is a temporary directory");
        let now = Watermark(jiff::Timestamp::now().into());
        seed::fill(&runtime, directory.path(), *size, |memo| {
            (memo.leads_seen, memo.opportunities_seen) = (Some(now), Some(now));
        });
        let listing = Arc::new(Listing::new(&town, *size));
        let store = Arc::new(SledStore::open(directory.path(), seed::CACHE_BYTES, None).expect("the ledger opens"));
        let settings = town::settings();
        let world = Arc::new(Mutex::new(World::new(1, SimClock::running(), Default::default())));
        let ports = Ports {
            portal: referrald::portal::open(
                &PortalSettings::PartnerCenter(settings.partner_center.clone()),
                listing.clone(),
            ),
            crm: Arc::new(DirectCrm::new(world, DirectCrmSettings::default())),
            store: store.clone(),
            clock: Arc::new(SimClock::running()),
        };
        let engine = Reconciler::new(ports, settings, Vec::new(), None);
        let stop = CancellationToken::new();
        let cycle = || {
            let report =
                runtime.block_on(engine.cycle(Budget::Work(Duration::from_secs(3600)), &stop)).expect("a cycle");
            assert!(report.brakes.is_empty() && report.sides.is_empty(), "{report:?}");
            report
        };
        cycle(); // The first sweep: now the watermarks are set and the nightly work is done.
        runtime.block_on(ask_for_sweep(store.as_ref()));
        let (began, spent) = (Instant::now(), process::processor_time(std::process::id()));
        let report = cycle();
        let (wall, spent) = (began.elapsed(), process::processor_time(std::process::id()) - spent);
        assert!(report.referrals_seen >= *size, "{report:?}");
        cycle();
        let quiet = process::processor_time(std::process::id());
        for _ in 0..CYCLES {
            cycle();
        }
        let quiet = (process::processor_time(std::process::id()) - quiet) / CYCLES;
        let rate = *size as f64 / spent.as_secs_f64();
        let each = spent.as_secs_f64() * 1e6 / *size as f64;
        let rss = process::memory(std::process::id(), "VmRSS") / 1024;
        println!("{size:>9}   {rate:>16.0}   {each:>11.1}   {quiet:>15.2?}   {rss:>5} MiB   (wall {wall:.1?})");
    }
}

async fn ask_for_sweep(store: &dyn StateStore) {
    let memo = Memo { is_sweep_due: true, ..store.memo().expect("the ledger is readable") };
    store.record(Batch { memo: Some(memo), ..Batch::default() }).await.expect("the disk has room");
}

/// A listing of as many referrals as there are entries.
struct Listing {
    size: u64,
    template: Vec<u8>,
    ids: Vec<usize>,
    stamps: Vec<usize>,
    sent: AtomicU64,
}

impl Listing {
    fn new(town: &Town, size: u64) -> Listing {
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
        Listing { size, template: template.into_bytes(), ids, stamps, sent: AtomicU64::new(0) }
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
            let link = format!(
                ",\"@odata.nextLink\":\"https://api.partner.microsoft.com/v1.0/engagements/referrals?$skiptoken={next}\"}}"
            );
            text.extend_from_slice(link.as_bytes());
        }
        Bytes::from(text)
    }
}

#[async_trait]
impl Exchange for Listing {
    async fn send(&self, call: Call) -> Result<Answer, RemoteError> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let query = call.url.query().unwrap_or_default();
        let body = match query {
            _ if query.contains("filter") => Bytes::from_static(b"{\"value\":[]}"),
            _ if query.contains("updatedDateTime") => self.page((0..self.size).rev().take(PAGE as usize), None),
            _ => {
                let first = query.split('&').find_map(|one| one.strip_prefix("$skiptoken=")?.parse().ok()).unwrap_or(0);
                let next = first + PAGE;
                self.page(first..next.min(self.size), (next < self.size).then_some(next))
            }
        };
        Ok(Answer { server_time: Some(jiff::Timestamp::now().into()), ..town::answer(body) })
    }
    fn closed_until(&self) -> Option<Timestamp> {
        None
    }
    fn close_until(&self, _until: Timestamp) {}
    fn requests_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
    fn allow(&self, _allowance: Option<Allowance>) {}
    fn recommend(&self, _parallelism: u16) {}
}
