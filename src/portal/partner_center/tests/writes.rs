//! Writes: what is sent, what is refused unsent, and what an answer means.

use serde_json::{Value, json};
use uuid::Uuid;

use super::super::contract;
use super::fake::{Reply, adapter, adapter_with, first_id, ok, status};
use crate::http::Effect;
use crate::model::{ETag, Fault, Patch, Referral, ReferralStatus, RemoteError};
use crate::ports::Portal;

const REQUEST: Uuid = Uuid::from_u128(0x5eed);

fn etag() -> ETag {
    ETag(r#""84001c9d-0000-0100-0000-6225a63e0000""#.to_owned())
}

fn acceptance() -> Patch {
    let mut patch = Patch::default();
    patch.replace("/status", "Active");
    patch.replace("/substatus", "Accepted");
    patch.replace("/externalReferenceId", "6b1d9a7c-1111-4222-8333-944445555666");
    patch
}

fn one(path: &str, value: Value) -> Patch {
    let mut patch = Patch::default();
    patch.replace(path, value);
    patch
}

fn active() -> Value {
    json!({"id": first_id().to_string(), "status": "Active", "substatus": "Accepted", "eTag": "\"2\""})
}

async fn write(portal: &dyn Portal, patch: &Patch) -> Result<Option<Referral>, RemoteError> {
    portal.patch(first_id(), &etag(), patch, REQUEST).await
}

#[tokio::test]
async fn a_write_is_sent_as_documented() {
    let (portal, fake) = adapter([Reply::Http(204, Vec::new(), Vec::new())]);
    assert_eq!(write(&portal, &acceptance()).await, Ok(None));
    let call = &fake.calls()[0];
    assert_eq!(
        call.url.as_str(),
        "https://api.partner.microsoft.com/v1.0/engagements/referrals/8f0c2b1e-0000-4000-8000-000000000001"
    );
    assert_eq!((call.effect, call.request), (Effect::Write, Some(REQUEST)));
    assert_eq!(call.headers["if-match"], r#""84001c9d-0000-0100-0000-6225a63e0000""#);
    assert_eq!(call.headers["prefer"], "return=representation");
    let body: Value = serde_json::from_slice(call.body.as_ref().expect("a body")).expect("JSON");
    assert_eq!(
        body,
        json!([
            {"op": "replace", "path": "/status", "value": "Active"},
            {"op": "replace", "path": "/substatus", "value": "Accepted"},
            {"op": "replace", "path": "/externalReferenceId", "value": "6b1d9a7c-1111-4222-8333-944445555666"}
        ])
    );
}

#[tokio::test]
async fn amounts_are_sent_as_exact_numbers() {
    let (portal, fake) = adapter([Reply::Http(204, Vec::new(), Vec::new())]);
    let amount: Value = serde_json::from_str("12345678901234567890.10").expect("a number");
    assert_eq!(write(&portal, &one("/details/dealValue", amount)).await, Ok(None));
    let body = fake.calls()[0].body.clone().expect("a body");
    assert!(String::from_utf8_lossy(&body).contains(r#""value":12345678901234567890.10"#), "{body:?}");
}

#[tokio::test]
async fn without_the_preference_nothing_is_preferred() {
    let replies = [Reply::Http(204, Vec::new(), Vec::new())];
    let (portal, fake) = adapter_with(replies, |settings| settings.prefer_representation = false);
    assert_eq!(write(&portal, &acceptance()).await, Ok(None));
    assert!(!fake.calls()[0].headers.contains_key("prefer"));
}

#[tokio::test]
async fn a_representation_saves_a_read() {
    let (portal, _) = adapter([ok(active().to_string())]);
    let referral = write(&portal, &acceptance()).await.expect("written").expect("sent back");
    assert_eq!((referral.status, referral.etag), (ReferralStatus::Active, Some(ETag("\"2\"".to_owned()))));
}

#[tokio::test]
async fn the_version_of_a_representation_may_be_in_the_header() {
    let mut body = active();
    body["eTag"] = Value::Null;
    let (portal, _) = adapter([Reply::Http(200, vec![("etag", "\"3\"")], body.to_string().into_bytes())]);
    let referral = write(&portal, &acceptance()).await.expect("written").expect("sent back");
    assert_eq!(referral.etag, Some(ETag("\"3\"".to_owned())));
}

#[tokio::test]
async fn an_unreadable_answer_to_a_write_is_no_failure() {
    let other = json!({"id": "8f0c2b1e-0000-4000-8000-000000000009", "status": "New", "substatus": "Pending"});
    for body in ["", "<html></html>", "{", "null", &other.to_string()] {
        for code in [200, 202] {
            let (portal, _) = adapter([Reply::Http(code, Vec::new(), body.as_bytes().to_vec())]);
            assert_eq!(write(&portal, &acceptance()).await, Ok(None), "{code} {body}");
        }
    }
}

#[tokio::test]
async fn a_patch_against_the_rules_is_refused_unsent() {
    let mut twice = acceptance();
    twice.replace("/status", "Active");
    let mut expired = one("/status", json!("Closed"));
    expired.replace("/substatus", "Expired");
    let mut odd = one("/status", json!("Active"));
    odd.replace("/substatus", "Won");
    let (portal, fake) = adapter([]);
    for (patch, reason) in [
        (Patch::default(), "empty"),
        (one("/name", json!("x")), "/name"),
        (one("/id", json!("x")), "/id"),
        (one("/details", json!({})), "/details"),
        (one("/registrations/-", json!({})), "/registrations/-"),
        (one("/team/-", json!({})), "add only"),
        (one("/status", json!("Active")), "together"),
        (one("/substatus", json!("Accepted")), "together"),
        (one("/consent/consentToShareReferralWithMicrosoftSellers", json!(true)), "never written"),
        (twice, "twice"),
        (expired, "by the service alone"),
        (odd, "does not go with"),
    ] {
        let error = write(&portal, &patch).await.expect_err(reason);
        assert_eq!(error.fault, Fault::Refused);
        let message = error.message.as_deref().unwrap_or_default();
        assert!(message.starts_with("not sent: ") && message.contains(reason), "{error}");
    }
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn every_path_of_the_table_but_the_irrevocable_can_be_replaced() {
    for (path, shape) in contract::PATCH_PATHS {
        let value = match shape {
            contract::Shape::List => json!([]),
            contract::Shape::Amount => json!(1),
            contract::Shape::Instant => json!("2027-01-31T00:00:00Z"),
            contract::Shape::Flag => json!(true),
            _ => json!("x"),
        };
        let is_writable = !path.ends_with("/-") && !path.ends_with("tatus") && !contract::NEVER_WRITTEN.contains(&path);
        let (portal, fake) = adapter([Reply::Http(204, Vec::new(), Vec::new())]);
        assert_eq!(write(&portal, &one(path, value)).await.is_ok(), is_writable, "{path}");
        assert_eq!(fake.calls().len(), usize::from(is_writable), "{path}");
    }
}

#[tokio::test]
async fn a_write_needs_a_version() {
    let (portal, fake) = adapter([]);
    for tag in ["", " ", "*", " * ", "\"a\nb\""] {
        let refused = portal.patch(first_id(), &ETag(tag.to_owned()), &acceptance(), REQUEST).await;
        assert_eq!(refused.expect_err(tag).fault, Fault::Refused);
    }
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn refusals_of_a_write_keep_their_meaning() {
    for (code, fault) in [
        (403, Fault::Refused),
        (405, Fault::Refused),
        (404, Fault::Missing),
        (409, Fault::Conflict),
        (410, Fault::Missing),
        (412, Fault::Conflict),
        (423, Fault::Conflict),
        (500, Fault::Unavailable),
    ] {
        let (portal, fake) = adapter([status(code)]);
        let error = write(&portal, &acceptance()).await.expect_err("refused");
        assert_eq!((&error.fault, error.status), (&fault, Some(code)));
        assert_eq!(error.is_outcome_unknown, code == 500);
        assert_eq!(error.operation, "patch referral");
        assert!(!error.to_string().contains("Ada"), "{error}");
        assert_eq!(fake.calls().len(), 1, "deciding again is the cycle's business");
    }
}

#[tokio::test]
async fn a_stale_version_is_a_conflict_with_its_code() {
    let body = br#"{"error":{"code":"preconditionFailed","target":"ETag","innerError":{"code":"99918"}}}"#;
    let (portal, _) = adapter([Reply::Http(412, Vec::new(), body.to_vec())]);
    let error = write(&portal, &acceptance()).await.expect_err("stale");
    assert_eq!((error.fault, error.code.as_deref()), (Fault::Conflict, Some("99918")));
}

#[tokio::test]
async fn silence_after_a_write_is_an_unknown_outcome() {
    let (portal, fake) = adapter([Reply::Silence]);
    let error = write(&portal, &acceptance()).await.expect_err("silence");
    assert!(error.is_outcome_unknown);
    assert_eq!(fake.calls().len(), 1, "never repeated blindly");
}

#[tokio::test]
async fn replays_of_a_write_are_the_same_request() {
    let (portal, fake) = adapter([Reply::Silence, Reply::Http(204, Vec::new(), Vec::new())]);
    assert!(write(&portal, &acceptance()).await.is_err());
    assert_eq!(write(&portal, &acceptance()).await, Ok(None));
    let calls = fake.calls();
    assert_eq!((&calls[0].body, calls[0].request), (&calls[1].body, calls[1].request));
    assert_eq!(calls[0].headers, calls[1].headers);
}

#[tokio::test]
async fn a_member_that_a_strict_service_misses_is_added() {
    let without =
        json!({"id": first_id().to_string(), "status": "New", "substatus": "Pending", "details": {"notes": null}});
    let mut patch = acceptance();
    patch.replace("/details/notes", "x");
    let script = [status(400), ok(without.to_string()), Reply::Http(204, Vec::new(), Vec::new())];
    let (portal, fake) = adapter(script);
    assert_eq!(write(&portal, &patch).await, Ok(None));
    let calls = fake.calls();
    assert_eq!(calls.iter().map(|call| call.method.as_str()).collect::<Vec<_>>(), ["PATCH", "GET", "PATCH"]);
    let body: Value = serde_json::from_slice(calls[2].body.as_ref().expect("a body")).expect("JSON");
    let ops: Vec<&str> = body.as_array().expect("a list").iter().filter_map(|one| one["op"].as_str()).collect();
    assert_eq!(ops, ["replace", "replace", "add", "replace"], "only what is absent");
    assert_eq!(calls[0].headers["if-match"], calls[2].headers["if-match"]);
}

#[tokio::test]
async fn what_a_strict_service_has_taught_is_remembered_until_it_teaches_otherwise() {
    let done = || Reply::Http(204, Vec::new(), Vec::new());
    let lacking = json!({"id": first_id().to_string(), "status": "New", "substatus": "Pending"});
    let mut whole = lacking.clone();
    whole["externalReferenceId"] = Value::Null;
    let script =
        [status(400), ok(lacking.to_string()), done(), done(), status(400), ok(whole.to_string()), done(), done()];
    let (portal, fake) = adapter(script);
    for _ in 0..4 {
        assert_eq!(write(&portal, &acceptance()).await, Ok(None));
    }
    let third = |body: &bytes::Bytes| {
        let body: Value = serde_json::from_slice(body).expect("JSON");
        body.pointer("/2/op").and_then(Value::as_str).expect("an operation").to_owned()
    };
    let verbs: Vec<String> = fake.calls().iter().filter_map(|call| call.body.as_ref()).map(third).collect();
    assert_eq!(verbs, ["replace", "add", "add", "add", "replace", "replace"]);
}

#[tokio::test]
async fn a_refusal_that_is_not_about_absent_members_stays_one() {
    let mut whole = active();
    whole["externalReferenceId"] = Value::Null;
    for look in [ok(whole.to_string()), status(500), ok("<html>")] {
        let (portal, fake) = adapter([status(400), look]);
        let error = write(&portal, &acceptance()).await.expect_err("refused");
        assert_eq!((error.fault, error.status), (Fault::Refused, Some(400)));
        assert_eq!(fake.calls().len(), 2);
    }
}

#[tokio::test]
async fn the_header_is_the_version_when_a_fresh_read_repeats_the_refused_one() {
    let stale = json!({"id": first_id().to_string(), "status": "New", "substatus": "Pending", "eTag": etag().0});
    let read = || Reply::Http(200, vec![("etag", "W/\"7\"")], stale.to_string().into_bytes());
    let (portal, fake) = adapter([read(), status(412), read(), Reply::Http(204, Vec::new(), Vec::new()), read()]);
    let first = portal.get(first_id()).await.expect("read");
    assert_eq!(first.etag, Some(etag()), "the body counts at first");
    assert_eq!(write(&portal, &acceptance()).await.expect_err("refused").fault, Fault::Conflict);
    let second = portal.get(first_id()).await.expect("read").etag.expect("a version");
    assert_eq!(second, ETag("W/\"7\"".to_owned()));
    portal.patch(first_id(), &second, &acceptance(), REQUEST).await.expect("written");
    assert_eq!(fake.calls()[3].headers["if-match"], "W/\"7\"");
    assert_eq!(portal.get(first_id()).await.expect("read").etag, Some(etag()), "a refusal counts once");
}

#[tokio::test]
async fn a_version_that_moved_on_is_taken_from_the_body() {
    let read = Reply::Http(200, vec![("etag", "\"9\"")], active().to_string().into_bytes());
    let (portal, _) = adapter([status(412), read]);
    write(&portal, &acceptance()).await.expect_err("refused");
    assert_eq!(portal.get(first_id()).await.expect("read").etag, Some(ETag("\"2\"".to_owned())));
}
