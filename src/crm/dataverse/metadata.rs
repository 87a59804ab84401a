//! What the live organization says of its lead table, laid over what the product ships with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::contract::{self, Access};
use super::wire;
use crate::ports::{ColumnKind, ColumnSchema, LeadSchema};

/// The schema together with what the adapter derives from it.
#[derive(Debug)]
pub struct Live {
    /// What callers see.
    pub schema: Arc<LeadSchema>,
    /// `$select` of every lead that is read or returned.
    pub select: String,
    /// Columns that go into `Lead::columns`, the currency apart.
    pub columns: Vec<String>,
    /// The configured referral id column, if it exists.
    pub referral_column: Option<String>,
    /// Active currencies.
    pub currencies: Currencies,
    mapped: BTreeSet<String>,
}

/// What was read of the organization; `None` where it did not say.
#[derive(Debug, Default)]
pub struct Findings {
    /// The columns.
    pub columns: BTreeMap<String, ColumnSchema>,
    /// Status codes and their states.
    pub status_codes: Option<BTreeMap<i32, i32>>,
    /// Options of choices.
    pub options: BTreeMap<String, Vec<i32>>,
    /// Active currencies.
    pub currencies: Currencies,
    /// The referral id column exists.
    pub has_referral_column: bool,
    /// The alternate key can be used, or is not needed.
    pub is_key_active: bool,
}

impl Live {
    /// Puts the findings together.
    pub fn new(mut findings: Findings, mapped: &BTreeSet<String>, referral_column: Option<&str>) -> Live {
        for (name, options) in std::mem::take(&mut findings.options) {
            if let Some(column) = findings.columns.get_mut(&name) {
                column.options = Some(options);
            }
        }
        let status_codes = findings.status_codes.unwrap_or_else(|| contract::STATUS_CODES.iter().copied().collect());
        if let Some(column) = findings.columns.get_mut(contract::STATUS) {
            column.options = Some(status_codes.keys().copied().collect());
        }
        let referral_column = referral_column.filter(|_| findings.has_referral_column).map(str::to_owned);
        if let Some(name) = &referral_column {
            findings.columns.entry(name.clone()).or_insert_with(|| shape(None, ColumnKind::Text));
        }

        let columns = findings.columns;
        let is_plain = |name: &&String| {
            columns.get(*name).is_some_and(|column| !matches!(column.kind, ColumnKind::Other | ColumnKind::Currency))
        };
        let mut read: Vec<String> = vec![contract::SUBJECT.to_owned()];
        read.extend(mapped.iter().filter(is_plain).filter(|name| *name != contract::SUBJECT).cloned());

        let core = contract::LEAD_CORE.iter().filter(|name| columns.contains_key(contract::logical_name(name)));
        let mut select: Vec<&str> = core.copied().collect();
        for name in read.iter().skip(1).chain(&referral_column) {
            if !select.contains(&name.as_str()) {
                select.push(name);
            }
        }
        let select = select.join(",");
        let schema = Arc::new(LeadSchema {
            columns,
            currencies: findings.currencies.precisions(),
            has_referral_column: referral_column.is_some(),
            is_key_active: findings.is_key_active,
            status_codes,
        });
        Live { schema, select, columns: read, referral_column, currencies: findings.currencies, mapped: mapped.clone() }
    }

    /// Whether a draft may name this column: it exists, holds a plain value or a currency, and is one of ours.
    pub fn may_write(&self, name: &str) -> bool {
        let is_ours = contract::lead_column(name).is_some()
            || self.mapped.contains(name)
            || self.referral_column.as_deref() == Some(name);
        let is_plain = self.schema.columns.get(name).is_some_and(|column| column.kind != ColumnKind::Other);
        is_ours && is_plain && name != contract::STATE
    }

    /// The same with another answer about the alternate key.
    pub fn with_key(&self, is_key_active: bool) -> Live {
        Live {
            schema: Arc::new(LeadSchema { is_key_active, ..LeadSchema::clone(&self.schema) }),
            select: self.select.clone(),
            columns: self.columns.clone(),
            referral_column: self.referral_column.clone(),
            currencies: self.currencies.clone(),
            mapped: self.mapped.clone(),
        }
    }
}

/// Currencies both ways.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Currencies {
    by_code: BTreeMap<String, (Uuid, u32)>,
    by_id: BTreeMap<Uuid, String>,
}

impl Currencies {
    /// Reads currency rows (dataverse §2.2); rows without id or code are passed over.
    pub fn read(rows: &[Value]) -> Currencies {
        let mut currencies = Currencies::default();
        for row in rows {
            let Some(row) = row.as_object() else { continue };
            let (Some(id), Some(code)) = (wire::guid(row, contract::CURRENCY), currency_code(row)) else { continue };
            let precision = row.get(contract::CURRENCY_PRECISION).and_then(Value::as_u64);
            // Ten digits are the most that money columns keep.
            currencies.add(id, &code, precision.map_or(2, |digits| u32::try_from(digits).unwrap_or(10).min(10)));
        }
        currencies
    }

    /// Adds one. Of two rows with one code the smaller id is bound, so that every start binds the same.
    pub fn add(&mut self, id: Uuid, code: &str, precision: u32) {
        self.by_id.insert(id, code.to_owned());
        let bound = self.by_code.entry(code.to_owned()).or_insert((id, precision));
        if id < bound.0 {
            *bound = (id, precision);
        }
    }

    /// The ISO 4217 code of a currency.
    pub fn code(&self, id: Uuid) -> Option<String> {
        self.by_id.get(&id).cloned()
    }

    /// The currency to bind for a code.
    pub fn id(&self, code: &str) -> Option<Uuid> {
        self.by_code.get(&code.trim().to_ascii_uppercase()).map(|(id, _)| *id)
    }

    fn precisions(&self) -> BTreeMap<String, u32> {
        self.by_code.iter().map(|(code, (_, precision))| (code.clone(), *precision)).collect()
    }
}

/// The code of a currency row in upper case.
pub fn currency_code(row: &Map<String, Value>) -> Option<String> {
    let code = wire::text(row, contract::CURRENCY_CODE)?.trim().to_ascii_uppercase();
    (!code.is_empty() && code.len() <= 8 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(code)
}

/// The columns as shipped.
pub fn shipped_columns() -> BTreeMap<String, ColumnSchema> {
    contract::LEAD_COLUMNS.iter().map(|known| (known.name.to_owned(), shape(Some(known), known.kind))).collect()
}

/// What is assumed when the organization says nothing at all.
pub fn shipped(mapped: &BTreeSet<String>, referral_column: Option<&str>) -> Live {
    let findings = Findings {
        columns: shipped_columns(),
        has_referral_column: referral_column.is_some(),
        is_key_active: true,
        ..Findings::default()
    };
    Live::new(findings, mapped, referral_column)
}

/// Lays the three listings of columns (dataverse §2.1) over each other; what is missing is taken from the product.
pub fn columns(
    attributes: Option<&[Value]>,
    strings: Option<&[Value]>,
    memos: Option<&[Value]>,
) -> BTreeMap<String, ColumnSchema> {
    let mut columns: BTreeMap<String, ColumnSchema> = BTreeMap::new();
    for row in attributes.unwrap_or_default() {
        let Some((name, row)) = named(row) else { continue };
        columns.insert(name.to_owned(), attribute(name, row));
    }
    hide_pseudo_columns(&mut columns);
    if !contract::LEAD_ESSENTIAL.iter().all(|name| columns.contains_key(*name)) {
        for (name, column) in shipped_columns() {
            columns.entry(name).or_insert(column);
        }
    }
    let lengths = strings.into_iter().chain(memos).flatten();
    for row in lengths {
        let Some((name, row)) = named(row) else { continue };
        let length = row.get("MaxLength").and_then(Value::as_u64).and_then(|length| u32::try_from(length).ok());
        let column = columns
            .entry(name.to_owned())
            .or_insert_with(|| ColumnSchema { length_max: None, ..attribute_of_kind(name, row, ColumnKind::Text) });
        if column.kind == ColumnKind::Text && length.is_some_and(|length| length > 0) {
            column.length_max = length;
        }
    }
    columns
}

fn named(row: &Value) -> Option<(&str, &Map<String, Value>)> {
    let row = row.as_object()?;
    let name = wire::text(row, "LogicalName")?;
    contract::is_logical_name(name).then_some((name, row))
}

fn attribute(name: &str, row: &Map<String, Value>) -> ColumnSchema {
    let known = contract::lead_column(name);
    let kind = match wire::text(row, "AttributeType") {
        _ if name == contract::CURRENCY => ColumnKind::Currency,
        Some("String" | "Memo") => ColumnKind::Text,
        Some("Integer" | "BigInt") => ColumnKind::Integer,
        Some("Money") => ColumnKind::Money,
        Some("Decimal" | "Double") => ColumnKind::Number,
        // Dates without a time are told apart by another listing, see `date_only`.
        Some("DateTime") => known.map_or(ColumnKind::Instant, |known| known.kind),
        Some("Picklist" | "State" | "Status") => ColumnKind::Choice,
        Some("Boolean") => ColumnKind::Boolean,
        Some(_) => ColumnKind::Other,
        None => known.map_or(ColumnKind::Other, |known| known.kind),
    };
    attribute_of_kind(name, row, kind)
}

fn attribute_of_kind(name: &str, row: &Map<String, Value>, kind: ColumnKind) -> ColumnSchema {
    let mut column = shape(contract::lead_column(name), kind);
    let flag = |key: &str, otherwise: bool| row.get(key).and_then(Value::as_bool).unwrap_or(otherwise);
    column.is_creatable = flag("IsValidForCreate", column.is_creatable);
    column.is_updatable = flag("IsValidForUpdate", column.is_updatable);
    column.is_required = column.is_creatable
        && is_system_required(row.get("RequiredLevel"))
        && !contract::FILLED_BY_SERVICE.contains(&name)
        // A yes-or-no column always has a default.
        && kind != ColumnKind::Boolean;
    column
}

/// `{"Value":"SystemRequired",…}` or plain text. Business-required columns are a matter of forms (dataverse §2.1).
fn is_system_required(level: Option<&Value>) -> bool {
    let level = level.and_then(|level| level.get("Value").unwrap_or(level).as_str());
    level == Some("SystemRequired")
}

/// A column as shipped, or an unknown one of this kind.
fn shape(known: Option<&contract::KnownColumn>, kind: ColumnKind) -> ColumnSchema {
    let access = known.map_or(Access::Write, |known| known.access);
    ColumnSchema {
        kind,
        length_max: known.and_then(|known| known.length_max),
        options: known.filter(|known| known.name == contract::LEAD_SOURCE).map(|_| contract::LEAD_SOURCES.to_vec()),
        is_required: false,
        is_creatable: matches!(access, Access::Write | Access::Create),
        is_updatable: matches!(access, Access::Write | Access::Update),
    }
}

/// `owneridname` and its like are listed as text but cannot be selected (dataverse §4.3).
fn hide_pseudo_columns(columns: &mut BTreeMap<String, ColumnSchema>) {
    let is_shadow = |name: &str, columns: &BTreeMap<String, ColumnSchema>| {
        ["yominame", "name"].iter().filter_map(|suffix| name.strip_suffix(suffix)).any(|stem| {
            columns.get(stem).is_some_and(|column| match column.kind {
                ColumnKind::Choice | ColumnKind::Boolean | ColumnKind::Currency | ColumnKind::Other => true,
                ColumnKind::Text
                | ColumnKind::Integer
                | ColumnKind::Money
                | ColumnKind::Number
                | ColumnKind::Date
                | ColumnKind::Instant => false,
            })
        })
    };
    let shadows: Vec<String> = columns.keys().filter(|name| is_shadow(name, columns)).cloned().collect();
    for name in shadows {
        if let Some(column) = columns.get_mut(&name) {
            column.kind = ColumnKind::Other;
        }
    }
}

/// Names of the columns that hold a date without a time.
pub fn date_only(rows: &[Value]) -> BTreeSet<String> {
    let is_date = |row: &Map<String, Value>| {
        let behavior = row.get("DateTimeBehavior");
        behavior.and_then(|behavior| behavior.get("Value").unwrap_or(behavior).as_str()) == Some("DateOnly")
    };
    rows.iter().filter_map(named).filter(|(_, row)| is_date(row)).map(|(name, _)| name.to_owned()).collect()
}

/// Status codes with their states out of `StatusAttributeMetadata`; a code without a state is taken from the product.
pub fn status_codes(answer: &Value) -> Option<BTreeMap<i32, i32>> {
    let shipped: BTreeMap<i32, i32> = contract::STATUS_CODES.iter().copied().collect();
    let mut codes = BTreeMap::new();
    for option in option_rows(answer)? {
        let number = |key: &str| option.get(key).and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok());
        let Some(code) = number("Value") else { continue };
        let state = number("State").filter(|state| (0..=2).contains(state)).or_else(|| shipped.get(&code).copied());
        if let Some(state) = state {
            codes.insert(code, state);
        }
    }
    (!codes.is_empty()).then_some(codes)
}

/// Option numbers out of `PicklistAttributeMetadata`: the local set or the global one.
pub fn options(answer: &Value) -> Option<Vec<i32>> {
    let rows = option_rows(answer)?.iter();
    let mut numbers: Vec<i32> =
        rows.filter_map(|option| option.get("Value")?.as_i64().and_then(|number| i32::try_from(number).ok())).collect();
    numbers.sort_unstable();
    numbers.dedup();
    (!numbers.is_empty()).then_some(numbers)
}

fn option_rows(answer: &Value) -> Option<&Vec<Value>> {
    ["OptionSet", "GlobalOptionSet"]
        .iter()
        .filter_map(|set| answer.get(set)?.get("Options")?.as_array())
        .find(|rows| !rows.is_empty())
}

/// Whether a key of exactly this column is there and its index is Active (dataverse §3.4).
pub fn is_key_active(keys: &[Value], column: &str) -> bool {
    keys.iter().any(|key| {
        let columns = key.get("KeyAttributes").and_then(Value::as_array);
        let is_ours = columns.is_some_and(|columns| columns.len() == 1 && columns[0].as_str() == Some(column));
        is_ours && key.get("EntityKeyIndexStatus").and_then(Value::as_str) == Some("Active")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn attribute_row(name: &str, kind: &str, level: Value) -> Value {
        json!({"LogicalName": name, "AttributeType": kind, "RequiredLevel": level,
               "IsValidForCreate": true, "IsValidForUpdate": true})
    }

    fn full() -> Vec<Value> {
        contract::LEAD_ESSENTIAL.iter().map(|name| attribute_row(name, "String", json!("None"))).collect()
    }

    #[test]
    fn only_system_required_columns_that_the_service_does_not_fill_are_required() {
        let mut rows = full();
        rows.push(attribute_row("new_a", "String", json!({"Value": "SystemRequired", "CanBeChanged": false})));
        rows.push(attribute_row("new_b", "String", json!("SystemRequired")));
        rows.push(attribute_row("new_c", "String", json!({"Value": "ApplicationRequired"})));
        rows.push(attribute_row("ownerid", "Owner", json!("SystemRequired")));
        rows.push(attribute_row("new_d", "Boolean", json!("SystemRequired")));
        let mut read_only = attribute_row("new_e", "String", json!("SystemRequired"));
        read_only["IsValidForCreate"] = json!(false);
        rows.push(read_only);
        let columns = columns(Some(&rows), None, None);
        let required: Vec<&str> =
            columns.iter().filter(|(_, column)| column.is_required).map(|(name, _)| name.as_str()).collect();
        assert_eq!(required, ["new_a", "new_b"]);
    }

    #[test]
    fn types_become_kinds() {
        let mut rows = full();
        for (name, kind) in [
            ("new_text", "Memo"),
            ("new_number", "Integer"),
            ("new_money", "Money"),
            ("new_decimal", "Decimal"),
            ("new_instant", "DateTime"),
            ("estimatedclosedate", "DateTime"),
            ("new_choice", "Picklist"),
            ("new_flag", "Boolean"),
            ("new_reference", "Lookup"),
            ("transactioncurrencyid", "Lookup"),
            ("new_choices", "Virtual"),
            ("new_choicename", "String"),
            ("new_referenceyominame", "String"),
        ] {
            rows.push(attribute_row(name, kind, json!("None")));
        }
        let columns = columns(Some(&rows), None, None);
        for (name, kind) in [
            ("new_text", ColumnKind::Text),
            ("new_number", ColumnKind::Integer),
            ("new_money", ColumnKind::Money),
            ("new_decimal", ColumnKind::Number),
            ("new_instant", ColumnKind::Instant),
            ("estimatedclosedate", ColumnKind::Date),
            ("new_choice", ColumnKind::Choice),
            ("new_flag", ColumnKind::Boolean),
            ("new_reference", ColumnKind::Other),
            ("transactioncurrencyid", ColumnKind::Currency),
            ("new_choices", ColumnKind::Other),
            ("new_choicename", ColumnKind::Other),
            ("new_referenceyominame", ColumnKind::Other),
        ] {
            assert_eq!(columns[name].kind, kind, "{name}");
        }
        assert!(!columns.contains_key("companyname"), "a complete listing is the truth");
    }

    #[test]
    fn live_lengths_overrule_those_of_the_product() {
        let strings =
            [json!({"LogicalName": "subject", "MaxLength": 120}), json!({"LogicalName": "new_x", "MaxLength": 7})];
        let memos = [json!({"LogicalName": "description", "MaxLength": 100_000})];
        let columns = columns(None, Some(&strings), Some(&memos));
        assert_eq!(columns["subject"].length_max, Some(120));
        assert_eq!(columns["description"].length_max, Some(100_000));
        assert_eq!(columns["new_x"].length_max, Some(7));
        assert_eq!(columns["lastname"].length_max, Some(50), "as shipped");
    }

    #[test]
    fn a_listing_without_the_essential_columns_does_not_hide_the_shipped_ones() {
        let rows = [attribute_row("subject", "String", json!("None"))];
        let columns = columns(Some(&rows), None, None);
        assert!(columns.contains_key("companyname"));
    }

    #[test]
    fn the_selection_is_the_core_and_the_mapped_columns_that_exist() {
        let mut rows = full();
        for (name, kind) in [("createdby", "Lookup"), ("new_size", "Integer"), ("new_account", "Lookup")] {
            rows.push(attribute_row(name, kind, json!("None")));
        }
        let mapped: BTreeSet<String> =
            ["new_size", "new_account", "msdyn_leadscore", "subject", "statuscode"].map(String::from).into();
        let findings =
            Findings { columns: columns(Some(&rows), None, None), has_referral_column: true, ..Findings::default() };
        let live = Live::new(findings, &mapped, Some("new_referralid"));
        assert_eq!(
            live.select,
            "leadid,subject,statecode,statuscode,createdon,modifiedon,_createdby_value,new_size,new_referralid"
        );
        assert!(live.may_write("new_size") && live.may_write("new_referralid") && live.may_write("subject"));
        for name in ["msdyn_leadscore", "new_account", "statecode", "_ownerid_value", "companyname"] {
            assert!(!live.may_write(name), "{name}");
        }
    }

    #[test]
    fn options_come_from_the_local_or_the_global_set() {
        let set = json!({"Options": [{"Value": 3}, {"Value": 1}, {"Value": 1}, {"Label": {}}]});
        assert_eq!(options(&json!({"OptionSet": set, "GlobalOptionSet": null})), Some(vec![1, 3]));
        assert_eq!(options(&json!({"OptionSet": null, "GlobalOptionSet": set})), Some(vec![1, 3]));
        assert_eq!(options(&json!({"OptionSet": {"Options": []}, "GlobalOptionSet": set})), Some(vec![1, 3]));
        assert_eq!(options(&json!({})), None);
    }

    #[test]
    fn a_status_option_names_its_state() {
        let answer = json!({"OptionSet": {"Options": [
            {"Value": 1, "State": 0}, {"Value": 4}, {"Value": 100_000_001, "State": 2}, {"Value": 100_000_002}, {"Value": 9, "State": 8}
        ]}});
        assert_eq!(status_codes(&answer), Some([(1, 0), (4, 2), (100_000_001, 2)].into()));
    }

    #[test]
    fn only_an_active_key_of_exactly_our_column_counts() {
        let key = |columns: Value, status: &str| json!({"KeyAttributes": columns, "EntityKeyIndexStatus": status});
        let ours = json!(["new_referralid"]);
        assert!(is_key_active(&[key(ours.clone(), "Active")], "new_referralid"));
        for status in ["Pending", "InProgress", "Failed", ""] {
            assert!(!is_key_active(&[key(ours.clone(), status)], "new_referralid"), "{status}");
        }
        for columns in [json!(["new_referralid", "subject"]), json!(["subject"]), json!([]), json!("new_referralid")] {
            assert!(!is_key_active(&[key(columns.clone(), "Active")], "new_referralid"), "{columns}");
        }
    }

    #[test]
    fn currencies_are_known_by_code_and_by_id() {
        let row = |id: u128, code: &str, precision: Value| {
            json!({"transactioncurrencyid": Uuid::from_u128(id).to_string(),
            "isocurrencycode": code, "currencyprecision": precision})
        };
        let rows = [
            row(9, "EUR", json!(2)),
            row(8, "eur", json!(4)),
            row(7, "JPY", json!(0)),
            row(6, "Jane Doe", json!(2)),
            json!(1),
        ];
        let currencies = Currencies::read(&rows);
        assert_eq!(currencies.precisions(), [("EUR".to_owned(), 4), ("JPY".to_owned(), 0)].into());
        assert_eq!(currencies.id(" eur"), Some(Uuid::from_u128(8)), "the smaller id is bound");
        assert_eq!(currencies.code(Uuid::from_u128(9)).as_deref(), Some("EUR"));
        assert_eq!(currencies.id("USD"), None);
    }

    #[test]
    fn a_date_column_is_told_by_its_behavior() {
        let rows = [
            json!({"LogicalName": "new_day", "DateTimeBehavior": {"Value": "DateOnly"}}),
            json!({"LogicalName": "new_start", "DateTimeBehavior": {"Value": "UserLocal"}}),
        ];
        assert_eq!(date_only(&rows), ["new_day".to_owned()].into());
    }

    proptest! {
        #[test]
        fn no_json_makes_the_metadata_panic(rows in proptest::collection::vec(crate::crm::dataverse::wire::any_json(), 0..6)) {
            columns(Some(&rows), Some(&rows), Some(&rows));
            Currencies::read(&rows);
            date_only(&rows);
            is_key_active(&rows, "new_referralid");
            for row in &rows {
                options(row);
                status_codes(row);
            }
        }
    }
}
