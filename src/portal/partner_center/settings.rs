//! Settings of the referrals side (`[partner_center]`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::http::settings::{AuthSettings, Grant, LimitSettings};

/// `[partner_center]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartnerCenterSettings {
    /// Host of the referrals API; `/v1.0/engagements/referrals` is added.
    pub base_url: url::Url,
    /// Host of the webhook registration API.
    pub webhook_api_url: url::Url,
    /// Pages of one scan at most.
    pub pages_max: u32,
    /// Empty pages in a row (with a link to a next one) that end a scan with an error.
    pub empty_pages_max: u32,
    /// Ask for `updatedDateTime ge`; falls back by itself when the service refuses.
    pub use_updated_filter: bool,
    /// Send `Prefer: return=representation` with writes, which saves a read.
    pub prefer_representation: bool,
    /// Requests per minute.
    pub requests_per_minute: u32,
    /// Requests at once.
    pub in_flight_max: u32,
    /// Daily request budget.
    pub requests_per_day: u64,
    /// Sign-in.
    pub auth: AuthSettings,
    /// Sign-in to the webhook registration API, where it differs.
    pub webhook_auth: WebhookAuthSettings,
}

/// `[partner_center.webhook_auth]`: what differs from `[partner_center.auth]` for the webhook registration API, whose roles
/// are others (partner-center §3.1). A key that is not set is taken from there; the credentials are taken from there only
/// when none is set here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookAuthSettings {
    /// Directory (tenant) id.
    pub tenant_id: Option<String>,
    /// Application (client) id.
    pub client_id: Option<String>,
    /// File with the client secret.
    pub client_secret_file: Option<PathBuf>,
    /// Name of a systemd credential with the client secret.
    pub client_secret_credential: Option<String>,
    /// Name of an environment variable with the client secret.
    pub client_secret_environment: Option<String>,
    /// The day on which that client secret ends, as in `2027-05-01`.
    pub client_secret_expires: Option<String>,
    /// PEM file with the client certificate.
    pub certificate_file: Option<PathBuf>,
    /// PEM file (PKCS#8) with its private key.
    pub private_key_file: Option<PathBuf>,
    /// How a token is obtained.
    pub grant: Option<Grant>,
    /// File with the first refresh token.
    pub refresh_token_file: Option<PathBuf>,
    /// Name of a systemd credential with the first refresh token.
    pub refresh_token_credential: Option<String>,
    /// What the token is for; absent: the host of `webhook_api_url`.
    pub audience: Option<String>,
}

impl PartnerCenterSettings {
    /// What the client stack is limited to. The service publishes no number.
    pub fn limits(&self) -> LimitSettings {
        let PartnerCenterSettings { requests_per_minute, in_flight_max, .. } = *self;
        LimitSettings { requests_per_minute, in_flight_max, protection: None }
    }

    /// How to sign in to the webhook registration API.
    pub fn webhook_sign_in(&self) -> AuthSettings {
        let base = AuthSettings { audience: None, ..self.auth.clone() };
        let other = self.webhook_auth.clone();
        let has_proof = other.client_secret_file.is_some()
            || other.client_secret_credential.is_some()
            || other.client_secret_environment.is_some()
            || other.certificate_file.is_some();
        let has_seed = other.refresh_token_file.is_some() || other.refresh_token_credential.is_some();
        let mut auth = AuthSettings {
            tenant_id: other.tenant_id.or(base.tenant_id.clone()),
            client_id: other.client_id.or(base.client_id.clone()),
            grant: other.grant.unwrap_or(base.grant),
            audience: other.audience,
            client_secret_expires: other.client_secret_expires.clone().or(base.client_secret_expires.clone()),
            ..base
        };
        if has_proof {
            auth.client_secret_file = other.client_secret_file;
            auth.client_secret_credential = other.client_secret_credential;
            auth.client_secret_environment = other.client_secret_environment;
            auth.client_secret_expires = other.client_secret_expires;
            auth.certificate_file = other.certificate_file;
            auth.private_key_file = other.private_key_file;
        }
        if has_seed {
            auth.refresh_token_file = other.refresh_token_file;
            auth.refresh_token_credential = other.refresh_token_credential;
        }
        auth
    }
}

#[cfg(test)]
mod tests {
    use super::WebhookAuthSettings;
    use crate::config::Settings;
    use crate::http::settings::Grant;

    #[test]
    fn the_webhook_signs_in_as_the_referrals_do_but_for_what_is_set() {
        let mut settings = Settings::defaults().partner_center;
        settings.auth.tenant_id = Some("tenant".into());
        settings.auth.client_id = Some("client".into());
        settings.auth.client_secret_file = Some("/secret".into());
        settings.auth.client_secret_expires = Some("2027-05-01".into());
        settings.auth.audience = Some("https://api.partner.microsoft.com".into());
        let same = settings.webhook_sign_in();
        assert_eq!(
            (same.client_secret_file.clone(), same.grant),
            (settings.auth.client_secret_file.clone(), Grant::RefreshToken)
        );
        assert_eq!(same.audience, None, "it is another host");
        settings.webhook_auth.client_secret_expires = Some("2027-04-01".into());
        assert_eq!(settings.webhook_sign_in().client_secret_expires.as_deref(), Some("2027-04-01"));
        settings.webhook_auth = WebhookAuthSettings {
            grant: Some(Grant::ClientCredentials),
            certificate_file: Some("/certificate".into()),
            private_key_file: Some("/key".into()),
            ..WebhookAuthSettings::default()
        };
        let other = settings.webhook_sign_in();
        assert_eq!((other.tenant_id.as_deref(), other.client_id.as_deref()), (Some("tenant"), Some("client")));
        assert_eq!((other.client_secret_file, other.grant), (None, Grant::ClientCredentials));
        assert_eq!(other.client_secret_expires, None, "that is the end of another secret");
        assert_eq!(other.certificate_file, Some("/certificate".into()));
    }
}
