//! The webhook while the daemon runs: the listener, an hourly look at the registration, and what `status` tells of both.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::arguments::Flags;
use super::super::build::{load, webhook_api};
use super::drift;
use crate::config::Settings;
use crate::daemon::status::{Status, WebhookStatus};
use crate::daemon::{Beside, Prepared};
use crate::http::settings::HttpSettings;
use crate::portal::partner_center::settings::PartnerCenterSettings;
use crate::portal::partner_center::webhooks::WebhookApi;
use crate::telemetry::commands::worded;
use crate::trigger::Bell;
use crate::trigger::webhook::Webhook;

/// How often the registration is compared with the configuration.
pub const DRIFT_INTERVAL: Duration = Duration::from_secs(3600);
/// How soon it is looked at again when it was not in order.
pub const DRIFTED_INTERVAL: Duration = Duration::from_secs(300);

/// The webhook beside the loop.
pub struct Attendant {
    flags: Flags,
    /// What is in force.
    settings: Arc<Mutex<Arc<Settings>>>,
    webhook: Option<Webhook>,
    /// Why nothing listens, although it should.
    trouble: Option<String>,
    /// What is wrong with the registration.
    registration: Arc<Mutex<Option<String>>>,
    /// Rung when the registration is to be looked at now.
    look: Bell,
    stop: CancellationToken,
}

impl Attendant {
    /// Opens the listener. Trouble with it is told, and polling goes on: the webhook only saves time.
    pub async fn start(flags: &Flags, settings: &Settings, bell: &Bell) -> Option<Attendant> {
        let directory: PathBuf = settings.state.directory.clone();
        let started = Webhook::start(&settings.webhook, &settings.http, &directory, bell.clone()).await;
        let (webhook, trouble) = match started {
            Ok(None) => return None,
            Ok(Some(webhook)) => {
                let addresses: Vec<String> = webhook.addresses().iter().map(ToString::to_string).collect();
                tracing::info!("the webhook listens on {}", addresses.join(", "));
                (Some(webhook), None)
            }
            Err(problems) => {
                let problems = problems.join("; ");
                tracing::error!("the webhook does not listen, polling goes on: {problems}");
                (None, Some(problems))
            }
        };
        let (registration, look, stop) =
            (Arc::<Mutex<Option<String>>>::default(), Bell::new(), CancellationToken::new());
        let in_force = Arc::new(Mutex::new(Arc::new(settings.clone())));
        tokio::spawn(watch(in_force.clone(), registration.clone(), look.clone(), stop.clone()));
        Some(Attendant { flags: flags.clone(), settings: in_force, webhook, trouble, registration, look, stop })
    }
}

impl Beside for Attendant {
    fn tell(&self, status: &mut Status) {
        let standing = self.webhook.as_ref().map(Webhook::standing).unwrap_or_default();
        let counts = standing.counts;
        status.webhook = Some(WebhookStatus {
            addresses: standing.addresses.iter().map(ToString::to_string).collect(),
            trouble: self.trouble.clone(),
            registration: self.registration.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            verdicts: counts.verdicts.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
            rings: counts.rings,
            last_ring: counts.last_ring,
            last_verified: counts.last_verified,
            certificate_until: standing.certificate_until,
        });
    }

    fn prepare(&self) -> Result<Prepared<'_>, Vec<String>> {
        let settings = load(&self.flags).map_err(|error| vec![error.to_string()])?;
        let listener = self.webhook.as_ref().map(|webhook| webhook.prepare(&settings.webhook, &settings.http));
        let listener = listener.transpose()?;
        let take_over = move || {
            if let Some(listener) = listener {
                listener();
            }
            *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
            self.look.ring();
        };
        // A change of the address is the engine's to tell: it knows what was there at the start, also if nothing was.
        Ok(Prepared::new(take_over, Vec::new()))
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Compares the registration with the configuration: at once, hourly, after a reload, and sooner while it differs.
async fn watch(
    in_force: Arc<Mutex<Arc<Settings>>>,
    found: Arc<Mutex<Option<String>>>,
    look: Bell,
    stop: CancellationToken,
) {
    let looking = async {
        let mut line = None;
        loop {
            let settings = in_force.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let text = trouble(&settings, &mut line).await;
            let pause = if text.is_some() { DRIFTED_INTERVAL } else { DRIFT_INTERVAL };
            put(&found, text);
            // Either the pause is over or somebody asks: both end it.
            let _ = tokio::time::timeout(pause, look.rung()).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = looking => {}
    }
}

/// The way to the registration, and the settings it was built from. It outlives a look, because its sign-in remembers
/// what it was refused: a wrong password sent with every look would lock the account (partner-center §2.8).
struct Line {
    api: WebhookApi,
    settings: (PartnerCenterSettings, HttpSettings, PathBuf),
}

/// What is wrong with the registration. `line` is built when it is missing or the settings have changed.
async fn trouble(settings: &Settings, line: &mut Option<Line>) -> Option<String> {
    settings.webhook.url.as_ref()?;
    let wanted = (settings.partner_center.clone(), settings.http.clone(), settings.state.directory.clone());
    let api = match line.take().filter(|line| line.settings == wanted) {
        Some(known) => Ok(&line.insert(known).api),
        None => webhook_api(settings).map(|api| &line.insert(Line { api, settings: wanted }).api),
    };
    let registration = match api {
        Ok(api) => api.registration().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match registration {
        Ok(registration) => drift(&settings.webhook, registration.as_ref()),
        Err(error) => Some(format!("it could not be checked: {error}")),
    }
}

/// Takes note; news are told in the log, once.
fn put(found: &Mutex<Option<String>>, text: Option<String>) {
    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
    if *found != text {
        if let Some(text) = &text {
            tracing::warn!("the webhook's registration: {}", worded(text));
        }
        *found = text;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wiremock::matchers::{method, path_regex};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;

    #[tokio::test]
    async fn a_refused_password_is_not_sent_again_with_the_next_look() {
        let directory = tempfile::tempdir().expect("a directory");
        let server = MockServer::start().await;
        let refused = json!({"error": "invalid_grant", "error_codes": [50126]});
        Mock::given(method("POST"))
            .and(path_regex("/oauth2/"))
            .respond_with(ResponseTemplate::new(400).set_body_json(refused))
            .mount(&server)
            .await;
        let file = |name: &str| directory.path().join(name);
        std::fs::write(file("password"), "hunter2").expect("written");
        let config = format!(
            "[state]\ndirectory = \"{}\"\n[webhook]\nurl = \"https://hook.example/\"\n[partner_center]\n\
             webhook_api_url = \"{server}\"\n[partner_center.auth]\nauthority = \"{server}\"\ntenant_id = \"contoso.example\"\n\
             client_id = \"app-1\"\ngrant = \"password\"\nusername = \"svc@contoso.example\"\npassword_file = \"{}\"\n",
            file("state").display(),
            file("password").display(),
            server = server.uri(),
        );
        std::fs::write(file("referrald.toml"), config).expect("written");
        let flags = Flags { config: Some(file("referrald.toml")), set: Vec::new() };
        let settings = load(&flags).expect("a configuration");

        let mut line = None;
        for _ in 0..3 {
            let text = trouble(&settings, &mut line).await.expect("trouble");
            assert!(text.contains("AADSTS50126"), "{text}");
        }
        assert_eq!(server.received_requests().await.expect("recorded").len(), 1);

        // Other settings are another line: what was refused before says nothing about it.
        let flags = Flags {
            set: vec![("partner_center.auth.username".to_owned(), "other@contoso.example".to_owned())],
            ..flags
        };
        trouble(&load(&flags).expect("a configuration"), &mut line).await.expect("trouble");
        assert_eq!(server.received_requests().await.expect("recorded").len(), 2);
    }
}
