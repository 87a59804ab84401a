//! Leads and opportunities: the status tables, the checks, the pages (dataverse §2–§4).

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::super::dynamics::Table;
use super::super::exchange::encode;
use super::super::options::{ClosedLeads, KeyState, Options, PlugIn};
use super::super::world::World;
use super::{code, crm, world, world_with};

const KEY: &str = "new_referralid='3f1c2a9e-0000-4000-8000-000000000001'";
const ANY: (&str, &str) = ("If-Match", "*");
const NONE: (&str, &str) = ("If-None-Match", "*");
const FULL: (&str, &str) = ("Prefer", "return=representation");

fn lead(world: &mut World, columns: Value) -> Uuid {
    world.add_lead(columns).expect("a lead")
}

fn patch(world: &mut World, place: &str, headers: &[(&str, &str)], body: Value) -> (u16, String) {
    code(&crm(world, "PATCH", place, headers, Some(body)))
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn patch_by_id_follows_the_status_table() {
    let mut world = world();
    let place = format!("leads({})", Uuid::from_u128(1));
    let body = || json!({"subject": "One"});
    assert_eq!(patch(&mut world, &place, &[ANY], body()), is(404, "0x80040217"));
    assert_eq!(patch(&mut world, &place, &[("If-Match", "W/\"1\"")], body()), is(404, "0x80040217"));
    assert_eq!(patch(&mut world, &format!("{place}?$select=leadid"), &[NONE, FULL], body()), is(201, ""));
    assert_eq!(patch(&mut world, &place, &[NONE], body()), is(412, "0x80040237"));
    assert_eq!(patch(&mut world, &place, &[], body()), is(204, ""));
    assert_eq!(patch(&mut world, &place, &[ANY, FULL], body()), is(200, ""));
    assert_eq!(patch(&mut world, &place, &[("If-Match", "W/\"1\"")], body()), is(412, "0x80060882"));
    let read = crm(&mut world, "GET", &format!("{place}?$select=subject"), &[], None);
    let etag = read.value()["@odata.etag"].as_str().expect("a version").to_owned();
    assert!(etag.starts_with("W/\""));
    assert_eq!(crm(&mut world, "GET", &place, &[("If-None-Match", &etag)], None).status, 304);
    assert_eq!(patch(&mut world, &place, &[("If-Match", &etag)], body()), is(204, ""));
    assert_eq!(crm(&mut world, "GET", &place, &[("If-None-Match", &etag)], None).status, 200);
}

#[test]
fn a_plain_patch_is_an_upsert_and_brings_a_deleted_lead_back() {
    let mut world = world();
    let place = format!("leads({})", Uuid::from_u128(2));
    assert_eq!(patch(&mut world, &place, &[FULL], json!({"subject": "One"})), is(201, ""));
    assert_eq!(crm(&mut world, "DELETE", &place, &[], None).status, 204);
    let gone = crm(&mut world, "GET", &place, &[], None);
    assert_eq!(code(&gone), is(404, "0x80040217"));
    assert!(gone.value()["error"]["message"].as_str().expect("a message").starts_with("lead With Id"));
    assert_eq!(patch(&mut world, &place, &[ANY], json!({"subject": "One"})), is(404, "0x80040217"));
    assert_eq!(patch(&mut world, &place, &[], json!({"subject": "One"})), is(204, ""));
}

#[test]
fn patch_by_key_follows_the_status_table_and_names_the_key() {
    let mut world = world();
    let place = format!("leads({KEY})");
    assert_eq!(patch(&mut world, &place, &[ANY], json!({})), is(404, "0x80060891"));
    let made = crm(
        &mut world,
        "PATCH",
        &format!("{place}?$select=leadid,new_referralid"),
        &[FULL, NONE],
        Some(json!({"subject": "One"})),
    );
    assert_eq!(made.status, 201);
    assert_eq!(made.value()["new_referralid"], "3f1c2a9e-0000-4000-8000-000000000001");
    assert!(made.header("odata-entityid").expect("a place").ends_with(&place));
    assert_eq!(patch(&mut world, &place, &[NONE], json!({})), is(412, "0x80040237"));
    let again = crm(&mut world, "PATCH", &place, &[FULL], Some(json!({"new_referralid": "other", "subject": "Two"})));
    assert_eq!((again.status, &again.value()["leadid"]), (200, &made.value()["leadid"]));
    assert_eq!(
        again.value()["new_referralid"],
        made.value()["new_referralid"],
        "key columns of a found row are dropped"
    );
    let shouted = format!("leads({})", KEY.to_uppercase().replace("NEW_REFERRALID", "new_referralid"));
    assert_eq!(patch(&mut world, &shouted, &[ANY], json!({})), is(204, ""), "keys know no case");
}

#[test]
fn a_key_of_the_body_wins_on_create_and_a_second_owner_of_a_key_is_refused() {
    let mut world = world();
    let made = crm(&mut world, "PATCH", &format!("leads({KEY})"), &[FULL], Some(json!({"new_referralid": "other"})));
    assert_eq!(made.value()["new_referralid"], "other");
    let second = crm(&mut world, "POST", "leads", &[], Some(json!({"new_referralid": "OTHER "})));
    assert_eq!(code(&second), is(412, "0x80060892"));
    assert_eq!(crm(&mut world, "POST", "leads", &[], Some(json!({"subject": "no key"}))).status, 204);
    assert_eq!(crm(&mut world, "POST", "leads", &[], Some(json!({"subject": "no key either"}))).status, 204);
}

#[test]
fn a_key_works_only_while_its_index_is_active() {
    for state in [KeyState::Absent, KeyState::Pending, KeyState::Failed] {
        let mut options = Options::default();
        options.crm.key = state;
        let mut world = world_with(options);
        assert_eq!(patch(&mut world, &format!("leads({KEY})"), &[], json!({})).0, 400, "{state:?}");
    }
    let mut world = world();
    assert_eq!(patch(&mut world, "leads(misspelt='x')", &[], json!({})).0, 400);
}

#[test]
fn column_and_key_can_be_installed_and_the_index_takes_its_time() {
    let mut options = Options::default();
    options.crm.referral_column = None;
    let mut world = world_with(options);
    let attribute = "EntityDefinitions(LogicalName='lead')/Attributes";
    let one = format!("{attribute}(LogicalName='new_referralid')?$select=LogicalName,MetadataId");
    assert_eq!(crm(&mut world, "GET", &one, &[], None).status, 404);
    let body = json!({"@odata.type": "Microsoft.Dynamics.CRM.StringAttributeMetadata", "SchemaName": "new_ReferralId", "MaxLength": 100});
    assert_eq!(crm(&mut world, "POST", attribute, &[], Some(body.clone())).status, 204);
    assert_eq!(code(&crm(&mut world, "POST", attribute, &[], Some(body))), is(400, "0x80047013"));
    assert_eq!(crm(&mut world, "GET", &one, &[], None).status, 200);
    let keys = "EntityDefinitions(LogicalName='lead')/Keys";
    let body = json!({"SchemaName": "new_ReferralIdKey", "KeyAttributes": ["new_referralid"]});
    assert_eq!(crm(&mut world, "POST", keys, &[], Some(body.clone())).status, 204);
    assert_eq!(code(&crm(&mut world, "POST", keys, &[], Some(body))), is(400, "0x80060894"));
    let query = format!("{keys}?$select=SchemaName,LogicalName,KeyAttributes,EntityKeyIndexStatus");
    let state =
        |world: &mut World| crm(world, "GET", &query, &[], None).value()["value"][0]["EntityKeyIndexStatus"].clone();
    assert_eq!(state(&mut world), "Pending");
    world.clock().advance(Duration::from_secs(60));
    assert_eq!(state(&mut world), "Active");
    assert_eq!(patch(&mut world, &format!("leads({KEY})"), &[FULL], json!({})).0, 201);
}

#[test]
fn every_wrong_value_has_its_documented_code() {
    let mut world = world();
    let place = format!("leads({})", lead(&mut world, json!({"subject": "One"})));
    for (body, wanted) in [
        (json!({"subject": "x".repeat(301)}), "0x80044331"),
        (json!({"subject": "👩".repeat(151)}), "0x80044331"),
        (json!({"mobilephone": "123456789012345678901"}), "0x80044331"),
        (json!({"numberofemployees": 1_000_001}), "0x8004432f"),
        (json!({"estimatedamount": -1}), "0x80044330"),
        (json!({"estimatedamount": "25"}), "0x80048d19"),
        (json!({"leadsourcecode": 99}), "0x8004431a"),
        (json!({"donotemail": "yes"}), "0x80048d19"),
        (json!({"estimatedclosedate": "2027-01-31T00:00:00Z"}), "0x80048d19"),
        (json!({"Subject": "case"}), "0x80048d19"),
        (json!({"nosuchcolumn": 1}), "0x80048d19"),
        (json!({"_ownerid_value": Uuid::nil()}), "0x80048d19"),
        (json!({"OwnerId@odata.bind": "/teams(00000000-0000-0000-0000-000000000000)"}), "0x80048d19"),
        (json!({"transactioncurrencyid@odata.bind": "/accounts(00000000-0000-0000-0000-000000000000)"}), "0x80048d19"),
        (json!({"modifiedon": "2027-01-31T00:00:00Z"}), "0x80048d19"),
        (json!({"statecode": 2, "statuscode": 3}), "0x80048408"),
        (json!({"statuscode": 4}), "0x80048408"),
        (json!({"statuscode": 99}), "0x8004431a"),
    ] {
        assert_eq!(patch(&mut world, &place, &[ANY], body.clone()), is(400, wanted), "{body}");
    }
    assert_eq!(patch(&mut world, &place, &[ANY], json!({"subject": "👩".repeat(150)})), is(204, ""));
    let body = json!({"transactioncurrencyid@odata.bind": format!("/transactioncurrencies({})", Uuid::nil())});
    let answer = crm(&mut world, "PATCH", &place, &[ANY], Some(body));
    assert_eq!(code(&answer), is(404, "0x80040217"));
    let message = answer.value()["error"]["message"].as_str().expect("a message").to_owned();
    assert!(message.starts_with("transactioncurrency "), "the message names the table that was missed: {message}");
}

#[test]
fn money_is_rounded_to_the_places_of_its_currency() {
    let mut world = world();
    let amount = "1234.567";
    for (currency, rounded) in [("USD", "1234.57"), ("KRW", "1235")] {
        let id = world.crm.currency(currency).expect("a currency");
        let text = format!(
            "{{\"estimatedamount\":{amount},\"transactioncurrencyid@odata.bind\":\"/transactioncurrencies({id})\"}}"
        );
        let body = serde_json::from_str(&text).expect("json");
        let answer = crm(&mut world, "POST", "leads?$select=estimatedamount", &[FULL], Some(body));
        assert_eq!(answer.status, 201);
        assert_eq!(answer.value()["estimatedamount"].to_string(), rounded);
        assert_eq!(answer.value()["_transactioncurrencyid_value"], id.to_string(), "it comes with the amount");
    }
}

#[test]
fn states_follow_their_pairs_and_closed_leads_refuse_columns() {
    let mut world = world();
    let id = lead(&mut world, json!({"subject": "One"}));
    let place = format!("leads({id})");
    assert_eq!(patch(&mut world, &place, &[ANY], json!({"statuscode": 2})), is(204, ""));
    assert_eq!(patch(&mut world, &place, &[ANY], json!({"statecode": 2, "statuscode": 5})), is(204, ""));
    assert_eq!(patch(&mut world, &place, &[ANY], json!({"statecode": 1, "statuscode": 3})), is(400, "0x8004f00e"));
    assert_eq!(patch(&mut world, &place, &[ANY], json!({"companyname": "x"})), is(400, "0x80040230"));
    world.options.crm.closed_leads = ClosedLeads::Accept;
    assert_eq!(patch(&mut world, &place, &[ANY], json!({"companyname": "x"})), is(204, ""));
    assert_eq!(patch(&mut world, &place, &[ANY], json!({"statecode": 0})), is(204, ""));
    assert_eq!(*world.crm.value(Table::Lead, id, "statuscode"), json!(1), "the default of the state");
    let created = crm(
        &mut world,
        "POST",
        "leads?$select=statecode,statuscode",
        &[FULL],
        Some(json!({"statecode": 2, "statuscode": 2})),
    );
    assert_eq!((&created.value()["statecode"], &created.value()["statuscode"]), (&json!(0), &json!(2)));
    assert_eq!(code(&crm(&mut world, "POST", "leads", &[], Some(json!({"statuscode": 4})))), is(400, "0x80048408"));
}

#[test]
fn selections_filters_and_orders_are_checked_against_the_columns() {
    let mut world = world();
    lead(&mut world, json!({"subject": "b", "firstname": "Ada", "lastname": "Doe", "address1_city": "Reno"}));
    lead(&mut world, json!({"subject": "a"}));
    let mut list = |query: &str| crm(&mut world, "GET", &format!("leads?{query}"), &[], None);
    assert_eq!(code(&list("$select=subject,owneridname")), is(400, "0x80060888"));
    assert_eq!(code(&list("$filter=nonsense%20eq%201")), is(400, "0x80060888"));
    assert_eq!(code(&list("$skip=5")), is(400, "0x80060888"));
    let body = list("$select=subject,fullname,address1_city&$orderby=subject%20asc").value();
    assert_eq!((&body["value"][0]["subject"], &body["value"][1]["subject"]), (&json!("a"), &json!("b")));
    assert_eq!(body["value"][1]["fullname"], "Ada Doe");
    assert_eq!(body["value"][1]["address1_composite"], "Reno");
    assert!(body["value"][0]["fullname"].is_null() && body["value"][0]["leadid"].is_string());
    let filter = encode("subject eq 'b' and (firstname ne null or lastname eq null)");
    assert_eq!(list(&format!("$select=subject&$filter={filter}")).value()["value"].as_array().map(Vec::len), Some(1));
    let whole = list("").value();
    assert!(whole["value"][0].as_object().expect("a row").len() > 80, "without $select every column comes");
}

#[test]
fn links_must_be_followed_as_given() {
    let mut world = world();
    for number in 0..5 {
        lead(&mut world, json!({"subject": format!("lead {number}")}));
        world.clock().advance(Duration::from_secs(1));
    }
    let query = format!(
        "$select=subject&$filter={}&$orderby={}",
        encode("modifiedon ge 2026-01-01T00:00:00Z"),
        encode("modifiedon asc,leadid asc")
    );
    let page = [("Prefer", "odata.maxpagesize=2")];
    let mut seen = Vec::new();
    let mut place = Some(format!("leads?{query}"));
    while let Some(one) = place {
        let body = crm(&mut world, "GET", &one, &page, None).value();
        seen.extend(body["value"].as_array().expect("rows").iter().map(|row| row["subject"].to_string()));
        let link = body["@odata.nextLink"].as_str().map(str::to_owned);
        if let Some(link) = &link {
            let damaged = link.replace("%3C", "<").replace("%3D", "%3d");
            let rest = damaged.split_once("/v9.2/").expect("a link").1.to_owned();
            assert_eq!(crm(&mut world, "GET", &rest, &page, None).status, 400);
        }
        place = link.map(|link| link.split_once("/v9.2/").expect("a link").1.to_owned());
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted());
}

#[test]
fn a_qualified_lead_has_an_opportunity_whose_end_does_not_touch_it() {
    let mut world = world();
    let id = lead(
        &mut world,
        json!({"subject": "Deal", "companyname": "Contoso", "lastname": "Doe", "estimatedamount": 900}),
    );
    let body = json!({"CreateAccount": true, "CreateContact": true, "CreateOpportunity": true, "Status": 3});
    let place = format!("leads({id})/Microsoft.Dynamics.CRM.QualifyLead");
    assert_eq!(crm(&mut world, "POST", &place, &[], Some(body)).value()["value"].as_array().map(Vec::len), Some(3));
    let query = format!(
        "leads({id})?$select=statecode&$expand={}",
        encode("qualifyingopportunityid($select=statecode,estimatedvalue)")
    );
    let read = crm(&mut world, "GET", &query, &[], None).value();
    assert_eq!((&read["statecode"], &read["qualifyingopportunityid"]["statecode"]), (&json!(1), &json!(0)));
    let opportunity = read["qualifyingopportunityid"]["opportunityid"].as_str().expect("an id").to_owned();
    let before = world.crm.value(Table::Lead, id, "versionnumber").clone();
    world.clock().advance(Duration::from_secs(60));
    let refused =
        patch(&mut world, &format!("opportunities({opportunity})"), &[ANY], json!({"statecode": 1, "statuscode": 3}));
    assert_eq!(refused.0, 400);
    let close = json!({"Status": 3, "OpportunityClose": {"subject": "Won", "actualrevenue": 1000, "opportunityid@odata.bind": format!("/opportunities({opportunity})")}});
    assert_eq!(crm(&mut world, "POST", "WinOpportunity", &[], Some(close)).status, 204);
    assert_eq!(*world.crm.value(Table::Lead, id, "versionnumber"), before);
    let filter = encode(&format!("_originatingleadid_value eq {id} and originatingleadid/subject eq 'Deal'"));
    let read =
        crm(&mut world, "GET", &format!("opportunities?$select=statecode,actualvalue&$filter={filter}"), &[], None)
            .value();
    assert_eq!((&read["value"][0]["statecode"], &read["value"][0]["actualvalue"]), (&json!(1), &json!(1000)));
    let reopened =
        patch(&mut world, &format!("opportunities({opportunity})"), &[ANY], json!({"statecode": 0, "statuscode": 1}));
    assert_eq!(reopened, is(204, ""));
}

#[test]
fn a_merged_lead_points_to_its_master_and_keeps_its_referral_id() {
    let mut world = world();
    let master = lead(&mut world, json!({"subject": "A"}));
    let loser = lead(&mut world, json!({"subject": "B", "new_referralid": "r"}));
    let body = json!({"Target": {"leadid": master}, "Subordinate": {"leadid": loser}, "PerformParentingChecks": false});
    assert_eq!(crm(&mut world, "POST", "Merge", &[], Some(body)).status, 204);
    let read = crm(
        &mut world,
        "GET",
        &format!("leads({loser})?$select=merged,_masterid_value,statecode,new_referralid"),
        &[],
        None,
    )
    .value();
    assert_eq!((&read["merged"], &read["statecode"], &read["new_referralid"]), (&json!(true), &json!(2), &json!("r")));
    assert_eq!(read["_masterid_value"], master.to_string());
}

#[test]
fn metadata_gives_lengths_options_states_and_refuses_what_a_type_does_not_have() {
    let mut world = world();
    let attributes = "EntityDefinitions(LogicalName='lead')/Attributes";
    let texts = format!(
        "{attributes}/Microsoft.Dynamics.CRM.StringAttributeMetadata?$select=LogicalName,MaxLength,RequiredLevel,IsValidForCreate,IsValidForUpdate"
    );
    let body = crm(&mut world, "GET", &texts, &[], None).value();
    let phone = body["value"]
        .as_array()
        .expect("columns")
        .iter()
        .find(|row| row["LogicalName"] == "mobilephone")
        .expect("a column");
    assert_eq!(phone["MaxLength"], 20);
    let status = format!(
        "{attributes}(LogicalName='statuscode')/Microsoft.Dynamics.CRM.StatusAttributeMetadata?$select=LogicalName&$expand=OptionSet($select=Options)"
    );
    let body = crm(&mut world, "GET", &status, &[], None).value();
    assert_eq!(body["OptionSet"]["Options"][3]["State"], 2);
    assert_eq!(body["OptionSet"]["Options"][3]["Label"]["UserLocalizedLabel"]["Label"], "Lost");
    assert_eq!(crm(&mut world, "GET", &format!("{attributes}?$select=MaxLength"), &[], None).status, 400);
    assert_eq!(crm(&mut world, "GET", &format!("{attributes}(LogicalName='nothing')"), &[], None).status, 404);
    let table = "EntityDefinitions(LogicalName='lead')?$select=LogicalName,EntitySetName,ChangeTrackingEnabled";
    assert_eq!(crm(&mut world, "GET", table, &[], None).value()["EntitySetName"], "leads");
    let probe = crm(&mut world, "GET", "WhoAmI", &[], None);
    assert_eq!(probe.value()["UserId"], world.crm.application_user().to_string());
    assert_eq!(probe.header("x-ms-dop-hint"), Some("52"));
}

#[test]
fn what_customers_added_runs() {
    let mut options = Options::default();
    options.crm.required_column = Some("new_region".to_owned());
    options.crm.plug_ins = vec![
        PlugIn::Refuses { column: "companyname".into(), word: "Forbidden".into() },
        PlugIn::Crashes { column: "companyname".into(), word: "Crash".into() },
        PlugIn::Touches,
    ];
    let mut world = world_with(options);
    let mut post = |body: Value| crm(&mut world, "POST", "leads?$select=leadid", &[FULL], Some(body));
    assert_eq!(post(json!({"subject": "x"})).status, 400);
    assert_eq!(code(&post(json!({"new_region": "n", "companyname": "Forbidden Ltd"}))), is(400, "0x80040265"));
    assert_eq!(code(&post(json!({"new_region": "n", "companyname": "Crash Ltd"}))), is(500, "0x80040224"));
    let made = post(json!({"new_region": "n"}));
    assert_eq!(made.status, 201);
    let body = made.value();
    let (id, etag) = (body["leadid"].as_str().expect("an id"), body["@odata.etag"].as_str().expect("a version"));
    let stale = patch(&mut world, &format!("leads({id})"), &[("If-Match", etag)], json!({"subject": "y"}));
    assert_eq!(stale, is(412, "0x80060882"), "the plug-in touched it right after the write");
}

#[test]
fn over_the_limit_everything_is_refused_until_the_wait_is_over_and_impatience_makes_it_longer() {
    let mut options = Options::default();
    options.crm.limits.requests = 3;
    let mut world = world_with(options);
    for _ in 0..3 {
        assert_eq!(crm(&mut world, "GET", "WhoAmI", &[], None).status, 200);
    }
    let refused = crm(&mut world, "GET", "WhoAmI", &[], None);
    assert_eq!(code(&refused), is(429, "0x80072322"));
    assert_eq!(refused.header("retry-after"), Some("300"));
    world.clock().advance(Duration::from_secs(100));
    assert_eq!(crm(&mut world, "GET", "WhoAmI", &[], None).header("retry-after"), Some("205"));
    let inside = world.journal.records().last().expect("a record").inside_window;
    assert_eq!(inside, Some(Duration::from_secs(100)));
    world.clock().advance(Duration::from_secs(205));
    assert_eq!(crm(&mut world, "GET", "WhoAmI", &[], None).status, 200);
}

fn batch(world: &mut World, headers: &[(&str, &str)], body: &str) -> super::Answer {
    let mut request = super::Request::trusted("POST", "/api/data/v9.2/$batch");
    request.body = body.replace('\n', "\r\n").into_bytes();
    for (name, value) in headers {
        request = request.with(name, value);
    }
    world.ask(super::Service::Crm, &request.with("Content-Type", "multipart/mixed; boundary=\"batch_1\""))
}

fn create_part(subject: &str) -> String {
    format!(
        "--batch_1\nContent-Type: application/http\nContent-Transfer-Encoding: binary\n\nPOST /api/data/v9.2/leads HTTP/1.1\nContent-Type: application/json\n\n{{\"subject\":\"{subject}\"}}\n"
    )
}

#[test]
fn a_batch_stops_at_the_first_failure_unless_it_may_go_on() {
    let long = "x".repeat(301);
    let read = "--batch_1\nContent-Type: application/http\nContent-Transfer-Encoding: binary\n\nGET /api/data/v9.2/leads?$select=subject HTTP/1.1\nAccept: application/json\n\n\n";
    let body = format!("{}{}{}{read}--batch_1--\n", create_part("One"), create_part(&long), create_part("Two"));
    for (headers, status, parts, leads) in
        [(vec![], 400, 2, 1), (vec![("Prefer", "odata.continue-on-error")], 200, 4, 2)]
    {
        let mut world = world();
        let answer = batch(&mut world, &headers, &body);
        let text = answer.body.text();
        assert_eq!((answer.status, text.matches("HTTP/1.1 ").count()), (status, parts), "{text}");
        assert!(text.contains("0x80044331"));
        assert_eq!(world.crm.lead_ids().len(), leads);
        assert_eq!(world.journal.count(super::Service::Crm), 1);
        assert_eq!(world.journal.batch_items(), parts as u64);
    }
    let mut world = world();
    assert_eq!(batch(&mut world, &[], "no parts").status, 400);
}

#[test]
fn a_change_set_is_all_or_nothing_and_knows_its_own_rows() {
    let set = |second: &str| {
        let part = |id: u32, line: &str, body: &str| {
            format!(
                "--set_1\nContent-Type: application/http\nContent-Transfer-Encoding: binary\nContent-ID: {id}\n\n{line} HTTP/1.1\nContent-Type: application/json\n\n{body}\n"
            )
        };
        let one = part(1, "POST /api/data/v9.2/accounts", "{\"name\":\"Contoso\"}");
        let two = part(2, "POST /api/data/v9.2/leads", second);
        format!("--batch_1\nContent-Type: multipart/mixed; boundary=set_1\n\n{one}{two}--set_1--\n--batch_1--\n")
    };
    let mut world = world();
    let answer = batch(&mut world, &[], &set("{\"subject\":\"One\",\"parentaccountid@odata.bind\":\"$1\"}"));
    assert_eq!(answer.status, 200, "{}", answer.body.text());
    let accounts = world.crm.ids(Table::Account);
    let id = world.crm.lead_ids()[0];
    assert_eq!(*world.crm.value(Table::Lead, id, "_parentaccountid_value"), accounts[0].to_string());
    let refused = batch(&mut world, &[], &set("{\"subject\":5}"));
    assert_eq!(refused.status, 400);
    assert_eq!((world.crm.ids(Table::Account).len(), world.crm.lead_ids().len()), (1, 1), "rolled back");
    let forward = batch(&mut world, &[], &set("{\"subject\":\"x\",\"parentaccountid@odata.bind\":\"$9\"}"));
    assert!(forward.body.text().contains("does not exist in the batch context"));
}

#[test]
fn delta_links_bring_changes_then_deletions_and_expire() {
    let mut world = world();
    let ids: Vec<Uuid> = (0..5).map(|_| lead(&mut world, json!({"subject": "x"}))).collect();
    let headers = [("Prefer", "odata.track-changes,odata.maxpagesize=2")];
    let refused = crm(&mut world, "GET", "leads?$filter=subject%20ne%20null", &headers, None);
    assert_eq!(refused.status, 400);
    let read = |world: &mut World, mut place: String| {
        let mut rows = Vec::new();
        loop {
            let body = crm(world, "GET", &place, &headers, None).value();
            rows.extend(body["value"].as_array().expect("rows").clone());
            let link = body["@odata.nextLink"].as_str().or(body["@odata.deltaLink"].as_str()).expect("a link");
            place = link.split_once("/v9.2/").expect("a link").1.to_owned();
            if body["@odata.deltaLink"].is_string() {
                return (rows, place);
            }
        }
    };
    let (rows, link) = read(&mut world, "leads?$select=subject".into());
    assert_eq!(rows.len(), 5);
    let (rows, link) = read(&mut world, link);
    assert!(rows.is_empty());
    world.edit_row(Table::Lead, ids[3], json!({"subject": "y"})).expect("edited");
    world.delete_lead(ids[0]);
    let (rows, link) = read(&mut world, link);
    assert_eq!((rows[0]["subject"].as_str(), rows[1]["reason"].as_str()), (Some("y"), Some("deleted")));
    assert_eq!(rows[1]["id"], ids[0].to_string());
    // A deletion between two edits, and more edits than fit on a page: it comes on the last one.
    world.edit_row(Table::Lead, ids[1], json!({"subject": "z"})).expect("edited");
    world.delete_lead(ids[4]);
    for id in [ids[2], ids[3]] {
        world.edit_row(Table::Lead, id, json!({"subject": "z"})).expect("edited");
    }
    let (rows, link) = read(&mut world, link);
    assert_eq!((rows.len(), rows[3]["id"].as_str()), (4, Some(ids[4].to_string().as_str())));
    world.clock().advance(Duration::from_secs(8 * 86_400));
    assert_eq!(code(&crm(&mut world, "GET", &link, &headers, None)), is(400, "0x80044352"));
}
