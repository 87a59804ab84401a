//! `explain`: one referral, live from both sides, and why what is done with it is done.

use referrald::sim::dynamics::Table;
use referrald::sim::options::PlugIn;
use referrald::sim::{Service, SimClock, World};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::stage::Stage;

/// A stage with two plain referrals, both linked.
async fn linked() -> (Stage, Vec<Uuid>) {
    let mut world = World::new(91, SimClock::running(), Default::default());
    let document = |number: usize| json!({"name": format!("Request {number}"), "customerProfile": {"name": format!("Company {number}")}});
    let ids = (0..2).map(|number| world.add_referral(document(number))).collect();
    let stage = Stage::with(world).await;
    stage.json(&["once"], 0).await;
    stage.clear_journal();
    (stage, ids)
}

async fn explain(stage: &Stage, id: Uuid) -> Value {
    stage.json(&["explain", &id.to_string(), "--values"], 0).await
}

fn group<'a>(told: &'a Value, name: &str) -> &'a Value {
    let groups = told["groups"].as_array().unwrap();
    groups.iter().find(|group| group["name"] == name).unwrap_or_else(|| panic!("no group {name}: {told:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_moved_is_told_with_both_values_the_rule_and_the_configuration_line() {
    let (stage, ids) = linked().await;
    stage.overlay("[mapping.groups.company]\nowner = \"partner_center\"\n");
    let lead = stage.lead_of(ids[0]).unwrap();
    stage.simulator.with(|world| {
        world.edit_referral(ids[0], |it| it["customerProfile"]["name"] = "Moved".into());
        world.edit_row(Table::Lead, lead, json!({"companyname": "By a seller", "statuscode": 2})).unwrap();
    });
    // By the referral's id and by the lead's.
    let told = explain(&stage, ids[0]).await;
    assert_eq!(explain(&stage, lead).await["referral"], told["referral"]);
    assert_eq!(told["standing"], "linked");
    let company = group(&told, "company");
    assert_eq!((company["rule"].as_str(), company["base"].as_str()), (Some("owner"), Some("agreed")), "{company:#}");
    assert_eq!(company["moved"].as_object().unwrap().len(), 2, "{company:#}");
    let column = &company["columns"][0];
    assert_eq!((&column["referral"], &column["lead"]), (&json!("Moved"), &json!("By a seller")));
    let origin = told["origins"]["mapping.groups.company.owner"].as_str().unwrap();
    assert!(origin.ends_with("10.toml:2:9"), "{origin}");
    assert_eq!(told["status"]["step"], "accept it (Active / Accepted)");
    assert_eq!(told["action_kind"], "update");
    assert_eq!(told["last"]["outcome"], "done");
    assert_eq!(stage.written(), vec![]);

    // In a pipe, and without being asked, no value is told.
    let quiet = stage.run(&["explain", &ids[0].to_string()]).await;
    assert_eq!(quiet.code, 0);
    assert!(quiet.out.contains("companyname: differs") && !quiet.out.contains("By a seller"), "{}", quiet.out);
    assert!(quiet.out.lines().all(|line| line.chars().count() <= 80), "{}", quiet.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_referrals_of_an_engagement_are_shown_with_ours() {
    let mut world = World::new(94, SimClock::running(), Default::default());
    let engagement = Uuid::from_u128(0xe);
    let mut add = |organization: Option<Uuid>, engagement: Uuid| {
        let mut document = json!({"name": "One deal", "engagementId": engagement});
        if let Some(organization) = organization {
            document["organizationId"] = json!(organization);
        }
        world.add_referral(document)
    };
    let (ours, theirs) = (add(None, engagement), add(Some(Uuid::from_u128(0xf)), engagement));
    let alone = add(None, Uuid::from_u128(0xd));
    let stage = Stage::with(world).await;
    stage.json(&["once"], 0).await;
    stage.clear_journal();

    let told = explain(&stage, ours).await;
    assert_eq!(told["requests"]["portal"], json!(2), "the referral, and its engagement: {told:#}");
    let others = json!([{"referral": theirs, "status": "New / Pending", "is_ours": false}]);
    assert_eq!((&told["engagement"]["id"], &told["engagement"]["others"]), (&json!(engagement), &others), "{told:#}");
    let shown = stage.run(&["explain", &ours.to_string()]).await.out;
    assert!(shown.contains("also has") && shown.contains(&theirs.to_string()), "{shown}");
    let told = explain(&stage, theirs).await;
    assert_eq!(told["engagement"]["others"][0]["is_ours"], true, "{told:#}");
    assert_eq!(explain(&stage, alone).await["engagement"]["others"], json!([]));
    assert_eq!(stage.writes(Service::Portal), vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_explains_as_the_ledger_does() {
    let (stage, ids) = linked().await;
    stage.simulator.with(|world| world.edit_referral(ids[1], |it| it["customerProfile"]["name"] = "Moved".into()));
    let offline = explain(&stage, ids[1]).await;
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    let told = explain(&stage, ids[1]).await;
    assert_eq!(group(&offline, "company")["rule"], "referral");
    assert_eq!(group(&told, "company")["decision"], "nothing to do");
    assert_eq!(told["last"]["kind"], "update");
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_referral_from_being_written_is_named() {
    let (stage, ids) = linked().await;
    let lead = stage.lead_of(ids[0]).unwrap();
    let (spam, fresh) = stage.simulator.with(|world| {
        world.edit_row(Table::Lead, lead, json!({"statecode": 2, "statuscode": 4})).unwrap();
        let spam = world.add_referral(json!({"name": "Offer", "isSpam": true, "qualification": "Spam"}));
        (spam, world.add_referral(json!({"name": "Not met yet"})))
    });
    // A settle time, and a referral the ledger has never met.
    stage.overlay("[status]\nsettle_time = \"1h\"\n");
    let told = explain(&stage, ids[0]).await;
    assert_eq!(told["holds"][0]["kind"], "not settled", "{told:#}");
    assert_eq!(told["status"]["step"], "close it (Closed / Declined)");
    let told = explain(&stage, fresh).await;
    assert_eq!(told["standing"], "unknown to the ledger; it would be pending");
    assert_eq!(told["action_kind"], "create");
    // Out of scope.
    let out = explain(&stage, spam).await;
    assert!(out["note"].as_str().is_some_and(|note| note.contains("scope.")), "{out:#}");
    // Suspended, held, forgotten.
    assert_eq!(stage.run(&["suspend"]).await.code, 0);
    let told = explain(&stage, fresh).await;
    assert!(told["waits"][0].as_str().is_some_and(|wait| wait.contains("suspended")), "{told:#}");
    assert_eq!(stage.run(&["hold", &ids[1].to_string()]).await.code, 0);
    stage.simulator.with(|world| world.edit_referral(ids[1], |it| it["customerProfile"]["name"] = "Moved".into()));
    let told = explain(&stage, ids[1]).await;
    assert_eq!((&told["action"], &told["holds"][0]["kind"]), (&Value::Null, &json!("by operator")), "{told:#}");
    assert!(told["unheld_action"].as_str().is_some_and(|action| action.contains("companyname")), "{told:#}");
    assert_eq!(stage.run(&["forget", &ids[1].to_string()]).await.code, 0);
    assert_eq!(explain(&stage, ids[1]).await["standing"], "forgotten");
    // Nobody knows it.
    let nobody = stage.json(&["explain", "00000000-0000-0000-0000-0000000000aa"], 1).await;
    assert_eq!(nobody["referral"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_told_with_its_cause_and_a_silent_service_as_silent() {
    let (stage, ids) = linked().await;
    let refused = stage.simulator.with(|world| {
        world.add_referral(json!({"name": "Refused", "customerProfile": {"name": "Never"}, "details": {}}))
    });
    stage.simulator.with(|world| {
        world.options.crm.plug_ins =
            vec![PlugIn::Refuses { column: "companyname".to_owned(), word: "Never".to_owned() }];
    });
    assert_eq!(stage.run(&["once"]).await.code, 3);
    let told = explain(&stage, refused).await;
    assert_eq!(told["standing"], "pending", "{told:#}");
    assert_eq!((&told["trouble"]["is_dead_letter"], &told["holds"][0]["kind"]), (&json!(true), &json!("dead letter")));
    assert!(told["trouble"]["cause"].as_str().is_some_and(|cause| cause.starts_with("Dynamics")), "{told:#}");
    stage.overlay("[partner_center]\nbase_url = \"http://127.0.0.1:9\"\n[http]\nattempts_max = 1\n");
    let told = stage.json(&["explain", &ids[0].to_string()], 1).await;
    assert!(told["sides"].as_object().is_some_and(|sides| sides.len() == 1), "{told:#}");
    assert_eq!(told["portal"]["seen"], "not read");
}
