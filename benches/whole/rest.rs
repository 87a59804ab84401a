//! The built program at rest: start, memory, and what a cycle with nothing new costs it.
//!
//! Another build of the program is measured with `REFERRALD_BENCH_PROGRAM=/path/to/referrald`, other settings with
//! `REFERRALD_BENCH_STATE='cache_bytes = 4194304'` (lines of `[state]`). `REFERRALD_BENCH_WINDOWS=15` watches so many times
//! 20 seconds and prints each: what follows an import ends, and one number does not show that.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use referrald::sim::exchange::Service;
use referrald::sim::{SimClock, Simulator, World};

use crate::process::{memory, processor_time, size_of};
use crate::seed;

/// Referrals that the services really have.
const LISTED: usize = 40;
/// Cycles, one a second, that are timed together: a window.
pub const WATCHED: Duration = Duration::from_secs(20);
/// How long the program may take to get ready before something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Measures at each size, and at none, and prints a table.
pub fn measure(sizes: &[u64]) {
    println!("\nthe program at rest: start until ready, memory, and a cycle each second with nothing new");
    println!(
        "  entries   start   RSS ready   RSS after {}s (anonymous + file)   CPU/cycle   requests/cycle   ledger",
        WATCHED.as_secs()
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    for size in std::iter::once(&0).chain(sizes) {
        let _entered = runtime.enter();
        measure_one(&runtime, *size);
    }
}

fn measure_one(runtime: &tokio::runtime::Runtime, size: u64) {
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let mut world = World::new(3, SimClock::running(), Default::default());
    if size > 0 {
        world.populate(3, LISTED);
    }
    let simulator = runtime.block_on(Simulator::start(world, Duration::ZERO)).expect("there are free ports");
    configure(&simulator, directory.path());
    let state = directory.path().join("state");
    if size > 0 {
        for _ in 0..2 {
            let status = program(directory.path(), "once").status().expect("the program runs");
            assert!(matches!(status.code(), Some(0 | 3)), "{status}");
        }
        seed::fill(runtime, &state, size, |_| {});
    }
    let notes = UnixDatagram::bind(directory.path().join("notify")).expect("a socket can be made");
    notes.set_read_timeout(Some(PATIENCE)).expect("a socket has a time-out");
    let began = Instant::now();
    let mut child = program(directory.path(), "run").spawn().expect("the program runs");
    let started = await_ready(&notes, &mut child).map(|()| began.elapsed());
    // Nobody would read what the program says of itself, and after some cycles it would wait for that.
    std::thread::spawn(move || while notes.recv(&mut [0; 4096]).is_ok() {});
    let kib = |line| memory(child.id(), line) as f64 / 1024.0;
    let ready = kib("VmRSS");
    std::thread::sleep(Duration::from_secs(5));
    let count = || simulator.with(|world| (world.journal.count(Service::Portal), world.journal.count(Service::Crm)));
    let windows = std::env::var("REFERRALD_BENCH_WINDOWS").ok().and_then(|count| count.parse().ok()).unwrap_or(1);
    for _ in 0..windows {
        let (before, spent) = (count(), processor_time(child.id()));
        std::thread::sleep(WATCHED);
        let (after, spent) = (count(), processor_time(child.id()) - spent);
        // A cycle each second, by the schedule.
        let cycles = WATCHED.as_secs();
        println!(
            "{size:>9}   {:>5.0?}   {ready:>5.1} MiB   {:>5.1} MiB ({:.1} + {:.1})   {:>9.2?}   {:.2} + {:.2}   {} MiB",
            started.unwrap_or_default(),
            kib("VmRSS"),
            kib("RssAnon"),
            kib("RssFile"),
            spent / u32::try_from(cycles).unwrap_or(u32::MAX),
            (after.0 - before.0) as f64 / cycles as f64,
            (after.1 - before.1) as f64 / cycles as f64,
            size_of(&state) >> 20,
        );
    }
    if std::env::var_os("REFERRALD_BENCH_MAPS").is_some() {
        println!("{}", std::fs::read_to_string(format!("/proc/{}/smaps", child.id())).unwrap_or_default());
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Waits until the program says that it is ready; nothing when it does not within its time.
pub fn await_ready(notes: &UnixDatagram, child: &mut Child) -> Option<()> {
    let mut note = [0; 4096];
    loop {
        let length = notes.recv(&mut note).ok()?;
        if String::from_utf8_lossy(&note[..length]).contains("READY=1") {
            return Some(());
        }
        assert!(child.try_wait().ok()?.is_none(), "the program ended");
    }
}

/// The built program with the configuration in a directory, which also gets what it prints.
pub fn program(directory: &Path, command: &str) -> Command {
    let built = std::env::var_os("REFERRALD_BENCH_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_referrald").into());
    let mut program = Command::new(built);
    // As the unit has it.
    program.env("MALLOC_ARENA_MAX", "2");
    program.arg("--config").arg(directory.join("referrald.toml")).arg(command);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("REFERRALD_")) {
        program.env_remove(name);
    }
    program.env("NOTIFY_SOCKET", directory.join("notify")).env_remove("RUNTIME_DIRECTORY");
    let log = |name| std::fs::File::create(directory.join(name)).expect("a file can be made");
    program.stdin(Stdio::null()).stdout(log("out")).stderr(log("log"));
    program
}

/// The services' own configuration, a cycle each second and no sweep; `REFERRALD_BENCH_STATE` are further lines of `[state]`.
pub fn configure(simulator: &Simulator, directory: &Path) {
    let schedule = "[schedule]\nreconcile = \"* * * * * *\"\nsweep = \"0 0 0 1 1 *\"\n";
    simulator.configure(directory, schedule).expect("a file can be made");
    let drop_ins = directory.join("referrald.toml.d");
    std::fs::create_dir_all(&drop_ins).expect("a folder can be made");
    let more = std::env::var("REFERRALD_BENCH_STATE").unwrap_or_default();
    std::fs::write(drop_ins.join("state.toml"), format!("[state]\n{more}\n")).expect("a file can be made");
}
