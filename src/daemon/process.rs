//! What the system says of this process and of the ledger's files. Trouble with asking is an absent figure, no error.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::status::ProcessStatus;
use crate::model::Timestamp;

/// The size on disk is looked up again after this long: a status must not walk through folders each time.
pub const SIZE_AGE_MAX: Duration = Duration::from_secs(60);
/// Files of the ledger that are counted at most.
pub const FILES_MAX: usize = 20_000;

/// Clock ticks of `/proc/self/stat` in a second: `USER_HZ`, which is 100 on every architecture Linux runs us on.
const TICKS_PER_SECOND: u64 = 100;

/// This process now.
pub(super) fn process(started: Timestamp) -> ProcessStatus {
    ProcessStatus {
        pid: std::process::id(),
        started,
        resident_bytes: read("/proc/self/status").and_then(|text| resident(&text)),
        cpu_ms: read("/proc/self/stat").and_then(|text| cpu_ms(&text)),
        open_files: std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1) as u64),
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// `VmRSS` in bytes.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// User and system time. The name of the program comes before it, in parentheses, and may hold anything.
fn cpu_ms(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) * 1000 / TICKS_PER_SECOND)
}

/// The size of a folder, remembered for a while.
#[derive(Debug, Default)]
pub(super) struct Size {
    known: Mutex<Option<(Instant, Option<u64>)>>,
}

impl Size {
    /// Bytes of all files in a folder and the folders in it.
    pub(super) fn of(&self, folder: &Path) -> Option<u64> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((at, bytes)) if at.elapsed() < SIZE_AGE_MAX => bytes,
            Some(_) | None => {
                let bytes = bytes_in(folder);
                *known = Some((Instant::now(), bytes));
                bytes
            }
        }
    }
}

fn bytes_in(folder: &Path) -> Option<u64> {
    let mut folders = vec![folder.to_owned()];
    let (mut bytes, mut files) = (0, 0);
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).ok()?.flatten() {
            files += 1;
            if files > FILES_MAX {
                return None;
            }
            match item.metadata() {
                Ok(found) if found.is_dir() => folders.push(item.path()),
                Ok(found) => bytes += found.len(),
                Err(_) => {} // It has gone meanwhile.
            }
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Size, cpu_ms, process, resident};
    use crate::model::Timestamp;

    #[test]
    fn the_systems_words_are_read() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    1234 kB\n"), Some(1_263_616));
        assert_eq!(cpu_ms("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20"), Some(3000));
        let process = process(Timestamp::EPOCH);
        assert!(process.resident_bytes > Some(1_000_000) && process.cpu_ms.is_some() && process.open_files > Some(0));
    }

    #[test]
    fn the_size_of_a_folder_is_that_of_its_files() {
        let folder = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(folder.path().join("blobs")).expect("made");
        std::fs::write(folder.path().join("db"), [0; 1000]).expect("written");
        std::fs::write(folder.path().join("blobs/1"), [0; 24]).expect("written");
        assert_eq!(Size::default().of(folder.path()), Some(1024));
        assert_eq!(Size::default().of(&folder.path().join("absent")), None);
    }
}
