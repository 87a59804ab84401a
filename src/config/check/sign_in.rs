//! Rules about signing in: who we are, and where the secrets are kept.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::key::KeyPath;
use super::super::problem::Severity;
use super::Rules;
use crate::config::unit::Unit;
use crate::http::settings::{AuthSettings, Grant};
use crate::model::Timestamp;

/// What a file is expected to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// One secret.
    Secret,
    /// A refresh token that may have been kept already.
    Seed,
    /// PEM certificates.
    Certificate,
    /// A PEM private key, PKCS#8.
    PrivateKey,
}

/// Only the beginning of a file is looked at, in bytes.
const SNIFF_BYTES: u64 = 64 * 1024;

impl Rules<'_> {
    pub(super) fn sign_in(&mut self, section: &str, auth: &AuthSettings, is_portal: bool) {
        let section = KeyPath::from(section);
        let needed = self.needed_for_writing();
        self.who(&section, auth, needed);
        self.secret_sources(&section, auth);

        self.secret_end(&section, auth);
        let has_secret = auth.has_client_secret();
        let has_certificate = auth.certificate_file.is_some() && auth.private_key_file.is_some();
        match auth.grant {
            Grant::ClientCredentials => {
                if is_portal {
                    self.warning(
                        section.child("grant"),
                        "the referrals API refuses applications, it wants a signed-in user",
                        "use \"refresh_token\", and run `referrald login` once",
                    );
                }
                if !has_secret && !has_certificate {
                    self.find(
                        needed,
                        section.child("client_secret_file"),
                        "no credential: the application cannot sign in".to_owned(),
                        "set client_secret_file, client_secret_credential or client_secret_environment, or \
                         certificate_file and private_key_file"
                            .to_owned(),
                    );
                }
            }
            Grant::RefreshToken => {
                let has_seed = auth.refresh_token_file.is_some() || auth.refresh_token_credential.is_some();
                if !has_seed && !self.has_kept_token() {
                    self.warning(
                        section.child("refresh_token_file"),
                        "no refresh token yet: nobody has signed in",
                        "run `referrald login` when the rest is in order",
                    );
                }
            }
            Grant::Password => {
                self.warning(
                    section.child("grant"),
                    "PASSWORD SIGN-IN IS A STOPGAP: it stops working as soon as the tenant enforces MFA, and a wrong \
                     password can lock the account",
                    "use \"refresh_token\", and run `referrald login` once",
                );
                for (key, is_set) in
                    [("username", auth.username.is_some()), ("password_file", auth.password_file.is_some())]
                {
                    if !is_set {
                        self.error(
                            section.child(key),
                            "not set, and grant = \"password\" needs it",
                            format!("set {key}"),
                        );
                    }
                }
            }
        }
    }

    /// The end of the client secret that is written down; `webhook_auth` is judged by this as well.
    pub(super) fn secret_end(&mut self, section: &KeyPath, auth: &AuthSettings) {
        let Some(text) = &auth.client_secret_expires else { return };
        let key = section.child("client_secret_expires");
        match Timestamp::parse(text) {
            None => self.error(key, "this is no day", "write it as in \"2027-05-01\""),
            Some(_) if !auth.has_client_secret() => {
                self.warning(
                    key,
                    "there is no client secret that could end",
                    "take it out, a certificate tells its end itself",
                );
            }
            Some(end) if end < Timestamp::from(jiff::Timestamp::now()) => {
                self.warning(key, "the client secret has ended", "make a new one, and write down when that one ends");
            }
            Some(_) => {}
        }
    }

    fn who(&mut self, section: &KeyPath, auth: &AuthSettings, needed: Severity) {
        for (key, value) in [("tenant_id", &auth.tenant_id), ("client_id", &auth.client_id)] {
            let is_tenant = key == "tenant_id";
            let key = section.child(key);
            let Some(value) = value else {
                let remedy = match is_tenant {
                    true => "set it to the directory id shown in the Entra admin centre",
                    false => "set it to the application id of the app registration",
                };
                self.find(needed, key, "not set: nobody can sign in".to_owned(), remedy.to_owned());
                continue;
            };
            let is_word = value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
                && value.chars().any(|c| c.is_ascii_alphanumeric());
            let is_guid = uuid::Uuid::try_parse(value).is_ok();
            if ["common", "organizations", "consumers"].contains(&value.to_lowercase().as_str()) && is_tenant {
                self.error(
                    key,
                    "the shared endpoint does not work for a daemon",
                    "write the id of your own directory, a GUID, not a word for all of them",
                );
            } else if !is_word {
                self.error(key, "this is no id", "write a GUID, as in \"11111111-2222-4333-8444-555555555555\"");
            } else if !(is_guid || is_tenant && value.contains('.')) {
                self.warning(key, "this does not look like an id", "a GUID is expected here");
            }
        }
    }

    fn secret_sources(&mut self, section: &KeyPath, auth: &AuthSettings) {
        let secrets = [
            ("client_secret_file", auth.client_secret_file.is_some()),
            ("client_secret_credential", auth.client_secret_credential.is_some()),
            ("client_secret_environment", auth.client_secret_environment.is_some()),
            ("certificate_file", auth.certificate_file.is_some()),
        ];
        let set: Vec<&str> = secrets.iter().filter(|(_, is_set)| *is_set).map(|(key, _)| *key).collect();
        if let [first, others @ ..] = set.as_slice()
            && !others.is_empty()
        {
            self.error(
                section.child(*first),
                format!("the application has more than one credential: {}", set.join(", ")),
                "keep one of them",
            );
        }
        if auth.refresh_token_file.is_some() && auth.refresh_token_credential.is_some() {
            self.error(
                section.child("refresh_token_file"),
                "the first refresh token has two places: refresh_token_file, refresh_token_credential",
                "keep one of them",
            );
        }
        let halves = [
            ("certificate_file", auth.certificate_file.is_some(), "private_key_file", auth.private_key_file.is_some()),
            ("private_key_file", auth.private_key_file.is_some(), "certificate_file", auth.certificate_file.is_some()),
        ];
        for (half, is_set, other, has_other) in halves {
            if is_set && !has_other {
                self.error(section.child(half), format!("of no use without {other}"), format!("set {other} as well"));
            }
        }
        for (key, file, kind) in [
            ("client_secret_file", &auth.client_secret_file, FileKind::Secret),
            ("password_file", &auth.password_file, FileKind::Secret),
            ("refresh_token_file", &auth.refresh_token_file, FileKind::Seed),
            ("certificate_file", &auth.certificate_file, FileKind::Certificate),
            ("private_key_file", &auth.private_key_file, FileKind::PrivateKey),
        ] {
            if let Some(file) = file {
                self.file(section.child(key), file, kind);
            }
        }
        for (key, name) in [
            ("client_secret_credential", &auth.client_secret_credential),
            ("refresh_token_credential", &auth.refresh_token_credential),
        ] {
            if let Some(name) = name {
                self.credential(section.child(key), name);
            }
        }
        if let Some(variable) = &auth.client_secret_environment
            && self.environment.get(variable).is_none_or(String::is_empty)
        {
            self.warning(
                section.child("client_secret_environment"),
                "the variable it names is not set in this environment",
                "set it for the service, for example with EnvironmentFile= in the unit",
            );
        }
    }

    pub(super) fn credential(&mut self, key: KeyPath, name: &str) {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            self.error(key, "this is no name of a credential", "write the name that LoadCredential= gives it");
            return;
        }
        let unit = Unit::of_this_process();
        match self.environment.get("CREDENTIALS_DIRECTORY") {
            None if unit.credential(Path::new("/"), name).is_some() => {}
            None => self.warning(
                key,
                "cannot be checked here: only the service sees its credentials",
                format!("make sure that the unit {unit}.service has LoadCredential={name}:…"),
            ),
            Some(directory) if !Path::new(directory).join(name).is_file() => {
                self.error(
                    key,
                    "systemd passed no such credential",
                    format!("add LoadCredential={name}:… to the unit"),
                );
            }
            Some(_) => {}
        }
    }

    /// A file that a key names: there, readable, and plausibly what it should be.
    pub(super) fn file(&mut self, key: impl Into<KeyPath>, path: &Path, kind: FileKind) {
        let key = key.into();
        let holds_secret = matches!(kind, FileKind::Secret | FileKind::Seed | FileKind::PrivateKey);
        // Someone may have written the secret itself where its file's name belongs.
        let shown = match holds_secret && !path.to_string_lossy().contains('/') {
            true => "the file".to_owned(),
            false => format!("{}", path.display().to_string().escape_debug()),
        };
        let begin = std::fs::File::open(path).and_then(|file| {
            use std::io::Read;
            let mut bytes = Vec::new();
            let mode = file.metadata()?.permissions().mode();
            file.take(SNIFF_BYTES).read_to_end(&mut bytes)?;
            Ok((bytes, mode))
        });
        let (bytes, mode) = match begin {
            Ok(found) => found,
            Err(error) => {
                let severity = match kind {
                    FileKind::Seed if self.has_kept_token() => return,
                    FileKind::Seed => Severity::Warning,
                    FileKind::Secret | FileKind::Certificate | FileKind::PrivateKey => Severity::Error,
                };
                let is_kept_from_us = error.kind() == std::io::ErrorKind::PermissionDenied;
                let remedy = match holds_secret {
                    // Secrets are not for everybody: whoever types a command has forgotten something, not the file.
                    true if is_kept_from_us => {
                        "run it as root, with sudo; the daemon's user has to be able to read it, too"
                    }
                    true => "name the file that holds the secret, readable for the daemon's user",
                    false => "name an existing file, readable for the daemon's user",
                };
                let reason = match error.kind() {
                    std::io::ErrorKind::NotFound => "does not exist".to_owned(),
                    _ => format!("cannot be read: {error}"),
                };
                self.find(severity, key, format!("{shown} {reason}"), remedy.to_owned());
                return;
            }
        };
        if holds_secret && mode & 0o004 != 0 {
            self.warning(key.clone(), format!("{shown} is readable for everyone"), "chmod o-rwx it");
        }
        let has = |marker: &str| bytes.windows(marker.len()).any(|window| window == marker.as_bytes());
        match kind {
            FileKind::Secret | FileKind::Seed => {
                if bytes.iter().all(u8::is_ascii_whitespace) {
                    self.error(key, format!("{shown} is empty"), "put the secret into it, on one line");
                }
            }
            FileKind::Certificate => {
                if !has("-----BEGIN CERTIFICATE-----") {
                    self.error(
                        key,
                        format!("{shown} holds no PEM certificate"),
                        "convert it: openssl x509 -inform DER -in FILE -out FILE.pem",
                    );
                }
            }
            FileKind::PrivateKey => {
                if !has("-----BEGIN PRIVATE KEY-----") {
                    self.error(
                        key,
                        format!("{shown} holds no PEM private key in the form PKCS#8"),
                        "convert it: openssl pkcs8 -topk8 -nocrypt -in FILE -out FILE.pem",
                    );
                }
            }
        }
    }

    /// A rotated token lies in the state directory.
    fn has_kept_token(&self) -> bool {
        let keep = self.settings.state.directory.join("keep");
        let Ok(files) = std::fs::read_dir(keep) else { return false };
        files.filter_map(Result::ok).any(|file| file.file_name().to_string_lossy().contains("token"))
    }
}
