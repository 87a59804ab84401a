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
use referrald::model::{
    ETag, Entry, ExternalReference, LeadId, LeadState, LeadStatus, Link, ReferralId, ReferralStatus, Standing,
    Substatus, Timestamp,
};
use referrald::ports::{Batch, Clock, Ports, StateStore};
use referrald::sim::direct::{DirectCrm, DirectCrmSettings, DirectPortal};
use referrald::sim::{SimClock, World};
use tokio_util::sync::CancellationToken;

fn entry(number: u64, now: Timestamp) -> Entry {
    let id = uuid::Uuid::from_u128(u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
    // One of a hundred waits for an answer.
    let is_new = number.is_multiple_of(100);
    let link = Link {
        lead: LeadId::new(id),
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
        referral_etag: Some(ETag(format!("\"{id}\""))),
        referral_status: if is_new { ReferralStatus::New } else { ReferralStatus::Active },
        referral_substatus: if is_new { Substatus::Pending } else { Substatus::Accepted },
        referral_created: Some(now),
        referral_updated: Some(now),
        deadline: is_new.then(|| now.plus(Duration::from_secs(number))),
        external_reference: ExternalReference::Ours,
        consent: Some(true),
        is_consent_withdrawn: false,
        is_registered_co_sell: false,
        is_frozen: false,
        link: Some(link),
        groups: Vec::new(),
        outcome: None,
        closed_by_us: None,
        reported_after_closing: None,
        trouble: None,
        holds: 0,
        primary_contact: None,
        look_at: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, see the head of this file"]
async fn a_status_is_quick_while_a_cycle_runs() {
    let entries = crate::stage::number("REFERRALD_STATUS_ENTRIES").unwrap_or(20_000);
    let directory = tempfile::tempdir().unwrap();
    let clock = SimClock::running();
    let store: Arc<dyn StateStore> = Arc::new(referrald::store::open(directory.path(), 16 << 20).unwrap());
    let now = clock.now();
    for first in (0..entries).step_by(2000) {
        let numbers = first..(first + 2000).min(entries);
        let id = |entry: &Entry| ReferralId::new(entry.link.as_ref().unwrap().lead.uuid());
        let batch = numbers.map(|number| entry(number, now)).map(|entry| (id(&entry), Some(entry))).collect();
        store.record(Batch { entries: batch, ..Batch::default() }).await.unwrap();
    }
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
    let (mut times, mut during) = (Vec::new(), 0);
    for _ in 0..1000 {
        let began = Instant::now();
        let status = engine.status().await.unwrap();
        times.push(began.elapsed());
        during += u32::from(status.is_cycle_running);
        assert!(status.referrals >= entries);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    cycles.await.unwrap();
    times.sort();
    println!(
        "{entries} entries, 1,000 statuses, {during} of them while a cycle ran: p50 {:?}, p99 {:?}, longest {:?}",
        times[500], times[990], times[999]
    );
}
