//! Where the layers come from: which file, which environment, which flags.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::document::Broken;
use super::key::{KeyPath, is_secret_name};
use super::layer::{Given, Layer, Layers, Place};
use super::problem::{Draft, Origin, Severity, Snippet};

/// What the settings are read from, besides the compiled-in defaults.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file; its drop-ins are `FILE.d/*.toml`. `None`: no file at all. A missing file is an error unless it is
    /// [`Sources::DEFAULT_FILE`].
    pub file: Option<PathBuf>,
    /// Dotted key and value; the later one wins.
    pub flags: Vec<(String, String)>,
    /// The process's environment: `REFERRALD_…` are settings, the rest is looked at where a setting names a variable.
    pub environment: BTreeMap<String, String>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of the environment and of flags may be secret.
        let flags: Vec<&str> = self.flags.iter().map(|(key, _)| key.as_str()).collect();
        f.debug_struct("Sources").field("file", &self.file).field("flags", &flags).finish_non_exhaustive()
    }
}

impl Sources {
    /// The file that is read when none is named.
    pub const DEFAULT_FILE: &str = "/etc/referrald/referrald.toml";
    /// How names of environment variables with settings begin.
    pub const PREFIX: &str = "REFERRALD_";
    /// Variables with that prefix that are no settings.
    pub const CONTROL_VARIABLES: [&str; 2] = ["REFERRALD_CONFIG", "REFERRALD_LOG"];
    /// Largest configuration file, in bytes.
    pub const FILE_BYTES_MAX: u64 = 1024 * 1024;
    /// Parts of a key from the environment or a flag at most; the rest is cut, which makes it an unknown key.
    pub const KEY_PARTS_MAX: usize = 16;
    /// Drop-ins at most.
    pub const DROP_INS_MAX: usize = 100;

    /// The sources of this process. `config` is the value of `--config`; without it `$REFERRALD_CONFIG`, else
    /// [`Sources::DEFAULT_FILE`] where it exists.
    pub fn from_process(config: Option<PathBuf>) -> Self {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named =
            config.or_else(|| environment.get("REFERRALD_CONFIG").filter(|file| !file.is_empty()).map(Into::into));
        Sources { file: Some(named.unwrap_or_else(|| Self::DEFAULT_FILE.into())), flags: Vec::new(), environment }
    }

    /// Reads all layers. What cannot be read is left out and reported.
    pub(super) fn read(&self) -> (Layers, Vec<Draft>) {
        let mut layers = Layers::default();
        let mut drafts = Vec::new();
        layers.push(Layer::built_in());
        for path in self.files(&mut drafts) {
            match read_file(&path) {
                Ok(text) => push_file(&mut layers, &path, text, &mut drafts),
                Err(reason) => {
                    let mut draft = unreadable(&path, &reason);
                    if !path.exists() {
                        draft.remedy =
                            "name an existing file with --config; `referrald init` writes a first one".to_owned();
                    }
                    drafts.push(draft);
                }
            }
        }
        // A variable that a setting names holds a secret and is no setting, whatever its prefix.
        let named: BTreeSet<String> = layers.iter().flat_map(|layer| layer.texts_ending_in("_environment")).collect();
        let named_by_variable = self.environment.iter().filter(|(name, _)| name.ends_with("_ENVIRONMENT"));
        let named: BTreeSet<&str> =
            named.iter().map(String::as_str).chain(named_by_variable.map(|(_, value)| value.as_str())).collect();
        let variables = self.environment.iter().filter_map(|(name, value)| {
            let key = name.strip_prefix(Self::PREFIX)?;
            let is_setting = !named.contains(name.as_str()) && !Self::CONTROL_VARIABLES.contains(&name.as_str());
            let parts = key.to_lowercase().split("__").take(Self::KEY_PARTS_MAX).map(str::to_owned).collect();
            let origin = Origin::Environment { variable: name.clone() };
            is_setting.then(|| Given::new(KeyPath::new(parts), value.clone(), origin))
        });
        layers.push(Layer::given(variables.collect()));

        let mut given = Vec::new();
        for (key, value) in &self.flags {
            let origin = Origin::Flag { flag: format!("--set {key}") };
            match KeyPath::parse(key) {
                Ok(path) => {
                    let parts = path.parts().iter().take(Self::KEY_PARTS_MAX).cloned().collect();
                    given.push(Given::new(KeyPath::new(parts), value.clone(), origin));
                }
                Err(reason) => drafts.push(Draft {
                    severity: Severity::Error,
                    key: KeyPath::default(),
                    message: reason,
                    remedy: "write KEY=VALUE".to_owned(),
                    place: Place { layer: usize::MAX, range: None, origin, snippet: None },
                }),
            }
        }
        layers.push(Layer::given(given));
        (layers, drafts)
    }

    /// The file and its drop-ins, in order.
    fn files(&self, drafts: &mut Vec<Draft>) -> Vec<PathBuf> {
        let Some(file) = &self.file else { return Vec::new() };
        let mut files = Vec::new();
        if file.as_path() != Path::new(Self::DEFAULT_FILE) || file.exists() {
            files.push(file.clone());
        }
        let mut directory = file.clone().into_os_string();
        directory.push(".d");
        let directory = PathBuf::from(directory);
        if directory.is_dir() {
            match std::fs::read_dir(&directory) {
                Ok(found) => {
                    let mut drop_ins: Vec<PathBuf> = found
                        .filter_map(|entry| Some(entry.ok()?.path()))
                        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
                        .filter(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")))
                        .collect();
                    drop_ins.sort();
                    if drop_ins.len() > Self::DROP_INS_MAX {
                        drafts.push(unreadable(&directory, &format!("more than {} drop-ins", Self::DROP_INS_MAX)));
                        drop_ins.truncate(Self::DROP_INS_MAX);
                    }
                    files.extend(drop_ins);
                }
                Err(error) => drafts.push(unreadable(&directory, &error.to_string())),
            }
        }
        files
    }
}

fn push_file(layers: &mut Layers, path: &Path, text: String, drafts: &mut Vec<Draft>) {
    match Layer::file(path, text) {
        Ok(layer) => layers.push(layer),
        Err(broken) => {
            let Broken { document, range, reason } = *broken;
            let snippet = Snippet::of_broken(&document, &range);
            drafts.push(Draft {
                severity: Severity::Error,
                key: KeyPath::default(),
                // The parser may name a key, and a broken file may have anything for a key.
                message: match reason.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(is_secret_name) {
                    true => "this is not valid TOML".to_owned(),
                    false => format!("this is not valid TOML: {}", reason.escape_debug()),
                },
                remedy: "text wants quotes, a key stands once, a table begins with [name]".to_owned(),
                place: Place { layer: 0, range: None, origin: document.origin(&range), snippet },
            });
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(Sources::FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > Sources::FILE_BYTES_MAX {
        return Err(format!("it is larger than {} bytes", Sources::FILE_BYTES_MAX));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}

fn unreadable(path: &Path, reason: &str) -> Draft {
    Draft {
        severity: Severity::Error,
        key: KeyPath::default(),
        message: format!("the file cannot be read: {reason}"),
        remedy: "name an existing, readable file with --config".to_owned(),
        place: Place {
            layer: 0,
            range: None,
            origin: Origin::File { path: path.to_owned(), line: 1, column: 1 },
            snippet: None,
        },
    }
}
