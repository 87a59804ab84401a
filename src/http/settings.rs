//! Settings of the client stack and of sign-in, shared by both adapters.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::pace::Protection;
use crate::config::HumanDuration;

/// How requests travel (`[http]`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// `User-Agent` of every request.
    pub user_agent: String,
    /// PEM file with further root certificates, for a proxy that breaks TLS or a private authority.
    pub extra_roots_file: Option<PathBuf>,
    /// Proxy URL for all requests; absent: the usual environment variables.
    pub proxy: Option<url::Url>,
    /// How long connecting may take.
    pub connect_timeout: HumanDuration,
    /// How long one read may take, answer included.
    pub read_timeout: HumanDuration,
    /// How long one write may take, answer included.
    pub write_timeout: HumanDuration,
    /// Largest answer accepted, in bytes.
    pub response_bytes_max: u64,
    /// Attempts of one call, the first included.
    pub attempts_max: u32,
    /// First pause between attempts; doubles with full jitter.
    pub retry_delay: HumanDuration,
    /// Longest pause between attempts.
    pub retry_delay_max: HumanDuration,
    /// The longest `Retry-After` a call waits out itself; a longer one ends the call and closes the service.
    pub retry_after_wait_max: HumanDuration,
}

/// How one service is spoken to (`requests_per_minute`, `in_flight_max` of its section).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimitSettings {
    /// Requests per minute; steady rate.
    pub requests_per_minute: u32,
    /// Requests at once.
    pub in_flight_max: u32,
    /// What the service is documented to protect itself with.
    pub protection: Option<Protection>,
}

/// Sign-in to one service (`[….auth]`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    /// Entra ID.
    pub authority: url::Url,
    /// Directory (tenant) id; never `common`.
    pub tenant_id: Option<String>,
    /// Application (client) id.
    pub client_id: Option<String>,
    /// File with the client secret.
    pub client_secret_file: Option<PathBuf>,
    /// Name of a systemd credential with the client secret.
    pub client_secret_credential: Option<String>,
    /// Name of an environment variable with the client secret.
    pub client_secret_environment: Option<String>,
    /// The day on which the client secret ends, as in `2027-05-01`: no service tells it to who signs in with it.
    pub client_secret_expires: Option<String>,
    /// PEM file with the client certificate.
    pub certificate_file: Option<PathBuf>,
    /// PEM file (PKCS#8) with its private key.
    pub private_key_file: Option<PathBuf>,
    /// How a token is obtained.
    pub grant: Grant,
    /// File with the first refresh token; read at start and whenever its content changes.
    pub refresh_token_file: Option<PathBuf>,
    /// Name of a systemd credential with the first refresh token.
    pub refresh_token_credential: Option<String>,
    /// User name of the password grant.
    pub username: Option<String>,
    /// File with the password of the password grant.
    pub password_file: Option<PathBuf>,
    /// Which token endpoint.
    pub endpoint_version: EndpointVersion,
    /// What the token is for; absent: derived from the service's URL.
    pub audience: Option<String>,
}

impl AuthSettings {
    /// True when the application shows a client secret.
    pub fn has_client_secret(&self) -> bool {
        self.client_secret_file.is_some()
            || self.client_secret_credential.is_some()
            || self.client_secret_environment.is_some()
    }
}

/// How a token is obtained (partner-center §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// Delegated, seeded once by a person.
    RefreshToken,
    /// The application itself.
    ClientCredentials,
    /// User name and password: a compatibility mode that MFA breaks.
    Password,
}

/// Token endpoint version (partner-center §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointVersion {
    /// `resource=`.
    V1,
    /// `scope=`.
    V2,
}
