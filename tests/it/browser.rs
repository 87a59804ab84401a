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

/// A page as it is on a phone, and how wide it wanted to be: browsers do not make their windows that narrow.
fn phone(folder: &Path, name: &str, html: &str, width: u32, height: u32) -> String {
    let escaped = html.replace('&', "&amp;").replace('"', "&quot;");
    let file = folder.join(format!("{name}-phone.html"));
    let frame = format!(
        "<!doctype html><meta name=color-scheme content=\"light dark\"><body style=\"margin:0\">\
         <iframe id=f width={width} height={height} frameborder=0 srcdoc=\"{escaped}\"></iframe>\
         <script>f.onload=()=>{{const d=f.contentDocument,w=d.documentElement.scrollWidth;\
         const wide=[...d.querySelectorAll('body *')].filter(e=>e.getBoundingClientRect().right>{width}+.5&&!e.closest('svg')).map(e=>e.tagName+'.'+e.className);\
         const g=getComputedStyle(d.body).backgroundColor;\
         document.body.dataset.found=JSON.stringify({{width:w,wide,ground:g,title:d.title}})}}</script>"
    );
    std::fs::write(&file, frame).unwrap();
    format!("file://{}", file.display())
}

/// What the phone's page found out about itself.
fn found(document: &str) -> serde_json::Value {
    let text = document.split("data-found=\"").nth(1).and_then(|rest| rest.split('"').next()).expect(document);
    serde_json::from_str(&text.replace("&quot;", "\"")).unwrap()
}

fn complaints(words: &str) -> Vec<&str> {
    words.lines().filter(|line| line.contains("CONSOLE")).collect()
}

#[test]
fn the_page_fits_a_phone_in_both_schemes() {
    let Some(chromium) = chromium() else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["busy", "quiet"] {
        let html = page::render(&day(name), LAG_MAX, Refresh::default());
        let url = phone(folder.path(), name, &html, 360, 3000);
        let mut grounds = Vec::new();
        for is_dark in [false, true] {
            let (document, words) = show(&chromium, &url, 800, 3000, is_dark, None);
            let found = found(&document);
            assert_eq!((&found["width"], &found["wide"]), (&360.into(), &serde_json::json!([])), "{name} {is_dark}");
            assert_eq!(complaints(&words), Vec::<&str>::new());
            grounds.push(found["ground"].as_str().unwrap().to_owned());
        }
        assert_ne!(grounds[0], grounds[1], "the scheme of the reader is obeyed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_has_nothing_to_complain_about() {
    let Some(chromium) = chromium() else { return };
    let stage = crate::stage::Stage::new(94, 10).await;
    stage.overlay("[observability]\nlisten = \"127.0.0.1:0\"\n");
    let daemon = stage.daemon().await;
    daemon.cycle().await;
    let address = daemon.status().await.observability.and_then(|listener| listener.address).unwrap();
    let look = move || show(&chromium, &format!("http://{address}/"), 1200, 1900, false, None);
    let (document, words) = tokio::task::spawn_blocking(look).await.unwrap();
    assert!(document.contains("All is well") && document.contains("create lead"), "{document}");
    assert_eq!(complaints(&words), Vec::<&str>::new());
    assert_eq!(daemon.stop().await, 0);
}

#[test]
fn pictures_of_the_page_are_taken_when_asked_for() {
    let (Some(folder), Some(chromium)) = (std::env::var_os("REFERRALD_PICTURES"), chromium()) else { return };
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["busy", "quiet"] {
        let file = folder.join(format!("{name}.html"));
        let html = page::render(&day(name), LAG_MAX, Refresh::default());
        std::fs::write(&file, &html).unwrap();
        let wide = (format!("file://{}", file.display()), 900, 1080);
        for (size, (url, width, height)) in
            [("narrow", (phone(&folder, name, &html, 360, 2400), 500, 2400)), ("wide", wide)]
        {
            for (scheme, is_dark) in [("light", false), ("dark", true)] {
                let picture = folder.join(format!("{name}-{size}-{scheme}.png"));
                show(&chromium, &url, width, height, is_dark, Some(&picture));
            }
        }
    }
}
