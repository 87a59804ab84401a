//! What operators decide while a cycle is under way.

use referrald::daemon::DecisionRequest;

use crate::town::{Host, Town, id};

/// A town whose daemon sends one write after the other.
fn town() -> (Town, Host) {
    let town = Town::new(21);
    for number in 0..20 {
        town.referral(1000 + number);
    }
    let host = town.host(1, |settings| settings.cycle.batch_max = 1);
    (town, host)
}

/// Runs a cycle and lets an operator decide after its first write; gives the writes there were by then.
async fn decided_meanwhile(town: &Town, host: &Host, request: DecisionRequest) -> usize {
    let operator = async {
        while town.all_writes() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(host.decide(request).await.is_done);
        town.all_writes()
    };
    tokio::join!(host.cycle(), operator).1
}

#[tokio::test]
async fn a_suspension_stops_the_cycle_that_is_under_way_and_is_not_lost_at_its_end() {
    let (town, host) = town();
    let writes = decided_meanwhile(&town, &host, DecisionRequest::Suspend).await;
    // One write may be in flight on each side.
    assert!(town.all_writes() <= writes + 2, "{} writes after {writes}", town.all_writes());
    assert!(host.decisions().is_suspended);
    let writes = town.all_writes();
    town.pass(2);
    host.cycle().await;
    assert_eq!(town.all_writes(), writes);
    host.decide(DecisionRequest::Resume).await;
    for _ in 0..3 {
        town.pass(2);
        host.cycle().await;
    }
    assert_eq!(town.world().crm.lead_ids().len(), 20);
}

#[tokio::test]
async fn a_referral_that_is_held_meanwhile_is_not_written_any_more() {
    let (town, host) = town();
    let ids: Vec<_> = town.world().portal.ids().into_iter().map(id).collect();
    let writes = decided_meanwhile(&town, &host, DecisionRequest::Hold { ids: ids.clone() }).await;
    // One write may be in flight on each side.
    assert!(town.all_writes() <= writes + 2, "{} writes after {writes}", town.all_writes());
    assert_eq!(host.decisions().held, ids.into_iter().collect());
    town.pass(2);
    host.cycle().await;
    let held = host.status().await.holds.get("by operator").copied().unwrap_or_default();
    assert!((18..=20).contains(&held), "{held}"); // All but those that were through already.
}
