//! Names and defaults of the product as shipped: everything the adapter can put into a URL or a body.
//!
//! Live metadata overrules the kinds and lengths; the names are compared with the published contract by a test.

use crate::ports::ColumnKind;

/// Path of the Web API below the environment's URL (dataverse §1.1).
pub const API_PATH: &str = "api/data/v9.2";

/// Entity set of leads.
pub const LEADS: &str = "leads";
/// Entity set of opportunities.
pub const OPPORTUNITIES: &str = "opportunities";
/// Entity set of currencies.
pub const CURRENCIES: &str = "transactioncurrencies";
/// Entity set of users, for owner bindings.
pub const USERS: &str = "systemusers";
/// Entity set of teams, for owner bindings.
pub const TEAMS: &str = "teams";

/// Logical name of the lead table.
pub const LEAD: &str = "lead";
/// Primary key of a lead.
pub const LEAD_ID: &str = "leadid";
/// What sellers see in lists.
pub const SUBJECT: &str = "subject";
/// State of leads and opportunities.
pub const STATE: &str = "statecode";
/// Finer status code.
pub const STATUS: &str = "statuscode";
/// When a row was created.
pub const CREATED: &str = "createdon";
/// When a row last changed.
pub const MODIFIED: &str = "modifiedon";
/// Who created a row, as read.
pub const CREATED_BY_VALUE: &str = "_createdby_value";
/// Who changed a row last, as read.
pub const MODIFIED_BY_VALUE: &str = "_modifiedby_value";
/// Whether a lead was merged away.
pub const MERGED: &str = "merged";
/// The lead it was merged into, as read.
pub const MASTER_VALUE: &str = "_masterid_value";
/// The opportunity of the qualification, as read.
pub const QUALIFYING_OPPORTUNITY_VALUE: &str = "_qualifyingopportunityid_value";
/// The currency, as read.
pub const CURRENCY_VALUE: &str = "_transactioncurrencyid_value";
/// The currency: logical name, navigation name and pseudo-column with the ISO code.
pub const CURRENCY: &str = "transactioncurrencyid";
/// ISO 4217 code of a currency row.
pub const CURRENCY_CODE: &str = "isocurrencycode";
/// Decimal places of a currency row.
pub const CURRENCY_PRECISION: &str = "currencyprecision";
/// Where a lead came from; its options are always read.
pub const LEAD_SOURCE: &str = "leadsourcecode";
/// Navigation name of the owner (dataverse §2.2).
pub const OWNER: &str = "ownerid";

/// Primary key of an opportunity.
pub const OPPORTUNITY_ID: &str = "opportunityid";
/// The lead an opportunity came from, as read.
pub const ORIGINATING_LEAD_VALUE: &str = "_originatingleadid_value";
/// Expected value of an opportunity.
pub const ESTIMATED_VALUE: &str = "estimatedvalue";
/// Final value of an opportunity.
pub const ACTUAL_VALUE: &str = "actualvalue";
/// Expected closing date.
pub const ESTIMATED_CLOSE_DATE: &str = "estimatedclosedate";
/// Final closing date.
pub const ACTUAL_CLOSE_DATE: &str = "actualclosedate";

/// What every read of a lead selects, as far as the live metadata has it.
pub const LEAD_CORE: &[&str] = &[
    LEAD_ID,
    SUBJECT,
    STATE,
    STATUS,
    CREATED,
    MODIFIED,
    CREATED_BY_VALUE,
    MODIFIED_BY_VALUE,
    MERGED,
    MASTER_VALUE,
    QUALIFYING_OPPORTUNITY_VALUE,
    CURRENCY_VALUE,
];

/// Columns without which a metadata answer is not believed to be complete.
pub const LEAD_ESSENTIAL: &[&str] = &[LEAD_ID, SUBJECT, STATE, STATUS, CREATED, MODIFIED];

/// What every read of an opportunity selects (dataverse §2.4).
pub const OPPORTUNITY_CORE: &[&str] = &[
    OPPORTUNITY_ID,
    STATE,
    CREATED,
    MODIFIED,
    ESTIMATED_VALUE,
    ACTUAL_VALUE,
    ACTUAL_CLOSE_DATE,
    ESTIMATED_CLOSE_DATE,
    ORIGINATING_LEAD_VALUE,
    CURRENCY_VALUE,
];

/// Required by the table and filled in by the service when absent.
pub const FILLED_BY_SERVICE: &[&str] = &[
    LEAD_ID,
    OWNER,
    "owneridtype",
    "owningbusinessunit",
    "owninguser",
    "owningteam",
    STATE,
    STATUS,
    CREATED,
    "createdby",
    MODIFIED,
    "modifiedby",
    CURRENCY,
    "exchangerate",
    "versionnumber",
];

/// Status codes and the state each belongs to (dataverse §2.3).
pub const STATUS_CODES: &[(i32, i32)] = &[(1, 0), (2, 0), (3, 1), (4, 2), (5, 2), (6, 2), (7, 2)];

/// Options of `leadsourcecode` (dataverse §2.1).
pub const LEAD_SOURCES: &[i32] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

/// Who may set a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Set when creating and when updating.
    Write,
    /// Set when creating only.
    Create,
    /// Set when updating only.
    Update,
    /// Computed by the service.
    Read,
}

/// One column of the lead table as shipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnownColumn {
    /// Logical name.
    pub name: &'static str,
    /// What it holds.
    pub kind: ColumnKind,
    /// Longest text in UTF-16 code units.
    pub length_max: Option<u32>,
    /// Who may set it.
    pub access: Access,
}

const fn text(name: &'static str, length_max: u32) -> KnownColumn {
    KnownColumn { name, kind: ColumnKind::Text, length_max: Some(length_max), access: Access::Write }
}

const fn column(name: &'static str, kind: ColumnKind) -> KnownColumn {
    KnownColumn { name, kind, length_max: None, access: Access::Write }
}

const fn read_only(name: &'static str, kind: ColumnKind) -> KnownColumn {
    KnownColumn { name, kind, length_max: None, access: Access::Read }
}

/// The lead table as shipped (dataverse §2.1): what is assumed when metadata cannot be read.
pub const LEAD_COLUMNS: &[KnownColumn] = &[
    KnownColumn { name: LEAD_ID, kind: ColumnKind::Other, length_max: None, access: Access::Create },
    text(SUBJECT, 300),
    text("firstname", 50),
    text("middlename", 50),
    text("lastname", 50),
    KnownColumn { name: "fullname", kind: ColumnKind::Text, length_max: Some(160), access: Access::Read },
    text("salutation", 100),
    text("jobtitle", 100),
    text("companyname", 100),
    text("emailaddress1", 100),
    text("emailaddress2", 100),
    text("emailaddress3", 100),
    text("telephone1", 50),
    text("telephone2", 50),
    text("telephone3", 50),
    text("mobilephone", 20),
    text("fax", 50),
    text("pager", 20),
    text("websiteurl", 200),
    text("description", 2000),
    text("qualificationcomments", 2000),
    text("address1_name", 100),
    text("address1_line1", 250),
    text("address1_line2", 250),
    text("address1_line3", 250),
    text("address1_city", 80),
    text("address1_stateorprovince", 50),
    text("address1_postalcode", 20),
    text("address1_postofficebox", 20),
    text("address1_country", 80),
    text("address1_county", 50),
    text("address1_telephone1", 50),
    text("address1_telephone2", 50),
    text("address1_telephone3", 50),
    text("address1_fax", 50),
    column("address1_latitude", ColumnKind::Number),
    column("address1_longitude", ColumnKind::Number),
    KnownColumn { name: "address1_composite", kind: ColumnKind::Text, length_max: Some(1000), access: Access::Read },
    column("revenue", ColumnKind::Money),
    column("estimatedamount", ColumnKind::Money),
    column(ESTIMATED_VALUE, ColumnKind::Number),
    column("budgetamount", ColumnKind::Money),
    column(CURRENCY, ColumnKind::Currency),
    column(ESTIMATED_CLOSE_DATE, ColumnKind::Date),
    column("numberofemployees", ColumnKind::Integer),
    column("industrycode", ColumnKind::Choice),
    column(LEAD_SOURCE, ColumnKind::Choice),
    column("leadqualitycode", ColumnKind::Choice),
    column("prioritycode", ColumnKind::Choice),
    column("salesstagecode", ColumnKind::Choice),
    column("purchasetimeframe", ColumnKind::Choice),
    column("budgetstatus", ColumnKind::Choice),
    column("need", ColumnKind::Choice),
    column("purchaseprocess", ColumnKind::Choice),
    column("initialcommunication", ColumnKind::Choice),
    column("preferredcontactmethodcode", ColumnKind::Choice),
    column("confirminterest", ColumnKind::Boolean),
    column("decisionmaker", ColumnKind::Boolean),
    column("evaluatefit", ColumnKind::Boolean),
    column("donotemail", ColumnKind::Boolean),
    column("donotphone", ColumnKind::Boolean),
    column("donotbulkemail", ColumnKind::Boolean),
    column("donotpostalmail", ColumnKind::Boolean),
    column("donotfax", ColumnKind::Boolean),
    column("donotsendmm", ColumnKind::Boolean),
    KnownColumn { name: STATE, kind: ColumnKind::Choice, length_max: None, access: Access::Update },
    column(STATUS, ColumnKind::Choice),
    read_only(CREATED, ColumnKind::Instant),
    read_only(MODIFIED, ColumnKind::Instant),
    read_only(MERGED, ColumnKind::Boolean),
    read_only("createdby", ColumnKind::Other),
    read_only("modifiedby", ColumnKind::Other),
    read_only("masterid", ColumnKind::Other),
    read_only("qualifyingopportunityid", ColumnKind::Other),
    column(OWNER, ColumnKind::Other),
];

/// Tables that a 404 may name besides the lead (dataverse §8, trap 28).
pub const OTHER_TABLES: &[&str] = &[
    "systemuser",
    "team",
    "transactioncurrency",
    "opportunity",
    "account",
    "contact",
    "campaign",
    "businessunit",
    "principal",
    "incident",
    "pricelevel",
    "role",
];

/// The column as shipped.
pub fn lead_column(name: &str) -> Option<&'static KnownColumn> {
    LEAD_COLUMNS.iter().find(|column| column.name == name)
}

/// The logical name behind a readable one: `_ownerid_value` reads `ownerid`.
pub fn logical_name(read_name: &str) -> &str {
    read_name.strip_prefix('_').and_then(|rest| rest.strip_suffix("_value")).unwrap_or(read_name)
}

/// Whether this can be the logical name of a column: lower-case letters, digits and underscores, a letter first.
pub fn is_logical_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Property types and single-valued navigation names of one entity type of the contract.
    #[derive(Default)]
    struct EntityType {
        properties: BTreeMap<String, String>,
        navigations: BTreeSet<String>,
    }

    fn contract() -> Option<(BTreeMap<String, EntityType>, BTreeSet<String>)> {
        use quick_xml::events::Event;
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/reference/dataverse-lead.edmx.xml");
        let Ok(text) = std::fs::read_to_string(path) else {
            println!("skipped: the published contract is not at hand");
            return None;
        };
        let mut reader = quick_xml::Reader::from_str(&text);
        let (mut types, mut sets): (BTreeMap<String, EntityType>, BTreeSet<String>) = Default::default();
        let mut current = String::new();
        loop {
            match reader.read_event().expect("the contract is XML") {
                Event::Start(tag) | Event::Empty(tag) => {
                    let read = |name: &str| {
                        tag.try_get_attribute(name)
                            .expect("attributes are readable")
                            .map(|attribute| String::from_utf8_lossy(&attribute.value).into_owned())
                            .unwrap_or_default()
                    };
                    let name = read("Name");
                    match tag.name().as_ref() {
                        b"EntityType" => current = name,
                        b"Property" => {
                            types.entry(current.clone()).or_default().properties.insert(name, read("Type"));
                        }
                        b"NavigationProperty" if !read("Type").starts_with("Collection(") => {
                            types.entry(current.clone()).or_default().navigations.insert(name);
                        }
                        b"EntitySet" => {
                            sets.insert(name);
                        }
                        _ => {}
                    }
                }
                Event::Eof => break,
                _ => {}
            }
        }
        Some((types, sets))
    }

    fn edm_type(kind: ColumnKind) -> &'static [&'static str] {
        match kind {
            ColumnKind::Text => &["Edm.String"],
            ColumnKind::Integer | ColumnKind::Choice => &["Edm.Int32"],
            ColumnKind::Money => &["Edm.Decimal"],
            ColumnKind::Number => &["Edm.Double", "Edm.Decimal"],
            ColumnKind::Date => &["Edm.Date"],
            ColumnKind::Instant => &["Edm.DateTimeOffset"],
            ColumnKind::Boolean => &["Edm.Boolean"],
            ColumnKind::Currency | ColumnKind::Other => &["Edm.Guid"],
        }
    }

    #[test]
    fn every_lead_column_of_ours_is_in_the_published_contract_with_its_type() {
        let Some((types, _)) = contract() else { return };
        let lead = &types["lead"];
        assert!(lead.properties.len() > 100, "the whole type was read");
        for column in LEAD_COLUMNS {
            let direct = lead.properties.get(column.name);
            let found = direct.or_else(|| lead.properties.get(&format!("_{}_value", column.name)));
            let found = found.unwrap_or_else(|| panic!("{} is in the contract", column.name));
            assert!(edm_type(column.kind).contains(&found.as_str()), "{}: {found}", column.name);
        }
        for name in LEAD_CORE {
            assert!(lead.properties.contains_key(*name), "{name}");
        }
    }

    #[test]
    fn every_opportunity_column_of_ours_is_in_the_published_contract() {
        let Some((types, _)) = contract() else { return };
        for name in OPPORTUNITY_CORE {
            assert!(types["opportunity"].properties.contains_key(*name), "{name}");
        }
    }

    #[test]
    fn bind_names_and_entity_sets_are_those_of_the_published_contract() {
        let Some((types, sets)) = contract() else { return };
        for name in [OWNER, CURRENCY] {
            assert!(types["lead"].navigations.contains(name), "{name}");
        }
        for set in [LEADS, OPPORTUNITIES] {
            assert!(sets.contains(set), "{set}");
        }
    }

    #[test]
    fn the_core_selection_is_part_of_the_column_table() {
        for name in LEAD_CORE {
            assert!(lead_column(logical_name(name)).is_some(), "{name}");
        }
    }

    #[test]
    fn only_lower_case_identifiers_are_logical_names() {
        for good in ["subject", "address1_line1", "new_referralid", &"a".repeat(128)] {
            assert!(is_logical_name(good), "{good}");
        }
        for bad in ["", "_ownerid_value", "new_ReferralId", "a b", "a'b", "1st", "a)", "ä", &"a".repeat(129)] {
            assert!(!is_logical_name(bad), "{bad}");
        }
    }
}
