//! Decoding: the documented oddities, broken rows beside intact ones, and random damage.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{contract, wire};
use super::PAGE;
use super::fake::{Reply, adapter, first_id, ok, status};
use crate::model::{ETag, Fault, Qualification, Referral, ReferralStatus, ReferralType, Substatus, Timestamp};
use crate::ports::{Defect, Portal};

fn rows() -> Vec<Value> {
    let page: Value = serde_json::from_str(PAGE).expect("JSON");
    page["value"].as_array().expect("rows").clone()
}

fn decode(row: &Value) -> Referral {
    let mut page = wire::page(json!({ "value": [row] }).to_string().as_bytes()).expect("a page");
    assert_eq!(page.defects, []);
    page.referrals.pop().expect("a referral")
}

/// The first row of the fixture with one member replaced.
fn decode_with(pointer: &str, value: Value) -> Referral {
    let mut row = rows().remove(0);
    *row.pointer_mut(pointer).expect("the fixture has it") = value;
    decode(&row)
}

fn decode_without(name: &str) -> Referral {
    let mut row = rows().remove(0);
    row.as_object_mut().expect("an object").remove(name);
    decode(&row)
}

#[test]
fn a_full_row_is_read_whole() {
    let row = rows().remove(0);
    let referral = decode(&row);
    assert_eq!(referral.id, first_id());
    assert_eq!(referral.etag, Some(ETag(r#""84001c9d-0000-0100-0000-6225a63e0000""#.to_owned())));
    assert_eq!((referral.status, referral.substatus), (ReferralStatus::New, Substatus::Pending));
    assert_eq!(referral.created.map(|at| at.to_string()).as_deref(), Some("2026-11-18T08:15:30.123Z"));
    assert_eq!(referral.updated.map(|at| at.to_string()).as_deref(), Some("2026-11-19T09:00:00.52Z"));
    assert_eq!((referral.expires, &referral.external_reference), (None, &None));
    assert_eq!(referral.engagement.as_deref(), Some("11111111-0000-4000-8000-000000000001"));
    assert_eq!(referral.organization.as_deref(), Some("22222222-0000-4000-8000-000000000001"));
    assert_eq!((referral.kind, referral.qualification), (ReferralType::Independent, Qualification::SalesQualified));
    assert_eq!((referral.is_outgoing, referral.is_spam, referral.has_registration), (false, false, false));
    assert_eq!((referral.invited_by.as_deref(), referral.consent_to_contact), (Some("msft"), Some(true)));
    assert_eq!(*referral.document, row, "the document is the whole row");
}

#[test]
fn a_sparse_row_is_read_too() {
    let referral = decode(&rows()[1]);
    assert_eq!((referral.status, referral.substatus), (ReferralStatus::Closed, Substatus::Expired));
    assert_eq!((referral.etag, referral.consent_to_contact, referral.invited_by), (None, None, None));
    assert_eq!((referral.kind, referral.qualification), (ReferralType::Shared, Qualification::Other));
    assert_eq!(referral.document["salesStage"], "100");
    assert_eq!(referral.document["customerProfile"]["ids"], json!([]));
}

#[test]
fn the_fixture_keeps_the_contract() {
    let page = serde_json::from_str(PAGE).expect("JSON");
    assert_eq!(contract::check_page(&page), Ok(()));
}

#[test]
fn unknown_words_survive() {
    for pointer in ["/status", "/substatus", "/type", "/qualification", "/direction"] {
        for value in [json!("Sparkling"), json!(null), json!(""), json!(7), json!([]), json!({})] {
            let referral = decode_with(pointer, value.clone());
            assert_eq!(referral.document.pointer(pointer), Some(&value), "{pointer}");
            match pointer {
                "/status" => assert_eq!(referral.status, ReferralStatus::Other),
                "/substatus" => assert_eq!(referral.substatus, Substatus::Other),
                "/type" => assert_eq!(referral.kind, ReferralType::Other),
                "/qualification" => assert_eq!(referral.qualification, Qualification::Other),
                _ => assert!(!referral.is_outgoing),
            }
        }
    }
}

#[test]
fn every_documented_word_is_known() {
    for (word, status) in [
        ("New", ReferralStatus::New),
        ("Active", ReferralStatus::Active),
        ("Closed", ReferralStatus::Closed),
        ("None", ReferralStatus::Other),
        (" closed ", ReferralStatus::Closed),
    ] {
        assert_eq!(decode_with("/status", json!(word)).status, status, "{word}");
    }
    for substatus in [
        Substatus::Pending,
        Substatus::Received,
        Substatus::Accepted,
        Substatus::Won,
        Substatus::Lost,
        Substatus::Declined,
        Substatus::Expired,
    ] {
        assert_eq!(decode_with("/substatus", json!(substatus.to_string())).substatus, substatus);
    }
    assert_eq!(decode_with("/type", json!("Shared")).kind, ReferralType::Shared);
    for (word, qualification) in
        [("Direct", Qualification::Direct), ("MarketingQualified", Qualification::MarketingQualified)]
    {
        assert_eq!(decode_with("/qualification", json!(word)).qualification, qualification);
    }
    assert!(decode_with("/direction", json!("Outgoing")).is_outgoing);
    assert!(decode_with("/isSpam", json!(true)).is_spam);
}

#[test]
fn ids_come_in_one_spelling() {
    for id in [
        "8F0C2B1E-0000-4000-8000-000000000001",
        "{8f0c2b1e-0000-4000-8000-000000000001}",
        " 8f0c2b1e000040008000000000000001 ",
    ] {
        assert_eq!(decode_with("/id", json!(id)).id, first_id(), "{id}");
    }
    let upper = json!("ABCDEF00-0000-4000-8000-000000000001");
    let lower = Some("abcdef00-0000-4000-8000-000000000001");
    assert_eq!(decode_with("/engagementId", upper.clone()).engagement.as_deref(), lower);
    assert_eq!(decode_with("/organizationId", upper.clone()).organization.as_deref(), lower);
    assert_eq!(decode_with("/inviteContext/invitedBy/organizationId", upper).invited_by.as_deref(), lower);
}

#[test]
fn any_precision_of_a_date_is_read() {
    for (text, expected) in [
        ("2026-11-19T09:00:00Z", Some("2026-11-19T09:00:00Z")),
        ("2026-11-19T09:00:00.520043Z", Some("2026-11-19T09:00:00.52Z")),
        ("2026-11-19T09:00:00.5200437Z", Some("2026-11-19T09:00:00.52Z")),
        ("2026-11-19T10:00:00.5200437+01:00", Some("2026-11-19T09:00:00.52Z")),
        ("0001-01-01T00:00:00Z", None),
        ("soon", None),
        ("", None),
    ] {
        let updated = decode_with("/updatedDateTime", json!(text)).updated;
        assert_eq!(updated.map(|at: Timestamp| at.to_string()).as_deref(), expected, "{text}");
    }
    assert_eq!(decode_with("/updatedDateTime", json!(7)).updated, None);
}

#[test]
fn a_blank_reference_is_none() {
    for (value, expected) in [
        (json!(null), None),
        (json!(""), None),
        (json!("  "), None),
        (json!(" R-7 "), Some("R-7")),
        (json!(42), Some("42")),
    ] {
        assert_eq!(decode_with("/externalReferenceId", value).external_reference.as_deref(), expected);
    }
    assert_eq!(decode_without("externalReferenceId").external_reference, None);
}

#[test]
fn misshapen_lists_become_lists() {
    let person = json!({"firstName": "Ada", "email": "ada@tailspin.example"});
    for pointer in ["/team", "/customerProfile/team", "/customerProfile/ids"] {
        for (given, expected) in [
            (json!({}), json!([])),
            (person.clone(), json!([person])),
            (json!([person]), json!([person])),
            (json!(null), json!(null)),
            (json!("x"), json!("x")),
        ] {
            let referral = decode_with(pointer, given);
            assert_eq!(referral.document.pointer(pointer), Some(&expected), "{pointer}");
        }
    }
    for tags in [json!(["a"]), json!([{"tag": "a"}]), json!(null)] {
        assert_eq!(decode_with("/tags", tags.clone()).document["tags"], tags);
    }
}

#[test]
fn a_deal_value_keeps_every_digit() {
    for (given, expected) in [
        ("25000", "25000"),
        ("25000.50", "25000.50"),
        ("12345678901234567890.123", "12345678901234567890.123"),
        (r#""10000""#, "10000"),
        (r#"" 10000.10 ""#, "10000.10"),
        (r#""10,000""#, r#""10,000""#),
        (r#""""#, r#""""#),
        ("null", "null"),
    ] {
        let row = format!(r#"{{"value":[{{"id":"{}","details":{{"dealValue":{given}}}}}]}}"#, first_id());
        let page = wire::page(row.as_bytes()).expect("a page");
        assert_eq!(page.referrals[0].document["details"]["dealValue"].to_string(), expected, "{given}");
    }
}

#[test]
fn a_registration_shows_in_either_place() {
    for (pointer, value, expected) in [
        ("/registrationStatus", json!("None"), false),
        ("/registrationStatus", json!(null), false),
        ("/registrationStatus", json!(""), false),
        ("/registrationStatus", json!("ReviewPending"), true),
        ("/tags", json!([]), false),
    ] {
        assert_eq!(decode_with(pointer, value.clone()).has_registration, expected, "{pointer} {value}");
    }
    for (registrations, expected) in [(json!([]), false), (json!([{"id": "1"}]), true), (json!(null), false)] {
        let mut row = rows().remove(0);
        row["registrations"] = registrations;
        assert_eq!(decode(&row).has_registration, expected);
    }
}

#[test]
fn consent_is_only_what_was_said() {
    for (value, expected) in [
        (json!(true), Some(true)),
        (json!(false), Some(false)),
        (json!("False"), Some(false)),
        (json!(null), None),
        (json!(1), None),
    ] {
        assert_eq!(decode_with("/consent/consentToContact", value).consent_to_contact, expected);
    }
    assert_eq!(decode_without("consent").consent_to_contact, None);
}

#[test]
fn a_broken_row_never_costs_its_neighbours() {
    let [first, second] = <[Value; 2]>::try_from(rows()).expect("two rows");
    let bomb =
        format!(r#"{{"id":"8f0c2b1e-0000-4000-8000-000000000007","x":{}{}}}"#, "[".repeat(9000), "]".repeat(9000));
    for (broken, id, reason) in [
        ("7", None, "row 2: not an object"),
        ("null", None, "row 2: not an object"),
        ("[]", None, "row 2: not an object"),
        ("{}", None, "row 2: no id"),
        (r#"{"id":null}"#, None, "row 2: no id"),
        (r#"{"id":7}"#, None, "row 2: its id is no text"),
        (r#"{"id":"seven"}"#, Some("seven"), "row 2: its id is no GUID"),
        (r#"{"$serde_json::private::Number":"seven"}"#, None, "row 2: the answer is not in the shape of a referral"),
        (r#"{"id":"Ada Example, 1 Main St"}"#, None, "row 2: its id is no GUID"),
        (
            &bomb,
            Some("8f0c2b1e-0000-4000-8000-000000000007"),
            "row 2: the answer is no JSON of a referral, or is nested too deeply",
        ),
    ] {
        let body = format!(r#"{{"value":[{first},{broken},{second}],"@odata.nextLink":"?$skiptoken=1"}}"#);
        let page = wire::page(body.as_bytes()).expect("a page");
        let ids: Vec<String> = page.referrals.iter().map(|referral| referral.id.to_string()).collect();
        assert_eq!(ids, [first["id"].as_str(), second["id"].as_str()].map(Option::unwrap_or_default));
        assert_eq!(page.defects, [Defect { id: id.map(str::to_owned), reason: reason.to_owned() }]);
        assert_eq!(page.next_link, wire::NextLink::Text("?$skiptoken=1".to_owned()));
    }
}

#[test]
fn half_a_letter_costs_a_letter_and_not_the_referral() {
    let row = r#"{"id":"8f0c2b1e-0000-4000-8000-000000000007","name":"cut \ud83d","details":{"notes":"\ude00 \\ud83d \ud83d\ude00"}}"#;
    let read = |referral: &Referral| {
        let tree: &Value = &referral.document;
        [tree["name"].clone(), tree["details"]["notes"].clone()].map(|text| text.as_str().unwrap().to_owned())
    };
    let expected = ["cut \u{fffd}", "\u{fffd} \\ud83d \u{1f600}"].map(str::to_owned);
    let page = wire::page(format!(r#"{{"value":[{row}]}}"#).as_bytes()).expect("a page");
    assert_eq!((page.defects.len(), read(&page.referrals[0])), (0, expected.clone()));
    assert_eq!(read(&wire::referral_from_bytes(row.as_bytes()).expect("a referral")), expected);
}

#[test]
fn depth_beside_the_rows_costs_nothing() {
    let bomb = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let row = &rows()[0];
    let page = wire::page(format!(r#"{{"x":{bomb},"value":[{row}],"y":{bomb}}}"#).as_bytes()).expect("a page");
    assert_eq!((page.referrals.len(), page.next_link), (1, wire::NextLink::None));
    let page = wire::page(format!(r#"{{"value":[{row}],"@odata.nextLink":{bomb}}}"#).as_bytes()).expect("a page");
    assert_eq!((page.referrals.len(), page.next_link), (1, wire::NextLink::NotText));
    assert!(wire::page(bomb.as_bytes()).is_err());
    assert!(wire::referral_from_bytes(bomb.as_bytes()).is_err());
}

#[test]
fn a_document_can_be_looked_into_whatever_it_is() {
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    for (value, is_read) in [
        (r#""\ud83d\ude00""#.to_owned(), true),
        (r#"{"$serde_json::private::Number": "x"}"#.to_owned(), false),
        (r#"{"\u0024serde_json::private::RawValue": "x"}"#.to_owned(), false),
        (r#"{"$\u0073erde_json::private::Number": "x"}"#.to_owned(), false),
        (r#"{"$price": "x"}"#.to_owned(), true),
        ("1e99999".to_owned(), true),
        (deep(119), true),
        (deep(126), true),
        (deep(127), false),
    ] {
        let row = format!(r#"{{"id": "8f0c2b1e-0000-4000-8000-000000000001", "x": {value}}}"#);
        let page = wire::page(format!(r#"{{"value": [{row}]}}"#).as_bytes()).expect("a page");
        assert_eq!(
            (page.referrals.len(), page.defects.len()),
            (usize::from(is_read), usize::from(!is_read)),
            "{value}"
        );
        if let Some(referral) = page.referrals.first() {
            assert_eq!(*referral.document, serde_json::from_str::<Value>(&row).expect("it is JSON"));
        }
    }
}

#[test]
fn a_row_of_a_page_and_the_same_one_by_itself_are_one_referral() {
    for (row, listed) in rows().iter().zip(wire::page(PAGE.as_bytes()).expect("a page").referrals) {
        assert_eq!(wire::referral_from_bytes(row.to_string().as_bytes()), Ok(listed));
    }
}

#[test]
fn foreign_bytes_cost_a_letter_and_not_a_page() {
    let mut body = b"\xef\xbb\xbf".to_vec();
    body.extend_from_slice(PAGE.as_bytes());
    let at = body.windows(3).position(|bytes| bytes == b"ERP").expect("the fixture has it");
    body[at] = 0xff;
    let page = wire::page(&body).expect("a page");
    assert_eq!((page.referrals.len(), page.defects.len()), (2, 0));
}

#[test]
fn the_same_referral_twice_on_a_page_is_fine() {
    let row = &rows()[0];
    let page = wire::page(json!({ "value": [row, row] }).to_string().as_bytes()).expect("a page");
    assert_eq!((page.referrals.len(), page.defects.len()), (2, 0));
}

#[tokio::test]
async fn a_referral_is_read_by_id() {
    let mut row = rows().remove(0);
    row["@odata.context"] = json!("http://api.partner.microsoft.com/v1.0/engagments/$metadata#Referrals/$entity");
    let (portal, fake) = adapter([ok(row.to_string())]);
    let referral = portal.get(first_id()).await.expect("a referral");
    assert_eq!(referral.id, first_id());
    assert_eq!(fake.calls()[0].url.path(), "/v1.0/engagements/referrals/8f0c2b1e-0000-4000-8000-000000000001");
    assert_eq!(fake.calls()[0].url.query(), None);
}

#[tokio::test]
async fn the_header_tells_the_version_only_where_the_body_does_not() {
    let mut row = rows().remove(0);
    for (in_body, expected) in [(json!(null), "\"h\""), (json!(""), "\"h\""), (json!("\"b\""), "\"b\"")] {
        row["eTag"] = in_body;
        let (portal, _) = adapter([Reply::Http(200, vec![("etag", "\"h\"")], row.to_string().into_bytes())]);
        assert_eq!(portal.get(first_id()).await.expect("a referral").etag, Some(ETag(expected.to_owned())));
    }
}

#[tokio::test]
async fn another_referral_is_not_the_answer() {
    for body in [rows()[1].to_string(), "{}".to_owned(), "[]".to_owned(), String::new(), "<html>".to_owned()] {
        let (portal, _) = adapter([ok(&body)]);
        assert_eq!(portal.get(first_id()).await.expect_err("not it").fault, Fault::Malformed, "{body}");
    }
}

#[tokio::test]
async fn a_referral_that_cannot_be_seen_is_told_apart() {
    for (code, fault) in
        [(404, Fault::Missing), (410, Fault::Missing), (403, Fault::Refused), (401, Fault::Unauthorized)]
    {
        let (portal, _) = adapter([status(code)]);
        let error = portal.get(first_id()).await.expect_err("not visible");
        assert_eq!((&error.fault, error.operation), (&fault, "get referral"));
        assert_eq!(error.message.is_some_and(|message| message.contains("Referrals admin")), code == 403);
    }
}

/// Any JSON, a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~\u{e9}\u{1f600}]{0,12}".prop_map(Value::from),
        Just(json!("8f0c2b1e-0000-4000-8000-00000000000f")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z]{1,8}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// All pointers into a tree, the root excluded.
fn pointers(value: &Value, at: &str, into: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, child)| (format!("{at}/{name}"), child)).collect(),
        Value::Array(rows) => rows.iter().enumerate().map(|(row, child)| (format!("{at}/{row}"), child)).collect(),
        _ => Vec::new(),
    };
    for (pointer, child) in children {
        pointers(child, &pointer, into);
        into.push(pointer);
    }
}

proptest! {
    /// Whatever is done inside one row, the page is read, the row counts once, and every other row is there.
    #[test]
    fn damage_inside_a_row_stays_inside(
        hit in 0..5_usize,
        choices in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4),
    ) {
        let template = rows().remove(0);
        let mut page: Vec<Value> = (0..5).map(|row| {
            let mut referral = template.clone();
            referral["id"] = json!(format!("8f0c2b1e-0000-4000-8000-{row:012}"));
            referral
        }).collect();
        for (choice, value) in choices {
            let mut known = vec![String::new()];
            pointers(&page[hit], "", &mut known);
            let pointer = choice.get(&known).clone();
            *page[hit].pointer_mut(&pointer).expect("the pointer was just found") = value;
        }
        let decoded = wire::page(json!({ "value": page }).to_string().as_bytes()).expect("the page is intact");
        prop_assert_eq!(decoded.referrals.len() + decoded.defects.len(), 5);
        prop_assert!(decoded.referrals.iter().all(|referral| referral.document.is_object()));
        let found: BTreeSet<String> = decoded.referrals.iter().map(|referral| referral.id.to_string()).collect();
        for row in (0..5).filter(|row| *row != hit) {
            let expected = format!("8f0c2b1e-0000-4000-8000-{row:012}");
            prop_assert!(found.contains(&expected), "{} is lost", expected);
        }
    }

    /// Bytes changed anywhere may make a page unreadable; they never make a panic, and a message never quotes them.
    #[test]
    fn damaged_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut body = PAGE.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        match wire::page(&body) {
            Ok(page) => prop_assert!(page.referrals.iter().all(|referral| referral.document.is_object())),
            Err(reason) => prop_assert!(!reason.contains("Tailspin") && !reason.contains("Ada")),
        }
        let _ = wire::referral_from_bytes(&body);
    }

    /// A page cut anywhere is not taken for a whole one.
    #[test]
    fn a_cut_page_is_not_a_page(at in any::<prop::sample::Index>()) {
        let cut = at.index(PAGE.trim_end().len());
        prop_assert!(wire::page(&PAGE.as_bytes()[..cut]).is_err());
    }
}
