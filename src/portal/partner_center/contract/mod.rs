//! The service's contract: tables of what it publishes, and checks of bodies against them.
//!
//! Every request body is checked before it is sent. Tests compare the tables with Microsoft's swagger file where it is
//! at hand, and the simulator checks its answers with them.

mod tables;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use crate::model::{ReferralId, Timestamp};
pub use tables::{
    ASSISTANCE, NEVER_WRITTEN, OPERATIONS, Origin, PATCH_OPERATIONS, PATCH_PATHS, QUERY_OPTIONS, REFERRAL, STATUS,
    SUBSTATUS, SUBSTATUS_OF, Shape,
};

/// Checks the body of a write (partner-center §1.8). The error names the path and the rule, never a value.
pub fn check_patch(body: &Value) -> Result<(), String> {
    let operations = body.as_array().ok_or("a patch is a list of operations")?;
    if operations.is_empty() {
        return Err("the patch is empty".to_owned());
    }
    for operation in operations {
        check_operation(operation)?;
    }
    let value_of = |path: &str| {
        let found = operations.iter().find(|operation| operation["path"] == path);
        found.and_then(|operation| operation["value"].as_str())
    };
    match (value_of("/status"), value_of("/substatus")) {
        (None, None) => Ok(()),
        (Some(status), Some(substatus)) => check_pair(status, substatus),
        (Some(_), None) | (None, Some(_)) => {
            Err("/status and /substatus are written together or not at all".to_owned())
        }
    }
}

/// Checks a referral as the service sends it. The error names the path and the rule, never a value.
pub fn check_referral(referral: &Value) -> Result<(), String> {
    let members = referral.as_object().ok_or("a referral is an object")?;
    let id = members.get("id").and_then(Value::as_str).and_then(ReferralId::parse);
    if id.is_none() {
        return Err("/id is no GUID".to_owned());
    }
    let word = |name: &str| members.get(name).and_then(Value::as_str).ok_or_else(|| format!("/{name} is missing"));
    check_pair(word("status")?, word("substatus")?)?;
    check_members(members, "")
}

/// Checks a page of referrals as the service sends it.
pub fn check_page(page: &Value) -> Result<(), String> {
    let rows = page.get("value").and_then(Value::as_array).ok_or("a page has a list named value")?;
    for (position, row) in rows.iter().enumerate() {
        check_referral(row).map_err(|reason| format!("row {}: {reason}", position + 1))?;
    }
    match page.get("@odata.nextLink") {
        None | Some(Value::String(_)) => Ok(()),
        Some(_) => Err("@odata.nextLink is no text".to_owned()),
    }
}

fn check_operation(operation: &Value) -> Result<(), String> {
    let members = operation.as_object().ok_or("an operation is an object")?;
    if let Some(unknown) = members.keys().find(|name| !["op", "path", "value"].contains(&name.as_str())) {
        return Err(format!("an operation has no member {unknown}"));
    }
    let member = |name: &str| members.get(name).ok_or_else(|| format!("an operation lacks its {name}"));
    let op = member("op")?.as_str().unwrap_or_default();
    if !PATCH_OPERATIONS.contains(&op) {
        return Err("the service offers only the operations replace and add".to_owned());
    }
    let path = member("path")?.as_str().unwrap_or_default();
    let Some((_, shape)) = PATCH_PATHS.iter().find(|(known, _)| *known == path) else {
        return Err(format!("{path} is not a path that the service lets anyone write"));
    };
    if path.ends_with("/-") && op != "add" {
        return Err(format!("{path} appends, which goes with the operation add only"));
    }
    let value = member("value")?;
    let may_be_null = !matches!(shape, Shape::Word(_) | Shape::Object);
    if value.is_null() && may_be_null {
        return Ok(());
    }
    check_shape(value, *shape, path)
}

fn check_pair(status: &str, substatus: &str) -> Result<(), String> {
    match SUBSTATUS_OF.iter().find(|(known, _)| *known == status) {
        Some((_, allowed)) if !allowed.contains(&substatus) => {
            Err(format!("this /substatus does not go with the /status {status}"))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_members(members: &Map<String, Value>, parent: &str) -> Result<(), String> {
    members.iter().try_for_each(|(name, value)| check_value(value, &format!("{parent}/{name}")))
}

fn check_value(value: &Value, path: &str) -> Result<(), String> {
    let Some((_, shape, _)) = REFERRAL.iter().find(|(known, ..)| *known == path) else {
        return Err(format!("{path} is not a property of a referral"));
    };
    if value.is_null() || *shape == Shape::Any {
        return Ok(());
    }
    check_shape(value, *shape, path)?;
    match value {
        Value::Object(members) => check_members(members, path),
        Value::Array(rows) => rows.iter().try_for_each(|row| check_value(row, &format!("{path}/*"))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn check_shape(value: &Value, shape: Shape, path: &str) -> Result<(), String> {
    let (is_right, expected) = match shape {
        Shape::Text => (value.is_string(), "text"),
        Shape::Word(words) => (value.as_str().is_some_and(|word| words.contains(&word)), "one of the known words"),
        Shape::Instant => (value.as_str().and_then(Timestamp::parse).is_some(), "a date-time"),
        Shape::Number => (value.is_number(), "a number"),
        Shape::Amount => {
            let is_amount_text = || value.as_str().is_some_and(|text| text.parse::<serde_json::Number>().is_ok());
            (value.is_number() || is_amount_text(), "a number")
        }
        Shape::Flag => (value.is_boolean(), "true or false"),
        Shape::List => (value.is_array(), "a list"),
        Shape::LooseList => {
            let is_empty_object = value.as_object().is_some_and(Map::is_empty);
            (value.is_array() || is_empty_object, "a list")
        }
        Shape::Object => (value.is_object(), "an object"),
        Shape::Any => (true, "anything"),
    };
    if is_right { Ok(()) } else { Err(format!("{path} is not {expected}")) }
}
