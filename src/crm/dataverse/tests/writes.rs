//! Creates and updates: forms, conditions, and every status they can end with.

use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fake::*;
use crate::crm::dataverse::Dataverse;
use crate::crm::dataverse::settings::Identity;
use crate::http::Effect;
use crate::model::{ETag, Fault, Lead, LeadDraft, LeadId, LeadState, LeadStatus, Owner, RemoteError};
use crate::ports::Crm;

async fn create(dataverse: &Dataverse, draft: &LeadDraft) -> Result<Lead, RemoteError> {
    dataverse.create(referral(), lead_id(), draft, request()).await
}

async fn update(dataverse: &Dataverse, draft: &LeadDraft) -> Result<Lead, RemoteError> {
    dataverse.update(lead_id(), &etag(), draft, request()).await
}

fn created(row: &Value) -> Reply {
    raw(201, &row.to_string())
}

fn with(columns: &[(&str, Value)]) -> LeadDraft {
    LeadDraft {
        columns: columns.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        ..LeadDraft::default()
    }
}

#[tokio::test]
async fn a_derived_create_names_the_computed_id_and_fills_the_column() {
    let fake = Fake::new();
    fake.on(Method::PATCH, "leads(", created(&lead_row()));
    let lead = create(&derived(&fake), &draft()).await.expect("a lead");
    let call = &fake.calls()[0];
    assert_eq!(call.url.as_str(), format!("{HOST}/api/data/v9.2/leads({})?$select={SELECT}&tag=referrald", lead_id()));
    assert_eq!((header(call, "if-none-match"), header(call, "if-match")), ("*", ""));
    assert_eq!(header(call, "prefer"), "return=representation");
    assert_eq!(header(call, "content-type"), "application/json; charset=utf-8");
    assert_eq!((call.effect, call.request), (Effect::Write, Some(request())));
    assert_eq!(body(call), json!({"subject": "Contoso migration", "new_referralid": referral()}));
    assert_eq!((lead.id, lead.etag), (lead_id(), Some(etag())));
    assert_eq!(fake.calls().len(), 1);
}

#[tokio::test]
async fn without_the_column_a_create_does_not_name_it() {
    for column in [None, Some("new_absent")] {
        let fake = Fake::new();
        fake.metadata(ONE_COLUMN, raw(404, ""));
        fake.on(Method::PATCH, "leads(", created(&lead_row()));
        create(&open(&fake, Identity::Derived, column), &draft()).await.expect("a lead");
        assert_eq!(body(&fake.calls()[0]), json!({"subject": "Contoso migration"}));
    }
}

#[tokio::test]
async fn a_create_by_key_keeps_the_key_out_of_the_body() {
    let fake = Fake::new();
    fake.on(Method::PATCH, "leads(", created(&lead_row()));
    let draft = with(&[("subject", json!("Contoso")), (COLUMN, json!("something else"))]);
    create(&keyed(&fake), &draft).await.expect("a lead");
    let call = &fake.calls()[0];
    assert_eq!(
        call.url.as_str(),
        format!("{HOST}/api/data/v9.2/leads(new_referralid='{}')?$select={SELECT}&tag=referrald", referral())
    );
    assert_eq!(header(call, "if-none-match"), "*");
    assert_eq!(body(call), json!({"subject": "Contoso"}));
}

#[tokio::test]
async fn an_update_sends_the_given_columns_under_the_version_to_the_letter() {
    let fake = Fake::new();
    for version in ["W/\"71004878\"", "\"a\"", "W/\"odd, but one\""] {
        fake.on(Method::PATCH, "leads(", ok(lead_row()));
        let draft = with(&[
            ("description", json!(null)),
            ("estimatedamount", serde_json::from_str("120000.10").expect("a number")),
        ]);
        derived(&fake).update(lead_id(), &ETag(version.into()), &draft, request()).await.expect("a lead");
        let calls = fake.calls();
        let call = calls.last().expect("a call");
        assert_eq!((header(call, "if-match"), header(call, "if-none-match")), (version, ""));
        let sent = String::from_utf8(call.body.clone().expect("a body").to_vec()).expect("text");
        assert_eq!(sent, r#"{"description":null,"estimatedamount":120000.10}"#);
        assert!(call.url.as_str().ends_with(&format!("leads({})?$select={SELECT}&tag=referrald", lead_id())));
    }
}

#[tokio::test]
async fn a_version_that_matches_anything_is_never_sent() {
    let fake = Fake::new();
    for version in ["", " ", "*", " * ", "W/\"1\", *", "W/\"1\"\r\nX: y"] {
        let error =
            derived(&fake).update(lead_id(), &ETag(version.into()), &draft(), request()).await.expect_err("refused");
        assert_eq!((error.fault, error.is_outcome_unknown), (Fault::Refused, false), "{version:?}");
    }
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn an_empty_tag_is_left_out() {
    let fake = Fake::new();
    let mut settings = settings();
    settings.tag.clear();
    fake.on(Method::PATCH, "leads(", ok(lead_row()));
    let dataverse = Dataverse::open(&settings, Identity::Derived, None, mapped(), fake.clone()).expect("settings");
    update(&dataverse, &draft()).await.expect("a lead");
    assert!(!fake.calls()[0].url.as_str().contains("tag"));
}

#[tokio::test]
async fn the_currency_is_bound_by_its_id() {
    let fake = Fake::new();
    let draft = with(&[("estimatedamount", json!(5)), ("transactioncurrencyid", json!("eur"))]);
    fake.on(Method::PATCH, "leads(", created(&lead_row()));
    create(&derived(&fake), &draft).await.expect("a lead");
    fake.on(Method::PATCH, "leads(", ok(lead_row()));
    update(&derived(&fake), &with(&[("transactioncurrencyid", json!(null))])).await.expect("a lead");
    let calls = fake.calls();
    assert_eq!(
        body(&calls[0]),
        json!({"estimatedamount": 5, "transactioncurrencyid@odata.bind": format!("/transactioncurrencies({})", euro()),
               "new_referralid": referral()})
    );
    assert_eq!(body(&calls[1]), json!({"transactioncurrencyid@odata.bind": null}));
}

#[tokio::test]
async fn an_unknown_currency_is_refused_unsent_and_named() {
    let fake = Fake::new();
    for (value, named) in [(json!("XTS"), "XTS"), (json!("Jane's money"), "odd name"), (json!(978), "ISO 4217")] {
        let draft = with(&[("transactioncurrencyid", value)]);
        for error in [create(&derived(&fake), &draft).await, update(&derived(&fake), &draft).await] {
            let error = error.expect_err("refused");
            assert_eq!(error.fault, Fault::Refused);
            assert!(error.message.is_some_and(|message| message.contains(named)));
        }
    }
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn the_owner_is_bound_on_create_and_never_later() {
    let fake = Fake::new();
    let id = Uuid::from_u128(0x77);
    for (owner, target) in [(Owner::User(id), "systemusers"), (Owner::Team(id), "teams")] {
        let draft = LeadDraft { owner: Some(owner), ..draft() };
        fake.on(Method::PATCH, "leads(", created(&lead_row()));
        create(&derived(&fake), &draft).await.expect("a lead");
        let calls = fake.calls();
        assert_eq!(body(calls.last().expect("a call"))["ownerid@odata.bind"], format!("/{target}({id})"));
        let before = fake.calls().len();
        assert_eq!(update(&derived(&fake), &draft).await.expect_err("refused").fault, Fault::Refused);
        assert_eq!(fake.calls().len(), before);
    }
}

#[tokio::test]
async fn a_status_is_written_with_its_state_on_update_and_alone_on_create() {
    let fake = Fake::new();
    let status = |state, code| LeadDraft { status: Some(LeadStatus { state, code }), ..LeadDraft::default() };
    fake.on(Method::PATCH, "leads(", ok(lead_row()));
    update(&derived(&fake), &status(LeadState::Disqualified, 5)).await.expect("a lead");
    fake.on(Method::PATCH, "leads(", created(&lead_row()));
    create(&derived(&fake), &status(LeadState::Open, 2)).await.expect("a lead");
    let calls = fake.calls();
    assert_eq!(body(&calls[0]), json!({"statecode": 2, "statuscode": 5}));
    assert_eq!(body(&calls[1]), json!({"statuscode": 2, "new_referralid": referral()}));
    let closed = create(&derived(&fake), &status(LeadState::Disqualified, 4)).await.expect_err("refused");
    assert_eq!((closed.fault, fake.calls().len()), (Fault::Refused, 2));
}

#[tokio::test]
async fn columns_that_are_not_ours_or_do_not_exist_are_refused_unsent() {
    let fake = Fake::new();
    for name in
        ["new_gone", "_ownerid_value", "ownerid", "statecode", "leadid", "owner@odata.bind", "createdby", "revenue"]
    {
        let draft = with(&[(name, json!("x"))]);
        assert_eq!(update(&derived(&fake), &draft).await.expect_err(name).fault, Fault::Refused, "{name}");
        assert_eq!(create(&derived(&fake), &draft).await.expect_err(name).fault, Fault::Refused, "{name}");
    }
    for value in [json!({"a": 1}), json!([1])] {
        assert!(update(&derived(&fake), &with(&[("subject", value)])).await.is_err());
    }
    assert!(update(&derived(&fake), &LeadDraft::default()).await.is_err(), "nothing to write is not written");
    assert!(fake.calls().is_empty());
}

/// Row by row the table of conditional headers (dataverse §3.2), for the two forms that exist here.
#[tokio::test]
async fn the_status_matrix_of_a_create() {
    for (reply, expected) in [
        (created(&lead_row()), Ok(1)),
        (ok(lead_row()), Ok(1)),
        (raw(204, ""), Ok(2)),
        (error(412, "0x80040237", "A record with matching key values already exists."), Err(Fault::Conflict)),
        (error(412, "", "A record with matching key values already exists."), Err(Fault::Conflict)),
        (raw(412, ""), Err(Fault::Conflict)),
        (error(412, "0x80060892", "duplicate key"), Err(Fault::Conflict)),
        (error(400, "0x80060892", "duplicate key"), Err(Fault::Conflict)),
        (error(412, "0x80040333", "duplicate rule"), Err(Fault::Refused)),
        (error(500, "0x80040333", "duplicate rule"), Err(Fault::Refused)),
        (error(404, "0x80040217", "systemuser With Id = 1 Does Not Exist"), Err(Fault::Refused)),
        (error(404, "0x80040217", "lead With Id = 1 Does Not Exist"), Err(Fault::Refused)),
        (raw(404, ""), Err(Fault::Refused)),
        (error(400, "0x80044331", "too long"), Err(Fault::Refused)),
        (error(403, "0x80040220", "prvCreateLead"), Err(Fault::Unauthorized)),
        (raw(502, "<html>"), Err(Fault::Unavailable)),
    ] {
        for mode in [derived, keyed] {
            let fake = Fake::new();
            let printed = format!("{reply:?}");
            fake.on(Method::PATCH, "leads(", reply.clone());
            fake.on(Method::GET, "leads(", ok(lead_row()));
            let result = create(&mode(&fake), &draft()).await;
            match expected.clone() {
                Ok(calls) => {
                    assert_eq!(result.expect(&printed).etag, Some(etag()), "{printed}");
                    assert_eq!(fake.calls().len(), calls, "{printed}");
                }
                Err(fault) => {
                    let error = result.expect_err(&printed);
                    assert_eq!(error.is_outcome_unknown, fault == Fault::Unavailable, "{printed}");
                    assert_eq!(error.fault, fault, "{printed}");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_status_matrix_of_an_update() {
    for (reply, expected) in [
        (ok(lead_row()), Ok(1)),
        (raw(204, ""), Ok(2)),
        (error(412, "0x80060882", "version"), Err(Fault::Conflict)),
        (raw(412, ""), Err(Fault::Conflict)),
        (error(412, "0x80060892", "duplicate key"), Err(Fault::Conflict)),
        (error(412, "0x80040333", "duplicate rule"), Err(Fault::Refused)),
        (error(404, "0x80040217", "lead With Id = 1 Does Not Exist"), Err(Fault::Missing)),
        (error(404, "0x80040217", "systemuser With Id = 1 Does Not Exist"), Err(Fault::Refused)),
        (error(400, "0x80048408", "status"), Err(Fault::Refused)),
        (error(400, "0x80040230", "inactive"), Err(Fault::Refused)),
        (error(400, "0x80048d19", "payload"), Err(Fault::Refused)),
        (error(503, "0x80072322", "limit"), Err(Fault::Throttled { until: crate::model::Timestamp::EPOCH })),
        (raw(500, ""), Err(Fault::Unavailable)),
        (raw(404, "<html>gateway</html>"), Err(Fault::Unavailable)),
    ] {
        let fake = Fake::new();
        let printed = format!("{reply:?}");
        fake.on(Method::PATCH, "leads(", reply);
        fake.on(Method::GET, "leads(", ok(lead_row()));
        let result = update(&derived(&fake), &draft()).await;
        match expected {
            Ok(calls) => {
                assert_eq!(result.expect(&printed).etag, Some(etag()), "{printed}");
                assert_eq!(fake.calls().len(), calls, "{printed}");
            }
            Err(fault) => {
                let error = result.expect_err(&printed);
                assert_eq!(error.is_outcome_unknown, fault == Fault::Unavailable, "{printed}");
                assert_eq!(error.fault, fault, "{printed}");
                assert_eq!(fake.calls().len(), 1, "{printed}");
            }
        }
    }
}

#[tokio::test]
async fn a_written_lead_whose_answer_cannot_be_read_is_read_again() {
    let mut other = lead_row();
    other["leadid"] = json!(Uuid::from_u128(1));
    for reply in [raw(200, "<html>"), raw(200, ""), ok(json!({})), raw(201, "{\"leadid\":"), ok(other), raw(202, "")] {
        let fake = Fake::new();
        fake.on(Method::PATCH, "leads(", reply.clone());
        fake.on(Method::GET, "leads(", ok(lead_row()));
        let lead = update(&derived(&fake), &draft()).await.expect("written");
        assert_eq!((lead.id, fake.calls().len()), (lead_id(), 2), "{reply:?}");

        let fake = Fake::new();
        fake.on(Method::PATCH, "leads(", reply);
        fake.on(Method::GET, "leads(", raw(503, ""));
        let error = update(&derived(&fake), &draft()).await.expect_err("not known");
        assert_eq!((error.fault, error.is_outcome_unknown), (Fault::Malformed, true));
    }
}

#[tokio::test]
async fn an_owner_who_cannot_own_is_a_refusal_with_a_reason() {
    for code in ["0x80040231", "0x8004022b", "0x80040229"] {
        let fake = Fake::new();
        fake.on(Method::PATCH, "leads(", error(403, code, "owner"));
        let refused = create(&derived(&fake), &draft()).await.expect_err("refused");
        assert_eq!(refused.fault, Fault::Refused);
        assert!(refused.message.is_some_and(|message| message.contains("owner")));
    }
}

#[tokio::test]
async fn a_plug_in_that_crashes_on_one_lead_does_not_stop_the_side() {
    for code in ["0x80040224", "0x80040216", "0x8004418d", "0x80048306"] {
        let fake = Fake::new();
        fake.on(Method::PATCH, "leads(", error(500, code, "crash"));
        let refused = update(&derived(&fake), &draft()).await.expect_err("refused");
        assert_eq!((refused.fault.clone(), refused.stops_side()), (Fault::Refused, false), "{code}");
    }
    let fake = Fake::new();
    fake.on(Method::PATCH, "leads(", error(500, "0x80044151", "SQL"));
    assert_eq!(update(&derived(&fake), &draft()).await.expect_err("down").fault, Fault::Unavailable);
}

mod property {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the draft: one condition, one of two forms, and only names of ours.
        #[test]
        fn no_write_goes_out_without_its_condition(
            names in proptest::collection::btree_set(
                prop_oneof![
                    Just("subject".to_owned()), Just("lastname".to_owned()), Just("statecode".to_owned()),
                    Just(COLUMN.to_owned()), Just("transactioncurrencyid".to_owned()), "[a-z_@.]{0,12}",
                ],
                0..4,
            ),
            value in prop_oneof![Just(json!(null)), Just(json!("EUR")), Just(json!(1)), ".{0,8}".prop_map(Value::from)],
            version in prop_oneof![Just("W/\"1\"".to_owned()), Just("*".to_owned()), ".{0,6}"],
            is_create in any::<bool>(),
            is_keyed in any::<bool>(),
        ) {
            let draft = LeadDraft { columns: names.into_iter().map(|name| (name, value.clone())).collect(), ..LeadDraft::default() };
            let fake = Fake::new();
            fake.on(Method::PATCH, "leads(", ok(lead_row()));
            let dataverse = if is_keyed { keyed(&fake) } else { derived(&fake) };
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let _ = runtime.block_on(async {
                if is_create {
                    dataverse.create(referral(), lead_id(), &draft, request()).await
                } else {
                    dataverse.update(lead_id(), &ETag(version), &draft, request()).await
                }
            });
            for call in fake.all_calls().iter().filter(|call| call.method != Method::GET) {
                prop_assert_eq!(&call.method, Method::PATCH);
                let (absent, matching) = (header(call, "if-none-match"), call.headers.get("if-match"));
                prop_assert!((absent == "*") == matching.is_none());
                prop_assert!(matching.is_none_or(|version| version.as_bytes().trim_ascii() != b"*" && !version.is_empty()));
                for name in body(call).as_object().expect("an object").keys() {
                    let known = ["subject", "lastname", COLUMN, "transactioncurrencyid@odata.bind"];
                    prop_assert!(known.contains(&name.as_str()), "{}", name);
                }
            }
        }
    }

    #[test]
    fn ids_of_leads_cannot_carry_anything_but_hexadecimal_digits_and_hyphens() {
        let id = LeadId::new(Uuid::max()).to_string();
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'));
    }
}
