//! Facts about layers and checks, all with temporary files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;

/// A directory with a configuration file and whatever it names.
struct Place {
    directory: tempfile::TempDir,
    flags: Vec<(String, String)>,
    environment: BTreeMap<String, String>,
}

impl Place {
    fn new(text: &str) -> Self {
        let place = Place {
            directory: tempfile::tempdir().expect("a temporary directory"),
            flags: Vec::new(),
            environment: BTreeMap::new(),
        };
        place.put("referrald.toml", text);
        place
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        path
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn flag(mut self, key: &str, value: &str) -> Self {
        self.flags.push((key.to_owned(), value.to_owned()));
        self
    }

    fn sources(&self) -> Sources {
        Sources {
            file: Some(self.directory.path().join("referrald.toml")),
            flags: self.flags.clone(),
            environment: self.environment.clone(),
        }
    }

    fn load(&self) -> Result<Loaded, Problems> {
        Settings::load(&self.sources())
    }

    /// Errors and warnings alike.
    fn found(&self) -> Problems {
        match self.load() {
            Ok(loaded) => loaded.warnings,
            Err(problems) => problems,
        }
    }

    /// The drawing, with the directory's name taken out.
    fn drawn(&self) -> String {
        self.found().to_string().replace(&self.directory.path().display().to_string(), "DIR")
    }
}

/// Connected, with sign-in, owners and nothing to complain about; `{DIR}` is the directory.
const SOUND: &str = r#"writes = "both"
[partner_center.auth]
tenant_id = "11111111-2222-4333-8444-555555555555"
client_id = "22222222-3333-4444-8555-666666666666"
client_secret_file = "{DIR}/secret"
refresh_token_file = "{DIR}/seed"
[dataverse]
url = "https://contoso.crm4.dynamics.com"
[dataverse.auth]
tenant_id = "11111111-2222-4333-8444-555555555555"
client_id = "33333333-4444-4555-8666-777777777777"
client_secret_file = "{DIR}/secret"
[mapping]
fallback_owner = { team = "66666666-7777-4888-8999-aaaaaaaaaaaa" }
"#;

fn sound() -> Place {
    let place = Place::new("");
    place.put("secret", "synthetic\n");
    place.put("seed", "synthetic\n");
    let text = SOUND.replace("{DIR}", &place.directory.path().display().to_string());
    place.put("referrald.toml", &text);
    place
}

fn sound_with(text: &str) -> Place {
    let place = sound();
    place.put("referrald.toml.d/50-test.toml", text);
    place
}

/// One problem with this key and severity, whose message or remedy holds these words; nothing else but warnings.
fn check(text: &str, severity: Severity, key: &str, words: &str) {
    check_place(&sound_with(text), severity, key, words);
}

fn check_place(place: &Place, severity: Severity, key: &str, words: &str) {
    let found = place.found();
    let fits = found.problems.iter().filter(|problem| {
        problem.key == key
            && problem.severity == severity
            && format!("{} {}", problem.message, problem.remedy).contains(words)
    });
    assert_eq!(fits.count(), 1, "{severity} {key} {words:?} in\n{found}");
    let others: Vec<_> =
        found.problems.iter().filter(|problem| problem.key != key && problem.severity == Severity::Error).collect();
    assert!(others.is_empty(), "only {key} was expected in\n{found}");
    assert!(found.problems.iter().all(|problem| !problem.remedy.is_empty() && !problem.message.is_empty()));
}

#[test]
fn the_defaults_alone_load_and_write_nothing() {
    let loaded = Settings::load(&Sources::default()).expect("defaults are in order");
    assert_eq!(loaded.settings, Settings::defaults());
    assert_eq!(loaded.settings.writes, Writes::Off);
    assert_eq!(loaded.settings.http.retry_delay, HumanDuration::from_millis(500));
    assert_eq!(loaded.settings.link.namespace.to_string(), "85bd8765-40f0-51b4-a713-1aabed049d80");
    assert!(loaded.warnings.problems.iter().all(|problem| problem.severity == Severity::Warning));
}

#[test]
fn every_key_has_its_line_in_the_defaults() {
    // A key without a default value stands there as a comment, in its own table.
    let mut table = String::new();
    let mut written = std::collections::BTreeSet::new();
    for line in DEFAULTS.lines() {
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            table = header.to_owned();
            written.insert(table.clone());
            let parts: Vec<&str> = table.split('.').collect();
            written.extend((1..parts.len()).map(|end| parts[..end].join(".")));
        } else if let Some((key, _)) = line.trim_start_matches(['#', ' ']).split_once(" = ") {
            written.insert(if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") });
        }
    }
    for key in extract::known_keys() {
        let is_open = ["mapping.groups", "mapping.tables"].iter().any(|open| key.is_within(&KeyPath::from(*open)));
        assert!(is_open || written.contains(&key.to_string()), "{key} has no line in config/default.toml");
    }
}

#[test]
fn a_sound_configuration_has_nothing_to_complain_about() {
    let loaded = sound().load().expect("it is sound");
    assert_eq!(loaded.warnings, Problems::default());
}

#[test]
fn the_example_loads_with_warnings_only() {
    let place = Place::new(include_str!("../../config/example.toml"));
    let loaded = place.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.settings.mapping.owners.len(), 2);
    assert_eq!(loaded.settings.brakes.closings_per_hour, 10);
}

/// The names that people, packages and tests rely on.
const FIXED_NAMES: &str = r#"
writes = "both"                          # "off" | "leads-only" | "both"
identity = "derived"                     # "derived" | "alternate_key"
referral_id_column = "new_referralid"    # optional with "derived", required with "alternate_key"

[partner_center]
base_url = "https://api.partner.microsoft.com"          # every URL here: plain http for loopback addresses only
webhook_api_url = "https://api.partnercenter.microsoft.com"
[partner_center.auth]
authority = "https://login.microsoftonline.com"
tenant_id = "11111111-2222-4333-8444-555555555555"
client_id = "22222222-3333-4444-8555-666666666666"
client_secret_file = "{DIR}/secret"
grant = "refresh_token"                  # "refresh_token" | "client_credentials" | "password"
refresh_token_file = "{DIR}/seed"
endpoint_version = "v2"                  # "v2" (scope) | "v1" (resource)

[dataverse]
url = "https://contoso.crm4.dynamics.com"
[dataverse.auth]                         # same keys; grant = "client_credentials" by default
tenant_id = "11111111-2222-4333-8444-555555555555"
client_id = "22222222-3333-4444-8555-666666666666"
certificate_file = "{DIR}/certificate"
private_key_file = "{DIR}/key"

[state]
directory = "/var/lib/referrald"         # ledger/ (disposable) and keep/ (not) inside

[status]
settle_time = "10m"                      # "0s" = at once
settle_time_lost = "24h"

[brakes]
closings_per_hour = 20                   # 0 = off
acceptances_per_hour = 100

[schedule]
reconcile = "0 * * * * *"
sweep = "0 30 3 * * *"
time_zone = "UTC"

[webhook]
listen = "127.0.0.1:8787"                # absent = no listener
path = "/partner-center"
certificate_sources = ["https://3psostorageacct.blob.core.windows.net/cert/"]   # URL prefixes
intermediate_sources = ["http://www.microsoft.com/pkiops/certs/", "http://cacerts.digicert.com/"]
trust_anchors_file = "{DIR}/certificate"               # absent = built-in set

[observability]
listen = "127.0.0.1:9464"                # absent = no listener
"#;

#[test]
fn the_fixed_names_load() {
    let place = sound();
    place.put("certificate", "-----BEGIN CERTIFICATE-----\n");
    place.put("key", "-----BEGIN PRIVATE KEY-----\n");
    place.put("referrald.toml", &FIXED_NAMES.replace("{DIR}", &place.directory.path().display().to_string()));
    let loaded = place.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.settings.writes, Writes::Both);
    assert_eq!(loaded.settings.referral_id_column.as_deref(), Some("new_referralid"));
    let warned: Vec<&str> = loaded.warnings.problems.iter().map(|problem| problem.key.as_str()).collect();
    for key in ["webhook.listen", "observability.listen", "mapping.owners"] {
        assert!(warned.contains(&key), "{key}");
    }
    assert_eq!(warned.len(), 3, "{}", loaded.warnings);
}

#[test]
fn three_wrong_types_in_three_places_are_reported_in_one_run() {
    let place = sound_with(
        "[brakes]\nclosings_per_hour = \"many\"\n[status]\nsettle_time = 10\n[scope]\nimport_spam = \"yes\"\n",
    );
    insta::assert_snapshot!(place.drawn(), @"");
}
