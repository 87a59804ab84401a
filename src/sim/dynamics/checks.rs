//! What a column takes: types, lengths, options, bound rows (dataverse §2.1, §2.2, §7).

use rust_decimal::Decimal;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::super::clock::read_ticks;
use super::super::exchange::Answer;
use super::super::odata::number;
use super::super::options::CrmOptions;
use super::write::Values;
use super::{Dynamics, Kind, ROOT, Table, no_such, payload};

impl Dynamics {
    /// Checks every member of a body; gives values by property (dataverse §2.2).
    pub(super) fn checked(
        &self,
        options: &CrmOptions,
        table: Table,
        body: Map<String, Value>,
        is_create: bool,
    ) -> Result<Values, Answer> {
        let mut values = Values::new();
        for (name, value) in body {
            if let Some(nav) = name.strip_suffix("@odata.bind") {
                let (property, id) = self.bound(options, table, nav, &value)?;
                values.insert(property, id);
                continue;
            }
            if name.starts_with('@') {
                continue;
            }
            let column = self.columns_of(table).iter().find(|column| column.name == name);
            let Some(column) = column.filter(|column| !matches!(column.kind, Kind::Lookup(_))) else {
                return Err(undeclared(table, &name));
            };
            let is_allowed = if is_create { column.is_creatable } else { column.is_updatable };
            if !is_allowed {
                return Err(payload(&format!("the property '{name}' cannot be written")));
            }
            let value = if value.is_null() { value } else { self.fitting(table, &name, &column.kind, value)? };
            values.insert(name, value);
        }
        Ok(values)
    }

    fn bound(&self, options: &CrmOptions, table: Table, nav: &str, value: &Value) -> Result<(String, Value), Answer> {
        let column = self.columns_of(table).iter().find(|column| match &column.kind {
            Kind::Lookup(targets) => targets.iter().any(|(name, _)| name == nav),
            _ => false,
        });
        let Some((column, Kind::Lookup(targets))) = column.map(|column| (column, &column.kind)) else {
            return Err(undeclared(table, nav));
        };
        if !column.is_creatable {
            return Err(payload(&format!("the property '{nav}' cannot be written")));
        }
        let Some(text) = value.as_str() else {
            return if value.is_null() {
                Ok((column.property.clone(), Value::Null))
            } else {
                Err(payload("a bind takes text"))
            };
        };
        let rest = text.strip_prefix(&format!("{}{ROOT}", options.url)).unwrap_or(text).trim_start_matches('/');
        let parts = rest.split_once('(').map(|(set, id)| (set, id.trim_end_matches(')')));
        let Some((set, id)) = parts.and_then(|(set, id)| Some((Table::of_set(set)?, Uuid::try_parse(id).ok()?))) else {
            return Err(payload(&format!("'{nav}' is bound to something that is no entity URL")));
        };
        if !targets.iter().any(|(name, target)| name == nav && *target == set) {
            return Err(payload(&format!("'{nav}' cannot be bound to {}", set.set())));
        }
        match self.row(set, id) {
            Some(_) => Ok((column.property.clone(), id.to_string().into())),
            None => Err(no_such(set, id)),
        }
    }

    fn fitting(&self, table: Table, name: &str, kind: &Kind, value: Value) -> Result<Value, Answer> {
        let wrong = || Err(payload(&format!("cannot convert a value for '{name}' to the expected type")));
        match kind {
            Kind::Text(max) | Kind::Memo(max) => {
                let Some(text) = value.as_str() else { return wrong() };
                // .NET counts UTF-16 units (dataverse §2.1).
                if text.encode_utf16().count() > *max as usize {
                    let message = format!(
                        "A validation error occurred.  The length of the '{name}' attribute of the '{}' entity exceeded the maximum allowed length of '{max}'.",
                        table.name()
                    );
                    return Err(Answer::crm_error(400, "0x80044331", &message));
                }
                // An empty text is stored as null.
                Ok(if text.is_empty() { Value::Null } else { value })
            }
            Kind::Integer(min, max) => match value.as_i64() {
                Some(one) if (*min..=*max).contains(&one) => Ok(value),
                Some(_) => Err(Answer::crm_error(400, "0x8004432f", &format!("'{name}' is outside the valid range"))),
                None => wrong(),
            },
            Kind::Money(max) => {
                let amount = match &value {
                    Value::Number(one) => number(one),
                    _ => return wrong(),
                };
                match amount {
                    Some(amount) if amount >= Decimal::ZERO && amount <= Decimal::from(*max) => Ok(value),
                    _ => Err(Answer::crm_error(400, "0x80044330", &format!("'{name}' is outside the valid range"))),
                }
            }
            Kind::Decimal | Kind::Double | Kind::BigInteger => {
                if value.is_number() {
                    Ok(value)
                } else {
                    wrong()
                }
            }
            Kind::Boolean => {
                if value.is_boolean() {
                    Ok(value)
                } else {
                    wrong()
                }
            }
            Kind::Choice(choices) => match value.as_i64() {
                Some(code) if choices.iter().any(|(one, _)| i64::from(*one) == code) => Ok(value),
                Some(code) => Err(no_option(table, name, code)),
                None => wrong(),
            },
            Kind::State(_) => {
                if value.is_i64() || value.is_u64() {
                    Ok(value)
                } else {
                    wrong()
                }
            }
            Kind::Status(codes) => match value.as_i64() {
                Some(code) if codes.iter().any(|(one, _, _)| i64::from(*one) == code) => Ok(value),
                Some(code) => Err(no_option(table, name, code)),
                None => wrong(),
            },
            Kind::Date => match value.as_str().map(|text| (text.len(), text.parse::<jiff::civil::Date>())) {
                Some((10, Ok(date))) if date.year() >= 1753 => Ok(value),
                _ => wrong(),
            },
            Kind::Instant => match value.as_str().and_then(read_ticks) {
                Some(_) => Ok(value),
                None => wrong(),
            },
            Kind::Guid => {
                if guid(&value).is_some() {
                    Ok(value)
                } else {
                    wrong()
                }
            }
            Kind::Lookup(_) => wrong(),
        }
    }
}

pub(super) fn guid(value: &Value) -> Option<Uuid> {
    Uuid::try_parse(value.as_str()?).ok()
}

fn undeclared(table: Table, name: &str) -> Answer {
    payload(&format!(
        "An undeclared property '{name}' which only has property annotations in the payload but no property value was found in the payload for type 'Microsoft.Dynamics.CRM.{}'.",
        table.name()
    ))
}

fn no_option(table: Table, name: &str, code: i64) -> Answer {
    let message =
        format!("The value {code} of '{name}' on record of type '{}' is outside the valid range.", table.name());
    Answer::crm_error(400, "0x8004431a", &message)
}
