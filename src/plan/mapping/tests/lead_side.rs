//! The lead's side, with and without opportunities, and what has to be written.

use serde_json::{Value, json};

use super::support::*;
use crate::model::{Lead, LeadState, LeadStatus, Opportunity, OpportunityState};

fn qualified(columns: &[(&str, Value)]) -> Lead {
    Lead { status: LeadStatus { state: LeadState::Qualified, code: 3 }, ..lead(columns) }
}

fn amount(lead: &Lead, opportunities: Option<&[Opportunity]>) -> Value {
    let mapping = mapping("");
    let seen = mapping.observe(lead, opportunities);
    Value::from_iter(of(&mapping, &seen, "amount").columns.clone())
}

fn own_amount() -> [(&'static str, Value); 2] {
    [("estimatedamount", json!(7)), ("transactioncurrencyid", json!("USD"))]
}

#[test]
fn a_written_lead_shows_the_fingerprints_of_the_drafts() {
    let mapping = mapping("");
    let referral = edited(|document| {
        document["name"] = json!("a &amp;lt; b".repeat(100));
        document["customerProfile"]["name"] = json!("x &amp;amp; y");
        document["details"]["dealValue"] = json!("25000.10");
    });
    let derived = derive(&mapping, &referral);
    let seen = mapping.observe(&written(&derived), None);
    for ((group, wanted), got) in mapping.groups().iter().zip(&derived.groups).zip(&seen) {
        assert_eq!(got.fingerprint, wanted.draft_fingerprint, "{}", group.name);
        assert!(mapping.changes(group, wanted, got).is_empty(), "{}", group.name);
    }
}

#[test]
fn what_the_service_respells_is_no_difference() {
    let mapping = mapping("");
    let derived = derive(&mapping, &edited(|_| {}));
    let mut lead = written(&derived);
    let respelled = serde_json::from_str("25000.0000").expect("a number");
    lead.columns.insert("estimatedamount".to_owned(), respelled);
    lead.columns.insert("companyname".to_owned(), json!(" Tailspin Oil &amp; Gas\r\n"));
    let seen = mapping.observe(&lead, None);
    for group in ["amount", "company"] {
        assert_eq!(of(&mapping, &seen, group).fingerprint, of(&mapping, &derived.groups, group).fingerprint, "{group}");
    }
}

#[test]
fn only_columns_that_differ_are_written_and_an_amount_with_its_currency() {
    let mapping = mapping("");
    let derived = derive(&mapping, &edited(|_| {}));
    let mut lead = written(&derived);
    lead.columns.insert("estimatedamount".to_owned(), json!(1));
    lead.columns.insert("jobtitle".to_owned(), json!("CTO"));
    let seen = mapping.observe(&lead, None);
    let changes = |name: &str| {
        let group = mapping.groups().iter().find(|group| group.name == name).expect("a group");
        Value::from_iter(mapping.changes(group, of(&mapping, &derived.groups, name), of(&mapping, &seen, name)))
    };
    assert_eq!(changes("amount"), json!({"estimatedamount": 25000, "transactioncurrencyid": "USD"}));
    assert_eq!(changes("contact"), json!({"jobtitle": null}));
    assert_eq!(changes("address"), json!({}));
}

#[test]
fn the_won_opportunity_speaks_with_its_actual_value() {
    let won = Opportunity {
        actual_value: Some(rust_decimal::Decimal::new(12_345, 1)),
        ..opportunity(1, OpportunityState::Won)
    };
    let open = opportunity(2, OpportunityState::Open);
    let expected: Value =
        serde_json::from_str(r#"{"estimatedamount": 1234.5, "transactioncurrencyid": "EUR"}"#).expect("JSON");
    assert_eq!(amount(&qualified(&own_amount()), Some(&[open, won])), expected);
}

#[test]
fn else_the_newest_open_one_speaks_with_its_estimate() {
    let newest = Opportunity {
        estimated_value: Some(rust_decimal::Decimal::from(300)),
        ..opportunity(3, OpportunityState::Open)
    };
    let others = [
        opportunity(1, OpportunityState::Open),
        newest,
        opportunity(2, OpportunityState::Open),
        opportunity(4, OpportunityState::Lost),
    ];
    assert_eq!(
        amount(&qualified(&own_amount()), Some(&others)),
        json!({"estimatedamount": 300, "transactioncurrencyid": "EUR"})
    );
    let mapping = mapping("");
    let seen = mapping.observe(&qualified(&[("estimatedclosedate", json!("2026-12-24"))]), Some(&others));
    assert_eq!(of(&mapping, &seen, "closing_date").columns["estimatedclosedate"], "2027-03-01");
}

#[test]
fn with_no_opportunity_that_says_anything_the_lead_speaks() {
    let own = Value::from_iter(own_amount().map(|(column, value)| (column.to_owned(), value)));
    let lost = [opportunity(1, OpportunityState::Lost)];
    let silent = [Opportunity { estimated_value: None, ..opportunity(1, OpportunityState::Open) }];
    let open = [opportunity(1, OpportunityState::Open)];
    assert_eq!(amount(&qualified(&own_amount()), None), own);
    assert_eq!(amount(&qualified(&own_amount()), Some(&[])), own);
    assert_eq!(amount(&qualified(&own_amount()), Some(&lost)), own);
    assert_eq!(amount(&qualified(&own_amount()), Some(&silent)), own);
    assert_eq!(amount(&lead(&own_amount()), Some(&open)), own, "an open lead speaks for itself");
}

#[test]
fn an_empty_lead_is_empty_in_every_group() {
    let mapping = mapping("");
    for (group, value) in mapping.groups().iter().zip(mapping.observe(&lead(&[]), None)) {
        assert!(value.is_empty && value.columns.is_empty() && !value.is_cut, "{}", group.name);
    }
}
