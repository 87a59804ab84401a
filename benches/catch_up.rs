//! How close a first import comes to what the services allow: the whole product but its sockets, against the simulator,
//! on a paused clock.
//!
//! Run with `cargo bench --bench catch_up` (10,000 referrals) or, as in the README,
//! `cargo bench --bench catch_up -- 100000`. A second argument lists execution times, for example `50,500`; a third
//! says how many requests a minute Partner Center grants.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use referrald::config::Settings;
use referrald::crm;
use referrald::daemon::{Daemon, Pulse, Reconciler};
use referrald::http::settings::AuthSettings;
use referrald::http::{self, Tokens};
use referrald::model::{Side, Timestamp};
use referrald::plan::settings::Writes;
use referrald::portal::{self, PortalSettings};
use referrald::ports::{Clock, Ports, StateStore};
use referrald::sim::dynamics::Table;
use referrald::sim::{Ceilings, Options, Service, SimClock, SimWire, World};
use referrald::store::SledStore;
use referrald::trigger::Bell;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const REFERRALS: usize = 10_000;
const WRITE_MILLIS: [u64; 3] = [50, 100, 500];
/// One referral in so many is New; the others were accepted before.
const NEW_EVERY: usize = 10;
/// How many New ones are watched for.
const FIRST: usize = 100;
const SEED: u64 = 7;
const CACHE_BYTES: u64 = 16 << 20;
/// Pause between two looks at the world.
const LOOK: Duration = Duration::from_millis(100);
/// An import that makes no lead for so long is over, or stuck.
const QUIET: Duration = Duration::from_secs(900);

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let referrals = arguments.next().map_or(REFERRALS, |text| text.parse().expect("a number of referrals"));
    let costs: Vec<u64> = match arguments.next() {
        Some(text) => text.split(',').map(|text| text.parse().expect("milliseconds, as in 50,500")).collect(),
        None => WRITE_MILLIS.to_vec(),
    };
    let mut ceilings = Ceilings::default();
    if let Some(text) = arguments.next() {
        ceilings.portal_requests_per_minute = text.parse().expect("requests to Partner Center in a minute");
    }
    println!(
        "first import of {referrals} referrals, one in {NEW_EVERY} of them New; round trip {} ms, a read takes {} ms, {} \
         requests and {} s of execution in {} s, {} at once; Partner Center grants {} requests a minute",
        ceilings.round_trip.as_millis(),
        ceilings.read.as_millis(),
        ceilings.requests,
        ceilings.execution.as_secs(),
        ceilings.window.as_secs(),
        ceilings.concurrent,
        ceilings.portal_requests_per_minute,
    );
    for millis in costs {
        let ceilings = Ceilings { write: Duration::from_millis(millis), ..ceilings };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let figures = runtime.expect("a runtime starts").block_on(import(ceilings, referrals));
        print(&ceilings, &figures);
    }
}

/// What one import gave.
struct Figures {
    leads: u64,
    took: Duration,
    first_new: Option<Duration>,
    wires: BTreeMap<&'static str, (u64, u64, u64, Duration)>,
    requests: BTreeMap<String, u64>,
    written_back: usize,
    operations: Vec<u64>,
    cpu: Duration,
    course: Vec<u64>,
}

fn print(ceilings: &Ceilings, figures: &Figures) {
    let shortest = ceilings.shortest(figures.leads, 1000);
    let ratio = 100.0 * shortest.as_secs_f64() / figures.took.as_secs_f64();
    println!("\n{} ms a write: {} leads", ceilings.write.as_millis(), figures.leads);
    println!("  virtual time       {:>9.1} s", figures.took.as_secs_f64());
    println!("  at the ceiling     {:>9.1} s", shortest.as_secs_f64());
    println!("  of the ceiling     {ratio:>9.1} %");
    match figures.first_new {
        Some(time) => println!("  first {FIRST} New ones {:>9.1} s", time.as_secs_f64()),
        None => println!("  first {FIRST} New ones     never"),
    }
    println!("  written back       {:>9}", figures.written_back);
    for (name, (sent, throttled, inside, asked)) in &figures.wires {
        println!(
            "  {name:<14} {sent:>7} requests, {throttled} answered with 429 ({} s asked for), {inside} sent inside a penalty",
            asked.as_secs()
        );
    }
    for (name, count) in &figures.requests {
        println!("    {count:>7} {name}");
    }
    let operations: Vec<String> = figures.operations.iter().map(u64::to_string).collect();
    println!("  daily pool: {} operations of {} in each day", operations.join(", "), ceilings.daily_pool);
    let minutes: Vec<String> = figures
        .course
        .iter()
        .scan(0, |before, leads| Some((leads - std::mem::replace(before, *leads)).to_string()))
        .collect();
    println!("  leads in each minute: {}", minutes.join(" "));
    println!("  CPU time {:.1} s, the simulator included", figures.cpu.as_secs_f64());
}

async fn import(ceilings: Ceilings, referrals: usize) -> Figures {
    let clock = SimClock::of_runtime(Timestamp::from_seconds(1_795_000_000));
    let world = filled(ceilings.options(), clock.clone(), referrals);
    let new: BTreeSet<Uuid> =
        world.portal.all().filter(|(_, document)| document["status"] == "New").map(|(id, _)| id).collect();
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let line = Line::new(world, ceilings, directory.path(), Arc::new(clock));
    let engine = Arc::new(Reconciler::new(line.ports.clone(), line.settings.clone(), Vec::new(), None));

    let (bell, stop) = (Bell::new(), CancellationToken::new());
    let (_settings, settings) = watch::channel(line.settings.daemon.clone());
    let began = Instant::now();
    let daemon = Daemon {
        engine,
        bell: bell.clone(),
        pulse: Pulse::new(),
        settings,
        silence_max: Box::new(|| Duration::from_secs(120)),
        tell: Box::new(|_| {}),
    };
    let cpu = cpu_time();
    let minutes = async {
        loop {
            tokio::time::sleep(Duration::from_secs(60)).await;
            bell.ring();
        }
    };
    let watched = tokio::select! {
        watched = line.watch(&new) => watched,
        () = minutes => unreachable!("the clock goes on"),
        _ = daemon.run(&stop) => unreachable!("nobody stops the daemon"),
    };
    let cpu = cpu_time() - cpu;
    line.figures(watched, began, cpu)
}

/// What was seen while the import went on.
#[derive(Default)]
struct Watched {
    leads: u64,
    last: Option<Instant>,
    first_new: Option<Instant>,
    /// Leads at the end of each minute.
    course: Vec<u64>,
}

/// The product on its wires.
struct Line {
    world: Arc<Mutex<World>>,
    wires: BTreeMap<&'static str, Arc<SimWire>>,
    settings: Settings,
    ports: Ports,
}

impl Line {
    fn new(world: World, ceilings: Ceilings, directory: &Path, clock: Arc<dyn Clock>) -> Line {
        let settings = settings(&world.options, directory);
        let base = settings.dataverse.url.clone().expect("it was set");
        let world = Arc::new(Mutex::new(world));
        let wire = |service, base: &url::Url| {
            Arc::new(SimWire::new(Arc::clone(&world), service, base.clone(), ceilings.round_trip))
        };
        let entra = wire(Service::Authority, &settings.partner_center.auth.authority);
        let (portal, leads) = (wire(Service::Portal, &settings.partner_center.base_url), wire(Service::Crm, &base));
        let client = |side, auth: &AuthSettings, base: &url::Url, dialect, limits, wire: &Arc<SimWire>| {
            let audience = base.origin().ascii_serialization();
            let tokens = Tokens::new(side, "auth", &audience, auth, &settings.http, directory, Arc::clone(&clock));
            let tokens = Arc::new(tokens.expect("the sign-in is complete").over(entra.clone()));
            let client = http::Client::new(dialect, base.clone(), &settings.http, limits, tokens, Arc::clone(&clock));
            Arc::new(client.expect("the limits are usable").over(wire.clone()))
        };
        let groups = settings.mapping.groups.values().filter(|group| group.enabled);
        let columns: BTreeSet<String> = groups.flat_map(|group| group.columns.keys().cloned()).collect();
        let limits = settings.partner_center.limits();
        let (auth, base_url) = (&settings.partner_center.auth, &settings.partner_center.base_url);
        let portal_client = client(Side::Portal, auth, base_url, portal::dialect(), limits, &portal);
        let limits = settings.dataverse.limits();
        let dialect = crm::dialect(columns.clone());
        let crm_client = client(Side::Crm, &settings.dataverse.auth, &base, dialect, limits, &leads);
        let column = settings.referral_id_column.as_deref();
        let store = SledStore::open(&directory.join("state"), CACHE_BYTES, None).expect("an empty directory opens");
        let store: Arc<dyn StateStore> = Arc::new(store);
        let crm = crm::open(&settings.dataverse, settings.identity, column, columns, crm_client, Arc::clone(&clock));
        let ports = Ports {
            portal: portal::open(&PortalSettings::PartnerCenter(settings.partner_center.clone()), portal_client),
            crm: crm.expect("the settings fit"),
            store,
            clock,
        };
        let wires = BTreeMap::from([("Entra ID", entra), ("Partner Center", portal), ("Dataverse", leads)]);
        Line { world, wires, settings, ports }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks until everything is imported.
    async fn watch(&self, new: &BTreeSet<Uuid>) -> Watched {
        let began = Instant::now();
        let mut watched = Watched { last: Some(began), ..Watched::default() };
        loop {
            tokio::time::sleep(LOOK).await;
            let leads = self.world().crm.len(Table::Lead) as u64;
            if leads > watched.leads {
                (watched.leads, watched.last) = (leads, Some(Instant::now()));
            }
            if began.elapsed() >= Duration::from_secs(60) * (watched.course.len() as u32 + 1) {
                watched.course.push(leads);
            }
            if watched.first_new.is_none() && leads >= FIRST as u64 && self.has_leads(new) {
                watched.first_new = Some(Instant::now());
            }
            let quiet = watched.last.map_or(Duration::ZERO, |last| last.elapsed());
            let is_swept = self.ports.store.memo().is_ok_and(|memo| memo.swept.is_some());
            if quiet > QUIET || (is_swept && quiet > Duration::from_secs(5)) {
                return watched;
            }
        }
    }

    /// Whether the first New ones are leads.
    fn has_leads(&self, new: &BTreeSet<Uuid>) -> bool {
        let world = self.world();
        let column = world.crm.referral_column().unwrap_or_default();
        let referral = |lead| Uuid::try_parse(world.crm.value(Table::Lead, lead, column).as_str()?).ok();
        world.crm.lead_ids().into_iter().filter_map(referral).filter(|id| new.contains(id)).count() >= FIRST
    }

    fn figures(&self, watched: Watched, began: Instant, cpu: Duration) -> Figures {
        let world = self.world();
        // The daemon waits a random while before its first request.
        let began = self.wires.values().filter_map(|wire| wire.tally().first).min().unwrap_or(began);
        let since = |at: Instant| at.duration_since(began);
        let tallies = self.wires.iter().map(|(name, wire)| {
            let tally = wire.tally();
            (*name, (tally.sent, tally.throttled, tally.inside_penalty, tally.penalties))
        });
        let requests = world.journal.counts().iter();
        let requests = requests.map(|((service, operation), count)| (format!("{service:?}: {operation}"), *count));
        let written_back =
            world.portal.all().filter(|(_, document)| document["externalReferenceId"].as_str().is_some_and(is_guid));
        Figures {
            leads: watched.leads,
            took: watched.last.map(since).unwrap_or_default(),
            first_new: watched.first_new.map(since),
            wires: tallies.collect(),
            requests: requests.collect(),
            operations: world.crm.operations_by_day(),
            written_back: written_back.count(),
            cpu,
            course: watched.course,
        }
    }
}

fn is_guid(text: &str) -> bool {
    Uuid::try_parse(text).is_ok()
}

/// Referrals of every shape, all sent before anything is read.
fn filled(options: Options, clock: SimClock, referrals: usize) -> World {
    let mut world = World::new(SEED, clock, options);
    world.journal.keep_counts_only();
    for (number, id) in world.populate(SEED, referrals).into_iter().enumerate() {
        let is_new = world.portal.get(id).is_some_and(|document| document["status"] == "New");
        if is_new && number % NEW_EVERY != 0 {
            world.edit_referral(id, |document| {
                document["status"] = "Active".into();
                document["substatus"] = "Accepted".into();
            });
        }
    }
    world
}

/// The product's defaults, but for what names the services, and without a daily budget.
fn settings(options: &Options, directory: &Path) -> Settings {
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("the directory is writable");
        path
    };
    let mut settings = Settings::defaults();
    settings.writes = Writes::Both;
    settings.referral_id_column.clone_from(&options.crm.referral_column);
    settings.partner_center.requests_per_day = u64::MAX / 4;
    settings.dataverse.requests_per_day = u64::MAX / 4;
    settings.dataverse.url = url::Url::parse(&options.crm.url).ok();
    settings.partner_center.auth.refresh_token_file = Some(file("refresh", &options.first_refresh_token));
    for auth in [&mut settings.partner_center.auth, &mut settings.dataverse.auth] {
        auth.tenant_id = Some(options.tenant.clone());
        auth.client_id = Some(options.client.0.clone());
        auth.client_secret_file = Some(file("secret", &options.client.1));
    }
    settings
}

/// Processor time of this process so far; zero where the kernel does not tell.
fn cpu_time() -> Duration {
    /// Of a second, as every Linux counts for programs.
    const TICKS: u64 = 100;
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}
