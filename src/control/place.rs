//! Where the control socket is, and how its file is made and taken away safely.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Name of the socket file.
pub const SOCKET_NAME: &str = "control.sock";
/// Permissions of the socket file.
pub const SOCKET_MODE: u32 = 0o660;
/// Permissions of a runtime directory that we make.
pub const RUNTIME_MODE: u32 = 0o750;
/// Longest path the kernel takes for a Unix socket, its closing zero included.
const SOCKET_PATH_BYTES_MAX: usize = 108;

/// Where the control socket of one daemon may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    runtime_directory: Option<PathBuf>,
    state_directory: PathBuf,
}

/// The control socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A living process answers there.
    #[error("another daemon answers on {}; stop it first, or give this one its own daemon.runtime_directory", .0.display())]
    Taken(PathBuf),
    /// Something that is no socket is in the way; it is left alone.
    #[error("{} is no socket; move it away", .0.display())]
    InTheWay(PathBuf),
    /// The file system said no.
    #[error("the control socket {} could not be made: {error}", path.display())]
    Failed {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Place {
    /// The places for one state directory. `configured` is `daemon.runtime_directory`; `environment` is
    /// `$RUNTIME_DIRECTORY`, of which the first directory counts.
    pub fn new(environment: Option<&str>, configured: Option<&Path>, state_directory: &Path) -> Self {
        let from_systemd =
            environment.and_then(|list| list.split(':').find(|path| !path.is_empty())).map(PathBuf::from);
        Place {
            runtime_directory: from_systemd.or_else(|| configured.map(Path::to_owned)),
            state_directory: state_directory.to_owned(),
        }
    }

    /// The places for one state directory, with the environment of this process.
    pub fn of_this_process(configured: Option<&Path>, state_directory: &Path) -> Self {
        Place::new(std::env::var("RUNTIME_DIRECTORY").ok().as_deref(), configured, state_directory)
    }

    /// Where the daemon makes its socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime_directory.as_ref().unwrap_or(&self.state_directory).join(SOCKET_NAME)
    }

    /// A signpost in the state directory for commands that do not know the daemon's runtime directory.
    fn signpost(&self) -> Option<PathBuf> {
        let signpost = self.state_directory.join(SOCKET_NAME);
        (signpost != self.socket()).then_some(signpost)
    }

    /// Connects to the daemon; `None` when none is running.
    pub(super) async fn connect(&self) -> io::Result<Option<UnixStream>> {
        for path in std::iter::once(self.socket()).chain(self.signpost()) {
            match connect(&path).await {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) if is_nobody(&error) => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            }
        }
        Ok(None)
    }

    /// Makes the socket, mode 0660 from its first moment. A socket file that nobody answers on is replaced; the caller
    /// holds the ledger's lock, so no second daemon of the same state does this at the same time.
    pub(super) async fn bind(&self) -> Result<Bound, PlaceError> {
        let path = self.socket();
        let failed = |error| PlaceError::Failed { path: path.clone(), error };
        if let Some(directory) = &self.runtime_directory {
            // systemd has made its own; this is for a daemon that somebody starts by hand.
            std::fs::DirBuilder::new().recursive(true).mode(RUNTIME_MODE).create(directory).map_err(failed)?;
        }
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.file_type().is_socket() => match connect(&path).await {
                Err(error) if is_nobody(&error) => {}
                Ok(_) | Err(_) => return Err(PlaceError::Taken(path)),
            },
            // A signpost of a former run that lived elsewhere.
            Ok(found) if found.file_type().is_symlink() => {}
            Ok(_) => return Err(PlaceError::InTheWay(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // Made beside, then renamed over: never a moment without a socket or with looser permissions.
        let beside = path.with_file_name(format!(".{SOCKET_NAME}.{}", std::process::id()));
        let _ = std::fs::remove_file(&beside);
        let listener = with_short_path(&beside, |short| UnixListener::bind(short)).map_err(failed)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
        std::fs::rename(&beside, &path).map_err(failed)?;
        let inode = std::fs::symlink_metadata(&path).map_err(failed)?.ino();
        let signpost = self.signpost().filter(|signpost| point(signpost, &path));
        Ok(Bound { listener, files: BoundFiles { path, inode, signpost } })
    }
}

/// A socket that listens.
pub(super) struct Bound {
    pub(super) listener: UnixListener,
    pub(super) files: BoundFiles,
}

/// The files of a socket that listens; removed when dropped, if they are still ours.
pub(super) struct BoundFiles {
    path: PathBuf,
    inode: u64,
    signpost: Option<PathBuf>,
}

impl BoundFiles {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundFiles {
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if !is_ours {
            return;
        }
        let _ = std::fs::remove_file(&self.path);
        if let Some(signpost) = &self.signpost {
            let _ = std::fs::remove_file(signpost);
        }
    }
}

/// Puts the signpost; true when it stands. Without it only commands that know the runtime directory find the daemon.
fn point(signpost: &Path, socket: &Path) -> bool {
    if let Ok(found) = std::fs::symlink_metadata(signpost) {
        if !found.file_type().is_symlink() && !found.file_type().is_socket() {
            return false;
        }
        let _ = std::fs::remove_file(signpost);
    }
    match std::os::unix::fs::symlink(socket, signpost) {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%error, "no signpost to the control socket in the state directory");
            false
        }
    }
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    // Follow the signpost ourselves: the kernel's length limit is on the path we give, not on what it points to.
    let target = std::fs::canonicalize(path)?;
    let (short, _directory) = shorten(&target)?;
    UnixStream::connect(short).await
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory)
}

fn with_short_path<T>(path: &Path, call: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (short, _directory) = shorten(path)?;
    call(&short)
}

/// A path that fits into a socket address: through the open directory when the real one is too long. The directory
/// must stay open while the path is used.
fn shorten(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok((path.to_owned(), None));
    };
    if path.as_os_str().len() < SOCKET_PATH_BYTES_MAX {
        return Ok((path.to_owned(), None));
    }
    let directory = File::open(directory)?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name), Some(directory)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::{Place, PlaceError, SOCKET_MODE};

    fn place(directory: &Path) -> Place {
        Place::new(None, None, directory)
    }

    #[test]
    fn the_runtime_directory_of_systemd_wins_over_the_configured_one() {
        let (configured, state) = (Path::new("/run/mine"), Path::new("/var/lib/referrald"));
        let socket = |environment, configured| Place::new(environment, configured, state).socket();
        assert_eq!(socket(Some("/run/a:/run/b"), Some(configured)), Path::new("/run/a/control.sock"));
        assert_eq!(socket(Some(""), Some(configured)), Path::new("/run/mine/control.sock"));
        assert_eq!(socket(None, None), Path::new("/var/lib/referrald/control.sock"));
    }

    #[tokio::test]
    async fn the_socket_is_for_owner_and_group_only_and_goes_with_the_daemon() {
        let directory = tempfile::tempdir().expect("a directory");
        let bound = place(directory.path()).bind().await.expect("bound");
        let path = directory.path().join("control.sock");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        drop(bound);
        assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 0);
    }

    #[tokio::test]
    async fn a_socket_that_nobody_answers_on_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        drop(std::os::unix::net::UnixListener::bind(directory.path().join("control.sock")).expect("a stale socket"));
        let _bound = place(directory.path()).bind().await.expect("replaced");
        assert!(place(directory.path()).connect().await.expect("no trouble").is_some());
    }

    #[tokio::test]
    async fn a_socket_that_somebody_answers_on_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let _first = place(directory.path()).bind().await.expect("bound");
        assert!(matches!(place(directory.path()).bind().await, Err(PlaceError::Taken(_))));
        assert!(place(directory.path()).connect().await.expect("no trouble").is_some());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("control.sock"), "mine").expect("written");
        assert!(matches!(place(directory.path()).bind().await, Err(PlaceError::InTheWay(_))));
        assert_eq!(std::fs::read_to_string(directory.path().join("control.sock")).expect("read"), "mine");
    }

    #[tokio::test]
    async fn a_command_finds_the_daemon_by_its_state_directory_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let (runtime, state) = (directory.path().join("run"), directory.path().join("state"));
        std::fs::create_dir(&state).expect("made");
        let bound = Place::new(runtime.to_str(), None, &state).bind().await.expect("bound");
        assert!(place(&state).connect().await.expect("no trouble").is_some());
        drop(bound);
        assert!(place(&state).connect().await.expect("no trouble").is_none());
        assert_eq!(std::fs::read_dir(&state).expect("readable").count(), 0);
    }

    #[tokio::test]
    async fn a_path_too_long_for_the_kernel_works_all_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let deep = directory.path().join("d".repeat(80)).join("e".repeat(80));
        std::fs::create_dir_all(&deep).expect("made");
        let _bound = place(&deep).bind().await.expect("bound");
        assert!(place(&deep).connect().await.expect("no trouble").is_some());
    }
}
