//! What the service's refusals mean, and the headers that every call carries.
//!
//! Messages are ours. Of the service's text only identifiers are repeated that name no data: known columns, privileges.

use std::collections::BTreeSet;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, header::RETRY_AFTER};
use serde_json::Value;

use super::{codes, contract};
use crate::http::{Dialect, Facet, Refusal, RefusalVerdict, Remaining, without_mark};
use crate::model::Side;

/// Requests left of the window (dataverse §6.1).
const REQUESTS_LEFT: &str = "x-ms-ratelimit-burst-remaining-xrm-requests";

/// Seconds of execution left of the window (dataverse §6.1).
const SECONDS_LEFT: &str = "x-ms-ratelimit-time-remaining-xrm-requests";

/// The message of a refusal that names the lead as what does not exist.
pub const LEAD_DOES_NOT_EXIST: &str = "the service says that this lead does not exist";

/// The Web API's way of refusing (dataverse §1.4, §7).
pub struct DataverseDialect {
    columns: BTreeSet<String>,
}

impl DataverseDialect {
    /// A dialect that may repeat these column names besides those of the product.
    pub fn new(mapped_columns: BTreeSet<String>) -> Self {
        DataverseDialect { columns: mapped_columns }
    }
}

impl Dialect for DataverseDialect {
    fn side(&self) -> Side {
        Side::Crm
    }

    fn classify(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
        let story = Story::read(body);
        match story.code.and_then(codes::find) {
            Some(known) => self.by_code(known, &story),
            None => by_status(status, headers, &story),
        }
    }

    fn remaining(&self, headers: &HeaderMap) -> Remaining {
        Remaining { requests: number(headers, REQUESTS_LEFT), execution: number(headers, SECONDS_LEFT) }
    }

    fn headers(&self, correlation: uuid::Uuid, _request: Option<uuid::Uuid>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(HeaderName::from_static("odata-version"), HeaderValue::from_static("4.0"));
        headers.insert(HeaderName::from_static("odata-maxversion"), HeaderValue::from_static("4.0"));
        headers.insert(HeaderName::from_static("x-ms-client-request-id"), guid_value(uuid::Uuid::new_v4()));
        headers.insert(HeaderName::from_static("x-ms-correlation-id"), guid_value(correlation));
        headers
    }
}

/// A number as the service prints it, with commas at the thousands (observed: `1,199.97`).
fn number(headers: &HeaderMap, name: &str) -> Option<f64> {
    let text = headers.get(name)?.to_str().ok()?.trim().replace(',', "");
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

fn guid_value(id: uuid::Uuid) -> HeaderValue {
    HeaderValue::from_str(&id.to_string()).expect("a hyphenated GUID is a header value")
}

impl DataverseDialect {
    fn by_code(&self, known: &codes::KnownCode, story: &Story) -> Refusal {
        let code = Some(codes::print(known.code));
        let mut verdict = known.verdict;
        let mut message = (!known.meaning.is_empty()).then(|| known.meaning.to_owned());
        match known.code {
            codes::OBJECT_DOES_NOT_EXIST => match story.table() {
                NamedTable::Lead => message = Some(LEAD_DOES_NOT_EXIST.to_owned()),
                NamedTable::Other(table) => {
                    verdict = RefusalVerdict::Refused;
                    message = Some(format!("a row of table {table} that was referred to does not exist"));
                }
                NamedTable::Unclear => {}
            },
            codes::PRIVILEGE_DENIED => {
                if let Some(privilege) = story.privilege() {
                    message = Some(format!(
                        "the application user lacks {privilege}: compare its security role with `referrald schema role`"
                    ));
                }
            }
            _ => {
                if let (Some(text), Some(column)) = (&mut message, self.column(story)) {
                    text.push_str(": column ");
                    text.push_str(column);
                }
            }
        }
        Refusal { verdict, code, message }
    }

    /// The first column of ours that the message puts in quotes.
    fn column<'a>(&self, story: &'a Story) -> Option<&'a str> {
        story.message.split('\'').find(|name| {
            contract::is_logical_name(name) && (contract::lead_column(name).is_some() || self.columns.contains(*name))
        })
    }
}

/// Reads a refusal without a known code by its status (dataverse §7: status only as fallback).
fn by_status(status: StatusCode, headers: &HeaderMap, story: &Story) -> Refusal {
    let mut message = None;
    let verdict = match status.as_u16() {
        401 => RefusalVerdict::TokenRefused,
        403 if story.has_code() => RefusalVerdict::Refused,
        403 => {
            message = Some("the environment refuses the application: check its security role and the IP firewall");
            RefusalVerdict::Unauthorized
        }
        404 | 410 => match story.shape {
            // A gateway's page is no word about a row.
            Shape::Foreign => RefusalVerdict::Unavailable,
            Shape::Empty => RefusalVerdict::Missing,
            Shape::Json if story.has_code() => RefusalVerdict::Refused,
            Shape::Json => RefusalVerdict::Missing,
        },
        408 => RefusalVerdict::Unavailable,
        409 | 412 => RefusalVerdict::Conflict,
        429 => RefusalVerdict::Throttled { default_wait: codes::THROTTLE_WAIT, facet: Facet::Unknown },
        501 => RefusalVerdict::Refused,
        503 if headers.contains_key(RETRY_AFTER) => {
            RefusalVerdict::Throttled { default_wait: codes::THROTTLE_WAIT, facet: Facet::Unknown }
        }
        400..=499 => RefusalVerdict::Refused,
        _ => RefusalVerdict::Unavailable,
    };
    Refusal { verdict, code: story.printable_code(), message: message.map(str::to_owned) }
}

/// What kind of body came with a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Empty,
    Json,
    /// HTML or plain text: not from the service itself.
    Foreign,
}

/// Which table a message names.
#[derive(Debug, PartialEq, Eq)]
enum NamedTable {
    Lead,
    Other(&'static str),
    Unclear,
}

/// The parts of a refusal's body that we look at; never printed as they are.
struct Story {
    shape: Shape,
    code: Option<u32>,
    code_text: String,
    message: String,
}

impl Story {
    fn read(body: &[u8]) -> Story {
        let body = without_mark(body).trim_ascii();
        let mut story = Story { shape: Shape::Foreign, code: None, code_text: String::new(), message: String::new() };
        if body.is_empty() {
            story.shape = Shape::Empty;
            return story;
        }
        let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(body) else { return story };
        story.shape = Shape::Json;
        let error = object.get("error").or_else(|| object.get("Error"));
        story.code_text = match error.and_then(|error| error.get("code")) {
            Some(Value::String(text)) => text.trim().to_owned(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        story.code = codes::parse(&story.code_text);
        if let Some(Value::String(text)) = error.and_then(|error| error.get("message")) {
            story.message = text.clone();
        }
        story
    }

    /// Whether the service gave a code at all; `""` and `0x0` are none (dataverse §7).
    fn has_code(&self) -> bool {
        !matches!(self.code_text.to_ascii_lowercase().as_str(), "" | "0x0" | "0x00000000" | "0")
    }

    /// The code, if it is short and looks like an identifier.
    fn printable_code(&self) -> Option<String> {
        if let Some(code) = self.code {
            return Some(codes::print(code));
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let text = &self.code_text;
        (self.has_code() && text.len() <= 40 && text.bytes().all(is_plain)).then(|| text.clone())
    }

    /// The table that the message names. Logical names are not translated, unlike the words around them.
    fn table(&self) -> NamedTable {
        let message = self.message.to_ascii_lowercase();
        let mut found = NamedTable::Unclear;
        for word in message.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')) {
            let named = match contract::OTHER_TABLES.iter().find(|table| **table == word) {
                Some(table) => NamedTable::Other(table),
                None if word == contract::LEAD || word == contract::LEADS => NamedTable::Lead,
                None => continue,
            };
            if found == NamedTable::Unclear {
                found = named;
            } else if found != named {
                return NamedTable::Unclear;
            }
        }
        found
    }

    /// The privilege that the message names, for example `prvAssignLead`.
    fn privilege(&self) -> Option<&str> {
        self.message
            .split(|letter: char| !letter.is_ascii_alphanumeric())
            .find(|word| word.len() > 3 && word.len() <= 60 && word.starts_with("prv"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn dialect() -> DataverseDialect {
        DataverseDialect::new(["new_size".to_owned()].into())
    }

    fn classify(status: u16, body: &[u8]) -> Refusal {
        dialect().classify(StatusCode::from_u16(status).expect("a status"), &HeaderMap::new(), body)
    }

    fn coded(status: u16, code: &str, message: &str) -> Refusal {
        classify(status, json!({"error": {"code": code, "message": message}}).to_string().as_bytes())
    }

    fn verdict(status: u16, code: &str) -> RefusalVerdict {
        coded(status, code, "Something happened.").verdict
    }

    #[test]
    fn the_code_decides_and_the_status_does_not() {
        for (status, code, expected) in [
            (412, "0x80040333", RefusalVerdict::Refused),
            (500, "0x80040333", RefusalVerdict::Refused),
            (412, "0x80060892", RefusalVerdict::Conflict),
            (400, "0x80060892", RefusalVerdict::Conflict),
            (412, "0x80040237", RefusalVerdict::Conflict),
            (412, "0x80060882", RefusalVerdict::Conflict),
            (400, "0x80044331", RefusalVerdict::Refused),
            (403, "0x80040220", RefusalVerdict::Unauthorized),
            (401, "0x80040225", RefusalVerdict::Unauthorized),
            (403, "0x80072560", RefusalVerdict::Unauthorized),
            (401, "0x8005F101", RefusalVerdict::TokenRefused),
            (403, "0x80040231", RefusalVerdict::Refused),
            (400, "0x8004a104", RefusalVerdict::Closed { wait_min: codes::DISABLED_WAIT }),
            (500, "0x80040265", RefusalVerdict::Refused),
            (500, "-2147204784", RefusalVerdict::Again),
            (500, "0x80071151", RefusalVerdict::Conflict),
        ] {
            assert_eq!(verdict(status, code), expected, "{status} {code}");
        }
    }

    #[test]
    fn what_is_left_is_read_as_the_service_prints_it() {
        let left = |requests: &'static str, seconds: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUESTS_LEFT, HeaderValue::from_static(requests));
            headers.insert(SECONDS_LEFT, HeaderValue::from_static(seconds));
            DataverseDialect::new(BTreeSet::new()).remaining(&headers)
        };
        assert_eq!(left("7995", "1,199.97"), Remaining { requests: Some(7995.0), execution: Some(1199.97) });
        for odd in ["", "-1", "00:04:12", "NaN", "inf"] {
            assert_eq!(left(odd, odd), Remaining::default(), "{odd}");
        }
    }

    #[test]
    fn throttling_is_seen_whatever_the_status() {
        for status in [400, 429, 500, 503] {
            for (facet, codes) in [
                (Facet::Requests, vec!["0x80072322", "-2147015902"]),
                (Facet::Execution, vec!["0x80072321"]),
                (Facet::Concurrency, vec!["0x80072326"]),
                (Facet::Unknown, vec!["0x80072323", "0x80072324", "0x8005F103", "0x80060308"]),
            ] {
                let expected = RefusalVerdict::Throttled { default_wait: codes::THROTTLE_WAIT, facet };
                for code in codes {
                    assert_eq!(verdict(status, code), expected, "{status} {code}");
                }
            }
        }
        assert!(matches!(classify(429, b"").verdict, RefusalVerdict::Throttled { .. }));
        assert!(matches!(classify(429, b"<html>busy</html>").verdict, RefusalVerdict::Throttled { .. }));
    }

    #[test]
    fn an_unknown_code_falls_back_to_the_status() {
        for (status, expected) in [
            (400, RefusalVerdict::Refused),
            (401, RefusalVerdict::TokenRefused),
            (403, RefusalVerdict::Refused),
            (404, RefusalVerdict::Refused),
            (412, RefusalVerdict::Conflict),
            (413, RefusalVerdict::Refused),
            (500, RefusalVerdict::Unavailable),
            (501, RefusalVerdict::Refused),
            (502, RefusalVerdict::Unavailable),
            (504, RefusalVerdict::Unavailable),
        ] {
            assert_eq!(verdict(status, "0x8badf00d"), expected, "{status}");
        }
        assert_eq!(verdict(400, "0x8badf00d"), verdict(400, "SomeWord"));
    }

    #[test]
    fn html_and_empty_bodies_are_read_by_status() {
        for (status, body, expected) in [
            (404, &b""[..], RefusalVerdict::Missing),
            (404, b"{}", RefusalVerdict::Missing),
            (404, br#"{"error":{"code":"","message":"x"}}"#, RefusalVerdict::Missing),
            (404, br#"{"error":{"code":"0x0","message":"x"}}"#, RefusalVerdict::Missing),
            (404, b"<html>no such site</html>", RefusalVerdict::Unavailable),
            (412, b"", RefusalVerdict::Conflict),
            (400, b"<html>", RefusalVerdict::Refused),
            (403, b"<html>", RefusalVerdict::Unauthorized),
            (502, b"<html>Bad gateway</html>", RefusalVerdict::Unavailable),
            (503, b"", RefusalVerdict::Unavailable),
        ] {
            assert_eq!(classify(status, body).verdict, expected, "{status} {}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_503_with_retry_after_closes_the_service() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("20"));
        let refusal = dialect().classify(StatusCode::SERVICE_UNAVAILABLE, &headers, b"<html>");
        assert!(matches!(refusal.verdict, RefusalVerdict::Throttled { .. }));
    }

    #[test]
    fn a_404_that_names_a_bound_row_says_nothing_about_the_lead() {
        let lead = coded(404, "0x80040217", "lead With Id = 11111111-1111-1111-1111-111111111111 Does Not Exist");
        assert_eq!((lead.verdict, lead.message.as_deref()), (RefusalVerdict::Missing, Some(LEAD_DOES_NOT_EXIST)));
        let entity = coded(404, "0x80040217", "Entity 'Lead' With Id = 1 Does Not Exist");
        assert_eq!(entity.message.as_deref(), Some(LEAD_DOES_NOT_EXIST));
        let user = coded(404, "0x80040217", "systemuser With Id = 1 Does Not Exist");
        assert_eq!(user.verdict, RefusalVerdict::Refused);
        assert!(user.message.is_some_and(|message| message.contains("systemuser")));
        let unclear = coded(404, "0x80040217", "Der Datensatz existiert nicht");
        assert_eq!((unclear.verdict, unclear.message), (RefusalVerdict::Missing, None));
        let both = coded(404, "0x80040217", "the systemuser of lead 1 Does Not Exist");
        assert_eq!((both.verdict, both.message), (RefusalVerdict::Missing, None));
    }

    #[test]
    fn only_known_column_names_are_taken_from_the_services_text() {
        let text = "A validation error occurred.  The length of the 'subject' attribute of the 'lead' entity exceeded";
        let message = coded(400, "0x80044331", text).message.unwrap_or_default();
        assert_eq!(message, "a text is longer than the environment allows: column subject");
        let french = coded(400, "0x80044331", "La longueur de l'attribut 'subject' de l'entite").message;
        assert_eq!(french.as_deref(), Some(message.as_str()));
        let custom = coded(400, "0x80044331", "The length of the 'new_size' attribute").message.unwrap_or_default();
        assert!(custom.ends_with("column new_size"));
        for quoted in ["'new_other'", "'Jane Doe'", "'jane@example.org'", "'secret_token'", "subject"] {
            let message = coded(400, "0x80044331", &format!("The value {quoted} is bad")).message.unwrap_or_default();
            assert_eq!(message, "a text is longer than the environment allows", "{quoted}");
        }
    }

    #[test]
    fn a_missing_privilege_is_named_with_what_to_do() {
        let text =
            "Principal user (Id=1, type=8) is missing prvAssignLead privilege (Id=2) on OTC=4 for entity 'lead'.";
        let message = coded(403, "0x80040220", text).message.unwrap_or_default();
        assert!(message.contains("prvAssignLead") && message.contains("schema role"), "{message}");
    }

    #[test]
    fn no_message_repeats_the_services_text() {
        let secret = "Jane Doe jane@example.org +1 555 0100";
        for known in codes::KNOWN {
            let refusal = coded(400, &codes::print(known.code), &format!("'{secret}' {secret}"));
            let printed = format!("{refusal:?}");
            assert!(!printed.contains("Jane") && !printed.contains("555"), "{printed}");
        }
        let odd = coded(400, secret, secret);
        assert_eq!((odd.code, odd.message), (None, None));
    }

    #[test]
    fn every_call_carries_the_documented_headers() {
        let run = uuid::Uuid::from_u128(7);
        let first = dialect().headers(run, None);
        let second = dialect().headers(run, None);
        assert_eq!(first["accept"], "application/json");
        assert_eq!(first["odata-version"], "4.0");
        assert_eq!(first["odata-maxversion"], "4.0");
        assert_eq!(first["x-ms-correlation-id"], run.to_string().as_str());
        assert_ne!(first["x-ms-client-request-id"], second["x-ms-client-request-id"]);
    }

    proptest! {
        #[test]
        fn no_body_makes_the_dialect_panic(status in 100u16..=599, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            classify(status, &body);
        }

        #[test]
        fn no_error_object_makes_the_dialect_panic(status in 300u16..=599, code in ".{0,20}", message in ".{0,200}") {
            coded(status, &code, &message);
        }
    }
}
