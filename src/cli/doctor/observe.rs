//! Observing: every effect of doctor. It asks for no more than the judgement looks at, and stops where the ground is missing.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::facts::{
    Configuration, CrmFact, Facts, HostFact, LedgerFact, LengthFact, MappingFact, NothingYet, PortalFact, Privileges,
    SecretFact, SecretFound, SignInFact, StateFact, Trap, Trouble, UnitFact,
};
use super::lengths;
use super::way;
use crate::cli::arguments::Flags;
use crate::cli::build::{Line, StartError, SystemClock, crm_line, portal_line, webhook_api};
use crate::cli::init;
use crate::cli::schema::role::uses;
use crate::cli::webhook::drift;
use crate::config::secret::{SecretOrigin, SecretSource, read_limited};
use crate::config::unit::Unit;
use crate::config::{HumanDuration, KeyPath, Loaded, Origin, Settings, Severity};
use crate::control::{Client, ControlError, Place};
use crate::crm;
use crate::crm::dataverse::settings::{Identity, Observe};
use crate::crm::dataverse::setup::Setup;
use crate::crm::dataverse::setup::privileges::needs;
use crate::http::Exchange;
use crate::http::settings::{AuthSettings, Grant};
use crate::http::signin::claims::Claims;
use crate::model::{Owner, RemoteError, Side};
use crate::plan::mapping::Mapping;
use crate::portal::partner_center::probe::glimpse;
use crate::ports::{Clock, StoreError};
use crate::store;

/// Files and folders of the state directory whose owner is looked at.
const STATE_FILES_MAX: usize = 2000;
/// Page cache of the ledger while it is looked at, in bytes.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Warnings of the configuration about these keys are left to the checks that look closer.
const LOOKED_AT_BY_OTHERS: [&str; 5] =
    ["_credential", "refresh_token_file", "mapping.owners", "fallback_owner", "client_secret_file"];

/// Looks at everything.
pub(super) async fn observe(flags: &Flags) -> Facts {
    let sources = flags.sources();
    let file = sources.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
    let loaded = match Settings::load(&sources) {
        Ok(loaded) => loaded,
        Err(problems) => {
            let of = |severity| {
                let found = problems.problems.iter().filter(move |problem| problem.severity == severity);
                found.map(told).collect::<Vec<_>>()
            };
            let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
            // A file that was named and is not there is an error, too.
            let nothing_yet = nothing_yet(sources.file.as_deref()).filter(|found| *found == NothingYet::Absent);
            let configuration = Configuration { file, nothing_yet, errors, warnings };
            return Facts { configuration, ..nothing() };
        }
    };
    if loaded.settings.dataverse.url.is_none()
        && let Some(found) = nothing_yet(sources.file.as_deref())
    {
        let configuration = Configuration { file, nothing_yet: Some(found), ..Configuration::default() };
        return Facts { configuration, ..nothing() };
    }
    let is_open = |key: &str| !LOOKED_AT_BY_OTHERS.iter().any(|known| key.ends_with(known));
    let warnings = loaded.warnings.problems.iter().filter(|problem| is_open(&problem.key)).map(told).collect();
    let mut settings = loaded.settings.clone();
    // A person waits for this: one attempt, and nobody is asked to be patient.
    settings.http.attempts_max = 1;
    settings.http.retry_after_wait_max = HumanDuration::from_seconds(0);

    let mut facts = nothing();
    facts.configuration = Configuration { file, warnings, ..Configuration::default() };
    facts.places = loaded.places();
    facts.state = Some(state(&settings.state.directory));
    facts.disk_free = disk_free(&settings.state.directory);
    facts.ledger = Some(ledger(&settings).await);
    facts.unit = unit_fact(&settings, sources.file.as_deref());

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (portal, crm) = (portal_line(&settings, &clock), crm_line(&settings, &clock));
    for (side, section, auth, line) in [
        (Side::Portal, "partner_center.auth", &settings.partner_center.auth, &portal),
        (Side::Crm, "dataverse.auth", &settings.dataverse.auth, &crm),
    ] {
        let is_kept = line.as_ref().is_ok_and(|line| line.tokens.kept_at().is_some_and(Path::exists));
        facts.secrets.extend(secrets(section, auth, is_kept).into_iter().map(|secret| (side, secret)));
    }
    facts.hosts = hosts(&settings).await;
    let is_reached = |name: &str| facts.hosts.iter().any(|host| host.name == name && matches!(host.tls, Some(Ok(_))));
    facts.portal = portal_side(&settings, portal, &is_reached).await;
    facts.crm = crm_side(&settings, &loaded, crm, &clock, &is_reached).await;
    facts.wants_webhook = settings.webhook.url.is_some();
    if facts.wants_webhook && matches!(facts.portal.sign_in.token, Some(Ok(_))) {
        facts.webhook = Some(match webhook_api(&settings) {
            Err(error) => Err(unbuilt(&error)),
            Ok(api) => match api.registration().await {
                Ok(found) => Ok(drift(&settings.webhook, found.as_ref())),
                Err(error) => Err(Trouble::of(&error)),
            },
        });
    }
    facts
}

fn nothing_yet(file: Option<&Path>) -> Option<NothingYet> {
    let file = file?;
    match file.exists() {
        false => Some(NothingYet::Absent),
        true => init::is_untouched(file).then_some(NothingYet::Untouched),
    }
}

fn nothing() -> Facts {
    Facts {
        configuration: Configuration::default(),
        places: Default::default(),
        secrets: Vec::new(),
        state: None,
        disk_free: None,
        ledger: None,
        unit: UnitFact::default(),
        hosts: Vec::new(),
        portal: PortalFact::default(),
        crm: CrmFact::default(),
        wants_webhook: false,
        webhook: None,
    }
}

fn told(problem: &crate::config::Problem) -> String {
    let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
    format!("{}: {key}{}; {}", problem.origin, problem.message, problem.remedy)
}

fn unbuilt(error: &StartError) -> Trouble {
    let text = error.to_string();
    let (what, remedy) = text.split_once(": ").unwrap_or((text.as_str(), "correct the configuration"));
    Trouble::here(what, remedy)
}

/// The sources of one section's secrets, and what lies there.
fn secrets(section: &str, auth: &AuthSettings, is_kept: bool) -> Vec<SecretFact> {
    let mut found = Vec::new();
    let mut add = |name: &str, origin: Option<SecretOrigin>, kind: Kind| {
        let Some(origin) = origin else { return };
        let source = SecretSource::new(format!("{section}.{name}"), origin);
        found.push(SecretFact { key: source.key.clone(), place: source.place(), found: look(&source, kind, is_kept) });
    };
    let file = |path: &Option<PathBuf>| path.clone().map(SecretOrigin::File);
    let credential = |name: &Option<String>| name.clone().map(SecretOrigin::Credential);
    add("client_secret_file", file(&auth.client_secret_file), Kind::Secret);
    add("client_secret_credential", credential(&auth.client_secret_credential), Kind::Secret);
    add(
        "client_secret_environment",
        auth.client_secret_environment.clone().map(SecretOrigin::Environment),
        Kind::Secret,
    );
    add("certificate_file", file(&auth.certificate_file), Kind::Pem("-----BEGIN CERTIFICATE-----"));
    add("private_key_file", file(&auth.private_key_file), Kind::Pem("-----BEGIN PRIVATE KEY-----"));
    if auth.grant == Grant::Password {
        add("password_file", file(&auth.password_file), Kind::Password);
    }
    if auth.grant == Grant::RefreshToken {
        add("refresh_token_file", file(&auth.refresh_token_file), Kind::Seed);
        add("refresh_token_credential", credential(&auth.refresh_token_credential), Kind::Seed);
        let has_seed = auth.refresh_token_file.is_some() || auth.refresh_token_credential.is_some();
        if !has_seed && !is_kept {
            found.push(SecretFact {
                key: format!("{section}.refresh_token_file"),
                place: "the state directory".to_owned(),
                found: SecretFound::NobodySignedIn,
            });
        }
    }
    found
}

/// What a source is expected to hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Secret,
    Password,
    Seed,
    Pem(&'static str),
}

fn look(source: &SecretSource, kind: Kind, is_kept: bool) -> SecretFound {
    let absent = |reason: String| match kind {
        Kind::Seed if is_kept => SecretFound::NotNeeded,
        Kind::Seed => SecretFound::NobodySignedIn,
        Kind::Secret | Kind::Password | Kind::Pem(_) => SecretFound::Unreadable(reason),
    };
    if let SecretOrigin::Environment(name) = &source.origin {
        return match std::env::var(name) {
            Ok(text) => SecretFound::Read { mode: None, traps: traps(text.as_bytes(), kind) },
            Err(_) => absent(format!("the environment variable {name} is not set here")),
        };
    }
    let Some(path) = source.path() else {
        return absent("outside the service it is found by the unit, which does not name it".to_owned());
    };
    match read_limited(&path) {
        Ok(bytes) => {
            let mode = std::fs::metadata(&path).ok().map(|found| found.permissions().mode());
            SecretFound::Read { mode, traps: traps(&bytes, kind) }
        }
        Err(reason) => absent(format!("{} cannot be read: {reason}", path.display())),
    }
}

/// What is odd about a secret's bytes, the gravest first.
fn traps(bytes: &[u8], kind: Kind) -> Vec<Trap> {
    let mut traps = Vec::new();
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return vec![Trap::Empty];
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || bytes.contains(&0) {
        return vec![Trap::Utf16];
    }
    if let Kind::Pem(label) = kind {
        let has = bytes.windows(label.len()).any(|window| window == label.as_bytes());
        return if has { traps } else { vec![Trap::NoPem] };
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        traps.push(Trap::ByteOrderMark);
    }
    // One line break at the end is not part of the secret, see `SecretSource::read`.
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        traps.push(Trap::LineBreak);
    }
    if kind == Kind::Password {
        return traps;
    }
    if text.trim_ascii() != text {
        traps.push(Trap::Blanks);
    }
    let is_quoted = |quote: u8| text.len() > 1 && text.first() == Some(&quote) && text.last() == Some(&quote);
    if is_quoted(b'"') || is_quoted(b'\'') {
        traps.push(Trap::Quoted);
    }
    let is_guid = std::str::from_utf8(text.trim_ascii()).is_ok_and(|text| uuid::Uuid::try_parse(text).is_ok());
    if kind == Kind::Secret && is_guid {
        traps.push(Trap::LooksLikeId);
    }
    traps
}

fn state(path: &Path) -> StateFact {
    let path = path.to_owned();
    let found = match std::fs::metadata(&path) {
        Ok(found) if !found.is_dir() => return StateFact::NoDirectory(path),
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return StateFact::Forbidden(path),
        Err(_) => return StateFact::Absent(path),
    };
    if std::fs::read_dir(&path).is_err() {
        return StateFact::Forbidden(path);
    }
    let mut strangers = Vec::new();
    let mut folders = vec![path.clone()];
    let mut looked = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            looked += 1;
            let Ok(inner) = std::fs::symlink_metadata(entry.path()) else { continue };
            if inner.uid() != found.uid() {
                strangers.push(entry.path());
            }
            if inner.is_dir() && looked < STATE_FILES_MAX {
                folders.push(entry.path());
            }
        }
    }
    strangers.sort();
    let is_writable = rustix::fs::access(&path, rustix::fs::Access::WRITE_OK).is_ok();
    StateFact::Found { path, mode: found.permissions().mode(), strangers, is_writable }
}

/// Free bytes for us, on the disk of the directory or of the first one above it that exists.
fn disk_free(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.is_dir())?;
    let found = rustix::fs::statvfs(there).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

async fn ledger(settings: &Settings) -> LedgerFact {
    let directory = settings.state.directory.clone();
    let place = Place::of_this_process(settings.daemon.runtime_directory.as_deref(), &directory);
    match Client::find(&place).await {
        Ok(Some(daemon)) => {
            return match daemon.status().await {
                Ok(status) => LedgerFact::Daemon(Box::new(status)),
                Err(error) => LedgerFact::Held(format!(": {error}")),
            };
        }
        Ok(None) => {}
        Err(error @ ControlError::Forbidden(_)) => return LedgerFact::Forbidden(error.to_string()),
        Err(error) => return LedgerFact::Held(format!(": {error}")),
    }
    // Without both nothing can be read, and looking would make them.
    if !directory.join("ledger").exists() || !directory.join("keep/fingerprint.key").exists() {
        return LedgerFact::Absent;
    }
    // The owner of our own process directory is the user we act as. Root gives back what it makes by looking.
    let owner = |path: &Path| std::fs::metadata(path).map(|found| found.uid()).ok();
    let ours = owner(Path::new("/proc/self"));
    if ours != Some(0) && ours != owner(&directory) {
        return LedgerFact::Foreign;
    }
    let looked = tokio::task::spawn_blocking(move || store::recall(&directory, CACHE_BYTES)).await;
    match looked {
        Ok(Ok(Some(memo))) => LedgerFact::Idle {
            crm: memo.crm_organization,
            portal: memo.partner_organization,
            last_success: memo.last_success,
        },
        Ok(Ok(None)) => LedgerFact::Absent,
        Ok(Err(StoreError::Locked { pid, .. })) => {
            LedgerFact::Held(pid.map(|pid| format!(": process {pid}")).unwrap_or_default())
        }
        Ok(Err(error)) => LedgerFact::Broken(error.to_string()),
        Err(error) => LedgerFact::Broken(error.to_string()),
    }
}

fn unit_fact(settings: &Settings, file: Option<&Path>) -> UnitFact {
    let root = Path::new("/");
    let unit = file.map(Unit::of_config).unwrap_or_default();
    let files = unit.files(root);
    if files.is_empty() {
        return UnitFact { unit, ..UnitFact::default() };
    }
    let is_installed = |path: &Path| path.is_absolute() && path.starts_with("/etc/referrald");
    let wanted = [
        &settings.partner_center.auth.client_secret_credential,
        &settings.partner_center.auth.refresh_token_credential,
        &settings.dataverse.auth.client_secret_credential,
        &settings.dataverse.auth.refresh_token_credential,
    ];
    let wanted: BTreeSet<&String> = wanted.into_iter().flatten().collect();
    let read = file.filter(|file| is_installed(file)).and_then(|file| {
        let mode = std::fs::metadata(file).ok()?.permissions().mode();
        Some((file.to_owned(), mode & 0o004 != 0))
    });
    UnitFact {
        config: unit.started_with(root),
        missing_credentials: wanted.into_iter().filter(|name| unit.credential(root, name).is_none()).cloned().collect(),
        read,
        files,
        unit,
    }
}

async fn hosts(settings: &Settings) -> Vec<HostFact> {
    let mut wanted: Vec<(&url::Url, &str)> = vec![
        (&settings.partner_center.auth.authority, "partner_center.auth.authority"),
        (&settings.dataverse.auth.authority, "dataverse.auth.authority"),
        (&settings.partner_center.base_url, "partner_center.base_url"),
    ];
    wanted.extend(settings.dataverse.url.as_ref().map(|url| (url, "dataverse.url")));
    if settings.webhook.url.is_some() {
        wanted.push((&settings.partner_center.webhook_api_url, "partner_center.webhook_api_url"));
    }
    let mut seen = BTreeSet::new();
    wanted.retain(|(url, _)| seen.insert(way::name(url)));
    futures_util::future::join_all(wanted.into_iter().map(|(url, key)| way::look(url, key, settings))).await
}

fn sign_in_fact(authority: &url::Url, host: Option<&url::Url>, auth: &AuthSettings) -> SignInFact {
    SignInFact {
        authority: way::name(authority),
        host: host.map(way::name).unwrap_or_default(),
        audience: auth.audience.clone().or(host.map(|host| host.origin().ascii_serialization())).unwrap_or_default(),
        tenant: auth.tenant_id.clone().unwrap_or_default(),
        is_delegated: auth.grant != Grant::ClientCredentials,
        token: None,
    }
}

/// Signs in; `None` when the sign-in service cannot be reached.
async fn sign_in(
    fact: &mut SignInFact,
    line: Result<Line, StartError>,
    is_reached: &impl Fn(&str) -> bool,
) -> Option<Line> {
    let line = match line {
        Ok(line) => line,
        Err(error) => {
            fact.token = Some(Err(unbuilt(&error)));
            return None;
        }
    };
    if !is_reached(&fact.authority) {
        return None;
    }
    let token = line.tokens.bearer().await;
    let is_in = token.is_ok();
    fact.token = Some(token.map(|token| Claims::read(&token)).map_err(|error| Trouble::of(&error)));
    is_in.then_some(line)
}

async fn portal_side(
    settings: &Settings,
    line: Result<Line, StartError>,
    is_reached: &impl Fn(&str) -> bool,
) -> PortalFact {
    let portal = &settings.partner_center;
    let mut fact = PortalFact {
        sign_in: sign_in_fact(&portal.auth.authority, Some(&portal.base_url), &portal.auth),
        glimpse: None,
    };
    if let Some(line) = sign_in(&mut fact.sign_in, line, is_reached).await
        && is_reached(&fact.sign_in.host)
    {
        let exchange: Arc<dyn Exchange> = line.client;
        fact.glimpse = Some(glimpse(&exchange, &portal.base_url).await.map_err(|error| Trouble::of(&error)));
    }
    fact
}

async fn crm_side(
    settings: &Settings,
    loaded: &Loaded,
    line: Result<Line, StartError>,
    clock: &Arc<dyn Clock>,
    is_reached: &impl Fn(&str) -> bool,
) -> CrmFact {
    let dataverse = &settings.dataverse;
    let (rules, fallback) = (&settings.mapping.owners, settings.mapping.fallback_owner);
    let mut owners: Vec<Owner> = rules.iter().map(|rule| rule.owner).chain(fallback).collect();
    owners.dedup();
    let columns = settings.columns();
    let uses = uses(settings);
    let mut fact = CrmFact {
        sign_in: sign_in_fact(&dataverse.auth.authority, dataverse.url.as_ref(), &dataverse.auth),
        needs: needs(uses),
        has_owner_rule: !owners.is_empty(),
        wants_column: settings.referral_id_column.is_some(),
        wants_key: settings.identity == Identity::AlternateKey,
        wants_tracking: dataverse.observe == Observe::Delta,
        ..CrmFact::default()
    };
    let Some(line) = sign_in(&mut fact.sign_in, line, is_reached).await else { return fact };
    if !is_reached(&fact.sign_in.host) {
        return fact;
    }
    let trouble = |error: RemoteError| Trouble::of(&error);
    let exchange: Arc<dyn Exchange> = line.client;
    let (identity, column) = (settings.identity, settings.referral_id_column.as_deref());
    let opened = crm::open(dataverse, identity, column, columns, Arc::clone(&exchange), Arc::clone(clock));
    let (crm, setup) = match (opened, Setup::open(dataverse, exchange)) {
        (Ok(crm), Ok(setup)) => (crm, setup),
        (Err(reason), _) | (_, Err(reason)) => {
            fact.identity = Some(Err(Trouble::here(reason, "correct the configuration")));
            return fact;
        }
    };
    let known = crm.identity().await;
    let user = known.as_ref().ok().map(|identity| identity.user);
    fact.identity = Some(known.map_err(trouble));
    let Some(user) = user else { return fact };
    fact.held = Some(match setup.held(user).await {
        Ok(Some(held)) => Ok(Privileges::Told(held)),
        Ok(None) => setup.probe_reads().await.map_err(trouble).map(|refused| {
            Privileges::Tried(refused.into_iter().map(|(table, refusal)| (table.to_owned(), refusal)).collect())
        }),
        Err(error) => Err(trouble(error)),
    });
    let mut looked_up = Ok(Vec::new());
    for owner in owners {
        match (&mut looked_up, setup.owner(owner).await) {
            (Ok(list), Ok(found)) => list.push((owner, found)),
            (Ok(_), Err(error)) => looked_up = Err(trouble(error)),
            (Err(_), _) => break,
        }
    }
    fact.owners = Some(looked_up);
    match crm.schema().await {
        Ok(schema) => {
            // The key only shapes fingerprints, which nobody looks at here.
            let (_, problems) = Mapping::compile(&settings.mapping, &schema, [0; 16]);
            fact.mapping = Some(Ok(problems.into_iter().map(|problem| placed(loaded, problem)).collect()));
            let (judged, short) = lengths::short(&settings.mapping, &schema);
            let length = |short: lengths::Short| LengthFact {
                place: loaded.origin(&KeyPath::from(short.key.as_str())).to_string(),
                short,
            };
            fact.lengths = Some((judged, short.into_iter().map(length).collect()));
            if uses.currency {
                fact.currencies = Some(schema.currencies.keys().cloned().collect());
            }
        }
        Err(error) => fact.mapping = Some(Err(trouble(error))),
    }
    if let Some(column) = column {
        fact.column = Some((column.to_owned(), setup.column(column).await.map_err(trouble)));
        if identity == Identity::AlternateKey {
            fact.key = Some(setup.key(column).await.map_err(trouble));
        }
    }
    if fact.wants_tracking {
        fact.tracking = Some(setup.tracking().await.map_err(trouble));
    }
    fact
}

/// Where the configuration says what does not fit.
fn placed(loaded: &Loaded, problem: crate::plan::mapping::MappingProblem) -> MappingFact {
    let origin = loaded.origin(&KeyPath::from(problem.key.as_str()));
    MappingFact {
        place: origin.to_string(),
        is_built_in: origin == Origin::BuiltIn,
        key: problem.key,
        reason: problem.reason,
        is_blocking: problem.is_blocking,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_are_not_what_their_owner_thinks_are_recognised() {
        let of = |bytes: &[u8]| traps(bytes, Kind::Secret);
        assert_eq!(of(b"abc~8Q.secret\n"), []);
        assert_eq!(of(b"abc\r\n"), []);
        assert_eq!(of(b" \n"), [Trap::Empty]);
        assert_eq!(of(b"\xef\xbb\xbfabc"), [Trap::ByteOrderMark]);
        assert_eq!(of(b"\xff\xfea\0b\0"), [Trap::Utf16]);
        assert_eq!(of(b"abc\n\n"), [Trap::LineBreak, Trap::Blanks]);
        assert_eq!(of(b"abc "), [Trap::Blanks]);
        assert_eq!(of(b"\"abc\""), [Trap::Quoted]);
        assert_eq!(of(b"11111111-2222-4333-8444-555555555555\n"), [Trap::LooksLikeId]);
        assert_eq!(traps(b"MIIB", Kind::Pem("-----BEGIN CERTIFICATE-----")), [Trap::NoPem]);
        assert_eq!(traps(b" spaces are mine ", Kind::Password), []);
    }
}
