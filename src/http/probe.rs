//! A knock at the door: whether a host answers at all, and what time it has there. No sign-in.

use http::{HeaderMap, Method};
use url::Url;

use super::settings::HttpSettings;
use super::transport::{Lost, Request, Transport};
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
