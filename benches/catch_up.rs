//! How close a first import, and the catch-up after an outage, come to what the services allow: the whole product but its
//! sockets, against the simulator, on a paused clock.
//!
//! Run with `cargo bench --bench catch_up` (10,000 referrals) or, as in the README,
//! `cargo bench --bench catch_up -- 100000`. Further arguments, in any order: `writes=50,500` lists execution times of a write in
//! milliseconds, `portal=60` says how many requests a minute Partner Center grants, `crm=3000` how many Dataverse grants in a
//! window, `execution=600` how many seconds of execution. `outage` lets eight hours pass after the import, in which the
//! program does not run, every referral is edited and one in ten comes new: the catch-up is what is measured then.

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
/// The same where every lead is looked at.
const LONG_LOOK: Duration = Duration::from_secs(1);
/// How long the program does not run before a catch-up.
const OUTAGE: Duration = Duration::from_secs(8 * 3600);
/// An import that makes no lead for so long is over, or stuck.
const QUIET: Duration = Duration::from_secs(900);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let value = |name: &str| arguments.iter().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='));
    let number = |name: &str| value(name).map(|text| text.parse::<usize>().expect("a whole number"));
    let referrals = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(REFERRALS);
    let is_outage = arguments.iter().any(|argument| argument == "outage");
    let costs: Vec<u64> = match value("writes") {
        Some(text) => text.split(',').map(|text| text.parse().expect("milliseconds, as in 50,500")).collect(),
        None => WRITE_MILLIS.to_vec(),
    };
    let mut ceilings = Ceilings::default();
    ceilings.portal_requests_per_minute = number("portal").unwrap_or(ceilings.portal_requests_per_minute);
    ceilings.requests = number("crm").unwrap_or(ceilings.requests);
    ceilings.execution = number("execution").map_or(ceilings.execution, |seconds| Duration::from_secs(seconds as u64));
    println!(
        "{} of {referrals} referrals, one in {NEW_EVERY} of them New; round trip {} ms, a read takes {} ms, {} requests and {} \
         s of execution in {} s, {} at once; Partner Center grants {} requests a minute",
        if is_outage { "catch-up after an outage" } else { "first import" },
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
        let figures = runtime.expect("a runtime starts").block_on(import(ceilings, referrals, is_outage));
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
    operations: u64,
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
    let days = figures.took.as_secs_f64() / 86_400.0;
    println!(
        "  daily pool         {:>9} operations within {days:.2} days, of {} a day",
        figures.operations, ceilings.daily_pool
    );
    let minutes: Vec<String> = figures
        .course
        .iter()
        .scan(0, |before, leads| Some((leads - std::mem::replace(before, *leads)).to_string()))
        .collect();
    println!("  leads in each minute: {}", minutes.join(" "));
    println!("  CPU time {:.1} s, the simulator included", figures.cpu.as_secs_f64());
}

async fn import(ceilings: Ceilings, referrals: usize, is_outage: bool) -> Figures {
    let clock = SimClock::of_runtime(Timestamp::from_seconds(1_795_000_000));
    let world = filled(ceilings.options(), clock.clone(), referrals);
    let new = world.portal.all().filter(|(_, document)| document["status"] == "New").map(|(id, _)| id).collect();
    let world = Arc::new(Mutex::new(world));
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let line = Line::new(Arc::clone(&world), ceilings, directory.path(), Arc::new(clock.clone()));
    let figures = line.work(&new, BTreeMap::new()).await;
    drop(line);
    if !is_outage {
        return figures;
    }
    tokio::time::sleep(OUTAGE).await;
    let (new, stale) = edit_everything(&world, referrals / NEW_EVERY);
    let line = Line::new(world, ceilings, directory.path(), Arc::new(clock));
    line.work(&new, stale).await
}

/// Every referral knows its lead and gets another name, and so many New ones come. Gives those, and the name that each lead has to get.
fn edit_everything(world: &Mutex<World>, fresh: usize) -> (BTreeSet<Uuid>, BTreeMap<Uuid, String>) {
    let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
    let column = world.crm.referral_column().unwrap_or_default().to_owned();
    let (mut by_referral, mut stale) = (BTreeMap::new(), BTreeMap::new());
    for lead in world.crm.lead_ids() {
        let referral = world.crm.value(Table::Lead, lead, &column).as_str().and_then(|text| Uuid::try_parse(text).ok());
        by_referral.extend(referral.map(|referral| (referral, lead)));
    }
    for (number, (referral, lead)) in by_referral.into_iter().enumerate() {
        let name = format!("Renamed {number}");
        let is_edited = world.edit_referral(referral, |document| {
            document["customerProfile"]["name"] = name.clone().into();
            // Written back long ago: at the rate that Partner Center grants that takes longer than the import.
            document["externalReferenceId"] = lead.to_string().into();
        });
        if is_edited {
            stale.insert(lead, name);
        }
    }
    let before: BTreeSet<Uuid> = world.portal.all().map(|(id, _)| id).collect();
    world.populate(SEED + 1, fresh);
    let is_new = |document: &serde_json::Value| document["status"] == "New";
    let new = world.portal.all().filter(|(id, document)| !before.contains(id) && is_new(document)).map(|(id, _)| id);
    (new.collect(), stale)
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
    /// Lets the daemon work until nothing is left to do.
    async fn work(&self, new: &BTreeSet<Uuid>, stale: BTreeMap<Uuid, String>) -> Figures {
        let engine = Arc::new(Reconciler::new(self.ports.clone(), self.settings.clone(), Vec::new(), None));
        let (bell, stop) = (Bell::new(), CancellationToken::new());
        let (_settings, settings) = watch::channel(self.settings.daemon.clone());
        let (began, counted) = (Instant::now(), self.world().journal.counts().clone());
        let operations: u64 = self.world().crm.operations_by_day().iter().sum();
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
            watched = self.watch(new, stale) => watched,
            () = minutes => unreachable!("the clock goes on"),
            _ = daemon.run(&stop) => unreachable!("nobody stops the daemon"),
        };
        let cpu = cpu_time() - cpu;
        let mut figures = self.figures(watched, began, cpu);
        for ((service, operation), count) in counted {
            let name = format!("{service:?}: {operation}");
            figures.requests.entry(name).and_modify(|now| *now -= count);
        }
        figures.requests.retain(|_, count| *count > 0);
        figures.operations = figures.operations.saturating_sub(operations);
        figures
    }

    fn new(world: Arc<Mutex<World>>, ceilings: Ceilings, directory: &Path, clock: Arc<dyn Clock>) -> Line {
        let settings = settings(&world.lock().unwrap_or_else(PoisonError::into_inner).options, directory);
        let base = settings.dataverse.url.clone().expect("it was set");
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

    /// Looks until everything is imported, and every stale lead has its new name.
    async fn watch(&self, new: &BTreeSet<Uuid>, mut stale: BTreeMap<Uuid, String>) -> Watched {
        let began = Instant::now();
        let (leads_before, updates) = (self.world().crm.len(Table::Lead) as u64, stale.len() as u64);
        let is_import = stale.is_empty();
        let leads_before = if is_import { 0 } else { leads_before };
        let swept_before = self.ports.store.memo().expect("the ledger is readable").swept;
        let mut watched = Watched { last: Some(began), ..Watched::default() };
        loop {
            tokio::time::sleep(if is_import { LOOK } else { LONG_LOOK }).await;
            let created = (self.world().crm.len(Table::Lead) as u64).saturating_sub(leads_before);
            {
                let world = self.world();
                stale.retain(|lead, name| world.crm.value(Table::Lead, *lead, "companyname") != name.as_str());
            }
            let leads = created + updates - stale.len() as u64;
            if leads > watched.leads {
                (watched.leads, watched.last) = (leads, Some(Instant::now()));
            }
            if began.elapsed() >= Duration::from_secs(60) * (watched.course.len() as u32 + 1) {
                watched.course.push(leads);
            }
            if watched.first_new.is_none() && created >= FIRST as u64 && self.has_leads(new) {
                watched.first_new = Some(Instant::now());
            }
            let quiet = watched.last.map_or(Duration::ZERO, |last| last.elapsed());
            let is_swept = self.ports.store.memo().is_ok_and(|memo| memo.swept > swept_before);
            if quiet > QUIET || (is_swept && stale.is_empty() && quiet > Duration::from_secs(5)) {
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
            operations: world.crm.operations_by_day().iter().sum(),
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
