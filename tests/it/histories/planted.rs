//! Defects put between the program and the world on purpose: a judge that does not find them is no judge.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use referrald::model::{
    ETag, Fault, Lead, LeadDraft, LeadId, Patch, Referral, ReferralId, ReferralStatus, RemoteError, Side, Timestamp,
};
use referrald::ports::{Crm, CrmIdentity, Cursor, FindBy, Page, Portal, Scan, Tracked};
use referrald::sim::exchange::{Request, Service};
use referrald::sim::{DirectCrm, DirectPortal, World};
use serde_json::json;
use uuid::Uuid;

use crate::detour::{CrmDetour, PortalDetour};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// P1: a lead gets another id than the computed one.
    RandomLeadIds,
    /// P1: leads that exist are not found before a create.
    FindsNothing,
    /// P2: one referral is never listed.
    OverlooksReferral,
    /// P2: a write to a referral is taken for done and never sent.
    SwallowsPatches,
    /// P3: every update of a lead is sent twice.
    DoublesUpdates,
    /// P3: every write to a referral is sent twice.
    DoublesPatches,
    /// P4: a lead that a reading does not find closes its referral.
    ClosesWhatVanished,
    /// P5: an acceptance closes at once.
    ClosesEarly,
    /// P5: no fresh read before an irreversible step.
    NeverReadsFresh,
    /// P5: `If-Match: *`.
    MatchesAnything,
    /// P5: creates and updates without any condition.
    DropsConditions,
    /// P6: a column that nobody mapped.
    WritesUnmapped,
    /// P6: the referral's company wins whoever entered the lead's.
    OverwritesSellers,
    /// P7: a side that was down once stays down.
    NeverComesBack,
    /// P8: after the ledger was lost the referral's values win, whoever entered the lead's.
    TrustsReferrals,
    /// P9: the log names the customer.
    TellsNames,
    /// P10: asks again at once when told to wait.
    IgnoresRetryAfter,
    /// P10: two writes of one referral at the same time.
    RacesItself,
}

/// What the planted defects and the watch over concurrency share.
pub struct Yard {
    pub plant: Option<Plant>,
    pub world: Arc<Mutex<World>>,
    seen: Mutex<Seen>,
    flying: AtomicUsize,
}

#[derive(Default)]
struct Seen {
    referrals: BTreeMap<ReferralId, Referral>,
    overlooked: Option<ReferralId>,
    is_down: bool,
    flying: BTreeMap<Uuid, usize>,
    found: Vec<String>,
}

/// Writes at once: 32 that were planned together and two write-backs beside them; the adapters' own limits are narrower.
const FLYING_MAX: usize = 34;

impl Yard {
    pub fn new(plant: Option<Plant>, world: Arc<Mutex<World>>) -> Arc<Self> {
        Arc::new(Yard { plant, world, seen: Mutex::default(), flying: AtomicUsize::new(0) })
    }

    fn has(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    /// P10 as seen at the ports: too many requests at once, or two writes to one row.
    pub fn found(&self) -> Vec<String> {
        self.seen.lock().unwrap().found.clone()
    }

    fn depart(self: &Arc<Self>, row: Uuid) -> Flight {
        let mut seen = self.seen.lock().unwrap();
        let at_once = seen.flying.entry(row).or_default();
        *at_once += 1;
        if *at_once > 1 {
            seen.found.push(format!("P10: {row} is written twice at the same time"));
        }
        if self.flying.fetch_add(1, Ordering::Relaxed) >= FLYING_MAX {
            seen.found.push(format!("P10: more than {FLYING_MAX} writes at once"));
        }
        Flight { yard: Arc::clone(self), row }
    }

    /// A client that does not listen: after a refusal it asks again.
    fn insist<T>(&self, service: Service, result: Result<T, RemoteError>) -> Result<T, RemoteError> {
        if let Err(RemoteError { fault: Fault::Throttled { .. }, .. }) = &result
            && self.has(Plant::IgnoresRetryAfter)
        {
            let path = match service {
                Service::Portal => "/v1.0/engagements/referrals",
                Service::Crm | Service::Authority => "/api/data/v9.2/WhoAmI",
            };
            self.world.lock().unwrap().ask(service, &Request::trusted("GET", path));
        }
        result
    }

    fn send(&self, request: &Request) {
        self.world.lock().unwrap().ask(Service::Portal, request);
    }
}

/// A write under way; it ends when it is dropped, whatever became of it.
struct Flight {
    yard: Arc<Yard>,
    row: Uuid,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.yard.flying.fetch_sub(1, Ordering::Relaxed);
        if let Some(at_once) = self.yard.seen.lock().unwrap().flying.get_mut(&self.row) {
            *at_once -= 1;
        }
    }
}

/// The referrals side with a defect.
pub struct PlantedPortal {
    pub inner: DirectPortal,
    pub yard: Arc<Yard>,
}

impl PlantedPortal {
    fn remember(&self, referral: &Referral) {
        if self.yard.plant.is_none() {
            return;
        }
        self.yard.seen.lock().unwrap().referrals.insert(referral.id, referral.clone());
    }
}

#[async_trait]
impl PortalDetour for PlantedPortal {
    fn port(&self) -> &dyn Portal {
        &self.inner
    }

    async fn page(&self, scan: &Scan, cursor: Option<&Cursor>) -> Result<Page<Referral>, RemoteError> {
        let is_down = self.yard.seen.lock().unwrap().is_down;
        if is_down {
            return Err(RemoteError::new(Side::Portal, "list referrals", Fault::Unavailable));
        }
        let page = self.yard.insist(Service::Portal, self.inner.page(scan, cursor).await);
        if self.yard.has(Plant::NeverComesBack) && page.is_err() {
            self.yard.seen.lock().unwrap().is_down = true;
        }
        let mut page = page?;
        if self.yard.has(Plant::OverlooksReferral) {
            let mut seen = self.yard.seen.lock().unwrap();
            let is_plain = |one: &&Referral| {
                let is_ours = one.organization.as_deref().is_some_and(|id| id != "msft");
                is_ours && !one.is_spam && !one.is_outgoing
            };
            if let (None, Some(first)) = (seen.overlooked, page.items.iter().find(is_plain)) {
                seen.overlooked = Some(first.id);
            }
            let overlooked = seen.overlooked.unwrap_or_else(|| ReferralId::new(Uuid::nil()));
            page.items.retain(|referral| referral.id != overlooked);
        }
        page.items.iter().for_each(|referral| self.remember(referral));
        Ok(page)
    }

    async fn get(&self, id: ReferralId) -> Result<Referral, RemoteError> {
        if self.yard.has(Plant::NeverReadsFresh)
            && let Some(known) = self.yard.seen.lock().unwrap().referrals.get(&id)
        {
            return Ok(known.clone());
        }
        let referral = self.inner.get(id).await?;
        self.remember(&referral);
        Ok(referral)
    }

    async fn patch(
        &self,
        id: ReferralId,
        etag: &ETag,
        patch: &Patch,
        request: Uuid,
    ) -> Result<Option<Referral>, RemoteError> {
        let _flight = self.yard.depart(id.uuid());
        let (mut etag, mut patch) = (etag.clone(), patch.clone());
        match self.yard.plant {
            Some(Plant::SwallowsPatches) => return Ok(None),
            Some(Plant::MatchesAnything) => etag = ETag("*".to_owned()),
            Some(Plant::ClosesEarly) => {
                for operation in &mut patch.operations {
                    match operation.path.as_str() {
                        "/status" => operation.value = "Closed".into(),
                        "/substatus" if operation.value == "Accepted" => operation.value = "Declined".into(),
                        _ => {}
                    }
                }
            }
            Some(_) | None => {}
        }
        let result = self.yard.insist(Service::Portal, self.inner.patch(id, &etag, &patch, request).await);
        if let (Ok(Some(referral)), true) = (&result, self.yard.has(Plant::DoublesPatches))
            && let Some(etag) = &referral.etag
            && referral.status != ReferralStatus::Closed
        {
            return self.inner.patch(id, etag, &patch, request).await;
        }
        if let Ok(Some(referral)) = &result {
            self.remember(referral);
        }
        result
    }
}

/// The leads side with a defect.
pub struct PlantedCrm {
    pub inner: DirectCrm,
    pub yard: Arc<Yard>,
}

impl PlantedCrm {
    /// What a hasty program makes of a lead that is not there.
    fn bury(&self, lead: LeadId) {
        let name = lead.uuid().to_string();
        let known = self.yard.seen.lock().unwrap().referrals.clone();
        let its =
            |one: &&Referral| one.external_reference.as_deref() == Some(&name) && one.status != ReferralStatus::Closed;
        let Some(referral) = known.values().find(its) else { return };
        let path = format!("/v1.0/engagements/referrals/{}", referral.id);
        let word = if referral.status == ReferralStatus::New { "Declined" } else { "Lost" };
        let body = json!([{"op": "replace", "path": "/status", "value": "Closed"},
            {"op": "replace", "path": "/substatus", "value": word}]);
        self.yard.send(&Request::trusted("PATCH", &path).with("If-Match", "*").with_json(&body));
    }

    fn bare(&self, place: &str, draft: &LeadDraft) {
        let body = json!({"subject": draft.columns.get("subject")});
        let request = Request::trusted("PATCH", &format!("/api/data/v9.2/{place}")).with_json(&body);
        self.yard.world.lock().unwrap().ask(Service::Crm, &request);
    }
}

#[async_trait]
impl CrmDetour for PlantedCrm {
    fn port(&self) -> &dyn Crm {
        &self.inner
    }

    async fn identity(&self) -> Result<CrmIdentity, RemoteError> {
        self.yard.insist(Service::Crm, self.inner.identity().await)
    }

    async fn leads_changed_since(
        &self,
        since: Timestamp,
        also: &[LeadId],
        cursor: Option<&Cursor>,
    ) -> Result<Page<Lead>, RemoteError> {
        self.yard.insist(Service::Crm, self.inner.leads_changed_since(since, also, cursor).await)
    }

    async fn lead_changes(&self, link: Option<&Cursor>) -> Result<Tracked, RemoteError> {
        self.yard.insist(Service::Crm, self.inner.lead_changes(link).await)
    }

    async fn leads(&self, ids: &[LeadId]) -> Result<Vec<Lead>, RemoteError> {
        let found = self.inner.leads(ids).await?;
        if self.yard.has(Plant::ClosesWhatVanished) {
            for id in ids.iter().filter(|id| found.iter().all(|lead| lead.id != **id)) {
                self.bury(*id);
            }
        }
        Ok(found)
    }

    async fn get(&self, id: LeadId) -> Result<Lead, RemoteError> {
        self.yard.insist(Service::Crm, self.inner.get(id).await)
    }

    async fn find(&self, by: FindBy, referrals: &[ReferralId]) -> Result<Vec<Lead>, RemoteError> {
        if self.yard.has(Plant::FindsNothing) {
            return Ok(Vec::new());
        }
        self.inner.find(by, referrals).await
    }

    async fn create(
        &self,
        referral: ReferralId,
        computed: LeadId,
        draft: &LeadDraft,
        request: Uuid,
    ) -> Result<Lead, RemoteError> {
        let _flight = self.yard.depart(referral.uuid());
        let computed = match self.yard.has(Plant::RandomLeadIds) {
            true => LeadId::new(Uuid::new_v5(&request, b"another")),
            false => computed,
        };
        if self.yard.has(Plant::DropsConditions) {
            self.bare(&format!("leads({computed})"), draft);
        }
        self.yard.insist(Service::Crm, self.inner.create(referral, computed, draft, request).await)
    }

    async fn update(&self, id: LeadId, etag: &ETag, draft: &LeadDraft, request: Uuid) -> Result<Lead, RemoteError> {
        let _flight = self.yard.depart(id.uuid());
        let mut draft = draft.clone();
        match self.yard.plant {
            Some(Plant::WritesUnmapped) => drop(draft.columns.insert("revenue".to_owned(), 5.into())),
            Some(Plant::DropsConditions) => self.bare(&format!("leads({id})"), &draft),
            Some(Plant::OverwritesSellers) => {
                let name = id.uuid().to_string();
                let seen = self.yard.seen.lock().unwrap();
                let its = |one: &&Referral| one.external_reference.as_deref() == Some(&name);
                if let Some(company) =
                    seen.referrals.values().find(its).map(|one| one.document["customerProfile"]["name"].clone())
                    && company.as_str().is_some_and(|name| name.len() < 40)
                {
                    draft.columns.insert("companyname".to_owned(), company);
                }
            }
            Some(Plant::TellsNames) => tracing::warn!("lead {id} gets {:?}", draft.columns),
            Some(Plant::RacesItself) => {
                let second = self.yard.depart(id.uuid());
                tokio::time::timeout(Duration::ZERO, std::future::ready(())).await.ok();
                drop(second);
            }
            Some(_) | None => {}
        }
        let result = self.yard.insist(Service::Crm, self.inner.update(id, etag, &draft, request).await);
        if let (Ok(lead), true) = (&result, self.yard.has(Plant::DoublesUpdates))
            && let Some(etag) = &lead.etag
        {
            return self.inner.update(id, etag, &draft, request).await;
        }
        result
    }
}
