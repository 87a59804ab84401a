//! A change of mapping moves no lead by itself; a backfill rewrites what it made different, a sample first.

use referrald::sim::Service;
use referrald::sim::dynamics::Table;
use serde_json::json;

use crate::stage::Stage;

/// The company's name in another shape; the group keeps its name.
const OTHER_MAPPING: &str = r#"
[mapping.groups.company.columns.companyname]
from = ["{{ referral.customerProfile.name }} (partner)"]
[brakes]
backfill_sample = 5
"#;

fn companies(stage: &Stage) -> Vec<String> {
    stage.simulator.with(|world| {
        let leads = world.crm.lead_ids();
        leads
            .iter()
            .map(|lead| world.crm.value(Table::Lead, *lead, "companyname").as_str().unwrap_or("").to_owned())
            .collect()
    })
}

fn rewritten(stage: &Stage) -> usize {
    companies(stage).iter().filter(|name| name.ends_with("(partner)")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_change_of_mapping_a_backfill_rewrites_a_sample_waits_for_a_look_and_then_the_rest() {
    let stage = Stage::new(81, 30).await;
    stage.json(&["once"], 0).await;
    // A seller's own words stay, whatever the mapping says.
    let seller = stage.simulator.with(|world| {
        let lead = world.crm.lead_ids()[2];
        world.edit_row(Table::Lead, lead, json!({"companyname": "As the seller wrote it"})).unwrap();
        lead
    });
    stage.json(&["once"], 0).await;
    stage.overlay(OTHER_MAPPING);
    stage.clear_journal();
    stage.json(&["once"], 0).await;
    assert_eq!((stage.writes(Service::Crm), rewritten(&stage)), (vec![], 0), "a change of mapping moves no lead");

    let answer = stage.json(&["backfill", "--group", "nothing"], 1).await;
    assert!(answer["text"].as_str().unwrap().contains("there is no mapping group"), "{answer:#}");
    stage.json(&["backfill", "--group", "company"], 0).await;
    let again = stage.json(&["backfill"], 1).await;
    assert!(again["text"].as_str().unwrap().contains("under way"), "{again:#}");
    let report = stage.json(&["once"], 4).await;
    assert_eq!(rewritten(&stage), 5, "{report:#}");
    let reason = report["brakes"]["backfill"].as_str().unwrap_or_default().to_owned();
    let digest =
        reason.split_once("approve ").and_then(|(_, rest)| rest.split('`').next()).expect("a digest").to_owned();
    let waiting = stage.json(&["once"], 4).await;
    assert_eq!(rewritten(&stage), 5, "it waits: {waiting:#}");

    stage.json(&["approve", &digest], 0).await;
    let report = stage.json(&["once"], 0).await;
    assert_eq!(report["brakes"], json!({}), "{report:#}");
    let open = stage.simulator.with(|world| {
        let is_open = |lead: &uuid::Uuid| world.crm.value(Table::Lead, *lead, "statecode") == 0;
        world.crm.lead_ids().iter().filter(|lead| is_open(lead)).count()
    });
    let cut = companies(&stage).iter().filter(|name| name.ends_with('…')).count();
    assert_eq!(rewritten(&stage) + cut, open - 1, "{:?} {report:#}", companies(&stage));
    let kept = stage.simulator.with(|world| world.crm.value(Table::Lead, seller, "companyname").clone());
    assert_eq!(kept, "As the seller wrote it");
    stage.clear_journal_but_judge();
    stage.json(&["once"], 0).await;
    assert_eq!(stage.written(), vec![]);
    let over = stage.json(&["backfill", "--stop"], 1).await;
    assert!(over["text"].as_str().unwrap().contains("no backfill is under way"), "{over:#}");
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_is_stopped_leaves_the_rest_alone() {
    let stage = Stage::new(82, 20).await;
    stage.json(&["once"], 0).await;
    stage.overlay(OTHER_MAPPING);
    stage.json(&["once"], 0).await;
    stage.json(&["backfill"], 0).await;
    stage.json(&["once"], 4).await;
    let before = rewritten(&stage);
    assert_eq!(before, 5);
    stage.json(&["backfill", "--stop"], 0).await;
    let report = stage.json(&["once"], 0).await;
    assert_eq!((report["brakes"].clone(), rewritten(&stage)), (json!({}), before), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leads_that_do_not_differ_take_no_place_in_the_sample() {
    let stage = Stage::new(83, 40).await;
    stage.json(&["once"], 0).await;
    // Only some companies get another shape, and the sample is smaller than a page.
    stage.overlay(&OTHER_MAPPING.replace(
        "{{ referral.customerProfile.name }} (partner)",
        "{{ referral.customerProfile.name }}{% if 'Tailspin' in referral.customerProfile.name %} (partner){% endif %}",
    ));
    stage.json(&["once"], 0).await;
    let tailspins = companies(&stage).iter().filter(|name| name.starts_with("Tailspin")).count();
    assert!(tailspins > 5 && tailspins < 20, "{:?}", companies(&stage));
    stage.json(&["backfill"], 0).await;
    let report = stage.json(&["once"], 4).await;
    assert_eq!(rewritten(&stage), 5, "{report:#}");
    let reason = report["brakes"]["backfill"].as_str().unwrap_or_default().to_owned();
    let digest =
        reason.split_once("approve ").and_then(|(_, rest)| rest.split('`').next()).expect("a digest").to_owned();
    stage.json(&["approve", &digest], 0).await;
    let report = stage.json(&["once"], 0).await;
    assert_eq!(rewritten(&stage), tailspins, "{:?} {report:#}", companies(&stage));
}
