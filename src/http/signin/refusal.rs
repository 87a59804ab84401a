//! What the token endpoint's refusals mean: one closed table (partner-center §2.8).
//!
//! `error` is looked at first, then `suberror`; a known number refines both. Microsoft's text is never repeated: it may
//! name people.

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use uuid::Uuid;

use crate::http::{retry, without_mark};
use crate::model::Timestamp;

/// Who can mend a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Time alone.
    Retry,
    /// A person who signs in or administers the directory.
    Human,
    /// The person who wrote the configuration.
    Configuration,
}

/// One refusal, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// Who can mend it.
    pub class: Class,
    /// `AADSTS` and the number, if one came.
    pub code: Option<String>,
    /// What to tell an operator; placeholders as in `KNOWN`.
    pub sentence: &'static str,
    /// The `error` word, if it is a known one; else empty.
    pub error: &'static str,
    /// The grant itself was refused: another refresh token may still be good.
    pub is_grant_refused: bool,
    /// How long the endpoint asks to wait.
    pub retry_after: Option<std::time::Duration>,
    /// The id to quote to support.
    pub request_id: Option<String>,
}

use Class::{Configuration, Human, Retry};

/// Number, class and sentence. `{renew}` is what to do for a new sign-in; `{section}`, `{secret}`, `{certificate}`,
/// `{password}`, `{audience}`, `{tenant}` and `{client}` are filled in as well.
pub const KNOWN: &[(u32, Class, &str)] = &[
    (50076, Human, "multi-factor authentication is demanded: {renew}"),
    (50074, Human, "strong authentication is demanded: {renew}"),
    (50079, Human, "the user must register for multi-factor authentication first; then {renew}"),
    (50078, Human, "the last multi-factor authentication is too old for the policy: {renew}"),
    (50158, Human, "a further check is demanded by Conditional Access: {renew}"),
    (
        53000,
        Human,
        "Conditional Access demands a compliant device; let an administrator exempt this application, then {renew}",
    ),
    (
        53003,
        Human,
        "Conditional Access blocks this sign-in; let an administrator exempt this application, then {renew}",
    ),
    (700082, Human, "the refresh token expired because it was not used for too long: {renew}"),
    (70008, Human, "the refresh token has expired: {renew}"),
    (
        700084,
        Human,
        "the refresh token was issued to a single-page application and lives 24 hours only; sign in with another redirect URI, then {renew}",
    ),
    (50173, Human, "the sign-in was revoked, for example by a password change: {renew}"),
    (70000, Human, "the refresh token is malformed or belongs to another application: {renew}"),
    (9002313, Human, "the request is malformed, most likely its refresh token: {renew}"),
    (
        65001,
        Human,
        "consent is missing: let an administrator grant application {client} its permissions for {audience}, then {renew}",
    ),
    (
        50126,
        Human,
        "user name or password is wrong: correct {password}; nothing is tried before, lest the account be locked",
    ),
    (
        50053,
        Human,
        "the account is locked or the address is considered risky: let an administrator look at the user's sign-ins, then restart referrald; nothing is tried before, lest it get worse",
    ),
    (50055, Human, "the password has expired: change it and correct {password}; nothing is tried before"),
    (
        50057,
        Human,
        "the user is disabled: let an administrator enable the user, then restart referrald; nothing is tried before",
    ),
    (
        50034,
        Human,
        "there is no such user in tenant {tenant}: correct {section}.username and restart referrald; nothing is tried before",
    ),
    (7000215, Configuration, "the client secret is wrong: put the secret's value, not its id, into {secret}"),
    (7000222, Configuration, "the client secret has expired: make a new one and put it into {secret}"),
    (
        700027,
        Configuration,
        "the certificate is not registered with the application or does not fit its key: upload it, or correct {certificate}",
    ),
    (700024, Configuration, "the certificate's assertion is not valid at this time: set this machine's clock right"),
    (
        700023,
        Configuration,
        "the certificate's assertion is meant for another endpoint: check {section}.authority and {section}.tenant_id",
    ),
    (50027, Configuration, "the certificate's assertion is malformed: check {certificate}"),
    (7000218, Configuration, "the application needs a client secret or a certificate: set {secret}"),
    (
        700016,
        Configuration,
        "application {client} is not known in tenant {tenant}: correct {section}.client_id or {section}.tenant_id",
    ),
    (90002, Configuration, "there is no tenant {tenant}: correct {section}.tenant_id"),
    (
        500011,
        Configuration,
        "{audience} is not known in tenant {tenant}: correct the URL of the service or {section}.audience, or let an administrator add its service principal",
    ),
    (70011, Configuration, "the scope for {audience} is not valid: correct {section}.audience"),
    (50196, Human, "the sign-in service sees a request loop; it is left alone for a while"),
    (90033, Retry, "the sign-in service is unavailable for the moment"),
    // A person's sign-in; numbers of Entra's published list that the sheet does not have.
    (70016, Human, "the code has not been entered yet"),
    (70018, Human, "the code was declined or is not the one that was shown: {renew}"),
    (70019, Human, "the code was not entered in time: {renew}"),
    (70020, Human, "the code was not entered in time: {renew}"),
    (54005, Human, "the sign-in's code was used already: {renew}"),
    (501481, Human, "the sign-in's code belongs to another sign-in: {renew}"),
    (65004, Human, "the person did not agree to what the application asks for: {renew}, and agree"),
    (
        90094,
        Human,
        "an administrator has to agree first: Entra ID, App registrations, application {client}, API permissions, Grant admin consent; then {renew}",
    ),
    (
        50105,
        Human,
        "the user is not assigned to application {client}: Entra ID, Enterprise applications, Users and groups, or switch assignment off",
    ),
    (50020, Human, "the user is a guest or of another tenant: sign in with a member account of tenant {tenant}"),
    (
        50011,
        Configuration,
        "the redirect URI is not registered: add the one that was shown to application {client}, Entra ID, App registrations, Authentication",
    ),
    (
        700025,
        Configuration,
        "application {client} is a public client and must not show a credential: take {secret} out of the configuration, or register the redirect URI under the platform Web",
    ),
    (
        90023,
        Configuration,
        "a redirect URI of the platform \"Mobile and desktop\" takes no credential: register it under the platform Web, or take {secret} out of the configuration",
    ),
    (7000112, Human, "application {client} is disabled: let an administrator enable it, then {renew}"),
];

/// Refusals of the account itself: each further try brings it nearer to being locked out (partner-center §2.8).
const LOCK_OUT: [&str; 5] = ["AADSTS50126", "AADSTS50053", "AADSTS50055", "AADSTS50057", "AADSTS50034"];

/// True for a code after which the same sign-in must not be tried again.
pub fn locks_out(code: &str) -> bool {
    LOCK_OUT.contains(&code)
}

/// `error` words.
const ERRORS: &[(&str, Class, &str)] = &[
    ("temporarily_unavailable", Retry, "the sign-in service is unavailable for the moment"),
    ("server_error", Retry, "the sign-in service failed"),
    ("interaction_required", Human, "the user must sign in by hand: {renew}"),
    ("login_required", Human, "the user must sign in by hand: {renew}"),
    (
        "consent_required",
        Human,
        "consent is missing: let an administrator grant application {client} its permissions for {audience}, then {renew}",
    ),
    (
        "access_denied",
        Human,
        "access is denied by a policy: let an administrator look at the sign-in logs of application {client}",
    ),
    ("authorization_pending", Human, "the code has not been entered yet"),
    ("slow_down", Human, "the code has not been entered yet"),
    ("authorization_declined", Human, "the sign-in was declined: {renew}"),
    ("expired_token", Human, "the code was not entered in time: {renew}"),
    ("bad_verification_code", Configuration, "the sign-in service does not know the code: {renew}"),
    ("invalid_grant", Human, "the sign-in is no longer accepted: {renew}"),
    ("invalid_client", Configuration, "the application's credential is not accepted: check {secret}"),
    (
        "unauthorized_client",
        Configuration,
        "application {client} may not sign in this way: check {section}.client_id, {section}.tenant_id and {section}.grant",
    ),
    ("invalid_resource", Configuration, "{audience} is not known in tenant {tenant}: correct {section}.audience"),
    ("invalid_scope", Configuration, "the scope for {audience} is not valid: correct {section}.audience"),
    ("unsupported_grant_type", Configuration, "the endpoint does not know this grant: check {section}.grant"),
    ("invalid_request", Configuration, "the sign-in service found the request malformed: check {section}"),
];

/// `suberror` words.
const SUBERRORS: &[(&str, &str)] = &[
    ("basic_action", "the user must sign in by hand, for example with multi-factor authentication: {renew}"),
    ("additional_action", "the user must take a further step, for example register a device: {renew}"),
    (
        "message_only",
        "a policy blocks this sign-in: let an administrator look at the sign-in logs of application {client}",
    ),
    (
        "consent_required",
        "consent is missing: let an administrator grant application {client} its permissions for {audience}, then {renew}",
    ),
    ("user_password_expired", "the password has expired: change it, then {renew}"),
    ("bad_token", "the refresh token is not accepted: {renew}"),
    ("token_expired", "the refresh token has expired: {renew}"),
];

/// Understands a refusal; copes with HTML and empty bodies.
pub fn read(status: StatusCode, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Refusal {
    let body: Body = serde_json::from_slice(without_mark(body)).unwrap_or_default();
    let error = body.error.as_deref().unwrap_or_default();
    let codes = match (body.error_codes.as_slice(), body.error_description.as_deref().and_then(described)) {
        ([], Some(code)) => vec![code],
        (codes, _) => codes.to_vec(),
    };
    let known = codes.iter().find_map(|code| KNOWN.iter().find(|row| row.0 == *code));
    let (class, sentence) = judge(status, error, body.suberror.as_deref(), known.map(|row| (row.1, row.2)));
    Refusal {
        status,
        class,
        code: known.map(|row| row.0).or(codes.first().copied()).map(|code| format!("AADSTS{code}")),
        sentence,
        error: ERRORS.iter().find(|row| row.0 == error).map_or("", |row| row.0),
        is_grant_refused: class != Retry && error == "invalid_grant",
        retry_after: retry::retry_after(headers, now),
        request_id: body.trace_id.or(body.correlation_id).map(|id| id.to_string()),
    }
}

/// Understands an error that came to the redirect URI (RFC 6749 §4.1.2.1).
pub fn redirected(error: &str, description: &str) -> Refusal {
    let body = serde_json::json!({ "error": error, "error_description": description }).to_string();
    read(StatusCode::BAD_REQUEST, &HeaderMap::new(), body.as_bytes(), Timestamp::EPOCH)
}

fn judge(
    status: StatusCode,
    error: &str,
    suberror: Option<&str>,
    known: Option<(Class, &'static str)>,
) -> (Class, &'static str) {
    let word = ERRORS.iter().find(|row| row.0 == error);
    let is_transient = word.is_some_and(|row| row.1 == Retry)
        || status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT;
    match (known, word) {
        // A known number outweighs the transient look: to repeat 50126 or 50196 would do harm.
        (Some(refined), _) => refined,
        (None, Some(row)) if is_transient => (Retry, row.2),
        (None, None) if is_transient => (Retry, "the sign-in service failed"),
        (None, Some(row)) => match SUBERRORS.iter().find(|known| Some(known.0) == suberror) {
            Some(refined) if row.1 == Human => (Human, refined.1),
            Some(_) | None => (row.1, row.2),
        },
        (None, None) => (
            Configuration,
            "the sign-in service refused without a reason that is known: check {section}.authority, {section}.tenant_id and the proxy",
        ),
    }
}

/// The number that begins a description; the rest of it may name people.
fn described(description: &str) -> Option<u32> {
    let rest = description.trim_start().strip_prefix("AADSTS")?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// The error body.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    #[serde(deserialize_with = "lenient")]
    error: Option<String>,
    #[serde(deserialize_with = "lenient")]
    suberror: Option<String>,
    #[serde(deserialize_with = "lenient")]
    error_description: Option<String>,
    #[serde(deserialize_with = "numbers")]
    error_codes: Vec<u32>,
    #[serde(deserialize_with = "lenient")]
    trace_id: Option<Uuid>,
    #[serde(deserialize_with = "lenient")]
    correlation_id: Option<Uuid>,
}

/// A field of an unexpected shape counts as absent: the others still speak.
fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    Ok(serde_json::from_value(serde_json::Value::deserialize(deserializer)?).ok())
}

/// Numbers, written as numbers or as text.
fn numbers<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let number = |item: &serde_json::Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned).parse().ok();
    Ok(value.as_array().map(|items| items.iter().filter_map(number).collect()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(status: u16, body: &str) -> Refusal {
        let status = StatusCode::from_u16(status).expect("a status");
        read(status, &HeaderMap::new(), body.as_bytes(), Timestamp::EPOCH)
    }

    fn check(status: u16, body: serde_json::Value, class: Class, code: Option<&str>, part: &str) {
        let read = refusal(status, &body.to_string());
        assert_eq!((read.class, read.code.as_deref()), (class, code), "{body}");
        assert!(read.sentence.contains(part), "{body}: {}", read.sentence);
    }

    #[test]
    fn every_number_of_the_sheet_is_known_and_answered() {
        let sheet = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/reference/partner-center.md");
        let Ok(text) = std::fs::read_to_string(sheet) else {
            println!("skipped: there is no {sheet}");
            return;
        };
        let section = text.split("### 2.8").nth(1).and_then(|rest| rest.split("### 2.9").next()).expect("section 2.8");
        let rows = section.lines().filter(|line| line.starts_with("| ") && line.ends_with('|'));
        let numbers: Vec<u32> = rows
            .filter_map(|row| row.split('|').nth(1))
            .flat_map(|cell| cell.split(|letter: char| !letter.is_ascii_digit()))
            .filter(|word| word.len() >= 5)
            .filter_map(|word| word.parse().ok())
            .collect();
        assert!(numbers.len() >= 30, "{numbers:?}");
        for number in numbers {
            assert!(KNOWN.iter().any(|row| row.0 == number), "{number} is missing");
        }
    }

    #[test]
    fn multi_factor_is_recognised_in_both_forms() {
        let v1 = json!({"error": "interaction_required", "error_codes": [50076]});
        check(400, v1, Human, Some("AADSTS50076"), "multi-factor");
        let v2 = json!({"error": "invalid_grant", "suberror": "basic_action", "error_codes": [50076]});
        check(400, v2, Human, Some("AADSTS50076"), "multi-factor");
        let without_number = json!({"error": "invalid_grant", "suberror": "basic_action"});
        check(400, without_number, Human, None, "by hand");
    }

    #[test]
    fn the_numbers_decide_where_they_are_known() {
        check(400, json!({"error": "invalid_grant", "error_codes": [700082]}), Human, Some("AADSTS700082"), "not used");
        let text_numbers = json!({"error": "invalid_client", "error_codes": ["7000215"]});
        check(401, text_numbers, Configuration, Some("AADSTS7000215"), "not its id");
        let described = json!({"error": "invalid_grant", "error_description": "AADSTS50173: revoked for anna"});
        check(400, described, Human, Some("AADSTS50173"), "revoked");
        check(400, json!({"error": "server_error", "error_codes": [50196]}), Human, Some("AADSTS50196"), "loop");
        check(400, json!({"error": "invalid_grant", "error_codes": [90033]}), Retry, Some("AADSTS90033"), "moment");
    }

    #[test]
    fn new_numbers_fall_back_to_the_words() {
        check(400, json!({"error": "invalid_grant", "error_codes": [99999]}), Human, Some("AADSTS99999"), "no longer");
        check(400, json!({"error": "invalid_scope", "suberror": "bad_token"}), Configuration, None, "scope");
        check(400, json!({"error": "temporarily_unavailable"}), Retry, None, "moment");
        check(400, json!({"error": 7, "error_codes": "x"}), Configuration, None, "without a reason");
    }

    #[test]
    fn bodies_that_are_no_json_are_judged_by_their_status() {
        for (status, class) in [(502, Retry), (503, Retry), (429, Retry), (403, Configuration), (404, Configuration)] {
            assert_eq!(refusal(status, "<html>Bad Gateway</html>").class, class, "{status}");
            assert_eq!(refusal(status, "").class, class, "{status}");
        }
    }

    #[test]
    fn only_a_refused_grant_makes_another_refresh_token_worth_trying() {
        assert!(refusal(400, r#"{"error":"invalid_grant","error_codes":[50173]}"#).is_grant_refused);
        assert!(!refusal(401, r#"{"error":"invalid_client","error_codes":[7000222]}"#).is_grant_refused);
        assert!(!refusal(400, r#"{"error":"invalid_grant","error_codes":[90033]}"#).is_grant_refused);
    }

    #[test]
    fn no_word_of_the_service_is_repeated() {
        let body = json!({"error": "invalid_grant", "error_description": "AADSTS50034: anna@contoso.com", "error_codes": [50034],
            "trace_id": "anna@contoso.com", "correlation_id": "7b6a1f0e-0000-4000-8000-000000000001"});
        let read = refusal(400, &body.to_string());
        assert!(!format!("{read:?}").contains("anna"));
        assert_eq!(read.request_id.as_deref(), Some("7b6a1f0e-0000-4000-8000-000000000001"));
    }
}
