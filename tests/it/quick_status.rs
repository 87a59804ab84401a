//! How long a status takes over a large ledger while a cycle runs. A measurement, run on request:
//!
//! ```sh
//! REFERRALD_STATUS_ENTRIES=1000000 cargo test --test it quick_status -- --ignored --nocapture
//! ```

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use referrald::config::Settings;
use referrald::cycle::Budget;
use referrald::daemon::{Engine, Reconciler};
use referrald::model::{Entry, ReferralId, ReferralStatus, Substatus, Timestamp};
use referrald::ports::{Batch, Clock, Ports, StateStore};
use referrald::sim::direct::{DirectCrm, DirectCrmSettings, DirectPortal};
use referrald::sim::{SimClock, World};
use tokio_util::sync::CancellationToken;

/// Entries of one batch while the ledger is filled.
const BATCH: usize = 10_000;

#[path = "../../benches/town/entry.rs"]
mod entry;

/// Numbers in the order of their ids: pages of the ledger fill one after the other, which is quicker than as real ids come.
fn id(number: u64) -> ReferralId {
    ReferralId::new(uuid::Uuid::from_u128(u128::from(number) << 64))
}

/// One of a hundred waits for an answer.
fn entry(number: u64, now: Timestamp) -> Entry {
    let entry = entry::entry(number, 0);
    match number.is_multiple_of(100) {
        true => Entry {
            referral_status: ReferralStatus::New,
            referral_substatus: Substatus::Pending,
            deadline: Some(now.plus(Duration::from_secs(number))),
            ..entry
        },
        false => entry,
    }
}

/// Processor time of this thread: a status waits for nothing, so it does all its work here.
fn work() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, see the head of this file"]
async fn a_status_is_quick_while_a_cycle_runs() {
    let entries = crate::stage::number("REFERRALD_STATUS_ENTRIES").unwrap_or(20_000);
    let directory = tempfile::tempdir().unwrap();
    let clock = SimClock::running();
    let store: Arc<dyn StateStore> = Arc::new(referrald::store::open(directory.path(), 16 << 20).unwrap());
    let now = clock.now();
    let began = Instant::now();
    for first in (0..entries).step_by(BATCH) {
        let numbers = first..(first + BATCH as u64).min(entries);
        let batch = numbers.map(|number| (id(number), Some(entry(number, now)))).collect();
        store.record(Batch { entries: batch, ..Batch::default() }).await.unwrap();
    }
    println!("filled in {:.0?}", began.elapsed());
    let mut world = World::new(5, clock.clone(), Default::default());
    world.populate(5, 2000);
    let world = Arc::new(Mutex::new(world));
    let mut settings = Settings::defaults();
    settings.writes = referrald::plan::settings::Writes::Both;
    settings.state.directory = directory.path().to_owned();
    let ports = Ports {
        portal: Arc::new(DirectPortal::new(world.clone())),
        crm: Arc::new(DirectCrm::new(world, DirectCrmSettings::default())),
        store,
        clock: Arc::new(clock),
    };
    let engine = Arc::new(Reconciler::new(ports, settings, Vec::new(), None));
    let (stop, running) = (CancellationToken::new(), engine.clone());
    let (cycling, stopped) = (stop.clone(), stop.clone());
    let cycles = tokio::spawn(async move {
        while !stopped.is_cancelled() {
            running.cycle(Budget::Work(Duration::from_secs(30)), &cycling).await.unwrap();
        }
    });
    let (mut times, mut works, mut during) = (Vec::new(), Vec::new(), 0);
    for _ in 0..1000 {
        let (began, worked) = (Instant::now(), work());
        let status = engine.status().await.unwrap();
        times.push(began.elapsed());
        works.push(work() - worked);
        during += u32::from(status.is_cycle_running);
        assert!(status.referrals >= entries);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    cycles.await.unwrap();
    times.sort();
    works.sort();
    println!(
        "{entries} entries, 1,000 statuses, {during} of them while a cycle ran: p50 {:?}, p99 {:?}, longest {:?}",
        times[500], times[990], times[999]
    );
    println!("of that its own work, without waiting for a processor: p99 {:?}, longest {:?}", works[990], works[999]);
}
