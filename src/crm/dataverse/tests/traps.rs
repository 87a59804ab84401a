//! The traps of dataverse §8 that concern the adapter, by number.

use http::Method;
use serde_json::json;
use uuid::Uuid;

use super::fake::*;
use crate::model::{Fault, LeadDraft, LeadId, Timestamp};
use crate::ports::{Crm, FindBy};

#[tokio::test]
async fn trap_1_a_deleted_lead_is_not_resurrected() {
    let fake = Fake::new();
    fake.on(Method::PATCH, "leads(", error(404, "0x80040217", "lead With Id = 1 Does Not Exist"));
    let error = derived(&fake).update(lead_id(), &etag(), &draft(), request()).await.expect_err("gone");
    assert_eq!(error.fault, Fault::Missing);
    assert_eq!(header(&fake.calls()[0], "if-match"), etag().0);
}

#[tokio::test]
async fn trap_2_nothing_is_created_while_the_key_is_not_active() {
    for status in ["Pending", "InProgress", "Failed"] {
        let fake = Fake::new();
        let keys = |status: &str| ok(json!({"value": [{"KeyAttributes": [COLUMN], "EntityKeyIndexStatus": status}]}));
        fake.metadata(KEYS, keys(status));
        let dataverse = keyed(&fake);
        let error = dataverse.create(referral(), lead_id(), &draft(), request()).await.expect_err("refused");
        assert_eq!(error.fault, Fault::Unauthorized);
        assert!(error.message.is_some_and(|message| message.contains(COLUMN)));
        assert!(dataverse.get_by_referral(referral(), lead_id()).await.is_err());
        assert!(fake.calls().is_empty());

        fake.metadata(KEYS, keys("Active"));
        fake.on(Method::PATCH, "leads(", ok(lead_row()));
        dataverse.create(referral(), lead_id(), &draft(), request()).await.expect("active by now");
        assert!(dataverse.live().await.expect("a schema").schema.is_key_active);
    }
}

#[tokio::test]
async fn trap_2_a_key_that_stopped_being_valid_is_noticed() {
    let fake = Fake::new();
    let dataverse = keyed(&fake);
    dataverse.schema().await.expect("a schema");
    fake.metadata(KEYS, ok(json!({"value": []})));
    fake.on(Method::PATCH, "leads(", error(400, "0x80060888", "The key in the request URI is not valid"));
    let refused = dataverse.create(referral(), lead_id(), &draft(), request()).await.expect_err("refused");
    assert_eq!(refused.fault, Fault::Unauthorized);
    assert!(refused.message.is_some_and(|message| message.contains(COLUMN)));
    assert_eq!(dataverse.create(referral(), lead_id(), &draft(), request()).await.expect_err("unsent").status, None);
    assert_eq!(fake.calls().len(), 1);
}

#[tokio::test]
async fn trap_3_the_key_column_is_never_in_the_body_of_a_create_by_key() {
    let fake = Fake::new();
    fake.on(Method::PATCH, "leads(", ok(lead_row()));
    let draft = LeadDraft { columns: [(COLUMN.to_owned(), json!("x"))].into(), ..draft() };
    keyed(&fake).create(referral(), lead_id(), &draft, request()).await.expect("a lead");
    assert!(body(&fake.calls()[0]).get(COLUMN).is_none());
}

#[tokio::test]
async fn trap_4_the_id_of_a_lead_created_by_key_comes_from_the_body() {
    let fake = Fake::new();
    let wrong = format!("{HOST}/api/data/v9.2/leads({})", Uuid::from_u128(1));
    fake.on(Method::PATCH, "leads(", ok(lead_row()).with("odata-entityid", &wrong));
    let lead = keyed(&fake).create(referral(), LeadId::new(Uuid::nil()), &draft(), request()).await.expect("a lead");
    assert_eq!(lead.id, lead_id());
}

#[tokio::test]
async fn trap_5_an_answer_without_content_is_followed_by_a_read() {
    let fake = Fake::new();
    fake.on(Method::PATCH, "leads(", raw(204, ""));
    fake.on(Method::GET, "leads(new_referralid='", ok(lead_row()));
    let lead = keyed(&fake).create(referral(), lead_id(), &draft(), request()).await.expect("a lead");
    assert_eq!(lead.etag, Some(etag()));
}

#[tokio::test]
async fn trap_6_only_the_given_columns_are_sent() {
    let fake = Fake::new();
    fake.on(Method::PATCH, "leads(", ok(lead_row()));
    derived(&fake).update(lead_id(), &etag(), &draft(), request()).await.expect("a lead");
    assert_eq!(body(&fake.calls()[0]), json!({"subject": "Contoso migration"}));
}

#[tokio::test]
async fn trap_11_a_merged_lead_tells_its_master() {
    let fake = Fake::new();
    let mut row = lead_row();
    row["merged"] = json!(true);
    row["_masterid_value"] = json!(Uuid::from_u128(8));
    row["statecode"] = json!(2);
    fake.on(Method::GET, "leads(", ok(row));
    let lead = derived(&fake).get(lead_id()).await.expect("a lead");
    assert_eq!((lead.is_merged, lead.master), (true, Some(LeadId::new(Uuid::from_u128(8)))));
    assert!(SELECT.contains("merged,_masterid_value"));
}

#[tokio::test]
async fn trap_15_the_currency_travels_with_its_amount() {
    let fake = Fake::new();
    fake.on(Method::PATCH, "leads(", ok(lead_row()));
    let columns = [("estimatedamount".to_owned(), json!(7)), ("transactioncurrencyid".to_owned(), json!("EUR"))];
    let draft = LeadDraft { columns: columns.into(), ..LeadDraft::default() };
    derived(&fake).update(lead_id(), &etag(), &draft, request()).await.expect("a lead");
    let sent = body(&fake.calls()[0]);
    assert!(sent.get("estimatedamount").is_some() && sent.get("transactioncurrencyid@odata.bind").is_some());
}

#[tokio::test]
async fn trap_17_columns_that_do_not_exist_are_not_selected() {
    let fake = Fake::new();
    fake.on(Method::GET, "leads(", ok(lead_row()));
    derived(&fake).get(lead_id()).await.expect("a lead");
    assert!(!fake.calls()[0].url.as_str().contains("new_gone"));
}

#[tokio::test]
async fn trap_19_a_link_to_another_host_is_not_followed() {
    for host in ["https://evil.example", "http://contoso.crm4.dynamics.com", "https://contoso.api.crm4.dynamics.com"] {
        let fake = Fake::new();
        let link = format!("{host}/api/data/v9.2/leads?$skiptoken=1");
        fake.on(Method::GET, "/leads?", ok(json!({"value": [], "@odata.nextLink": link})));
        let error = derived(&fake).leads_changed_since(Timestamp::EPOCH, &[], None).await.expect_err("refused");
        assert_eq!(error.fault, Fault::Malformed);
        assert!(error.message.is_some_and(|message| message.contains("dataverse.url")));
        assert_eq!(fake.calls().len(), 1);
    }
}

#[tokio::test]
async fn trap_20_the_poll_includes_the_second_of_the_watermark() {
    let fake = Fake::new();
    fake.on(Method::GET, "/leads?", ok(json!({"value": []})));
    let since = Timestamp::parse("2026-03-01T08:10:59.999Z").expect("an instant");
    derived(&fake).leads_changed_since(since, &[], None).await.expect("a page");
    let url = fake.calls()[0].url.to_string();
    assert!(url.contains("modifiedon%20ge%202026-03-01T08:10:59Z&"), "{url}");
}

#[tokio::test]
async fn trap_28_an_unclear_404_of_an_update_is_settled_by_reading_the_lead() {
    for unclear in [
        raw(404, ""),
        error(404, "0x80040217", "Gibt es nicht"),
        error(404, "0x80060891", ""),
        error(404, "NotFound", ""),
    ] {
        let fake = Fake::new();
        fake.on(Method::PATCH, "leads(", unclear.clone());
        fake.on(Method::GET, "leads(", ok(lead_row()));
        let error = derived(&fake).update(lead_id(), &etag(), &draft(), request()).await.expect_err("refused");
        assert_eq!((error.fault, error.is_outcome_unknown), (Fault::Refused, false));

        let fake = Fake::new();
        fake.on(Method::PATCH, "leads(", unclear.clone());
        fake.on(Method::GET, "leads(", raw(404, ""));
        let error = derived(&fake).update(lead_id(), &etag(), &draft(), request()).await.expect_err("gone");
        assert_eq!(error.fault, Fault::Missing);

        let fake = Fake::new();
        fake.on(Method::PATCH, "leads(", unclear);
        fake.on(Method::GET, "leads(", raw(503, ""));
        let error = derived(&fake).update(lead_id(), &etag(), &draft(), request()).await.expect_err("not known");
        assert_eq!(error.fault, Fault::Unavailable);
    }
}

#[tokio::test]
async fn trap_31_errors_never_show_what_the_service_quotes() {
    let secret = "Jane Doe <jane@example.org> Bearer abc TraceText";
    for code in ["0x80044331", "0x80040265", "0x80048d19", "", "0x80040217"] {
        for status in [400, 404, 412, 500] {
            let fake = Fake::new();
            fake.on(Method::PATCH, "leads(", error(status, code, secret));
            fake.on(Method::GET, "leads(", error(status, code, secret));
            let error = derived(&fake).update(lead_id(), &etag(), &draft(), request()).await.expect_err("refused");
            let printed = format!("{error} {error:?}");
            assert!(!printed.contains("Jane") && !printed.contains("abc"), "{printed}");
        }
    }
}

#[tokio::test]
async fn trap_32_a_stale_version_is_a_conflict_and_is_not_repeated() {
    let fake = Fake::new();
    fake.on(Method::PATCH, "leads(", error(412, "0x80060882", "version"));
    let error = derived(&fake).update(lead_id(), &etag(), &draft(), request()).await.expect_err("stale");
    assert_eq!((error.fault, fake.calls().len()), (Fault::Conflict, 1));
}

#[tokio::test]
async fn trap_34_every_write_carries_the_tag_and_no_read_does() {
    let fake = Fake::new();
    let dataverse = derived(&fake);
    fake.on(Method::PATCH, "leads(", ok(lead_row()));
    fake.on(Method::PATCH, "leads(", ok(lead_row()));
    fake.on(Method::GET, "leads(", ok(lead_row()));
    fake.on(Method::GET, "leads?", ok(json!({"value": []})));
    dataverse.create(referral(), lead_id(), &draft(), request()).await.expect("a lead");
    dataverse.update(lead_id(), &etag(), &draft(), request()).await.expect("a lead");
    dataverse.get(lead_id()).await.expect("a lead");
    dataverse.find(FindBy::Subject, &[referral()]).await.expect("none");
    for call in fake.all_calls() {
        assert_eq!(call.url.as_str().contains("tag=referrald"), call.method == Method::PATCH, "{}", call.url);
    }
}
