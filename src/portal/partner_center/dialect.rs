//! What Partner Center's refusals mean, on both of its hosts (partner-center §1.11).

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use serde_json::Value;
use uuid::Uuid;

use crate::http::{Dialect, Facet, Refusal, RefusalVerdict, without_mark};
use crate::model::Side;

/// How long a throttled service is left alone when it does not say for how long (partner-center §1.12).
pub const THROTTLE_WAIT: Duration = Duration::from_secs(60);

/// How deep error codes are looked for.
const CODE_DEPTH_MAX: usize = 16;

/// Longest code that is printed, in bytes.
const CODE_BYTES_MAX: usize = 64;

/// Codes with a documented meaning; the deepest of them speaks for an answer.
const KNOWN_CODES: [&str; 12] = [
    NO_MFA,
    INVALID_TOKEN,
    "99918",
    "accessDenied",
    "generalException",
    "invalidRequest",
    "itemNotFound",
    "preconditionFailed",
    "resourceModified",
    "serviceNotAvailable",
    "unauthenticated",
    "unauthorized",
];

const NO_MFA: &str = "900421";
const INVALID_TOKEN: &str = "900420";

/// Conditional access wants more from the sign-in; the second spelling is the documented one.
const INSUFFICIENT_CLAIMS: [&str; 2] = ["insufficient_claims", "insufficent_claims"];

/// Reads the answers of `api.partner.microsoft.com` and `api.partnercenter.microsoft.com`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PartnerCenterDialect;

impl Dialect for PartnerCenterDialect {
    fn side(&self) -> Side {
        Side::Portal
    }

    /// The status decides; the body only refines 401 and 403, because gateways answer with anything.
    ///
    /// | status | verdict |
    /// |---|---|
    /// | 401, 403 with `900421` or a conditional access code | a person must sign in again |
    /// | 401, also with `900420` | token refused |
    /// | 403 | refused; a listing makes it the whole side's matter |
    /// | 404, 410 | missing |
    /// | 409, 412, 423 | conflict |
    /// | 429, 509, and 503 with `Retry-After` | throttled |
    /// | 500, 502, 504, 507, other 503, 408, redirects | unavailable; a write's outcome is unknown |
    /// | 407 | unauthorized: the proxy wants a sign-in |
    /// | 400, 501 and the rest | refused |
    fn classify(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
        let codes = error_codes(body);
        let find = |known: &str| codes.iter().find(|code| code.eq_ignore_ascii_case(known)).cloned();
        let is_rights = matches!(status.as_u16(), 401 | 403);
        // What only a person can mend counts at any depth; a general word beneath it must not mask it.
        let human = [NO_MFA].iter().chain(&INSUFFICIENT_CLAIMS).find_map(|known| find(known)).filter(|_| is_rights);
        let is_human = |known: &str| human.as_deref().is_some_and(|code| code.eq_ignore_ascii_case(known));
        let code = human.clone().or_else(|| printed(&codes));
        let (verdict, message) = match status.as_u16() {
            _ if is_human(NO_MFA) => (
                RefusalVerdict::NeedsHuman,
                Some(
                    "the sign-in carries no multi-factor authentication (MFA), which Partner Center demands; \
                      run `referrald login` and use the second factor",
                ),
            ),
            _ if human.is_some() => (
                RefusalVerdict::NeedsHuman,
                Some(
                    "conditional access does not accept this sign-in; run `referrald login`, \
                      or have an administrator look at the policies for this user",
                ),
            ),
            401 if find(INVALID_TOKEN).is_some() => (
                RefusalVerdict::TokenRefused,
                Some(
                    "Partner Center does not accept the token; its audience must be the host of the referrals API, \
                      see partner_center.auth.audience",
                ),
            ),
            401 => (RefusalVerdict::TokenRefused, None),
            403 => (RefusalVerdict::Refused, None),
            404 | 410 => (RefusalVerdict::Missing, None),
            407 => (RefusalVerdict::Unauthorized, Some("the proxy wants a sign-in; see http.proxy")),
            409 | 412 | 423 => (RefusalVerdict::Conflict, None),
            429 | 509 => (throttled(), None),
            503 if headers.contains_key(RETRY_AFTER) => (throttled(), None),
            501 | 505 => (RefusalVerdict::Refused, None),
            300..=399 => (
                RefusalVerdict::Unavailable,
                Some("the answer is a redirect, which is not followed; check partner_center.base_url and the proxy"),
            ),
            408 | 500.. => (RefusalVerdict::Unavailable, None),
            _ => (RefusalVerdict::Refused, None),
        };
        Refusal { verdict, code, message: message.map(str::to_owned) }
    }

    /// Both documented correlation headers with one fresh id, and the idempotency key of a write (partner-center §1.5).
    fn headers(&self, correlation: Uuid, request: Option<Uuid>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let correlation = guid(correlation);
        headers.insert(HeaderName::from_static("client-request-id"), correlation.clone());
        headers.insert(HeaderName::from_static("ms-correlationid"), correlation);
        if let Some(request) = request {
            headers.insert(HeaderName::from_static("ms-requestid"), guid(request));
        }
        headers
    }
}

fn throttled() -> RefusalVerdict {
    RefusalVerdict::Throttled { default_wait: THROTTLE_WAIT, facet: Facet::Unknown }
}

fn guid(id: Uuid) -> HeaderValue {
    HeaderValue::from_str(&id.as_hyphenated().to_string()).expect("a GUID is a valid header")
}

/// The codes of an error body, the outermost first. Names are matched in any case, numbers count as text.
///
/// Reads `{"error": {"code", "innerError": {…}}}`, `{"code", "description"}` and `{"error": "word"}`.
fn error_codes(body: &[u8]) -> Vec<String> {
    let Ok(body) = serde_json::from_slice::<Value>(without_mark(body)) else { return Vec::new() };
    let mut level = Some(&body);
    let mut codes: Vec<String> = Vec::new();
    for _ in 0..CODE_DEPTH_MAX {
        let Some(Value::Object(members)) = level else { break };
        let member =
            |name: &str| members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        codes.extend(member("code").and_then(code_text));
        level = member("error").or_else(|| member("innerError"));
        codes.extend(level.and_then(code_text));
    }
    codes
}

/// The deepest documented code, else the deepest one.
fn printed(codes: &[String]) -> Option<String> {
    let is_known = |code: &&String| {
        let mut known = KNOWN_CODES.iter().chain(&INSUFFICIENT_CLAIMS);
        known.any(|known| known.eq_ignore_ascii_case(code))
    };
    codes.iter().rev().find(is_known).or(codes.last()).cloned()
}

/// A code as text, if it looks like one; anything else might be a person's data.
fn code_text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    (is_plain && !text.is_empty() && text.len() <= CODE_BYTES_MAX).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(status: u16, body: &str) -> Refusal {
        let status = StatusCode::from_u16(status).expect("a status");
        PartnerCenterDialect.classify(status, &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn each_status_has_its_verdict() {
        use RefusalVerdict::{Conflict, Missing, Refused, TokenRefused, Unauthorized, Unavailable};
        let table = [
            (Refused, vec![400, 403, 405, 406, 411, 413, 415, 416, 422, 501]),
            (TokenRefused, vec![401]),
            (Missing, vec![404, 410]),
            (Conflict, vec![409, 412, 423]),
            (throttled(), vec![429, 509]),
            (Unavailable, vec![302, 408, 500, 502, 503, 504, 507]),
            (Unauthorized, vec![407]),
        ];
        for (verdict, statuses) in table {
            for status in statuses {
                for body in
                    ["", "<html>nothing here</html>", "{", "[]", "null", r#"{"error":{"code":"generalException"}}"#]
                {
                    assert_eq!(classify(status, body).verdict, verdict, "{status} {body}");
                }
            }
        }
    }

    #[test]
    fn maintenance_with_a_time_is_a_throttle() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("7"))]);
        let refusal = PartnerCenterDialect.classify(StatusCode::SERVICE_UNAVAILABLE, &headers, b"");
        assert_eq!(refusal.verdict, RefusalVerdict::Throttled { default_wait: THROTTLE_WAIT, facet: Facet::Unknown });
    }

    #[test]
    fn a_missing_mfa_claim_is_recognised_in_every_shape() {
        for body in [
            r#"{"code":"900421","description":"x","data":[],"source":"y"}"#,
            r#"{"code":900421,"description":"x"}"#,
            r#"{"Error":{"Code":"unAuthorized","innererror":{"code":"900421"}}}"#,
            r#"{"error":{"code":"unauthenticated","innerError":{"code":900421,"innerError":{"code":"somethingElse"}}}}"#,
            r#"{"code":"900421","innerError":{"code":"unauthenticated"}}"#,
            r#"{"error":{"code":900421,"innerError":{"code":"accessDenied","innerError":{"code":"900420"}}}}"#,
        ] {
            let refusal = classify(401, body);
            assert_eq!(refusal.verdict, RefusalVerdict::NeedsHuman, "{body}");
            assert_eq!(refusal.code.as_deref(), Some("900421"));
            let message = refusal.message.expect("it says what to do");
            assert!(message.contains("MFA") && message.contains("`referrald login`"), "{message}");
        }
    }

    #[test]
    fn a_code_never_masks_another_status() {
        for (status, verdict) in
            [(400, RefusalVerdict::Refused), (412, RefusalVerdict::Conflict), (500, RefusalVerdict::Unavailable)]
        {
            assert_eq!(classify(status, r#"{"code":"900421"}"#).verdict, verdict);
        }
    }

    #[test]
    fn an_overlong_code_is_not_printed() {
        for (bytes, is_kept) in [(CODE_BYTES_MAX, true), (CODE_BYTES_MAX + 1, false)] {
            let code = classify(400, &format!(r#"{{"code":"{}"}}"#, "x".repeat(bytes))).code;
            assert_eq!(code.is_some(), is_kept);
        }
    }

    #[test]
    fn an_invalid_token_is_renewed_and_named() {
        let refusal = classify(401, r#"{"code":"900420"}"#);
        assert_eq!((refusal.verdict, refusal.code.as_deref()), (RefusalVerdict::TokenRefused, Some("900420")));
        assert!(refusal.message.expect("it says why").contains("audience"));
    }

    #[test]
    fn conditional_access_needs_a_person() {
        for code in INSUFFICIENT_CLAIMS {
            for inner in ["null", r#"{"code":"accessDenied"}"#] {
                let refusal = classify(403, &format!(r#"{{"error":{{"code":"{code}","innerError":{inner}}}}}"#));
                assert_eq!((refusal.verdict, refusal.code.as_deref()), (RefusalVerdict::NeedsHuman, Some(code)));
            }
        }
    }

    #[test]
    fn the_deepest_known_code_is_told() {
        for (body, expected) in [
            (
                r#"{"error":{"code":"preconditionFailed","innerError":{"code":"99918","message":"eTag"}}}"#,
                Some("99918"),
            ),
            (r#"{"error":{"code":"invalidRequest","innerError":{"code":"X1"}}}"#, Some("invalidRequest")),
            (r#"{"error":{"code":"A","innerError":{"code":"B"}}}"#, Some("B")),
            (r#"{"error":"invalid_token","error_description":"x"}"#, Some("invalid_token")),
            ("\u{feff}{\"code\":\"900421\"}", Some("900421")),
            (r#"{"error":{"code":"ada@tailspin.example"}}"#, None),
            (r#"{"message":"x"}"#, None),
            (r#"{"error":{"code":null,"innerError":null}}"#, None),
        ] {
            assert_eq!(classify(400, body).code.as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn a_bottomless_error_is_read_to_a_limit() {
        for (depth, expected) in [(20, Some("outer")), (100_000, None)] {
            let body =
                format!(r#"{{"code":"outer","error":{}1{}}}"#, r#"{"innerError":"#.repeat(depth), "}".repeat(depth));
            let refusal = classify(500, &body);
            assert_eq!((refusal.verdict, refusal.code.as_deref()), (RefusalVerdict::Unavailable, expected));
        }
    }

    #[test]
    fn correlation_is_sent_twice_and_the_key_of_a_write_once() {
        let (correlation, request) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let headers = PartnerCenterDialect.headers(correlation, Some(request));
        assert_eq!(headers["client-request-id"], correlation.to_string());
        assert_eq!(headers["MS-CorrelationId"], correlation.to_string());
        assert_eq!(headers["MS-RequestId"], request.to_string());
        assert!(!PartnerCenterDialect.headers(correlation, None).contains_key("MS-RequestId"));
    }
}
