//! What the demonstration is played on: the simulator on loopback, a temporary directory, the real engine between.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cli::arguments::Demo;
use crate::cli::build::{SystemClock, connect};
use crate::config::{HumanDuration, Settings};
use crate::cycle::{Budget, Report};
use crate::daemon::{Engine, Reconciler};
use crate::http::settings::AuthSettings;
use crate::model::Owner;
use crate::plan::settings::Writes;
use crate::ports::StoreError;
use crate::sim::dynamics::Table;
use crate::sim::options::ProtectionLimits;
use crate::sim::{Options, SimClock, Simulator, World};
use crate::store;

/// How long the ledger may stay locked after the engine before was dropped in the middle of its work.
const UNLOCK_TIME_MAX: Duration = Duration::from_secs(10);
/// Pause between two tries to open it.
const UNLOCK_PAUSE: Duration = Duration::from_millis(20);
/// Requests per minute: the simulator has no one else to serve.
const REQUESTS_PER_MINUTE: u32 = 600_000;
/// Requests the simulated Dynamics takes in five minutes. The documented 6,000 would make a big story wait; the story
/// has a 429 of its own.
const PROTECTION_REQUESTS: usize = 10_000_000;
/// Execution time it grants in five minutes; see [`PROTECTION_REQUESTS`].
const PROTECTION_EXECUTION: Duration = Duration::from_secs(1_000_000);

/// Both services, the files of the engine, and who arrived.
pub(super) struct Stage {
    /// Both services over HTTP.
    pub(super) simulator: Simulator,
    /// The seed of the story.
    pub(super) seed: u64,
    /// When it began.
    pub(super) began: Instant,
    /// Referrals that want a lead, judged at their arrival, in the order of arrival.
    pub(super) wanted: Vec<Uuid>,
    settings: Settings,
    /// Removed with the stage.
    _directory: TempDir,
}

impl Stage {
    /// Starts both services with the referrals that are waiting at the beginning.
    pub(super) async fn build(demo: Demo, round_trip: Duration) -> io::Result<Stage> {
        let mut world = World::new(demo.seed, SimClock::running(), Options::default());
        world.options.crm.limits = calm_limits();
        let simulator = Simulator::start(world, round_trip).await?;
        let directory = tempfile::Builder::new().prefix("referrald-demo-").tempdir()?;
        let settings = settings(&simulator, &directory)?;
        let (seed, began) = (demo.seed, Instant::now());
        let mut stage = Stage { simulator, seed, began, wanted: Vec::new(), settings, _directory: directory };
        stage.send(demo.seed, demo.referrals as usize);
        Ok(stage)
    }

    /// Customers send referrals of varied shape.
    pub(super) fn send(&mut self, seed: u64, count: usize) {
        let wanted = self.simulator.with(|world| {
            let sent = world.populate(seed, count);
            let own = world.portal.organization().to_string();
            let wants = |id: &Uuid| world.portal.get(*id).is_some_and(|document| wants_a_lead(document, &own));
            sent.into_iter().filter(wants).collect::<Vec<_>>()
        });
        self.wanted.extend(wanted);
    }

    /// An engine over the ledger as it lies there, as a start of the daemon makes one.
    pub(super) async fn start_engine(&self) -> io::Result<Arc<Reconciler>> {
        let (directory, cache_bytes) = (self.settings.state.directory.clone(), self.settings.state.cache_bytes);
        let began = Instant::now();
        let store = loop {
            let directory = directory.clone();
            let opened = tokio::task::spawn_blocking(move || store::open(&directory, cache_bytes)).await?;
            match opened {
                // A thread of the engine before may still be on its last line.
                Err(StoreError::Locked { .. }) if began.elapsed() < UNLOCK_TIME_MAX => {
                    tokio::time::sleep(UNLOCK_PAUSE).await;
                }
                opened => break opened.map_err(io::Error::other)?,
            }
        };
        let (ports, credentials) =
            connect(&self.settings, Arc::new(store), Arc::new(SystemClock)).map_err(io::Error::other)?;
        Ok(Arc::new(Reconciler::new(ports, self.settings.clone(), credentials, None)))
    }

    /// Namespace of computed lead ids.
    pub(super) fn namespace(&self) -> Uuid {
        self.settings.link.namespace
    }

    /// The lead of a referral: its id can be computed.
    pub(super) fn lead_of(&self, referral: Uuid) -> Uuid {
        Uuid::new_v5(&self.namespace(), referral.to_string().as_bytes())
    }

    /// Counts in both services.
    pub(super) fn look(&self) -> Look {
        self.simulator.with(|world| {
            let mut look = Look::default();
            for (_, document) in world.portal.all() {
                *look.referrals.entry(word(document, "status")).or_default() += 1;
            }
            for lead in world.crm.lead_ids() {
                let state = match world.crm.value(Table::Lead, lead, "statecode").as_i64() {
                    Some(0) => "Open",
                    Some(1) => "Qualified",
                    Some(2) => "Disqualified",
                    Some(_) | None => "unknown",
                };
                *look.leads.entry(state.to_owned()).or_default() += 1;
            }
            for id in &self.wanted {
                let lead = self.lead_of(*id);
                look.linked += u64::from(!world.crm.value(Table::Lead, lead, "leadid").is_null());
                let Some(document) = world.portal.get(*id) else { continue };
                let is_named = word(document, "externalReferenceId") == lead.to_string();
                look.written_back += u64::from(is_named);
                look.unnamed += u64::from(!is_named && document["status"] != "Closed");
            }
            look
        })
    }

    /// The number of leads, without a closer look.
    pub(super) fn lead_count(&self) -> u64 {
        self.simulator.with(|world| world.crm.lead_ids().len() as u64)
    }

    /// The limits of a calm day.
    pub(super) fn calm(&self) {
        self.simulator.with(|world| world.options.crm.limits = calm_limits());
    }

    /// From now on the simulated Dynamics refuses every request with 429 and asks for this much silence.
    pub(super) fn throttle(&self, silence: Duration) {
        self.simulator.with(|world| {
            world.options.crm.limits = ProtectionLimits { window: silence, requests: 0, ..calm_limits() };
        });
    }
}

/// One pass to its end, as `referrald once` runs it.
pub(super) async fn pass(engine: &Reconciler) -> io::Result<Report> {
    engine.cycle(Budget::Unlimited, &CancellationToken::new()).await.map_err(io::Error::other)
}

/// How things stand on both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Referrals by status.
    pub(super) referrals: BTreeMap<String, u64>,
    /// Leads by state.
    pub(super) leads: BTreeMap<String, u64>,
    /// Referrals that want a lead and have it.
    pub(super) linked: u64,
    /// Of these, referrals that name their lead.
    pub(super) written_back: u64,
    /// Referrals that are not closed, want a lead and do not name it.
    pub(super) unnamed: u64,
}

impl Look {
    /// Referrals with this status.
    pub(super) fn status(&self, status: &str) -> u64 {
        self.referrals.get(status).copied().unwrap_or(0)
    }
}

/// The greatest number of leads that speak for one referral, and the number of leads of referrals that want none.
pub(super) fn crowding(stage: &Stage) -> (u64, u64) {
    stage.simulator.with(|world| {
        let mut leads_of: BTreeMap<String, BTreeSet<Uuid>> = BTreeMap::new();
        for (id, _) in world.portal.all() {
            let lead = Uuid::new_v5(&stage.namespace(), id.to_string().as_bytes());
            if !world.crm.value(Table::Lead, lead, "leadid").is_null() {
                leads_of.entry(id.to_string()).or_default().insert(lead);
            }
        }
        let column = world.crm.referral_column().unwrap_or_default().to_owned();
        for lead in world.crm.lead_ids() {
            if let Some(referral) = world.crm.value(Table::Lead, lead, &column).as_str() {
                leads_of.entry(referral.to_lowercase()).or_default().insert(lead);
            }
        }
        let wanted: BTreeSet<String> = stage.wanted.iter().map(Uuid::to_string).collect();
        let most = leads_of.values().map(BTreeSet::len).max().unwrap_or(0);
        let strays = leads_of.keys().filter(|referral| !wanted.contains(*referral)).count();
        (most as u64, strays as u64)
    })
}

/// The default scope, read from the raw document and not by the planner.
fn wants_a_lead(document: &Value, own: &str) -> bool {
    let invited_by = document.pointer("/inviteContext/invitedBy/organizationId").and_then(Value::as_str);
    document["isSpam"] != true
        && document["direction"] != "Outgoing"
        && document["status"] != "Closed"
        && document["organizationId"] == own
        && invited_by != Some(own)
}

/// As an operator is asked to keep secrets: for the owner alone.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn word(document: &Value, name: &str) -> String {
    document[name].as_str().unwrap_or_default().to_owned()
}

fn calm_limits() -> ProtectionLimits {
    ProtectionLimits { requests: PROTECTION_REQUESTS, execution: PROTECTION_EXECUTION, ..ProtectionLimits::default() }
}

/// The defaults, with the simulator's addresses and identities, writing both ways, and outcomes that stand at once.
fn settings(simulator: &Simulator, directory: &TempDir) -> io::Result<Settings> {
    let options = simulator.with(|world| world.options.clone());
    let (secret, refresh_token) = (directory.path().join("secret"), directory.path().join("refresh-token"));
    write_private(&secret, &options.client.1)?;
    write_private(&refresh_token, &options.first_refresh_token)?;
    let url = |text: &str| url::Url::parse(text).map_err(io::Error::other);
    let authority = url(&simulator.authority_url)?;
    let sign_in = |auth: &mut AuthSettings| {
        auth.authority = authority.clone();
        auth.tenant_id = Some(options.tenant.clone());
        auth.client_id = Some(options.client.0.clone());
        auth.client_secret_file = Some(secret.clone());
    };
    let mut settings = Settings::defaults();
    settings.writes = Writes::Both;
    settings.referral_id_column.clone_from(&options.crm.referral_column);
    settings.partner_center.base_url = url(&simulator.portal_url)?;
    settings.partner_center.requests_per_minute = REQUESTS_PER_MINUTE;
    settings.partner_center.requests_per_day = 0;
    sign_in(&mut settings.partner_center.auth);
    settings.partner_center.auth.refresh_token_file = Some(refresh_token);
    settings.dataverse.url = Some(url(&simulator.crm_url)?);
    settings.dataverse.requests_per_minute = REQUESTS_PER_MINUTE;
    settings.dataverse.requests_per_day = 0;
    sign_in(&mut settings.dataverse.auth);
    settings.mapping.fallback_owner = simulator.with(|world| world.crm.sellers().first().copied()).map(Owner::User);
    for wait in [&mut settings.status.settle_time, &mut settings.status.settle_time_lost, &mut settings.status.won_hold]
    {
        *wait = HumanDuration::from_seconds(0);
    }
    settings.state.directory = directory.path().join("state");
    Ok(settings)
}
