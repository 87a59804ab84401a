//! `referrald webhook`: the registration at Partner Center, and why a delivery is not believed.

mod attend;
mod previous;
mod verify;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

pub use attend::{Attendant, DRIFT_INTERVAL};

use super::arguments::WebhookCommand;
use super::build::{load, webhook_api};
use super::exit::Exit;
use super::layout::fitted;
use super::{Call, Failure, print_json};
use crate::config::Settings;
use crate::model::{Fault, RemoteError};
use crate::portal::partner_center::webhooks::{Registration, TEST_EVENT, TestAttempt, TestReport, WebhookApi};
use crate::trigger::settings::WebhookSettings;

/// How long the report of a test event is waited for.
pub const TEST_TIME_MAX: Duration = Duration::from_secs(90);
/// Pause between two looks at it.
const TEST_LOOK: Duration = Duration::from_secs(1);

/// Runs one of the commands.
pub(super) async fn webhook(
    call: &Call<'_>,
    command: &WebhookCommand,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let settings = load(call.flags)?;
    call.quiet_log(&settings.log)?;
    if let WebhookCommand::Verify(evidence) = command {
        return verify::verify(&settings, evidence, call.is_json, out).await;
    }
    let told = Mutex::default();
    let desk = Desk { api: webhook_api(&settings)?, settings: &settings, is_json: call.is_json, told };
    let ended = match command {
        WebhookCommand::Show => desk.show(out).await,
        WebhookCommand::Events => desk.events(out).await,
        WebhookCommand::Register { take_over } => desk.register(*take_over, out).await,
        WebhookCommand::Unregister => desk.unregister(out).await,
        WebhookCommand::Test => desk.test(out).await,
        WebhookCommand::Verify(_) => unreachable!("handled above"),
    };
    // Also when it failed: what was there before is worth knowing then.
    let told = desk.told.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !told.is_empty() {
        print_json(out, &told)?;
    }
    ended
}

/// What is wrong with the registration, in a sentence with what to do; `None` when it is as configured.
pub fn drift(settings: &WebhookSettings, found: Option<&Registration>) -> Option<String> {
    let wanted = settings.url.as_ref()?;
    let Some(found) = found else {
        return Some("nothing is registered; run `referrald webhook register`".to_owned());
    };
    if found.url != wanted.as_str() {
        // The other URL may carry a secret: it is shown by the command, not here.
        return Some(
            "another URL is registered; `referrald webhook show` names it, `referrald webhook register --take-over` \
             replaces it"
                .to_owned(),
        );
    }
    let missing: Vec<&str> = settings.events.iter().filter(|event| !has(found, event)).map(String::as_str).collect();
    (!missing.is_empty())
        .then(|| format!("events are missing: {}; run `referrald webhook register`", missing.join(", ")))
}

fn has(registration: &Registration, event: &str) -> bool {
    registration.events.iter().any(|one| one.eq_ignore_ascii_case(event))
}

struct Desk<'a> {
    api: WebhookApi,
    settings: &'a Settings,
    is_json: bool,
    /// What the one JSON document will say.
    told: Mutex<serde_json::Map<String, Value>>,
}

impl Desk<'_> {
    async fn show(&self, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
        let found = self.api.registration().await.map_err(told)?;
        let drift = drift(&self.settings.webhook, found.as_ref());
        if self.is_json {
            print_json(out, &json!({"registration": found.as_ref().map(shape), "drift": drift}))?;
            return Ok(Exit::Fine);
        }
        print_registration(out, "registered", found.as_ref())?;
        match (&self.settings.webhook.url, &drift) {
            (None, _) => writeln!(out, "webhook.url is not set, so there is nothing to compare it with")?,
            (Some(_), None) => writeln!(out, "as configured")?,
            (Some(_), Some(drift)) => write!(out, "{}", fitted(drift))?,
        }
        Ok(Exit::Fine)
    }

    async fn events(&self, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
        let mut events = self.api.events().await.map_err(told)?;
        events.sort();
        if self.is_json {
            print_json(out, &events)?;
        } else {
            for event in events {
                let mark = if self.settings.webhook.events.contains(&event) { "  (webhook.events)" } else { "" };
                writeln!(out, "{event}{mark}")?;
            }
        }
        Ok(Exit::Fine)
    }

    async fn register(&self, take_over: bool, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
        let webhook = &self.settings.webhook;
        let url = webhook.url.as_ref().ok_or_else(|| {
            Failure::Other("webhook.url is not set: it is the public URL that Partner Center shall call".to_owned())
        })?;
        let known = self.api.events().await.map_err(told)?;
        let unknown: Vec<&String> =
            webhook.events.iter().filter(|event| !known.iter().any(|one| one.eq_ignore_ascii_case(event))).collect();
        if !unknown.is_empty() && !known.is_empty() {
            return Err(Failure::Other(format!(
                "webhook.events names events that Partner Center does not have: {}; `referrald webhook events` lists them",
                unknown.iter().map(|event| event.as_str()).collect::<Vec<_>>().join(", ")
            )));
        }
        let wanted = Registration { url: url.to_string(), events: webhook.events.clone() };
        let found = self.api.registration().await.map_err(told)?;
        self.print(out, "before", found.as_ref())?;
        if let Some(found) = found.as_ref().filter(|found| found.url != wanted.url) {
            if !take_over {
                return Err(Failure::Other(
                    "another URL is registered, and there is only one for the whole tenant: whoever reads it would get \
                     nothing any more. If that is meant: `referrald webhook register --take-over`; `referrald webhook \
                     unregister` puts it back"
                        .to_owned(),
                ));
            }
            // Written down before it is overwritten.
            previous::keep(&self.settings.state.directory, found).map_err(Failure::Other)?;
        }
        if !take_over && drift(webhook, found.as_ref()).is_none() {
            self.say(out, "nothing to do: it is registered as configured")?;
            return Ok(Exit::Fine);
        }
        self.write(&wanted, found.is_some(), out).await
    }

    async fn unregister(&self, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
        let url = self.settings.webhook.url.as_ref().ok_or_else(|| {
            Failure::Other("webhook.url is not set, so it cannot be told whether the registration is ours".to_owned())
        })?;
        let found = self.api.registration().await.map_err(told)?;
        self.print(out, "before", found.as_ref())?;
        match &found {
            None => {
                self.say(out, "nothing to do: nothing is registered")?;
                return Ok(Exit::Fine);
            }
            Some(found) if found.url != url.as_str() => {
                return Err(Failure::Other("the registered URL is not ours; nothing was changed".to_owned()));
            }
            Some(_) => {}
        }
        let kept = previous::read(&self.settings.state.directory).map_err(Failure::Other)?;
        // There is no way to delete a registration; one for the test event alone is as good as none.
        let parked = Registration { url: url.to_string(), events: vec![TEST_EVENT.to_owned()] };
        let exit = self.write(kept.as_ref().unwrap_or(&parked), true, out).await?;
        if kept.is_some() {
            previous::forget(&self.settings.state.directory);
        }
        Ok(exit)
    }

    /// Writes, then reads again: what is shown is what is there.
    async fn write(
        &self,
        wanted: &Registration,
        is_there_one: bool,
        out: &mut (dyn Write + Send),
    ) -> Result<Exit, Failure> {
        let use_header = self.settings.webhook.use_ms_signature_header;
        let is_ours = self.settings.webhook.url.as_ref().is_some_and(|url| url.as_str() == wanted.url);
        self.api.register(wanted, use_header && is_ours, is_there_one).await.map_err(told)?;
        let found = self.api.registration().await.map_err(told)?;
        self.print(out, "now", found.as_ref())?;
        match found {
            Some(found) if found.url == wanted.url && wanted.events.iter().all(|event| has(&found, event)) => {
                Ok(Exit::Fine)
            }
            _ => {
                Err(Failure::Other("it was written, but what is read back differs; look again with `show`".to_owned()))
            }
        }
    }

    async fn test(&self, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
        let found = self.api.registration().await.map_err(told)?;
        let Some(found) = found else {
            return Err(Failure::Other("nothing is registered; run `referrald webhook register` first".to_owned()));
        };
        if !has(&found, TEST_EVENT) {
            return Err(Failure::Other(format!("the registration lacks the event {TEST_EVENT}, which a test needs")));
        }
        self.print(out, "registered", Some(&found))?;
        let id = self.api.send_test().await.map_err(|error| match error.fault {
            Fault::Throttled { .. } => Failure::Other(format!("{error}; two test events a minute are allowed")),
            _ => told(error),
        })?;
        if !self.is_json {
            writeln!(out, "test event sent, correlation id {id}")?;
        }
        let report = tokio::time::timeout(TEST_TIME_MAX, self.report(&id)).await.map_err(|_| {
            Failure::Other(format!(
                "no report within {} s; Partner Center may try for hours, look at `referrald status`",
                TEST_TIME_MAX.as_secs()
            ))
        })?;
        let report = report.map_err(told)?;
        let is_good = report.attempts.last().is_some_and(|attempt| is_success(&attempt.code));
        if self.is_json {
            let attempt = |one: &TestAttempt| json!({"code": one.code, "message": one.message, "at": one.at});
            self.note("correlation_id", json!(id));
            self.note("status", json!(report.status));
            self.note("attempts", report.attempts.iter().map(attempt).collect());
        } else {
            writeln!(out, "report: {}", report.status)?;
            for attempt in &report.attempts {
                let line = format!("  {}  {}  {}", attempt.at, attempt.code, attempt.message);
                write!(out, "{}", fitted(line.trim_end()))?;
            }
            if !is_good {
                let text = "the listener did not take it: `referrald status` counts why, and `referrald webhook verify` \
                            explains one delivery";
                write!(out, "{}", fitted(text))?;
            }
        }
        Ok(if is_good { Exit::Fine } else { Exit::Failed })
    }

    async fn report(&self, id: &str) -> Result<TestReport, RemoteError> {
        loop {
            match self.api.test_report(id).await {
                Ok(report) if report.status.eq_ignore_ascii_case("completed") => return Ok(report),
                // Not there yet.
                Err(error) if error.fault != Fault::Missing => return Err(error),
                Ok(_) | Err(_) => tokio::time::sleep(TEST_LOOK).await,
            }
        }
    }

    fn print(&self, out: &mut (dyn Write + Send), title: &str, found: Option<&Registration>) -> Result<(), Failure> {
        if self.is_json {
            self.note(title, json!(found.map(shape)));
            return Ok(());
        }
        print_registration(out, title, found)
    }

    fn say(&self, out: &mut (dyn Write + Send), text: &str) -> Result<(), Failure> {
        if self.is_json {
            self.note("text", text.into());
            return Ok(());
        }
        Ok(write!(out, "{}", fitted(text))?)
    }

    fn note(&self, key: &str, value: Value) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), value);
    }
}

/// A word such as `OK`, or a number from 200 on.
fn is_success(code: &str) -> bool {
    let number = code.parse::<u16>().is_ok_and(|number| (200..300).contains(&number));
    number || ["ok", "accepted", "nocontent"].contains(&code.to_ascii_lowercase().as_str())
}

fn shape(registration: &Registration) -> serde_json::Value {
    json!({"url": registration.url, "events": registration.events})
}

fn print_registration(out: &mut (dyn Write + Send), title: &str, found: Option<&Registration>) -> Result<(), Failure> {
    match found {
        None => writeln!(out, "{title}: nothing")?,
        Some(found) => {
            writeln!(out, "{title}: {}", found.url)?;
            write!(out, "{}", fitted(&format!("  events: {}", found.events.join(", "))))?;
        }
    }
    Ok(())
}

fn told(error: RemoteError) -> Failure {
    let hint = match error.fault {
        Fault::Unauthorized | Fault::NeedsHuman | Fault::Refused => {
            "; the registration needs a role that the referrals do not, see partner_center.webhook_auth"
        }
        _ => "",
    };
    Failure::Other(format!("{error}{hint}"))
}
