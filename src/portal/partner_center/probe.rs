//! The smallest question to the referrals API: a short listing of ids. It shows whether the sign-in, the role and the second factor
//! do, and nothing of it is kept.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use serde_json::Value;
use url::Url;

use super::{LIST, explain_list, malformed_answer, scan};
use crate::http::{Call, Effect, Exchange};
use crate::model::RemoteError;

/// Referrals that are asked for: enough that one of our own is among those that others share with us.
const LISTED: u32 = 20;

/// What a short listing shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glimpse {
    /// A referral is visible.
    pub sees_referrals: bool,
    /// The organization that the referral belongs to: ours, or the one that shares it.
    pub organization: Option<String>,
    /// The organizations that the listed referrals belong to, Microsoft's own left out.
    pub organizations: std::collections::BTreeSet<String>,
    /// What the service says of the sign-in's second factor; `None` where it does not say (partner-center §2.7).
    pub is_mfa_compliant: Option<bool>,
    /// The service's clock minus ours in milliseconds, as far as one answer can tell.
    pub server_time: Option<crate::model::Timestamp>,
}

/// Asks for the newest referrals, their ids only.
///
/// # Errors
/// As the listing of referrals, with the same sentences.
pub async fn glimpse(exchange: &Arc<dyn Exchange>, base: &Url) -> Result<Glimpse, RemoteError> {
    let mut url = scan::referrals_url(base);
    url.set_query(Some(&format!("$orderby=updatedDateTime%20desc&$top={LISTED}&$select=id,organizationId")));
    let mut headers = http::HeaderMap::new();
    headers.insert(HeaderName::from_static("validatemfa"), HeaderValue::from_static("true"));
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let call = Call {
        operation: LIST,
        method: Method::GET,
        url,
        headers,
        body: None,
        effect: Effect::Read,
        request: None,
        timeout: None,
        items: 1,
    };
    let answer = exchange.send(call).await.map_err(|error| explain_list(error, false))?;
    let body: Value = answer.json().map_err(|reason| malformed_answer(LIST, reason.to_string(), &answer))?;
    let Some(rows) = body.get("value").and_then(Value::as_array) else {
        return Err(malformed_answer(LIST, "the answer is no list of referrals".to_owned(), &answer));
    };
    let compliant = answer.headers.get("ismfacompliant").and_then(|value| value.to_str().ok());
    let organizations: Vec<&str> = rows.iter().filter_map(|row| row.get("organizationId")?.as_str()).collect();
    let is_partner = |id: &&str| !id.eq_ignore_ascii_case("msft");
    Ok(Glimpse {
        sees_referrals: !rows.is_empty(),
        organization: organizations.first().map(|id| (*id).to_owned()),
        organizations: organizations.iter().copied().filter(is_partner).map(str::to_owned).collect(),
        is_mfa_compliant: compliant.and_then(|text| text.trim().to_ascii_lowercase().parse().ok()),
        server_time: answer.server_time,
    })
}
