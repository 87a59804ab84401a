//! The kept refresh token: one file, one writer in this process, replaced atomically.
//!
//! Entra ID gives a new refresh token with every use (partner-center §2.4). It is on disk before the access token that
//! came with it is used for the first time. The one before stays beside it until the next success.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::config::secret::read_limited;
use crate::model::Timestamp;

/// Written on trial before a token is asked for; more than the file ever needs.
const TRIAL_BYTES: usize = 16 * 1024;
/// Version of the file's format.
const FORMAT: u32 = 1;

/// The one seat at one kept token: both services share it when they sign in as the same user with the same application.
pub struct Seat {
    path: PathBuf,
    /// Held from reading the file until its replacement is on disk.
    pub turn: tokio::sync::Mutex<()>,
}

/// What the file holds.
#[derive(Clone)]
pub struct Kept {
    /// The newest refresh token.
    pub token: SecretString,
    /// When it was obtained.
    pub obtained_at: Timestamp,
    /// The one that it replaced.
    pub previous: Option<SecretString>,
    /// SHA-256 of the configured seed when this was written, in hexadecimal: a different seed is newer than this.
    pub seed: Option<String>,
    /// A person signed in and the seed could not be read then: whatever it holds at its first sight is older than this.
    pub is_newer_than_seed: bool,
    /// When a person signed in last; it outlives every rotation, so that another value is another sign-in.
    pub signed_in_at: Option<Timestamp>,
}

impl Seat {
    /// The seat at `directory/name`, shared within the process.
    pub fn at(directory: &Path, name: &str) -> Arc<Seat> {
        static SEATS: LazyLock<Mutex<HashMap<PathBuf, Weak<Seat>>>> = LazyLock::new(Mutex::default);

        let path = resolve(directory).join(name);
        let mut seats = SEATS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seat) = seats.get(&path).and_then(Weak::upgrade) {
            return seat;
        }
        seats.retain(|_, seat| seat.strong_count() > 0);
        let seat = Arc::new(Seat { path: path.clone(), turn: tokio::sync::Mutex::default() });
        seats.insert(path, Arc::downgrade(&seat));
        seat
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the kept token; `None` when there is none yet. A damaged file is moved aside.
    ///
    /// # Errors
    /// The reason in words when the file exists and cannot be read, or was written by a newer program.
    pub fn load(&self) -> Result<Option<Kept>, String> {
        if !self.path.exists() {
            return Ok(None);
        }
        let bytes =
            read_limited(&self.path).map_err(|reason| format!("cannot read {}: {reason}", self.path.display()))?;
        match serde_json::from_slice::<OnDisk>(&bytes) {
            Ok(file) if file.format == FORMAT => Ok(Some(file.into())),
            Ok(file) => Err(format!("{} has format {}, this program knows {FORMAT}", self.path.display(), file.format)),
            Err(_) => {
                let aside = self.path.with_extension("damaged");
                tracing::warn!(file = %self.path.display(), aside = %aside.display(), "the kept refresh token is damaged; moved aside");
                std::fs::rename(&self.path, &aside).map_err(|error| {
                    format!("{} is damaged and cannot be moved aside: {error}", self.path.display())
                })?;
                Ok(None)
            }
        }
    }

    /// When a person signed in last, as far as the file can be read and says so. Moves nothing aside.
    pub fn signed_in_at(&self) -> Option<Timestamp> {
        let file: OnDisk = serde_json::from_slice(&read_limited(&self.path).ok()?).ok()?;
        file.signed_in_at
    }

    /// Checks that a token could be kept, before one is asked for: the directory is writable and the disk not full.
    ///
    /// # Errors
    /// The reason in words.
    pub fn check_writable(&self) -> Result<(), String> {
        let mut file = self.create()?;
        let trial = file.write_all(&[0; TRIAL_BYTES]).and_then(|()| file.sync_all());
        let removed = std::fs::remove_file(self.fresh());
        trial.and(removed).map_err(|error| self.cannot_keep(&error))
    }

    /// Replaces the kept token: written, flushed, renamed, and the directory flushed.
    ///
    /// # Errors
    /// The reason in words; the file is then as it was.
    pub fn store(&self, kept: &Kept) -> Result<(), String> {
        let fail = |error: std::io::Error| self.cannot_keep(&error);
        let mut file = self.create()?;
        let text = serde_json::to_vec(&OnDisk::from(kept)).map_err(|error| self.cannot_keep(&error.into()))?;
        file.write_all(&text).map_err(fail)?;
        file.sync_all().map_err(fail)?;
        std::fs::rename(self.fresh(), &self.path).map_err(fail)?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail)
    }

    /// Where the replacement is written. A fixed name: a crash leaves one such file at most.
    fn fresh(&self) -> PathBuf {
        self.path.with_extension("new")
    }

    fn create(&self) -> Result<std::fs::File, String> {
        let attempt = || {
            let directory = self.path.parent().unwrap_or(Path::new("."));
            let is_new = !directory.exists();
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            if is_new && let (Some(above), Ok(made)) = (directory.parent(), std::fs::File::open(directory)) {
                hand_over(&made, above);
            }
            match std::fs::remove_file(self.fresh()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(self.fresh())
                .inspect(|file| hand_over(file, directory))
        };
        attempt().map_err(|error| self.cannot_keep(&error))
    }

    fn cannot_keep(&self, error: &std::io::Error) -> String {
        format!(
            "cannot keep the rotated refresh token in {}: {error}; make the directory writable",
            self.path.display()
        )
    }
}

/// Gives a file or directory to the owner of the directory it lies in: what root writes into the state of a daemon that
/// runs as somebody else must be readable for that daemon. Only root can give away; what others make is theirs anyway.
fn hand_over(file: &std::fs::File, directory: &Path) {
    let (Ok(own), Ok(above)) = (file.metadata(), std::fs::metadata(directory)) else { return };
    if own.uid() != above.uid()
        && let Err(error) = std::os::unix::fs::fchown(file, Some(above.uid()), Some(above.gid()))
    {
        tracing::warn!(directory = %directory.display(), %error, "a new file cannot be given to the directory's owner");
    }
}

/// The real path of a directory of which the last parts need not exist yet.
fn resolve(directory: &Path) -> PathBuf {
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    absolute
        .ancestors()
        .find_map(|ancestor| Some(ancestor.canonicalize().ok()?.join(absolute.strip_prefix(ancestor).ok()?)))
        .unwrap_or_else(|| absolute.clone())
}

/// The file's name: the same for the same authority, tenant, application and seed.
pub fn file_name(authority: &url::Url, tenant: &str, client_id: &str, seed: &str) -> String {
    let identity = format!("{authority}\n{}\n{}\n{seed}", tenant.to_lowercase(), client_id.to_lowercase());
    format!("refresh-token-{}.json", &hex_sha256(identity.as_bytes())[..16])
}

/// SHA-256 in hexadecimal.
pub fn hex_sha256(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The JSON of the file. It has no `Debug`: it holds secrets in the clear.
#[derive(Serialize, Deserialize)]
struct OnDisk {
    format: u32,
    refresh_token: String,
    obtained_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous_refresh_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_newer_than_seed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signed_in_at: Option<Timestamp>,
}

impl From<&Kept> for OnDisk {
    fn from(kept: &Kept) -> Self {
        OnDisk {
            format: FORMAT,
            refresh_token: kept.token.expose_secret().to_owned(),
            obtained_at: kept.obtained_at,
            previous_refresh_token: kept.previous.as_ref().map(|token| token.expose_secret().to_owned()),
            seed_sha256: kept.seed.clone(),
            is_newer_than_seed: kept.is_newer_than_seed,
            signed_in_at: kept.signed_in_at,
        }
    }
}

impl From<OnDisk> for Kept {
    fn from(file: OnDisk) -> Self {
        Kept {
            token: file.refresh_token.into(),
            obtained_at: file.obtained_at,
            previous: file.previous_refresh_token.map(SecretString::from),
            seed: file.seed_sha256,
            is_newer_than_seed: file.is_newer_than_seed,
            signed_in_at: file.signed_in_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn kept(token: &str) -> Kept {
        Kept {
            token: token.into(),
            obtained_at: Timestamp::from_seconds(1),
            previous: None,
            seed: None,
            is_newer_than_seed: false,
            signed_in_at: None,
        }
    }

    #[test]
    fn a_kept_token_is_private_and_replaced_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let seat = Seat::at(&directory.path().join("keep"), "token.json");
        assert!(seat.load().expect("readable").is_none());
        seat.store(&kept("one")).expect("stored");
        seat.store(&Kept { previous: Some("one".into()), ..kept("two") }).expect("stored");
        let loaded = seat.load().expect("readable").expect("there");
        assert_eq!(loaded.token.expose_secret(), "two");
        assert_eq!(loaded.previous.expect("kept").expose_secret(), "one");
        let mode = std::fs::metadata(seat.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let names: Vec<_> = std::fs::read_dir(directory.path().join("keep")).expect("listed").collect();
        assert_eq!(names.len(), 1, "no leftovers");
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_token() {
        let directory = tempfile::tempdir().expect("a directory");
        let seat = Seat::at(directory.path(), "token.json");
        seat.store(&kept("one")).expect("stored");
        std::fs::write(seat.fresh(), b"{\"format\":1,\"refr").expect("half written");
        assert_eq!(seat.load().expect("readable").expect("there").token.expose_secret(), "one");
        seat.store(&kept("two")).expect("the leftover is in nobody's way");
        assert_eq!(seat.load().expect("readable").expect("there").token.expose_secret(), "two");
    }

    #[test]
    fn a_damaged_file_is_moved_aside_and_a_newer_one_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let seat = Seat::at(directory.path(), "token.json");
        std::fs::write(seat.path(), b"\0\0\0").expect("written");
        assert!(seat.load().expect("moved aside").is_none());
        assert!(seat.path().with_extension("damaged").exists());

        std::fs::write(seat.path(), br#"{"format":9,"refresh_token":"x","obtained_at":0}"#).expect("written");
        assert!(seat.load().is_err_and(|reason| reason.contains("format 9")));
    }

    #[test]
    fn one_file_has_one_seat_and_another_user_another_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let seat = Seat::at(directory.path(), "token.json");
        assert!(Arc::ptr_eq(&seat, &Seat::at(directory.path(), "token.json")));
        assert!(!Arc::ptr_eq(&seat, &Seat::at(directory.path(), "other.json")));

        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).expect("linked");
        let before = Seat::at(&link.join("keep"), "token.json");
        std::fs::create_dir(directory.path().join("keep")).expect("created");
        assert!(Arc::ptr_eq(&before, &Seat::at(&directory.path().join("keep"), "token.json")));

        let authority = url::Url::parse("https://login.microsoftonline.com").expect("a URL");
        let name = |tenant, client, seed| file_name(&authority, tenant, client, seed);
        assert_eq!(name("T", "app", "/seed"), name("t", "APP", "/seed"));
        assert_ne!(name("t", "app", "/seed"), name("t", "app", "/other"));
        assert_ne!(name("t", "app", "/seed"), name("u", "app", "/seed"));
    }
}
