//! Settings of alarms (`[alarm]`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::HumanDuration;
use crate::config::secret::{SecretOrigin, SecretSource};

/// `[alarm]`: one message for each change for the worse or the better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlarmSettings {
    /// File with the URL that messages are posted to. Whoever knows the URL can post there: it is a secret.
    pub url_file: Option<PathBuf>,
    /// Name of a systemd credential with that URL.
    pub url_credential: Option<String>,
    /// Name of an environment variable with that URL.
    pub url_environment: Option<String>,
    /// What a message begins with, to tell installations apart.
    pub name: String,
    /// How long a service must be in trouble that it may get over by itself, before it is told.
    pub trouble_after: HumanDuration,
    /// How long something must be well again, before that is told.
    pub clear_after: HumanDuration,
}

impl AlarmSettings {
    /// Where the URL is kept; `None`: messages go to the log alone.
    pub fn source(&self) -> Option<SecretSource> {
        let file = self.url_file.clone().map(|path| ("url_file", SecretOrigin::File(path)));
        let credential = || self.url_credential.clone().map(|name| ("url_credential", SecretOrigin::Credential(name)));
        let environment =
            || self.url_environment.clone().map(|name| ("url_environment", SecretOrigin::Environment(name)));
        let (key, origin) = file.or_else(credential).or_else(environment)?;
        Some(SecretSource::new(format!("alarm.{key}"), origin))
    }
}
