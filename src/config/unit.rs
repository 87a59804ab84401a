//! Where the unit takes its credentials from: for commands that a person types outside the service, such as the first
//! `referrald login`, which comes before the first start.

use std::path::{Path, PathBuf};

/// The credentials of the running service; for root only.
const RUNNING: &str = "run/credentials/referrald.service";
/// The unit and its drop-ins, the ones that count most first.
const UNITS: [&str; 6] = [
    "etc/systemd/system/referrald.service.d",
    "run/systemd/system/referrald.service.d",
    "usr/lib/systemd/system/referrald.service.d",
    "etc/systemd/system/referrald.service",
    "usr/lib/systemd/system/referrald.service",
    "lib/systemd/system/referrald.service",
];
/// Largest unit file that is read, in bytes.
const UNIT_BYTES_MAX: u64 = 256 * 1024;

/// The file behind a credential's name, as the service sees it or would see it. `root` is `/`.
pub fn credential(root: &Path, name: &str) -> Option<PathBuf> {
    let running = root.join(RUNNING).join(name);
    if running.is_file() {
        return Some(running);
    }
    files(root).iter().find_map(|file| loaded(&read(file)?, name))
}

/// The configuration file that the unit starts the daemon with.
pub fn config(root: &Path) -> Option<PathBuf> {
    let started = |text: String| {
        let line =
            text.lines().rev().map(str::trim).find_map(|line| line.strip_prefix("ExecStart=").map(str::to_owned))?;
        let mut words = line.split_whitespace();
        words.find(|word| *word == "--config")?;
        words.next().map(PathBuf::from)
    };
    files(root).iter().find_map(|file| started(read(file)?))
}

/// The unit and its drop-ins that are there.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for unit in UNITS.map(|unit| root.join(unit)) {
        match std::fs::read_dir(&unit) {
            Ok(drop_ins) => {
                let mut drop_ins: Vec<PathBuf> = drop_ins.filter_map(|entry| Some(entry.ok()?.path())).collect();
                drop_ins.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
                drop_ins.sort();
                found.extend(drop_ins.into_iter().rev());
            }
            Err(_) if unit.is_file() => found.push(unit),
            Err(_) => {}
        }
    }
    found
}

fn read(file: &Path) -> Option<String> {
    let is_small = std::fs::metadata(file).is_ok_and(|found| found.len() <= UNIT_BYTES_MAX);
    if is_small { std::fs::read_to_string(file).ok() } else { None }
}

/// `LoadCredential=name:/path` of a unit's text; the last line counts. An encrypted one cannot be read here.
fn loaded(text: &str, name: &str) -> Option<PathBuf> {
    let line = text.lines().rev().map(str::trim).find_map(|line| {
        let (given, path) = line.strip_prefix("LoadCredential=")?.split_once(':')?;
        (given == name).then_some(path)
    })?;
    Some(PathBuf::from(line)).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_found_in_the_running_service_then_in_its_unit() {
        let root = tempfile::tempdir().expect("a directory");
        let at = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        assert_eq!(credential(root.path(), "a"), None);
        at(
            "usr/lib/systemd/system/referrald.service",
            "[Service]\n#LoadCredential=a:/commented\nLoadCredential=a:/x\nLoadCredential=b:relative\n",
        );
        assert_eq!(credential(root.path(), "a"), Some(PathBuf::from("/x")));
        assert_eq!(credential(root.path(), "b"), None);
        at("etc/systemd/system/referrald.service.d/override.conf", "[Service]\nLoadCredential=a:/y\n");
        assert_eq!(credential(root.path(), "a"), Some(PathBuf::from("/y")));
        at("run/credentials/referrald.service/a", "secret");
        assert_eq!(credential(root.path(), "a"), Some(root.path().join("run/credentials/referrald.service/a")));
    }
}
