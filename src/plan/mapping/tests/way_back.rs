//! What goes back to the referral.

use serde_json::{Value, json};

use super::support::*;
use crate::model::{Operation, Referral};
use crate::plan::mapping::{Mapping, Unwritable};

const NOTES: &str = "[mapping.groups.notes]\nenabled = true";

fn back(
    mapping: &Mapping,
    group: &str,
    columns: &[(&str, Value)],
    referral: Option<&Referral>,
) -> Result<Vec<(String, Value)>, Unwritable> {
    let side = mapping.observe(&lead(columns), None);
    let at = mapping.groups().iter().find(|one| one.name == group).expect("a group");
    let operations = mapping.write_back(at, of(mapping, &side, group), referral)?;
    Ok(operations.into_iter().map(|Operation { path, value }| (path, value)).collect())
}

#[test]
fn an_amount_goes_back_as_a_number_with_its_currency() {
    let lead = [("estimatedamount", json!(30000)), ("transactioncurrencyid", json!("EUR"))];
    let mapping = mapping("");
    let all = vec![("/details/dealValue".to_owned(), json!(30000)), ("/details/currency".to_owned(), json!("EUR"))];
    assert_eq!(back(&mapping, "amount", &lead, None), Ok(all.clone()));
    assert_eq!(back(&mapping, "amount", &lead, Some(&edited(|_| {}))), Ok(all.clone()));
    let same_currency = edited(|document| document["details"]["currency"] = json!("eur"));
    assert_eq!(back(&mapping, "amount", &lead, Some(&same_currency)), Ok(all[..1].to_vec()));
}

#[test]
fn a_value_that_only_differs_by_rounding_stays() {
    let mapping = mapping("");
    let precise = edited(|document| document["details"]["dealValue"] = json!("25000.004"));
    let lead = [("estimatedamount", json!(25000)), ("transactioncurrencyid", json!("USD"))];
    assert_eq!(back(&mapping, "amount", &lead, Some(&precise)), Ok(vec![]));
}

#[test]
fn an_empty_value_erases_nothing() {
    let mapping = mapping("");
    let empty = |column: &str| Err(Unwritable::Empty { column: column.to_owned() });
    assert_eq!(back(&mapping, "amount", &[], None), empty("estimatedamount"));
    assert_eq!(back(&mapping, "amount", &[("estimatedamount", json!(5))], None), empty("transactioncurrencyid"));
    assert_eq!(back(&mapping, "closing_date", &[], None), empty("estimatedclosedate"));
}

#[test]
fn a_group_without_a_way_back_says_so() {
    assert_eq!(back(&mapping(""), "company", &[("companyname", json!("x"))], None), Err(Unwritable::OneWay));
}

#[test]
fn a_date_goes_back_as_midnight_in_the_zone_unless_the_day_is_the_same() {
    let mapping = mapping("[mapping]\nclosing_date_zone = \"Asia/Seoul\"");
    let lead = |day: &str| [("estimatedclosedate", json!(day))];
    let same_day = edited(|document| document["details"]["closingDateTime"] = json!("2027-01-31T05:00:00Z"));
    assert_eq!(back(&mapping, "closing_date", &lead("2027-01-31"), Some(&same_day)), Ok(vec![]));
    let expected = vec![("/details/closingDateTime".to_owned(), json!("2027-01-31T15:00:00Z"))];
    assert_eq!(back(&mapping, "closing_date", &lead("2027-02-01"), Some(&same_day)), Ok(expected));
}

#[test]
fn a_date_written_back_is_read_as_the_same_day_in_every_zone() {
    for zone in ["UTC", "America/Sao_Paulo", "Pacific/Apia", "Asia/Kathmandu", "America/Santiago"] {
        let mapping = mapping(&format!("[mapping]\nclosing_date_zone = \"{zone}\""));
        for day in ["2018-11-04", "2027-01-31", "2022-09-11", "2028-02-29"] {
            let operations =
                back(&mapping, "closing_date", &[("estimatedclosedate", json!(day))], None).expect("it goes back");
            let derived =
                derive(&mapping, &edited(|document| document["details"]["closingDateTime"] = operations[0].1.clone()));
            assert_eq!(of(&mapping, &derived.groups, "closing_date").columns["estimatedclosedate"], day, "{zone}");
        }
    }
}

#[test]
fn notes_go_back_unless_they_were_cut() {
    let mapping = mapping(NOTES);
    let comment = |text: &str| [("qualificationcomments", json!(text))];
    let cut = Err(Unwritable::Cut { column: "qualificationcomments".to_owned() });
    let referral = edited(|_| {});
    let written = vec![("/details/notes".to_owned(), json!("Called them"))];
    assert_eq!(back(&mapping, "notes", &comment("Called them"), Some(&referral)), Ok(written));
    assert_eq!(back(&mapping, "notes", &comment("Call in the morning\r\n"), Some(&referral)), Ok(vec![]));
    let long = edited(|document| document["details"]["notes"] = json!("가".repeat(2001)));
    assert_eq!(back(&mapping, "notes", &comment("a seller wrote into the cut text"), Some(&long)), cut);
    let mine = format!("{}…", "가".repeat(1999));
    assert_eq!(back(&mapping, "notes", &comment(&mine), None), cut);
}
