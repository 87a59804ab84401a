//! Conditional writes: no call that changes something can be built without a condition.

use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use serde_json::{Map, Value, json};
use url::Url;

use super::api::PREFER;
use super::metadata::Live;
use super::{codes, contract, wire};
use crate::http::{Call, Effect};
use crate::model::{ETag, Fault, LeadDraft, LeadState, Owner, ReferralId, RemoteError, Side};

/// Under which condition a write may happen (dataverse §3.2). There is no third way, above all not `If-Match: *`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// Only if there is no such row: `If-None-Match: *`.
    Absent,
    /// Only if the row still has this version.
    Version(&'a ETag),
}

/// Builds a write of one row: the only place that makes a call with an effect.
pub fn write(
    operation: &'static str,
    url: Url,
    condition: Condition<'_>,
    body: &Map<String, Value>,
    request: uuid::Uuid,
) -> Result<Call, RemoteError> {
    let mut headers = HeaderMap::new();
    match condition {
        Condition::Absent => headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*")),
        Condition::Version(etag) => headers.insert(IF_MATCH, version(operation, etag)?),
    };
    headers.insert(PREFER, HeaderValue::from_static("return=representation"));
    headers.insert(CONTENT_TYPE, JSON);
    let body = serde_json::to_vec(body).map_err(|_| unsent(operation, "the draft cannot be written as JSON"))?;
    Ok(Call {
        operation,
        method: Method::PATCH,
        url,
        headers,
        body: Some(body.into()),
        effect: Effect::Write,
        request: Some(request),
        timeout: None,
        items: 1,
    })
}

/// The version to the letter. One that would match any version is refused.
fn version(operation: &'static str, etag: &ETag) -> Result<HeaderValue, RemoteError> {
    let matches_anything = etag.0.split(',').any(|part| matches!(part.trim(), "" | "*"));
    if matches_anything {
        return Err(unsent(operation, "the version of the lead is not known: read it first"));
    }
    HeaderValue::from_str(&etag.0).map_err(|_| unsent(operation, "the version of the lead is damaged: read it again"))
}

/// The body of a create. `referral` is the referral id column and its content, where the body carries it.
pub fn create_body(
    operation: &'static str,
    draft: &LeadDraft,
    live: &Live,
    key_column: Option<&str>,
    referral: Option<(&str, ReferralId)>,
) -> Result<Map<String, Value>, RemoteError> {
    let mut body = Map::new();
    for (name, value) in &draft.columns {
        // The URL carries the key, and a null says nothing about a row that does not exist yet.
        if key_column == Some(name.as_str()) || value.is_null() {
            continue;
        }
        put(&mut body, operation, live, name, value)?;
    }
    if let Some((column, referral)) = referral {
        body.insert(column.to_owned(), Value::String(referral.to_string()));
    }
    if let Some(owner) = draft.owner {
        let (key, value) = owner_binding(owner);
        body.insert(key, value);
    }
    if let Some(status) = draft.status {
        // `statecode` is not valid on create (dataverse §2.3).
        if status.state != LeadState::Open {
            return Err(unsent(operation, "a lead can only be created open"));
        }
        body.insert(contract::STATUS.to_owned(), json!(status.code));
    }
    Ok(body)
}

/// The body of an update: the given columns and nothing else.
pub fn update_body(operation: &'static str, draft: &LeadDraft, live: &Live) -> Result<Map<String, Value>, RemoteError> {
    if draft.owner.is_some() {
        return Err(unsent(operation, "the owner of a lead is set when it is created, never later"));
    }
    let mut body = Map::new();
    for (name, value) in &draft.columns {
        put(&mut body, operation, live, name, value)?;
    }
    if let Some(status) = draft.status {
        body.insert(contract::STATE.to_owned(), json!(wire::state_code(status.state)));
        body.insert(contract::STATUS.to_owned(), json!(status.code));
    }
    if body.is_empty() {
        return Err(unsent(operation, "there is nothing to write"));
    }
    Ok(body)
}

fn put(
    body: &mut Map<String, Value>,
    operation: &'static str,
    live: &Live,
    name: &str,
    value: &Value,
) -> Result<(), RemoteError> {
    if !live.may_write(name) {
        // A name that is no column's may be anything, so it is not repeated.
        let name = if contract::is_logical_name(name) { name } else { "with an odd name" };
        return Err(unsent(operation, format!("column {name} does not exist here or cannot be written")));
    }
    if name == contract::CURRENCY {
        let (key, value) = currency_binding(operation, live, value)?;
        body.insert(key, value);
        return Ok(());
    }
    if value.is_array() || value.is_object() {
        return Err(unsent(operation, format!("column {name} needs a plain value")));
    }
    body.insert(name.to_owned(), value.clone());
    Ok(())
}

/// `transactioncurrencyid@odata.bind` (dataverse §2.2); null clears.
fn currency_binding(operation: &'static str, live: &Live, value: &Value) -> Result<(String, Value), RemoteError> {
    let key = format!("{}@odata.bind", contract::CURRENCY);
    let code = match value {
        Value::Null => return Ok((key, Value::Null)),
        Value::String(code) => code,
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            return Err(unsent(operation, "the currency is no ISO 4217 code"));
        }
    };
    let Some(id) = live.currencies.id(code) else {
        let is_code = code.len() <= 8 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let code = if is_code { code } else { "with an odd name" };
        return Err(unsent(operation, format!("currency {code} is not active in this environment")));
    };
    Ok((key, Value::String(format!("/{}({id})", contract::CURRENCIES))))
}

fn owner_binding(owner: Owner) -> (String, Value) {
    let target = match owner {
        Owner::User(id) => format!("/{}({id})", contract::USERS),
        Owner::Team(id) => format!("/{}({id})", contract::TEAMS),
    };
    (format!("{}@odata.bind", contract::OWNER), Value::String(target))
}

/// A write that was refused by us before it was sent.
pub fn unsent(operation: &'static str, message: impl Into<String>) -> RemoteError {
    RemoteError::new(Side::Crm, operation, Fault::Refused).with_message(message)
}

/// The kind of every body that is sent (dataverse §1.4).
pub const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// What a lasting failure of a write means in the end: a plug-in that crashes on one lead, or a row that is out of
/// reach, concerns that row only (dataverse §7: retried a few times, then permanent for this item).
pub fn concern_row(error: RemoteError) -> RemoteError {
    let known = error.code.as_deref().and_then(codes::find_text);
    let is_lasting = matches!(error.fault, Fault::Unavailable | Fault::Unauthorized);
    match known {
        Some(known) if is_lasting && known.reach == codes::Reach::Row => RemoteError { fault: Fault::Refused, ..error },
        _ => error,
    }
}

/// Whether the answer of a write is one of a success.
pub fn is_success(status: http::StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 201 | 204)
}
