//! Checks while asking: whether the directory exists, the environment answers, and the application may come in.

use std::sync::Arc;

use http::Method;
use url::Url;

use super::answers::Answers;
use crate::cli::build::{SystemClock, crm_line};
use crate::config::{Settings, Sources};
use crate::crm;
use crate::http::Exchange;
use crate::http::probe::{self, Directory, greet};
use crate::model::RemoteError;
use crate::ports::{Clock, CrmIdentity};

/// Whether there is such a directory; the sentence says what is wrong. What could not be checked is said, and stops nothing.
pub async fn directory(authority: &Url, tenant: &str) -> Result<Option<String>, String> {
    match probe::directory(authority, tenant, &Settings::defaults().http).await? {
        Directory::Known => Ok(None),
        Directory::Absent => Err(format!("there is no directory {tenant} at {authority}")),
        Directory::Unchecked(reason) => {
            Ok(Some(format!("whether there is a directory {tenant} could not be checked: {reason}")))
        }
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
    crm.identity().await.map_err(|error| told(&error, &secret))
}

/// In the words of somebody who has just typed the secret; the file that it was put into for this check means nothing to them.
fn told(error: &RemoteError, secret: &std::path::Path) -> String {
    let place = format!("{} (dataverse.auth.client_secret_file)", secret.display());
    let text = error
        .to_string()
        .replace(&format!("put the secret's value, not its id, into {place}"), "type its Value, not its id");
    text.replace(&format!(" and put it into {place}"), "").replace(&place, "the secret that was typed")
}

#[cfg(test)]
mod tests {
    use super::told;
    use crate::model::{Fault, RemoteError, Side};

    #[test]
    fn what_is_wrong_with_a_secret_names_no_file_of_the_check() {
        let said = |sentence: &str| {
            let error = RemoteError::new(Side::Crm, "sign in", Fault::NeedsHuman).with_message(sentence);
            told(&error, "/tmp/x/secret".as_ref())
        };
        let place = "/tmp/x/secret (dataverse.auth.client_secret_file)";
        for (sentence, words) in [
            ("it is wrong: put the secret's value, not its id, into PLACE", "it is wrong: type its Value, not its id"),
            ("it has expired: make a new one and put it into PLACE", "it has expired: make a new one"),
            ("it is not accepted: check PLACE", "it is not accepted: check the secret that was typed"),
        ] {
            let said = said(&sentence.replace("PLACE", place));
            assert!(said.ends_with(words), "{said}");
        }
    }
}
