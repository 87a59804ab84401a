//! Scans: queries, links to the next page, and the limits that end a scan.

use serde_json::json;

use super::PAGE;
use super::fake::{Reply, adapter, adapter_with, ok, status};
use crate::model::{Fault, Referral, RemoteError, Timestamp};
use crate::ports::{Cursor, Page, Portal, Scan};

/// A page with this many referrals and this link.
fn page(rows: usize, link: Option<&str>) -> Reply {
    let rows: Vec<_> = (0..rows)
        .map(|row| json!({"id": format!("8f0c2b1e-0000-4000-8000-{row:012}"), "status": "New", "substatus": "Pending"}))
        .collect();
    ok(json!({"value": rows, "@odata.nextLink": link}).to_string())
}

fn token(token: usize) -> String {
    format!("http://api.partner.microsoft.com/v1.0/referrals?$skiptoken={token}")
}

/// Reads a scan to its end: all rows, or the rows until it failed and the failure.
async fn read(portal: &dyn Portal, scan: &Scan) -> (usize, Result<(), RemoteError>) {
    let (mut rows, mut cursor) = (0, None);
    loop {
        match portal.page(scan, cursor.as_ref()).await {
            Err(error) => return (rows, Err(error)),
            Ok(page) => {
                rows += page.items.len();
                let Some(next) = page.next else { return (rows, Ok(())) };
                cursor = Some(next);
            }
        }
    }
}

fn message(error: &RemoteError) -> &str {
    error.message.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn a_scan_follows_the_documented_defective_link() {
    let (portal, fake) = adapter([ok(PAGE), page(1, None)]);
    let first: Page<Referral> = portal.page(&Scan::Recent, None).await.expect("a page");
    assert_eq!((first.items.len(), first.defects.len()), (2, 0));
    assert_eq!(first.server_time, Some(Timestamp::from_seconds(1_795_000_000)));
    let cursor = first.next.expect("there is a next page");
    assert!(!cursor.0.contains("microsoft"), "{}", cursor.0);

    let last = portal.page(&Scan::Recent, Some(&cursor)).await.expect("a page");
    assert_eq!((last.items.len(), last.next), (1, None));
    let order = "$orderby=updatedDateTime%20desc";
    assert_eq!(fake.queries(), [order.to_owned(), format!("$skiptoken=abc%2fdef%2bghi&{order}")]);
    assert!(fake.calls().iter().all(|call| call.url.scheme() == "https"));
    assert_eq!(portal.line().requests_sent(), 2);
    assert_eq!(portal.line().closed_until(), Some(Timestamp::from_seconds(7)));
}

#[tokio::test]
async fn the_end_is_told_by_the_link_alone() {
    for (link, pages) in [("null", 1), (r#""""#, 1), (r#""  ""#, 1), (r#""?$skiptoken=1""#, 2)] {
        for name in ["@odata.nextLink", "@odata.nextlink", "@OData.NextLink"] {
            let body = format!(r#"{{"@odata.count":100,"Value":[],"{name}":{link}}}"#);
            let (portal, fake) = adapter([ok(body), page(0, None)]);
            assert_eq!(read(&portal, &Scan::Sweep).await, (0, Ok(())));
            assert_eq!(fake.calls().len(), pages, "{name} {link}");
        }
    }
}

#[tokio::test]
async fn rows_of_a_page_with_a_foreign_link_count_but_the_scan_does_not_end() {
    let (portal, fake) = adapter([page(3, Some("https://evil.example/v1.0/referrals?$skiptoken=1"))]);
    let (rows, end) = read(&portal, &Scan::Recent).await;
    let error = end.expect_err("the scan is not finished");
    assert_eq!((rows, &error.fault), (3, &Fault::Malformed));
    assert!(message(&error).contains("another host"), "{error}");
    assert!(!error.to_string().contains("evil"), "{error}");
    assert_eq!(fake.calls().len(), 1, "nothing was sent after it");
}

#[tokio::test]
async fn a_link_that_is_no_text_does_not_end_the_scan() {
    for link in ["7", "{}", "true", r#"["?$skiptoken=1"]"#] {
        let (portal, _) = adapter([ok(format!(r#"{{"value":[],"@odata.nextLink":{link}}}"#))]);
        assert_eq!(read(&portal, &Scan::Recent).await.1.expect_err("not finished").fault, Fault::Malformed);
    }
}

#[tokio::test]
async fn a_repeated_token_ends_the_scan_with_an_error() {
    let (portal, fake) = adapter([page(1, Some(&token(1))), page(1, Some(&token(1)))]);
    let (rows, end) = read(&portal, &Scan::Sweep).await;
    let error = end.expect_err("the scan is not finished");
    assert_eq!((rows, &error.fault), (2, &Fault::Malformed));
    assert!(message(&error).contains("leads back"), "{error}");
    assert_eq!(fake.calls().len(), 2);
}

#[tokio::test]
async fn a_circle_of_tokens_is_noticed() {
    let (portal, fake) = adapter([1, 2, 3, 1].map(|next| page(1, Some(&token(next)))));
    assert_eq!(read(&portal, &Scan::Sweep).await.1.expect_err("not finished").fault, Fault::Malformed);
    assert_eq!(fake.calls().len(), 4);
}

#[tokio::test]
async fn a_few_empty_pages_are_passed_over() {
    let rows = [0, 0, 1, 0, 0, 1, 0, 0];
    let (portal, _) = adapter(rows.iter().enumerate().map(|(at, rows)| {
        let next = token(at);
        page(*rows, (at < 7).then_some(next.as_str()))
    }));
    assert_eq!(read(&portal, &Scan::Sweep).await, (2, Ok(())), "only empty pages in a row count");
}

#[tokio::test]
async fn too_many_empty_pages_end_the_scan_with_an_error() {
    let (portal, fake) = adapter((1..10).map(|next| page(0, Some(&token(next)))));
    let error = read(&portal, &Scan::Sweep).await.1.expect_err("not finished");
    assert_eq!(error.fault, Fault::Malformed);
    assert!(message(&error).contains("partner_center.empty_pages_max"), "{error}");
    assert_eq!(fake.calls().len(), 3, "two are allowed, the third is one too many");
}

#[tokio::test]
async fn a_scan_has_a_limit_of_pages_across_restarts() {
    let few = |settings: &mut super::super::settings::PartnerCenterSettings| settings.pages_max = 3;
    let (portal, _) = adapter_with([page(1, Some(&token(1))), page(1, Some(&token(2)))], few);
    let first = portal.page(&Scan::Sweep, None).await.expect("a page").next.expect("more");
    let second = portal.page(&Scan::Sweep, Some(&first)).await.expect("a page").next.expect("more");

    let (portal, fake) = adapter_with([page(1, Some(&token(3)))], few);
    let third = portal.page(&Scan::Sweep, Some(&second)).await.expect("a page").next.expect("more");
    let error = portal.page(&Scan::Sweep, Some(&third)).await.expect_err("one page too many");
    assert_eq!(error.fault, Fault::Malformed);
    assert!(message(&error).contains("partner_center.pages_max"), "{error}");
    assert_eq!(fake.calls().len(), 1);
}

#[tokio::test]
async fn a_cursor_of_something_else_is_not_sent() {
    let (portal, fake) = adapter([]);
    for text in ["", "https://evil.example/", "v1;scan=sweep;pages=1;empty=0;seen=;q=$skiptoken=1"] {
        let error = portal.page(&Scan::Recent, Some(&Cursor(text.to_owned()))).await.expect_err("no cursor of ours");
        assert_eq!(error.fault, Fault::Malformed, "{text}");
    }
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn a_forgotten_token_asks_for_a_new_scan() {
    for code in [400, 404, 410] {
        let (portal, _) = adapter([page(1, Some(&token(1))), status(code)]);
        let error = read(&portal, &Scan::Sweep).await.1.expect_err("not finished");
        assert_eq!((error.fault.clone(), error.status), (Fault::Malformed, Some(code)));
        assert!(message(&error).contains("start the scan again"), "{error}");
    }
}

#[tokio::test]
async fn a_forbidden_list_is_the_whole_sides_matter() {
    let (portal, _) = adapter([status(403)]);
    let error = portal.page(&Scan::Recent, None).await.expect_err("forbidden");
    assert_eq!(error.fault, Fault::Unauthorized);
    assert!(message(&error).contains("Referrals admin"), "{error}");
}

#[tokio::test]
async fn a_list_that_is_nowhere_is_no_missing_referral() {
    let (portal, _) = adapter([status(404)]);
    let error = portal.page(&Scan::Recent, None).await.expect_err("nowhere");
    assert!(error.stops_side());
    assert!(message(&error).contains("partner_center.base_url"), "{error}");
}

#[tokio::test]
async fn a_locked_list_is_tried_again_later() {
    for code in [409, 423, 500, 503] {
        let (portal, _) = adapter([status(code)]);
        assert_eq!(portal.page(&Scan::Recent, None).await.expect_err("locked").fault, Fault::Unavailable);
    }
}

#[tokio::test]
async fn throttling_passes_through_unchanged() {
    let (portal, _) = adapter([Reply::Http(429, vec![("retry-after", "17")], Vec::new())]);
    let error = portal.page(&Scan::Recent, None).await.expect_err("throttled");
    assert_eq!(error.fault, Fault::Throttled { until: Timestamp::from_seconds(17) });
}

#[tokio::test]
async fn a_page_that_is_no_page_is_malformed() {
    let whole = PAGE.len();
    for body in [
        "",
        "<html>sign in</html>",
        "[]",
        "null",
        "{}",
        r#"{"value":null}"#,
        r#"{"value":{}}"#,
        r#"{"error":{"code":"generalException"}}"#,
        &PAGE[..whole / 2],
        &PAGE[..whole - 3],
    ] {
        let (portal, _) = adapter([Reply::Http(200, vec![("request-id", "r-1")], body.as_bytes().to_vec())]);
        let error = portal.page(&Scan::Recent, None).await.expect_err(body);
        assert_eq!((error.fault.clone(), error.request_id.as_deref()), (Fault::Malformed, Some("r-1")));
        assert!(!error.to_string().contains("Tailspin"), "{error}");
    }
}

const SINCE: Scan = Scan::ChangedSince(Timestamp::from_seconds(1_793_491_200));
const BARE: &str = "$filter=updatedDateTime%20ge%202026-11-01T00:00:00Z&$orderby=updatedDateTime%20desc";
const QUOTED: &str = "$filter=updatedDateTime%20ge%20%272026-11-01T00:00:00Z%27&$orderby=updatedDateTime%20desc";

#[tokio::test]
async fn the_date_filter_is_tried_bare_first() {
    let (portal, fake) = adapter([page(1, None), page(1, None)]);
    for _ in 0..2 {
        assert_eq!(read(&portal, &SINCE).await, (1, Ok(())));
    }
    assert_eq!(fake.queries(), [BARE, BARE]);
}

#[tokio::test]
async fn a_refused_bare_date_is_quoted_and_remembered() {
    let (portal, fake) = adapter([status(400), page(1, Some(&token(1))), page(1, None), page(1, None)]);
    assert_eq!(read(&portal, &SINCE).await, (2, Ok(())));
    assert_eq!(read(&portal, &SINCE).await, (1, Ok(())));
    assert_eq!(fake.queries(), [BARE, QUOTED, &format!("$skiptoken=1&{QUOTED}"), QUOTED]);
}

#[tokio::test]
async fn a_filter_refused_twice_is_refused_from_then_on() {
    let (portal, fake) = adapter([status(400), status(400)]);
    for _ in 0..2 {
        let error = read(&portal, &SINCE).await.1.expect_err("refused");
        assert_eq!(error.fault, Fault::Refused);
        assert!(message(&error).contains("use_updated_filter"), "{error}");
    }
    assert_eq!(fake.queries(), [BARE, QUOTED]);
}

#[tokio::test]
async fn an_outage_says_nothing_about_the_filter() {
    let (portal, fake) = adapter([status(500), page(1, None)]);
    assert_eq!(read(&portal, &SINCE).await.1.expect_err("down").fault, Fault::Unavailable);
    assert_eq!(read(&portal, &SINCE).await, (1, Ok(())));
    assert_eq!(fake.queries(), [BARE, BARE]);
}
