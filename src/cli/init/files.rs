//! Files of a first configuration: written whole or not at all, secrets for their owner only.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

/// Writes a secret, mode 0600.
pub fn write_secret(path: &Path, secret: &SecretString) -> io::Result<()> {
    write(path, secret.expose_secret().as_bytes(), 0o600)
}

/// Writes a file that everybody may read.
pub fn write_open(path: &Path, text: &str) -> io::Result<()> {
    write(path, text.as_bytes(), 0o644)
}

/// Makes a directory that everybody may enter, with its parents, whatever the umask: the service's user is not the one who
/// types. One that is there stays as it is.
pub fn open_directory(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
    for directory in missing.into_iter().rev() {
        std::fs::DirBuilder::new().create(directory)?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Makes a directory for secrets, mode 0700; one that is there stays as it is.
pub fn private_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let beside = path.with_file_name(format!(".{name}.new"));
    let _ = std::fs::remove_file(&beside);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    // Whatever the umask.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}
