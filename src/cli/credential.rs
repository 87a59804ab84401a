//! How a side signs in, and which of its credentials ends first: `status`, metrics and alarms tell it.

use std::sync::Arc;

use crate::config::Settings;
use crate::daemon::reconciler::Credential;
use crate::http::Tokens;
use crate::http::settings::{AuthSettings, Grant};
use crate::model::Timestamp;

/// One sign-in: its tokens, and its section of the settings that are in force.
pub(super) struct SignIn {
    pub tokens: Arc<Tokens>,
    pub auth: fn(&Settings) -> AuthSettings,
}

/// How a side signs in. `webhook` is the sign-in to the webhook registration API, where it is another one; its refresh token
/// is renewed by the hourly look at the registration, so only what does not renew itself is told of it.
pub(super) fn credential(main: SignIn, webhook: Option<SignIn>) -> Credential {
    Arc::new(move |settings| {
        let auth = (main.auth)(settings);
        let state = main.tokens.state();
        let mut ends = Vec::new();
        if auth.grant == Grant::RefreshToken {
            ends.extend(state.refresh_token_expires_at.map(|end| ("refresh token", end)));
        }
        ends.extend(client_secret(&auth).map(|end| ("client secret", end)));
        ends.extend(state.certificate_not_after.map(|end| ("certificate", end)));
        if let Some(webhook) = &webhook {
            let of_it = client_secret(&(webhook.auth)(settings));
            ends.extend(of_it.map(|end| ("client secret of the webhook's sign-in", end)));
            let of_it = webhook.tokens.state().certificate_not_after;
            ends.extend(of_it.map(|end| ("certificate of the webhook's sign-in", end)));
        }
        let is_nobody = auth.grant == Grant::RefreshToken && state.refresh_token_expires_at.is_none();
        let first = ends.into_iter().min_by_key(|(_, end)| *end);
        (
            sentence(auth.grant, state.last_error.as_deref(), is_nobody, first.map(|(what, _)| what)),
            first.map(|(_, end)| end),
        )
    })
}

fn sentence(grant: Grant, trouble: Option<&str>, is_nobody: bool, first: Option<&str>) -> String {
    let how = match grant {
        Grant::RefreshToken => "refresh token",
        Grant::ClientCredentials => "client credentials",
        Grant::Password => "user name and password (compatibility mode)",
    };
    let mut text = match trouble {
        Some(error) => format!("{how}: {error}"),
        None if is_nobody => format!("{how}: nobody has signed in yet; run `referrald login`"),
        None => how.to_owned(),
    };
    if let Some(what) = first.filter(|what| *what != how) {
        text.push_str(if text == how { ": the " } else { "; the " });
        text.push_str(what);
        text.push_str(" ends first");
    }
    text
}

/// The end of the client secret, as the operator wrote it down: the service tells it nobody who signs in with it.
fn client_secret(auth: &AuthSettings) -> Option<Timestamp> {
    auth.client_secret_expires.as_deref().filter(|_| auth.has_client_secret()).and_then(Timestamp::parse)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::build::SystemClock;
    use super::{SignIn, credential};
    use crate::config::Settings;
    use crate::http::Tokens;
    use crate::http::settings::{AuthSettings, Grant};
    use crate::model::{Side, Timestamp};

    fn settings(place: &std::path::Path) -> Settings {
        let mut settings = Settings::defaults();
        settings.state.directory = place.to_owned();
        let auth = |grant| AuthSettings {
            tenant_id: Some("tenant".into()),
            client_id: Some("client".into()),
            client_secret_file: Some("/absent/secret".into()),
            grant,
            ..settings.dataverse.auth.clone()
        };
        let (portal, crm) = (auth(Grant::RefreshToken), auth(Grant::ClientCredentials));
        (settings.partner_center.auth, settings.dataverse.auth) = (portal, crm);
        settings
    }

    fn sign_in(settings: &Settings, auth: fn(&Settings) -> AuthSettings) -> SignIn {
        let keep = settings.state.directory.join("keep");
        let clock = Arc::new(SystemClock);
        let tokens =
            Tokens::new(Side::Crm, "x.auth", "https://x.example", &auth(settings), &settings.http, &keep, clock);
        SignIn { tokens: Arc::new(tokens.expect("a sign-in")), auth }
    }

    #[test]
    fn the_end_that_comes_first_is_told_by_its_name_and_a_renewed_one_needs_no_restart() {
        let place = tempfile::tempdir().expect("a directory");
        let mut settings = settings(place.path());
        let crm = credential(sign_in(&settings, |it| it.dataverse.auth.clone()), None);
        assert_eq!(
            crm(&settings),
            ("client credentials".to_owned(), None),
            "an end that nobody wrote down is not known"
        );
        settings.dataverse.auth.client_secret_expires = Some("2027-05-01".into());
        let end = Timestamp::parse("2027-05-01T00:00:00Z");
        assert_eq!(crm(&settings), ("client credentials: the client secret ends first".to_owned(), end));

        let portal = sign_in(&settings, |it| it.partner_center.auth.clone());
        let webhook = sign_in(&settings, |it| it.partner_center.webhook_sign_in());
        let portal = credential(portal, Some(webhook));
        settings.partner_center.auth.client_secret_expires = Some("2027-05-01".into());
        settings.partner_center.webhook_auth.client_secret_file = Some("/absent/other".into());
        settings.partner_center.webhook_auth.client_secret_expires = Some("2027-04-01".into());
        let (text, end) = portal(&settings);
        assert!(text.contains("nobody has signed in yet"), "{text}");
        assert!(text.ends_with("; the client secret of the webhook's sign-in ends first"), "{text}");
        assert_eq!(end, Timestamp::parse("2027-04-01T00:00:00Z"), "the webhook's comes first");
    }

    #[test]
    fn the_sentence_names_what_ends_first_unless_it_is_what_signs_in() {
        let text = |first| super::sentence(Grant::RefreshToken, None, false, first);
        assert_eq!(text(Some("refresh token")), "refresh token");
        assert_eq!(text(Some("certificate")), "refresh token: the certificate ends first");
        assert_eq!(
            super::sentence(Grant::ClientCredentials, Some("refused"), false, None),
            "client credentials: refused"
        );
    }
}
