//! Input nobody promised: broken answers, documents of any shape, an environment without the usual options.

use referrald::sim::faults::Class;
use referrald::sim::options::CrmOptions;
use referrald::sim::{Options, SimClock, World};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::stage::Stage;

/// A referral as they usually are, with `change` made to it.
fn referral(change: impl FnOnce(&mut Value)) -> Value {
    let mut document = json!({
        "name": "Usual request", "qualification": "Direct", "type": "Independent",
        "customerProfile": {
            "name": "Usual company", "size": "10to50employees",
            "address": {"addressLine1": "1 Usual St", "city": "Reno", "state": "NV", "postalCode": "89501", "country": "US"},
            "team": [{"firstName": "Usual", "lastName": "Contact", "phoneNumber": "+17755550100", "email": "usual@customer.example"}],
        },
        "details": {"notes": "Usual notes", "dealValue": 25000, "currency": "USD", "closingDateTime": "2027-03-01T00:00:00Z",
            "requirements": {"industries": [], "products": [{"id": "Dynamics365Business"}], "services": [], "solutions": []}},
    });
    change(&mut document);
    document
}

/// A stage over an otherwise usual environment with these referrals.
async fn stage_of(crm: CrmOptions, documents: Vec<Value>) -> (Stage, Vec<Uuid>) {
    let mut world = World::new(5, SimClock::running(), Options { crm, ..Options::default() });
    let ids = documents.into_iter().map(|document| world.add_referral(document)).collect();
    (Stage::with(world).await, ids)
}

/// Runs to the end and expects a lead for each referral.
async fn all_have_leads(stage: &Stage, ids: &[Uuid]) -> Value {
    let report = stage.json(&["once"], 0).await;
    for id in ids {
        assert!(stage.lead_of(*id).is_some(), "{id} has no lead: {report:#}");
    }
    stage.clear_journal();
    stage.json(&["once"], 0).await;
    assert_eq!(stage.written(), vec![], "{report:#}");
    stage.judge();
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_answers_cost_a_try_and_lose_nothing() {
    for class in [Class::HtmlSuccess, Class::HtmlError, Class::Truncated, Class::ResetBefore, Class::ResetAfter] {
        let stage = Stage::new(31, 25).await;
        let expected = {
            let calm = Stage::new(31, 25).await;
            calm.json(&["once"], 0).await;
            calm.simulator.with(|world| world.crm.lead_ids().len())
        };
        stage.simulator.with(|world| {
            world.faults = referrald::sim::faults::FaultPlan::only(31, &[class], 0.15);
        });
        stage.overlay("[http]\nretry_delay = \"1ms\"\nretry_delay_max = \"5ms\"\n");
        let mut codes = Vec::new();
        for _ in 0..6 {
            codes.push(stage.run(&["once"]).await.code);
        }
        println!("{class:?}: {codes:?}, played {:?}", stage.simulator.with(|world| world.faults.played().clone()));
        assert!(codes.iter().all(|code| [0, 1, 3].contains(code)), "{class:?}: {codes:?}");
        stage.simulator.with(|world| world.faults.calm());
        stage.json(&["once"], 0).await;
        assert_eq!(stage.simulator.with(|world| world.crm.lead_ids().len()), expected, "{class:?}");
        stage.clear_journal();
        stage.json(&["once"], 0).await;
        assert_eq!(stage.written(), vec![], "{class:?}");
        stage.judge();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_page_instead_of_a_list_is_named_in_report_and_status() {
    let (stage, ids) = stage_of(CrmOptions::default(), vec![referral(|_| {})]).await;
    stage.overlay("[http]\nretry_delay = \"1ms\"\nretry_delay_max = \"5ms\"\n");
    stage.simulator.with(|world| world.faults.set(Class::HtmlSuccess, 1.0));
    let report = stage.json(&["once"], 1).await;
    let status = stage.json(&["status"], 0).await;
    println!("{report:#}\n{status:#}");
    assert!(!report["sides"].as_object().unwrap().is_empty(), "{report:#}");
    let troubles: Vec<&Value> = status["sides"]
        .as_object()
        .unwrap()
        .values()
        .map(|side| &side["trouble"])
        .filter(|it| it.is_string())
        .collect();
    assert!(!troubles.is_empty(), "{status:#}");
    stage.simulator.with(|world| world.faults.calm());
    all_have_leads(&stage, &ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_any_shape_become_leads() {
    let documents = vec![
        referral(|it| it["customerProfile"]["team"] = json!([])),
        referral(|it| it["customerProfile"]["team"] = Value::Null),
        referral(|it| it["name"] = Value::Null),
        referral(|it| {
            it["name"] = Value::Null;
            it["customerProfile"] = Value::Null;
        }),
        referral(|it| it["customerProfile"]["name"] = "".into()),
        referral(|it| it["details"] = Value::Null),
        referral(|it| it["qualification"] = "HalfQualified".into()),
        referral(|it| it["type"] = "Entangled".into()),
        referral(|it| it["customerProfile"]["size"] = "aFewGiants".into()),
        referral(|it| it["details"]["closingDateTime"] = "0001-01-01T00:00:00".into()),
        referral(|it| it["details"]["closingDateTime"] = "1650-01-01T00:00:00Z".into()),
        referral(|it| it["details"]["closingDateTime"] = "9999-12-31T23:59:59.9999999Z".into()),
        referral(|it| it["details"]["closingDateTime"] = "next week".into()),
        referral(|it| it["details"]["dealValue"] = "25000.50".into()),
        referral(|it| it["details"]["dealValue"] = "a lot".into()),
        referral(|it| it["details"]["dealValue"] = json!(-5)),
        referral(|it| it["details"]["dealValue"] = json!(99_999_999_999_999_u64)),
        referral(|it| it["details"]["currency"] = "XXX".into()),
        referral(|it| it["details"]["currency"] = Value::Null),
        referral(|it| it["customerProfile"]["address"]["country"] = "ZZ".into()),
        referral(|it| it["customerProfile"]["team"][0]["email"] = "no address at all".into()),
        referral(|it| it["surprise"] = json!({"deep": [1, 2, {"er": null}]})),
        referral(|_| {}),
    ];
    let (stage, ids) = stage_of(CrmOptions::default(), documents).await;
    let report = all_have_leads(&stage, &ids).await;
    println!("{report:#}");
    let unreadable = ids.iter().filter(|id| stage.path_of(**id, "/externalReferenceId").is_null()).count();
    assert_eq!(unreadable, 0, "every lead id is written back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_without_a_readable_id_or_status_is_listed_and_the_others_go_on() {
    let mut documents = vec![referral(|_| {}), referral(|it| it["status"] = "Pondering".into()), referral(|_| {})];
    documents.push(referral(|it| it["status"] = json!({"code": 5})));
    documents.push(referral(|it| it["customerProfile"] = json!("a text where an object belongs")));
    documents.push(referral(|it| it["customerProfile"]["team"] = json!("nobody")));
    let (stage, ids) = stage_of(CrmOptions::default(), documents).await;
    let finished = stage.run(&["--json", "once"]).await;
    println!("{}\n{}", finished.code, finished.out);
    let status = stage.json(&["status"], 0).await;
    println!("{status:#}");
    assert!(stage.lead_of(ids[0]).is_some() && stage.lead_of(ids[2]).is_some());
    let without: Vec<&Uuid> = ids.iter().filter(|id| stage.lead_of(**id).is_none()).collect();
    println!("without a lead: {}", without.len());
    if !without.is_empty() {
        assert!(finished.out.contains("unreadable referral"), "{}", finished.out);
        assert!(finished.code == 3 || status.to_string().contains("unreadable"), "{} {status:#}", finished.code);
    }
    stage.judge_discretion();
}

#[tokio::test(flavor = "multi_thread")]
async fn text_over_every_limit_is_cut_and_kept_whole_in_the_description() {
    let long = |word: &str, times: usize| Value::from(word.repeat(times));
    let family = "👩‍👩‍👧‍👦";
    let documents = vec![
        referral(|it| it["name"] = long("한국어 이름 ", 200)),
        referral(|it| it["customerProfile"]["name"] = long(&format!("주식회사 {family}"), 100)),
        referral(|it| it["details"]["notes"] = long("메모 📝\r\n", 2000)),
        referral(|it| {
            let contact = &mut it["customerProfile"]["team"][0];
            for name in ["firstName", "lastName", "title", "phoneNumber"] {
                contact[name] = long(&format!("다은{family}"), 60);
            }
            contact["email"] = format!("{}@customer.example", "다".repeat(200)).into();
        }),
        referral(|it| {
            for name in ["addressLine1", "addressLine2", "city", "state", "postalCode", "country", "region"] {
                it["customerProfile"]["address"][name] = long(&format!("거리{family}"), 150);
            }
        }),
    ];
    let (stage, ids) = stage_of(CrmOptions::default(), documents).await;
    let report = all_have_leads(&stage, &ids).await;
    println!("{report:#}");
    for id in &ids {
        let lead = stage.lead_of(*id).unwrap();
        for column in ["subject", "companyname", "firstname", "lastname", "address1_city", "description"] {
            let value = stage.column(lead, column);
            let text = value.as_str().unwrap_or_default();
            assert!(!text.contains('\u{FFFD}') && !text.ends_with('\u{200D}'), "{column}: a grapheme was cut");
        }
    }
    let cut = stage.lead_of(ids[1]).unwrap();
    let (name, description) = (stage.column(cut, "companyname"), stage.column(cut, "description"));
    assert!(name.as_str().unwrap().ends_with('…'), "{name}");
    let whole = format!("주식회사 {family}").repeat(100);
    let kept: String = whole.chars().take(200).collect();
    assert!(description.as_str().unwrap().contains(&kept), "{description}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_currency_the_environment_lacks_skips_the_amount_and_says_so() {
    let crm = CrmOptions { currencies: vec![("EUR".to_owned(), 2)], ..CrmOptions::default() };
    let (stage, ids) =
        stage_of(crm, vec![referral(|_| {}), referral(|it| it["details"]["currency"] = "EUR".into())]).await;
    let report = all_have_leads(&stage, &ids).await;
    println!("{report:#}");
    let (usd, eur) = (stage.lead_of(ids[0]).unwrap(), stage.lead_of(ids[1]).unwrap());
    assert!(stage.column(usd, "estimatedamount").is_null(), "an amount in another currency would be a lie");
    assert_eq!(stage.column(eur, "estimatedamount").as_f64(), Some(25000.0));
    assert!(report["holds"]["column skipped"].as_u64() >= Some(1), "{report:#}");
    let status = stage.json(&["status"], 0).await;
    assert!(status["holds"]["column skipped"].as_u64() >= Some(1), "{status:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_option_the_environment_lacks_is_skipped_and_the_lead_is_made() {
    let (stage, ids) = stage_of(CrmOptions::default(), vec![referral(|_| {}), referral(|_| {})]).await;
    stage.overlay("[mapping.groups.source.columns.leadsourcecode]\nvalue = 777\n");
    let report = all_have_leads(&stage, &ids).await;
    println!("{report:#}");
    assert!(stage.column(stage.lead_of(ids[0]).unwrap(), "leadsourcecode").is_null());
    let finished = stage.run(&["once"]).await;
    let is_told = finished.trouble.lines().any(|line| line.contains("WARN") && line.contains("leadsourcecode"));
    assert!(is_told, "{}", crate::stage::tail(&finished.trouble));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_required_column_makes_dead_letters_with_the_reason_until_it_is_mapped() {
    let crm = CrmOptions { required_column: Some("new_region".to_owned()), ..CrmOptions::default() };
    let (stage, ids) = stage_of(crm, vec![referral(|_| {}), referral(|_| {})]).await;
    let report = stage.json(&["once"], 3).await;
    let status = stage.json(&["status"], 0).await;
    println!("{report:#}\n{status:#}");
    assert!(ids.iter().all(|id| stage.lead_of(*id).is_none()));
    assert_eq!(report["failed"]["create"], json!(2), "{report:#}");
    let told = status["dead_letters"].to_string() + &status["retrying"].to_string();
    assert!(status["dead_letters"].as_object().is_some_and(|it| !it.is_empty()) || status["retrying"] == 2, "{told}");
    // The administrator maps the column: without another word the next pass makes the leads.
    stage.overlay("[mapping.groups.region]\nowner = \"crm\"\n[mapping.groups.region.columns.new_region]\nfrom = [\"/customerProfile/address/country\"]\n");
    all_have_leads(&stage, &ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_poisoned_referral_does_not_delay_the_others() {
    let crm = CrmOptions {
        plug_ins: vec![
            referrald::sim::options::PlugIn::Refuses { column: "companyname".to_owned(), word: "Poison".to_owned() },
            referrald::sim::options::PlugIn::Crashes { column: "companyname".to_owned(), word: "Dynamite".to_owned() },
        ],
        ..CrmOptions::default()
    };
    let mut documents: Vec<Value> = (0..10).map(|_| referral(|_| {})).collect();
    documents.insert(0, referral(|it| it["customerProfile"]["name"] = "Poison Ltd".into()));
    documents.insert(1, referral(|it| it["customerProfile"]["name"] = "Dynamite Ltd".into()));
    let (stage, ids) = stage_of(crm, documents).await;
    stage.overlay("[http]\nretry_delay = \"1ms\"\nretry_delay_max = \"5ms\"\n");
    let finished = stage.run(&["--json", "once"]).await;
    let status = stage.json(&["status"], 0).await;
    println!("{}\n{}\n{status:#}", finished.code, finished.out);
    assert_eq!(finished.code, 3);
    assert_eq!(ids.iter().filter(|id| stage.lead_of(**id).is_some()).count(), 10);
    let (dead, retrying) = (status["dead_letters"].as_object().map_or(0, serde_json::Map::len), &status["retrying"]);
    assert!(dead > 0 || retrying.as_u64() > Some(0), "{status:#}");
    // Mended over there: the next edit brings it through.
    stage.simulator.with(|world| {
        world.edit_referral(ids[0], |it| it["customerProfile"]["name"] = "Antidote Ltd".into());
        world.edit_referral(ids[1], |it| it["customerProfile"]["name"] = "Water Ltd".into());
    });
    stage.json(&["once"], 0).await;
    assert_eq!(ids.iter().filter(|id| stage.lead_of(**id).is_some()).count(), 12);
    stage.judge();
}
