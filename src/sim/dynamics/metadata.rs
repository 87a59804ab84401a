//! What the organization says about itself: columns, options, keys; and the set-up calls (dataverse §2.1, §3.4, §3.5).

use serde_json::{Map, Value, json};

use super::super::exchange::{Answer, Request};
use super::super::odata::{Filter, parts};
use super::super::options::{CrmOptions, KeyState};
use super::super::world::Turn;
use super::columns::TABLES;
use super::{Column, Dynamics, Kind, ROOT, Table, body_of};

/// The type of every column description.
const ATTRIBUTE: &str = "Microsoft.Dynamics.CRM.";

impl Dynamics {
    pub(super) fn metadata(
        &mut self,
        options: &CrmOptions,
        request: &Request,
        key: Option<&str>,
        tail: &str,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        let Some(key) = key else { return self.definitions(options, request) };
        let name = key.strip_prefix("LogicalName='").and_then(|name| name.strip_suffix('\''));
        let table = TABLES.into_iter().find(|table| Some(table.name()) == name);
        let Some(table) = table else {
            return Err(Answer::crm_error(404, "0x80060888", &format!("Could not find an entity with name {key}.")));
        };
        if request.method == "POST" {
            return self.extend(options, table, tail, request, turn);
        }
        let steps: Vec<&str> = tail.split('/').filter(|step| !step.is_empty()).collect();
        let cast = |step: &str| step.strip_prefix(ATTRIBUTE).map(str::to_owned);
        match steps.as_slice() {
            [] => selected(definition(options, table), request).map(|body| Answer::json(200, body)),
            ["Keys"] => collection(options, self.keys(table), request),
            ["Attributes"] => self.attributes(options, table, None, request),
            ["Attributes", step] if step.starts_with(ATTRIBUTE) => self.attributes(options, table, cast(step), request),
            [one] => self.attribute(table, one, None, request),
            [one, step] => self.attribute(table, one, cast(step), request),
            _ => Err(Answer::crm_error(404, "0x80060888", "Resource not found for the segment.")),
        }
    }

    fn definitions(&self, options: &CrmOptions, request: &Request) -> Result<Answer, Answer> {
        collection(options, TABLES.into_iter().map(|table| definition(options, table)).collect(), request)
    }

    fn attributes(
        &self,
        options: &CrmOptions,
        table: Table,
        cast: Option<String>,
        request: &Request,
    ) -> Result<Answer, Answer> {
        let expand = request.parameter("$expand").unwrap_or_default();
        let columns = self.columns_of(table).iter();
        let wanted = columns.filter(|column| cast.as_deref().is_none_or(|cast| cast == type_of(column)));
        collection(options, wanted.map(|column| description(column, cast.is_some(), &expand)).collect(), request)
    }

    fn attribute(&self, table: Table, step: &str, cast: Option<String>, request: &Request) -> Result<Answer, Answer> {
        let name = step.strip_prefix("Attributes(LogicalName='").and_then(|name| name.strip_suffix("')"));
        let column = self.columns_of(table).iter().find(|column| Some(column.name.as_str()) == name);
        let fits = |column: &&Column| cast.as_deref().is_none_or(|cast| cast == type_of(column));
        let Some(column) = column.filter(fits) else {
            let message = format!("Could not find an attribute with {step} on {}.", table.name());
            return Err(Answer::crm_error(404, "0x80060888", &message));
        };
        let expand = request.parameter("$expand").unwrap_or_default();
        selected(description(column, cast.is_some(), &expand), request).map(|body| Answer::json(200, body))
    }

    fn keys(&self, table: Table) -> Vec<Value> {
        let status = match self.key {
            KeyState::Absent => return Vec::new(),
            KeyState::Pending => "Pending",
            KeyState::Active => "Active",
            KeyState::Failed => "Failed",
        };
        match (&self.referral_column, table) {
            (Some(column), Table::Lead) => vec![json!({
                "SchemaName": format!("{column}Key"), "LogicalName": format!("{column}key"), "KeyAttributes": [column],
                "EntityKeyIndexStatus": status, "MetadataId": "00000000-0000-4000-8000-0000000000e1",
            })],
            _ => Vec::new(),
        }
    }

    /// Creates a text column or an alternate key (dataverse §3.5).
    fn extend(
        &mut self,
        options: &CrmOptions,
        table: Table,
        tail: &str,
        request: &Request,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        let body = body_of(request)?;
        let name = body.get("SchemaName").and_then(Value::as_str).unwrap_or_default().to_lowercase();
        if table != Table::Lead || name.is_empty() {
            return Err(Answer::crm_error(400, "0x80040203", "a SchemaName on lead is needed"));
        }
        match tail {
            "Attributes" => {
                turn.note.operation = Some("create column");
                if self.columns_of(table).iter().any(|column| column.name == name) {
                    return Err(Answer::crm_error(
                        400,
                        "0x80047013",
                        "An attribute with the specified name already exists",
                    ));
                }
                let length = body.get("MaxLength").and_then(Value::as_u64).and_then(|max| u32::try_from(max).ok());
                let column = Column::new(&name, Kind::Text(length.unwrap_or(100)));
                let columns = self.schema.entry(table).or_default();
                let place = columns.partition_point(|known| known.property < column.property);
                columns.insert(place, column);
                self.referral_column.get_or_insert(name.clone());
            }
            "Keys" => {
                turn.note.operation = Some("create key");
                let columns = body.get("KeyAttributes").and_then(Value::as_array);
                let column = columns.and_then(|columns| columns.first()).and_then(Value::as_str).unwrap_or_default();
                if self.referral_column.as_deref() != Some(column) {
                    return Err(Answer::crm_error(400, "0x80060890", "the key column does not exist"));
                }
                if self.key != KeyState::Absent {
                    return Err(Answer::crm_error(400, "0x80060894", "a key over these columns exists"));
                }
                self.key = KeyState::Pending;
                self.key_active_at = Some(turn.now.plus(options.key_build_time));
            }
            _ => return Err(Answer::crm_error(404, "0x80060888", "Resource not found for the segment.")),
        }
        turn.note.is_committed = true;
        let place = format!(
            "{}{ROOT}EntityDefinitions(LogicalName='lead')/{tail}(00000000-0000-4000-8000-0000000000e2)",
            options.url
        );
        Ok(Answer::empty(204).with("odata-entityid", &place))
    }

    pub(super) fn maintain(&mut self, options: &CrmOptions, action: &str, turn: &mut Turn<'_>) -> Answer {
        turn.note.operation = Some("publish");
        if action == "ReactivateEntityKey" && self.key == KeyState::Failed {
            turn.note.operation = Some("reactivate key");
            self.key = KeyState::Pending;
            self.key_active_at = Some(turn.now.plus(options.key_build_time));
        }
        Answer::empty(204)
    }
}

fn definition(options: &CrmOptions, table: Table) -> Value {
    json!({
        "LogicalName": table.name(), "EntitySetName": table.set(), "PrimaryIdAttribute": table.key(),
        "ChangeTrackingEnabled": options.tracks_changes, "IsOptimisticConcurrencyEnabled": true,
        "IsDuplicateDetectionEnabled": {"Value": true, "CanBeChanged": true},
        "MetadataId": format!("00000000-0000-4000-8000-0000000000{:02x}", table as u8),
    })
}

fn type_of(column: &Column) -> &'static str {
    match column.kind {
        Kind::Text(_) => "StringAttributeMetadata",
        Kind::Memo(_) => "MemoAttributeMetadata",
        Kind::Integer(..) => "IntegerAttributeMetadata",
        Kind::BigInteger => "BigIntAttributeMetadata",
        Kind::Money(_) => "MoneyAttributeMetadata",
        Kind::Decimal => "DecimalAttributeMetadata",
        Kind::Double => "DoubleAttributeMetadata",
        Kind::Boolean => "BooleanAttributeMetadata",
        Kind::Choice(_) => "PicklistAttributeMetadata",
        Kind::State(_) => "StateAttributeMetadata",
        Kind::Status(_) => "StatusAttributeMetadata",
        Kind::Date | Kind::Instant => "DateTimeAttributeMetadata",
        Kind::Guid => "UniqueidentifierAttributeMetadata",
        Kind::Lookup(_) => "LookupAttributeMetadata",
    }
}

fn description(column: &Column, is_cast: bool, expand: &str) -> Value {
    let kind = type_of(column);
    let mut body = Map::new();
    if !is_cast {
        body.insert("@odata.type".into(), format!("#{ATTRIBUTE}{kind}").into());
    }
    let word = match (&column.kind, column.name.as_str()) {
        (Kind::Lookup(_), "ownerid") => "Owner",
        (Kind::Lookup(_), "customerid") => "Customer",
        (Kind::Guid, _) => "Uniqueidentifier",
        _ => kind.trim_end_matches("AttributeMetadata"),
    };
    let base = json!({
        "LogicalName": column.name, "SchemaName": column.name, "AttributeType": word,
        "AttributeTypeName": {"Value": format!("{word}Type")},
        "MetadataId": format!("00000000-0000-4000-9000-{:012x}", crc32fast::hash(column.name.as_bytes())),
        "RequiredLevel": {"Value": column.required, "CanBeChanged": true,
            "ManagedPropertyLogicalName": "canmodifyrequirementlevelsettings"},
        "IsValidForCreate": column.is_creatable, "IsValidForUpdate": column.is_updatable, "IsValidForRead": true,
        "IsCustomAttribute": column.name.contains('_') && column.name.starts_with("new"),
    });
    let special = match &column.kind {
        _ if !is_cast => json!({}),
        Kind::Text(max) => json!({"MaxLength": max, "Format": "Text", "FormatName": {"Value": "Text"}}),
        Kind::Memo(max) => json!({"MaxLength": max, "Format": "TextArea"}),
        Kind::Integer(min, max) => json!({"MinValue": min, "MaxValue": max, "Format": "None"}),
        Kind::Money(max) => json!({"MinValue": 0, "MaxValue": max, "Precision": 2, "PrecisionSource": 2}),
        Kind::Decimal | Kind::Double => json!({"MinValue": -180, "MaxValue": 180, "Precision": 5}),
        Kind::Date => json!({"Format": "DateOnly", "DateTimeBehavior": {"Value": "DateOnly"}}),
        Kind::Instant => json!({"Format": "DateAndTime", "DateTimeBehavior": {"Value": "UserLocal"}}),
        Kind::Lookup(targets) => {
            json!({"Targets": targets.iter().map(|(_, table)| table.name()).collect::<Vec<_>>()})
        }
        Kind::Choice(choices) | Kind::State(choices) => options(
            expand,
            choices.iter().map(|(code, label)| json!({"Value": code, "Label": label_of(label)})).collect(),
        ),
        Kind::Status(codes) => {
            let list = codes
                .iter()
                .map(|(code, state, label)| json!({"Value": code, "State": state, "Label": label_of(label)}));
            options(expand, list.collect())
        }
        Kind::BigInteger | Kind::Boolean | Kind::Guid => json!({}),
    };
    for part in [base, special] {
        if let Value::Object(map) = part {
            body.extend(map);
        }
    }
    Value::Object(body)
}

fn options(expand: &str, list: Vec<Value>) -> Value {
    let mut body = json!({});
    for part in parts(expand) {
        match part.split('(').next() {
            Some("OptionSet") => body["OptionSet"] = json!({"Options": list.clone()}),
            Some("GlobalOptionSet") => body["GlobalOptionSet"] = Value::Null,
            _ => {}
        }
    }
    body
}

fn label_of(label: &str) -> Value {
    let localized = json!({"Label": label, "LanguageCode": 1033});
    json!({"LocalizedLabels": [localized.clone()], "UserLocalizedLabel": localized})
}

/// Only what `$select` names, plus the id and what was expanded.
fn selected(body: Value, request: &Request) -> Result<Value, Answer> {
    let (Some(select), Value::Object(mut map)) = (request.parameter("$select"), body.clone()) else { return Ok(body) };
    let wanted = parts(&select);
    if let Some(unknown) = wanted.iter().find(|name| !map.contains_key(**name)) {
        let message = format!("Could not find a property named '{unknown}' on this metadata type.");
        return Err(Answer::crm_error(400, "0x80060888", &message));
    }
    map.retain(|name, _| {
        wanted.contains(&name.as_str()) || name == "MetadataId" || name == "@odata.type" || name.ends_with("OptionSet")
    });
    Ok(Value::Object(map))
}

fn collection(options: &CrmOptions, rows: Vec<Value>, request: &Request) -> Result<Answer, Answer> {
    let filter = match request.parameter("$filter") {
        None => None,
        Some(text) => Some(Filter::parse(&text).map_err(|message| Answer::crm_error(400, "0x80060888", &message))?),
    };
    let fits = |row: &&Value| {
        filter.as_ref().is_none_or(|filter| filter.fits(&|property| row.pointer(&format!("/{property}"))))
    };
    let rows: Result<Vec<Value>, Answer> = rows.iter().filter(fits).map(|row| selected(row.clone(), request)).collect();
    let context = format!("{}{ROOT}$metadata#EntityDefinitions", options.url);
    Ok(Answer::json(200, json!({"@odata.context": context, "value": rows?})))
}
