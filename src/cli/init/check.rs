//! Checks while asking: whether the directory exists, the environment answers, and the application may come in.

use std::sync::Arc;

use http::Method;
use url::Url;

use super::answers::Answers;
use crate::cli::build::{SystemClock, crm_line};
use crate::config::{Settings, Sources};
use crate::crm;
use crate::http::Exchange;
use crate::http::probe::{greet, tenant_exists};
use crate::model::RemoteError;
use crate::ports::{Clock, CrmIdentity};

/// Whether there is such a directory; the sentence says what is wrong.
pub async fn directory(authority: &Url, tenant: &str) -> Result<(), String> {
    match tenant_exists(authority, tenant, &Settings::defaults().http).await? {
        true => Ok(()),
        false => Err(format!("there is no directory {tenant} at {authority}")),
    }
}

/// Whether the environment answers.
pub async fn environment(url: &Url) -> Result<(), String> {
    let greeting = greet(url, &Settings::defaults().http, Method::GET).await;
    greeting.map(|_| ()).map_err(|reason| format!("{url} does not answer: {reason}"))
}

/// Whether the application may come in, and as whom.
pub async fn sign_in(answers: &Answers, keep: &std::path::Path) -> Result<CrmIdentity, String> {
    let secret = keep.join("secret");
    if let Some(text) = &answers.crm.secret {
        super::files::write_secret(&secret, text).map_err(|error| error.to_string())?;
    }
    let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let flags = vec![
        set("dataverse.url", answers.crm_url.as_str()),
        set("dataverse.auth.authority", answers.authority.as_str()),
        set("dataverse.auth.tenant_id", &answers.crm.tenant),
        set("dataverse.auth.client_id", &answers.crm.client),
        set("dataverse.auth.client_secret_file", &secret.display().to_string()),
        set("state.directory", &keep.display().to_string()),
        set("http.attempts_max", "1"),
    ];
    let sources = Sources { file: None, flags, ..Sources::default() };
    let settings = Settings::load(&sources).map_err(|problems| problems.to_string())?.settings;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let line = crm_line(&settings, &clock).map_err(|error| error.to_string())?;
    let exchange: Arc<dyn Exchange> = line.client;
    let crm = crm::open(&settings.dataverse, settings.identity, None, Default::default(), exchange, clock)?;
    crm.identity().await.map_err(|error| told(&error))
}

fn told(error: &RemoteError) -> String {
    error.to_string()
}
