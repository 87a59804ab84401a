//! A small town to measure in: referrals as the simulator makes them, their leads, and the entries the engine keeps of them.

#![allow(dead_code, reason = "each bench uses its part")]

pub mod entry;
mod line;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use referrald::config::Settings;
use referrald::crm::dataverse::Dataverse;
use referrald::crm::dataverse::settings::Identity;
use referrald::cycle::Budget;
use referrald::daemon::{Engine, Reconciler};
use referrald::http::{Answer, Call};
use referrald::model::{Entry, Lead, Referral, ReferralId, Timestamp};
use referrald::plan::mapping::Mapping;
use referrald::plan::settings::Writes;
use referrald::plan::{Policy, Row, Seen};
use referrald::portal::PortalSettings;
use referrald::ports::{Crm, Portal, Ports, StateStore};
use referrald::sim::{DirectCrm, DirectCrmSettings, DirectPortal, Request, Service, SimClock, World};
use referrald::store::MemoryStore;
use tokio_util::sync::CancellationToken;

pub use line::Answering;

/// Everything that is known of one referral at rest.
pub struct Citizen {
    /// As the service lists it.
    pub document: serde_json::Value,
    /// The same, decoded.
    pub referral: Referral,
    /// Its lead.
    pub lead: Lead,
    /// What we remember.
    pub entry: Entry,
}

/// Referrals with their leads, all at rest, and what is decided by.
pub struct Town {
    /// Open leads only: those of qualified ones need their opportunities, too.
    pub citizens: Vec<Citizen>,
    /// The policy that brought them here.
    pub policy: Policy,
    /// When they were last looked at.
    pub now: Timestamp,
    world: Arc<Mutex<World>>,
    runtime: tokio::runtime::Runtime,
}

/// The settings of every bench: the defaults, with writing on and no patience.
pub fn settings() -> Settings {
    let mut settings = Settings::defaults();
    settings.writes = Writes::Both;
    settings
}

impl Town {
    /// A town of about this size, built by the engine itself. Always the same.
    pub fn build(size: usize) -> Town {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        let clock = SimClock::paused(Timestamp::from_seconds(1_795_000_000));
        let mut world = World::new(11, clock.clone(), Default::default());
        world.populate(11, size);
        let world = Arc::new(Mutex::new(world));
        let store = Arc::new(MemoryStore::new([7; 16]));
        let portal: Arc<dyn Portal> = Arc::new(DirectPortal::new(world.clone()));
        let crm: Arc<dyn Crm> = Arc::new(DirectCrm::new(world.clone(), DirectCrmSettings::default()));
        let ports = Ports { portal, crm: crm.clone(), store: store.clone(), clock: Arc::new(clock.clone()) };
        let engine = Reconciler::new(ports, settings(), Vec::new(), None);
        let stop = CancellationToken::new();
        for _ in 0..3 {
            runtime.block_on(engine.cycle(Budget::Unlimited, &stop)).expect("the town settles");
        }
        let entries = store.scan(None, usize::MAX).expect("memory does not fail");
        let schema = runtime.block_on(crm.schema()).expect("the town has a schema");
        let settings = settings();
        let (mapping, _) = Mapping::compile(&settings.mapping, &schema, store.fingerprint_key());
        let configuration = store.memo().expect("memory does not fail").configuration;
        let policy = policy(&settings, Arc::new(mapping), configuration);
        let mut citizens = Vec::new();
        for (id, entry) in entries {
            let document = {
                let world = world.lock().unwrap_or_else(PoisonError::into_inner);
                world.portal.get(id.uuid()).expect("it is there").clone()
            };
            let referral = referrald::portal::sample(&document).expect("it can be read");
            let lead = entry.link.as_ref().map(|link| runtime.block_on(crm.get(link.lead)).expect("it is there"));
            if let Some(lead) = lead.filter(|lead| lead.etag == entry.link.as_ref().and_then(|link| link.etag.clone()))
            {
                citizens.push(Citizen { document, referral, lead, entry });
            }
        }
        assert!(citizens.len() * 2 > size, "only {} of {size} referrals were linked", citizens.len());
        Town { citizens, policy, now: clock.at(), world, runtime }
    }

    /// Rows as a cycle would make them, one for each referral.
    pub fn rows(&self, edit: impl Fn(&Citizen, &mut Row)) -> Vec<Row> {
        let row = |citizen: &Citizen| {
            let mut row = Row::new(citizen.referral.id);
            row.entry = Some(citizen.entry.clone());
            edit(citizen, &mut row);
            row
        };
        self.citizens.iter().map(row).collect()
    }

    /// Nothing was seen: rows that were only due.
    pub fn remembered(&self) -> Vec<Row> {
        self.rows(|_, _| {})
    }

    /// Every lead was read again and says what it said: the nightly reading by id.
    pub fn leads_again(&self) -> Vec<Row> {
        self.rows(|citizen, row| row.lead = Seen::from(citizen.lead.clone()))
    }

    /// Both sides were read again and say what they said.
    pub fn both_again(&self) -> Vec<Row> {
        self.rows(|citizen, row| {
            row.lead = Seen::from(citizen.lead.clone());
            row.referral = Seen::from(citizen.referral.clone());
        })
    }

    /// Customers changed names and amounts.
    pub fn changed(&self) -> Vec<Row> {
        self.rows(|citizen, row| {
            let mut document = citizen.document.clone();
            document["customerProfile"]["name"] = "Another Name Ltd".into();
            document["details"]["dealValue"] = 4711.into();
            document["eTag"] = "\"another\"".into();
            let referral = referrald::portal::sample(&document).expect("it can be read");
            row.referral = Seen::from(referral);
        })
    }

    /// Nobody has seen these before.
    pub fn first_seen(&self) -> Vec<Row> {
        self.rows(|citizen, row| {
            row.entry = None;
            row.referral = Seen::from(citizen.referral.clone());
            row.adoption = Some(Default::default());
        })
    }

    /// A page of the listing as it travels, with `count` rows.
    pub fn page_of_referrals(&self, count: usize) -> Bytes {
        let rows: Vec<_> = self.citizens.iter().cycle().take(count).map(|citizen| &citizen.document).collect();
        Bytes::from(serde_json::json!({ "value": rows }).to_string())
    }

    /// The adapter of Partner Center over one answer.
    pub fn portal_saying(&self, body: Bytes) -> Arc<dyn Portal> {
        let settings = PortalSettings::PartnerCenter(settings().partner_center);
        referrald::portal::open(&settings, Arc::new(Answering::new(move |_| answer(body.clone()))))
    }

    /// The adapter of Dataverse with its schema read, and a page of leads that it gives again and again.
    pub fn crm_saying_leads(&self) -> Dataverse {
        let mut settings = settings().dataverse;
        settings.url = Some(self.world().options.crm.url.parse().expect("a URL"));
        let columns = self.policy.mapping.columns().clone();
        // What was answered once is answered again without asking.
        let (world, kept) = (self.world.clone(), Mutex::new(BTreeMap::new()));
        let line = Arc::new(Answering::new(move |call: &Call| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.entry(path_of(call)).or_insert_with(|| answer(ask(&world, call))).clone()
        }));
        let crm = Dataverse::open(&settings, Identity::Derived, None, columns, line).expect("the settings are good");
        self.runtime.block_on(crm.schema()).expect("the town has a schema");
        crm
    }

    /// Runs something to its end.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn policy(settings: &Settings, mapping: Arc<Mapping>, configuration: u64) -> Policy {
    Policy {
        writes: settings.writes,
        link: settings.link.clone(),
        scope: settings.scope.clone(),
        status: settings.status.clone(),
        retry: settings.retry.clone(),
        mapping,
        on_consent_withdrawn: settings.mapping.on_consent_withdrawn,
        consent_mark_column: None,
        referral_column: None,
        is_derived: true,
        crm_user: None,
        organization: None,
        configuration,
        decisions: Default::default(),
        ignores_delays: false,
    }
}

fn path_of(call: &Call) -> String {
    match call.url.query() {
        Some(query) => format!("{}?{query}", call.url.path()),
        None => call.url.path().to_owned(),
    }
}

/// Asks the simulated CRM, below the adapter.
fn ask(world: &Mutex<World>, call: &Call) -> Bytes {
    let path = path_of(call);
    let mut request = Request::trusted(call.method.as_str(), &path);
    for (name, value) in &call.headers {
        request = request.with(name.as_str(), value.to_str().unwrap_or_default());
    }
    let said = world.lock().unwrap_or_else(PoisonError::into_inner).ask(Service::Crm, &request);
    assert_eq!(said.status, 200, "{path}: {}", said.body.text());
    Bytes::from(said.body.into_bytes())
}

/// A good answer with this body.
pub fn answer(body: Bytes) -> Answer {
    Answer {
        status: http::StatusCode::OK,
        headers: http::HeaderMap::new(),
        body,
        request_id: None,
        server_time: Some(Timestamp::from_seconds(1_795_000_000)),
    }
}

/// Numbers become ids that are spread over the whole range, as real ones are.
pub fn id(number: u64) -> ReferralId {
    let spread = u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    ReferralId::new(uuid::Uuid::from_u128(spread))
}

/// Names of the columns a town maps.
pub fn columns(town: &Town) -> BTreeSet<String> {
    town.policy.mapping.columns().clone()
}
