//! `referrald config check` and `referrald config show`.

use std::io::{self, Write};

use crate::config::{DEFAULTS, Settings, Sources, show};
use crate::telemetry::commands::{worded, worded_json};

/// Exit code for a configuration that cannot be used.
pub const EXIT_CONFIGURATION: u8 = 78;

/// Prints every problem of the configuration to `out`. Gives the exit code: 0 also with warnings, else
/// [`EXIT_CONFIGURATION`]. The error is a failure to print.
pub fn check(sources: &Sources, is_json: bool, out: &mut dyn Write) -> io::Result<u8> {
    let (found, code) = match Settings::load(sources) {
        Ok(loaded) => (loaded.warnings, 0),
        Err(problems) => (problems, EXIT_CONFIGURATION),
    };
    if is_json {
        writeln!(out, "{}", worded_json(&format!("{:#}", found.to_json())))?;
    } else if found.problems.is_empty() {
        writeln!(out, "the configuration is in order")?;
    } else {
        writeln!(out, "{}", worded(&found.to_string()))?;
    }
    Ok(code)
}

/// Prints the effective settings to `out`, secrets hidden; `with_origin` tells where each value comes from. A
/// configuration that cannot be used is explained on `trouble`. Gives the exit code as [`check`] does.
pub fn show(
    sources: &Sources,
    is_json: bool,
    with_origin: bool,
    out: &mut dyn Write,
    trouble: &mut dyn Write,
) -> io::Result<u8> {
    let loaded = match Settings::load(sources) {
        Ok(loaded) => loaded,
        Err(problems) => {
            match is_json {
                true => writeln!(trouble, "{}", worded_json(&format!("{:#}", problems.to_json())))?,
                false => writeln!(trouble, "{}", worded(&problems.to_string()))?,
            }
            return Ok(EXIT_CONFIGURATION);
        }
    };
    match is_json {
        true => writeln!(out, "{:#}", show::to_json(&loaded, with_origin))?,
        false => write!(out, "{}", show::to_toml(&loaded, with_origin))?,
    }
    Ok(0)
}

/// Prints `config/default.toml`: every key with its default and a comment (`config show --defaults`), or the values alone.
pub fn show_defaults(is_json: bool, out: &mut dyn Write) -> io::Result<u8> {
    match is_json {
        true => writeln!(out, "{:#}", serde_json::to_value(Settings::defaults()).map_err(io::Error::from)?)?,
        false => out.write_all(DEFAULTS.as_bytes())?,
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> (tempfile::TempDir, Sources) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("referrald.toml");
        std::fs::write(&file, text).expect("a file");
        (directory, Sources { file: Some(file), ..Sources::default() })
    }

    #[test]
    fn check_gives_78_for_errors_and_0_for_warnings() {
        for (text, code) in [("writes = \"off\"", 0), ("writes = \"of\"", EXIT_CONFIGURATION)] {
            let (_directory, sources) = sources(text);
            for is_json in [false, true] {
                let mut out = Vec::new();
                assert_eq!(check(&sources, is_json, &mut out).expect("it prints"), code);
                let parsed: Result<serde_json::Value, _> = serde_json::from_slice(&out);
                assert_eq!(parsed.is_ok(), is_json);
                assert_eq!(parsed.map(|found| found["errors"].clone()).unwrap_or((code / 78).into()), code / 78);
            }
        }
    }

    #[test]
    fn show_prints_settings_or_the_trouble() {
        let (_directory, good) = sources("[brakes]\nclosings_per_hour = 3");
        let (mut out, mut trouble) = (Vec::new(), Vec::new());
        assert_eq!(show(&good, false, true, &mut out, &mut trouble).expect("it prints"), 0);
        let shown = String::from_utf8(out).expect("text");
        assert!(shown.contains("closings_per_hour = 3 # /") && shown.contains("referrald.toml:2:21"), "{shown}");
        assert!(trouble.is_empty());

        let (_directory, bad) = sources("brakes = 3");
        let (mut out, mut trouble) = (Vec::new(), Vec::new());
        assert_eq!(show(&bad, true, false, &mut out, &mut trouble).expect("it prints"), EXIT_CONFIGURATION);
        assert!(out.is_empty() && String::from_utf8_lossy(&trouble).contains("expected a table"));
    }
}
