//! One token request. The `oauth2` crate writes the form and reads the token; refusals are ours, because it hides
//! status, `Retry-After` and error numbers.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http::HeaderValue;
use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AccessToken, AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest,
    HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError,
    ResourceOwnerPassword, ResourceOwnerUsername, Scope, StandardRevocableToken, TokenResponse, TokenUrl,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};

use super::refusal::{self, Refusal};
use crate::http::settings::EndpointVersion;
use crate::http::transport::{Lost, Request, Wire as Carrier};
use crate::http::without_mark;
use crate::model::Timestamp;

/// Lifetime of an access token that does not say.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(600);

/// Longest code a person is asked to enter, in bytes; Entra ID gives nine letters.
const USER_CODE_BYTES_MAX: usize = 32;
/// Shortest pause between two looks at a device code, whatever the service says.
const DEVICE_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The pause when the service names none (RFC 8628 §3.2).
const DEVICE_INTERVAL_DEFAULT: Duration = Duration::from_secs(5);
/// Lifetime of a device code that does not say (partner-center §2.5).
const DEVICE_LIFETIME_DEFAULT: Duration = Duration::from_secs(900);

/// `oauth2`'s client with our token response.
type Endpoint = oauth2::Client<
    BasicErrorResponse,
    Wire,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
>;

/// Where and for what a token is asked.
#[derive(Clone, Debug)]
pub struct Target {
    /// The token endpoint.
    pub url: url::Url,
    /// Its version.
    pub version: EndpointVersion,
    /// What the token is for, without a slash at the end.
    pub audience: String,
    /// The application.
    pub client_id: String,
    /// How long one request may take.
    pub timeout: Duration,
}

/// What the application shows of itself.
pub enum Proof {
    /// Nothing: a public client.
    None,
    /// A secret.
    Secret(SecretString),
    /// A signed assertion.
    Assertion(String),
}

/// What is shown for the sign-in.
pub enum Grant<'a> {
    /// The application alone.
    ClientCredentials,
    /// A user's refresh token.
    RefreshToken(&'a SecretString),
    /// A user's name and password.
    Password(&'a str, &'a SecretString),
    /// The code that a person's browser brought to the redirect URI.
    AuthorizationCode {
        /// The code.
        code: &'a SecretString,
        /// What proves that we began this sign-in (PKCE).
        verifier: &'a SecretString,
        /// The redirect URI, to the letter as in the invitation.
        redirect: &'a str,
    },
}

/// An address at which a person signs in, and what its answer is recognised by.
pub struct Invitation {
    /// The address.
    pub url: url::Url,
    /// What the answer must repeat.
    pub state: SecretString,
    /// What the code is redeemed with (PKCE).
    pub verifier: SecretString,
    /// Where the answer goes.
    pub redirect: String,
}

/// Writes the address of the authorize endpoint (partner-center §2.5). `redirect` stays as it is written: the service
/// compares it letter by letter.
///
/// # Errors
/// When `redirect` is no URL.
pub fn invite(target: &Target, authorize: &url::Url, redirect: &str) -> Result<Invitation, String> {
    let redirect_url = RedirectUrl::new(redirect.to_owned()).map_err(|_| format!("{redirect} is no URL"))?;
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let endpoint = Endpoint::new(ClientId::new(target.client_id.clone()))
        .set_auth_uri(AuthUrl::from_url(authorize.clone()))
        .set_redirect_uri(redirect_url);
    let mut request = endpoint
        .authorize_url(CsrfToken::new_random)
        .set_pkce_challenge(challenge)
        .add_extra_param("response_mode", "query")
        // A session of yesterday may lack the second factor.
        .add_extra_param("prompt", "login");
    for (name, value) in parameters(target, None) {
        request = request.add_extra_param(name, value);
    }
    for scope in scopes(target, true) {
        request = request.add_scope(scope);
    }
    let (url, state) = request.url();
    Ok(Invitation {
        url,
        state: state.secret().as_str().into(),
        verifier: verifier.secret().as_str().into(),
        redirect: redirect.to_owned(),
    })
}

/// A device code, and what to tell the person.
pub struct DeviceCode {
    /// The code to ask with.
    pub code: SecretString,
    /// The code to enter.
    pub user_code: String,
    /// Where to enter it.
    pub address: url::Url,
    /// How long it lives.
    pub lifetime: Duration,
    /// Pause between two looks.
    pub interval: Duration,
}

/// The answer to the request for a device code (RFC 8628 §3.2). Not the one of `oauth2`, which takes no number written
/// as text: version 1 writes them so, and calls the address a URL (partner-center §2.2).
#[derive(Deserialize)]
struct DeviceWire {
    device_code: SecretString,
    user_code: String,
    #[serde(alias = "verification_url")]
    verification_uri: String,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: Option<u64>,
    #[serde(default, deserialize_with = "seconds")]
    interval: Option<u64>,
}

/// Asks for a device code (partner-center §2.5).
///
/// # Errors
/// See `NotGranted`.
pub async fn device_code(
    wire: &dyn Carrier,
    target: &Target,
    endpoint_url: &url::Url,
    now: Timestamp,
) -> Result<DeviceCode, NotGranted> {
    let asked = Target { url: endpoint_url.clone(), ..target.clone() };
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("client_id", &target.client_id).extend_pairs(parameters(target, None));
    if target.version == EndpointVersion::V2 {
        form.append_pair("scope", &scope_words(target));
    }
    let answer = Exchange { wire, target: &asked, now }.post(&form.finish()).await?;
    let details: DeviceWire = serde_json::from_slice(without_mark(answer.body())).map_err(|_| NotGranted::Malformed)?;
    let user_code = details.user_code;
    let is_plain = !user_code.is_empty()
        && user_code.len() <= USER_CODE_BYTES_MAX
        && user_code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let address = url::Url::parse(&details.verification_uri).ok().filter(|url| url.scheme() == "https");
    match (is_plain, address) {
        (true, Some(address)) => Ok(DeviceCode {
            code: details.device_code,
            user_code,
            address,
            lifetime: details.expires_in.map_or(DEVICE_LIFETIME_DEFAULT, Duration::from_secs),
            interval: details.interval.map_or(DEVICE_INTERVAL_DEFAULT, Duration::from_secs).max(DEVICE_INTERVAL_MIN),
        }),
        (_, _) => Err(NotGranted::Malformed),
    }
}

/// A new access token.
pub struct Granted {
    /// The token; header characters only.
    pub token: SecretString,
    /// How long it lives.
    pub lifetime: Duration,
    /// The refresh token that came with it.
    pub refresh_token: Option<SecretString>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum NotGranted {
    /// The endpoint said no.
    #[error("refused")]
    Refused(Refusal),
    /// There is no answer.
    #[error("no answer")]
    Lost(Lost),
    /// A success that holds no token that can be used.
    #[error("malformed")]
    Malformed,
}

/// Asks once.
///
/// # Errors
/// See `NotGranted`; nothing in it quotes the answer.
pub async fn ask(
    wire: &dyn Carrier,
    target: &Target,
    proof: &Proof,
    grant: &Grant<'_>,
    now: Timestamp,
) -> Result<Granted, NotGranted> {
    let send = Exchange { wire, target, now };
    let endpoint = Endpoint::new(ClientId::new(target.client_id.clone()))
        .set_auth_type(AuthType::RequestBody)
        .set_token_uri(TokenUrl::from_url(target.url.clone()));
    let (endpoint, assertion) = match proof {
        Proof::None => (endpoint, None),
        Proof::Secret(secret) => {
            (endpoint.set_client_secret(ClientSecret::new(secret.expose_secret().to_owned())), None)
        }
        Proof::Assertion(assertion) => (endpoint, Some(assertion.as_str())),
    };
    // Each request is a type of its own in `oauth2`; they share these parameters.
    macro_rules! complete {
        ($request:expr, $is_delegated:expr) => {{
            let mut request = $request;
            for (name, value) in parameters(target, assertion) {
                request = request.add_extra_param(name, value);
            }
            for scope in scopes(target, $is_delegated) {
                request = request.add_scope(scope);
            }
            request.request_async(&send).await
        }};
    }
    let answer = match grant {
        Grant::ClientCredentials => complete!(endpoint.exchange_client_credentials(), false),
        Grant::RefreshToken(token) => {
            let token = RefreshToken::new(token.expose_secret().to_owned());
            complete!(endpoint.exchange_refresh_token(&token), true)
        }
        Grant::Password(name, password) => {
            let name = ResourceOwnerUsername::new((*name).to_owned());
            let password = ResourceOwnerPassword::new(password.expose_secret().to_owned());
            complete!(endpoint.exchange_password(&name, &password), true)
        }
        Grant::AuthorizationCode { code, verifier, redirect } => {
            let redirect = RedirectUrl::new((*redirect).to_owned()).map_err(|_| NotGranted::Malformed)?;
            let code = AuthorizationCode::new(code.expose_secret().to_owned());
            let verifier = PkceCodeVerifier::new(verifier.expose_secret().to_owned());
            let endpoint = endpoint.set_redirect_uri(redirect);
            // The scopes stand in the code; this request of `oauth2` has none.
            let mut request = endpoint.exchange_code(code).set_pkce_verifier(verifier);
            for (name, value) in parameters(target, assertion) {
                request = request.add_extra_param(name, value);
            }
            if target.version == EndpointVersion::V2 {
                request = request.add_extra_param("scope", scope_words(target));
            }
            request.request_async(&send).await
        }
    };
    match answer {
        Ok(wire) => wire.into_granted(),
        Err(RequestTokenError::Request(reason)) => Err(reason),
        // These may quote the answer, tokens included.
        Err(RequestTokenError::Parse(..) | RequestTokenError::ServerResponse(_) | RequestTokenError::Other(_)) => {
            Err(NotGranted::Malformed)
        }
    }
}

/// Looks once whether the person of a device code has signed in. By hand: `oauth2` polls by itself, and takes every lost
/// answer and every refusal for a reason to go on.
///
/// # Errors
/// See `NotGranted`; `authorization_pending` and `slow_down` are refusals too.
pub async fn look(
    wire: &dyn Carrier,
    target: &Target,
    proof: &Proof,
    code: &SecretString,
    now: Timestamp,
) -> Result<Granted, NotGranted> {
    let (secret, assertion) = match proof {
        Proof::None => (None, None),
        Proof::Secret(secret) => (Some(secret), None),
        Proof::Assertion(assertion) => (None, Some(assertion.as_str())),
    };
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "urn:ietf:params:oauth:grant-type:device_code")
        .append_pair("client_id", &target.client_id)
        // Version 1 has another name for it.
        .append_pair(if target.version == EndpointVersion::V1 { "code" } else { "device_code" }, code.expose_secret())
        .extend_pairs(secret.map(|secret| ("client_secret", secret.expose_secret())))
        .extend_pairs(parameters(target, assertion));
    if target.version == EndpointVersion::V2 {
        form.append_pair("scope", &scope_words(target));
    }
    let answer = Exchange { wire, target, now }.post(&form.finish()).await?;
    serde_json::from_slice::<Wire>(without_mark(answer.body())).map_err(|_| NotGranted::Malformed)?.into_granted()
}

fn parameters<'a>(target: &'a Target, assertion: Option<&'a str>) -> Vec<(&'static str, &'a str)> {
    let mut parameters = Vec::new();
    if target.version == EndpointVersion::V1 {
        parameters.push(("resource", target.audience.as_str()));
    }
    if let Some(assertion) = assertion {
        parameters.push(("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"));
        parameters.push(("client_assertion", assertion));
    }
    parameters
}

fn scopes(target: &Target, is_delegated: bool) -> Vec<Scope> {
    let mut scopes = Vec::new();
    if target.version == EndpointVersion::V2 {
        scopes.push(Scope::new(format!("{}/.default", target.audience)));
        if is_delegated {
            scopes.push(Scope::new("offline_access".to_owned()));
        }
    }
    scopes
}

/// The scopes of a person's sign-in in one text.
fn scope_words(target: &Target) -> String {
    let words: Vec<String> = scopes(target, true).iter().map(|scope| scope.to_string()).collect();
    words.join(" ")
}

/// Our transport as the client of `oauth2`.
struct Exchange<'a> {
    wire: &'a dyn Carrier,
    target: &'a Target,
    now: Timestamp,
}

impl<'c> AsyncHttpClient<'c> for Exchange<'_> {
    type Error = NotGranted;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, NotGranted>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

impl Exchange<'_> {
    /// Sends a form that `oauth2` did not write.
    async fn post(&self, form: &str) -> Result<HttpResponse, NotGranted> {
        let mut request = HttpRequest::new(form.as_bytes().to_vec());
        *request.method_mut() = http::Method::POST;
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(http::header::CONTENT_TYPE, form);
        self.send(request).await
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, NotGranted> {
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
            headers.insert("client-request-id", id);
        }
        let request = Request {
            method: parts.method,
            url: self.target.url.clone(),
            headers,
            body: Some(body.into()),
            timeout: self.target.timeout,
        };
        let response = self.wire.send(request).await.map_err(NotGranted::Lost)?;
        if !response.status.is_success() {
            let refusal = refusal::read(response.status, &response.headers, &response.body, self.now);
            return Err(NotGranted::Refused(refusal));
        }
        let mut answer = HttpResponse::new(response.body.to_vec());
        *answer.headers_mut() = response.headers;
        Ok(answer)
    }
}

/// The token answer: v1 writes numbers as text (partner-center §2.2).
#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    access_token: AccessToken,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: Option<u64>,
    #[serde(default)]
    refresh_token: Option<RefreshToken>,
    #[serde(skip, default = "bearer")]
    token_type: BasicTokenType,
}

impl Wire {
    fn into_granted(self) -> Result<Granted, NotGranted> {
        let token = self.access_token.secret();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NotGranted::Malformed);
        }
        Ok(Granted {
            token: token.as_str().into(),
            lifetime: self.expires_in().unwrap_or(LIFETIME_DEFAULT),
            refresh_token: self
                .refresh_token
                .filter(|token| !token.secret().is_empty())
                .map(|token| token.secret().as_str().into()),
        })
    }
}

impl TokenResponse for Wire {
    type TokenType = BasicTokenType;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &BasicTokenType {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in.map(Duration::from_secs)
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

fn bearer() -> BasicTokenType {
    BasicTokenType::Bearer
}

/// A number, written as number or text; anything else counts as absent.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Ok(text.trim().parse().ok())
}
