//! A session at a terminal: lines typed, what came back, exit codes; written down so that two runs read the same.
//!
//! What varies is replaced by names of the same width, so that lines break at the same places: ids, digests, ports and
//! tokens by their order of appearance, instants and spans of time by one and the same.

use std::collections::BTreeMap;

use referrald::sim::World;
use serde_json::Value;
use uuid::Uuid;

use crate::stage::{Finished, Stage};

/// What stands for the stage's directory.
const HOME: &str = "/tmp/.tmpXXXXXX";
/// Columns of the screen.
const WIDTH: usize = 80;

/// A session.
pub struct Session {
    /// Where it takes place.
    pub stage: Stage,
    /// What it looked like so far.
    pub text: String,
    /// What commands said with `--json`, by the line typed.
    pub answers: BTreeMap<String, Value>,
    names: BTreeMap<String, String>,
    /// What no screen should show.
    odd: Vec<String>,
}

impl Session {
    /// Begins over a world; every path in the configuration is relative to the directory one stands in.
    pub async fn over(world: World) -> Session {
        let stage = Stage::with(world).await;
        let text = std::fs::read_to_string(stage.path("referrald.toml")).unwrap();
        let home = format!("{}/", stage.directory.path().display());
        std::fs::write(stage.path("referrald.toml"), text.replace(&home, "")).unwrap();
        for secret in ["secret", "refresh"] {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(stage.path(secret), std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        Session { stage, text: String::new(), answers: BTreeMap::new(), names: BTreeMap::new(), odd: Vec::new() }
    }

    /// Types a line and notes what comes of it.
    pub async fn types(&mut self, line: &str) -> Finished {
        self.types_and_reads(line, usize::MAX).await
    }

    /// As [`Session::types`], and reads only the first lines of a long answer.
    pub async fn types_and_reads(&mut self, line: &str, lines_max: usize) -> Finished {
        let words: Vec<&str> = line.split(' ').collect();
        let finished = self.stage.run_here(&words).await;
        let (mut shown, mut rest) = (String::new(), 0);
        let said = match words.contains(&"--json") && !finished.out.is_empty() {
            true => self.answer(line, &finished.out),
            false => finished.out.clone(),
        };
        for (number, line) in said.lines().chain(finished.trouble.lines()).enumerate() {
            // What is to be copied is never wrapped.
            let is_to_copy = ["referrald retry --cause", "  certificate: "].iter().any(|what| line.contains(what))
                || !line.trim_start().contains(' ');
            let is_wide = line.chars().count() > WIDTH && !is_to_copy && !line.contains("Z  WARN ");
            // How complaints about the command line are laid out is not ours, and JSON is not for screens.
            let is_for_screens = finished.code != 2 && lines_max == usize::MAX && !words.contains(&"--json");
            if is_wide && is_for_screens || line.contains('\u{1b}') {
                self.odd.push(line.to_owned());
            }
            match number < lines_max {
                true => shown += &format!("{line}\n"),
                false => rest += 1,
            }
        }
        if rest > 0 {
            shown += "…\n";
        }
        let code = if finished.code == 0 { String::new() } else { format!("[{}]\n", finished.code) };
        // Spans of time decide where their lines break.
        if ["explain", "status"].contains(&words[0]) && !words.contains(&"--json") {
            shown = unwrapped(&shown);
        }
        let noted = self.steady(&format!("$ referrald {line}\n{shown}{code}\n"));
        self.text.push_str(&noted);
        finished
    }

    /// Compares the session with the one on record.
    pub fn compare(&self, name: &str) {
        let home = self.stage.directory.path().display().to_string();
        if home.len() != HOME.len() {
            println!("not compared: lines break elsewhere with a path as long as {home}");
            return;
        }
        insta::assert_snapshot!(name, self.text);
        assert_eq!(self.odd, Vec::<String>::new(), "wider than a screen, or coloured in a pipe");
    }

    /// Notes what a screen showed.
    pub fn shows(&mut self, screen: &str) {
        let noted = self.steady(&format!("{}\n", screen.trim_end()));
        self.text.push_str(&noted);
        self.text.push('\n');
    }

    /// Notes something that happens beside the terminal.
    pub fn meanwhile(&mut self, what: &str) {
        self.text.push_str(&format!("# {what}\n\n"));
    }

    /// JSON as it was printed, but for numbers that differ from run to run.
    fn answer(&mut self, line: &str, out: &str) -> String {
        let Ok(mut value) = serde_json::from_str::<Value>(out) else {
            self.odd.push(format!("{line}: this is not one document: {out}"));
            return out.to_owned();
        };
        self.answers.insert(line.to_owned(), value.clone());
        still(&mut value, "");
        format!("{value:#}")
    }

    /// With names in place of what varies.
    fn steady(&mut self, text: &str) -> String {
        let text = text.replace(env!("CARGO_PKG_VERSION"), "0.0.0");
        let text = text.replace(&self.stage.directory.path().display().to_string(), HOME);
        let lines = text.lines().map(calm).collect::<Vec<_>>().join("\n") + "\n";
        let (mut steady, mut rest) = (String::new(), lines.as_str());
        let mut before = ' ';
        while let Some(letter) = rest.chars().next() {
            let found = if before.is_alphanumeric() {
                None
            } else {
                self.varies(rest, steady.ends_with("127.0.0.1:") || steady.ends_with("localhost:"))
            };
            let (shown, length) = found.unwrap_or_else(|| (letter.to_string(), letter.len_utf8()));
            steady.push_str(&shown);
            before = rest[..length].chars().next_back().unwrap_or(' ');
            rest = &rest[length..];
        }
        steady
    }

    /// What a text begins with that varies, as it is shown, and its length.
    fn varies(&mut self, text: &str, is_port: bool) -> Option<(String, usize)> {
        let word: usize = text.chars().take_while(char::is_ascii_alphanumeric).count();
        if text.get(..36).is_some_and(|id| Uuid::try_parse(id).is_ok() && id.as_bytes()[8] == b'-') {
            return Some((self.name("id", &text[..36], 36), 36));
        }
        if is_port && word == 5 {
            return Some((self.name("port", &text[..word], word), word));
        }
        if text.get(..23).is_some_and(|it| it.ends_with(" UTC") && it.as_bytes()[4] == b'-') {
            return Some(("2026-11-23 00:00:00 UTC".to_owned(), 23));
        }
        if is_date(text) && text.as_bytes().get(10) == Some(&b'T') {
            let length = text.find(|letter: char| !(letter.is_ascii_digit() || "-:.TZ".contains(letter)))?;
            return Some(("2026-11-23T00:00:00.000Z".to_owned(), length));
        }
        if is_date(text) {
            return Some(("2026-11-23".to_owned(), 10));
        }
        if text.get(2..12).is_some_and(|it| it.starts_with(':') && it.ends_with(" UTC") && it.as_bytes()[3] == b':') {
            return Some(("00:00:00 UTC".to_owned(), 12));
        }
        if word == 16 && text.as_bytes()[8] == b'T' && text.as_bytes()[15] == b'Z' {
            return Some(("20261123T000000Z".to_owned(), 16));
        }
        let is_hex = text[..word].bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let is_digest = [12, 16, 64].contains(&word) && is_hex;
        is_digest.then(|| (self.name("digest", &text[..word], word), word))
    }

    /// The same name for the same thing, of its width.
    fn name(&mut self, kind: &str, found: &str, width: usize) -> String {
        let count = self.names.values().filter(|name| name.starts_with(kind)).count() + 1;
        let name = self.names.entry(format!("{kind} {found}")).or_insert_with(|| format!("{kind} {count}"));
        let number = &name[kind.len() + 1..];
        match kind {
            "id" => format!("00000000-0000-0000-0000-{number:0>12}"),
            "port" => format!("1{number:0>4}"),
            _ => format!("{number:d>width$}"),
        }
    }
}

fn is_date(text: &str) -> bool {
    let digits = |part: Option<&str>| part.is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let bytes = text.as_bytes();
    text.starts_with("20")
        && digits(text.get(..4))
        && digits(text.get(5..7))
        && digits(text.get(8..10))
        && bytes.get(4) == Some(&b'-')
        && bytes.get(7) == Some(&b'-')
}

/// A line without its spans of time and sizes.
fn calm(line: &str) -> String {
    let is_number = |word: &str| {
        word.starts_with(|letter: char| letter.is_ascii_digit())
            && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b',')
    };
    let bare = |word: &str| word.trim_matches([',', ';', ')', '(', '.', '"']).to_owned();
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let mut at = 1;
    while at < words.len() {
        let (before, word) = (bare(&words[at - 1]), bare(&words[at]));
        let is_span = is_number(&before) && ["ms", "s", "min"].contains(&word.as_str());
        let behind = words.get(at.wrapping_sub(2)).map(String::as_str).unwrap_or_default().to_owned();
        if is_span && words.get(at + 1).is_some_and(|next| bare(next) == "ago") {
            let end = words[at + 1].trim_start_matches("ago").to_owned();
            words.splice(at - 1..=at + 1, [format!("now{end}")]);
        } else if is_span && (["in", "took"].contains(&behind.as_str()) || line.trim_start().starts_with("Lag ")) {
            let end = words[at].trim_start_matches(['m', 's', 'i', 'n']).to_owned();
            words.splice(at - 1..=at, ["1".to_owned(), format!("ms{end}")]);
        } else if is_number(&before) && ["MiB", "KiB"].contains(&word.as_str()) {
            words[at - 1] = words[at - 1].replace(&before, "1");
        } else if is_number(&before) && word == "bytes" {
            // Right-aligned.
            let start = words[..at - 1].iter().rposition(|word| !word.is_empty()).map_or(0, |start| start + 1);
            words.splice(start..at, ["1".to_owned()]);
            at = start + 1;
        } else if before == "process" && is_number(&word) {
            words[at] = words[at].replace(&word, "100");
        } else if before == "of" && is_number(&behind) && line.ends_with(" today") {
            words[at - 2] = "1".to_owned();
        }
        at += 1;
    }
    words.join(" ")
}

/// With the lines put together again that were broken because the next word did not fit.
fn unwrapped(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut last = 0;
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        let indent = |line: &str| line.len() - line.trim_start().len();
        // Sentences end two columns before the edge.
        let did_not_fit = last + 1 + first.chars().count() > WIDTH - 2;
        match lines.last_mut() {
            Some(before) if did_not_fit && indent(line) > indent(before) => {
                *before += " ";
                *before += line.trim_start();
            }
            _ => lines.push(line.to_owned()),
        }
        last = line.chars().count();
    }
    lines.join("\n") + "\n"
}

/// Instants, spans and sizes as names.
fn still(value: &mut Value, key: &str) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| still(value, key)),
        Value::Array(list) => list.iter_mut().for_each(|value| still(value, key)),
        Value::Number(number) => {
            let is_instant = number.as_i64().is_some_and(|number| number > 1_000_000_000_000);
            let is_span = ["_ms", "_seconds", "_bytes", "_today"].iter().any(|end| key.ends_with(end));
            let is_size = ["bytes_on_disk", "open_files", "pid", "commit", "commit_expected"].contains(&key)
                || key.ends_with(".json")
                || key.ends_with(".txt")
                || key.ends_with(".toml");
            if is_instant {
                *value = "INSTANT".into();
            } else if is_span || is_size {
                *value = "NUMBER".into();
            }
        }
        Value::String(_) | Value::Bool(_) | Value::Null => {}
    }
}
