//! Two authors who undo each other, and two daemons on one tenant.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use referrald::daemon::{DecisionRequest, Detail, Engine, Which};
use referrald::model::Take;
use referrald::plan::settings::FieldOwner;
use referrald::sim::Checker;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::town::{Host, Town, id};

const BEFORE: i64 = 1000;
const AFTER: i64 = 2000;

/// An actor that flips whatever the daemon writes: on the lead back to the one value, on the referral to the other.
async fn flip(town: &Town, host: &Host, referral: Uuid, rounds: usize) -> usize {
    let before = town.all_writes();
    for _ in 0..rounds {
        town.pass(2);
        host.cycle().await;
        if town.amount_of(referral) == AFTER as f64 && town.deal_value(referral) == AFTER as f64 {
            town.edit_lead(referral, json!({"estimatedamount": BEFORE}));
        } else if town.amount_of(referral) == BEFORE as f64 && town.deal_value(referral) == BEFORE as f64 {
            town.edit_referral(referral, "/details/dealValue", json!(AFTER));
        }
    }
    town.all_writes() - before
}

async fn held() -> (Town, Host, Uuid) {
    let town = Town::new(1);
    let host = town.host(1, |_| {});
    let referral = town.referral(BEFORE);
    host.cycle().await;
    town.pass(2);
    host.cycle().await;
    assert_eq!(town.amount_of(referral), BEFORE as f64);
    let writes = flip(&town, &host, referral, 9).await;
    assert_eq!(writes, 3, "three writes, then it is held");
    (town, host, referral)
}

#[tokio::test]
async fn an_actor_that_always_flips_a_value_back_ends_in_a_hold_that_names_both_authors() {
    let (town, host, referral) = held().await;
    assert_eq!(host.status().await.holds.get("flapping"), Some(&1));
    let seller = town.world().crm.sellers()[0];
    town.edit_lead(referral, json!({"jobtitle": "CTO"})); // So that it is planned again.
    let forecast = host.engine.forecast(Detail::Names, &CancellationToken::new()).await.unwrap();
    let text = &forecast.holds.iter().find(|hold| hold.kind == "flapping").expect("a hold").text;
    assert!(text.contains(&format!("user {seller} in Dynamics")) && text.contains("Partner Center"), "{text}");
    // It stays held, however long that lasts.
    let before = town.all_writes();
    for _ in 0..6 {
        town.pass(45);
        host.cycle().await;
        town.edit_lead(referral, json!({"jobtitle": "CFO"}));
    }
    assert_eq!(town.all_writes(), before);
    assert_eq!(host.status().await.holds.get("flapping"), Some(&1));
}

#[tokio::test]
async fn a_release_with_take_decides_it() {
    for (take, value) in [(Take::Referral, AFTER), (Take::Lead, BEFORE)] {
        let (town, host, referral) = held().await;
        assert_eq!((town.deal_value(referral), town.amount_of(referral)), (AFTER as f64, BEFORE as f64));
        let which = Which::Ids(vec![id(referral)]);
        let answer = host.decide(DecisionRequest::Release { which, group: None, take: Some(take) }).await;
        assert!(answer.is_done, "{answer:?}");
        town.pass(2);
        host.cycle().await;
        assert_eq!((town.deal_value(referral), town.amount_of(referral)), (value as f64, value as f64), "{take:?}");
        assert_eq!(host.status().await.holds.get("flapping"), None);
    }
}

#[tokio::test]
async fn a_release_alone_goes_on_and_counts_anew() {
    let (town, host, referral) = held().await;
    let which = Which::Ids(vec![id(referral)]);
    host.decide(DecisionRequest::Release { which, group: None, take: None }).await;
    assert_eq!(flip(&town, &host, referral, 9).await, 3);
    assert_eq!(host.status().await.holds.get("flapping"), Some(&1));
}

#[tokio::test]
async fn values_that_come_and_go_slowly_or_are_new_are_written() {
    let town = Town::new(2);
    let host = town.host(1, |_| {});
    let referral = town.referral(BEFORE);
    host.cycle().await;
    for round in 0..8 {
        town.pass(31);
        town.edit_referral(referral, "/details/dealValue", json!(if round % 2 == 0 { AFTER } else { BEFORE }));
        host.cycle().await;
        assert_eq!(town.amount_of(referral), town.deal_value(referral), "slowly, round {round}");
    }
    for round in 0..8 {
        town.pass(2);
        town.edit_referral(referral, "/details/dealValue", json!(5000 + round));
        host.cycle().await;
        assert_eq!(town.amount_of(referral), town.deal_value(referral), "always new, round {round}");
    }
    assert_eq!(host.status().await.holds.get("flapping"), None);
}

#[tokio::test]
async fn a_restart_does_not_forget_the_count() {
    let town = Town::new(3);
    let mut host = town.host(1, |_| {});
    let referral = town.referral(BEFORE);
    host.cycle().await;
    let mut writes = 0;
    for _ in 0..9 {
        host = town.restarted(&host);
        writes += flip(&town, &host, referral, 1).await;
    }
    assert_eq!(writes, 3);
    assert_eq!(host.status().await.holds.get("flapping"), Some(&1));
}

#[tokio::test]
async fn two_daemons_on_one_tenant_come_to_rest_whoever_owns_what() {
    for (seed, owners) in [
        (11, [FieldOwner::Newest, FieldOwner::Newest]),
        (12, [FieldOwner::Crm, FieldOwner::PartnerCenter]),
        (13, [FieldOwner::PartnerCenter, FieldOwner::Newest]),
    ] {
        let town = Town::new(seed);
        town.world().populate(seed, 8);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let hosts: Vec<Host> = owners
            .into_iter()
            .zip(1u8..)
            .map(|(owner, key)| {
                town.host(key, |settings| settings.mapping.groups.values_mut().for_each(|group| group.owner = owner))
            })
            .collect();
        let mut edits = 0;
        for _ in 0..15 {
            for _ in 0..3 {
                town.world().random_edit(&mut rng);
                edits += 1;
            }
            for host in &hosts {
                town.pass(1);
                host.cycle().await;
            }
        }
        for _ in 0..12 {
            town.pass(31);
            for host in &hosts {
                host.cycle().await;
            }
        }
        let writes = town.all_writes();
        let referrals = town.world().portal.len();
        assert!(writes <= edits + 6 * referrals, "seed {seed}: {writes} writes for {edits} edits");
        for _ in 0..4 {
            town.pass(61);
            for host in &hosts {
                host.cycle().await;
            }
        }
        assert_eq!(town.all_writes(), writes, "seed {seed}: at rest nothing is written");
        let broken = Checker::default().check(&town.world());
        assert_eq!(broken, Vec::<String>::new(), "seed {seed}");
    }
}
