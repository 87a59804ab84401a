//! The ground: configuration, secrets, state, ledger, unit, and the way to each host.

use std::path::Path;

use crate::cli::doctor::facts::{
    Facts, HostFact, LedgerFact, NothingYet, SecretFact, SecretFound, StateFact, Trap, UnitFact,
};
use crate::cli::doctor::report::Outcome;
use crate::cli::words::{instant, span_ms};
use crate::config::unit::{Unit, options_for};
use crate::model::Side;

use super::{Desk, word};

/// Free bytes below which writing is in danger: the ledger and one export fit.
pub const DISK_FREE_MIN: u64 = 64 * 1024 * 1024;
/// Free bytes below which it is worth a look.
pub const DISK_FREE_CARE: u64 = 512 * 1024 * 1024;
/// A clock further off than this is worth a look, in milliseconds.
pub const SKEW_CARE_MS: i64 = 30_000;

/// Judges the ground.
pub(super) fn judge(facts: &Facts, desk: &mut Desk) {
    desk.add("configuration", "Configuration", &[], || Some(configuration(facts)));
    for side in [Side::Portal, Side::Crm] {
        let secrets: Vec<&SecretFact> =
            facts.secrets.iter().filter(|(of, _)| *of == side).map(|(_, secret)| secret).collect();
        desk.add(format!("secrets:{}", word(side)), format!("Secrets for {side}"), &["configuration"], || {
            (!secrets.is_empty()).then(|| self::secrets(&secrets, &facts.unit))
        });
    }
    desk.add("state", "State directory", &["configuration"], || facts.state.as_ref().map(state));
    desk.add("disk", "Disk", &["configuration", "state"], || {
        facts.disk_free.map(|free| disk(free, facts.state.as_ref()))
    });
    desk.add("ledger", "Ledger", &["configuration", "state"], || {
        facts.ledger.as_ref().map(|found| ledger(found, &facts.unit))
    });
    desk.add("unit", "Unit of systemd", &["configuration"], || Some(unit(&facts.unit)));
    let is_deaf = |host: &HostFact| matches!(host.dns, Some(Err(_)));
    let has_no_names = facts.hosts.len() > 1 && facts.hosts.iter().all(is_deaf);
    if has_no_names {
        // Not every name is misspelt at once.
        desk.add("names", "Names of all hosts", &["configuration"], || {
            let reason = facts.hosts.iter().find_map(|host| host.dns.as_ref()?.as_ref().err());
            Some(Outcome::failed(
                format!("none is known: {}", reason.map(String::as_str).unwrap_or_default()),
                "a name server that answers",
                "check the network and /etc/resolv.conf; behind a proxy set http.proxy",
            ))
        });
    }
    for host in &facts.hosts {
        let id = |stage: &str| format!("{stage}:{}", host.name);
        let below = |stage: &str| [id(stage)];
        desk.add(id("dns"), format!("Name {}", host.name), &["configuration", "names"], || dns(host));
        let [needs] = below("dns");
        desk.add(id("tcp"), format!("Way to {}", host.name), &["configuration", &needs], || tcp(host));
        let [needs] = below("tcp");
        desk.add(id("tls"), format!("TLS of {}", host.name), &["configuration", &needs], || tls(host));
        let [needs] = below("tls");
        desk.add(id("clock"), format!("Clock, by {}", host.name), &["configuration", &needs], || clock(host));
    }
}

fn configuration(facts: &Facts) -> Outcome {
    let found = &facts.configuration;
    if let Some(nothing) = found.nothing_yet {
        let unit = Unit::of_config(Path::new(&found.file));
        let init = match (&unit.instance, Path::new(&found.file) == unit.config_file()) {
            (Some(_), _) => format!("sudo referrald {} init", options_for(Path::new(&found.file))),
            (None, true) => "sudo referrald init".to_owned(),
            (None, false) => format!("referrald {} init", options_for(Path::new(&found.file))),
        };
        return Outcome::failed(
            match nothing {
                NothingYet::Absent => format!("there is no {}", found.file),
                NothingYet::Untouched => format!("{} is as it was installed: it names no service", found.file),
            },
            "a configuration that names Partner Center, Dynamics and how to sign in",
            format!("`{init}` asks for what is needed and writes it"),
        );
    }
    match (found.errors.len(), found.warnings.len()) {
        (0, 0) => Outcome::good(found.file.as_str()),
        (0, count) => Outcome::care(
            format!("{}: {count} to look at", found.file),
            "",
            "`referrald config check` shows each with its line",
        )
        .with(found.warnings.clone()),
        (count, _) => Outcome::failed(
            format!("{}: {count} {}", found.file, if count == 1 { "error" } else { "errors" }),
            "a configuration that can be used",
            "correct it; `referrald config check` shows each error with its line",
        )
        .with(found.errors.clone()),
    }
}

fn secrets(secrets: &[&SecretFact], unit: &UnitFact) -> Outcome {
    for secret in secrets {
        let SecretFact { key, place, found } = secret;
        let expected = format!("the bare secret in {place}");
        let failed = |what: &str, remedy: String| Outcome::failed(format!("{key}: {what}"), expected.as_str(), remedy);
        match found {
            SecretFound::Unreadable(reason) if key.ends_with("_credential") => {
                let name = place.rsplit(' ').next().unwrap_or(place);
                return Outcome::failed(
                    format!("{key}: there is no credential {name}: {reason}"),
                    format!("LoadCredential={name}:FILE under [Service] of the unit"),
                    format!("`systemctl edit {}`, and add that line with the file of the secret", unit.unit),
                );
            }
            SecretFound::Unreadable(reason) => {
                return failed(reason, format!("put the secret into {place}, readable for the daemon"));
            }
            SecretFound::NobodySignedIn => {
                let command =
                    if key.starts_with("dataverse") { "referrald login --side dataverse" } else { "referrald login" };
                return Outcome::failed(
                    format!("{key}: there is no refresh token yet, nobody has signed in"),
                    "a refresh token of a person who signed in",
                    format!("run `{command}`"),
                );
            }
            SecretFound::NotNeeded => {}
            SecretFound::Read { traps, .. } => {
                if let Some(trap) = traps.first() {
                    let (what, remedy) = trap_words(*trap, place);
                    return failed(&what, remedy);
                }
            }
        }
    }
    let open = secrets.iter().find_map(|secret| match secret.found {
        SecretFound::Read { mode: Some(mode), .. } if mode & 0o007 != 0 => Some((secret, mode)),
        _ => None,
    });
    if let Some((secret, mode)) = open {
        return Outcome::care(
            format!(
                "{}: {} can be read by everybody on this machine (mode {:03o})",
                secret.key,
                secret.place,
                mode & 0o777
            ),
            "mode 600",
            format!("chmod 600 {}", secret.place),
        );
    }
    Outcome::good(match secrets.len() {
        1 => "1, as it should be".to_owned(),
        count => format!("{count}, as they should be"),
    })
}

fn trap_words(trap: Trap, place: &str) -> (String, String) {
    let put = format!("`printf %s 'SECRET' > {place}`");
    let again = format!("write it again without: {put}");
    match trap {
        Trap::Empty => (format!("{place} is empty"), format!("put the secret into it, on one line: {put}")),
        Trap::ByteOrderMark => {
            (format!("{place} begins with a byte order mark, which becomes part of the secret"), again)
        }
        Trap::Utf16 => (format!("{place} is UTF-16 text"), format!("write it again as plain ASCII: {put}")),
        Trap::LineBreak => (format!("{place} has more than one line, and all of them count as the secret"), again),
        Trap::Blanks => (format!("{place} begins or ends with a blank, which becomes part of the secret"), again),
        Trap::Quoted => (format!("{place} has quotes around the secret, which become part of it"), again),
        Trap::LooksLikeId => (
            format!("{place} holds a GUID: that is the secret's id, not its value"),
            format!(
                "make a new secret in Entra ID (App registrations, Certificates & secrets), and put its Value into {place}"
            ),
        ),
        Trap::NoPem => (
            format!("{place} holds no PEM block of the kind that is needed"),
            "`referrald config check` names the openssl line that converts it".to_owned(),
        ),
    }
}

fn state(state: &StateFact) -> Outcome {
    match state {
        StateFact::Absent(path) => Outcome::good(format!("{} is made at the first start", path.display())),
        StateFact::NoDirectory(path) => Outcome::failed(
            format!("{} is no directory", path.display()),
            "a directory, or nothing",
            "move it away, or choose another state.directory",
        ),
        StateFact::Forbidden(path) => Outcome::failed(
            format!("{} may not be entered by this user", path.display()),
            "a user who may",
            "run it as root, as in `sudo referrald doctor`",
        ),
        StateFact::Found { path, strangers, .. } if !strangers.is_empty() => Outcome::failed(
            format!("files in {} belong to another user than it does, so the daemon cannot use them", path.display()),
            "one owner for all of it",
            // With a slash: the directory of a unit with `DynamicUser=` is a symbolic link, which chown would not follow.
            format!("`chown -R --reference={0} {0}/`", path.display()),
        )
        .with(strangers.iter().take(5).map(|path| path.display().to_string()).collect()),
        StateFact::Found { path, is_writable: false, .. } => Outcome::failed(
            format!("{} cannot be written by this user", path.display()),
            "a directory that can be written",
            "run it as root, or mend the directory's owner or a read-only mount",
        ),
        StateFact::Found { path, mode, .. } if mode & 0o007 != 0 => Outcome::care(
            format!("{} is open to everybody (mode {:03o})", path.display(), mode & 0o777),
            "mode 700",
            format!("`chmod 700 {}`", path.display()),
        ),
        StateFact::Found { path, .. } => Outcome::good(path.display().to_string()),
    }
}

fn disk(free: u64, state: Option<&StateFact>) -> Outcome {
    let words = format!("{} MiB free", free / 1024 / 1024);
    let directory = match state {
        Some(StateFact::Absent(path) | StateFact::Found { path, .. }) => path.display().to_string(),
        _ => "state.directory".to_owned(),
    };
    let expected = format!("{} MiB or more", DISK_FREE_CARE / 1024 / 1024);
    match free {
        _ if free < DISK_FREE_MIN => Outcome::failed(
            words,
            expected,
            format!("make room on the disk of {directory}; writing stops when the ledger cannot be kept"),
        ),
        _ if free < DISK_FREE_CARE => Outcome::care(words, expected, format!("make room on the disk of {directory}")),
        _ => Outcome::good(words),
    }
}

fn ledger(ledger: &LedgerFact, unit: &UnitFact) -> Outcome {
    let how = match unit.files.is_empty() {
        true => String::new(),
        false => format!(" (`systemctl restart {}`)", unit.unit),
    };
    match ledger {
        LedgerFact::Daemon(status) => match (&status.ledger_trouble, &status.writing.stopped) {
            (Some(trouble), _) => Outcome::failed(
                trouble.as_str(),
                "a ledger that can be written",
                "look at disk and state directory; the running daemon tries again by itself",
            ),
            (None, Some(stopped)) => Outcome::care(
                format!("held by the running daemon, which writes nothing: {stopped}"),
                "",
                "`referrald status` prints what to type",
            ),
            (None, None) => Outcome::good(format!("held by the running daemon, {} known", status.referrals)),
        },
        LedgerFact::Absent => Outcome::good("none yet; the first cycle makes it"),
        LedgerFact::Idle { last_success, .. } => match last_success {
            Some(at) => Outcome::good(format!("can be read; the last cycle that saw both sides was {}", instant(*at))),
            None => Outcome::good("can be read; no cycle has seen both sides yet"),
        },
        LedgerFact::Foreign => Outcome::good("left to its own user; no daemon runs"),
        LedgerFact::Held(who) => Outcome::failed(
            format!("another process has it and does not answer on the control socket{who}"),
            "a daemon that answers, or none",
            format!("wait for a `referrald once` to end; restart a daemon that hangs{how}"),
        ),
        LedgerFact::Broken(reason) => Outcome::failed(
            reason.as_str(),
            "a ledger that can be read",
            format!("restart the daemon{how}: it moves a damaged ledger aside and rebuilds it from both services"),
        ),
        LedgerFact::Forbidden(reason) => {
            Outcome::failed(reason.as_str(), "a user who may ask", "run it as root, as in `sudo referrald doctor`")
        }
    }
}

fn unit(unit: &UnitFact) -> Outcome {
    let Some(file) = unit.files.last() else { return Outcome::good("none is installed here") };
    if let Some((path, false)) = &unit.read {
        return Outcome::failed(
            format!("{} cannot be read by the unit's user", path.display()),
            "mode 644: it holds no secrets",
            format!("`chmod 644 {}`", path.display()),
        );
    }
    if let Some(name) = unit.missing_credentials.first() {
        return Outcome::failed(
            format!("the unit passes no credential {name}, and the configuration names it"),
            format!("LoadCredential={name}:FILE under [Service]"),
            format!("`systemctl edit {}`, and add that line with the file of the secret", unit.unit),
        );
    }
    match (&unit.config, &unit.read) {
        (Some(config), Some((read, _))) if config != read => Outcome::care(
            format!("the unit reads {}, this command read {}", config.display(), read.display()),
            "the same file",
            format!("run it with --config {}", config.display()),
        ),
        _ => Outcome::good(file.display().to_string()),
    }
}

fn dns(host: &HostFact) -> Option<Outcome> {
    if let Some(proxy) = &host.proxy {
        return Some(Outcome::good(format!("looked up by the proxy {proxy}")));
    }
    Some(match host.dns.as_ref()? {
        Ok(addresses) => Outcome::good(match addresses.as_slice() {
            [] => "no address".to_owned(),
            [only] => only.to_string(),
            [first, others @ ..] => format!("{first} and {} more", others.len()),
        }),
        Err(reason) => Outcome::failed(
            format!("the name is not known: {reason}"),
            "an address",
            format!("check {} for a typing error, then /etc/resolv.conf and the way to the name server", host.key),
        ),
    })
}

fn tcp(host: &HostFact) -> Option<Outcome> {
    Some(match host.tcp.as_ref()? {
        Ok(time) => {
            Outcome::good(format!("connected in {}", span_ms(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))))
        }
        Err(reason) => Outcome::failed(
            reason.as_str(),
            "a connection",
            match host.proxy {
                Some(_) => "check http.proxy, and that the proxy is up".to_owned(),
                None => format!("open the firewall for outgoing connections to {}, or set http.proxy", host.name),
            },
        ),
    })
}

fn tls(host: &HostFact) -> Option<Outcome> {
    let reason = match host.tls.as_ref()? {
        Ok(true) => return Some(Outcome::good("trusted")),
        Ok(false) => return Some(Outcome::good("plain http on this machine")),
        Err(reason) => reason,
    };
    let has = |words: &[&str]| words.iter().any(|part| reason.contains(part));
    let remedy = if has(&["UnknownIssuer", "unknown issuer", "SelfSigned", "CaUsedAsEndEntity"]) {
        "a proxy opens TLS, or root certificates are missing: put the proxy's root certificate (PEM) into a file and name \
         it in http.extra_roots_file; install ca-certificates"
            .to_owned()
    } else if has(&["NotValidYet", "not valid yet", "Expired", "expired"]) {
        "set this machine's clock right (`timedatectl set-ntp true`); if it is, the certificate of that host has ended"
            .to_owned()
    } else if has(&["NotValidForName", "not valid for name"]) {
        format!("another host answers for this name: check {}, DNS and the proxy", host.key)
    } else {
        format!("check {}, http.proxy and the firewall", host.key)
    };
    Some(Outcome::failed(reason.as_str(), "a certificate for this name that is trusted", remedy))
}

fn clock(host: &HostFact) -> Option<Outcome> {
    let Some(skew) = host.skew_ms? else { return Some(Outcome::good("the host does not tell the time")) };
    let words = match skew {
        -2000..=2000 => "together".to_owned(),
        _ => {
            let away = span_ms(skew.unsigned_abs());
            format!("this machine is {away} {}", if skew > 0 { "behind" } else { "ahead" })
        }
    };
    let expected = format!("less than {} apart", span_ms(host.skew_max_ms.unsigned_abs()));
    let remedy = "set the clock right and keep it so: `timedatectl set-ntp true`";
    Some(match skew.abs() {
        away if away > host.skew_max_ms => Outcome::failed(format!("{words}; writing stops"), expected, remedy),
        away if away > SKEW_CARE_MS => Outcome::care(words, expected, remedy),
        _ => Outcome::good(words),
    })
}
