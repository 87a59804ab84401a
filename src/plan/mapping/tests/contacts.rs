//! The primary contact and the consent.

use serde_json::{Value, json};

use super::support::*;
use crate::model::Referral;

fn email_of(referral: &Referral, sticky: Option<u32>) -> (Value, Option<u32>) {
    let mapping = mapping("");
    let derived = mapping.derive(referral, sticky, true);
    (of(&mapping, &derived.groups, "contact").draft["emailaddress1"].clone(), derived.primary_contact)
}

fn team(members: Value) -> Referral {
    edited(|document| document["customerProfile"]["team"] = members)
}

#[test]
fn the_first_contact_with_an_email_is_the_primary_one() {
    assert_eq!(email_of(&edited(|_| {}), None).0, "ada@tailspin.example");
}

#[test]
fn without_any_email_the_first_person_is_the_primary_one() {
    let mapping = mapping("");
    let derived = derive(&mapping, &team(json!([null, {}, {"firstName": "Grace"}, {"lastName": "Sample"}])));
    let contact = of(&mapping, &derived.groups, "contact");
    assert_eq!(contact.draft["firstname"], "Grace");
    assert_eq!(contact.draft["lastname"], "Tailspin Oil & Gas");
}

#[test]
fn the_contact_used_last_stays_while_present() {
    let ada = json!({"email": "ADA@tailspin.example ", "lastName": "Example"});
    let bob = json!({"email": "bob@tailspin.example", "lastName": "Other"});
    let (_, sticky) = email_of(&edited(|_| {}), None);
    assert!(sticky.is_some());
    let (email, still) = email_of(&team(json!([bob, ada])), sticky);
    assert_eq!((email, still), (json!("ADA@tailspin.example"), sticky), "case and place do not matter");
    let (email, next) = email_of(&team(json!([bob])), sticky);
    assert_eq!(email, "bob@tailspin.example");
    assert_ne!(next, sticky);
}

#[test]
fn a_bare_object_in_place_of_the_list_is_a_contact() {
    assert_eq!(email_of(&team(json!({"email": "solo@tailspin.example"})), None).0, "solo@tailspin.example");
}

#[test]
fn the_other_contacts_are_in_the_description() {
    let mapping = mapping("");
    let derived = derive(&mapping, &edited(|_| {}));
    let description = of(&mapping, &derived.groups, "description").columns["description"].to_string();
    assert!(description.contains("- Grace, Sample, CEO, +1 555 0100"), "{description}");
    assert!(!description.contains("Ada"), "{description}");
}

#[test]
fn without_consent_nobody_is_seen_anywhere() {
    let mapping = mapping(
        "[mapping.groups.topic.columns.subject]\ntemplate = \"{{ referral.customerProfile.team[0].lastName }}{{ contact.email }}\
         {{ further_contacts | length }}{{ referral.customerProfile }}{{ referral }}\"\n\
         [mapping.groups.company.columns.companyname]\nfrom = [\"/customerProfile/team/0/lastName\", \"@contact/email\"]",
    );
    let open = draft_lines(&derive(&mapping, &edited(|_| {})));
    let closed = mapping.derive(&edited(|_| {}), Some(77), false);
    let lines = draft_lines(&closed);
    for word in ["Ada", "Example", "ada@", "Grace", "Sample", "CEO", "555"] {
        assert!(open.contains(word), "{word} can be seen with consent: {open}");
        assert!(!lines.contains(word), "{word}: {lines}");
    }
    assert_eq!(closed.primary_contact, Some(77), "the same person comes back with the consent");
}

#[test]
fn without_consent_a_new_lead_is_complete_and_its_contact_empty() {
    let mapping = mapping("");
    let derived = mapping.derive(&edited(|_| {}), None, false);
    let contact = of(&mapping, &derived.groups, "contact");
    assert!(contact.is_empty && contact.columns.is_empty());
    assert_eq!(Value::from_iter(contact.draft.clone()), json!({"lastname": "Tailspin Oil & Gas"}));
    assert_eq!(contact.blocked, None);
    let seen = mapping.observe(&written(&derived), None);
    assert_eq!(of(&mapping, &seen, "contact").fingerprint, contact.draft_fingerprint);
}
