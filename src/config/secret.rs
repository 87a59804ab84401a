//! Secrets, read from files, systemd credentials or the environment; never from the configuration file itself.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

/// Largest secret file that is read, in bytes: a wrong path should not swallow memory.
pub const SECRET_BYTES_MAX: u64 = 1024 * 1024;

/// Where one secret comes from, and which configuration key says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSource {
    /// The key that names the source, for messages, for example `dataverse.auth.client_secret_file`.
    pub key: String,
    /// The source.
    pub origin: SecretOrigin,
}

/// The kinds of sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretOrigin {
    /// A file.
    File(PathBuf),
    /// A systemd credential: a file of this name in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// An environment variable of this name.
    Environment(String),
}

impl SecretSource {
    /// A source named by `key`.
    pub fn new(key: impl Into<String>, origin: SecretOrigin) -> Self {
        SecretSource { key: key.into(), origin }
    }

    /// Reads the secret; one trailing line break is dropped, an empty secret is an error.
    ///
    /// # Errors
    /// When the source does not exist, cannot be read, is not text, is empty or too large. The error names key and
    /// source and never quotes the content.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        self.read_in(|name| std::env::var_os(name))
    }

    /// As `read`, in an environment given by `variable`.
    ///
    /// # Errors
    /// As `read`.
    pub fn read_in(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<SecretString, SecretError> {
        let text = match &self.origin {
            SecretOrigin::Environment(name) => variable(name)
                .ok_or_else(|| self.error(format!("the environment variable {name} is not set")))?
                .into_string()
                .map_err(|_| self.error(format!("the environment variable {name} is not UTF-8 text")))?,
            SecretOrigin::File(_) | SecretOrigin::Credential(_) => {
                let path = self.path_in(&variable)?;
                let bytes = read_limited(&path).map_err(|reason| {
                    let kind = std::fs::File::open(&path).err().map(|error| error.kind());
                    let is_kept_from_us = kind == Some(std::io::ErrorKind::PermissionDenied);
                    let remedy = match is_kept_from_us {
                        true => "run it as root, with sudo",
                        false => "create the file or correct the path",
                    };
                    self.error(format!("cannot read {}: {reason}; {remedy}", path.display()))
                })?;
                String::from_utf8(bytes).map_err(|_| {
                    self.error(format!("{} is not UTF-8 text; expected the bare secret", path.display()))
                })?
            }
        };
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(self.error(format!("{} is empty", self.place())));
        }
        Ok(SecretString::from(text))
    }

    /// The file behind this source, if it is one.
    pub fn path(&self) -> Option<PathBuf> {
        self.path_in(&|name: &str| std::env::var_os(name)).ok()
    }

    /// A warning when other users of this machine can read the secret's file.
    pub fn exposure(&self) -> Option<String> {
        let SecretOrigin::File(path) = &self.origin else { return None };
        exposure(&self.key, path)
    }

    /// The source in words.
    pub fn place(&self) -> String {
        match &self.origin {
            SecretOrigin::File(path) => path.display().to_string(),
            SecretOrigin::Credential(name) => format!("the systemd credential {name}"),
            SecretOrigin::Environment(name) => format!("the environment variable {name}"),
        }
    }

    fn path_in(&self, variable: &impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, SecretError> {
        match &self.origin {
            SecretOrigin::File(path) => Ok(path.clone()),
            SecretOrigin::Credential(name) if name.is_empty() || name.contains('/') || name == ".." || name == "." => {
                Err(self.error("a credential name is a bare file name".to_owned()))
            }
            SecretOrigin::Credential(name) => {
                if let Some(directory) = variable("CREDENTIALS_DIRECTORY") {
                    return Ok(Path::new(&directory).join(name));
                }
                // Typed by hand, outside the service.
                let unit = super::unit::Unit::of_this_process();
                unit.credential(Path::new("/"), name).ok_or_else(|| {
                    self.error(format!(
                        "there is no credential {name}: $CREDENTIALS_DIRECTORY is not set, and the unit {unit}.service names none; add LoadCredential={name}:/path to it (`systemctl edit {unit}`)"
                    ))
                })
            }
            SecretOrigin::Environment(_) => Err(self.error("an environment variable is no file".to_owned())),
        }
    }

    fn error(&self, reason: String) -> SecretError {
        SecretError { key: self.key.clone(), reason }
    }
}

/// A warning when other users of this machine can read the file that `key` names.
pub fn exposure(key: &str, path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o044 != 0).then(|| {
        format!(
            "{key}: {0} can be read by other users (mode {1:03o}); run `chmod 600 {0}`",
            path.display(),
            mode & 0o777
        )
    })
}

/// Reads a file up to `SECRET_BYTES_MAX` bytes.
///
/// # Errors
/// The reason in words, without the path.
pub fn read_limited(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;

    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("it is larger than {SECRET_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

/// A secret that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct SecretError {
    /// The configuration key that names the source.
    pub key: String,
    /// Why, and what to do.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, SecretSource) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("secret");
        std::fs::write(&path, content).expect("written");
        (directory, SecretSource::new("a.b.client_secret_file", SecretOrigin::File(path)))
    }

    #[test]
    fn one_line_break_at_the_end_is_not_part_of_a_secret() {
        for (content, expected) in
            [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), (" s \n\n", " s \n")]
        {
            let (_directory, source) = file(content.as_bytes());
            assert_eq!(source.read().expect("readable").expose_secret(), expected, "{content:?}");
        }
    }

    #[test]
    fn errors_name_key_and_source_and_never_the_content() {
        let (directory, source) = file(b"\xff\xfehidden");
        let text = source.read().expect_err("no text").to_string();
        assert!(text.contains("a.b.client_secret_file") && text.contains("not UTF-8") && !text.contains("hidden"));

        let missing = SecretSource::new("k", SecretOrigin::File(directory.path().join("absent")));
        let text = missing.read().expect_err("missing").to_string();
        assert!(text.contains("absent") && text.contains("create the file"), "{text}");

        let (_directory, empty) = file(b"\n");
        assert!(empty.read().expect_err("empty").to_string().contains("is empty"));

        let (_directory, large) = file(&vec![b'x'; usize::try_from(SECRET_BYTES_MAX).expect("small") + 1]);
        assert!(large.read().expect_err("large").to_string().contains("larger than"));
    }

    #[test]
    fn credentials_are_files_in_the_credentials_directory() {
        let (directory, _) = file(b"from-systemd\n");
        let place = directory.path().as_os_str().to_owned();
        let source = SecretSource::new("k", SecretOrigin::Credential("secret".into()));
        let read = source.read_in(|name| (name == "CREDENTIALS_DIRECTORY").then(|| place.clone()));
        assert_eq!(read.expect("readable").expose_secret(), "from-systemd");
        assert!(source.read_in(|_| None).expect_err("no systemd").to_string().contains("LoadCredential=secret"));
        let sly = SecretSource::new("k", SecretOrigin::Credential("../secret".into()));
        assert!(sly.read_in(|_| Some(place.clone())).is_err());
    }

    #[test]
    fn environment_variables_are_read_by_name() {
        let source = SecretSource::new("k", SecretOrigin::Environment("DV_SECRET".into()));
        assert_eq!(source.read_in(|_| Some("x".into())).expect("set").expose_secret(), "x");
        assert!(source.read_in(|_| None).expect_err("unset").to_string().contains("DV_SECRET is not set"));
    }

    #[test]
    fn a_file_that_others_can_read_is_warned_about() {
        let (_directory, source) = file(b"x");
        let path = source.path().expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(source.exposure().expect("exposed").contains("mode 640"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        assert_eq!(source.exposure(), None);
    }
}
