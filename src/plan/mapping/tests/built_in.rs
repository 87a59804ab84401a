//! What the built-in mapping makes of a referral.

use serde_json::{Value, json};

use super::support::*;
use crate::model::Owner;
use crate::plan::mapping::{GroupValue, Mapping, Misfit};
use crate::plan::settings::WriteWhen;
use crate::ports::ColumnKind;

#[test]
fn a_referral_becomes_a_complete_lead() {
    let mapping = mapping("");
    let derived = derive(&mapping, &edited(|_| {}));
    assert!(derived.groups.iter().all(|group| group.blocked.is_none() && group.skipped.is_empty() && !group.is_cut));
    insta::assert_snapshot!(draft_lines(&derived), @r##"
    address1_city = "Reno"
    address1_country = "United States"
    address1_line1 = "1 Main St"
    address1_line2 = null
    address1_postalcode = "89501"
    address1_stateorprovince = "NV"
    estimatedamount = 25000
    transactioncurrencyid = "USD"
    estimatedclosedate = "2027-01-31"
    companyname = "Tailspin Oil & Gas"
    emailaddress1 = "ada@tailspin.example"
    firstname = "Ada"
    jobtitle = null
    lastname = "Example"
    telephone1 = null
    description = "Partner Center: https://partner.microsoft.com/dashboard/v2/referrals/8f0c2b1e-0000-4000-8000-000000000001\n\nCall in the morning\n\nRequested products: Azure, Dynamics 365 for business\nRequested services: Juggling\n\nFurther contacts:\n- Grace, Sample, CEO, +1 555 0100\n\nInvitation by Microsoft: Please help"
    numberofemployees = 50
    leadsourcecode = 4
    subject = "ERP upgrade"
    "##);
}

#[test]
fn a_referral_without_anything_gives_a_complete_lead() {
    let mapping = mapping("");
    let derived = derive(&mapping, &referral(json!({})));
    assert!(derived.groups.iter().all(|group| group.blocked.is_none()));
    insta::assert_snapshot!(draft_lines(&derived), @r##"
    address1_city = null
    address1_country = null
    address1_line1 = null
    address1_line2 = null
    address1_postalcode = null
    address1_stateorprovince = null
    estimatedamount = null
    estimatedclosedate = null
    companyname = null
    emailaddress1 = null
    firstname = null
    jobtitle = null
    lastname = "Referral 8f0c2b1e"
    telephone1 = null
    description = "Partner Center: https://partner.microsoft.com/dashboard/v2/referrals/8f0c2b1e-0000-4000-8000-000000000001"
    numberofemployees = null
    leadsourcecode = 4
    subject = "Referral 8f0c2b1e"
    "##);
    assert!(of(&mapping, &derived.groups, "contact").is_empty, "a fallback is no value of its own");
    assert!(!of(&mapping, &derived.groups, "source").is_empty, "a constant is");
}

#[test]
fn the_subject_falls_back_to_customer_and_product_then_to_the_customer() {
    let mapping = mapping("");
    let subject = |edit: fn(&mut Value)| {
        let derived = derive(&mapping, &edited(edit));
        of(&mapping, &derived.groups, "topic").columns["subject"].clone()
    };
    assert_eq!(subject(|document| document["name"] = json!(" ")), "Tailspin Oil & Gas: Dynamics 365 for business");
    assert_eq!(
        subject(|document| {
            document["name"] = json!({"not": "text"});
            document["details"]["requirements"]["products"] = json!([]);
        }),
        "Tailspin Oil & Gas"
    );
}

#[test]
fn the_last_name_falls_back_to_the_referral_name() {
    let mapping = mapping("");
    let derived = derive(&mapping, &referral(json!({"name": "ERP upgrade"})));
    assert_eq!(of(&mapping, &derived.groups, "contact").columns["lastname"], "ERP upgrade");
}

#[test]
fn unknown_words_survive_as_text_and_are_skipped_as_numbers() {
    let mapping = mapping("");
    let derived = derive(
        &mapping,
        &edited(|document| {
            document["customerProfile"]["size"] = json!("aFewEmployees");
            document["customerProfile"]["address"]["country"] = json!("Atlantis");
            document["details"]["requirements"]["products"] = json!([{"id": "Copilot9"}]);
        }),
    );
    assert_eq!(of(&mapping, &derived.groups, "address").columns["address1_country"], "Atlantis");
    let description = of(&mapping, &derived.groups, "description").columns["description"].to_string();
    assert!(description.contains("Requested products: Copilot9"), "{description}");
    let employees = of(&mapping, &derived.groups, "employees");
    assert!(employees.draft.is_empty(), "a word nobody knows clears nothing");
    assert_eq!(employees.skipped[0].reason, Misfit::WrongType);
    assert_eq!(employees.blocked, None);
}

#[test]
fn a_country_of_three_letters_is_known_too() {
    let mapping = mapping("[mapping.tables.country]\nDE = \"Deutschland\"");
    let country = |code: &str| {
        let derived =
            derive(&mapping, &edited(|document| document["customerProfile"]["address"]["country"] = json!(code)));
        of(&mapping, &derived.groups, "address").columns["address1_country"].clone()
    };
    assert_eq!(country("KOR"), "South Korea");
    assert_eq!(country("DEU"), "Deutschland");
}

#[test]
fn an_amount_is_taken_as_number_or_text_and_rounded_for_its_currency() {
    let mapping = mapping("");
    let amount = |value: Value, currency: Value| {
        let derived = derive(
            &mapping,
            &edited(|document| {
                document["details"]["dealValue"] = value;
                document["details"]["currency"] = currency;
            }),
        );
        let group = of(&mapping, &derived.groups, "amount").clone();
        (Value::from_iter(group.draft), group.skipped.iter().map(|skipped| skipped.reason).collect::<Vec<_>>())
    };
    let both = |amount: Value, currency: &str| json!({"estimatedamount": amount, "transactioncurrencyid": currency});
    assert_eq!(amount(json!("10000"), json!("usd")), (both(json!(10000), "USD"), vec![]));
    assert_eq!(amount(json!(1234.5), json!("JPY")), (both(json!(1235), "JPY"), vec![]));
    assert_eq!(amount(json!(0), json!("EUR")), (both(json!(0), "EUR"), vec![]));
    let unknown = Misfit::UnknownCurrency;
    assert_eq!(amount(json!(10), json!("CHF")), (json!({}), vec![unknown, unknown]), "never in a wrong currency");
    let missing = Misfit::AmountWithoutCurrency;
    assert_eq!(amount(json!(10), Value::Null), (json!({}), vec![missing, missing]));
    assert_eq!(amount(Value::Null, json!("EUR")), (json!({"estimatedamount": null}), vec![]));
    assert_eq!(amount(Value::Null, json!("CHF")), (json!({"estimatedamount": null}), vec![]));
    assert_eq!(amount(json!(-5), json!("EUR")), (json!({"estimatedamount": null}), vec![]), "below min is no value");
    assert_eq!(amount(json!(2e12), json!("EUR")).1, vec![Misfit::OutOfRange]);
    assert_eq!(amount(json!([1]), json!("EUR")).1, vec![Misfit::WrongType]);
}

#[test]
fn an_amount_in_a_group_without_currency_is_left_out() {
    let overrides = "[mapping.groups.amount]\nenabled = false\n[mapping.groups.budget]\nowner = \"crm\"\n\
         [mapping.groups.budget.columns.estimatedamount]\nfrom = [\"/details/dealValue\"]\n\
         [mapping.groups.budget.columns.new_size]\nvalue = 1";
    let mut schema = schema();
    schema.columns.insert("new_size".to_owned(), column(ColumnKind::Integer));
    let (mapping, problems) = Mapping::compile(&settings(overrides), &schema, KEY);
    assert_eq!(
        problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["mapping.groups.budget.columns.estimatedamount: an amount is only written together with its currency; \
          put it into the group of transactioncurrencyid"]
    );
    let derived = derive(&mapping, &edited(|document| document["details"]["dealValue"] = json!("1.005")));
    assert_eq!(Value::from_iter(of(&mapping, &derived.groups, "budget").draft.clone()), json!({"new_size": 1}));
}

#[test]
fn entities_are_decoded_once_by_pointers_and_by_templates() {
    let mapping =
        mapping("[mapping.groups.company.columns.companyname]\ntemplate = \"{{ referral.customerProfile.name }}\"");
    let derived = derive(
        &mapping,
        &edited(|document| {
            document["name"] = json!("1 &amp;lt; 2");
            document["customerProfile"]["name"] = json!("1 &amp;lt; 2");
        }),
    );
    assert_eq!(of(&mapping, &derived.groups, "topic").draft["subject"], "1 &lt; 2");
    assert_eq!(of(&mapping, &derived.groups, "company").draft["companyname"], "1 &lt; 2");
}

#[test]
fn a_linked_referral_is_derived_without_what_is_written_on_create_only() {
    let mapping = mapping("");
    let long = edited(|document| document["customerProfile"]["name"] = json!("x".repeat(101)));
    let all = derive(&mapping, &long);
    let linked = mapping.derive_linked(&long, None, true);
    assert_eq!(linked.primary_contact, all.primary_contact);
    for ((group, full), short) in mapping.groups().iter().zip(&all.groups).zip(&linked.groups) {
        match group.write {
            WriteWhen::Always => assert_eq!(short, full, "{}", group.name),
            WriteWhen::Create => assert_eq!(*short, GroupValue::default(), "{}", group.name),
        }
    }
}

#[test]
fn a_currency_alone_is_an_empty_amount() {
    let mapping = mapping("");
    let derived = derive(&mapping, &edited(|document| document["details"]["dealValue"] = Value::Null));
    let amount = of(&mapping, &derived.groups, "amount");
    assert!(amount.is_empty && amount.columns.is_empty());
    let nothing = mapping.observe(&lead(&[("transactioncurrencyid", json!("EUR"))]), None);
    assert_eq!(of(&mapping, &nothing, "amount").fingerprint, amount.fingerprint);
}

#[test]
fn the_closing_date_is_cut_in_the_configured_zone() {
    let overrides = "[mapping]\nclosing_date_zone = \"Asia/Seoul\"";
    let mapping = mapping(overrides);
    let derived =
        derive(&mapping, &edited(|document| document["details"]["closingDateTime"] = json!("2027-01-31T15:00:00Z")));
    assert_eq!(of(&mapping, &derived.groups, "closing_date").draft["estimatedclosedate"], "2027-02-01");
}

#[test]
fn an_option_the_organization_lacks_is_named_and_blocks_nothing() {
    let mut schema = schema();
    schema.columns.get_mut("leadsourcecode").expect("it is there").options = Some(vec![1, 2]);
    let (mapping, problems) = Mapping::compile(&settings(""), &schema, KEY);
    assert_eq!(
        problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["mapping.groups.source.columns.leadsourcecode: 4 is no value this column can take"]
    );
    let derived = derive(&mapping, &edited(|_| {}));
    assert!(of(&mapping, &derived.groups, "source").draft.is_empty());
    assert!(derived.groups.iter().all(|group| group.blocked.is_none()));
}

#[test]
fn an_option_that_only_the_referral_names_is_skipped() {
    let mapping = mapping(
        "[mapping.groups.source.columns.leadsourcecode]\nvalue = 99\nenabled = false\n\
         [mapping.groups.heat]\nowner = \"crm\"\n[mapping.groups.heat.columns.leadsourcecode]\nfrom = [\"/heat\"]",
    );
    let heat = |value: Value| {
        let derived = derive(&mapping, &edited(|document| document["heat"] = value));
        let group = of(&mapping, &derived.groups, "heat");
        (group.draft.get("leadsourcecode").cloned(), group.skipped.first().map(|skipped| skipped.reason))
    };
    assert_eq!(heat(json!("4")), (Some(json!(4)), None));
    assert_eq!(heat(json!(44)), (None, Some(Misfit::UnknownOption)));
    assert_eq!(heat(Value::Null), (Some(Value::Null), None));
}

#[test]
fn a_required_column_without_a_usable_value_blocks_with_a_reason() {
    let mapping = mapping("[mapping.groups.contact.columns.lastname]\nfallback = []");
    let derived =
        derive(&mapping, &referral(json!({"customerProfile": {"team": {"email": "a@b.example", "lastName": 5}}})));
    let contact = of(&mapping, &derived.groups, "contact");
    assert_eq!(contact.columns["lastname"], "5");
    let derived = derive(
        &mapping,
        &referral(json!({"customerProfile": {"team": {"email": "a@b.example", "lastName": {"x": 1}}}})),
    );
    let blocked = of(&mapping, &derived.groups, "contact").blocked.as_deref();
    assert_eq!(
        blocked,
        Some("contact: the required column lastname has no usable value: the value has another type than the column")
    );
    let derived = derive(&mapping, &referral(json!({})));
    let blocked = of(&mapping, &derived.groups, "contact").blocked.as_deref();
    assert_eq!(blocked, Some("contact: the required column lastname has no usable value"));
}

#[test]
fn empty_columns_are_cleared_unless_they_are_to_be_left_alone() {
    let mapping = mapping("[mapping.groups.company.columns.companyname]\nskip_if_empty = true");
    let derived = derive(&mapping, &referral(json!({})));
    assert!(of(&mapping, &derived.groups, "company").draft.is_empty());
    assert_eq!(of(&mapping, &derived.groups, "address").draft["address1_city"], Value::Null);
}

#[test]
fn the_first_owner_rule_that_fits_decides() {
    let user = |number: u128| Owner::User(uuid::Uuid::from_u128(number));
    let overrides = "[mapping]\n\
        fallback_owner = { team = \"00000000-0000-0000-0000-000000000009\" }\n\
        [[mapping.owners]]\ncountry = \"USA\"\nproduct = \"azure\"\nowner = { user = \"00000000-0000-0000-0000-000000000001\" }\n\
        [[mapping.owners]]\ntype = \"shared\"\nowner = { user = \"00000000-0000-0000-0000-000000000002\" }\n";
    let mapping = mapping(overrides);
    assert_eq!(mapping.owner(&edited(|_| {})), Some(user(1)));
    let elsewhere = |document: &mut Value| document["customerProfile"]["address"]["country"] = json!("DE");
    assert_eq!(mapping.owner(&edited(elsewhere)), Some(Owner::Team(uuid::Uuid::from_u128(9))));
    let shared = edited(|document| {
        elsewhere(document);
        document["type"] = json!("Shared");
    });
    assert_eq!(mapping.owner(&shared), Some(user(2)));
    assert_eq!(super::support::mapping("").owner(&shared), None);
}
