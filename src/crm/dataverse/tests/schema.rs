//! Opening, identity and schema.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::json;
use uuid::Uuid;

use super::fake::*;
use crate::crm::dataverse::settings::{DataverseSettings, Identity};
use crate::crm::dataverse::{Dataverse, SCHEMA_AGE_MIN};
use crate::http::Exchange;
use crate::model::{Fault, LeadDraft, Timestamp};
use crate::ports::{ColumnKind, Crm, CrmIdentity};

fn refusal(change: impl FnOnce(&mut DataverseSettings), column: Option<&str>, mapped: &[&str]) -> String {
    let mut settings = settings();
    change(&mut settings);
    let exchange: Arc<dyn Exchange> = Fake::new();
    let mapped = mapped.iter().map(|name| (*name).to_owned()).collect();
    match Dataverse::open(&settings, Identity::AlternateKey, column, mapped, exchange) {
        Ok(_) => String::new(),
        Err(message) => message,
    }
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    assert_eq!(refusal(|_| {}, Some(COLUMN), &["subject"]), "");
    assert!(refusal(|settings| settings.url = None, Some(COLUMN), &[]).contains("dataverse.url"));
    let plain = |settings: &mut DataverseSettings| settings.url = "http://contoso.crm4.dynamics.com".parse().ok();
    assert!(refusal(plain, Some(COLUMN), &[]).contains("https://"));
    assert!(refusal(|settings| settings.tag = "a&b=c".into(), Some(COLUMN), &[]).contains("dataverse.tag"));
    assert!(refusal(|_| {}, None, &[]).contains("referral_id_column"));
    assert!(refusal(|_| {}, Some("new_ReferralId"), &[]).contains("new_ReferralId"));
    assert!(refusal(|_| {}, Some("a') or ('b"), &[]).contains("logical column name"));
    assert!(refusal(|_| {}, Some(COLUMN), &["ownerid&$top=1"]).contains("mapping"));
}

#[tokio::test]
async fn who_am_i_tells_user_organization_and_recommended_parallelism() {
    let fake = Fake::new();
    let (organization, user) = (Uuid::from_u128(5), Uuid::from_u128(6));
    let answer = json!({"BusinessUnitId": Uuid::nil(), "UserId": user, "OrganizationId": organization});
    for (hint, parallelism) in [("52", Some(52)), ("0", None), ("many", None)] {
        fake.on(Method::GET, "/WhoAmI", ok(answer.clone()).with("x-ms-dop-hint", hint));
        let identity = derived(&fake).identity().await.expect("an identity");
        assert_eq!(identity, CrmIdentity { organization, user, parallelism });
        assert_eq!(fake.recommended.lock().unwrap().take(), parallelism, "the client stack is told");
    }
    assert_eq!(fake.all_calls()[0].url.as_str(), format!("{HOST}/api/data/v9.2/WhoAmI"));
    assert_eq!(fake.all_calls().len(), 3, "no schema is needed for that");
    fake.on(Method::GET, "/WhoAmI", ok(json!({"UserId": user})));
    assert_eq!(derived(&fake).identity().await.expect_err("no organization").fault, Fault::Malformed);
    fake.on(Method::GET, "/WhoAmI", raw(200, "<html>sign in</html>"));
    assert_eq!(derived(&fake).identity().await.expect_err("HTML").fault, Fault::Malformed);
}

#[tokio::test]
async fn the_schema_is_asked_for_with_the_documented_urls() {
    let fake = Fake::new();
    keyed(&fake).schema().await.expect("a schema");
    let mut asked: Vec<String> = fake
        .all_calls()
        .iter()
        .map(|call| call.url.as_str().trim_start_matches(HOST).trim_start_matches("/api/data/v9.2/").to_owned())
        .collect();
    asked.sort();
    let lead = "EntityDefinitions(LogicalName='lead')";
    let crm = "Microsoft.Dynamics.CRM";
    let mut expected = [
        format!("{lead}/Attributes?$select=LogicalName,AttributeType,RequiredLevel,IsValidForCreate,IsValidForUpdate"),
        format!("{lead}/Attributes/{crm}.StringAttributeMetadata?$select=LogicalName,MaxLength,RequiredLevel,IsValidForCreate,IsValidForUpdate"),
        format!("{lead}/Attributes/{crm}.MemoAttributeMetadata?$select=LogicalName,MaxLength"),
        format!("{lead}/Attributes/{crm}.DateTimeAttributeMetadata?$select=LogicalName,DateTimeBehavior"),
        format!("{lead}/Attributes(LogicalName='statuscode')/{crm}.StatusAttributeMetadata?$select=LogicalName&$expand=OptionSet($select=Options)"),
        format!("{lead}/Attributes(LogicalName='leadsourcecode')/{crm}.PicklistAttributeMetadata?$select=LogicalName&$expand=OptionSet($select=Options),GlobalOptionSet($select=Options)"),
        format!("{lead}/Keys?$select=SchemaName,LogicalName,KeyAttributes,EntityKeyIndexStatus"),
        "transactioncurrencies?$select=transactioncurrencyid,isocurrencycode,currencyprecision,exchangerate&$filter=statecode%20eq%200".to_owned(),
    ];
    expected.sort();
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn the_schema_says_what_the_organization_says() {
    let fake = Fake::new();
    let schema = keyed(&fake).schema().await.expect("a schema");
    assert_eq!(schema.columns["subject"].length_max, Some(250));
    assert_eq!(schema.columns["description"].length_max, Some(10_000));
    assert_eq!(schema.columns["leadsourcecode"].options, Some(vec![1, 4, 100_000_000]));
    assert_eq!(schema.columns["statuscode"].options, Some(vec![1, 100_000_001]));
    assert_eq!(schema.status_codes, [(1, 0), (100_000_001, 2)].into());
    assert_eq!(schema.currencies, [("EUR".to_owned(), 2)].into());
    assert_eq!(schema.columns["new_day"].kind, ColumnKind::Date);
    assert_eq!(schema.columns["transactioncurrencyid"].kind, ColumnKind::Currency);
    assert!(schema.has_referral_column && schema.is_key_active);
    assert!(!schema.columns.contains_key("new_gone"));
}

#[tokio::test]
async fn metadata_that_is_not_served_is_replaced_by_the_products_own() {
    for status in [400, 404, 501] {
        for reply in [raw(status, ""), error(status, "0x80060888", "no such thing"), error(status, "", "")] {
            let fake = Fake::new();
            for part in ALL_METADATA {
                fake.metadata(part, reply.clone());
            }
            let schema = derived(&fake).schema().await.expect("a schema all the same");
            assert_eq!(schema.columns["subject"].length_max, Some(300), "{status}");
            assert_eq!(schema.columns["estimatedclosedate"].kind, ColumnKind::Date);
            assert_eq!(schema.status_codes[&7], 2);
            assert_eq!(schema.columns["leadsourcecode"].options.as_ref().map(Vec::len), Some(10));
            assert!(schema.currencies.is_empty() && !schema.has_referral_column);
        }
    }
}

#[tokio::test]
async fn one_missing_answer_does_not_spoil_the_others() {
    for part in ALL_METADATA {
        let fake = Fake::new();
        fake.metadata(part, raw(404, ""));
        let schema = keyed(&fake).schema().await.expect("a schema");
        let subject = if part == STRINGS { 300 } else { 250 };
        assert_eq!(schema.columns["subject"].length_max, Some(subject), "{part}");
        assert_eq!(schema.is_key_active, part != KEYS, "{part}");
        assert!(schema.has_referral_column, "{part}");
    }
}

#[tokio::test]
async fn trouble_while_reading_the_schema_is_an_error_and_not_a_default() {
    for (reply, fault) in [
        (raw(503, "<html>"), Fault::Unavailable),
        (error(403, "0x80040220", "prvReadAttribute"), Fault::Unauthorized),
        (error(400, "0x80040225", "disabled"), Fault::Unauthorized),
        (raw(200, "<html>"), Fault::Malformed),
    ] {
        for part in [ATTRIBUTES, STRINGS, MEMOS, STATUSES, PICKLISTS, KEYS, CURRENCIES] {
            let fake = Fake::new();
            fake.metadata(part, reply.clone());
            assert_eq!(keyed(&fake).schema().await.expect_err(part).fault, fault, "{part}");
        }
    }
}

#[tokio::test]
async fn a_gateways_404_does_not_say_that_the_referral_id_column_is_missing() {
    let fake = Fake::new();
    fake.metadata(ATTRIBUTES, raw(404, ""));
    fake.metadata(ONE_COLUMN, raw(404, "<html>"));
    assert_eq!(derived(&fake).schema().await.expect_err("no answer").fault, Fault::Unavailable);
}

#[tokio::test]
async fn many_first_callers_read_the_schema_once() {
    let fake = Fake::new();
    let dataverse = Arc::new(derived(&fake));
    let mut tasks = Vec::new();
    for _ in 0..8 {
        fake.on(Method::GET, &format!("leads({})", lead_id()), ok(lead_row()));
        let dataverse = Arc::clone(&dataverse);
        tasks.push(tokio::spawn(async move { dataverse.get(lead_id()).await }));
    }
    for task in tasks {
        task.await.expect("no panic").expect("a lead");
    }
    assert_eq!(fake.count(ATTRIBUTES), 1);
    dataverse.schema().await.expect("a schema");
    assert_eq!(fake.count(ATTRIBUTES), 2, "asking for the schema reads it again");
}

#[tokio::test]
async fn a_failed_reading_of_the_schema_is_tried_again_by_the_next_caller() {
    let fake = Fake::new();
    let dataverse = derived(&fake);
    fake.on(Method::GET, ATTRIBUTES, raw(503, ""));
    assert_eq!(dataverse.get(lead_id()).await.expect_err("no schema").fault, Fault::Unavailable);
    fake.on(Method::GET, "leads(", ok(lead_row()));
    dataverse.get(lead_id()).await.expect("a lead");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_names_an_unknown_column_makes_a_later_call_read_the_schema_again() {
    let fake = Fake::new();
    let dataverse = derived(&fake);
    let since = Timestamp::EPOCH;
    for (age, readings) in [(Duration::ZERO, 1), (SCHEMA_AGE_MIN, 2), (Duration::ZERO, 2)] {
        tokio::time::advance(age).await;
        fake.on(Method::GET, "leads?", error(400, "0x80060888", "Could not find a property named 'new_gone'"));
        assert_eq!(dataverse.leads_changed_since(since, &[], None).await.expect_err("refused").fault, Fault::Refused);
        fake.on(Method::GET, "leads?", ok(json!({"value": []})));
        dataverse.leads_changed_since(since, &[], None).await.expect("a page");
        assert_eq!(fake.count(ATTRIBUTES), readings, "at an age of {age:?} more");
    }
}

#[tokio::test]
async fn what_contradicts_the_schema_is_told_until_it_is_read_again() {
    let fake = Fake::new();
    let dataverse = derived(&fake);
    dataverse.schema().await.expect("a schema");
    let without = LeadDraft { columns: [("new_gone".to_owned(), json!("x"))].into(), ..LeadDraft::default() };
    for (code, draft, is_doubtful) in [
        ("0x80040265", draft(), false), // A plug-in's refusal says nothing about the schema.
        ("0x80044331", draft(), true),
        ("0x8004431a", draft(), true),
        ("0x80048408", draft(), true),
        ("0x80048cfc", draft(), true),
        ("0x80048d19", draft(), true),
        ("", without, true), // Never sent.
    ] {
        if !code.is_empty() {
            fake.on(Method::PATCH, "leads(", error(400, code, "refused"));
        }
        dataverse.update(lead_id(), &etag(), &draft, request()).await.expect_err("refused");
        assert_eq!(dataverse.is_schema_doubtful(), is_doubtful, "{code}");
        dataverse.schema().await.expect("a schema");
        assert!(!dataverse.is_schema_doubtful(), "{code}");
    }
}
