//! A small careful client lives through seeded trouble, and the checker finds nothing to say.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use uuid::Uuid;

use super::super::faults::FaultPlan;
use super::super::options::Options;
use super::super::{Checker, DirectCrm, DirectCrmSettings, DirectPortal, World};
use super::world_with;
use crate::model::{Fault, LeadDraft, LeadId, Patch, Referral, ReferralStatus, RemoteError};
use crate::ports::{Crm, Portal, Scan};

const NAMESPACE: Uuid = Uuid::from_u128(0x85bd_8765_40f0_51b4_a713_1aab_ed04_9d80);
const PAGES_MAX: usize = 100;

struct Client {
    portal: DirectPortal,
    crm: DirectCrm,
}

impl Client {
    /// Gives every open referral a lead and writes its id back.
    async fn cycle(&self) -> Result<(), RemoteError> {
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let page = self.portal.page(&Scan::Sweep, cursor.as_ref()).await?;
            for referral in &page.items {
                match self.link(referral).await {
                    Err(failure) if failure.stops_side() => return Err(failure),
                    Ok(()) | Err(_) => {}
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        Ok(())
    }

    async fn link(&self, seen: &Referral) -> Result<(), RemoteError> {
        if seen.status == ReferralStatus::Closed || seen.external_reference.is_some() {
            return Ok(());
        }
        let fresh = self.portal.get(seen.id).await?;
        if fresh.status == ReferralStatus::Closed || fresh.external_reference.is_some() {
            return Ok(());
        }
        let computed = LeadId::computed(NAMESPACE, fresh.id);
        let lead = match self.crm.get_by_referral(fresh.id, computed).await {
            Ok(lead) => lead,
            Err(failure) if failure.fault == Fault::Missing => {
                let columns = [("subject".to_owned(), json!("From the portal"))].into();
                let draft = LeadDraft { columns, ..LeadDraft::default() };
                self.crm.create(fresh.id, computed, &draft, Uuid::nil()).await?
            }
            Err(failure) => return Err(failure),
        };
        let mut patch = Patch::default();
        patch.replace("/externalReferenceId", lead.id.to_string());
        let Some(etag) = fresh.etag else { return Ok(()) };
        self.portal.patch(fresh.id, &etag, &patch, Uuid::nil()).await.map(drop)
    }
}

fn with<T>(world: &Arc<Mutex<World>>, act: impl FnOnce(&mut World) -> T) -> T {
    act(&mut world.lock().expect("a world"))
}

async fn live(seed: u64) {
    let mut options = Options::default();
    options.portal.page_size = 9;
    let world = Arc::new(Mutex::new(world_with(options)));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    with(&world, |world| {
        world.populate(seed, 25);
        world.faults = FaultPlan::storm(seed, 0.02);
    });
    let settings = DirectCrmSettings { referral_column: Some("new_referralid".into()), ..DirectCrmSettings::default() };
    let client = Client { portal: DirectPortal::new(world.clone()), crm: DirectCrm::new(world.clone(), settings) };
    for _ in 0..40 {
        with(&world, |world| {
            for _ in 0..5 {
                world.clock().advance(Duration::from_secs(37));
                world.random_edit(&mut rng);
            }
        });
        // Trouble is the rule here; the next cycle goes on.
        let _ = client.cycle().await;
    }
    with(&world, |world| {
        world.faults.calm();
        world.clock().advance(Duration::from_secs(7200));
    });
    for _ in 0..3 {
        client.cycle().await.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
    with(&world, |world| {
        let unlinked = world.portal.all().filter(|(_, document)| {
            document["status"] != "Closed" && document["externalReferenceId"].as_str().unwrap_or_default().is_empty()
        });
        assert_eq!(unlinked.count(), 0, "seed {seed}");
        assert_eq!(Checker::default().check(world), Vec::<String>::new(), "seed {seed}");
    });
}

#[tokio::test]
async fn a_careful_client_links_everything_and_breaks_no_promise() {
    for seed in 0..10 {
        live(seed).await;
    }
}
