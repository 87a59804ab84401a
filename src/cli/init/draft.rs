//! The files of a first configuration, as text: only what was answered, and a few keys worth knowing, each with the comment
//! of `config/default.toml`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::answers::{Answers, Application};
use crate::config::{DEFAULTS, Settings};

/// How the configuration names its secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// As files, for a daemon that runs as the user who owns them.
    Files,
    /// As credentials of the unit, whose user may not read the files.
    Credentials,
}

/// The names of both secrets: of the file, and of the credential.
const PORTAL_SECRET: &str = "partner-center-secret";
const CRM_SECRET: &str = "dataverse-secret";

/// The secrets and their files below `directory`.
pub fn secrets(answers: &Answers, directory: &Path) -> Vec<(PathBuf, SecretString)> {
    let one = |name: &str, application: &Application| Some((directory.join(name), application.secret.clone()?));
    [one(PORTAL_SECRET, &answers.portal), one(CRM_SECRET, &answers.crm)].into_iter().flatten().collect()
}

/// The drop-in of the unit that passes the secrets.
pub fn drop_in(answers: &Answers, directory: &Path) -> String {
    let mut text = "# Written by `referrald init`.\n[Service]\n".to_owned();
    for (path, _) in secrets(answers, directory) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let _ = writeln!(text, "LoadCredential={name}:{}", path.display());
    }
    text
}

/// The configuration.
pub fn configuration(answers: &Answers, naming: Naming, directory: &Path) -> String {
    let defaults = Settings::defaults();
    let mut page = Page { text: HEAD.to_owned(), section: String::new() };
    page.set("", "writes", &quoted("off"));
    page.hint("", "referral_id_column", "\"new_referralid\"");
    let authority = (answers.authority != defaults.partner_center.auth.authority).then_some(&answers.authority);
    if answers.portal_url != defaults.partner_center.base_url {
        page.set("partner_center", "base_url", &quoted(answers.portal_url.as_str()));
    }
    let sign_in = |page: &mut Page, section: &str, application: &Application, name: &str| {
        if let Some(authority) = authority {
            page.set(section, "authority", &quoted(authority.as_str()));
        }
        page.set(section, "tenant_id", &quoted(&application.tenant));
        page.set(section, "client_id", &quoted(&application.client));
        match (&application.secret, naming) {
            (None, _) => {}
            (Some(_), Naming::Credentials) => page.set(section, "client_secret_credential", &quoted(name)),
            (Some(_), Naming::Files) => {
                page.set(section, "client_secret_file", &quoted(&directory.join(name).display().to_string()));
            }
        }
        if application.secret.is_some() {
            page.hint(section, "client_secret_expires", "\"2027-05-01\"");
        }
    };
    sign_in(&mut page, "partner_center.auth", &answers.portal, PORTAL_SECRET);
    page.set("dataverse", "url", &quoted(answers.crm_url.as_str().trim_end_matches('/')));
    sign_in(&mut page, "dataverse.auth", &answers.crm, CRM_SECRET);
    if let Some(directory) = &answers.state_directory {
        page.set("state", "directory", &quoted(&directory.display().to_string()));
    }
    page.hint("status", "settle_time", "\"10m\"");
    page.hint("brakes", "closings_per_hour", "20");
    page.hint("schedule", "time_zone", "\"Europe/Berlin\"");
    match answers.owner_team {
        Some(team) => page.set("mapping", "fallback_owner", &format!("{{ team = \"{team}\" }}")),
        None => page.hint("mapping", "fallback_owner", "{ team = \"00000000-0000-0000-0000-000000000000\" }"),
    }
    page.text
}

const HEAD: &str = "\
# referrald: a first configuration, written by `referrald init`. Only what differs from the defaults stands here; every
# other key, with its default and a comment: `referrald config show --defaults`.

";

/// A configuration that grows section by section.
struct Page {
    text: String,
    section: String,
}

impl Page {
    fn set(&mut self, section: &str, key: &str, value: &str) {
        self.begin(section, key);
        let _ = writeln!(self.text, "{key} = {value}");
    }

    /// A key that is worth knowing, as a comment.
    fn hint(&mut self, section: &str, key: &str, value: &str) {
        self.begin(section, key);
        let _ = writeln!(self.text, "# {key} = {value}");
    }

    fn begin(&mut self, section: &str, key: &str) {
        if section != self.section {
            let _ = writeln!(self.text, "\n[{section}]");
            self.section = section.to_owned();
        }
        for line in comment(section, key) {
            let _ = writeln!(self.text, "{line}");
        }
    }
}

/// The comment above a key of the defaults; empty where it shares one with the key before.
fn comment(section: &str, key: &str) -> Vec<&'static str> {
    let (mut current, mut lines) = ("", Vec::new());
    for line in DEFAULTS.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let is_key = bare.split_once(" = ").is_some_and(|(name, _)| !name.contains([' ', ':', '"']));
        match line {
            _ if line.starts_with('[') => {
                current = line.trim_matches(['[', ']']);
                lines.clear();
            }
            _ if is_key => {
                if current == section && bare.starts_with(&format!("{key} = ")) {
                    return lines;
                }
                lines.clear();
            }
            _ if line.starts_with('#') && !line.starts_with("# -") => lines.push(line),
            _ => lines.clear(),
        }
    }
    Vec::new()
}

fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn answers() -> Answers {
        let url = |text: &str| url::Url::parse(text).expect("a URL");
        let application = |number: u8| Application {
            tenant: "aaaaaaaa-0000-4000-8000-000000000001".into(),
            client: format!("cccccccc-0000-4000-8000-00000000000{number}"),
            secret: Some("never~in.the~configuration".into()),
        };
        Answers {
            authority: url("https://login.microsoftonline.com"),
            portal_url: url("https://api.partner.microsoft.com"),
            portal: application(1),
            crm_url: url("https://contoso.crm4.dynamics.com"),
            crm: application(2),
            owner_team: None,
            state_directory: None,
        }
    }

    #[test]
    fn a_first_configuration_reads_like_this() {
        let directory = Path::new("/etc/referrald/secrets");
        let text = configuration(&answers(), Naming::Credentials, directory);
        assert!(!text.contains("never~in"));
        insta::assert_snapshot!(format!("{text}\n--- drop-in ---\n{}", drop_in(&answers(), directory)));
    }

    #[test]
    fn what_is_written_is_accepted() {
        let place = tempfile::tempdir().expect("a directory");
        let mut answers = answers();
        answers.owner_team = Some(uuid::Uuid::from_u128(7));
        answers.state_directory = Some(place.path().join("state \"quoted\""));
        answers.authority = url::Url::parse("http://127.0.0.1:9/").expect("a URL");
        for (path, _) in secrets(&answers, place.path()) {
            std::fs::write(path, "x").expect("written");
        }
        for naming in [Naming::Files, Naming::Credentials] {
            let file = place.path().join("referrald.toml");
            std::fs::write(&file, configuration(&answers, naming, place.path())).expect("written");
            let loaded = Settings::load(&Sources { file: Some(file), ..Sources::default() });
            let settings = loaded.unwrap_or_else(|problems| panic!("{problems}")).settings;
            assert_eq!(settings.dataverse.url.expect("a URL").as_str(), "https://contoso.crm4.dynamics.com/");
            assert_eq!(settings.state.directory, place.path().join("state \"quoted\""));
            assert!(settings.mapping.fallback_owner.is_some());
        }
    }
}
