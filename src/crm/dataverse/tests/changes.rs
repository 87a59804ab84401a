//! Change tracking (dataverse §4.1).

use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fake::*;
use crate::model::{ETag, Fault, LeadId, Timestamp};
use crate::ports::{ChangeLink, Changes, Crm, Cursor, LeadVersion, Tracked};

const FIRST: &str = "/api/data/v9.2/leads?$select=leadid,modifiedon,versionnumber";
const LINK: &str = "/api/data/v9.2/leads?$select=leadid%2cmodifiedon%2cversionnumber&$deltatoken=919042%2108%2f22%2f2017%2008%3a10%3a44";

fn later(rows: &[Value]) -> Reply {
    ok(json!({"value": rows, "@odata.deltaLink": format!("{HOST}{LINK}")}))
}

fn page(tracked: Tracked) -> Changes {
    match tracked {
        Tracked::Page(page) => page,
        other => panic!("{other:?}"),
    }
}

fn link() -> Cursor {
    Cursor(LINK.to_owned())
}

#[tokio::test]
async fn the_first_reading_asks_for_ids_and_versions_only() {
    let fake = Fake::new();
    let row =
        json!({"@odata.etag": "W/\"915244\"", "leadid": lead_id().to_string(), "modifiedon": "2026-03-01T08:15:30Z"});
    fake.on(Method::GET, "/leads?", later(&[row]));
    let found = page(derived(&fake).lead_changes(None).await.expect("a page"));
    let call = &fake.calls()[0];
    assert_eq!(call.url.as_str(), format!("{HOST}{FIRST}"), "no filter, no order: both are refused");
    assert_eq!(header(call, "prefer"), "odata.track-changes,odata.maxpagesize=5000");
    let version = LeadVersion {
        id: lead_id(),
        etag: Some(ETag("W/\"915244\"".into())),
        modified: Timestamp::parse("2026-03-01T08:15:30Z"),
    };
    assert_eq!((found.changed, found.gone, found.next), (vec![version], Vec::new(), ChangeLink::Later(link())));
    assert_eq!(found.server_time, Timestamp::parse("2026-03-01T09:00:00Z"));
}

#[tokio::test]
async fn a_link_is_followed_to_the_letter_and_the_last_page_has_the_next_one() {
    let fake = Fake::new();
    let more =
        "/api/data/v9.2/leads?$select=leadid%2cmodifiedon%2cversionnumber&$skiptoken=%3Ccookie%20a=%221%22%20/%3E";
    fake.on(Method::GET, "$deltatoken", ok(json!({"value": [], "@odata.nextLink": format!("{HOST}{more}")})));
    fake.on(Method::GET, "$skiptoken", later(&[]));
    let dataverse = derived(&fake);
    let first = page(dataverse.lead_changes(Some(&link())).await.expect("a page"));
    assert_eq!(first.next, ChangeLink::More(Cursor(more.to_owned())));
    let last = page(dataverse.lead_changes(Some(&Cursor(more.to_owned()))).await.expect("a page"));
    assert_eq!(last.next, ChangeLink::Later(link()));
    let urls: Vec<String> = fake.calls().iter().map(|call| call.url.to_string()).collect();
    assert_eq!(urls, [format!("{HOST}{LINK}"), format!("{HOST}{more}")]);
    assert_eq!(header(&fake.calls()[1], "prefer"), "odata.track-changes,odata.maxpagesize=5000");
}

#[tokio::test]
async fn deletions_are_read_in_every_shape_they_come_in() {
    let fake = Fake::new();
    let (a, b, c) = (Uuid::from_u128(0xa), Uuid::from_u128(0xb), Uuid::from_u128(0xc));
    let context = format!("{HOST}/api/data/v9.2/$metadata#leads/$deletedEntity");
    fake.on(
        Method::GET,
        "$deltatoken",
        later(&[
            json!({"@odata.etag": "W/\"9\"", "leadid": lead_id().to_string(), "reason": "a column may be called that"}),
            json!({"@odata.context": context, "id": a.to_string(), "reason": "deleted"}),
            json!({"@odata.context": context, "id": format!("{HOST}/api/data/v9.2/leads({b})"), "reason": "changed"}),
            json!({"@removed": {"reason": "deleted"}, "@id": format!("leads({c})")}),
            json!({"@odata.context": context, "reason": "deleted"}),
            json!({"leadid": "nonsense"}),
            json!(null),
        ]),
    );
    let found = page(derived(&fake).lead_changes(Some(&link())).await.expect("a page"));
    assert_eq!(found.gone, [a, b, c].map(LeadId::new));
    assert_eq!((found.changed.len(), found.defects.len()), (1, 3));
}

#[tokio::test]
async fn a_link_that_is_too_old_is_told_whatever_the_status() {
    for reply in [
        error(400, "0x80044352", "Version stamp associated with the client has expired. Please perform a full sync."),
        error(410, "0x80044352", "expired"),
        error(500, "-2147204270", "expired"),
        raw(410, ""),
        error(400, "0x80060888", "Malformed delta token"),
        error(404, "", "no such thing"),
    ] {
        let fake = Fake::new();
        fake.on(Method::GET, "$deltatoken", reply.clone());
        assert_eq!(derived(&fake).lead_changes(Some(&link())).await, Ok(Tracked::Expired), "{reply:?}");
    }
}

#[tokio::test]
async fn a_link_is_bound_to_its_columns_and_to_our_host() {
    let fake = Fake::new();
    let dataverse = derived(&fake);
    for text in [
        "/api/data/v9.2/leads?$select=leadid&$deltatoken=1",
        "/api/data/v9.2/leads?$select=leadid,modifiedon,versionnumber,subject&$deltatoken=1",
        "https://evil.example/api/data/v9.2/leads?$deltatoken=1",
        "//evil.example/api/data/v9.2/leads?$deltatoken=1",
    ] {
        assert_eq!(dataverse.lead_changes(Some(&Cursor(text.to_owned()))).await, Ok(Tracked::Expired), "{text}");
    }
    assert!(fake.calls().is_empty(), "nothing was sent");
    fake.on(
        Method::GET,
        "$deltatoken",
        ok(json!({"value": [], "@odata.deltaLink": "https://evil.example/api/data/v9.2/leads?$deltatoken=2"})),
    );
    let refused = dataverse.lead_changes(Some(&link())).await.expect_err("another host");
    assert_eq!(refused.fault, Fault::Malformed);
}

#[tokio::test]
async fn a_table_without_change_tracking_is_told_with_what_to_do() {
    let fake = Fake::new();
    fake.on(Method::GET, "/leads?", error(400, "0x80072491", "Change tracking is not enabled for entity lead"));
    let told = derived(&fake).lead_changes(None).await;
    assert!(matches!(&told, Ok(Tracked::Off(why)) if why.contains("Track changes")), "{told:?}");
    // Without organization depth it never begins; a role that is lost later stops the side.
    for (has_link, is_off) in [(false, true), (true, false)] {
        fake.on(Method::GET, "/leads?", error(403, "0x80040220", "missing prvReadLead privilege"));
        let told = derived(&fake).lead_changes(has_link.then(link).as_ref()).await;
        match is_off {
            true => assert!(matches!(&told, Ok(Tracked::Off(why)) if why.contains("prvReadLead")), "{told:?}"),
            false => assert!(matches!(&told, Err(error) if error.fault == Fault::Unauthorized), "{told:?}"),
        }
    }
    fake.on(Method::GET, "/leads?", ok(json!({"value": []})));
    assert!(matches!(derived(&fake).lead_changes(None).await, Ok(Tracked::Off(_))), "the preference was ignored");
}

#[tokio::test]
async fn trouble_of_the_service_says_nothing_about_the_link() {
    for (reply, fault) in [
        (raw(503, "<html>"), Fault::Unavailable),
        (raw(404, "<html>no such site</html>"), Fault::Unavailable),
        (raw(200, "<html>"), Fault::Malformed),
        (error(401, "0x8005F101", "expired"), Fault::Unauthorized),
    ] {
        let fake = Fake::new();
        fake.on(Method::GET, "$deltatoken", reply);
        let told = derived(&fake).lead_changes(Some(&link())).await.expect_err("trouble");
        assert_eq!(told.fault, fault);
    }
}
