//! What was observed, as plain values: everything the judgement looks at, and nothing else.
//!
//! `None` means that it was not looked at, because something it needs is missing or failed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::lengths::Short;
use crate::config::unit::Unit;
use crate::crm::dataverse::setup::privileges::{Held, Need};
use crate::crm::dataverse::setup::{FoundColumn, FoundKey, FoundOwner, FoundTracking};
use crate::http::signin::claims::Claims;
use crate::model::{Fault, Owner, RemoteError, Side, Timestamp};
use crate::portal::partner_center::probe::Glimpse;
use crate::ports::CrmIdentity;

/// Everything.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The configuration.
    pub configuration: Configuration,
    /// Where each key stands that somebody has set: file and line, or the variable.
    pub places: BTreeMap<String, String>,
    /// Secrets by side, in the order of the configuration.
    pub secrets: Vec<(Side, SecretFact)>,
    /// The state directory.
    pub state: Option<StateFact>,
    /// Free bytes where the state is.
    pub disk_free: Option<u64>,
    /// The ledger.
    pub ledger: Option<LedgerFact>,
    /// The unit of systemd.
    pub unit: UnitFact,
    /// The hosts to reach, in the order in which they are needed.
    pub hosts: Vec<HostFact>,
    /// The referrals side.
    pub portal: PortalFact,
    /// The leads side.
    pub crm: CrmFact,
    /// A public URL for webhooks is configured.
    pub wants_webhook: bool,
    /// The registration of webhooks: what is wrong with it.
    pub webhook: Option<Result<Option<String>, Trouble>>,
}

/// The configuration.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// Which file.
    pub file: String,
    /// Nothing is configured: the file is not there, or still as the package installed it.
    pub nothing_yet: Option<NothingYet>,
    /// Each error with its place.
    pub errors: Vec<String>,
    /// Each warning that no other check looks into, with its place.
    pub warnings: Vec<String>,
}

/// Why there is nothing to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NothingYet {
    /// There is no file.
    Absent,
    /// The file is as the package installed it.
    Untouched,
}

/// One secret's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFact {
    /// The configuration key that names it.
    pub key: String,
    /// The source in words.
    pub place: String,
    /// What was found there.
    pub found: SecretFound,
}

/// What was found at a secret's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFound {
    /// It cannot be read: why.
    Unreadable(String),
    /// It is not there, and need not be: a rotated token is kept.
    NotNeeded,
    /// It is not there yet: somebody has to sign in.
    NobodySignedIn,
    /// It was read.
    Read {
        /// Permissions of its file.
        mode: Option<u32>,
        /// What is odd about its bytes.
        traps: Vec<Trap>,
    },
}

/// What makes a secret another one than its owner thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// Nothing in it.
    Empty,
    /// A byte order mark at its beginning.
    ByteOrderMark,
    /// Text in UTF-16, as some editors and shells write it.
    Utf16,
    /// A line break within it.
    LineBreak,
    /// Blanks at its beginning or end.
    Blanks,
    /// Quotes around it.
    Quoted,
    /// A GUID, where a secret's value is expected: its id.
    LooksLikeId,
    /// No PEM block of the right kind.
    NoPem,
}

/// The state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateFact {
    /// Not there yet.
    Absent(PathBuf),
    /// Something else is there.
    NoDirectory(PathBuf),
    /// This user may not look into it.
    Forbidden(PathBuf),
    /// There.
    Found {
        /// Where.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Files in it that belong to somebody else than it does.
        strangers: Vec<PathBuf>,
        /// This user may write into it.
        is_writable: bool,
    },
}

/// The ledger.
#[derive(Clone, Debug, PartialEq)]
pub enum LedgerFact {
    /// A running daemon has it and says how things stand.
    Daemon(Box<crate::daemon::Status>),
    /// None yet.
    Absent,
    /// Nobody has it; what it remembers of both organizations.
    Idle {
        /// The organization in the CRM.
        crm: Option<uuid::Uuid>,
        /// The partner organization.
        portal: Option<String>,
        /// When the last cycle that saw both sides ended.
        last_success: Option<Timestamp>,
    },
    /// Nobody runs, and it belongs to another user than the one who asks.
    Foreign,
    /// Another process has it and does not answer.
    Held(String),
    /// It cannot be used: why.
    Broken(String),
    /// This user may not ask.
    Forbidden(String),
}

/// The unit of systemd, as far as its files tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitFact {
    /// The unit that reads the configuration file.
    pub unit: Unit,
    /// Its files; empty when none is installed.
    pub files: Vec<PathBuf>,
    /// The file that `ExecStart` names with `--config`.
    pub config: Option<PathBuf>,
    /// The configuration file that was read here, and whether everybody may read it.
    pub read: Option<(PathBuf, bool)>,
    /// Names of credentials that the configuration wants and the unit does not pass.
    pub missing_credentials: Vec<String>,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFact {
    /// Its name, with the port where it is not the usual one.
    pub name: String,
    /// The configuration key that names it.
    pub key: String,
    /// Requests go by a proxy, so names are not looked up here.
    pub proxy: Option<String>,
    /// Its addresses.
    pub dns: Option<Result<Vec<IpAddr>, String>>,
    /// How long a connection took.
    pub tcp: Option<Result<Duration, String>>,
    /// Whether it answered over TLS; `Ok(false)` for plain http on this machine.
    pub tls: Option<Result<bool, String>>,
    /// Its clock minus ours, in milliseconds; `Ok(None)` when it does not tell the time.
    pub skew_ms: Option<Option<i64>>,
    /// How far clocks may be apart, in milliseconds (`cycle.clock_skew_max`).
    pub skew_max_ms: i64,
}

/// A sign-in.
#[derive(Clone, Debug, Default)]
pub struct SignInFact {
    /// The host of the sign-in service, as in [`HostFact::name`].
    pub authority: String,
    /// The host of the service.
    pub host: String,
    /// What its tokens are for.
    pub audience: String,
    /// The configured directory.
    pub tenant: String,
    /// A person signs in, not an application.
    pub is_delegated: bool,
    /// The token's claims; `Ok(None)` for an opaque token.
    pub token: Option<Result<Option<Claims>, Trouble>>,
}

/// The referrals side.
#[derive(Clone, Debug, Default)]
pub struct PortalFact {
    /// Its sign-in.
    pub sign_in: SignInFact,
    /// A short listing.
    pub glimpse: Option<Result<Glimpse, Trouble>>,
}

/// The leads side.
#[derive(Clone, Debug, Default)]
pub struct CrmFact {
    /// Its sign-in.
    pub sign_in: SignInFact,
    /// Who we are there.
    pub identity: Option<Result<CrmIdentity, Trouble>>,
    /// What the configuration needs.
    pub needs: Vec<Need>,
    /// What the user may do.
    pub held: Option<Result<Privileges, Trouble>>,
    /// Whether any rule or fallback gives leads an owner.
    pub has_owner_rule: bool,
    /// Each configured owner, looked up.
    pub owners: Option<Result<Vec<(Owner, FoundOwner)>, Trouble>>,
    /// The mapping against the live schema.
    pub mapping: Option<Result<Vec<MappingFact>, Trouble>>,
    /// How many text columns were judged by their length, and those that are too short.
    pub lengths: Option<(usize, Vec<LengthFact>)>,
    /// Active currencies by code; `None` when amounts are not mapped or it was not looked at.
    pub currencies: Option<Vec<String>>,
    /// A referral id column is configured.
    pub wants_column: bool,
    /// Leads are known by an alternate key.
    pub wants_key: bool,
    /// The referral id column.
    pub column: Option<(String, Result<Option<FoundColumn>, Trouble>)>,
    /// The alternate key, in that mode.
    pub key: Option<Result<Option<FoundKey>, Trouble>>,
    /// Changed leads are to be heard of by change tracking.
    pub wants_tracking: bool,
    /// Change tracking, where it is wanted.
    pub tracking: Option<Result<FoundTracking, Trouble>>,
}

/// What a user may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// The service told.
    Told(Held),
    /// It did not; tables whose rows were refused, with the refusal.
    Tried(Vec<(String, String)>),
}

/// One thing about the mapping that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingFact {
    /// File and line, or the layer the value comes from.
    pub place: String,
    /// The key.
    pub key: String,
    /// What is wrong and what to do.
    pub reason: String,
    /// Leads cannot be written.
    pub is_blocking: bool,
    /// It is about a default nobody has chosen.
    pub is_built_in: bool,
}

/// One text column that is too short for what the mapping may put into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LengthFact {
    /// File and line, or the layer the value comes from.
    pub place: String,
    /// What is too short.
    pub short: Short,
}

/// Why a question was not answered, in two halves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What happened.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// It passes by itself: the service is asked too much or is down for a moment.
    pub is_passing: bool,
}

impl Trouble {
    /// A trouble on this machine.
    pub fn here(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Trouble { what: what.into(), remedy: remedy.into(), is_passing: false }
    }

    /// From a failed call: our sentences say what, then a colon or semicolon, then what to do.
    pub fn of(error: &RemoteError) -> Self {
        let message = error.message.clone().unwrap_or_default();
        let (what, remedy) = message
            .split_once(": ")
            .or_else(|| message.split_once("; "))
            .map_or((message.clone(), String::new()), |(what, remedy)| (what.to_owned(), remedy.to_owned()));
        let what = if what.is_empty() { error.fault.to_string() } else { what };
        let code = error.code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
        let status = match (&error.code, error.status) {
            (None, Some(status)) => format!(" (HTTP {status})"),
            _ => String::new(),
        };
        let otherwise = match error.fault {
            Fault::Throttled { .. } => "nothing: it is asked again when the time is over",
            Fault::Unavailable => "try again in a few minutes; if it lasts, look at the service's health page",
            Fault::Unauthorized => "compare the roles with the README, \"Connect the real services\"",
            Fault::NeedsHuman => "sign in again, or correct the credential",
            Fault::Malformed => "check the URL and whether a proxy stands in between",
            Fault::Conflict | Fault::Missing | Fault::Refused => "check the URL and the roles",
        };
        Trouble {
            what: format!("{what}{code}{status}"),
            remedy: if remedy.is_empty() { otherwise.to_owned() } else { remedy },
            is_passing: matches!(error.fault, Fault::Throttled { .. } | Fault::Unavailable),
        }
    }
}
