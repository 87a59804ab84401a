//! A full sweep that changes nothing and a cycle with nothing new: adapter, cycle and ledger, everything but sockets.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use referrald::cycle::Budget;
use referrald::daemon::{Engine, Reconciler};
use referrald::http::{Answer, Call};
use referrald::model::Watermark;
use referrald::portal::PortalSettings;
use referrald::ports::{Batch, Memo, Ports, StateStore};
use referrald::sim::{DirectCrm, DirectCrmSettings, SimClock, World};
use referrald::store::SledStore;
use tokio_util::sync::CancellationToken;

use crate::listing::Listing;
use crate::town::{self, Town};
use crate::{process, seed};

/// Cycles with nothing new that are timed together.
const CYCLES: u32 = 200;

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
        let listing = Listing::new(&town, *size, "https://api.partner.microsoft.com");
        let line = Arc::new(town::Answering::new(move |call: &Call| {
            let body = listing.answer(call.url.query().unwrap_or_default());
            Answer { server_time: Some(jiff::Timestamp::now().into()), ..town::answer(body) }
        }));
        let store = Arc::new(SledStore::open(directory.path(), seed::CACHE_BYTES, None).expect("the ledger opens"));
        let settings = town::settings();
        let world = Arc::new(Mutex::new(World::new(1, SimClock::running(), Default::default())));
        let ports = Ports {
            portal: referrald::portal::open(&PortalSettings::PartnerCenter(settings.partner_center.clone()), line),
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
