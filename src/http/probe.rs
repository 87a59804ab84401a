//! A knock at the door: whether a host answers at all, and what time it has there. No sign-in.

use http::{HeaderMap, Method, StatusCode};
use url::Url;

use super::settings::HttpSettings;
use super::signin::refusal;
use super::transport::{Lost, Request, Transport, Wire};
use crate::model::Timestamp;

/// What an answer of any status shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The `Date` header.
    pub server_time: Option<Timestamp>,
}

/// Asks for the root of the host of `url`, with the configured proxy, roots and time-outs.
///
/// # Errors
/// Why there is no answer, in words without the URL.
pub async fn greet(url: &Url, settings: &HttpSettings, method: Method) -> Result<Greeting, String> {
    let transport = Transport::new(url, settings).map_err(|error| error.to_string())?;
    let mut root = url.clone();
    root.set_path("/");
    root.set_query(None);
    root.set_fragment(None);
    let timeout = settings.read_timeout.get();
    let request = Request { method, url: root, headers: HeaderMap::new(), body: None, timeout };
    match transport.send(request).await {
        Ok(response) => Ok(Greeting { server_time: super::retry::date(&response.headers) }),
        Err(Lost::TooLarge(_)) => Ok(Greeting { server_time: None }),
        Err(Lost::NotSent(reason) | Lost::Broken(reason) | Lost::Forbidden(reason)) => Err(reason),
        Err(Lost::TimedOut) => Err("no answer in time".to_owned()),
    }
}

/// What the sign-in service says of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directory {
    /// It publishes its document.
    Known,
    /// There is none of this name.
    Absent,
    /// It answers something else, which says nothing: a gateway, or a sign-in service that publishes nothing. Why, in words.
    Unchecked(String),
}

/// Whether there is such a directory: the sign-in service publishes a document for each, without a sign-in. Only a refusal by
/// its number says that there is none (partner-center §2.8, AADSTS90002).
///
/// # Errors
/// Why the sign-in service cannot be asked, in words.
pub async fn directory(authority: &Url, tenant: &str, settings: &HttpSettings) -> Result<Directory, String> {
    let transport = Transport::new(authority, settings).map_err(|error| error.to_string())?;
    let mut url = authority.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend([tenant, "v2.0", ".well-known", "openid-configuration"]);
    }
    let timeout = settings.read_timeout.get();
    let request = Request { method: Method::GET, url, headers: HeaderMap::new(), body: None, timeout };
    match transport.send(request).await {
        Ok(response) => Ok(told_by(response.status, &response.headers, &response.body)),
        Err(Lost::NotSent(reason) | Lost::Broken(reason) | Lost::Forbidden(reason)) => {
            Err(format!("the sign-in service does not answer: {reason}"))
        }
        Err(Lost::TimedOut) => Err("the sign-in service does not answer in time".to_owned()),
        Err(Lost::TooLarge(_)) => Ok(Directory::Known),
    }
}

fn told_by(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Directory {
    if status.is_success() {
        return Directory::Known;
    }
    let refusal = refusal::read(status, headers, body, Timestamp::EPOCH);
    match refusal.code.as_deref() {
        Some(NO_TENANT) if status == StatusCode::BAD_REQUEST => Directory::Absent,
        _ => Directory::Unchecked(format!("the sign-in service answers with {status}")),
    }
}

/// There is no such tenant.
const NO_TENANT: &str = "AADSTS90002";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_by_its_number_says_that_there_is_no_directory() {
        let told = |status: u16, body: &str| {
            let status = StatusCode::from_u16(status).expect("a status");
            told_by(status, &HeaderMap::new(), body.as_bytes())
        };
        assert_eq!(told(200, "{}"), Directory::Known);
        for body in [
            r#"{"error":"invalid_tenant","error_description":"AADSTS90002: Tenant 'x' not found.","error_codes":[90002]}"#,
            r#"{"error":"invalid_tenant","error_description":"AADSTS90002: Tenant 'x' not found."}"#,
        ] {
            assert_eq!(told(400, body), Directory::Absent, "{body}");
        }
        for (status, body) in [
            (400, "{}"),
            (400, r#"{"error":"invalid_request"}"#),
            (403, "<html>"),
            (404, ""),
            (407, ""),
            (429, ""),
            (500, ""),
        ] {
            assert!(matches!(told(status, body), Directory::Unchecked(_)), "{status} {body}");
        }
    }
}
