//! The status page in a real browser, headless Chromium, where there is one: it fits a phone, in both schemes, and the
//! browser has nothing to complain about. Where there is none, the tests say so and pass.
//!
//! `REFERRALD_PICTURES=FOLDER` keeps the pictures.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use referrald::daemon::Status;
use referrald::observability::page::{self, Refresh};

const LAG_MAX: Duration = Duration::from_secs(900);

/// The browser, if there is one.
fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let found =
        names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("no Chromium here: the page was not looked at in a browser");
    }
    found
}

/// Shows a page in a window of this size and gives what the browser printed: its document and its complaints.
fn show(
    chromium: &Path,
    url: &str,
    width: u32,
    height: u32,
    is_dark: bool,
    picture: Option<&Path>,
) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(chromium);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--virtual-time-budget=2000",
        "--timeout=60000",
    ]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("--window-size={width},{height}"));
    if is_dark {
        command.arg("--blink-settings=preferredColorScheme=0");
    } else {
        command.arg("--blink-settings=preferredColorScheme=1");
    }
    match picture {
        Some(file) => command.arg(format!("--screenshot={}", file.display())),
        None => command.arg("--dump-dom"),
    };
    let output = command.arg(url).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn day(name: &str) -> Status {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures").join(format!("status_{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn pictures_of_the_page_are_taken_when_asked_for() {
    let (Some(folder), Some(chromium)) = (std::env::var_os("REFERRALD_PICTURES"), chromium()) else { return };
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["busy", "quiet"] {
        let html = folder.join(format!("{name}.html"));
        std::fs::write(&html, page::render(&day(name), LAG_MAX, Refresh::default())).unwrap();
        for (size, width, height) in [("narrow", 500, 2600), ("wide", 1200, 1900)] {
            for (scheme, is_dark) in [("light", false), ("dark", true)] {
                let picture = folder.join(format!("{name}-{size}-{scheme}.png"));
                show(&chromium, &format!("file://{}", html.display()), width, height, is_dark, Some(&picture));
            }
        }
    }
}
