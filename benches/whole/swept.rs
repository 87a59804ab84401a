//! The built program after a full sweep: how long that takes over HTTP, and the memory it leaves.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{Uri, header};
use referrald::model::Watermark;
use referrald::sim::{SimClock, Simulator, World};

use crate::listing::Listing;
use crate::process::{memory, processor_time};
use crate::rest::{self, PATIENCE, WATCHED};
use crate::seed;
use crate::town::Town;

/// How long a sweep may take before something is wrong.
const SWEEP_TIME_MAX: Duration = Duration::from_secs(1200);

/// Measures at each size, and prints a table.
pub fn measure(sizes: &[u64]) {
    let town = Town::build(300);
    println!("\nthe program after the sweep of a start, which changes nothing, over HTTP");
    println!("  entries   sweep, wall + CPU   RSS before   highest   RSS after   {}s later", WATCHED.as_secs());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    for size in sizes {
        let _entered = runtime.enter();
        measure_one(&runtime, &town, *size);
    }
}

fn measure_one(runtime: &tokio::runtime::Runtime, town: &Town, size: u64) {
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let world = World::new(3, SimClock::running(), Default::default());
    let simulator = runtime.block_on(Simulator::start(world, Duration::ZERO)).expect("there are free ports");
    let socket = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("there are free ports");
    let url = format!("http://{}", socket.local_addr().expect("a bound socket has an address"));
    let listing = Arc::new(Listing::new(town, size, &url));
    let answers = listing.clone();
    let service = axum::Router::new().fallback(move |address: Uri| {
        let body = answers.answer(address.query().unwrap_or_default());
        async { ([(header::CONTENT_TYPE, "application/json")], body) }
    });
    runtime.spawn(async move { axum::serve(socket, service).await });
    rest::configure(&simulator, directory.path());
    let mine = format!("[partner_center]\nbase_url = \"{url}\"\n");
    let mine = format!("{mine}[partner_center.auth]\naudience = \"{}\"\n", simulator.portal_url);
    std::fs::write(directory.path().join("referrald.toml.d/listing.toml"), mine).expect("a file can be made");
    let now = Watermark(jiff::Timestamp::now().into());
    seed::fill(runtime, &directory.path().join("state"), size, |memo| {
        // There are no leads: nobody shall look for them.
        (memo.leads_seen, memo.opportunities_seen) = (Some(now), Some(now));
    });

    let notes = UnixDatagram::bind(directory.path().join("notify")).expect("a socket can be made");
    notes.set_read_timeout(Some(PATIENCE)).expect("a socket has a time-out");
    let mut child = rest::program(directory.path(), "run").spawn().expect("the program runs");
    rest::await_ready(&notes, &mut child);
    std::thread::spawn(move || while notes.recv(&mut [0; 4096]).is_ok() {});
    let mib = |line| memory(child.id(), line) as f64 / 1024.0;
    let (before, began, spent) = (mib("VmRSS"), Instant::now(), processor_time(child.id()));
    while !listing.was_swept() {
        assert!(began.elapsed() < SWEEP_TIME_MAX, "no sweep within {SWEEP_TIME_MAX:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (wall, spent) = (began.elapsed(), processor_time(child.id()) - spent);
    let (after, highest) = (mib("VmRSS"), mib("VmHWM"));
    std::thread::sleep(WATCHED);
    println!(
        "{size:>9}   {wall:>6.1?} + {spent:>6.1?}   {before:>6.1} MiB   {highest:>6.1}    {after:>6.1}   {:>6.1}   ({} pages)",
        mib("VmRSS"),
        listing.sent(),
    );
    let _ = child.kill();
    let _ = child.wait();
}
