//! What the configuration says about signing in, checked, and how its parts are named in messages.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::assertion::{self, Identity};
use super::grant::Proof;
use super::keep::hex_sha256;
use super::refusal::Refusal;
use crate::config::secret::{SecretOrigin, SecretSource, exposure, read_limited};
use crate::http::settings::{AuthSettings, EndpointVersion, Grant};
use crate::http::transport::{SetupError, check_base};
use crate::model::Timestamp;

/// Tenants that are none: which directory signs in must be certain (partner-center §2.2).
const VAGUE_TENANTS: [&str; 3] = ["common", "organizations", "consumers"];

/// Sign-in settings in which nothing is missing and nothing contradicts itself.
pub struct Credentials {
    section: String,
    /// How a token is obtained.
    pub grant: Grant,
    /// The directory.
    pub tenant: String,
    /// The application.
    pub client_id: String,
    /// Where the service signs in.
    pub authority: url::Url,
    application: Application,
    /// The configured refresh token.
    pub seed: Option<SecretSource>,
    user: Option<(String, SecretSource)>,
}

/// How the application shows what it is.
enum Application {
    Public,
    Secret(SecretSource),
    Certificate { certificate: PathBuf, key: PathBuf },
}

impl Credentials {
    /// Checks the settings of `section`, for example `dataverse.auth`.
    ///
    /// # Errors
    /// All problems at once, each with its key.
    pub fn new(section: &str, auth: &AuthSettings) -> Result<Self, SetupError> {
        let key = |name: &str| format!("{section}.{name}");
        let mut problems = Vec::new();
        if let Err(error) = check_base(&auth.authority) {
            problems.push(format!("{}: {error}", key("authority")));
        }
        let tenant = auth.tenant_id.clone().unwrap_or_default();
        if tenant.is_empty() {
            problems.push(format!("{} is missing: the directory (tenant) id", key("tenant_id")));
        } else if VAGUE_TENANTS.contains(&tenant.to_lowercase().as_str()) {
            problems.push(format!("{}: \"{tenant}\" is no directory; give the tenant's own id", key("tenant_id")));
        } else if !tenant.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.') {
            problems.push(format!("{} is neither an id nor a domain name", key("tenant_id")));
        }
        let client_id = auth.client_id.clone().unwrap_or_default();
        if client_id.is_empty() {
            problems.push(format!("{} is missing: the application (client) id", key("client_id")));
        }
        let application = application(&key, auth).unwrap_or_else(|problem| {
            problems.push(problem);
            Application::Public
        });
        let is_public = matches!(application, Application::Public);
        if auth.grant == Grant::ClientCredentials && is_public && problems.is_empty() {
            problems.push(format!(
                "{} is missing: client credentials need a client secret or a certificate",
                key("client_secret_file")
            ));
        }
        let seed = seed(&key, auth).unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        let user = match (&auth.username, &auth.password_file) {
            (Some(name), Some(path)) => {
                Some((name.clone(), SecretSource::new(key("password_file"), SecretOrigin::File(path.clone()))))
            }
            (_, _) => None,
        };
        if auth.grant == Grant::Password && user.is_none() {
            problems.push(format!("{} and {} are needed by the password grant", key("username"), key("password_file")));
        }
        if !problems.is_empty() {
            return Err(SetupError::new(problems.join("; ")));
        }
        let (section, authority) = (section.to_owned(), auth.authority.clone());
        Ok(Credentials { section, grant: auth.grant, tenant, client_id, authority, application, seed, user })
    }

    /// The token endpoint of this version.
    pub fn token_url(&self, version: EndpointVersion) -> url::Url {
        self.endpoint_url(version, "token")
    }

    /// An endpoint of this version: `token`, `authorize` or `devicecode` (partner-center §2.2).
    pub fn endpoint_url(&self, version: EndpointVersion, name: &str) -> url::Url {
        let mut url = self.authority.clone();
        url.set_query(None);
        url.set_fragment(None);
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(&self.tenant).push("oauth2");
            if version == EndpointVersion::V2 {
                path.push("v2.0");
            }
            path.push(name);
        }
        url
    }

    /// Reads what the application shows; a new assertion for every request.
    ///
    /// # Errors
    /// What cannot be read and what to do.
    pub fn proof(&self, token_url: &url::Url, now: Timestamp) -> Result<Proof, String> {
        match &self.application {
            Application::Public => Ok(Proof::None),
            Application::Secret(source) => source.read().map(Proof::Secret).map_err(|error| error.to_string()),
            Application::Certificate { certificate, key } => {
                let identity = Identity::read(
                    &self.file("private_key_file", key)?,
                    &self.file("certificate_file", certificate)?,
                    &key.display().to_string(),
                    &certificate.display().to_string(),
                )?;
                if identity.not_after < now {
                    return Err(format!(
                        "the certificate in {} ended on {}; make a new one and register it with the application",
                        certificate.display(),
                        identity.not_after
                    ));
                }
                Ok(Proof::Assertion(identity.assertion(&self.client_id, token_url.as_str(), now)))
            }
        }
    }

    /// Name and password of the password grant.
    ///
    /// # Errors
    /// What cannot be read and what to do.
    pub fn user(&self) -> Result<(&str, SecretString), String> {
        let (name, source) = self.user.as_ref().ok_or("the password grant has no user")?;
        Ok((name, source.read().map_err(|error| error.to_string())?))
    }

    /// The end of the certificate, if there is one that can be read.
    pub fn certificate_not_after(&self) -> Option<Timestamp> {
        let Application::Certificate { certificate, .. } = &self.application else { return None };
        assertion::not_after(&read_limited(certificate).ok()?, "the certificate").ok()
    }

    /// True when the application shows nothing of itself: a public client.
    pub fn is_public(&self) -> bool {
        matches!(self.application, Application::Public)
    }

    /// A digest of everything secret that is configured: a change makes another try worth while.
    pub fn digest(&self) -> String {
        let mut parts = Vec::new();
        let mut note = |bytes: &[u8]| parts.push(hex_sha256(bytes));
        let sources = [
            self.seed.as_ref(),
            self.user.as_ref().map(|user| &user.1),
            match &self.application {
                Application::Secret(source) => Some(source),
                Application::Public | Application::Certificate { .. } => None,
            },
        ];
        for source in sources.into_iter().flatten() {
            note(source.read().as_ref().map_or(b"", |secret| secrecy::ExposeSecret::expose_secret(secret).as_bytes()));
        }
        if let Application::Certificate { certificate, key } = &self.application {
            note(&read_limited(certificate).unwrap_or_default());
            note(&read_limited(key).unwrap_or_default());
        }
        parts.join(" ")
    }

    /// Warnings about files that others can read.
    pub fn exposures(&self) -> Vec<String> {
        let mut sources: Vec<&SecretSource> = self.seed.iter().chain(self.user.iter().map(|user| &user.1)).collect();
        let mut warnings = Vec::new();
        match &self.application {
            Application::Public => {}
            Application::Secret(source) => sources.push(source),
            Application::Certificate { key, .. } => {
                warnings.extend(exposure(&format!("{}.private_key_file", self.section), key));
            }
        }
        warnings.extend(sources.into_iter().filter_map(SecretSource::exposure));
        warnings
    }

    /// The refusal's sentence, its placeholders filled in.
    pub fn sentence(&self, refusal: &Refusal, audience: &str) -> String {
        self.sentence_with(refusal, audience, &self.renewal())
    }

    /// As [`Credentials::sentence`], with another way to a new sign-in.
    pub fn sentence_with(&self, refusal: &Refusal, audience: &str, renewal: &str) -> String {
        refusal
            .sentence
            .replace("{renew}", renewal)
            .replace("{secret}", &self.secret_place())
            .replace("{certificate}", &self.certificate_place())
            .replace("{password}", &self.password_place())
            .replace("{audience}", audience)
            .replace("{tenant}", &self.tenant)
            .replace("{client}", &self.client_id)
            .replace("{section}", &self.section)
    }

    /// What to do for a new sign-in.
    pub fn renewal(&self) -> String {
        match (self.grant, &self.seed) {
            (Grant::RefreshToken, Some(seed)) => format!(
                "run `{}`, or put a fresh refresh token into {} ({})",
                login_command(&self.section),
                seed.place(),
                seed.key
            ),
            (Grant::RefreshToken, None) => format!("run `{}`", login_command(&self.section)),
            (Grant::ClientCredentials, _) => "let an administrator look at the application's sign-in logs".to_owned(),
            (Grant::Password, _) => format!(
                "a password alone does not suffice; set {}.grant to \"refresh_token\" and give a refresh token",
                self.section
            ),
        }
    }

    fn file(&self, name: &str, path: &Path) -> Result<Vec<u8>, String> {
        read_limited(path)
            .map_err(|reason| format!("{}.{name}: cannot read {}: {reason}", self.section, path.display()))
    }

    fn secret_place(&self) -> String {
        match &self.application {
            Application::Secret(source) => format!("{} ({})", source.place(), source.key),
            Application::Public => format!("{}.client_secret_file", self.section),
            Application::Certificate { .. } => self.certificate_place(),
        }
    }

    fn certificate_place(&self) -> String {
        match &self.application {
            Application::Certificate { certificate, .. } => {
                format!("{} ({}.certificate_file)", certificate.display(), self.section)
            }
            Application::Public | Application::Secret(_) => format!("{}.certificate_file", self.section),
        }
    }

    fn password_place(&self) -> String {
        match &self.user {
            Some((_, source)) => format!("{} ({})", source.place(), source.key),
            None => format!("{}.password_file", self.section),
        }
    }
}

/// What to type for a new sign-in of a section of the configuration.
pub fn login_command(section: &str) -> &'static str {
    match section {
        "dataverse.auth" => "referrald login --side dataverse",
        "partner_center.webhook_auth" => "referrald login --side webhook",
        _ => "referrald login",
    }
}

fn application(key: &impl Fn(&str) -> String, auth: &AuthSettings) -> Result<Application, String> {
    let mut found = Vec::new();
    let mut source = |name: &str, origin: Option<SecretOrigin>| {
        found.extend(origin.map(|origin| Application::Secret(SecretSource::new(key(name), origin))));
    };
    source("client_secret_file", auth.client_secret_file.clone().map(SecretOrigin::File));
    source("client_secret_credential", auth.client_secret_credential.clone().map(SecretOrigin::Credential));
    source("client_secret_environment", auth.client_secret_environment.clone().map(SecretOrigin::Environment));
    match (&auth.certificate_file, &auth.private_key_file) {
        (Some(certificate), Some(private_key)) => {
            found.push(Application::Certificate { certificate: certificate.clone(), key: private_key.clone() });
        }
        (Some(_), None) => return Err(format!("{} is missing: the key of the certificate", key("private_key_file"))),
        (None, Some(_)) => return Err(format!("{} is missing: the certificate of the key", key("certificate_file"))),
        (None, None) => {}
    }
    match (found.pop(), found.is_empty()) {
        (None, _) => Ok(Application::Public),
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(format!(
            "{} and its siblings: give one of client_secret_file, client_secret_credential, client_secret_environment, or certificate_file with private_key_file",
            key("client_secret_file")
        )),
    }
}

fn seed(key: &impl Fn(&str) -> String, auth: &AuthSettings) -> Result<Option<SecretSource>, String> {
    match (&auth.refresh_token_file, &auth.refresh_token_credential) {
        (Some(_), Some(_)) => {
            Err(format!("{} and refresh_token_credential: give one of them", key("refresh_token_file")))
        }
        (Some(path), None) => Ok(Some(SecretSource::new(key("refresh_token_file"), SecretOrigin::File(path.clone())))),
        (None, Some(name)) => {
            Ok(Some(SecretSource::new(key("refresh_token_credential"), SecretOrigin::Credential(name.clone()))))
        }
        (None, None) => Ok(None),
    }
}
