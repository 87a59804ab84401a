//! Polls, reads by id, look-ups.

use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fake::*;
use crate::crm::dataverse::api::{LISTING_PAGES_MAX, PAGE_SIZE_MAX};
use crate::crm::dataverse::settings::{DataverseSettings, Identity};
use crate::crm::dataverse::{CHUNKS_IN_FLIGHT, Dataverse, STRAY_CURRENCIES_MAX};
use crate::model::{Fault, LeadId, LeadState, ReferralId, Timestamp};
use crate::ports::{Crm, Cursor, FindBy};

fn since() -> Timestamp {
    Timestamp::parse("2026-03-01T08:10:00.999Z").expect("an instant")
}

fn rows(rows: &[Value]) -> Reply {
    ok(json!({"value": rows}))
}

#[tokio::test]
async fn the_poll_asks_for_our_leads_oldest_first() {
    let fake = Fake::new();
    fake.on(Method::GET, "/leads?", rows(&[lead_row()]));
    let page = derived(&fake).leads_changed_since(since(), &[], None).await.expect("a page");
    let call = &fake.calls()[0];
    assert_eq!(
        call.url.as_str(),
        format!(
            "{HOST}/api/data/v9.2/leads?$select={SELECT}\
             &$filter=new_referralid%20ne%20null%20and%20modifiedon%20ge%202026-03-01T08:10:00Z\
             &$orderby=modifiedon%20asc,leadid%20asc"
        )
    );
    assert_eq!(header(call, "prefer"), "odata.maxpagesize=500");
    assert_eq!(header(call, "if-none-match"), "null");
    assert!(call.body.is_none());
    assert_eq!(page.items[0].id, lead_id());
    assert_eq!(page.items[0].columns["transactioncurrencyid"], "EUR");
    assert_eq!((page.next, page.server_time), (None, Timestamp::parse("2026-03-01T09:00:00Z")));
}

#[tokio::test]
async fn leads_without_a_value_in_the_column_are_polled_by_id() {
    let fake = Fake::new();
    fake.on(Method::GET, "/leads?", rows(&[]));
    let (one, two) = (LeadId::new(Uuid::from_u128(1)), LeadId::new(Uuid::from_u128(2)));
    derived(&fake).leads_changed_since(since(), &[one, two], None).await.expect("a page");
    let url = fake.calls()[0].url.to_string();
    let filter = format!(
        "&$filter=(new_referralid%20ne%20null%20or%20leadid%20eq%20{one}%20or%20leadid%20eq%20{two})%20and%20modifiedon%20ge%20"
    );
    assert!(url.contains(&filter), "{url}");
    let most = vec![one; crate::cycle::UNNAMED_MAX];
    fake.on(Method::GET, "/leads?", rows(&[]));
    derived(&fake).leads_changed_since(since(), &most, None).await.expect("a page");
    assert!(fake.calls()[1].url.as_str().len() < crate::crm::dataverse::query::URL_BYTES_MAX);
}

#[tokio::test]
async fn without_the_referral_id_column_every_lead_is_polled() {
    for column in [None, Some("new_absent")] {
        let fake = Fake::new();
        fake.metadata(ONE_COLUMN, raw(404, ""));
        fake.on(Method::GET, "/leads?", rows(&[]));
        open(&fake, Identity::Derived, column).leads_changed_since(since(), &[], None).await.expect("a page");
        let url = fake.calls()[0].url.to_string();
        assert!(url.contains("&$filter=modifiedon%20ge%202026-03-01T08:10:00Z&"), "{url}");
        assert!(!url.contains("new_absent"), "{url}");
    }
}

#[tokio::test]
async fn the_next_page_is_asked_for_to_the_letter_and_with_the_same_preference() {
    let fake = Fake::new();
    let dataverse = derived(&fake);
    let link = format!(
        "{HOST}/api/data/v9.2/leads?$select=leadid%2csubject&$skiptoken=%3Ccookie%20pagenumber=%222%22%20\
         pagingcookie=%22%253ccookie%2520page%253d%25221%2522%253e%22%20istracking=%22False%22%20/%3E"
    );
    fake.on(Method::GET, "/leads?", ok(json!({"value": [], "@odata.nextLink": link})));
    let page = dataverse.leads_changed_since(since(), &[], None).await.expect("a page");
    let cursor = page.next.expect("an empty page can have a next one");
    assert!(cursor.0.starts_with("/api/data/v9.2/leads?"), "no host is kept");
    fake.on(Method::GET, "$skiptoken", rows(&[lead_row()]));
    let page = dataverse.leads_changed_since(since(), &[], Some(&cursor)).await.expect("a page");
    let calls = fake.calls();
    assert_eq!(calls[1].url.as_str(), link);
    assert_eq!(header(&calls[1], "prefer"), "odata.maxpagesize=500");
    assert_eq!((page.items.len(), page.next), (1, None));
}

#[tokio::test]
async fn a_link_that_does_not_lead_on_is_malformed() {
    let fake = Fake::new();
    let dataverse = derived(&fake);
    let link = format!("{HOST}/api/data/v9.2/leads?$skiptoken=7");
    let cursor = Cursor("/api/data/v9.2/leads?$skiptoken=7".into());
    for next in [json!(link), json!(7)] {
        fake.on(Method::GET, "$skiptoken=7", ok(json!({"value": [], "@odata.nextLink": next})));
        let error = dataverse.leads_changed_since(since(), &[], Some(&cursor)).await.expect_err("a circle");
        assert_eq!(error.fault, Fault::Malformed);
    }
    let damaged = Cursor("https://evil.example/".into());
    let error = dataverse.leads_changed_since(since(), &[], Some(&damaged)).await.expect_err("not sent");
    assert_eq!((error.fault, fake.calls().len()), (Fault::Malformed, 2));
}

#[tokio::test]
async fn an_inner_listing_that_runs_in_a_circle_ends() {
    let fake = Fake::new();
    let link = |n: u32| format!("{HOST}/api/data/v9.2/leads?$skiptoken={n}");
    fake.on(Method::GET, "$filter=leadid", ok(json!({"value": [], "@odata.nextLink": link(1)})));
    fake.on(Method::GET, "$skiptoken=1", ok(json!({"value": [], "@odata.nextLink": link(2)})));
    fake.on(Method::GET, "$skiptoken=2", ok(json!({"value": [], "@odata.nextLink": link(1)})));
    let error = derived(&fake).leads(&[lead_id()]).await.expect_err("a circle");
    assert_eq!((error.fault, fake.calls().len()), (Fault::Malformed, 3));
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_a_defect_of_its_page_only() {
    let fake = Fake::new();
    fake.on(Method::GET, "/leads?", rows(&[json!({"leadid": "nonsense"}), json!(null), lead_row()]));
    let page = derived(&fake).leads_changed_since(since(), &[], None).await.expect("a page");
    assert_eq!((page.items.len(), page.defects.len()), (1, 2));
}

#[tokio::test]
async fn answers_that_are_no_page_are_malformed() {
    for reply in [raw(200, "<html>"), raw(200, ""), ok(json!([])), ok(json!({"value": {}})), raw(304, ""), raw(204, "")]
    {
        let fake = Fake::new();
        fake.on(Method::GET, "/leads?", reply);
        let error = derived(&fake).leads_changed_since(since(), &[], None).await.expect_err("no page");
        assert_eq!((error.fault, error.request_id.as_deref()), (Fault::Malformed, Some("req-1")));
    }
}

#[tokio::test]
async fn opportunities_are_polled_by_themselves() {
    let fake = Fake::new();
    let row = json!({"opportunityid": Uuid::from_u128(3), "statecode": 1, "actualvalue": 99.50,
        "_originatingleadid_value": lead_id(), "_transactioncurrencyid_value": euro(), "actualclosedate": "2026-02-28"});
    fake.on(Method::GET, "/opportunities?", rows(&[row, json!({"statecode": 1})]));
    let page = derived(&fake).opportunities_changed_since(since(), None).await.expect("a page");
    let url = fake.calls()[0].url.to_string();
    assert!(
        url.ends_with(
            "&$filter=modifiedon%20ge%202026-03-01T08:10:00Z%20and%20_originatingleadid_value%20ne%20null\
             &$orderby=modifiedon%20asc,opportunityid%20asc"
        ),
        "{url}"
    );
    let deal = &page.items[0];
    assert_eq!((deal.lead, deal.currency.as_deref()), (Some(lead_id()), Some("EUR")));
    assert_eq!(deal.close_date.as_deref(), Some("2026-02-28"));
    assert_eq!(page.defects.len(), 1);
}

#[tokio::test]
async fn many_leads_are_read_in_chunks() {
    let fake = Fake::new();
    let ids: Vec<LeadId> = (0..120).map(|n| LeadId::new(Uuid::from_u128(n))).collect();
    for _ in 0..3 {
        let mut foreign = lead_row();
        foreign["leadid"] = json!(Uuid::from_u128(9999));
        let mut known = lead_row();
        known["leadid"] = json!(Uuid::from_u128(7));
        fake.on(Method::GET, "$filter=leadid", rows(&[foreign, known]));
    }
    let twice: Vec<LeadId> = ids.iter().chain(&ids).copied().collect();
    let leads = derived(&fake).leads(&twice).await.expect("leads");
    assert!(leads.iter().all(|lead| lead.id == ids[7]), "what was not asked for is left out");
    let calls = fake.calls();
    assert_eq!(calls.len(), 3);
    assert!(calls[0].url.as_str().contains(
        "$filter=leadid%20eq%2000000000-0000-0000-0000-000000000000%20or%20leadid%20eq%2000000000-0000-0000-0000-000000000001%20or"
    ));
    assert!(calls.iter().all(|call| call.url.as_str().len() <= 8192));
    assert!(derived(&fake).leads(&[]).await.expect("none").is_empty());
    assert_eq!(fake.calls().len(), 3);
}

#[tokio::test]
async fn opportunities_of_leads_are_read_in_chunks() {
    let fake = Fake::new();
    let ids: Vec<LeadId> = (0..60).map(|n| LeadId::new(Uuid::from_u128(n))).collect();
    for n in [3, 9999] {
        let row = json!({"opportunityid": Uuid::from_u128(n), "statecode": 0, "_originatingleadid_value": Uuid::from_u128(n)});
        fake.on(Method::GET, "/opportunities?", rows(&[row]));
    }
    let deals = derived(&fake).opportunities_of(&ids).await.expect("deals");
    assert_eq!(deals.len(), 1);
    let url = fake.calls()[1].url.to_string();
    assert!(url.contains("&$orderby=createdon%20asc&$filter=_originatingleadid_value%20eq%20"), "{url}");
}

#[tokio::test]
async fn an_opportunity_whose_origin_was_cleared_is_found_by_the_lead_that_names_it() {
    let ids: Vec<LeadId> = (1..=3).map(|n| LeadId::new(Uuid::from_u128(n))).collect();
    let named = |lead: &LeadId| Uuid::from_u128(lead.uuid().as_u128() + 0x100);
    let lead = |id: &LeadId| {
        let mut row = lead_row();
        row["leadid"] = json!(id.uuid());
        row["statecode"] = json!(1);
        row["_qualifyingopportunityid_value"] = json!(named(id));
        row
    };
    let deal = |of: &LeadId, origin: Option<LeadId>| json!({"opportunityid": named(of), "statecode": 1, "_originatingleadid_value": origin.map(LeadId::uuid)});
    let fake = Fake::new();
    let dataverse = derived(&fake);
    fake.on(Method::GET, "$filter=leadid", rows(&ids.iter().map(lead).collect::<Vec<_>>()));
    dataverse.leads(&ids).await.expect("leads");
    fake.on(Method::GET, "$filter=_originatingleadid_value", rows(&[deal(&ids[0], Some(ids[0]))]));
    let stranger = LeadId::new(Uuid::from_u128(9));
    fake.on(Method::GET, "$filter=opportunityid", rows(&[deal(&ids[1], None), deal(&ids[2], Some(stranger))]));
    let deals = dataverse.opportunities_of(&ids).await.expect("deals");
    let found: Vec<_> = deals.iter().map(|deal| (deal.id, deal.lead)).collect();
    assert_eq!(found, [(named(&ids[0]), Some(ids[0])), (named(&ids[1]), Some(ids[1]))]);
    // Where nothing is missing nobody asks twice, and an open lead names nothing that counts.
    fake.on(Method::GET, "$filter=_originatingleadid_value", rows(&[deal(&ids[0], Some(ids[0]))]));
    dataverse.opportunities_of(&ids[..1]).await.expect("deals");
    let mut reopened = lead(&ids[1]);
    reopened["statecode"] = json!(0);
    fake.on(Method::GET, "leads(", ok(reopened));
    dataverse.get(ids[1]).await.expect("a lead");
    fake.on(Method::GET, "$filter=_originatingleadid_value", rows(&[]));
    assert_eq!(dataverse.opportunities_of(&ids[1..2]).await.expect("deals"), []);
}

#[tokio::test]
async fn one_lead_is_read_by_its_id() {
    let fake = Fake::new();
    fake.on(Method::GET, "leads(", ok(lead_row()));
    let lead = derived(&fake).get(lead_id()).await.expect("a lead");
    assert_eq!(lead.etag, Some(etag()));
    assert_eq!((lead.status.state, lead.status.code), (LeadState::Open, 1));
    assert_eq!(fake.calls()[0].url.as_str(), format!("{HOST}/api/data/v9.2/leads({})?$select={SELECT}", lead_id()));
}

#[tokio::test]
async fn another_lead_than_asked_for_is_malformed() {
    let fake = Fake::new();
    fake.on(Method::GET, "leads(", ok(lead_row()));
    let error = derived(&fake).get(LeadId::new(Uuid::from_u128(1))).await.expect_err("another lead");
    assert_eq!(error.fault, Fault::Malformed);
}

#[tokio::test]
async fn a_lead_is_missing_only_when_the_service_says_so() {
    for (reply, fault) in [
        (error(404, "0x80040217", "lead With Id = 1 Does Not Exist"), Fault::Missing),
        (error(404, "0x80040217", "Gibt es nicht"), Fault::Missing),
        (error(404, "-2147220969", "lead With Id = 1 Does Not Exist"), Fault::Missing),
        (error(404, "0x80060891", "no row"), Fault::Missing),
        (error(404, "", "not found"), Fault::Missing),
        (raw(404, ""), Fault::Missing),
        (raw(404, "{}"), Fault::Missing),
        (raw(404, "<!DOCTYPE html><h1>404</h1>"), Fault::Unavailable),
        (error(404, "0x80060888", "Resource not found for the segment 'leads'"), Fault::Refused),
        (error(404, "0x80040217", "systemuser With Id = 1 Does Not Exist"), Fault::Refused),
        (raw(500, ""), Fault::Unavailable),
        (raw(200, "<html>sign in</html>"), Fault::Malformed),
        (raw(200, ""), Fault::Malformed),
    ] {
        let fake = Fake::new();
        let printed = format!("{reply:?}");
        fake.on(Method::GET, "leads(", reply);
        assert_eq!(derived(&fake).get(lead_id()).await.expect_err(&printed).fault, fault, "{printed}");
    }
}

#[tokio::test]
async fn the_lead_of_a_referral_is_read_by_key_or_by_computed_id() {
    let fake = Fake::new();
    fake.on(Method::GET, "leads(", ok(lead_row()));
    keyed(&fake).get_by_referral(referral(), LeadId::new(Uuid::nil())).await.expect("a lead");
    let by_key = format!("{HOST}/api/data/v9.2/leads(new_referralid='{}')?$select={SELECT}", referral());
    assert_eq!(fake.calls()[0].url.as_str(), by_key);
    fake.on(Method::GET, "leads(", ok(lead_row()));
    derived(&fake).get_by_referral(referral(), lead_id()).await.expect("a lead");
    assert!(fake.calls()[1].url.as_str().contains(&format!("leads({})?", lead_id())));
    fake.on(Method::GET, "leads(", error(404, "0x80060891", "no such row"));
    let missing = keyed(&fake).get_by_referral(referral(), lead_id()).await.expect_err("none");
    assert_eq!(missing.fault, Fault::Missing);
    fake.on(Method::GET, "leads(", ok(lead_row()));
    let other = ReferralId::new(Uuid::from_u128(1));
    assert_eq!(keyed(&fake).get_by_referral(other, lead_id()).await.expect_err("other").fault, Fault::Malformed);
}

#[tokio::test]
async fn leads_are_found_by_column_or_subject_without_regard_to_case() {
    let fake = Fake::new();
    let upper = referral().to_string().to_uppercase();
    let mut row = lead_row();
    row["new_referralid"] = json!(upper);
    row["subject"] = json!(upper);
    let mut other = lead_row();
    other["subject"] = json!("Contoso");
    other["new_referralid"] = json!(null);
    for by in [FindBy::ReferralColumn, FindBy::Subject] {
        fake.on(Method::GET, "/leads?", rows(&[row.clone(), other.clone()]));
        let leads = derived(&fake).find(by, &[referral(), referral()]).await.expect("leads");
        assert_eq!((leads.len(), leads[0].referral), (1, Some(referral())));
    }
    let calls = fake.calls();
    let filter =
        |n: usize| calls[n].url.query().unwrap_or_default().rsplit("$filter=").next().unwrap_or_default().to_owned();
    assert_eq!(filter(0), format!("new_referralid%20eq%20%27{}%27", referral()));
    assert_eq!(filter(1), format!("subject%20eq%20%27{}%27", referral()));
}

#[tokio::test]
async fn searches_take_more_at_once_than_reads_of_known_leads() {
    let fake = Fake::new();
    let ids: Vec<u128> = (1..=150).collect();
    (0..5).for_each(|_| fake.on(Method::GET, "/leads?", rows(&[])));
    let known: Vec<LeadId> = ids.iter().map(|id| LeadId::new(Uuid::from_u128(*id))).collect();
    derived(&fake).leads(&known).await.expect("none of them");
    let searched: Vec<ReferralId> = ids.iter().map(|id| ReferralId::new(Uuid::from_u128(*id))).collect();
    derived(&fake).find(FindBy::Subject, &searched).await.expect("none of them");
    let terms = fake.calls().iter().map(|call| call.url.as_str().matches("%20eq%20").count()).collect::<Vec<_>>();
    assert_eq!(terms.len(), 5, "{terms:?}");
    assert_eq!((terms[..3].iter().max(), terms[3..].iter().max()), (Some(&50), Some(&100)), "{terms:?}");
}

#[tokio::test]
async fn without_the_column_nothing_is_found_by_it_and_nothing_is_asked() {
    let fake = Fake::new();
    let found = open(&fake, Identity::Derived, None).find(FindBy::ReferralColumn, &[referral()]).await;
    assert!(found.expect("none").is_empty());
    assert!(derived(&fake).find(FindBy::Subject, &[]).await.expect("none").is_empty());
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn an_inactive_currency_is_named_by_one_more_read_and_remembered() {
    let fake = Fake::new();
    let dataverse = derived(&fake);
    let crown = Uuid::from_u128(0xd0);
    let mut row = lead_row();
    row["_transactioncurrencyid_value"] = json!(crown);
    fake.on(
        Method::GET,
        "transactioncurrencies(",
        ok(json!({"transactioncurrencyid": crown, "isocurrencycode": "DKK"})),
    );
    for _ in 0..2 {
        fake.on(Method::GET, "leads(", ok(row.clone()));
        assert_eq!(dataverse.get(lead_id()).await.expect("a lead").columns["transactioncurrencyid"], "DKK");
    }
    assert_eq!(fake.count("transactioncurrencies("), 1);
    row["_transactioncurrencyid_value"] = json!(Uuid::from_u128(0xd1));
    fake.on(Method::GET, "leads(", ok(row.clone()));
    fake.on(Method::GET, "transactioncurrencies(", raw(503, ""));
    let error = dataverse.get(lead_id()).await.expect_err("its currency is not known yet");
    assert_eq!(error.fault, Fault::Unavailable);
    for _ in 0..2 {
        fake.on(Method::GET, "leads(", ok(row.clone()));
    }
    fake.on(Method::GET, "transactioncurrencies(", raw(404, ""));
    let lead = dataverse.get(lead_id()).await.expect("a lead");
    assert_eq!(lead.columns["transactioncurrencyid"], Uuid::from_u128(0xd1).to_string(), "known to be no known one");
    dataverse.get(lead_id()).await.expect("a lead");
    assert_eq!(fake.count("transactioncurrencies("), 3);
}

#[tokio::test]
async fn the_closed_window_and_the_count_are_those_of_the_stack() {
    let fake = Fake::new();
    let dataverse = derived(&fake);
    assert_eq!(dataverse.line().closed_until(), None);
    dataverse.line().close_until(since());
    assert_eq!(dataverse.line().closed_until(), Some(since()));
    fake.on(Method::GET, "leads(", ok(lead_row()));
    dataverse.get(lead_id()).await.expect("a lead");
    assert_eq!(dataverse.line().requests_sent(), fake.all_calls().len() as u64);
}

#[tokio::test]
async fn the_page_size_stays_within_what_the_service_takes() {
    for (configured, sent) in [(0, 1), (1, 1), (5000, 5000), (9000, PAGE_SIZE_MAX)] {
        let fake = Fake::new();
        let settings = DataverseSettings { page_size: configured, ..settings() };
        let dataverse = Dataverse::open(&settings, Identity::Derived, None, mapped(), fake.clone()).expect("settings");
        fake.on(Method::GET, "/leads?", rows(&[]));
        dataverse.leads_changed_since(since(), &[], None).await.expect("a page");
        assert_eq!(header(&fake.calls()[0], "prefer"), format!("odata.maxpagesize={sent}"));
    }
}

#[tokio::test]
async fn an_inner_listing_ends_at_its_page_limit() {
    let fake = Fake::new();
    for n in 0..=LISTING_PAGES_MAX {
        let link = format!("{HOST}/api/data/v9.2/leads?$skiptoken={n}.");
        let part = if n == 0 { "$filter=leadid".to_owned() } else { format!("$skiptoken={}.", n - 1) };
        fake.on(Method::GET, &part, ok(json!({"value": [], "@odata.nextLink": link})));
    }
    let error = derived(&fake).leads(&[lead_id()]).await.expect_err("too many pages");
    assert_eq!((error.fault, fake.calls().len()), (Fault::Malformed, LISTING_PAGES_MAX + 1));
}

#[tokio::test]
async fn only_so_many_chunks_are_under_way_at_once() {
    let fake = Fake::new();
    let dataverse = derived(&fake);
    dataverse.schema().await.expect("a schema");
    fake.most_in_flight();
    let ids: Vec<LeadId> = (0..500).map(|n| LeadId::new(Uuid::from_u128(n))).collect();
    for _ in 0..10 {
        fake.on(Method::GET, "$filter=leadid", rows(&[]));
    }
    dataverse.leads(&ids).await.expect("none");
    assert_eq!(fake.most_in_flight(), CHUNKS_IN_FLIGHT);
}

#[tokio::test]
async fn only_so_many_foreign_currencies_are_looked_up() {
    let fake = Fake::new();
    let many = STRAY_CURRENCIES_MAX + 5;
    let row = |n: usize| {
        let mut row = lead_row();
        row["_transactioncurrencyid_value"] = json!(Uuid::from_u128(0xC000 + n as u128));
        row
    };
    fake.on(Method::GET, "/leads?", rows(&(0..many).map(row).collect::<Vec<_>>()));
    for _ in 0..many {
        fake.on(Method::GET, "transactioncurrencies(", raw(404, ""));
    }
    let page = derived(&fake).leads_changed_since(since(), &[], None).await.expect("a page");
    assert_eq!((page.items.len(), fake.count("transactioncurrencies(")), (many, STRAY_CURRENCIES_MAX));
}

mod property {
    use proptest::prelude::*;

    use super::*;
    use crate::crm::dataverse::wire::any_json;

    proptest! {
        /// Whatever JSON the service sends, in data and in metadata: answers or errors, never a panic.
        #[test]
        fn no_json_makes_the_adapter_panic(
            metadata in any_json(),
            rows in proptest::collection::vec(any_json(), 0..4),
            answer in any_json(),
            place in 0..ALL_METADATA.len(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let fake = Fake::new();
                fake.metadata(ALL_METADATA[place], ok(metadata));
                fake.metadata("transactioncurrencies(", ok(answer.clone()));
                let dataverse = derived(&fake);
                let _ = dataverse.schema().await;
                for _ in 0..2 {
                    fake.on(Method::GET, "/leads?", ok(json!({"value": rows})));
                    fake.on(Method::GET, "/opportunities?", ok(json!({"value": rows})));
                    for method in [Method::GET, Method::PATCH] {
                        fake.on(method, "/leads(", ok(answer.clone()));
                    }
                }
                fake.on(Method::GET, "/WhoAmI", ok(answer.clone()));
                let _ = dataverse.identity().await;
                let _ = dataverse.leads_changed_since(since(), &[], None).await;
                let _ = dataverse.opportunities_changed_since(since(), None).await;
                let _ = dataverse.find(FindBy::Subject, &[referral()]).await;
                let _ = dataverse.get(lead_id()).await;
                let _ = dataverse.update(lead_id(), &etag(), &draft(), request()).await;
            });
        }
    }
}
