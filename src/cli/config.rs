//! `referrald config check` and `referrald config show`.

use std::io::{self, Write};

use crate::config::{DEFAULTS, Settings, Sources, show};

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
        writeln!(out, "{:#}", found.to_json())?;
    } else if found.problems.is_empty() {
        writeln!(out, "the configuration is in order")?;
    } else {
        writeln!(out, "{found}")?;
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
                true => writeln!(trouble, "{:#}", problems.to_json())?,
                false => writeln!(trouble, "{problems}")?,
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

/// Prints `config/default.toml`: every key with its default and a comment (`config show --defaults`).
pub fn show_defaults(out: &mut dyn Write) -> io::Result<u8> {
    out.write_all(DEFAULTS.as_bytes())?;
    Ok(0)
}
