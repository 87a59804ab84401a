//! What another configuration does for referrals that have not changed since the last one.

use referrald::model::ReferralId;
use referrald::plan::settings::{OnConsentWithdrawn, OnLeavingFilter, WriteWhen};
use referrald::ports::StateStore;
use referrald::sim::dynamics::Table;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::town::{Host, Town, id};

async fn cycles(town: &Town, host: &Host, count: usize) {
    for _ in 0..count {
        town.pass(2);
        host.cycle().await;
    }
}

fn column(town: &Town, referral: Uuid, name: &str) -> Value {
    town.world().crm.value(Table::Lead, town.lead_of(referral), name).clone()
}

#[tokio::test]
async fn a_filter_that_is_put_back_thaws_what_changed_behind_it() {
    let town = Town::new(71);
    let freeze = |settings: &mut referrald::config::Settings| {
        settings.scope.on_leaving_filter = OnLeavingFilter::Freeze;
    };
    let host = town.host(1, freeze);
    let (changed, untouched) = (town.referral(1000), town.referral(2000));
    cycles(&town, &host, 2).await;
    let narrow = town.again(&host, |settings| settings.scope.countries = vec!["AQ".into()]);
    cycles(&town, &narrow, 2).await;
    town.edit_referral(changed, "/details/dealValue", json!(3000));
    cycles(&town, &narrow, 2).await;
    assert_eq!(town.amount_of(changed), 1000.0);
    assert_eq!(narrow.status().await.holds.get("frozen by a filter"), Some(&1));
    // The filter is put back, and the referral itself does not change again.
    let wide = town.again(&narrow, |settings| settings.scope.countries.clear());
    cycles(&town, &wide, 2).await;
    let is_frozen = |referral: Uuid| wide.store.get(ReferralId::new(referral)).unwrap().unwrap().is_frozen;
    assert_eq!((is_frozen(changed), is_frozen(untouched)), (false, false));
    assert_eq!((town.amount_of(changed), town.amount_of(untouched)), (3000.0, 2000.0));
    assert!(wide.status().await.holds.is_empty());
}

#[tokio::test]
async fn clear_instead_of_hold_takes_people_out_of_composed_texts_too() {
    let town = Town::new(72);
    let host = town.host(1, |settings| {
        settings.mapping.groups.get_mut("description").unwrap().write = WriteWhen::Always;
    });
    let referral = town.referral(1000);
    let team = json!([
        {"firstName": "Ada", "lastName": "One", "email": "ada@contoso.example"},
        {"firstName": "Bob", "lastName": "Two", "email": "bob@contoso.example"},
    ]);
    let consent = |document: &mut Value, is_given: bool| document["consent"] = json!({"consentToContact": is_given});
    town.edit_referral(referral, "/customerProfile/team", team);
    town.world().edit_referral(referral, |document| consent(document, true));
    cycles(&town, &host, 2).await;
    let says = |name: &str, what: &str| column(&town, referral, name).as_str().is_some_and(|text| text.contains(what));
    assert!(says("emailaddress1", "ada") && says("description", "bob"));
    town.world().edit_referral(referral, |document| consent(document, false));
    cycles(&town, &host, 2).await;
    assert!(says("emailaddress1", "ada") && says("description", "bob"), "held");
    assert!(host.store.get(id(referral)).unwrap().unwrap().is_consent_withdrawn);
    let host = town.again(&host, |settings| settings.mapping.on_consent_withdrawn = OnConsentWithdrawn::Clear);
    cycles(&town, &host, 2).await;
    assert!(!says("emailaddress1", "ada"), "contact columns are cleared");
    assert!(!says("description", "bob") && says("description", "Partner Center"), "and so is the text");
}
