//! What sled and the disk answer, told apart: damage is moved aside, a full disk is waited for.

use std::io;

use super::codec::Failure;

/// Longest reason kept of a foreign message, in bytes.
const REASON_BYTES_MAX: usize = 200;

/// A sled error.
pub(super) fn from_sled(error: &::sled::Error) -> Failure {
    match error {
        ::sled::Error::Io(error) if is_lock(error) => Failure::Locked,
        ::sled::Error::Io(error) if is_damage(error) => Failure::Damage(reason(&error.to_string())),
        ::sled::Error::Io(error) => disk(error),
        ::sled::Error::CollectionNotFound(_)
        | ::sled::Error::Unsupported(_)
        | ::sled::Error::ReportableBug(_)
        | ::sled::Error::Corruption { .. } => Failure::Damage(reason(&error.to_string())),
    }
}

/// An error of the operating system.
pub(super) fn disk(error: &io::Error) -> Failure {
    Failure::Disk(reason(&error.to_string()))
}

/// A panic inside sled. Some carry an answer of the operating system, which is no damage.
pub(super) fn from_panic(panic: &(dyn std::any::Any + Send)) -> Failure {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason was given");
    if text.contains("Os { code:") { Failure::Disk(reason(text)) } else { Failure::Damage(reason(text)) }
}

fn is_lock(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other && error.to_string().contains("could not acquire lock")
}

/// Short files and checks that failed, or something else in the ledger's place. What the system refuses is no damage.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, InvalidData, IsADirectory, NotADirectory, UnexpectedEof};
    matches!(error.kind(), AlreadyExists | InvalidData | IsADirectory | NotADirectory | UnexpectedEof)
}

/// One line of a message, cut.
fn reason(text: &str) -> String {
    crate::store::cut(text.lines().next().unwrap_or_default(), REASON_BYTES_MAX).to_owned()
}
