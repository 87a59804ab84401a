//! One request on the wire and nothing more: no redirects, no cookies, no silent repetition, a bounded answer.

use std::error::Error as _;
use std::sync::Once;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use url::{Host, Url};

use super::settings::HttpSettings;

/// Connections kept open per service.
const IDLE_CONNECTIONS_MAX: usize = 32;
/// How long an idle connection is kept.
const IDLE_CONNECTION_TIME: Duration = Duration::from_secs(60);

/// Installs the process-wide cryptography of rustls; harmless when repeated.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that one is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A client or a sign-in that cannot be built from its settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct SetupError {
    /// What is wrong, with which setting, and what to do.
    pub reason: String,
}

impl SetupError {
    /// A setup error with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        SetupError { reason: reason.into() }
    }
}

/// What carries single requests to one scheme, host and port: sockets, or a simulator in the same process.
#[async_trait]
pub trait Wire: Send + Sync {
    /// Says why `url` may not be called, if so.
    fn refuse(&self, url: &Url) -> Option<String>;

    /// Sends one request once.
    ///
    /// # Errors
    /// When there is no whole answer. An answer with an error status is no error here.
    async fn send(&self, request: Request) -> Result<Response, Lost>;
}

/// Says why a wire to `base` must not carry a request to `url`, if so: what is sent there carries a token.
pub fn refuse(base: &Url, url: &Url) -> Option<String> {
    if url.origin() != base.origin() {
        let host = url.host_str().unwrap_or("no host");
        return Some(format!(
            "the URL points to {}://{host}, but only {} is configured; nothing was sent",
            url.scheme(),
            base.origin().ascii_serialization()
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("the URL carries a user name; nothing was sent".to_owned());
    }
    None
}

/// The wire that is made of sockets.
pub struct Transport {
    client: reqwest::Client,
    base: Url,
    body_bytes_max: usize,
}

/// One request.
pub struct Request {
    /// The method.
    pub method: Method,
    /// The URL; refused unless it has the transport's scheme, host and port.
    pub url: Url,
    /// All headers but those of the connection.
    pub headers: HeaderMap,
    /// The body.
    pub body: Option<Bytes>,
    /// How long all of it may take, answer included.
    pub timeout: Duration,
}

/// One answer, whatever its status.
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; empty when the body of a refusal could not be read, for its status says enough.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Surely nothing was sent: no connection.
    NotSent(String),
    /// Refused by ourselves before sending.
    Forbidden(String),
    /// The time was over.
    TimedOut,
    /// The connection broke after something may have been sent.
    Broken(String),
    /// A success whose body is larger than allowed.
    TooLarge(StatusCode),
}

impl Transport {
    /// Prepares connections to the scheme, host and port of `base`.
    ///
    /// # Errors
    /// When `base` is plain http to somewhere else than this machine, or proxy or root certificates cannot be used.
    pub fn new(base: &Url, settings: &HttpSettings) -> Result<Self, SetupError> {
        install_crypto();
        check_base(base)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(&settings.user_agent)
            .connect_timeout(settings.connect_timeout.get())
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_CONNECTION_TIME);
        if is_loopback(base) {
            // A proxy has a loopback of its own.
            builder = builder.no_proxy();
        } else if let Some(url) = &settings.proxy {
            let proxy = reqwest::Proxy::all(url.clone())
                .map_err(|error| SetupError::new(format!("http.proxy cannot be used: {}", root_cause(&error))))?;
            builder = builder.proxy(proxy);
        }
        if let Some(path) = &settings.extra_roots_file {
            let refuse = |reason: String| {
                SetupError::new(format!("http.extra_roots_file: {} cannot be used: {reason}", path.display()))
            };
            let pem = crate::config::secret::read_limited(path).map_err(refuse)?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| refuse(root_cause(&error)))?;
            if roots.is_empty() {
                return Err(refuse("it holds no PEM certificate".to_owned()));
            }
            builder = builder.tls_certs_merge(roots);
        }
        let client = builder
            .build()
            .map_err(|error| SetupError::new(format!("the HTTP client cannot be built: {}", root_cause(&error))))?;
        let body_bytes_max = usize::try_from(settings.response_bytes_max).unwrap_or(usize::MAX);
        Ok(Transport { client, base: base.clone(), body_bytes_max })
    }

    /// Reads the body; `Err(None)` when it is too large.
    async fn body(&self, mut response: reqwest::Response) -> Result<Bytes, Option<Lost>> {
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| Some(lost(error)))? {
            if body.len() + chunk.len() > self.body_bytes_max {
                return Err(None);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

#[async_trait]
impl Wire for Transport {
    fn refuse(&self, url: &Url) -> Option<String> {
        refuse(&self.base, url)
    }

    async fn send(&self, request: Request) -> Result<Response, Lost> {
        if let Some(reason) = self.refuse(&request.url) {
            return Err(Lost::Forbidden(reason));
        }
        let mut builder =
            self.client.request(request.method, request.url).headers(request.headers).timeout(request.timeout);
        if let Some(body) = request.body {
            builder = builder.body(body);
        }
        let mut response = builder.send().await.map_err(lost)?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        match self.body(response).await {
            Ok(body) => Ok(Response { status, headers, body }),
            // The status of a refusal must not be masked by what became of its body.
            Err(_) if !status.is_success() => Ok(Response { status, headers, body: Bytes::new() }),
            Err(Some(lost)) => Err(lost),
            Err(None) => Err(Lost::TooLarge(status)),
        }
    }
}

fn lost(error: reqwest::Error) -> Lost {
    if error.is_builder() {
        Lost::Forbidden("the request could not be built; nothing was sent".to_owned())
    } else if error.is_connect() {
        Lost::NotSent(root_cause(&error))
    } else if error.is_timeout() {
        Lost::TimedOut
    } else {
        Lost::Broken(root_cause(&error))
    }
}

/// The innermost cause: it names system errors and certificates, and never the URL.
fn root_cause(error: &reqwest::Error) -> String {
    let Some(mut cause) = error.source() else {
        return "no reason given".to_owned();
    };
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Checks a configured URL.
///
/// # Errors
/// When it is neither https nor http to this machine, or carries a user name.
pub fn check_base(base: &Url) -> Result<(), SetupError> {
    if !base.username().is_empty() || base.password().is_some() {
        return Err(SetupError::new("a service's URL must not carry a user name or password"));
    }
    match base.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(base) => Ok(()),
        "http" => {
            Err(SetupError::new(format!("{base} is plain http, which is for loopback addresses only; use https")))
        }
        other => Err(SetupError::new(format!("{base}: the scheme {other} is not supported; use https"))),
    }
}

/// Whether a URL points to this machine: 127.0.0.0/8, ::1 or localhost.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for (text, is_fine) in [
            ("https://contoso.crm4.dynamics.com", true),
            ("http://127.0.0.1:8080/", true),
            ("http://127.9.9.9/", true),
            ("http://[::1]:1/", true),
            ("http://localhost:1/", true),
            ("http://localhost.example.com/", false),
            ("http://10.0.0.1/", false),
            ("http://example.com/", false),
            ("http://[::ffff:10.0.0.1]/", false),
            ("ftp://127.0.0.1/", false),
            ("https://user:secret@example.com/", false),
        ] {
            let url = Url::parse(text).expect("a URL");
            let result = check_base(&url);
            assert_eq!(result.is_ok(), is_fine, "{text}");
            assert!(!result.is_err_and(|error| error.to_string().contains("secret")));
        }
    }
}
