//! JSON Patch as the referrals API takes it, and the transition table (partner-center §1.7, §1.8).

use serde_json::{Value, json};

use super::clock::read_ticks;
use super::exchange::{Answer, Request};
use super::options::PortalOptions;
use super::referrals::invalid;

/// Paths that a JSON Patch may name (partner-center §1.8).
pub const ALLOWED_PATHS: [&str; 18] = [
    "/campaignId",
    "/consent/consentToShareReferralWithMicrosoftSellers",
    "/customerProfile/team",
    "/customerProfile/team/-",
    "/details/closingDateTime",
    "/details/currency",
    "/details/dealValue",
    "/details/notes",
    "/details/requirements/solutions",
    "/details/requirements/solutions/-",
    "/externalReferenceId",
    "/referralProgram",
    "/salesStage",
    "/status",
    "/substatus",
    "/statusReason",
    "/team",
    "/team/-",
];

/// One operation of a JSON Patch.
pub(crate) struct Operation {
    pub(crate) verb: String,
    pub(crate) path: String,
    value: Value,
}

/// Reads the body of a PATCH.
pub(crate) fn operations(request: &Request) -> Result<Vec<Operation>, Answer> {
    let Some(Value::Array(items)) = request.json() else { return Err(invalid("the body is no JSON Patch array")) };
    if items.is_empty() {
        return Err(invalid("the patch is empty"));
    }
    items
        .into_iter()
        .map(|item| {
            let word = |name: &str| item.get(name).and_then(Value::as_str).map(str::to_owned);
            match (word("op"), word("path"), item.get("value")) {
                (Some(verb), Some(path), Some(value)) => Ok(Operation { verb, path, value: value.clone() }),
                _ => Err(invalid("an operation needs op, path and value")),
            }
        })
        .collect()
}

impl Operation {
    pub(crate) fn is_allowed(&self) -> bool {
        matches!(self.verb.as_str(), "replace" | "add") && ALLOWED_PATHS.contains(&self.path.as_str())
    }

    /// As RFC 6902 has it: `replace` needs the member to be there, null included, and `add` what it lies in.
    pub(crate) fn apply(&self, document: &mut Value) -> Result<(), String> {
        let value = self.checked()?;
        let absent = |_| format!("{} cannot be {}: there is nothing at that place", self.path, self.verb);
        let operation = json!({"op": self.verb, "path": self.path, "value": value});
        let operation: ::json_patch::PatchOperation =
            serde_json::from_value(operation).map_err(|_| format!("{} is no operation", self.verb))?;
        ::json_patch::patch(document, &[operation]).map_err(absent)
    }

    fn checked(&self) -> Result<Value, String> {
        let value = self.value.clone();
        let wrong = || Err(format!("the value of {} has the wrong type", self.path));
        match self.path.as_str() {
            // The documents send the amount as text by example (partner-center §1.8).
            "/details/dealValue" => match &value {
                Value::Number(_) => Ok(value),
                Value::String(text) => match text.parse::<rust_decimal::Decimal>() {
                    Ok(_) => serde_json::from_str(text).map_err(|_| format!("{} is no number", self.path)),
                    Err(_) => wrong(),
                },
                _ => wrong(),
            },
            "/details/closingDateTime" => match &value {
                Value::Null => Ok(value),
                Value::String(text) if read_ticks(text).is_some() => Ok(value),
                _ => wrong(),
            },
            "/details/currency" => match &value {
                Value::String(text) if text.len() == 3 => Ok(value),
                _ => wrong(),
            },
            "/status" | "/substatus" => {
                if value.is_string() {
                    Ok(value)
                } else {
                    wrong()
                }
            }
            "/consent/consentToShareReferralWithMicrosoftSellers" => {
                if value.is_boolean() {
                    Ok(value)
                } else {
                    wrong()
                }
            }
            "/customerProfile/team" | "/team" | "/details/requirements/solutions" => {
                if value.is_array() {
                    Ok(value)
                } else {
                    wrong()
                }
            }
            path if path.ends_with("/-") => {
                if value.is_object() {
                    Ok(value)
                } else {
                    wrong()
                }
            }
            _ => match value {
                Value::String(_) | Value::Null => Ok(value),
                _ => wrong(),
            },
        }
    }
}

/// Whether a step is in the transition table (partner-center §1.7). `Expired` is the service's own word.
pub(crate) fn is_legal(options: &PortalOptions, from: &(String, String), to: &(String, String)) -> bool {
    let fits = match to.0.as_str() {
        "New" => matches!(to.1.as_str(), "Pending" | "Received"),
        "Active" => to.1 == "Accepted",
        "Closed" => matches!(to.1.as_str(), "Won" | "Lost" | "Declined"),
        _ => false,
    };
    fits && match (from.0.as_str(), to.0.as_str()) {
        ("New", "New" | "Active") | ("Active", "Active" | "Closed") => true,
        ("New", "Closed") => options.closes_new_with_any_word || to.1 == "Declined",
        _ => false,
    }
}
