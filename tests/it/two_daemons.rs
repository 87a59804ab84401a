//! Two daemons over the same tenant, by mistake, each with a state directory of its own.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use referrald::sim::dynamics::Table;
use referrald::sim::journal::{Actor, Event};
use serde_json::json;
use std::collections::BTreeMap;
use uuid::Uuid;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_that_run_side_by_side_make_one_lead_each_close_once_and_do_not_play_ping_pong() {
    let seed = 111;
    println!("seed {seed}");
    let stage = Stage::new(seed, 30).await;
    stage.overlay(
        "[brakes]\nclosings_per_hour = 0\nacceptances_per_hour = 0\nleads_vanished = 0\n[status]\nwon_hold = \"0s\"\n",
    );
    let (one, two) = tokio::join!(stage.daemon_elsewhere("one"), stage.daemon_elsewhere("two"));
    tokio::join!(one.first_cycle(), two.first_cycle());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut edits = 0;
    for _ in 0..8 {
        stage.simulator.with(|world| {
            for _ in 0..6 {
                world.random_edit(&mut rng);
                edits += 1;
            }
            // Both sides of one pair at once: what invites a quarrel.
            let open = world.portal.all().find(|(_, it)| it["status"] == "Active").map(|(id, _)| id);
            if let Some(id) = open {
                world.edit_referral(id, |it| it["details"]["dealValue"] = json!(7_000 + edits));
                edits += 1;
            }
        });
        tokio::join!(one.cycle(), two.cycle());
    }
    for _ in 0..3 {
        tokio::join!(one.cycle(), two.cycle());
    }
    let (writes, closings) = stage.simulator.with(|world| {
        let mut closings: BTreeMap<Uuid, usize> = BTreeMap::new();
        for event in world.journal.events() {
            if let Event::ReferralMoved { referral, to, by: Actor::Client, .. } = event
                && to.0 == "Closed"
            {
                *closings.entry(*referral).or_default() += 1;
            }
        }
        (world.journal.writes().count(), closings)
    });
    let referrals = stage.simulator.with(|world| world.portal.len());
    println!("{edits} edits, {referrals} referrals, {writes} writes, {} closings", closings.len());
    assert!(closings.values().all(|times| *times == 1), "closed twice: {closings:?}");
    assert!(writes <= 2 * edits + 3 * referrals, "{writes} writes for {edits} edits of {referrals} referrals");
    let clients = stage.simulator.with(|world| {
        let made = |event: &&Event| matches!(event, Event::LeadCreated { by: Actor::Client, is_revival: false, .. });
        world.journal.events().iter().filter(made).count()
    });
    let leads = stage.simulator.with(|world| world.crm.all(Table::Lead).len() + world.crm.deleted_lead_ids().len());
    assert!(clients <= leads, "a lead was made twice: {clients} of {leads}");
    stage.clear_journal_but_judge();
    for _ in 0..4 {
        tokio::join!(one.cycle(), two.cycle());
    }
    assert_eq!(stage.written(), vec![]);
    stage.judge();
    assert_eq!((one.stop().await, two.stop().await), (0, 0));
}
