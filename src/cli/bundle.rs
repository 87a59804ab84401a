//! `referrald support-bundle`: what somebody who helps needs to see, in one archive, and nothing about any person.
//!
//! Everything in it is made of what the daemon may show anyway: ids, counts, statuses, instants and our own sentences. On
//! top of that every text is searched for what looks like an address or a token before it goes in.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::build::{Purpose, StartError};
use super::exit::Exit;
use super::layout::wrapped;
use super::progress::watched;
use super::{Call, Failure, print_json, words};
use crate::config::{Settings, show};
use crate::control::Client;
use crate::daemon::Engine;
use crate::model::{ReferralId, Timestamp};

/// Referrals whose history goes in: those in trouble, then those held, then those that changed last.
pub const HISTORIES_MAX: usize = 200;
/// How long the observability listener may take.
const METRICS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// Lines of the journal.
pub const LOG_LINES_MAX: u32 = 5000;
/// Longest line of an export that is looked at.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// Where what is asked comes from.
enum Source {
    Daemon(Client),
    Engine(Arc<dyn Engine>),
}

/// The archive while it is filled.
#[derive(Default)]
struct Bundle {
    files: BTreeMap<&'static str, String>,
    /// What could not be had, and why.
    missing: Vec<String>,
}

/// Writes the archive, and says what is in it.
pub(super) async fn bundle(call: &Call<'_>, to: Option<&Path>, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let now: Timestamp = jiff::Timestamp::now().into();
    let name = format!("referrald-support-{}", now.to_jiff().strftime("%Y%m%dT%H%M%SZ"));
    let file = to.map_or_else(|| PathBuf::from(format!("{name}.tar.gz")), Path::to_owned);
    let mut bundle = Bundle::default();
    bundle.put_json("versions.json", &versions(now));
    bundle.configuration(call);
    match source(call).await {
        Ok(source) => watched("the ledger is read", None, bundle.state(&source)).await,
        Err(error) => {
            // What is wrong with a configuration is told with the line it stands on, and that line may say anything.
            let is_told = matches!(error, Failure::Start(StartError::Configuration(_)));
            let why = if is_told { "the configuration cannot be used".to_owned() } else { error.to_string() };
            bundle.miss("status, history and the check of the ledger", &why);
        }
    }
    bundle.metrics(call).await;
    bundle.log();
    bundle.readme(now);
    write(&file, &name, &bundle.files).map_err(|error| Failure::Other(format!("{}: {error}", file.display())))?;
    if call.is_json {
        let sizes: BTreeMap<&str, usize> = bundle.files.iter().map(|(name, text)| (*name, text.len())).collect();
        print_json(out, &json!({ "file": file, "files": sizes, "missing": bundle.missing }))?;
        return Ok(Exit::Fine);
    }
    writeln!(out, "written to {}; look through it before you send it", file.display())?;
    for (name, text) in &bundle.files {
        writeln!(out, "  {:<20} {:>10} bytes", name, words::number_text(text.len() as u64))?;
    }
    let mut text = String::new();
    bundle.missing.iter().for_each(|missing| wrapped(&mut text, 2, &format!("not in it: {missing}")));
    write!(out, "{text}")?;
    Ok(Exit::Fine)
}

async fn source(call: &Call<'_>) -> Result<Source, Failure> {
    Ok(match call.daemon().await? {
        Some(daemon) => Source::Daemon(daemon),
        None => Source::Engine(call.build.engine(call.flags, Purpose::Look).await?),
    })
}

/// The program, and what it runs on.
fn versions(now: Timestamp) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let system = read("/etc/os-release").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(line.trim_matches('"').to_owned())
    });
    json!({
        "referrald": env!("CARGO_PKG_VERSION"),
        "made": now.to_string(),
        "system": system,
        "kernel": read("/proc/sys/kernel/osrelease"),
        "architecture": std::env::consts::ARCH,
        "is_under_systemd": Path::new("/run/systemd/system").exists(),
    })
}

impl Bundle {
    fn put(&mut self, name: &'static str, text: &str) {
        self.files.insert(name, scrubbed(text));
    }

    fn put_json(&mut self, name: &'static str, value: &impl serde::Serialize) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.put(name, &(text + "\n")),
            Err(error) => self.miss(name, &error),
        }
    }

    fn miss(&mut self, what: &str, why: &dyn std::fmt::Display) {
        self.missing.push(scrubbed(&format!("{what}: {why}")));
    }

    /// Effective values with their origin, and what `config check` says.
    fn configuration(&mut self, call: &Call<'_>) {
        match Settings::load(&call.flags.sources()) {
            Ok(mut loaded) => {
                // Samples are somebody's referrals, and a user name is an address.
                loaded.settings.mapping.test.clear();
                for auth in [&mut loaded.settings.partner_center.auth, &mut loaded.settings.dataverse.auth] {
                    auth.username = auth.username.take().map(|_| show::HIDDEN.to_owned());
                }
                self.put("configuration.toml", &show::to_toml(&loaded, true));
                self.put("config-check.txt", &format!("{}\n", loaded.warnings));
            }
            Err(problems) => {
                // Without the lines they stand on: nobody has checked what is written there.
                let line = |problem: &crate::config::Problem| {
                    format!("{}: {} ({})\n", problem.key, problem.message, problem.origin)
                };
                self.put("config-check.txt", &problems.problems.iter().map(line).collect::<String>());
                self.miss("configuration", &"it cannot be used; config-check.txt says why");
            }
        }
    }

    /// How things stand, what the ledger is like, and what was done to the referrals that matter most.
    async fn state(&mut self, source: &Source) {
        let status = match source {
            Source::Daemon(daemon) => daemon.status().await.map_err(Failure::from),
            Source::Engine(engine) => engine.status().await.map_err(Failure::from),
        };
        match status {
            Ok(status) => {
                let mut value = serde_json::to_value(&status).unwrap_or_default();
                value["is_running"] = matches!(source, Source::Daemon(_)).into();
                value["lag_seconds"] = status.lag_seconds().into();
                self.put_json("status.json", &value);
            }
            Err(error) => self.miss("status", &error),
        }
        let check = match source {
            Source::Daemon(daemon) => daemon.check().await.map_err(Failure::from),
            Source::Engine(engine) => engine.check().await.map_err(Failure::from),
        };
        match check {
            Ok(check) => self.put_json("state-check.json", &check),
            Err(error) => self.miss("check of the ledger", &error),
        }
        match picked(source).await {
            Ok(ids) => self.histories(source, ids).await,
            Err(error) => self.miss("history", &error),
        }
    }

    async fn histories(&mut self, source: &Source, ids: Vec<ReferralId>) {
        let mut lines = String::new();
        for id in ids {
            let history = match source {
                Source::Daemon(daemon) => daemon.history(id).await.map_err(Failure::from),
                Source::Engine(engine) => engine.history(id).await.map_err(Failure::from),
            };
            match history {
                Ok(history) => {
                    for line in history {
                        lines.push_str(&format!("{} {} {} {}\n", line.at, line.referral, line.kind, line.outcome));
                    }
                }
                Err(error) => return self.miss("history", &error),
            }
        }
        self.put("history.txt", &lines);
    }

    /// What the observability listener counts, where there is one.
    async fn metrics(&mut self, call: &Call<'_>) {
        let listen = Settings::load(&call.flags.sources()).ok().and_then(|loaded| loaded.settings.observability.listen);
        let Some(listen) = listen else {
            return self
                .miss("metrics", &"no listener is configured (observability.listen); status.json has the counts");
        };
        let asked = async {
            let client = reqwest::Client::builder().no_proxy().timeout(METRICS_TIMEOUT).build()?;
            client.get(format!("http://{listen}/metrics")).send().await?.error_for_status()?.text().await
        };
        match asked.await {
            Ok(text) => self.put("metrics.txt", &text),
            Err(error) => self.miss("metrics", &error),
        }
    }

    /// The journal of the unit, where there is one.
    fn log(&mut self) {
        let lines = LOG_LINES_MAX.to_string();
        let arguments = ["--no-pager", "-o", "short-iso", "-n", &lines, "-u", "referrald.service", "-u", "referrald@*"];
        match Command::new("journalctl").args(arguments).output() {
            Ok(output) if output.status.success() => self.put("log.txt", &String::from_utf8_lossy(&output.stdout)),
            Ok(output) => self.miss("log", &format!("journalctl ended with {}; try as root", output.status)),
            Err(error) => self.miss("log", &format!("journalctl: {error}; add what the daemon printed yourself")),
        }
    }

    fn readme(&mut self, now: Timestamp) {
        let mut text = format!(
            "What referrald {} had to tell at {now}.\n\n\
             versions.json        the program and the system\n\
             configuration.toml   effective values, each with its origin; secrets, user names and mapping tests are out\n\
             config-check.txt     what `config check` says\n\
             status.json          `status --json`\n\
             state-check.json     `state check --json`\n\
             history.txt          what was done to the referrals in trouble, held, or changed last ({HISTORIES_MAX} at most)\n\
             metrics.txt          what /metrics says, where a listener is configured\n\
             log.txt              the last {LOG_LINES_MAX} lines of the journal\n\n\
             There are ids of referrals, leads, users and organizations in it, and names of hosts and files. There is no\n\
             name, address, telephone number, note or secret in it; look yourself before you send it.\n",
            env!("CARGO_PKG_VERSION")
        );
        for missing in &self.missing {
            text.push_str(&format!("Not in it: {missing}\n"));
        }
        self.files.insert("README.txt", text);
    }
}

/// The referrals whose history is worth a look.
async fn picked(source: &Source) -> Result<Vec<ReferralId>, Failure> {
    let mut picker = Picker::default();
    match source {
        Source::Daemon(daemon) => {
            daemon.export(&mut picker).await?;
            Ok(picker.ids())
        }
        Source::Engine(engine) => {
            let shared = Arc::new(std::sync::Mutex::new(picker));
            engine.export(Box::new(Shared(Arc::clone(&shared)))).await?;
            let picked = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner).ids();
            Ok(picked)
        }
    }
}

/// Reads an export as it is written, and keeps the most telling ids.
#[derive(Default)]
struct Picker {
    line: Vec<u8>,
    /// By how much they tell: trouble, a hold, then the last change. The least telling comes first.
    best: std::collections::BTreeSet<(u8, i64, ReferralId)>,
}

impl Picker {
    fn ids(&self) -> Vec<ReferralId> {
        self.best.iter().rev().map(|(_, _, id)| *id).collect()
    }

    fn take(&mut self) {
        let line = std::mem::take(&mut self.line);
        let Ok(entry) = serde_json::from_slice::<Value>(&line) else { return };
        let Some(id) = entry["id"].as_str().and_then(ReferralId::parse) else { return };
        let class = match (entry["trouble"].is_object(), entry["holds"].as_u64().unwrap_or(0)) {
            (true, _) => 2,
            (false, 1..) => 1,
            (false, 0) => 0,
        };
        self.best.insert((class, entry["updated"].as_i64().unwrap_or(0), id));
        if self.best.len() > HISTORIES_MAX {
            self.best.pop_first();
        }
    }
}

impl Write for Picker {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + piece.len() <= LINE_BYTES_MAX {
                self.line.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                self.take();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Shared(Arc<std::sync::Mutex<Picker>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The archive, readable for its owner only; whole, or not there.
fn write(file: &Path, folder: &str, files: &BTreeMap<&'static str, String>) -> io::Result<()> {
    let beside = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !beside.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such directory"));
    }
    let kept = tempfile::Builder::new().prefix(".referrald-support-").tempfile_in(beside); // 0600 by itself
    // The name of a file that was never made says nothing.
    let kept = kept.map_err(|error| match error.to_string().split_once(" at path") {
        Some((why, _)) => io::Error::new(error.kind(), why.to_owned()),
        None => error,
    })?;
    let mut archive = tar::Builder::new(GzEncoder::new(kept, Compression::default()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0));
        archive.append_data(&mut header, format!("{folder}/{name}"), text.as_bytes())?;
    }
    let kept = archive.into_inner()?.finish()?;
    kept.as_file().sync_all()?;
    kept.persist(file).map_err(|error| error.error)?;
    Ok(())
}

/// Text without words that look like an e-mail address, a token or a password in a URL.
fn scrubbed(text: &str) -> String {
    let is_edge =
        |letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | ',' | ';' | '<' | '>' | '(' | ')');
    let mut clean = String::with_capacity(text.len());
    for piece in text.split_inclusive(is_edge) {
        let word = piece.trim_end_matches(is_edge);
        match is_personal(word) {
            true => {
                clean.push_str(show::HIDDEN);
                clean.push_str(&piece[word.len()..]);
            }
            false => clean.push_str(piece),
        }
    }
    clean
}

fn is_personal(word: &str) -> bool {
    let is_unit = |name: &str, host: &str| name.ends_with("referrald") && host.contains(".service");
    let is_address =
        word.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.') && !is_unit(name, host));
    // A JSON web token: three parts, the first of which is an object.
    let is_token = word.contains("eyJ") && word.matches('.').count() >= 2;
    is_address || is_token
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::{HISTORIES_MAX, Picker, scrubbed};

    #[test]
    fn addresses_and_tokens_are_taken_out_whatever_stands_around_them() {
        assert_eq!(scrubbed("mail (ana@contoso.example), then go"), "mail (***), then go");
        assert_eq!(scrubbed("token=eyJhbGciOi.J9.sig end"), "*** end");
        assert_eq!(scrubbed("a proxy http://u:p@proxy.example:1\n"), "a proxy ***\n");
        let ours = "lead 1 of referrald@contoso.service and \"W/\\\"123\\\"\" stay\n  indented";
        assert_eq!(scrubbed(ours), ours);
    }

    #[test]
    fn the_most_telling_referrals_are_picked_however_the_export_arrives() {
        let mut picker = Picker::default();
        let id = |number: usize| format!("00000000-0000-0000-0000-{number:012}");
        let mut text = String::from("{\"referrald_export\":1}\n");
        for number in 0..2 * HISTORIES_MAX {
            let more = match number {
                3 => ",\"trouble\":{}",
                5 => ",\"holds\":4",
                _ => "",
            };
            text.push_str(&format!("{{\"id\":\"{}\",\"updated\":{number}{more}}}\n", id(number)));
        }
        for piece in text.as_bytes().chunks(7) {
            picker.write_all(piece).expect("it takes everything");
        }
        let ids: Vec<String> = picker.ids().iter().map(ToString::to_string).collect();
        assert_eq!(ids.len(), HISTORIES_MAX);
        assert_eq!(ids[..3], [id(3), id(5), id(2 * HISTORIES_MAX - 1)]);
    }
}
