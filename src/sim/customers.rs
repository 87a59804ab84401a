//! Customers: referrals of every shape the real ones have, the nasty ones included. All data is made up.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use uuid::Uuid;

/// A referral as a customer, Microsoft or a partner might send it.
pub(crate) fn referral(rng: &mut ChaCha8Rng, own_organization: Uuid) -> Value {
    let number = rng.random_range(1..1_000_000);
    let company = company(rng);
    let mut document = json!({
        "name": format!("{} for {company}", one(rng, &["ERP upgrade", "Cloud move", "Helpdesk", "Data platform"])),
        "qualification": one(rng, &["Direct", "MarketingQualified", "SalesQualified", "None"]),
        "type": if rng.random_bool(0.2) { "Shared" } else { "Independent" },
        "substatus": if rng.random_bool(0.2) { "Received" } else { "Pending" },
        "customerProfile": {
            "name": company, "size": one(rng, &["10to50employees", "251to1000employees", ""]),
            "isMatchingComplete": false,
            "address": {"addressLine1": format!("{number} Main St"), "addressLine2": null, "city": "Reno", "state": "NV",
                "postalCode": format!("{:05}", number % 100_000), "country": one(rng, &["US", "DE", "KR", "GB"]),
                "region": null},
            "team": (0..rng.random_range(1..=3)).map(|place| contact(rng, number + place)).collect::<Vec<_>>(),
            "ids": [{"profileType": "Duns", "id": "000000000"}],
        },
        "details": {
            "notes": "Call in the morning", "dealValue": rng.random_range(0..2_000_000),
            "currency": one(rng, &["USD", "EUR", "GBP"]),
            "closingDateTime": format!("2027-{:02}-{:02}T00:00:00Z", rng.random_range(1..=12), rng.random_range(1..=28)),
            "customerRequestedContact": null, "customerAction": null, "incentiveLevel": null,
            "requirements": {"industries": [{"id": "Manufacturing"}], "products": [{"id": "Dynamics365Business"}],
                "services": [{"id": "DeploymentOrMigration"}], "solutions": [{"id": "SOL-1", "name": null, "type": "Name"}],
                "offers": [], "salesPlays": []},
        },
    });
    if rng.random_bool(0.35) {
        spoil(&mut document, rng, own_organization);
    }
    document
}

/// One of the shapes that a naive reader stumbles over.
fn spoil(document: &mut Value, rng: &mut ChaCha8Rng, own_organization: Uuid) {
    match rng.random_range(0..24) {
        0 => document["customerProfile"]["team"] = json!([]),
        1 => document["name"] = Value::Null,
        2 => document["name"] = "한국어 이름 👩‍👩‍👧‍👦 ".repeat(60).into(),
        3 => document["customerProfile"]["name"] = "주식회사 테스트 🏢".repeat(20).into(),
        4 => document["details"]["notes"] = "메모 \u{1F4DD}\r\n".repeat(900).into(),
        5 => document["qualification"] = "HalfQualified".into(),
        6 => document["details"]["closingDateTime"] = "0001-01-01T00:00:00".into(),
        7 => document["details"]["closingDateTime"] = "9999-12-31T23:59:59.9999999Z".into(),
        8 => document["details"]["dealValue"] = "25000.50".into(),
        9 => document["details"]["currency"] = "XXX".into(),
        10 => document["isSpam"] = true.into(),
        11 => document["direction"] = "Outgoing".into(),
        12 => {
            document["status"] = "Closed".into();
            document["substatus"] = "Expired".into();
            document["closedDateTime"] = "2026-11-01T00:00:00Z".into();
        }
        13 => {
            document["status"] = "Active".into();
            document["substatus"] = "Accepted".into();
        }
        14 => document["customerProfile"]["team"] = contact(rng, 7),
        15 => document["customerProfile"]["ids"] = json!({}),
        16 => document["customerProfile"]["name"] = "Tailspin Oil &amp; Gas".into(),
        17 => {
            document["consent"] = json!({"consentToToShareInfoWithOthers": true, "consentToContact": false,
            "consentToShareReferralWithMicrosoftSellers": false})
        }
        18 => document["details"]["dealValue"] = json!(99_999_999_999_999_u64),
        19 => {
            document["customerProfile"]["team"] = json!([{"firstName": null, "lastName": null, "phoneNumber": null,
            "email": null, "title": null, "contactPreference": null}])
        }
        20 => document["customerProfile"]["address"] = Value::Null,
        21 => document["details"] = json!({"dealValue": null, "currency": null, "requirements": null}),
        22 => document["externalReferenceId"] = one(rng, &["", "CRM-4711", "not a guid"]).into(),
        _ => {
            document["inviteContext"] = json!({"notes": null, "assistanceRequestCode": "Unknown", "invitedMpnId": null,
                "invitedBy": {"organizationId": own_organization, "organizationName": "Example Partner"}});
        }
    }
}

pub(crate) fn contact(rng: &mut ChaCha8Rng, number: u32) -> Value {
    let phone = match rng.random_range(0..3) {
        0 => Value::Null,
        1 => "+1 (775) 555-0100 extension 12345".into(),
        _ => "+17755550100".into(),
    };
    json!({
        "firstName": one(rng, &["Ada", "Ben", "Chloé", "다은"]), "lastName": format!("Example{number}"),
        "phoneNumber": phone, "email": format!("person{number}@customer.example"), "title": null,
        "contactPreference": {"locale": null, "disableNotifications": true},
    })
}

pub(crate) fn company(rng: &mut ChaCha8Rng) -> String {
    let first = one(rng, &["Tailspin", "Fabrikam", "Contoso", "Northwind", "Litware", "테스트"]);
    format!("{first} {}", rng.random_range(1..10_000))
}

fn one<'a>(rng: &mut ChaCha8Rng, choices: &[&'a str]) -> &'a str {
    choices[rng.random_range(0..choices.len())]
}
