//! Facts about layers and checks, all with temporary files.

mod layers;
mod mutation;
mod rules;
mod secrets;
mod types;

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

    /// The main file's text.
    fn text(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("referrald.toml")).expect("it is there")
    }

    /// Takes the last line of the main file that begins with this key out.
    fn drop_last(&self, key: &str) {
        let text = self.text();
        let (before, after) = text.rsplit_once(&format!("\n{key} = ")).expect("the key is there");
        let rest = after.split_once('\n').map_or("", |(_, rest)| rest);
        self.put("referrald.toml", &format!("{before}\n{rest}"));
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
