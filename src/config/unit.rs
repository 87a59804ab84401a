//! The unit of systemd that a command stands in for, and where it takes its credentials from: for commands that a person
//! types outside the service, such as the first `referrald login`, which comes before the first start.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::source::Sources;
use crate::telemetry::commands::argument;

/// Where units and their drop-ins lie, the ones that count most first; the last is that of older distributions.
const PLACES: [&str; 4] = ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
/// The credentials of running services; for root only.
const RUNNING: &str = "run/credentials";
/// Largest unit file that is read, in bytes.
const UNIT_BYTES_MAX: u64 = 256 * 1024;
/// Longest name of an instance: what systemd takes for the whole name of a unit, less what stands around it.
pub const INSTANCE_LENGTH_MAX: usize = 200;

/// The unit of this process, as the command line says; see [`Unit::of_this_process`].
static UNIT: OnceLock<Unit> = OnceLock::new();

/// `referrald.service`, or one instance of `referrald@.service`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// The instance's name; `None` for `referrald.service`.
    pub instance: Option<String>,
}

impl fmt::Display for Unit {
    /// As `systemctl` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.instance {
            Some(name) => write!(f, "referrald@{name}"),
            None => write!(f, "referrald"),
        }
    }
}

impl Unit {
    /// The unit that reads this configuration file: an instance's is `/etc/referrald/NAME/referrald.toml`.
    pub fn of_config(file: &Path) -> Unit {
        let home = Path::new(Sources::DEFAULT_FILE).parent().unwrap_or(Path::new("/"));
        let inner = file.strip_prefix(home).ok().filter(|inner| inner.components().count() == 2);
        let name = inner.filter(|inner| inner.ends_with("referrald.toml")).and_then(|inner| inner.parent()?.to_str());
        Unit { instance: name.and_then(|name| instance(name).ok()) }
    }

    /// The configuration file that this unit reads.
    pub fn config_file(&self) -> PathBuf {
        let file = Path::new(Sources::DEFAULT_FILE);
        match (&self.instance, file.parent(), file.file_name()) {
            (Some(instance), Some(home), Some(name)) => home.join(instance).join(name),
            _ => file.to_owned(),
        }
    }

    /// The unit that this process stands in for. A property of the process, like its environment: secrets are looked up
    /// deep in both adapters, which know nothing of files.
    pub fn of_this_process() -> Unit {
        UNIT.get().cloned().unwrap_or_default()
    }

    /// Says once, before anything is read, which configuration file this process was told to read.
    pub fn set_for_this_process(file: &Path) {
        // A second file in one process is a test's; the first one stays.
        let _ = UNIT.set(Unit::of_config(file));
    }

    /// The file behind a credential's name, as the service sees it or would see it. `root` is `/`.
    pub fn credential(&self, root: &Path, name: &str) -> Option<PathBuf> {
        let running = root.join(RUNNING).join(format!("{self}.service")).join(name);
        if running.is_file() {
            return Some(running);
        }
        self.files(root).iter().find_map(|file| self.loaded(&read(file)?, name))
    }

    /// The configuration file that the unit starts the daemon with.
    pub fn started_with(&self, root: &Path) -> Option<PathBuf> {
        let started = |text: String| {
            let line = text
                .lines()
                .rev()
                .map(str::trim)
                .find_map(|line| line.strip_prefix("ExecStart=").map(str::to_owned))?;
            let mut words = line.split_whitespace();
            words.find(|word| *word == "--config")?;
            words.next().map(|word| PathBuf::from(self.expanded(word)))
        };
        self.files(root).iter().find_map(|file| started(read(file)?))
    }

    /// The drop-in for credentials that `referrald init` writes.
    pub fn drop_in(&self) -> PathBuf {
        Path::new("/").join(PLACES[0]).join(format!("{self}.service.d")).join("10-secrets.conf")
    }

    /// The unit and its drop-ins that are there, the ones that count most first.
    pub fn files(&self, root: &Path) -> Vec<PathBuf> {
        let mut names = vec![format!("{self}.service")];
        names.extend(self.instance.as_ref().map(|_| "referrald@.service".to_owned()));
        let mut found = Vec::new();
        for name in &names {
            for place in PLACES {
                let drop_ins = std::fs::read_dir(root.join(place).join(format!("{name}.d")));
                let drop_ins = drop_ins.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
                let mut drop_ins: Vec<PathBuf> =
                    drop_ins.filter(|path| path.extension().is_some_and(|extension| extension == "conf")).collect();
                drop_ins.sort();
                found.extend(drop_ins.into_iter().rev());
            }
        }
        let units = names.iter().flat_map(|name| PLACES.map(|place| root.join(place).join(name)));
        found.extend(units.filter(|unit| unit.is_file()));
        found
    }

    /// `LoadCredential=name:/path` of a unit's text; the last line counts. An encrypted one cannot be read here.
    fn loaded(&self, text: &str, name: &str) -> Option<PathBuf> {
        let line = text.lines().rev().map(str::trim).find_map(|line| {
            let (given, path) = line.strip_prefix("LoadCredential=")?.split_once(':')?;
            (given == name).then_some(path)
        })?;
        Some(PathBuf::from(self.expanded(line))).filter(|path| path.is_absolute())
    }

    /// With the instance's name in the place of its specifier.
    fn expanded(&self, text: &str) -> String {
        text.replace("%i", self.instance.as_deref().unwrap_or_default())
    }
}

/// What tells a command this configuration file: `--instance NAME`, `--config FILE`, or nothing for the default one.
pub fn options_for(file: &Path) -> String {
    let unit = Unit::of_config(file);
    match &unit.instance {
        Some(name) => format!("--instance {name}"),
        None if file == unit.config_file() => String::new(),
        None => format!("--config {}", argument(&file.display().to_string())),
    }
}

/// Reads the name of an instance: what systemd takes without escapes, and what can stand in a path.
///
/// # Errors
/// In words.
pub fn instance(text: &str) -> Result<String, String> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    let is_plain = !text.is_empty() && text.len() <= INSTANCE_LENGTH_MAX && text.chars().all(is_known);
    // The folder of secrets lies where instances have theirs.
    match is_plain && !text.starts_with('.') && text != "secrets" {
        true => Ok(text.to_owned()),
        false => Err("expected a short name of letters, digits, - and _, for example contoso".to_owned()),
    }
}

fn read(file: &Path) -> Option<String> {
    let is_small = std::fs::metadata(file).is_ok_and(|found| found.len() <= UNIT_BYTES_MAX);
    if is_small { std::fs::read_to_string(file).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    fn contoso() -> Unit {
        Unit { instance: Some("contoso".to_owned()) }
    }

    #[test]
    fn a_credential_is_found_in_the_running_service_then_in_its_unit() {
        let root = tempfile::tempdir().expect("a directory");
        let (at, unit) = (|path: &str, text: &str| put(root.path(), path, text), Unit::default());
        assert_eq!(unit.credential(root.path(), "a"), None);
        at(
            "usr/lib/systemd/system/referrald.service",
            "[Service]\n#LoadCredential=a:/commented\nLoadCredential=a:/x\nLoadCredential=b:relative\n",
        );
        assert_eq!(unit.credential(root.path(), "a"), Some(PathBuf::from("/x")));
        assert_eq!(unit.credential(root.path(), "b"), None);
        at("etc/systemd/system/referrald.service.d/override.conf", "[Service]\nLoadCredential=a:/y\n");
        assert_eq!(unit.credential(root.path(), "a"), Some(PathBuf::from("/y")));
        at("run/credentials/referrald.service/a", "secret");
        assert_eq!(unit.credential(root.path(), "a"), Some(root.path().join("run/credentials/referrald.service/a")));
    }

    #[test]
    fn an_instance_has_its_own_drop_ins_before_those_of_the_template() {
        let root = tempfile::tempdir().expect("a directory");
        let at = |path: &str, text: &str| put(root.path(), path, text);
        at(
            "usr/lib/systemd/system/referrald@.service",
            "[Service]\nExecStart=/usr/bin/referrald --config /etc/referrald/%i/referrald.toml run\n\
             LoadCredential=a:/etc/referrald/%i/secrets/a\n",
        );
        let of = |unit: &Unit, name: &str| unit.credential(root.path(), name);
        assert_eq!(of(&contoso(), "a"), Some(PathBuf::from("/etc/referrald/contoso/secrets/a")));
        assert_eq!(
            contoso().started_with(root.path()),
            Some(PathBuf::from("/etc/referrald/contoso/referrald.toml")),
            "the file that the unit reads"
        );
        at("etc/systemd/system/referrald@.service.d/10.conf", "[Service]\nLoadCredential=a:/all\n");
        assert_eq!(of(&contoso(), "a"), Some(PathBuf::from("/all")));
        at("etc/systemd/system/referrald@contoso.service.d/10-secrets.conf", "[Service]\nLoadCredential=a:/mine\n");
        assert_eq!(of(&contoso(), "a"), Some(PathBuf::from("/mine")));
        at("run/credentials/referrald@contoso.service/a", "secret");
        assert_eq!(of(&contoso(), "a"), Some(root.path().join("run/credentials/referrald@contoso.service/a")));
        // Nothing of it is another instance's, or that of the only unit.
        let fabrikam = Unit { instance: Some("fabrikam".to_owned()) };
        assert_eq!(of(&fabrikam, "a"), Some(PathBuf::from("/all")));
        assert_eq!(of(&Unit::default(), "a"), None);
    }

    #[test]
    fn the_configuration_file_tells_the_unit() {
        let of = |file: &str| Unit::of_config(Path::new(file)).to_string();
        assert_eq!(of("/etc/referrald/referrald.toml"), "referrald");
        assert_eq!(of("/etc/referrald/contoso/referrald.toml"), "referrald@contoso");
        assert_eq!(of("/etc/referrald/contoso/other.toml"), "referrald");
        assert_eq!(of("/etc/referrald/a/b/referrald.toml"), "referrald");
        assert_eq!(of("/home/me/referrald.toml"), "referrald");
        assert_eq!(contoso().config_file(), Path::new("/etc/referrald/contoso/referrald.toml"));
        assert_eq!(Unit::default().config_file(), Path::new("/etc/referrald/referrald.toml"));
        assert_eq!(contoso().drop_in(), Path::new("/etc/systemd/system/referrald@contoso.service.d/10-secrets.conf"));
    }

    #[test]
    fn commands_name_the_configuration_file_by_as_little_as_it_takes() {
        let of = |file: &str| options_for(Path::new(file));
        assert_eq!(of("/etc/referrald/referrald.toml"), "");
        assert_eq!(of("/etc/referrald/contoso/referrald.toml"), "--instance contoso");
        assert_eq!(of("/home/my own/referrald.toml"), "--config '/home/my own/referrald.toml'");
    }

    #[test]
    fn a_name_of_an_instance_can_stand_in_a_path_and_in_a_unit() {
        assert!(["contoso", "contoso-emea", "a.b_c:1"].iter().all(|name| instance(name).is_ok()));
        let long = "x".repeat(INSTANCE_LENGTH_MAX + 1);
        let bad = ["", ".", "..", ".hidden", "a/b", "con toso", "con\ntoso", "secrets", "köln", "%i", "@", &long];
        assert!(bad.iter().all(|name| instance(name).is_err()));
    }
}
