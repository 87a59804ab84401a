//! A knock at the door: whether a host answers at all, and what time it has there. No sign-in.

use http::{HeaderMap, Method};
use url::Url;

use super::settings::HttpSettings;
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

/// Whether there is such a directory: the sign-in service publishes a document for each, without a sign-in.
///
/// # Errors
/// Why the sign-in service cannot be asked, in words.
pub async fn tenant_exists(authority: &Url, tenant: &str, settings: &HttpSettings) -> Result<bool, String> {
    let transport = Transport::new(authority, settings).map_err(|error| error.to_string())?;
    let mut url = authority.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend([tenant, "v2.0", ".well-known", "openid-configuration"]);
    }
    let timeout = settings.read_timeout.get();
    let request = Request { method: Method::GET, url, headers: HeaderMap::new(), body: None, timeout };
    match transport.send(request).await {
        Ok(response) if response.status.is_success() => Ok(true),
        Ok(response) if response.status.is_client_error() => Ok(false),
        Ok(response) => Err(format!("the sign-in service answers with {}", response.status)),
        Err(Lost::NotSent(reason) | Lost::Broken(reason) | Lost::Forbidden(reason)) => {
            Err(format!("the sign-in service does not answer: {reason}"))
        }
        Err(Lost::TimedOut) => Err("the sign-in service does not answer in time".to_owned()),
        Err(Lost::TooLarge(_)) => Ok(true),
    }
}
