//! What the tests of the mapping share: the built-in mapping, an organization, referrals and leads.

use std::collections::BTreeMap;

use figment::Figment;
use figment::providers::{Format, Toml};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Derived, GroupValue, Mapping};
use crate::model::{
    Lead, LeadId, LeadState, LeadStatus, Opportunity, OpportunityState, Qualification, Referral, ReferralId,
    ReferralStatus, ReferralType, Substatus, Timestamp,
};
use crate::plan::settings::MappingSettings;
use crate::ports::{ColumnKind, ColumnSchema, LeadSchema};

/// The built-in mapping, from where it is compiled in.
const BUILT_IN: &str = include_str!("../../../../config/default.toml");

pub(in super::super) const ID: &str = "8f0c2b1e-0000-4000-8000-000000000001";

pub(in super::super) const KEY: [u8; 16] = [7; 16];

/// The built-in mapping with `overrides` on top.
pub(in super::super) fn settings(overrides: &str) -> MappingSettings {
    Figment::from(Toml::string(BUILT_IN))
        .merge(Toml::string(overrides))
        .extract_inner("mapping")
        .expect("the settings of the test are well formed")
}

/// The columns of an unchanged organization that the built-in mapping uses (dataverse §2.1).
pub(in super::super) fn schema() -> LeadSchema {
    let mut columns = BTreeMap::new();
    for (name, units) in [
        ("subject", 300),
        ("firstname", 50),
        ("lastname", 50),
        ("emailaddress1", 100),
        ("telephone1", 50),
        ("mobilephone", 20),
        ("jobtitle", 100),
        ("companyname", 100),
        ("address1_line1", 250),
        ("address1_line2", 250),
        ("address1_city", 80),
        ("address1_stateorprovince", 50),
        ("address1_postalcode", 20),
        ("address1_country", 80),
        ("description", 2000),
        ("qualificationcomments", 2000),
    ] {
        columns.insert(name.to_owned(), ColumnSchema { length_max: Some(units), ..column(ColumnKind::Text) });
    }
    let sources = Some((1..=10).collect());
    for (name, kind) in [
        ("numberofemployees", ColumnKind::Integer),
        ("estimatedamount", ColumnKind::Money),
        ("transactioncurrencyid", ColumnKind::Currency),
        ("estimatedclosedate", ColumnKind::Date),
        ("donotemail", ColumnKind::Boolean),
        ("ownerid", ColumnKind::Other),
    ] {
        columns.insert(name.to_owned(), column(kind));
    }
    columns.insert("leadsourcecode".to_owned(), ColumnSchema { options: sources, ..column(ColumnKind::Choice) });
    LeadSchema {
        columns,
        currencies: BTreeMap::from([("USD".to_owned(), 2), ("EUR".to_owned(), 2), ("JPY".to_owned(), 0)]),
        is_key_active: true,
        ..LeadSchema::default()
    }
}

pub(in super::super) fn column(kind: ColumnKind) -> ColumnSchema {
    ColumnSchema { kind, length_max: None, options: None, is_required: false, is_creatable: true, is_updatable: true }
}

/// Compiles without any problem.
pub(in super::super) fn mapping(overrides: &str) -> Mapping {
    let (mapping, problems) = Mapping::compile(&settings(overrides), &schema(), KEY);
    assert_eq!(problems, Vec::new());
    mapping
}

/// The first referral of the fact sheet (partner-center §5).
pub(in super::super) fn document() -> Value {
    json!({
        "id": ID, "name": "ERP upgrade", "type": "Independent",
        "customerProfile": {
            "name": "Tailspin Oil &amp; Gas", "size": "10to50employees",
            "address": {"addressLine1": "1 Main St", "addressLine2": null, "city": "Reno", "state": null,
                        "postalCode": "89501", "country": "US", "region": "NV"},
            "team": [
                {"firstName": "Grace", "lastName": "Sample", "phoneNumber": "+1 555 0100", "email": null, "title": "CEO"},
                {"firstName": "Ada", "lastName": "Example", "phoneNumber": null, "email": "ada@tailspin.example", "title": null},
            ],
        },
        "details": {
            "notes": "Call in the morning", "dealValue": 25000, "currency": "USD",
            "closingDateTime": "2027-01-31T00:00:00Z",
            "requirements": {"products": [{"id": "Dynamics365Business"}, {"id": "Azure"}], "services": [{"id": "Juggling"}]},
        },
        "inviteContext": {"notes": "Please help", "invitedBy": {"organizationId": "msft", "organizationName": "Microsoft"}},
    })
}

/// The sample referral after `edit`.
pub(in super::super) fn edited(edit: impl FnOnce(&mut Value)) -> Referral {
    let mut document = document();
    edit(&mut document);
    referral(document)
}

pub(in super::super) fn referral(document: Value) -> Referral {
    Referral {
        id: ReferralId::parse(ID).expect("a GUID"),
        etag: None,
        status: ReferralStatus::New,
        substatus: Substatus::Pending,
        created: None,
        updated: None,
        expires: None,
        external_reference: None,
        engagement: None,
        organization: None,
        kind: ReferralType::Independent,
        qualification: Qualification::Other,
        is_outgoing: false,
        is_spam: false,
        invited_by: None,
        consent_to_contact: Some(true),
        has_registration: false,
        document: document.into(),
    }
}

pub(in super::super) fn lead(columns: &[(&str, Value)]) -> Lead {
    Lead {
        id: LeadId::parse("11111111-0000-4000-8000-000000000001").expect("a GUID"),
        etag: None,
        status: LeadStatus { state: LeadState::Open, code: 1 },
        created: None,
        modified: None,
        created_by: None,
        modified_by: None,
        is_merged: false,
        master: None,
        opportunity: None,
        referral: None,
        has_foreign_referral: false,
        columns: columns.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
    }
}

pub(in super::super) fn opportunity(number: u128, state: OpportunityState) -> Opportunity {
    Opportunity {
        id: uuid::Uuid::from_u128(number),
        lead: None,
        state,
        created: Some(Timestamp::from_seconds(i64::try_from(number).expect("a small number"))),
        modified: None,
        estimated_value: Some(rust_decimal::Decimal::from(100)),
        actual_value: None,
        currency: Some("EUR".to_owned()),
        close_date: Some("2027-03-01".to_owned()),
    }
}

/// Derives with consent and without a contact used before.
pub(in super::super) fn derive(mapping: &Mapping, referral: &Referral) -> Derived {
    mapping.derive(referral, None, true)
}

/// The value of a group by its name.
pub(in super::super) fn of<'a>(mapping: &Mapping, values: &'a [GroupValue], group: &str) -> &'a GroupValue {
    let at = mapping.groups().iter().position(|one| one.name == group).expect("a group of the mapping");
    &values[at]
}

/// The drafts of all groups together, as a create would send them, as readable lines.
pub(in super::super) fn draft_lines(derived: &Derived) -> String {
    let drafts = derived.groups.iter().flat_map(|group| &group.draft);
    drafts.map(|(column, value)| format!("{column} = {value}\n")).collect()
}

/// A lead as the service would return it after all drafts were written to an empty one.
pub(in super::super) fn written(derived: &Derived) -> Lead {
    let drafts = derived.groups.iter().flat_map(|group| group.draft.clone());
    Lead { columns: drafts.filter(|(_, value)| !value.is_null()).collect(), ..lead(&[]) }
}

/// Any JSON, with a liking for what looks like fields of a referral.
pub(in super::super) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[가-힣👨‍👩‍👧😀 a&;]{0,80}".prop_map(Value::from),
        "[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?".prop_map(Value::from),
        "-?[0-9]{0,30}\\.?[0-9]{0,30}([eE]-?[0-9]{1,3})?".prop_map(Value::from),
        prop::sample::select(vec!["USD", "jpy", "XXX", "10to50employees", "deu"]).prop_map(Value::from),
    ];
    let name =
        "(id|name|email|team|size|lastName|products|country|customerProfile|details|dealValue|currency|[a-z]{1,3})";
    leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A referral of the right shape with arbitrary things in its places, or none at all.
pub(in super::super) fn any_document() -> impl Strategy<Value = Value> {
    const PLACES: [&str; 15] = [
        "/name",
        "/customerProfile",
        "/customerProfile/name",
        "/customerProfile/size",
        "/customerProfile/team",
        "/customerProfile/team/0/lastName",
        "/customerProfile/team/1/email",
        "/customerProfile/team/1/phoneNumber",
        "/customerProfile/address",
        "/customerProfile/address/country",
        "/details",
        "/details/dealValue",
        "/details/currency",
        "/details/closingDateTime",
        "/details/requirements/products",
    ];
    let edits = prop::collection::vec((prop::sample::select(PLACES.to_vec()), any_json()), 0..6);
    let shaped = edits.prop_map(|edits| {
        let mut document = document();
        for (place, value) in edits {
            if let Some(spot) = document.pointer_mut(place) {
                *spot = value;
            }
        }
        document
    });
    prop_oneof![4 => shaped, 1 => any_json()]
}
