//! One certificate over the network: no redirects, no proxy, no private address, a small answer, a short time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::is_public;
use super::source::{Place, literal};

/// How long one fetch may take, from resolving the name to the last byte.
pub const FETCH_TIME_MAX: Duration = Duration::from_secs(5);
/// Largest signing certificate, in bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 32 * 1024;
/// Largest intermediate certificate, in bytes.
pub const INTERMEDIATE_BYTES_MAX: usize = 64 * 1024;

/// Brings what lies at a place.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Fetches up to `bytes_max` bytes.
    ///
    /// # Errors
    /// The reason in words, without quoting what was received.
    async fn fetch(&self, place: &Place, bytes_max: usize) -> Result<Vec<u8>, String>;
}

/// The addresses of a name.
pub type Lookup = Arc<dyn Fn(String) -> Looking + Send + Sync>;
/// The addresses of a name, on their way.
pub type Looking = std::pin::Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>>;

/// Fetches over HTTP.
pub struct HttpFetch {
    client: reqwest::Client,
}

impl HttpFetch {
    /// Over the network, with the names of this machine's resolver. `roots` are further roots for TLS.
    ///
    /// # Errors
    /// The reason in words.
    pub fn new(user_agent: &str, roots: Vec<reqwest::Certificate>) -> Result<Self, String> {
        let lookup: Lookup =
            Arc::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect()) }));
        HttpFetch::with_lookup(user_agent, roots, lookup)
    }

    /// As [`HttpFetch::new`], with a resolver of its own.
    ///
    /// # Errors
    /// The reason in words.
    pub fn with_lookup(user_agent: &str, roots: Vec<reqwest::Certificate>, lookup: Lookup) -> Result<Self, String> {
        crate::http::install_crypto();
        let mut builder = reqwest::Client::builder()
            .user_agent(user_agent)
            .timeout(FETCH_TIME_MAX)
            .connect_timeout(FETCH_TIME_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            // A proxy would connect where we could not look.
            .no_proxy()
            // A small answer must not unpack into a large one.
            .no_gzip()
            .http1_only()
            // A connection that is kept would skip the check of its address.
            .pool_max_idle_per_host(0)
            .dns_resolver(Arc::new(CheckedResolver { lookup }));
        if !roots.is_empty() {
            builder = builder.tls_certs_merge(roots);
        }
        let client = builder.build().map_err(|error| format!("the HTTP client cannot be built: {error}"))?;
        Ok(HttpFetch { client })
    }
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn fetch(&self, place: &Place, bytes_max: usize) -> Result<Vec<u8>, String> {
        // Literal addresses are not resolved. A loopback literal is here only because it is configured to the letter.
        if literal(place.url()).is_some_and(|address| !address.is_loopback() && !is_public(address)) {
            return Err("the address is not a public one".to_owned());
        }
        let answer = tokio::time::timeout(FETCH_TIME_MAX, self.read(place, bytes_max)).await;
        answer.unwrap_or_else(|_| Err(format!("it took longer than {} s", FETCH_TIME_MAX.as_secs())))
    }
}

impl HttpFetch {
    async fn read(&self, place: &Place, bytes_max: usize) -> Result<Vec<u8>, String> {
        let mut response = self.client.get(place.url().clone()).send().await.map_err(|error| root_cause(&error))?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("the answer is {}", response.status().as_u16()));
        }
        let too_large = || format!("the answer is larger than {bytes_max} bytes");
        if response.content_length().is_some_and(|length| length > bytes_max as u64) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| root_cause(&error))? {
            if bytes.len() + chunk.len() > bytes_max {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// The innermost cause: it names system errors and certificates, and never the URL.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match error.is_timeout() {
        true => "it took too long".to_owned(),
        false => cause.to_string(),
    }
}

/// Resolves, judges all addresses, and hands exactly these to the connection: there is no second look-up that could
/// answer otherwise.
struct CheckedResolver {
    lookup: Lookup,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let looking = (self.lookup)(name.as_str().to_owned());
        Box::pin(async move {
            let addresses = looking.await?;
            // One private address among public ones is a trap, not a choice.
            if addresses.is_empty() || !addresses.iter().all(|address| is_public(address.ip())) {
                return Err("the name leads to an address that is not a public one".into());
            }
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}
