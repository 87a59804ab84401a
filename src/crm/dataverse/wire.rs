//! The service's JSON: rows in, bodies out.
//!
//! Rows are read leniently: what is optional may be missing, and one bad row never spoils its page.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::contract;
use super::metadata::Live;
use crate::http;
use crate::model::{ETag, Lead, LeadId, LeadState, LeadStatus, Opportunity, OpportunityState, ReferralId, Timestamp};
use crate::ports::Defect;

/// Currencies by id, besides those of the schema.
pub type Strays = BTreeMap<Uuid, String>;

/// One page of rows as it came.
#[derive(Debug, Deserialize)]
pub struct Rows {
    /// The rows, each still to be decoded.
    pub value: Vec<Value>,
    /// How the service goes on.
    #[serde(rename = "@odata.nextLink", default)]
    pub next: Option<String>,
    /// How to ask for what changes later.
    #[serde(rename = "@odata.deltaLink", default)]
    pub delta: Option<String>,
}

/// What [`http::json`] reads, if it can.
pub fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Option<T> {
    http::json(body).ok()
}

/// Decodes a lead (dataverse §2.1). Null columns are absent; amounts keep every digit.
pub fn lead(row: Value, live: &Live, strays: &Strays) -> Result<Lead, Defect> {
    let Value::Object(mut row) = row else { return Err(defect(None, "the row is no object")) };
    let Some(id) = guid(&row, contract::LEAD_ID).map(LeadId::new) else {
        return Err(defect(id_text(&row, contract::LEAD_ID), "leadid is no GUID"));
    };
    let state = match integer(&row, contract::STATE) {
        Some(0) => LeadState::Open,
        Some(1) => LeadState::Qualified,
        Some(2) => LeadState::Disqualified,
        Some(_) => return Err(defect(Some(id.to_string()), "statecode is unknown")),
        None => return Err(defect(Some(id.to_string()), "statecode is missing")),
    };
    let code = integer(&row, contract::STATUS).and_then(|code| i32::try_from(code).ok());
    let status = LeadStatus { state, code: code.unwrap_or_else(|| default_code(state)) };
    let currency = guid(&row, contract::CURRENCY_VALUE);
    let held = live.referral_column.as_deref().and_then(|name| text(&row, name)).filter(|text| !text.trim().is_empty());
    let referral = held.and_then(ReferralId::parse);

    let mut lead = Lead {
        id,
        etag: etag(&row),
        status,
        created: instant(&row, contract::CREATED),
        modified: instant(&row, contract::MODIFIED),
        created_by: guid(&row, contract::CREATED_BY_VALUE),
        modified_by: guid(&row, contract::MODIFIED_BY_VALUE),
        is_merged: matches!(row.get(contract::MERGED), Some(Value::Bool(true))),
        master: guid(&row, contract::MASTER_VALUE).map(LeadId::new),
        opportunity: guid(&row, contract::QUALIFYING_OPPORTUNITY_VALUE),
        referral,
        has_foreign_referral: held.is_some() && referral.is_none(),
        columns: BTreeMap::new(),
    };
    for name in &live.columns {
        if let Some(value @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) = row.remove(name) {
            lead.columns.insert(name.clone(), value);
        }
    }
    if let Some(currency) = currency {
        // A currency that nobody can name is still not "no currency".
        let code = live.currencies.code(currency).or_else(|| strays.get(&currency).cloned());
        let code = code.unwrap_or_else(|| currency.to_string());
        lead.columns.insert(contract::CURRENCY.to_owned(), Value::String(code));
    }
    Ok(lead)
}

/// Decodes an opportunity (dataverse §2.4).
pub fn opportunity(row: &Value, live: &Live, strays: &Strays) -> Result<Opportunity, Defect> {
    let Value::Object(row) = row else { return Err(defect(None, "the row is no object")) };
    let Some(id) = guid(row, contract::OPPORTUNITY_ID) else {
        return Err(defect(id_text(row, contract::OPPORTUNITY_ID), "opportunityid is no GUID"));
    };
    let state = match integer(row, contract::STATE) {
        Some(0) => OpportunityState::Open,
        Some(1) => OpportunityState::Won,
        Some(2) => OpportunityState::Lost,
        Some(_) => return Err(defect(Some(id.to_string()), "statecode is unknown")),
        None => return Err(defect(Some(id.to_string()), "statecode is missing")),
    };
    let estimated = date(row, contract::ESTIMATED_CLOSE_DATE);
    let close_date = match state {
        OpportunityState::Open => estimated,
        OpportunityState::Won | OpportunityState::Lost => date(row, contract::ACTUAL_CLOSE_DATE).or(estimated),
    };
    let currency = guid(row, contract::CURRENCY_VALUE);
    Ok(Opportunity {
        id,
        lead: guid(row, contract::ORIGINATING_LEAD_VALUE).map(LeadId::new),
        state,
        created: instant(row, contract::CREATED),
        modified: instant(row, contract::MODIFIED),
        estimated_value: decimal(row, contract::ESTIMATED_VALUE),
        actual_value: decimal(row, contract::ACTUAL_VALUE),
        currency: currency.and_then(|id| live.currencies.code(id).or_else(|| strays.get(&id).cloned())),
        close_date,
    })
}

/// The currency of a row, if it has one.
pub fn currency_of(row: &Value) -> Option<Uuid> {
    row.as_object().and_then(|row| guid(row, contract::CURRENCY_VALUE))
}

/// The version of a row.
pub fn etag(row: &Map<String, Value>) -> Option<ETag> {
    text(row, "@odata.etag").filter(|text| !text.is_empty()).map(|text| ETag(text.to_owned()))
}

/// The code that stands for a state when none is given (dataverse §2.3).
fn default_code(state: LeadState) -> i32 {
    match state {
        LeadState::Open => 1,
        LeadState::Qualified => 3,
        LeadState::Disqualified => 4,
    }
}

/// `statecode` of a state.
pub fn state_code(state: LeadState) -> i32 {
    match state {
        LeadState::Open => 0,
        LeadState::Qualified => 1,
        LeadState::Disqualified => 2,
    }
}

/// The text of a column.
pub fn text<'a>(row: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    row.get(name).and_then(Value::as_str)
}

/// The GUID in a column.
pub fn guid(row: &Map<String, Value>, name: &str) -> Option<Uuid> {
    text(row, name).and_then(|text| Uuid::try_parse(text.trim()).ok())
}

fn integer(row: &Map<String, Value>, name: &str) -> Option<i64> {
    row.get(name).and_then(Value::as_i64)
}

/// The instant in a column.
pub fn instant(row: &Map<String, Value>, name: &str) -> Option<Timestamp> {
    text(row, name).and_then(Timestamp::parse)
}

/// `YYYY-MM-DD`, cut out of a date-time if need be.
fn date(row: &Map<String, Value>, name: &str) -> Option<String> {
    let day = text(row, name)?.get(..10)?;
    day.parse::<jiff::civil::Date>().ok().map(|_| day.to_owned())
}

/// An amount, digit by digit.
fn decimal(row: &Map<String, Value>, name: &str) -> Option<Decimal> {
    let number = match row.get(name)? {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        _ => return None,
    };
    Decimal::from_str_exact(&number).or_else(|_| Decimal::from_scientific(&number)).ok()
}

fn defect(id: Option<String>, reason: &str) -> Defect {
    Defect { id, reason: reason.to_owned() }
}

/// The text in an id column, if it looks like an id: other text may be anything.
fn id_text(row: &Map<String, Value>, name: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"{}-".contains(&byte);
    text(row, name).filter(|text| text.len() <= 40 && text.bytes().all(is_plain)).map(str::to_owned)
}

/// Any JSON, with our own names among the keys.
#[cfg(test)]
pub(super) fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    use serde_json::json;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(json!("ef0d112e-0000-0000-0000-000000000001")),
        Just(json!(0)),
    ];
    let key = prop_oneof![
        ".{0,8}",
        Just("value".to_owned()),
        Just("leadid".to_owned()),
        Just("opportunityid".to_owned()),
        Just("statecode".to_owned()),
        Just("LogicalName".to_owned()),
        Just("OptionSet".to_owned()),
        Just("Options".to_owned()),
        Just("RequiredLevel".to_owned()),
        Just("_transactioncurrencyid_value".to_owned()),
        Just("@odata.nextLink".to_owned()),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::crm::dataverse::metadata;

    fn live() -> Live {
        let mut live = metadata::shipped(&["estimatedamount".into(), "lastname".into()].into(), Some("new_referralid"));
        live.currencies.add(Uuid::from_u128(7), "EUR", 2);
        live
    }

    fn row() -> Value {
        json!({
            "@odata.etag": "W/\"71004878\"",
            "leadid": "ef0d112e-0000-0000-0000-000000000001",
            "statecode": 0, "statuscode": 2,
            "subject": "Contoso migration", "lastname": null,
            "new_referralid": "3F1C2A9E-0000-0000-0000-000000000000",
            "createdon": "2026-03-01T08:15:30Z", "modifiedon": "2026-03-02T08:15:30Z",
            "_createdby_value": "4d1c0000-0000-0000-0000-000000000000",
            "_modifiedby_value": "4d1c0000-0000-0000-0000-000000000001",
            "merged": false, "_masterid_value": null,
            "_transactioncurrencyid_value": Uuid::from_u128(7).to_string(),
            "unknown": {"deep": [1, 2]}
        })
    }

    fn read(row: Value) -> Result<Lead, Defect> {
        lead(row, &live(), &Strays::new())
    }

    #[test]
    fn a_lead_is_read_with_its_version_and_without_null_columns() {
        let lead = read(row()).expect("a lead");
        assert_eq!(lead.etag, Some(ETag("W/\"71004878\"".into())));
        assert_eq!(lead.status, LeadStatus { state: LeadState::Open, code: 2 });
        assert_eq!(lead.referral.map(|id| id.to_string()).as_deref(), Some("3f1c2a9e-0000-0000-0000-000000000000"));
        assert_eq!(lead.modified_by.map(|id| id.as_u128() & 1), Some(1));
        assert_eq!(lead.columns["subject"], "Contoso migration");
        assert_eq!(lead.columns["transactioncurrencyid"], "EUR");
        assert!(!lead.columns.contains_key("lastname"));
        assert!(!lead.columns.contains_key("unknown"));
    }

    #[test]
    fn a_text_that_is_no_referral_id_is_not_an_empty_column() {
        for (held, is_foreign) in [(json!(null), false), (json!(" "), false), (json!("call back in May"), true)] {
            let mut row = row();
            row["new_referralid"] = held.clone();
            let lead = read(row).expect("a lead");
            assert_eq!((lead.referral, lead.has_foreign_referral), (None, is_foreign), "{held}");
        }
        assert!(!read(row()).expect("a lead").has_foreign_referral);
    }

    #[test]
    fn amounts_keep_every_digit() {
        let text = r#"{"leadid":"ef0d112e-0000-0000-0000-000000000001","statecode":0,"estimatedamount":999999999999.9999999999}"#;
        let row: Value = json(text.as_bytes()).expect("JSON");
        assert_eq!(read(row).expect("a lead").columns["estimatedamount"].to_string(), "999999999999.9999999999");
        let row = json::<Value>(
            br#"{"opportunityid":"ef0d112e-0000-0000-0000-000000000001","statecode":1,"actualvalue":0.1000,"estimatedvalue":1.2E+5}"#,
        );
        let deal = opportunity(&row.expect("JSON"), &live(), &Strays::new()).expect("an opportunity");
        assert_eq!(deal.actual_value.map(|value| value.to_string()).as_deref(), Some("0.1000"));
        assert_eq!(deal.estimated_value, Some(Decimal::from(120_000)));
    }

    #[test]
    fn a_row_without_id_or_state_is_a_defect() {
        for (name, value, reason) in [
            ("leadid", json!(null), "leadid is no GUID"),
            ("leadid", json!("nonsense"), "leadid is no GUID"),
            ("statecode", json!(null), "statecode is missing"),
            ("statecode", json!("0"), "statecode is missing"),
            ("statecode", json!(3), "statecode is unknown"),
        ] {
            let mut row = row();
            row[name] = value.clone();
            assert_eq!(read(row).expect_err("a defect").reason, reason, "{name} {value}");
        }
        assert_eq!(read(json!([1])).expect_err("a defect").id, None);
        assert_eq!(read(json!({"leadid": "Jane Doe <jane@example.org>"})).expect_err("a defect").id, None);
    }

    #[test]
    fn a_status_code_that_is_missing_is_the_default_of_its_state() {
        let status = read(json!({"leadid": Uuid::from_u128(1).to_string(), "statecode": 2})).expect("a lead").status;
        assert_eq!(status, LeadStatus { state: LeadState::Disqualified, code: 4 });
    }

    #[test]
    fn a_currency_that_nobody_can_name_is_not_an_empty_one() {
        let mut row = row();
        row["_transactioncurrencyid_value"] = json!(Uuid::from_u128(9).to_string());
        assert_eq!(read(row.clone()).expect("a lead").columns["transactioncurrencyid"], Uuid::from_u128(9).to_string());
        let strays = [(Uuid::from_u128(9), "DKK".to_owned())].into();
        assert_eq!(lead(row, &live(), &strays).expect("a lead").columns["transactioncurrencyid"], "DKK");
    }

    #[test]
    fn a_closed_opportunity_shows_its_actual_date() {
        let read = |state: i32, actual: Value| {
            let row = json!({"opportunityid": Uuid::from_u128(1).to_string(), "statecode": state,
                "estimatedclosedate": "2026-05-01", "actualclosedate": actual});
            opportunity(&row, &live(), &Strays::new()).expect("an opportunity").close_date
        };
        assert_eq!(read(0, json!("2026-04-01")).as_deref(), Some("2026-05-01"));
        assert_eq!(read(1, json!("2026-04-01T00:00:00Z")).as_deref(), Some("2026-04-01"));
        assert_eq!(read(2, json!(null)).as_deref(), Some("2026-05-01"));
        assert_eq!(read(2, json!("soon, maybe")).as_deref(), Some("2026-05-01"));
    }

    proptest! {
        #[test]
        fn no_json_makes_a_row_panic(value in any_json()) {
            let _ = lead(value.clone(), &live(), &Strays::new());
            let _ = opportunity(&value, &live(), &Strays::new());
            let _ = currency_of(&value);
            let _: Option<Rows> = json(value.to_string().as_bytes());
        }
    }
}
