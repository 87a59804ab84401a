//! A ledger that is lost, damaged, foreign or too old: both sides still agree afterwards, with no duplicate lead, and no
//! value that a person entered is overwritten. The real store on disk, both services behind the ports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use referrald::config::Settings;
use referrald::cycle::{Budget, Report};
use referrald::daemon::{DecisionRequest, Engine, Reconciler};
use referrald::model::{LeadId, ReferralId, Standing, Timestamp};
use referrald::plan::settings::Writes;
use referrald::ports::{Opening, Ports, StateStore};
use referrald::sim::dynamics::Table;
use referrald::sim::{Checker, DirectCrm, DirectCrmSettings, DirectPortal, SimClock, World};
use referrald::store::SledStore;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::town::{Host, Town};

/// Damaged ledgers of one test run; some 40 seconds on two cores.
const DAMAGES: u64 = 200;

/// Starts after which a damaged ledger must have come to rest.
const STARTS_MAX: usize = 4;

/// Both services, which outlive every process.
struct Land {
    world: Arc<Mutex<World>>,
    clock: SimClock,
}

/// One process.
struct Process {
    store: Arc<SledStore>,
    engine: Reconciler,
}

impl Land {
    fn new(seed: u64, referrals: usize) -> Land {
        let clock = SimClock::paused(Timestamp::from_seconds(1_795_000_000));
        let mut world = World::new(seed, clock.clone(), Default::default());
        world.populate(seed, referrals);
        Land { world: Arc::new(Mutex::new(world)), clock }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn start(&self, state: &Path) -> Process {
        let store = Arc::new(referrald::store::open(state, 1 << 20).unwrap());
        let mut settings = Settings::defaults();
        settings.writes = Writes::Both;
        settings.state.directory = state.to_owned();
        let ports = Ports {
            portal: Arc::new(DirectPortal::new(self.world.clone())),
            crm: Arc::new(DirectCrm::new(self.world.clone(), DirectCrmSettings::default())),
            store: store.clone(),
            clock: Arc::new(self.clock.clone()),
        };
        Process { store, engine: Reconciler::new(ports, settings, Vec::new(), None) }
    }

    /// Every referral's lead by the computed id, with its columns.
    fn leads(&self) -> BTreeMap<Uuid, Value> {
        let world = self.world();
        world
            .crm
            .all(Table::Lead)
            .into_iter()
            .map(|(id, columns)| (id, serde_json::to_value(columns).unwrap()))
            .collect()
    }

    fn referrals(&self) -> BTreeMap<Uuid, Value> {
        self.world().portal.all().map(|(id, document)| (id, document.clone())).collect()
    }

    fn writes(&self) -> usize {
        self.world().journal.writes().count()
    }

    /// A state directory after some cycles, an export, and an orderly stop.
    async fn settled(&self, state: &Path) {
        let process = self.start(state);
        process.engine.ask_for_sweep();
        for _ in 0..3 {
            process.cycle().await.unwrap();
            self.clock.advance(Duration::from_secs(61));
        }
        process.stop().await;
    }

    /// Linked pairs that are open on both sides, of whom the customer's name is known to both.
    fn open_pairs(&self, state: &Path) -> Vec<(Uuid, Uuid)> {
        let process = self.start(state);
        let entries = process.store.scan(None, 1000).unwrap();
        let pairs: Vec<(Uuid, Uuid)> = entries
            .iter()
            .filter(|(_, entry)| entry.standing == Standing::Linked && entry.holds == 0)
            .filter_map(|(id, entry)| Some((id.uuid(), entry.link.as_ref()?.lead.uuid())))
            .collect();
        let world = self.world();
        let is_open = |(referral, lead): &(Uuid, Uuid)| {
            let document = world.portal.get(*referral).unwrap();
            let is_open = document["status"] == "New" || document["status"] == "Active";
            let company = world.crm.value(Table::Lead, *lead, "companyname").clone();
            is_open
                && *world.crm.value(Table::Lead, *lead, "statecode") == json!(0)
                && company == document["customerProfile"]["name"]
        };
        pairs.into_iter().filter(is_open).collect()
    }

    fn judge(&self) {
        assert_eq!(Checker::default().check(&self.world()), Vec::<String>::new());
    }
}

impl Process {
    async fn cycle(&self) -> Result<Report, String> {
        let budget = Budget::Work(Duration::from_secs(30));
        self.engine.cycle(budget, &CancellationToken::new()).await.map_err(|error| error.to_string())
    }

    async fn stop(self) {
        self.engine.shutdown().await;
        drop(self.engine);
        let store = Arc::into_inner(self.store).expect("nobody else has it");
        store.shutdown().unwrap_or_default();
    }

    fn no_base(&self) -> u64 {
        let bit = referrald::plan::HOLD_NAMES.iter().position(|name| *name == "no common base").unwrap();
        self.store.counters().unwrap().holds.get(&u8::try_from(bit).unwrap()).copied().unwrap_or(0)
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(item.file_name());
        if item.path().is_dir() {
            copy(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), target).unwrap();
        }
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if item.path().is_dir() { found.extend(files(&item.path())) } else { found.push(item.path()) }
    }
    found.sort();
    found
}

/// Rounds after which everything has been read again: sweep and reading by id.
async fn rebuild(land: &Land, process: &Process) {
    for _ in 0..3 {
        process.cycle().await.unwrap();
        land.clock.advance(Duration::from_secs(61));
    }
}

#[tokio::test]
async fn a_ledger_damaged_anywhere_is_rebuilt_with_no_duplicate_and_nothing_overwritten() {
    let from = std::env::var("REFERRALD_DAMAGE_SEED").ok().and_then(|text| text.parse().ok());
    let land = Land::new(5, 25);
    let whole = tempfile::tempdir().unwrap();
    land.settled(whole.path()).await;
    // What only a person knows: sellers edit some leads, and nothing of it may be lost.
    let pairs = land.open_pairs(whole.path());
    for (_, lead) in pairs.iter().take(3) {
        land.world().edit_row(Table::Lead, *lead, json!({"companyname": "A Seller Wrote This"})).unwrap();
    }
    land.settled(whole.path()).await;
    let before = (land.leads(), land.referrals());
    let mut tally: BTreeMap<(&str, usize), u32> = BTreeMap::new();
    for seed in from.map_or(0..DAMAGES, |seed| seed..seed + 1) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let state = tempfile::tempdir().unwrap();
        copy(whole.path(), state.path());
        // Bases come from the export in half of the cases, from nowhere in the other.
        if random.random() {
            std::fs::remove_dir_all(state.path().join("keep/exports")).unwrap();
        }
        let ledger = files(&state.path().join("ledger"));
        let file = &ledger[random.random_range(0..ledger.len())];
        let length = std::fs::metadata(file).unwrap().len();
        let what = if length > 0 && random.random() {
            let mut bytes = std::fs::read(file).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
            let bit = random.random_range(0..used * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(file, bytes).unwrap();
            format!("bit {bit}")
        } else {
            let length = random.random_range(0..=length);
            std::fs::File::options().write(true).open(file).unwrap().set_len(length).unwrap();
            format!("cut to {length}")
        };
        let when = format!("seed {seed}: {} {what}", file.file_name().unwrap().display());
        let found = starts_until_rest(&land, state.path(), &when).await;
        *tally.entry(found).or_default() += 1;
        let after = (land.leads(), land.referrals());
        assert_eq!(after, before, "{when}: replay with REFERRALD_DAMAGE_SEED={seed}");
    }
    assert!(tally.keys().all(|(_, starts)| *starts == 1), "more than one start: {tally:?}");
    println!("found by the first start, starts until all was at rest, how often: {tally:?}");
    land.judge();
}

/// Starts processes as systemd does until one comes to rest; says what the first one found, and how many it took.
async fn starts_until_rest(land: &Land, state: &Path, when: &str) -> (&'static str, usize) {
    let mut first = None;
    for start in 1..=STARTS_MAX {
        let process = land.start(state);
        first.get_or_insert(match process.store.opening() {
            Opening::Fresh => "fresh",
            Opening::Clean => "clean",
            Opening::Unclean => "unclean",
            Opening::TailLost { .. } => "tail lost",
            Opening::MovedAside { .. } => "moved aside",
        });
        let mut is_at_rest = true;
        for _ in 0..4 {
            let writes = land.writes();
            is_at_rest = process.cycle().await.is_ok_and(|report| report.is_complete) && land.writes() == writes;
            land.clock.advance(Duration::from_secs(61));
        }
        let linked = process.store.scan(None, 1000).is_ok_and(|entries| {
            let leads: BTreeSet<LeadId> =
                entries.iter().filter_map(|(_, entry)| entry.link.as_ref().map(|link| link.lead)).collect();
            let is_known = |id: Uuid| entries.iter().any(|(known, _)| *known == ReferralId::new(id));
            land.leads().keys().all(|lead| leads.contains(&LeadId::new(*lead)))
                && land.world().portal.ids().into_iter().all(is_known)
        });
        let is_whole = process.store.check().await.is_ok_and(|check| check.is_whole());
        process.stop().await;
        if is_at_rest && linked && is_whole {
            return (first.unwrap_or_default(), start);
        }
    }
    panic!("{when}: {STARTS_MAX} starts did not come to rest");
}

#[tokio::test]
async fn after_a_wiped_ledger_the_newest_export_supplies_bases() {
    for has_export in [true, false] {
        let land = Land::new(11, 30);
        let state = tempfile::tempdir().unwrap();
        land.settled(state.path()).await;
        let pairs = land.open_pairs(state.path());
        assert!(pairs.len() >= 4, "{pairs:?}");
        assert!(!files(&state.path().join("keep/exports")).is_empty(), "the nightly sweep was followed by an export");
        let [unchanged @ .., (renamed, its_lead), (_, edited)] = &pairs[..] else { panic!("{pairs:?}") };
        assert!(!unchanged.is_empty());
        land.world().edit_referral(*renamed, |document| document["customerProfile"]["name"] = "Renamed Ltd".into());
        land.world().edit_row(Table::Lead, *edited, json!({"companyname": "A Seller Wrote This"})).unwrap();
        land.clock.advance(Duration::from_secs(600));
        std::fs::remove_dir_all(state.path().join("ledger")).unwrap();
        if !has_export {
            std::fs::remove_dir_all(state.path().join("keep/exports")).unwrap();
        }
        let process = land.start(state.path());
        rebuild(&land, &process).await;
        let company = |lead: Uuid| land.world().crm.value(Table::Lead, lead, "companyname").clone();
        assert_eq!(company(*edited), json!("A Seller Wrote This"), "what a person entered stays");
        if has_export {
            assert_eq!(process.no_base(), 0);
            assert_eq!(company(*its_lead), json!("Renamed Ltd"), "only the referral moved");
        } else {
            assert_eq!(process.no_base(), 2, "both changes are held");
            assert_ne!(company(*its_lead), json!("Renamed Ltd"));
        }
        process.stop().await;
        land.judge();
    }
}

#[tokio::test]
async fn a_renamed_lead_is_found_again_by_the_newest_export() {
    let town = Town::new(65);
    let referral = town.referral(1000);
    let lead = town.world().add_lead(json!({"subject": referral.to_string(), "lastname": "Doe"})).unwrap();
    let mut host = town.host(1, |settings| settings.writes = Writes::LeadsOnly);
    host.cycle().await;
    host.store.keep_export(town.clock.at(), Arc::default()).await.unwrap();
    town.world().edit_row(Table::Lead, lead, json!({"subject": "Renamed by its seller"})).unwrap();
    let leads_after_a_loss = async |host: &mut Host| {
        *host = town.after_a_loss(host);
        for _ in 0..3 {
            town.pass(2);
            host.cycle().await;
        }
        town.world().crm.lead_ids()
    };
    assert_eq!(leads_after_a_loss(&mut host).await, [lead]);
    town.world().delete_lead(lead);
    assert!(leads_after_a_loss(&mut host).await.is_empty(), "it was deleted, and stays so");
    assert_eq!(host.status().await.holds.get("lead deleted"), Some(&1));
}

#[tokio::test]
async fn an_export_that_is_damaged_or_of_another_key_is_ignored() {
    for is_key_lost in [true, false] {
        let land = Land::new(12, 20);
        let state = tempfile::tempdir().unwrap();
        land.settled(state.path()).await;
        let (renamed, lead) = land.open_pairs(state.path())[0];
        land.world().edit_referral(renamed, |document| document["customerProfile"]["name"] = "Renamed Ltd".into());
        std::fs::remove_dir_all(state.path().join("ledger")).unwrap();
        if is_key_lost {
            std::fs::remove_file(state.path().join("keep/fingerprint.key")).unwrap();
        } else {
            let export = files(&state.path().join("keep/exports"))[0].clone();
            let text = std::fs::read_to_string(&export).unwrap();
            std::fs::write(&export, text.replacen("\"common\"", "\"Common\"", 1)).unwrap();
        }
        let process = land.start(state.path());
        rebuild(&land, &process).await;
        assert_eq!(process.no_base(), 1);
        assert_ne!(*land.world().crm.value(Table::Lead, lead, "companyname"), json!("Renamed Ltd"));
        process.stop().await;
        land.judge();
    }
}

/// A ledger of yesterday: what was done since looks like what people did.
#[tokio::test]
async fn a_ledger_put_back_from_a_backup_overwrites_nothing() {
    for has_note in [true, false] {
        let land = Land::new(13, 30);
        let state = tempfile::tempdir().unwrap();
        land.settled(state.path()).await;
        let yesterday = tempfile::tempdir().unwrap();
        copy(state.path(), yesterday.path());
        let pairs = land.open_pairs(state.path());
        let (renamed, reverted) = pairs[0];
        let name = land.world().crm.value(Table::Lead, reverted, "companyname").clone();
        // Today the customer is renamed and the lead follows; then a seller puts the old name back.
        land.world().edit_referral(renamed, |document| document["customerProfile"]["name"] = "Renamed Ltd".into());
        land.clock.advance(Duration::from_secs(600));
        land.settled(state.path()).await;
        assert_eq!(*land.world().crm.value(Table::Lead, reverted, "companyname"), json!("Renamed Ltd"));
        land.world().edit_row(Table::Lead, reverted, json!({"companyname": name})).unwrap();
        // And a referral is new since.
        let new = land.world().populate(99, 1)[0];
        land.clock.advance(Duration::from_secs(600));
        land.settled(state.path()).await;
        let before = land.leads();
        std::fs::remove_dir_all(state.path().join("ledger")).unwrap();
        copy(&yesterday.path().join("ledger"), &state.path().join("ledger"));
        if !has_note {
            std::fs::copy(yesterday.path().join("ledger-commit"), state.path().join("ledger-commit")).unwrap();
        }
        let process = land.start(state.path());
        assert!(matches!(process.store.opening(), Opening::TailLost { found, .. } if found > 0));
        rebuild(&land, &process).await;
        assert_eq!(land.leads(), before, "with a true memory nothing would have been written either");
        assert_eq!(process.no_base(), 1, "the name that was put back is for a person to decide");
        assert!(process.store.get(ReferralId::new(new)).unwrap().is_some());
        assert!(process.store.scan(None, 1000).unwrap().iter().all(|(_, entry)| !entry.has_recalled()));
        process.stop().await;
        land.judge();
    }
}

#[tokio::test]
async fn a_forgotten_referral_is_not_imported_again() {
    let land = Land::new(15, 20);
    let state = tempfile::tempdir().unwrap();
    land.settled(state.path()).await;
    let (referral, lead) = land.open_pairs(state.path())[0];
    let id = ReferralId::new(referral);
    let process = land.start(state.path());
    let answer = process.engine.decide(DecisionRequest::Forget { ids: vec![id] }).await.unwrap();
    assert!(answer.is_done && answer.changed == 1, "{answer:?}");
    assert_eq!(process.store.get(id), Ok(None));
    assert_eq!(process.store.history(id), Ok(vec![]));
    for file in files(state.path()) {
        let bytes = std::fs::read(&file).unwrap();
        let is_there = bytes.windows(36).any(|part| part == id.to_string().as_bytes());
        assert!(!is_there, "{} names it", file.display());
    }
    let unknown = process.engine.decide(DecisionRequest::Forget { ids: vec![id] }).await.unwrap();
    assert_eq!((unknown.is_done, unknown.unknown), (false, vec![id]));
    let before = land.leads();
    land.world().edit_referral(referral, |document| document["customerProfile"]["name"] = "Renamed Ltd".into());
    process.engine.ask_for_sweep();
    rebuild(&land, &process).await;
    assert_eq!(process.store.get(id), Ok(None));
    assert_eq!(process.engine.status().await.unwrap().forgotten, 1);
    process.stop().await;
    // Neither does a lost ledger bring it back.
    std::fs::remove_dir_all(state.path().join("ledger")).unwrap();
    let process = land.start(state.path());
    rebuild(&land, &process).await;
    assert_eq!(process.store.get(id), Ok(None));
    assert_eq!(process.store.by_lead(LeadId::new(lead)), Ok(None));
    assert_eq!(land.leads(), before);
    process.stop().await;
}

/// The ledger is gone, and with it the stamp of the organization: exports still know it.
#[tokio::test]
async fn a_wiped_ledger_before_another_organization_writes_nothing() {
    let (land, copied) = (Land::new(16, 10), Land::new(17, 10));
    let state = tempfile::tempdir().unwrap();
    land.settled(state.path()).await;
    std::fs::remove_dir_all(state.path().join("ledger")).unwrap();
    let process = copied.start(state.path());
    rebuild(&copied, &process).await;
    let status = process.engine.status().await.unwrap();
    assert!(status.brakes.iter().any(|brake| brake.name == "organization"), "{:?}", status.brakes);
    assert_eq!(copied.writes(), 0);
    let approval = DecisionRequest::Approve { digest: "organization".to_owned() };
    assert!(process.engine.decide(approval).await.unwrap().is_done);
    rebuild(&copied, &process).await;
    assert!(copied.writes() > 0, "the move was meant");
    process.stop().await;
    copied.judge();
}
